//! The patterns of somebody who asks to find out who is in the register: rate, misses, dates of birth, sequences.
//! It must not keep what was asked: it sees a bounded stretch of a chain, judges, and forgets it.

use std::collections::{BTreeMap, BTreeSet};

use cpis_protocol::audit::{Act, AuditEvent, Outcome};
use cpis_protocol::id::{PractitionerId, UnixMs};
use cpis_protocol::nhs::NhsNumber;
use cpis_protocol::text::Text;

use crate::config::Config;
use crate::port::AlertKind;

/// How far back different dates of birth are counted.
pub(super) const BIRTHS_MS: i64 = 86_400_000;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Whom {
    Number(u64),
    Name(Text<32>, Text<32>),
}

/// One look-up. Neither `Debug` nor `Serialize`: it says who was asked about.
pub(super) struct Asked {
    /// Its position in the chain.
    pub(super) seq: u64,
    /// When, by the device.
    pub(super) event_ms: UnixMs,
    /// Who asked.
    pub(super) practitioner: PractitionerId,
    whom: Whom,
    birth: u16,
    missed: bool,
}

impl Asked {
    /// The look-up that an event tells of, if it tells of one.
    pub(super) fn of(seq: u64, event_ms: UnixMs, event: &AuditEvent) -> Option<Self> {
        let (whom, birth, outcome) = match &event.act {
            Act::LookUp { number, birth, outcome, .. } => (Whom::Number(number.as_u64()), birth, outcome),
            Act::LookUpByName { surname, given, birth, outcome, .. } => (Whom::Name(*surname, *given), birth, outcome),
            _ => return None,
        };
        let missed = matches!(outcome, Outcome::NotInThisCopy | Outcome::OutOfCoverage);
        Some(Self { seq, event_ms, practitioner: event.practitioner, whom, birth: birth.days(), missed })
    }
}

/// How long the stretch before a look-up has to be for [`judge`].
pub(super) fn look_back_ms(config: &Config) -> i64 {
    BIRTHS_MS.max(i64::from(config.alert_window_s) * 1000)
}

/// What the last of these look-ups completes, with how many; look-ups of others do not count.
pub(super) fn judge(config: &Config, asked: &[Asked]) -> Vec<(AlertKind, u64)> {
    let Some(last) = asked.last() else { return Vec::new() };
    let own = |asked: &&Asked| asked.practitioner == last.practitioner;
    let within = |ms: i64| move |asked: &&Asked| asked.event_ms > last.event_ms - ms && asked.event_ms <= last.event_ms;
    let window: Vec<&Asked> =
        asked.iter().filter(own).filter(within(i64::from(config.alert_window_s) * 1000)).collect();
    let mut out = Vec::new();
    let count = window.len() as u64;
    if count >= u64::from(config.alert_look_ups) {
        out.push((AlertKind::EnumerationRate, count));
    }
    let misses = window.iter().filter(|asked| asked.missed).count() as u64;
    if count >= u64::from(config.alert_misses_of) && misses * 100 >= count * u64::from(config.alert_misses_percent) {
        out.push((AlertKind::EnumerationMisses, misses));
    }
    let births: BTreeSet<u16> = asked
        .iter()
        .filter(own)
        .filter(within(BIRTHS_MS))
        .filter(|asked| asked.whom == last.whom)
        .map(|asked| asked.birth)
        .collect();
    if births.len() as u64 >= u64::from(config.alert_births) {
        out.push((AlertKind::EnumerationDates, births.len() as u64));
    }
    let run = longest_run(&window);
    if run >= u64::from(config.alert_sequence) {
        out.push((AlertKind::EnumerationSequence, run));
    }
    out
}

/// The longest run of NHS numbers without another valid one between them, in whatever order they were asked about.
/// One in eleven nine-digit stems has no check digit, so the next number may be two stems on.
fn longest_run(window: &[&Asked]) -> u64 {
    let nines: BTreeSet<u64> = window
        .iter()
        .filter_map(|asked| match asked.whom {
            Whom::Number(number) => Some(number / 10),
            Whom::Name(..) => None,
        })
        .collect();
    let mut best: BTreeMap<u64, u64> = BTreeMap::new();
    for nine in nines {
        let gap = if NhsNumber::check_digit(nine.saturating_sub(1)).is_some() { 1 } else { 2 };
        let before = best.get(&nine.saturating_sub(gap)).copied();
        best.insert(nine, before.unwrap_or(0) + 1);
    }
    best.into_values().max().unwrap_or(0)
}
