//! The 153 local authorities of England that have children's services, by code and by the ways they are named.
//! It must not guess: a name that fits no authority, or could fit two, fits none.

use std::collections::HashMap;
use std::sync::LazyLock;

use cpis_protocol::id::AuthorityCode;

/// See `data/SOURCES.md`.
const FILE: &str = include_str!("../../data/england_upper_tier_la_153.csv");

/// One authority of the built-in list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownAuthority {
    /// GSS code.
    pub code: AuthorityCode,
    /// Official name, e.g. `Sheffield City Council`.
    pub name: String,
    /// The short name that the statistics use, e.g. `Sheffield`.
    pub short_name: String,
    /// Region, e.g. `Yorkshire and The Humber`.
    pub region: String,
}

struct Known {
    list: Vec<KnownAuthority>,
    by_code: HashMap<AuthorityCode, usize>,
    /// By [`name_key`]; `None` where two authorities share the key.
    by_name: HashMap<String, Option<usize>>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let list = read().unwrap_or_default();
    let by_code = list.iter().enumerate().map(|(place, known)| (known.code, place)).collect();
    let mut by_name: HashMap<String, Option<usize>> = HashMap::new();
    for (place, known) in list.iter().enumerate() {
        for name in [&known.name, &known.short_name] {
            let entry = by_name.entry(name_key(name)).or_insert(Some(place));
            if *entry != Some(place) {
                *entry = None;
            }
        }
    }
    Known { list, by_code, by_name }
});

/// A file that cannot be read gives no authority at all, so that everything is refused; a test sees to it.
fn read() -> Option<Vec<KnownAuthority>> {
    let mut reader = csv::Reader::from_reader(FILE.as_bytes());
    let headers = reader.headers().ok()?.clone();
    let column = |name: &str| headers.iter().position(|header| header == name);
    let [code, short, region, name] =
        [column("gss_code")?, column("la_name")?, column("region_name")?, column("official-name")?];
    let mut list = Vec::new();
    for record in reader.records() {
        let record = record.ok()?;
        list.push(KnownAuthority {
            code: AuthorityCode::new(record.get(code)?).ok()?,
            name: record.get(name)?.split_whitespace().collect::<Vec<_>>().join(" "),
            short_name: record.get(short)?.to_owned(),
            region: record.get(region)?.to_owned(),
        });
    }
    Some(list)
}

/// All of them, sorted by code.
#[must_use]
pub fn known_authorities() -> &'static [KnownAuthority] {
    &KNOWN.list
}

/// The authority with this GSS code.
pub(super) fn authority_coded(code: &str) -> Option<&'static KnownAuthority> {
    let code = AuthorityCode::new(code).ok()?;
    KNOWN.by_code.get(&code).and_then(|place| KNOWN.list.get(*place))
}

/// The authority with this GSS code or name. `SHEFFIELD CITY COUNCIL`, `Sheffield`, `London Borough of Brent`,
/// `Brent Council` and the upload form `SFD1 - SHEFFIELD CITY COUNCIL` are all understood.
#[must_use]
pub fn authority_named(name: &str) -> Option<&'static KnownAuthority> {
    let by_key = |name: &str| {
        let place = (*KNOWN.by_name.get(&name_key(name))?)?;
        KNOWN.list.get(place)
    };
    authority_coded(name.trim()).or_else(|| by_key(name)).or_else(|| by_key(without_prefix(name)?))
}

/// What follows a short code and a spaced hyphen.
fn without_prefix(name: &str) -> Option<&str> {
    let (code, rest) = name.trim().split_once(" - ")?;
    let is_code = (1..=6).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric());
    is_code.then_some(rest)
}

/// The words that tell authorities apart, in capitals: the form of government is left out, `&` is `AND`.
fn name_key(name: &str) -> String {
    const FORM: [&str; 11] = [
        "COUNCIL",
        "CITY",
        "BOROUGH",
        "COUNTY",
        "METROPOLITAN",
        "DISTRICT",
        "ROYAL",
        "CORPORATION",
        "THE",
        "OF",
        "UNITARY",
    ];
    let name = name.to_uppercase().replace('&', " AND ");
    let words: Vec<&str> = name.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    // "City of London" is told from "London Borough of Barnet" only by the word Borough.
    let is_borough = words.contains(&"BOROUGH");
    let kept = words.into_iter().filter(|word| !(FORM.contains(word) || is_borough && *word == "LONDON"));
    kept.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_and_every_name_finds_its_own() {
        assert_eq!(known_authorities().len(), 153);
        assert_eq!(KNOWN.by_code.len(), 153);
        assert!(KNOWN.by_name.values().all(Option::is_some), "two authorities share a key");
        for known in known_authorities() {
            for name in [known.code.as_str(), &known.name, &known.short_name, &known.name.to_uppercase()] {
                assert_eq!(authority_named(name), Some(known), "{name}");
            }
        }
    }

    #[test]
    fn names_as_people_write_them() {
        for (name, code) in [
            ("SFD1 - SHEFFIELD CITY COUNCIL", "E08000019"),
            ("Barnet London Borough Council", "E09000003"),
            ("london borough of hammersmith and fulham", "E09000013"),
            ("City of London", "E09000001"),
            ("Doncaster Metropolitan Borough Council", "E08000017"),
            ("The City of York Council", "E06000014"),
            ("Hull City Council", "E06000010"),
            ("Saint Helens Council", ""),
            ("ST. HELENS COUNCIL", "E08000013"),
            ("Stoke on Trent City Council", "E06000021"),
            ("Durham County Council", "E06000047"),
            ("Cardiff Council", ""),
            ("Council", ""),
            ("", ""),
        ] {
            assert_eq!(authority_named(name).map_or("", |known| known.code.as_str()), code, "{name}");
        }
    }
}
