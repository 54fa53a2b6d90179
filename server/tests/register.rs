//! Properties of the register's sources over arbitrary input.
//! It must not contain a number outside the 999 range.

use cpis_protocol::nhs::Date;
use cpis_server::register::{
    Change, Extract, REFUSALS_MAX, RowRefusal, SynthesiseOptions, read_csv, read_fhir, synthesise,
    write_authorities_csv, write_plans_csv,
};
use proptest::prelude::*;

const FHIR: &[u8] = include_bytes!("fixtures/CPIS-CPP-Bundle-Example.json");

fn make(seed: u64, records: u32, today: Date) -> Extract {
    let authorities = vec!["Leeds City Council".to_owned(), "LONDON BOROUGH OF BRENT".to_owned()];
    synthesise(&SynthesiseOptions { authorities, records: Some(records), seed, today })
        .unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_examples_of_the_document_are_taken() {
    let document = include_str!("../../docs/extract-csv.md");
    let examples: Vec<&str> = document.split("```csv\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let read = |example: &str| read_csv(example.as_bytes(), true).unwrap();
    let [plans, authorities] = examples.as_slice() else { panic!("two examples") };
    assert_eq!(read(plans).changes.len(), 3);
    assert_eq!(read(authorities).authorities.len(), 1);
}

/// A reader may refuse or take, but what it says is bounded.
fn bounded(result: Result<Extract, Vec<RowRefusal>>) -> Result<(), TestCaseError> {
    if let Err(refusals) = result {
        prop_assert!((1..=REFUSALS_MAX + 1).contains(&refusals.len()));
        prop_assert!(refusals.iter().all(|refusal| !refusal.code.is_empty() && !refusal.remedy.is_empty()));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_synthetic_register_survives_the_csv_round_trip(
        seed: u64, records in 0u32..300, day in 0i32..20_000,
    ) {
        let today = Date::new(2020, 1, 1).unwrap().plus_days(day);
        let mut extract = make(seed, records, today);
        let gone = make(seed ^ 1, 3, today).changes.into_iter().filter_map(|change| match change {
            Change::Put(person) => Some(person.number),
            Change::Delete(_) => None,
        });
        let held: Vec<_> = extract.changes.iter().map(|change| match change {
            Change::Put(person) => person.number,
            Change::Delete(number) => *number,
        }).collect();
        extract.changes.extend(gone.filter(|number| !held.contains(number)).map(Change::Delete));
        let plans = read_csv(&write_plans_csv(&extract).unwrap(), true);
        let authorities = read_csv(&write_authorities_csv(&extract).unwrap(), true);
        prop_assert!(plans.as_ref().is_ok_and(|plans| plans.changes == extract.changes), "{:?}", plans.err());
        prop_assert_eq!(authorities.map(|read| read.authorities), Ok(extract.authorities));
    }

    #[test]
    fn a_real_register_takes_no_synthetic_person(seed: u64) {
        let bytes = write_plans_csv(&make(seed, 5, Date::new(2026, 11, 22).unwrap())).unwrap();
        let refusals = read_csv(&bytes, false).unwrap_err();
        prop_assert!(refusals.iter().all(|refusal| refusal.code == "nhs-number-range"));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000), synthetic: bool) {
        bounded(read_csv(&bytes, synthetic))?;
        bounded(read_fhir(&bytes, synthetic))?;
    }

    #[test]
    fn no_damage_makes_a_reader_panic(
        seed: u64,
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut: prop::sample::Index,
    ) {
        let csv = write_plans_csv(&make(seed, 6, Date::new(2026, 11, 22).unwrap())).unwrap();
        for mut bytes in [csv, FHIR.to_vec()] {
            for (place, value) in &damage {
                let place = place.index(bytes.len());
                bytes[place] = *value;
            }
            bounded(read_csv(&bytes, true))?;
            bounded(read_fhir(&bytes, true))?;
            bytes.truncate(cut.index(bytes.len()));
            bounded(read_csv(&bytes, true))?;
            bounded(read_fhir(&bytes, true))?;
        }
    }

    #[test]
    fn refusals_never_quote_a_person(text in "[A-Z][a-z]{9}", column in 0usize..12) {
        let good = "9990000018,2015-03-04,Xy,Zq,ZC1 1AA,cpp,2026-01-12,,,E08000019,,";
        let mut row: Vec<&str> = good.split(',').collect();
        row[column] = &text;
        let head = cpis_server::register::PLAN_COLUMNS.join(",");
        for file in [format!("{head}\n{}", row.join(",")), row.join(",")] {
            if let Err(refusals) = read_csv(file.as_bytes(), true) {
                let said = format!("{refusals:?}");
                prop_assert!(!said.contains(&text));
            }
        }
    }
}
