//! Prices as Markdown tables for people and as JSON for programs: the same figures in both.
//! It must not leave out the rows that look bad.

use cpis_protocol::seal::MemoryHard;
use serde_json::{Value, json};

use super::space::{CHILDREN_IN_ENGLAND, NAMES_AND_BIRTHS, SPACES};
use super::{INDEXED_PERSONS, INDEXED_SLOTS, Price, STEPS_BY_NAME, STEPS_BY_NUMBER};

/// Everything as text: three tables with their remarks.
#[must_use]
pub fn markdown(prices: &[Price]) -> String {
    let head = |first: &str, second: Option<&str>| {
        let sets: String = prices.iter().map(|price| format!(" {} |", named(price.cost))).collect();
        let rule: String = prices.iter().map(|_| "--:|").collect();
        match second {
            Some(second) => format!("| {first} | {second} |{sets}\n|---|---|{rule}\n"),
            None => format!("| {first} |{sets}\n|---|{rule}\n"),
        }
    };
    let row = |first: &str, cell: &dyn Fn(&Price) -> String| {
        format!("| {first} |{}\n", prices.iter().map(|price| format!(" {} |", cell(price))).collect::<String>())
    };
    let mut text = format!("What honest users pay, on one core:\n\n{}", head("what", None));
    text += &row("one guess, CPU time", &|price| duration(price.guess_s));
    text += &row(&format!("a look-up by NHS number ({STEPS_BY_NUMBER} step)"), &|price| {
        duration(price.cpu_s(STEPS_BY_NUMBER.into()))
    });
    text += &row(&format!("a look-up by name (up to {STEPS_BY_NAME} steps)"), &|price| {
        duration(price.cpu_s(STEPS_BY_NAME.into()))
    });
    let what = format!("indexing {} records, up to {INDEXED_SLOTS} slots each", grouped(INDEXED_PERSONS.into()));
    text += &row(&what, &|price| duration(price.index_s(INDEXED_PERSONS, INDEXED_SLOTS)));

    text += "\nWhat it costs to list a copy of 20,000 records, for somebody who has its feed keys (an unlocked and rooted \
             device, or an opened vault): one core, or rented graphics cards.\n\n";
    text += &head("what is tried", Some("guesses; finds"));
    for space in SPACES {
        let guesses = format!("{}; {}", grouped(space.guesses), space.reaches);
        text += &row(&format!("{} | {guesses}", space.what), &|price| {
            format!("{} / {}", duration(price.cpu_s(space.guesses)), usd(price.gpu_usd(space.guesses)))
        });
    }
    text += &remarks(prices);
    text
}

/// What the figures mean, unsoftened.
fn remarks(prices: &[Price]) -> String {
    let dearest = prices.iter().max_by(|a, b| a.guess_s.total_cmp(&b.guess_s));
    let Some(dearest) = dearest else { return String::new() };
    let priced = |guesses| format!("{}, or {}", duration(dearest.cpu_s(guesses)), usd(dearest.gpu_usd(guesses)));
    format!(
        "\nRead it so, at {}. **The cheapest way sets the strength**: a register that can be asked by name is listed by \
         common names, not by numbers, and that finds about 45 % of it for {} of rented graphics cards. **Somebody who \
         holds a list of children tests all of it for pennies**: all of England for {}. **A question about one known \
         child is one guess** ({}): no price of a guess can prevent it. A guess is the last defence and not the first: \
         before it stand the lock, the lease and the keys that are destroyed with it; beside it the rate limit and the \
         audit. The graphics-card price is a model (memory traffic at 1 TB/s, $0.35 an hour), good to a factor of two.\n",
        named(dearest.cost),
        priced(NAMES_AND_BIRTHS),
        priced(CHILDREN_IN_ENGLAND),
        duration(dearest.guess_s),
    )
}

