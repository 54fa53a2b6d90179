//! Look-up by name: what is filed and what is asked, for names of many kinds.

use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::postcode::Postcode;
use cpis_protocol::question::{self, Asked, Person};

use crate::common::ok;
use crate::run_names::listed;
use crate::text::File;

/// Case, surname, given, birth, postcode.
const NAMES: [(&str, &str, &str, &str, &str); 12] = [
    ("plain", "Smith", "Oliver", "2015-03-04", "ZA1 1AA"),
    ("accents", "Guðmundsdóttir", "Zoë", "2015-03-14", ""),
    ("apostrophe", "O\u{2019}Brien", "T'Keyah", "2015-03-14", "za11aa"),
    ("double", "Smith-Jones", "William", "2015-03-04", "ZA1 1AA"),
    ("double-no-postcode", "García Fernández", "Lucía", "2015-03-14", ""),
    ("particles", "van der Berg", "Søren", "2015-03-14", "ZA1 1AA"),
    ("mac", "MacDonald", "Ellie-Mae", "2015-03-14", "ZA1 1AA"),
    ("transliterated", "Hussein", "Md Bilal", "2015-03-14", "ZA1 1AA"),
    ("slavic", "Wiśniewska", "Łucja", "2015-03-14", "ZA1 1AA"),
    ("single", "Suharto", "", "2015-03-14", "ZA1 1AA"),
    ("several-given", "Chen", "Xin Yi", "2015-03-14", ""),
    ("no-place", "Smith", "Oliver", "2015-03-14", "ZZ99 3VZ"),
];

fn number() -> NhsNumber {
    NhsNumber::new(9_990_000_018).unwrap_or_else(|e| panic!("{e}"))
}

fn date(text: &str) -> Date {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

pub(crate) fn names() -> File {
    let mut file =
        File::new("name", "Look-up by name (R210 to R218): each question as length (u16, big endian) and bytes.");
    for (name, surname, given, birth, postcode) in NAMES {
        let born = date(birth);
        let person = Person { number: number(), birth: born, surname, given, postcode, restricted: false };
        let code: Option<Postcode> = postcode.parse().ok();
        let asked = Asked { surname, given, birth: born, postcode: code.as_ref() };
        let asked = listed(ok(question::questions(&asked)).iter().map(|(_, query)| query));
        for (object, bytes) in [("name-filed", listed(&question::slots(&person))), ("name-asked", asked)] {
            file.case(&format!("{name}-{}", &object[5..]), "see the fields")
                .with("object", object)
                .with("number", "9990000018")
                .with("surname", surname)
                .with("given", given)
                .with("birth", birth)
                .with("postcode", postcode)
                .hex(&bytes)
                .expect("ok");
        }
    }
    let only_number = listed(&[cpis_protocol::query::Query::nhs_number(number(), date("2015-03-04"))]);
    file.replaced("restricted-filed", "name/plain-filed", &only_number, "ok", "by NHS number alone")
        .with("restricted", "true");
    file.replaced("foreign-filed", "name/plain-filed", &only_number, "ok", "letters that do not fold: by number alone")
        .with("surname", "Иванов");
    file.moved("foreign-asked", "name/plain-asked", "malformed", "letters that do not fold").with("surname", "Иванов");
    file.moved("look-alike-asked", "name/plain-asked", "malformed", "a Cyrillic letter that looks like a Latin one")
        .with("surname", "Smіth");
    file.moved("no-letters-asked", "name/plain-asked", "malformed", "no name at all")
        .with("surname", "'-")
        .with("given", "-");
    file.moved("too-long-asked", "name/plain-asked", "too-large", "65 characters").with("surname", &"x".repeat(65));
    file
}
