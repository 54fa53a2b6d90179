//! What is filed and what is asked meet where they should, and nowhere else.

use super::*;
use crate::query::Path;
use alloc::vec;

fn date(text: &str) -> Date {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn person<'a>(surname: &'a str, given: &'a str, birth: &str, postcode: &'a str) -> Person<'a> {
    let number = NhsNumber::new(9_990_000_018).unwrap_or_else(|e| panic!("{e}"));
    Person { number, birth: date(birth), surname, given, postcode, restricted: false }
}

/// In which ways the question finds the person.
fn ways(person: &Person<'_>, surname: &str, given: &str, birth: &str, postcode: &str) -> Vec<Way> {
    let postcode: Option<Postcode> = postcode.parse().ok();
    let asked = Asked { surname, given, birth: date(birth), postcode: postcode.as_ref() };
    let filed = slots(person);
    let asked = questions(&asked).unwrap_or_else(|e| panic!("{surname}, {given}: {e}"));
    let found = asked.iter().filter(|(_, query)| filed.iter().any(|slot| slot.expose() == query.expose()));
    found.map(|(way, _)| *way).collect()
}

const BIRTH: &str = "2015-03-04";
const HERE: &str = "ZA1 1AA";

#[test]
fn written_otherwise_is_as_typed() {
    for (surname, given, typed, typed_given) in [
        ("O'Brien", "Zoë", "obrien", "zoe"),
        ("O\u{2019}Brien", "Zoe", "O BRIEN", "ZOË"),
        ("Smith-Jones", "William", "smith jones", "Bill"),
        ("Müller", "Katherine", "Muller", "Kate"),
        ("Łukasiewicz", "Jan", "Lukasiewicz", "JAN"),
        ("van der Berg", "Sam", "Van Der Berg", "Samuel"),
        ("Khan", "Mohammed", "Khan", "Muhammad"),
        ("MacDonald", "Ellie-Mae", "McDonald", "Ellie"),
    ] {
        let found = ways(&person(surname, given, BIRTH, ""), typed, typed_given, BIRTH, "");
        assert!(found.contains(&Way::AsTyped), "{surname}, {given}: {found:?}");
    }
}

#[test]
fn each_slip_has_its_way() {
    let child = person("Smith", "Oliver", BIRTH, HERE);
    let found = |surname, given, birth, postcode| ways(&child, surname, given, birth, postcode);
    assert_eq!(found("Smith", "Oliver", BIRTH, ""), [Way::AsTyped]);
    assert_eq!(found("Smith", "Oliver", BIRTH, HERE), [Way::AsTyped, Way::SoundAndPostcode]);
    assert_eq!(found("Oliver", "Smith", BIRTH, HERE), [Way::NamesSwapped]);
    assert_eq!(found("Smith", "Oliver", "2015-04-03", HERE), [Way::DayAndMonthSwapped]);
    assert_eq!(found("Smyth", "Oliver", BIRTH, "za11aa"), [Way::SoundAndPostcode]);
    // The sound finds whoever lives there with that birth date: twins, and a given name that is not known.
    assert_eq!(found("Smith", "", BIRTH, HERE), [Way::SoundAndPostcode]);
    assert_eq!(found("Smith-Jones", "Oliver", BIRTH, ""), [Way::PartOfSurname]);
    assert_eq!(found("Jones-Smith", "Oliver", BIRTH, ""), [Way::PartOfSurname]);
}

#[test]
fn what_is_missed_by_design() {
    let child = person("Smith", "Oliver", BIRTH, HERE);
    for (surname, given, birth, postcode) in [
        ("Smyth", "Oliver", BIRTH, ""),
        ("Smith", "Harry", BIRTH, ""),
        ("Smith", "Oliver", "2015-03-05", HERE),
        ("Smyth", "Oliver", BIRTH, "ZA1 1AB"),
        ("Smyth", "Oliver", "2015-04-03", HERE),
    ] {
        assert_eq!(ways(&child, surname, given, birth, postcode), [], "{surname}, {given}, {birth}");
    }
}

