//! Recall and false candidates of look-up by name: an invented register, typing errors put into its details, and the
//! questions that a device would ask. It must not look inside a cell: what is filed and what is asked is the protocol's.
//!
//! The memory-hard step and the cells change nothing here: equal questions give equal tokens, others give others.

use std::collections::{BTreeSet, HashMap};

use cpis_protocol::nhs::Date;
use cpis_protocol::postcode::Postcode;
use cpis_protocol::question::{Asked, Person, questions, slots};
use cpis_server::register::{Change, PersonRow, SynthesiseOptions, synthesise};

use super::Scale;
use super::report::{Report, grouped, ratio};

/// The seed of the register, of the errors, and of the people who are not in the register.
const SEED: u64 = 20_261_125;
const ABSENT_SEED: u64 = 7;

/// What a crew types.
#[derive(Debug, Clone)]
struct Typed {
    surname: String,
    given: String,
    birth: Date,
    postcode: String,
}

/// Small and seeded: the errors are the same at every run.
struct Random(u64);

impl Random {
    /// Below `bound`, by `SplitMix64`.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound.max(1) as u64).unwrap_or(0)
    }
}

/// One kind of error: `None` where it cannot happen to this person.
type Slip = fn(&Typed, &mut Random) -> Option<Typed>;

const SLIPS: [(&str, Slip); 17] = [
    ("none", |typed, _| Some(typed.clone())),
    ("capitals, no accents, no apostrophes or hyphens", plain),
    ("first part of a double surname only", |typed, _| part(typed, true)),
    ("last part of a double surname only", |typed, _| part(typed, false)),
    ("surname and given name exchanged", swapped),
    ("another form of the given name", short_form),
    ("second given name left out", one_given),
    ("given name not known", |typed, _| {
        (!typed.given.is_empty()).then(|| Typed { given: String::new(), ..typed.clone() })
    }),
    ("day and month exchanged", |typed, _| Some(Typed { birth: typed.birth.transposed()?, ..typed.clone() })),
    ("one letter of the surname wrong", |typed, random| letter(typed, random, false)),
    ("one letter of the surname left out", |typed, random| letter(typed, random, true)),
    ("surname spelt as it sounds", respelt),
    ("one letter of the given name wrong", given_letter),
    ("a wrong postcode", |typed, random| moved(typed, random).map(|postcode| Typed { postcode, ..typed.clone() })),
    ("spelt as it sounds, a wrong postcode", |typed, random| {
        let postcode = moved(typed, random)?;
        Some(Typed { postcode, ..respelt(typed, random)? })
    }),
    ("birth date a day off", |typed, _| Some(Typed { birth: typed.birth.plus_days(1), ..typed.clone() })),
    ("another given name altogether", |typed, _| Some(Typed { given: "Xanthippe".into(), ..typed.clone() })),
];

fn plain(typed: &Typed, _: &mut Random) -> Option<Typed> {
    let fold = |text: &str| {
        let kept = text.chars().filter(|c| !matches!(c, '\'' | '\u{2019}'));
        kept.map(|c| if c == '-' { ' ' } else { c }).collect::<String>()
    };
    let upper = |text: &str| cpis_protocol::name::plain(&fold(text)).ok().map(|word| word.to_string());
    Some(Typed { surname: upper(&typed.surname)?, given: upper(&typed.given)?, ..typed.clone() })
}

fn part(typed: &Typed, first: bool) -> Option<Typed> {
    let (a, b) = typed.surname.split_once('-')?;
    // A prefix (Al-, El-, Ul-) is no part.
    (a.len() > 3 && b.len() > 2).then(|| Typed { surname: if first { a } else { b }.into(), ..typed.clone() })
}

fn swapped(typed: &Typed, _: &mut Random) -> Option<Typed> {
    let (surname, given) = (typed.given.clone(), typed.surname.clone());
    (!surname.is_empty()).then(|| Typed { surname, given, ..typed.clone() })
}

