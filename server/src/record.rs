//! What goes into cells: one person's visible plans as one record for each authority responsible for one of them.
//! It must not put in a name, an address, an NHS number or a date of birth, beyond the two confirmers.

use std::collections::BTreeMap;

use cpis_protocol::flag::{Flag, FlagKind, RECORD_FLAGS_MAX, Record};
use cpis_protocol::id::UnixMs;

use crate::port::{Person, PersonPlan};

/// The records of a person at a moment, by the number of the authority whose feed each goes into.
/// Empty when nothing may be shown any more.
#[must_use]
pub fn records(person: &Person, now_ms: UnixMs) -> BTreeMap<u16, Record> {
    let mut flags: Vec<Flag> = person.plans.iter().map(flag).filter(|flag| flag.is_visible(now_ms)).collect();
    // Active plans first, then the latest: what does not fit is what matters least.
    flags.sort_by_key(|flag| {
        let days = |date: Option<cpis_protocol::nhs::Date>| date.map_or(0, cpis_protocol::nhs::Date::days);
        (flag.end.is_some(), core::cmp::Reverse(days(flag.end)), core::cmp::Reverse(days(flag.start)), flag.kind)
    });
    let mut authorities: Vec<u16> = flags.iter().map(|flag| flag.authority).collect();
    authorities.sort_unstable();
    authorities.dedup();
    authorities
        .into_iter()
        .map(|authority| {
            let record =
                if person.restricted { restricted(authority, &flags) } else { open(person, authority, &flags) };
            (authority, record)
        })
        .collect()
}

fn flag(plan: &PersonPlan) -> Flag {
    Flag {
        kind: plan.kind,
        authority: plan.authority,
        start: plan.start,
        end: plan.end,
        visible_until_min: plan.visible_until_min,
    }
}

/// The whole picture in each feed: a crew in one area must see that another area has a plan too. The feed's own
/// authority always has a flag in it, so that whoever removes it there removes the reason for being in that feed.
fn open(person: &Person, authority: u16, flags: &[Flag]) -> Record {
    let mut kept: Vec<Flag> = flags.iter().take(RECORD_FLAGS_MAX).cloned().collect();
    if !kept.iter().any(|flag| flag.authority == authority)
        && let Some(own) = flags.iter().find(|flag| flag.authority == authority)
        && let Some(last) = kept.last_mut()
    {
        *last = own.clone();
    }
    let mut initials = [0; 2];
    let letters = person.given.bytes().filter(u8::is_ascii_alphabetic);
    for (to, letter) in initials.iter_mut().zip(letters) {
        *to = letter.to_ascii_uppercase();
    }
    let last_three = u16::try_from(person.number.as_u64() % 1000).unwrap_or(0);
    Record { more: flags.len() > kept.len(), flags: kept, restricted: false, initials, last_three }
}

/// Nothing but whom to ring: one flag without dates, always of the same kind, for as long as any plan there lasts.
fn restricted(authority: u16, flags: &[Flag]) -> Record {
    let mut until = Some(0);
    for flag in flags.iter().filter(|flag| flag.authority == authority) {
        until = match (until, flag.visible_until_min) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (None, _) | (_, None) => None,
        };
    }
    let flag = Flag { kind: FlagKind::Cpp, authority, start: None, end: None, visible_until_min: until };
    Record { flags: vec![flag], more: false, restricted: true, initials: [0; 2], last_three: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpis_protocol::nhs::{Date, NhsNumber};

    fn plan(authority: u16, start: i16, end: Option<i16>, until: Option<u32>) -> PersonPlan {
        let date = |year| Date::new(year, 1, 1).unwrap();
        PersonPlan {
            kind: FlagKind::Lac,
            authority,
            start: Some(date(start)),
            end: end.map(date),
            due: None,
            visible_until_min: until,
        }
    }

    fn person(plans: Vec<PersonPlan>, restricted: bool) -> Person {
        Person {
            number: NhsNumber::new(9_990_000_018).unwrap(),
            birth: Date::new(2015, 3, 4).unwrap(),
            surname: "Sorenson".into(),
            given: "\u{c9}l-ise".into(),
            postcode: "ZA1 1AA".into(),
            restricted,
            plans,
        }
    }

    #[test]
    fn active_first_and_every_feed_has_its_own_flag() {
        let plans = vec![
            plan(1, 2019, Some(2026), Some(100)),
            plan(2, 2020, None, None),
            plan(2, 2021, None, None),
            plan(3, 2022, None, None),
        ];
        let records = records(&person(plans, false), 0);
        assert_eq!(records.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
        let starts =
            |authority: u16| -> Vec<u16> { records[&authority].flags.iter().map(|flag| flag.authority).collect() };
        assert_eq!(starts(2), [3, 2, 2]);
        assert_eq!(starts(1), [3, 2, 1], "the own one is always there");
        for record in records.values() {
            assert!(record.more && record.pack().is_ok());
            assert_eq!((&record.initials, record.last_three), (b"LI", 18));
        }
    }

    #[test]
    fn gone_to_the_minute() {
        let child = person(vec![plan(1, 2019, Some(2020), Some(10)), plan(2, 2019, Some(2020), Some(11))], false);
        assert_eq!(records(&child, 10 * 60_000 - 1).len(), 2);
        assert_eq!(records(&child, 10 * 60_000).keys().copied().collect::<Vec<_>>(), [2]);
        assert!(records(&child, 11 * 60_000).is_empty());
    }

    #[test]
    fn restricted_says_only_whom_to_ring() {
        let child = person(vec![plan(7, 2019, Some(2020), Some(10)), plan(7, 2019, None, None)], true);
        let record = &records(&child, 0)[&7];
        assert!(record.restricted && record.pack().is_ok());
        let flag = Flag { kind: FlagKind::Cpp, authority: 7, start: None, end: None, visible_until_min: None };
        assert_eq!((record.flags.as_slice(), record.initials, record.last_three), (&[flag][..], [0; 2], 0));
    }
}