#[test]
fn double_surnames_by_either_part() {
    let known = person("Smith-Jones", "Ada", BIRTH, HERE);
    assert_eq!(ways(&known, "Smith", "Ada", BIRTH, ""), [Way::AsTyped]);
    assert_eq!(ways(&known, "Jones", "Ada", BIRTH, HERE), [Way::SoundAndPostcode]);
    assert_eq!(ways(&known, "Jones-Smith", "Ada", BIRTH, ""), [Way::PartOfSurname]);
    // There the sound takes the slot of the last part: a miss without the postcode.
    assert_eq!(ways(&known, "Jones", "Ada", BIRTH, ""), []);
    let unknown = person("Smith-Jones", "Ada", BIRTH, "");
    assert_eq!(ways(&unknown, "Jones", "Ada", BIRTH, ""), [Way::AsTyped]);
}

#[test]
fn single_names_and_several_given_names() {
    for child in [person("Suharto", "", BIRTH, ""), person("Suharto", "Suharto", BIRTH, "")] {
        assert_eq!(ways(&child, "Suharto", "", BIRTH, ""), [Way::AsTyped]);
        assert_eq!(ways(&child, "", "Suharto", BIRTH, ""), [Way::AsTyped]);
        assert_eq!(ways(&child, "Suharto", "suharto", BIRTH, ""), [Way::AsTyped]);
    }
    let several = person("Chen", "Xin Yi", BIRTH, "");
    assert_eq!(ways(&several, "Chen", "Xinyi", BIRTH, ""), [Way::AsTyped]);
    assert_eq!(ways(&person("Chen", "Xinyi", BIRTH, ""), "Chen", "Xin-Yi", BIRTH, ""), [Way::OtherGivenName]);
    let muhammad = person("Khan", "Muhammad Bilal", BIRTH, "");
    assert_eq!(ways(&muhammad, "Khan", "Bilal", BIRTH, ""), [Way::AsTyped]);
}

#[test]
fn restricted_and_foreign_letters_by_number_only() {
    let restricted = Person { restricted: true, ..person("Smith", "Ada", BIRTH, HERE) };
    for one in [restricted, person("Иванов", "Иван", BIRTH, HERE)] {
        let paths: Vec<Path> = slots(&one).iter().map(Query::path).collect();
        assert_eq!(paths, [Path::NhsNumber]);
    }
    assert_eq!(ways(&restricted, "Smith", "Ada", BIRTH, HERE), []);
}

#[test]
fn no_place_no_sound() {
    let nowhere = person("Smith", "Ada", BIRTH, "ZZ99 3VZ");
    assert_eq!(slots(&nowhere).iter().map(Query::path).collect::<Vec<_>>(), [Path::NhsNumber, Path::Name]);
    assert_eq!(ways(&nowhere, "Smyth", "Ada", BIRTH, "ZZ99 3VZ"), []);
}

#[test]
fn a_question_needs_a_name_and_has_a_bound() {
    let postcode: Postcode = HERE.parse().unwrap_or_else(|e| panic!("{e}"));
    let ask = |surname, given| {
        let asked = Asked { surname, given, birth: date(BIRTH), postcode: Some(&postcode) };
        questions(&asked).map(|list| list.iter().map(|(way, _)| *way).collect::<Vec<_>>())
    };
    assert_eq!(ask("", " - "), Err(Refusal::Malformed));
    assert_eq!(ask("Смит", "Ada"), Err(Refusal::Malformed));
    assert_eq!(
        ask("Smith-Jones", "Xin Yi"),
        Ok(vec![
            Way::AsTyped,
            Way::SoundAndPostcode,
            Way::NamesSwapped,
            Way::DayAndMonthSwapped,
            Way::PartOfSurname,
            Way::PartOfSurname,
            Way::OtherGivenName
        ])
    );
}

proptest::proptest! {
    /// Whoever is filed with a name is found by that name as it stands in the register, and a cell has room.
    #[test]
    fn filed_is_found(surname in "[A-Za-zÀ-ž' -]{1,20}", given in "[A-Za-zÀ-ž' -]{0,20}", known in proptest::bool::ANY) {
        let child = person(&surname, &given, BIRTH, if known { HERE } else { "" });
        let filed = slots(&child);
        proptest::prop_assert!((1..=SLOTS).contains(&filed.len()));
        if filed.len() > 1 {
            proptest::prop_assert!(ways(&child, &surname, &given, BIRTH, "").contains(&Way::AsTyped));
        }
    }
}

#[test]
fn a_newborn_filed_without_a_given_name_is_found_with_one() {
    let newborn = person("Smith", "", BIRTH, HERE);
    assert!(ways(&newborn, "Smith", "Ada", BIRTH, "").contains(&Way::OtherGivenName));
}