/// Forms that people write for each other; some are not in the protocol's tables, and so they are missed.
fn short_form(typed: &Typed, _: &mut Random) -> Option<Typed> {
    const FORMS: [(&str, &str); 36] = [
        ("Thomas", "Tom"),
        ("William", "Bill"),
        ("Joshua", "Josh"),
        ("Jacob", "Jake"),
        ("Charlotte", "Lottie"),
        ("Isabella", "Izzy"),
        ("Matilda", "Tilly"),
        ("Jessica", "Jess"),
        ("Emily", "Em"),
        ("Eliza", "Liz"),
        ("Elliot", "Eliot"),
        ("Oliver", "Ollie"),
        ("Olivia", "Liv"),
        ("Nathan", "Nate"),
        ("Samuel", "Sam"),
        ("Muhammad", "Mohammed"),
        ("Mohammed", "Md"),
        ("Mohammad", "Muhammad"),
        ("Yusuf", "Yousef"),
        ("Umar", "Omar"),
        ("Usman", "Osman"),
        ("Aisha", "Ayesha"),
        ("Fatima", "Fatimah"),
        ("Ibrahim", "Ebrahim"),
        ("Maryam", "Mariam"),
        ("Zainab", "Zaynab"),
        ("Kathleen", "Kath"),
        ("Freddie", "Fred"),
        ("Florence", "Flo"),
        ("Natalia", "Natasha"),
        ("Siobhan", "Shevaun"),
        ("Simran", "Sim"),
        ("Chukwuemeka", "Emeka"),
        ("Theo", "Theodore"),
        ("Henry", "Harry"),
        ("Zara", "Zahra"),
    ];
    let (_, given) = FORMS.iter().find(|(form, _)| *form == typed.given)?;
    Some(Typed { given: (*given).into(), ..typed.clone() })
}

fn one_given(typed: &Typed, _: &mut Random) -> Option<Typed> {
    let (first, _) = typed.given.split_once([' ', '-'])?;
    Some(Typed { given: first.into(), ..typed.clone() })
}

/// Changes or drops one letter of a word, never the first.
fn mistyped(word: &str, random: &mut Random, drop: bool) -> Option<String> {
    let mut letters: Vec<char> = word.chars().collect();
    if letters.len() < 3 {
        return None;
    }
    let at = 1 + random.below(letters.len() - 1);
    if !letters[at].is_alphabetic() {
        return None;
    }
    if drop {
        letters.remove(at);
    } else {
        let other = char::from(b'a' + u8::try_from(random.below(26)).ok()?);
        if other.eq_ignore_ascii_case(&letters[at]) {
            return None;
        }
        letters[at] = other;
    }
    Some(letters.into_iter().collect())
}

fn letter(typed: &Typed, random: &mut Random, drop: bool) -> Option<Typed> {
    Some(Typed { surname: mistyped(&typed.surname, random, drop)?, ..typed.clone() })
}

fn given_letter(typed: &Typed, random: &mut Random) -> Option<Typed> {
    Some(Typed { given: mistyped(&typed.given, random, false)?, ..typed.clone() })
}

/// Spellings that sound alike to English ears; not taken from the phonetic code.
fn respelt(typed: &Typed, random: &mut Random) -> Option<Typed> {
    const ALIKE: [(&str, &str); 24] = [
        ("ck", "k"),
        ("ph", "f"),
        ("ou", "u"),
        ("ee", "ea"),
        ("ea", "ee"),
        ("ie", "y"),
        ("ey", "y"),
        ("ai", "ay"),
        ("ll", "l"),
        ("tt", "t"),
        ("ss", "s"),
        ("nn", "n"),
        ("oo", "u"),
        ("ght", "t"),
        ("ks", "x"),
        ("wr", "r"),
        ("au", "or"),
        ("er", "ar"),
        ("en", "an"),
        ("i", "y"),
        ("y", "i"),
        ("c", "k"),
        ("a", "e"),
        ("o", "a"),
    ];
    let lower = typed.surname.to_lowercase();
    let fits: Vec<_> = ALIKE.iter().filter(|(from, _)| lower.find(from).is_some_and(|at| at > 0)).collect();
    let (from, to) = fits.get(random.below(fits.len()))?;
    Some(Typed { surname: lower.replacen(from, to, 1), ..typed.clone() })
}

fn moved(typed: &Typed, random: &mut Random) -> Option<String> {
    let start = typed.postcode.get(..typed.postcode.len().checked_sub(2)?)?;
    let letters = ["AB", "DE", "FG", "HJ"];
    Some(format!("{start}{}", letters.get(random.below(4))?)).filter(|other| *other != typed.postcode)
}

fn people(seed: u64, records: u32) -> anyhow::Result<Vec<PersonRow>> {
    let today = Date::new(2026, 11, 25)?;
    let extract = synthesise(&SynthesiseOptions { authorities: Vec::new(), records: Some(records), seed, today })?;
    let person = |change| match change {
        Change::Put(person) => Some(person),
        Change::Delete(_) => None,
    };
    Ok(extract.changes.into_iter().filter_map(person).collect())
}

