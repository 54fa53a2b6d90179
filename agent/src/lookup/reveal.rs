//! The second stage: showing what a look-up found, which is the access that social care is told of.
//! It must not let a detail out before its event is on stable storage (invariant 3).

use cpis_protocol::answer::{self, CannotAnswer, ShownFlag};
use cpis_protocol::audit::Act;
use cpis_protocol::clock::Reading;
use cpis_protocol::digest::Hash;
use cpis_protocol::flag::{Flag, FlagKind};
use cpis_protocol::head::{Authority, Reference};
use cpis_protocol::nhs::Date;
use cpis_protocol::policy::AccessMode;
use cpis_protocol::text::Text;

use super::{RevealError, Revealed, admit, glass_words, push_once, record_or_count, statement};
use crate::agent::Agent;
use crate::phone;
use crate::replica::Found;

/// Shows what a look-up found, or one candidate of a look-up by name (from 1): the access that the authority is told of.
///
/// # Errors
/// [`RevealError`]; nothing was shown.
pub fn reveal(
    agent: &Agent,
    look_up: u64,
    candidate: Option<usize>,
    incident: Option<&str>,
) -> Result<Revealed, RevealError> {
    agent.attend();
    let reading = agent.clock().reading();
    let locked = RevealError::CannotAnswer(CannotAnswer::VaultLocked);
    let (badge, details) = agent
        .vault()
        .with(reading.boot_ms, |s| (s.badge.clone(), s.revealable.get(&look_up).map(|d| (d.chosen(candidate), d.head))))
        .ok_or(locked)?;
    let (found, head) = details.ok_or(RevealError::NothingToReveal)?;
    let found = found.ok_or(RevealError::NoSuchCandidate)?;
    let grant = agent.grant();
    let access_mode = grant.policy.access_mode.and(badge.activity);
    let notifies = access_mode == AccessMode::Unscheduled;
    // Everything that will be shown is put together first: only what is shown is recorded as shown.
    let (mut revealed, shown) = details_of(agent, look_up, &found, head, notifies, reading)?;
    let incident = Text::lossy(incident.unwrap_or_default());
    for one in shown {
        let act = Act::Reveal { look_up, feed: one.feed, blind: one.blind, version: one.version, access_mode };
        record_or_count(agent, &badge, incident, act)
            .map_err(|()| RevealError::CannotAnswer(CannotAnswer::AuditCannotBeWritten))?;
    }
    revealed.words.extend(glass_words(agent.allowance(badge.practitioner).and_then(|a| a.break_glass_look_ups)));
    Ok(revealed)
}

/// What a reveal shows, and the records that it shows, under one look at the copy.
fn details_of<'a>(
    agent: &Agent,
    look_up: u64,
    found: &'a [Found],
    head: Hash,
    notifies: bool,
    reading: Reading,
) -> Result<(Revealed, Vec<&'a Found>), RevealError> {
    let (age_s, freshness) = admit(agent, reading).map_err(RevealError::CannotAnswer)?;
    let view = agent.replica().view();
    let now_ms = view.clock.now(reading).ok_or(RevealError::CannotAnswer(CannotAnswer::AgeUnknown))?;
    let copy = statement(&view, age_s, freshness).filter(|copy| copy.head == head);
    // The copy has moved on since the look-up: what was found may not be so any more.
    let copy = copy.ok_or(RevealError::NothingToReveal)?;
    let (mut flags, mut words, mut shown) = (Vec::new(), Vec::new(), Vec::new());
    for one in found {
        let visible: Vec<_> = one.record.flags.iter().filter(|flag| flag.is_visible(now_ms)).collect();
        for flag in &visible {
            let unborn = flag.kind == FlagKind::Ucpp && !one.record.restricted;
            if unborn {
                push_once(&mut words, answer::UNBORN);
            }
            let flag = shown_flag(&view.reference, flag, one.record.restricted);
            if !flags.contains(&flag) {
                flags.push(flag);
            }
        }
        if !visible.is_empty() {
            shown.push(one);
            if one.record.more {
                push_once(&mut words, "There are further plans that are not shown here: ring the authority.");
            }
        }
    }
    if flags.is_empty() {
        return Err(RevealError::NothingToReveal);
    }
    flags.sort_by_key(|flag| flag.end.is_some());
    Ok((Revealed { look_up, copy, flags, ring_now: phone::ring_now(now_ms), words, notifies }, shown))
}

fn shown_flag(reference: &Reference, flag: &Flag, restricted: bool) -> ShownFlag {
    let authority = reference.authority(flag.authority);
    let text = |pick: fn(&Authority) -> &String| authority.map_or_else(|| "Not known".to_owned(), |a| pick(a).clone());
    ShownFlag {
        kind: flag.kind,
        display: if restricted { answer::RESTRICTED.into() } else { flag.kind.display().into() },
        start: flag.start.filter(|_| !restricted).map(Date::iso),
        end: flag.end.filter(|_| !restricted).map(Date::iso),
        authority: text(|a| &a.name),
        office_phone: text(|a| &a.office_phone),
        duty_phone: text(|a| &a.duty_phone),
    }
}
