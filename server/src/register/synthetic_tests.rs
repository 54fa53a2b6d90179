//! What the synthetic register promises: published counts, valid unique numbers, plausible people, the same for ever.
//! It must not loosen the frozen hashes without a word in the change log.

use std::collections::{HashMap, HashSet};

use cpis_protocol::nhs::NumberRange;

use super::super::{read_csv, visible_until_min, write_authorities_csv, write_plans_csv};
use super::*;

fn options(authorities: &[&str], records: Option<u32>) -> SynthesiseOptions {
    let authorities = authorities.iter().map(|name| (*name).to_owned()).collect();
    SynthesiseOptions { authorities, records, seed: 1, today: Date::new(2026, 11, 22).unwrap() }
}

fn people(extract: &Extract) -> Vec<&PersonRow> {
    let mut people = Vec::new();
    for change in &extract.changes {
        if let Change::Put(person) = change {
            people.push(person);
        }
    }
    people
}

fn hash(extract: &Extract) -> String {
    let (plans, authorities) = (write_plans_csv(extract).unwrap(), write_authorities_csv(extract).unwrap());
    cpis_protocol::id::hex(&cpis_protocol::digest::sha256(&[plans, authorities].concat()))
}

#[test]
fn frozen_for_ever() {
    let extract = synthesise(&options(&[], Some(2_000))).unwrap();
    assert_eq!(hash(&extract), "0fd9ce2737d9bd76af625045f0c9d507b905eb92ddb110f8151836b25551936c");
    let other = synthesise(&SynthesiseOptions { seed: 2, ..options(&[], Some(2_000)) }).unwrap();
    assert_ne!(hash(&other), hash(&extract));
}

#[test]
fn the_nation_has_the_published_counts() {
    let extract = synthesise(&options(&[], None)).unwrap();
    assert_eq!(extract.authorities.len(), 153);
    let mut active: HashMap<(AuthorityCode, bool), u32> = HashMap::new();
    let mut numbers = HashSet::new();
    for person in people(&extract) {
        assert_eq!(person.number.range(), NumberRange::Synthetic);
        assert!(numbers.insert(person.number), "numbers are unique");
        for plan in person.plans.iter().filter(|plan| plan.end.is_none()) {
            *active.entry((plan.authority, plan.kind == FlagKind::Lac)).or_default() += 1;
        }
    }
    for counts in counts::read().unwrap() {
        let code = AuthorityCode::new(&counts.code).unwrap();
        let of = |care| active.get(&(code, care)).copied().unwrap_or(0);
        assert_eq!((of(false), of(true)), (counts.plans, counts.looked_after), "{code}");
    }
    let total = |care| active.iter().filter(|((_, lac), _)| *lac == care).map(|(_, n)| *n).sum::<u32>();
    assert_eq!((total(false), total(true)), (49_417, 81_769));
    let plans: usize = people(&extract).iter().map(|person| person.plans.len()).sum();
    assert!((227_000..229_000).contains(&plans), "{plans}");
}

#[test]
fn people_are_plausible() {
    let options = options(&[], Some(30_000));
    let extract = synthesise(&options).unwrap();
    let today = options.today;
    let now_min = u32::try_from(today.unix_ms() / 60_000).unwrap();
    for person in people(&extract) {
        let age = i32::from(today.days()) - i32::from(person.birth.days());
        for plan in &person.plans {
            assert!(plan.start.is_some_and(|start| start <= today && start >= person.birth));
            assert!(plan.end.is_none_or(|end| end < today && Some(end) >= plan.start));
            assert_eq!(plan.due.is_some(), plan.kind == FlagKind::Ucpp);
            assert!(visible_until_min(plan).is_none_or(|until| until > now_min), "all are visible today");
            match (plan.kind, plan.end) {
                (FlagKind::Ucpp, _) => assert!((14 * 365..46 * 366).contains(&age)),
                (_, None) => assert!((0..6_574).contains(&age), "a child"),
                (_, Some(_)) => assert!((0..=6_574 + 364).contains(&age), "a child when it ended"),
            }
        }
        assert!(!person.restricted || person.postcode.is_empty());
    }
}