/// The same figures for programs. Times are CPU seconds of one core.
#[must_use]
pub fn json(prices: &[Price]) -> Value {
    let one = |price: &Price| {
        let spaces: Vec<Value> = SPACES
            .iter()
            .map(|space| {
                json!({
                    "space": space.code, "what": space.what, "guesses": space.guesses, "finds": space.reaches,
                    "core_years": price.core_years(space.guesses), "gpu_usd": price.gpu_usd(space.guesses),
                })
            })
            .collect();
        json!({
            "memory_kib": price.cost.memory_kib, "passes": price.cost.passes, "guess_s": price.guess_s,
            "look_up_by_number_s": price.cpu_s(STEPS_BY_NUMBER.into()),
            "look_up_by_name_s": price.cpu_s(STEPS_BY_NAME.into()),
            "index_persons": INDEXED_PERSONS, "index_slots": INDEXED_SLOTS,
            "index_s": price.index_s(INDEXED_PERSONS, INDEXED_SLOTS), "spaces": spaces,
        })
    };
    Value::Array(prices.iter().map(one).collect())
}

/// The name of a parameter set.
#[must_use]
pub fn named(cost: MemoryHard) -> String {
    let passes = if cost.passes == 1 { "1 pass".to_owned() } else { format!("{} passes", cost.passes) };
    match cost.memory_kib {
        kib if kib >= 1024 && kib.is_multiple_of(1024) => format!("{} MiB, {passes}", kib / 1024),
        kib => format!("{} KiB, {passes}", grouped(kib.into())),
    }
}

/// A time in its natural unit, three digits.
fn duration(seconds: f64) -> String {
    const UNITS: [(f64, &str); 5] = [
        (365.25 * 86_400.0, "core-years"),
        (86_400.0, "core-days"),
        (3600.0, "core-hours"),
        (60.0, "core-minutes"),
        (1.0, "s"),
    ];
    match UNITS.iter().find(|(size, _)| seconds >= *size) {
        Some((size, unit)) => format!("{} {unit}", digits(seconds / size)),
        None if seconds >= 1e-3 => format!("{} ms", digits(seconds * 1e3)),
        None => format!("{} us", digits(seconds * 1e6)),
    }
}

fn usd(dollars: f64) -> String {
    match dollars {
        ..0.01 => "under 1 cent".to_owned(),
        0.01..100.0 => format!("${dollars:.2}"),
        _ => format!("${}", digits(dollars)),
    }
}

/// Three significant digits, thousands apart: what is measured and assumed here is not known better.
fn digits(value: f64) -> String {
    if value < 10.0 {
        return format!("{value:.2}");
    }
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let step = 10f64.powf((value.log10().floor() - 2.0).max(0.0));
    // Positive and far below 2^63.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    grouped(((value / step).round() * step) as u64)
}

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(duration(0.000_035_2), "35.2 us");
        assert_eq!(duration(0.1619), "162 ms");
        assert_eq!(duration(90.0), "1.50 core-minutes");
        assert_eq!(duration(1_672_000.0 * 86_400.0 * 365.25), "1,670,000 core-years");
        assert_eq!(usd(0.004), "under 1 cent");
        assert_eq!(usd(44.1), "$44.10");
        assert_eq!(usd(343_512.0), "$344,000");
        assert_eq!(named(MemoryHard::DEFAULT), "64 MiB, 3 passes");
        assert_eq!(named(MemoryHard::SYNTHETIC), "64 KiB, 1 pass");
    }

    #[test]
    fn every_space_is_in_both_and_the_bad_news_is_said() {
        let prices = super::super::PUBLISHED.map(|cost| Price { cost, guess_s: 0.1 });
        let (text, value) = (markdown(&prices), json(&prices));
        for space in SPACES {
            assert!(text.contains(space.what), "{}", space.code);
        }
        let spaces = value[2]["spaces"].as_array().map(Vec::len);
        assert_eq!(spaces, Some(SPACES.len()));
        assert!(text.contains("for pennies") && text.contains("about one known child is one guess"));
        let columns: Vec<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert!(columns.iter().all(|count| *count == 5 || *count == 6), "{columns:?}");
    }
}