fn as_known(person: &PersonRow) -> Typed {
    let (surname, given) = (person.surname.clone(), person.given.clone());
    Typed { surname, given, birth: person.birth, postcode: person.postcode.clone() }
}

/// Canonical question to the people filed under it.
struct Index(HashMap<Vec<u8>, Vec<usize>>);

impl Index {
    fn of(people: &[PersonRow]) -> Self {
        let mut index: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        for (at, row) in people.iter().enumerate() {
            let person = Person {
                number: row.number,
                birth: row.birth,
                surname: &row.surname,
                given: &row.given,
                postcode: &row.postcode,
                restricted: row.restricted,
            };
            for query in slots(&person) {
                index.entry(query.expose().to_vec()).or_default().push(at);
            }
        }
        Self(index)
    }

    /// Whom a device would show, and how many questions that took.
    fn ask(&self, typed: &Typed, with_postcode: bool) -> (BTreeSet<usize>, usize) {
        let postcode: Option<Postcode> = typed.postcode.parse().ok().filter(|_| with_postcode);
        let asked =
            Asked { surname: &typed.surname, given: &typed.given, birth: typed.birth, postcode: postcode.as_ref() };
        let Ok(list) = questions(&asked) else { return (BTreeSet::new(), 0) };
        let found = list.iter().filter_map(|(_, query)| self.0.get(query.expose())).flatten().copied();
        (found.collect(), list.len())
    }
}

#[derive(Default, Clone, Copy)]
struct Tally {
    asked: u64,
    found: u64,
    wrong: u64,
    questions: u64,
}

impl Tally {
    fn add(&mut self, (found, questions): &(BTreeSet<usize>, usize), who: Option<usize>) {
        let right = who.is_some_and(|who| found.contains(&who));
        self.asked += 1;
        self.found += u64::from(right);
        self.wrong += (found.len() - usize::from(right)) as u64;
        self.questions += *questions as u64;
    }

    fn cells(&self, recall: bool) -> String {
        let share = |part| ratio(part, self.asked.max(1));
        let recall = if recall { format!("{:.1} %", share(self.found) * 100.0) } else { String::new() };
        format!("{recall} | {:.2} | {:.1}", share(self.wrong) * 1000.0, share(self.questions))
    }
}

/// Prints the table.
///
/// # Errors
/// When the register cannot be invented.
pub fn recall(scale: Scale, report: &Report) -> anyhow::Result<()> {
    let records = scale.of(100_000, 2_000);
    let register = people(SEED, records)?;
    let index = Index::of(&register);
    let named: Vec<(usize, &PersonRow)> = register.iter().enumerate().filter(|(_, row)| !row.restricted).collect();
    report.remark(&format!(
        "### Look-up by name: recall and false candidates, {} invented people, seed {SEED}",
        grouped(register.len() as u64)
    ));
    report
        .remark("Per 1,000 look-ups: other people among the candidates. Questions: memory-hard steps a look-up takes.");
    report.remark(
        "| what was typed | look-ups | found, with postcode | others | questions | found, without | others | questions |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|",
    );
    let mut random = Random(SEED);
    let mut rows = String::new();
    for (name, slip) in SLIPS {
        let (mut with, mut without) = (Tally::default(), Tally::default());
        for (who, row) in &named {
            let Some(typed) = slip(&as_known(row), &mut random) else { continue };
            if !typed.postcode.is_empty() {
                with.add(&index.ask(&typed, true), Some(*who));
            }
            without.add(&index.ask(&typed, false), Some(*who));
        }
        rows += &format!("| {name} | {} | {} | {} |\n", grouped(without.asked), with.cells(true), without.cells(true));
    }
    // People of another register: whoever is shown is somebody else.
    let (mut with, mut without) = (Tally::default(), Tally::default());
    for row in people(ABSENT_SEED, records)? {
        let typed = as_known(&row);
        with.add(&index.ask(&typed, true), None);
        without.add(&index.ask(&typed, false), None);
    }
    rows += &format!(
        "| somebody who is not in the register | {} | {} | {} |",
        grouped(without.asked),
        with.cells(false),
        without.cells(false)
    );
    report.remark_joined(&rows);
    Ok(())
}
