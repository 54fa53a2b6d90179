//! Changes to the register that the benchmark makes, and their way into the server.
//! It must not make changes that no extract of a real register could bring.

use std::path::Path;

use anyhow::{Context as _, ensure};
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_server::register::{Change, Extract, PersonRow, write_plans_csv};
use serde_json::Value;

use crate::process::run;
use crate::site::Site;

/// Takes changes in with the server's own command; gives how many cells came of them.
///
/// # Errors
/// When it fails.
pub fn ingest(site: &Site, directory: &Path, extract: &Extract) -> anyhow::Result<u64> {
    let file = directory.join("changes.csv");
    std::fs::write(&file, write_plans_csv(extract)?)?;
    let done: Value = serde_json::from_str(&run(site.command()?.arg("--json").arg("ingest").arg(&file))?)?;
    let number = |name: &str| done.get(name).and_then(Value::as_u64).with_context(|| format!("no {name}: {done}"));
    Ok(number("puts")? + number("removes")?)
}

/// Three fifths of the changes end a plan, three tenths are new people, one tenth are numbers taken out.
///
/// # Errors
/// When the register is too small.
pub fn extract(site: &Site, changes: usize) -> anyhow::Result<Extract> {
    let (updates, inserts) = (changes * 3 / 5, changes * 3 / 10);
    let mut all = endings(site, updates, 0)?;
    let mut people = plain(site).skip(updates);
    let removed: Vec<_> = people.by_ref().take(changes - updates - inserts).collect();
    all.extend(removed.iter().map(|person| Change::Delete(person.number)));
    let known: std::collections::BTreeSet<_> = site.people().iter().map(|person| person.number.as_u64()).collect();
    let numbers = (999_800_000u64..).filter_map(|nine| NhsNumber::new(nine * 10 + NhsNumber::check_digit(nine)?).ok());
    let free = numbers.filter(|number| !known.contains(&number.as_u64()));
    all.extend(free.zip(people).take(inserts).map(|(number, person)| Change::Put(PersonRow { number, ..person })));
    ensure!(all.len() == changes, "the register is too small for {changes} changes");
    Ok(Extract { authorities: Vec::new(), changes: all })
}

/// Changes that end the only plan of so many people, some days ago.
///
/// # Errors
/// When the clock cannot be read.
pub fn endings(site: &Site, count: usize, days_ago: i32) -> anyhow::Result<Vec<Change>> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let day = Date::of_unix_ms(now.tv_sec * 1000)?.plus_days(-days_ago);
    let end = |mut person: PersonRow| {
        for plan in &mut person.plans {
            plan.end = Some(day);
        }
        Change::Put(person)
    };
    Ok(plain(site).take(count).map(end).collect())
}

/// People with one active plan that is older than the days used here.
fn plain(site: &Site) -> impl Iterator<Item = PersonRow> {
    // The register is sorted by authority: people are taken from all of it, so that changes touch every feed.
    const STRIDE: usize = 7;
    let people = site.people();
    let spread = (0..STRIDE).flat_map(move |first| people.iter().skip(first).step_by(STRIDE));
    let old = |start: Option<Date>| start.is_some_and(|start| start.iso().as_str() < "2026-01-01");
    let one = move |person: &&PersonRow| {
        person.plans.len() == 1 && person.plans.iter().all(|p| p.end.is_none() && p.due.is_none() && old(p.start))
    };
    spread.filter(one).cloned()
}