#[test]
fn every_case_is_there() {
    let extract = synthesise(&options(&["Sheffield", "E08000035", "Kent"], Some(9_000))).unwrap();
    let all = people(&extract);
    assert_eq!((all.len(), extract.authorities.len()), (9_000, 3));
    let count = |wanted: &dyn Fn(&PersonRow) -> bool| all.iter().filter(|person| wanted(person)).count();
    let kinds = |p: &PersonRow, kind, ended: bool| p.plans.iter().any(|x| x.kind == kind && x.end.is_some() == ended);
    let (cpp, lac) = (FlagKind::Cpp, FlagKind::Lac);
    assert!(count(&|p| kinds(p, cpp, false) && kinds(p, lac, false)) > 20, "both");
    assert!(count(&|p| kinds(p, lac, false) && kinds(p, cpp, true)) > 20, "care after a plan");
    assert!(count(&|p| p.plans.windows(2).any(|w| w[0].authority != w[1].authority)) > 10, "moved");
    assert!(count(&|p| kinds(p, FlagKind::Ucpp, false)) > 10, "unborn");
    assert!(count(&|p| p.restricted) > 20 && count(&|p| p.given.is_empty()) > 5);
    assert!(count(&|p| p.surname.contains('-')) > 50 && count(&|p| !p.surname.is_ascii()) > 20);
    let pairs = || all.windows(2).filter(|w| w[0].surname == w[1].surname);
    assert!(pairs().filter(|w| w[0].birth == w[1].birth && w[0].given != w[1].given).count() > 20, "twins");
    let siblings = pairs().filter(|w| w[0].birth != w[1].birth && w[0].postcode == w[1].postcode);
    assert!(siblings.count() > 200, "siblings");
    assert!(all.iter().map(|p| &p.surname).collect::<HashSet<_>>().len() > 300);
}

#[test]
fn telephones_are_distinct_and_scaling_is_exact() {
    let extract = synthesise(&options(&[], Some(0))).unwrap();
    assert!(extract.changes.is_empty());
    let phones: HashSet<&str> =
        extract.authorities.iter().flat_map(|row| [row.office_phone.as_str(), &row.duty_phone]).collect();
    assert_eq!(phones.len(), 306);
    assert!(phones.iter().all(|phone| phones::is_drama(phone) && phones::is_phone(phone)));
    for records in [1, 7, 1_000] {
        assert_eq!(synthesise(&options(&["Rutland", "Kent"], Some(records))).unwrap().changes.len(), records as usize);
    }
}

#[test]
fn refuses_what_it_cannot_make() {
    let unknown = synthesise(&options(&["Atlantis"], None));
    assert_eq!(unknown, Err(RegisterError::UnknownAuthority("Atlantis".into())));
    assert_eq!(synthesise(&options(&[], Some(RECORDS_MAX + 1))), Err(RegisterError::TooManyRecords));
}

#[test]
fn every_test_number_can_be_given_out_once() {
    let mut random = Random::new(9);
    let mut numbers = Numbers::new(&mut random);
    let mut seen = HashSet::new();
    while let Ok(number) = numbers.take() {
        assert!(seen.insert(number));
    }
    assert!(seen.len() >= RECORDS_MAX as usize, "{}", seen.len());
}

#[test]
fn a_quarter_of_a_million_records_in_seconds() {
    let started = std::time::Instant::now();
    let extract = synthesise(&options(&[], Some(250_000))).unwrap();
    let made = started.elapsed();
    let bytes = write_plans_csv(&extract).unwrap();
    let back = read_csv(&bytes, true).unwrap();
    assert!(back.changes == extract.changes, "the file says the same");
    // Far above what it takes even without optimisation; it shows that nothing is quadratic.
    assert!(started.elapsed().as_secs() < 60, "{made:?}, {:?}", started.elapsed());
}
