//! The use case: a question about one person, one of the four answers, and the reveal of what was found.
//! It must not let an answer or a detail out before its event is on stable storage (invariant 3).

use cpis_protocol::answer::{self, Answer, CannotAnswer, CopyState, CopyStatement, ShownFlag};
use cpis_protocol::audit::{Act, AuditEvent, Outcome};
use cpis_protocol::clock::Reading;
use cpis_protocol::digest::Hash;
use cpis_protocol::flag::Record;
use cpis_protocol::grant::Badge;
use cpis_protocol::id::PractitionerId;
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::policy::Freshness;
use cpis_protocol::query::{Query, Token};
use cpis_protocol::text::Text;
use serde::Serialize;

mod by_name;
mod reveal;

pub use by_name::{Candidate, NOT_FOUND_BY_NAME, NameQuestion, POSSIBLE_MATCH, look_up_by_name};
pub use reveal::reveal;

use crate::agent::Agent;
use crate::journal::Priority;
use crate::phone;
use crate::replica::{Found, View};
use crate::vault::Revealable;

/// A question, as typed.
#[derive(Clone, Default)]
pub struct Question {
    /// The NHS number; spaces are allowed.
    pub number: String,
    /// The date of birth.
    pub birth: String,
    /// Where the person lives, when known: an authority's name or GSS code.
    pub area: Option<String>,
    /// The incident or case that the crew works on.
    pub incident: Option<String>,
}

impl core::fmt::Debug for Question {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Question([redacted])")
    }
}

/// An answer, and the name under which its details may be revealed.
#[derive(Debug, Clone, Serialize)]
pub struct Reply {
    /// One of the four.
    #[serde(flatten)]
    pub answer: Answer,
    /// The position of the look-up in this device's audit chain; absent when nothing was asked of the copy.
    pub look_up: Option<u64>,
    /// Of a look-up by name: whom it may mean. A candidate is never a match by itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
    /// What a clinician is told, in fixed words.
    pub words: Vec<String>,
}

/// The details.
#[derive(Debug, Clone, Serialize)]
pub struct Revealed {
    /// The look-up that they belong to.
    pub look_up: u64,
    /// From which copy.
    pub copy: CopyStatement,
    /// The plans, active ones first.
    pub flags: Vec<ShownFlag>,
    /// The number to ring now, for each flag: `office` or `duty`.
    pub ring_now: phone::Line,
    /// What a clinician is told, in fixed words.
    pub words: Vec<String>,
    /// Whether the authority is told of this access.
    pub notifies: bool,
}

/// Why details were not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevealError {
    /// Nobody has unlocked the vault, or the copy may not answer any more.
    #[error("{}", .0.explain())]
    CannotAnswer(CannotAnswer),
    /// There is no such look-up, it found nothing, or its time is over.
    #[error("that look-up has nothing to reveal, or its time is over: look up again")]
    NothingToReveal,
    /// A look-up by name shows one candidate at a time, and it was not said which.
    #[error("say which candidate to reveal: a number that the look-up by name showed")]
    NoSuchCandidate,
}

/// Everything that a look-up knows before the copy is asked.
struct Asked {
    badge: Badge,
    number: NhsNumber,
    birth: Date,
    incident: Text<16>,
}

/// Asks about one person. Blocks for the memory-hard step and for the disk: not for an async thread.
pub fn look_up(agent: &Agent, question: &Question) -> Reply {
    agent.attend();
    let reading = agent.clock().reading();
    let Some(badge) = agent.vault().with(reading.boot_ms, |session| session.badge.clone()) else {
        return refused(CannotAnswer::VaultLocked, None);
    };
    let (Ok(number), Ok(birth)) = (question.number.parse::<NhsNumber>(), question.birth.parse::<Date>()) else {
        return refused(CannotAnswer::InvalidNumber, None);
    };
    let incident = Text::lossy(question.incident.as_deref().unwrap_or_default());
    let asked = Asked { badge, number, birth, incident };
    let result = search(agent, &asked, question.area.as_deref());
    let (outcome, reason) = outcome_of(result.as_ref().map(|(answer, _)| answer).map_err(|reason| *reason));
    if result.as_ref().err() == Some(&CannotAnswer::RateLimited) && !agent.refusal_is_news(asked.badge.practitioner) {
        return limited(agent, &asked.badge, refused(CannotAnswer::RateLimited, None));
    }
    let act = Act::LookUp { number, birth, outcome, reason: Text::lossy(reason) };
    // From here on the event is durable, or counted under a break-glass, or there is no answer.
    let Ok(look_up) = record_or_count(agent, &asked.badge, asked.incident, act) else {
        return refused(CannotAnswer::AuditCannotBeWritten, None);
    };
    match result {
        Err(reason) => limited(agent, &asked.badge, refused(reason, Some(look_up))),
        Ok((answer, found)) => {
            if let Answer::Flagged { copy } = &answer
                && !keep_for_reveal(agent, &asked.badge, look_up, vec![found], false, copy.head)
            {
                return refused(CannotAnswer::VaultLocked, Some(look_up));
            }
            limited(
                agent,
                &asked.badge,
                Reply { candidates: Vec::new(), words: words_for(&answer), answer, look_up: Some(look_up) },
            )
        }
    }
}

/// What the audit says of an answer.
fn outcome_of(result: Result<&Answer, CannotAnswer>) -> (Outcome, &'static str) {
    match result {
        Ok(Answer::Flagged { .. }) => (Outcome::Flagged, ""),
        Ok(Answer::NotInThisCopy { .. }) => (Outcome::NotInThisCopy, ""),
        Ok(Answer::OutOfCoverage { .. }) => (Outcome::OutOfCoverage, ""),
        Ok(Answer::CannotAnswer { reason }) => (Outcome::CannotAnswer, reason.code()),
        Err(reason) => (Outcome::CannotAnswer, reason.code()),
    }
}

/// Keeps what was found in the session of who asked, for a while; `false` when that session is over.
fn keep_for_reveal(
    agent: &Agent,
    badge: &Badge,
    look_up: u64,
    candidates: Vec<Vec<Found>>,
    by_name: bool,
    head: Hash,
) -> bool {
    let reveal_ms = u64::from(agent.grant().policy.reveal_s) * 1000;
    let boot_ms = agent.clock().reading().boot_ms;
    let details = Revealable { candidates, by_name, head, until_boot_ms: boot_ms.saturating_add(reveal_ms) };
    let kept = agent.vault().with(boot_ms, |session| {
        let own = session.badge.practitioner == badge.practitioner;
        own.then(|| session.revealable.insert(look_up, details).is_none())
    });
    kept.flatten().is_some()
}

/// Adds what the practitioner's limits have to say to an answer: how long to wait, and that the glass is broken.
fn limited(agent: &Agent, badge: &Badge, mut reply: Reply) -> Reply {
    let Some(allowance) = agent.allowance(badge.practitioner) else { return reply };
    if matches!(reply.answer, Answer::CannotAnswer { reason: CannotAnswer::RateLimited }) {
        reply.words.push(format!("The next look-up is allowed in {} s.", allowance.wait_s.max(1)));
    }
    reply.words.extend(glass_words(allowance.break_glass_look_ups));
    reply
}

fn glass_words(look_ups: Option<u16>) -> Option<String> {
    look_ups.map(|left| {
        format!("The glass is broken: every access is marked and reported. {left} further look-ups are left of it.")
    })
}

fn refused(reason: CannotAnswer, look_up: Option<u64>) -> Reply {
    let answer = Answer::CannotAnswer { reason };
    Reply { candidates: Vec::new(), words: words_for(&answer), answer, look_up }
}

fn search(agent: &Agent, asked: &Asked, area: Option<&str>) -> Result<(Answer, Vec<Found>), CannotAnswer> {
    answer::admit_number(asked.number, agent.trust().root().synthetic)?;
    // A copy that may not answer is not worth the memory-hard step.
    admit(agent, agent.clock().reading())?;
    let parameters = agent.replica().view().head.as_ref().map(|head| head.lookup).ok_or(CannotAnswer::NeverSynced)?;
    agent.quota(asked.badge.practitioner)?;
    let query = Query::nhs_number(asked.number, asked.birth);
    let token = agent.token(&query, &parameters).map_err(|_| CannotAnswer::IntegrityFailure)?;
    let reading = agent.clock().reading();
    let Finding { copy, found, .. } = find(agent, asked.badge.practitioner, &[token], reading)?;
    if !found.is_empty() {
        return Ok((Answer::Flagged { copy }, found.into_iter().map(|(_, one)| one).collect()));
    }
    Ok((miss(agent, copy, area)?, Vec::new()))
}

/// What to answer when nothing was found.
fn miss(agent: &Agent, copy: CopyStatement, area: Option<&str>) -> Result<Answer, CannotAnswer> {
    if let Some(area) = area {
        let view = agent.replica().view();
        let covered = view.reference.find(area).is_some_and(|a| view.feeds.contains_key(&a.code));
        if !covered {
            return Ok(Answer::OutOfCoverage { copy, area: area.chars().take(80).collect() });
        }
    }
    answer::admit_miss(copy.freshness)?;
    Ok(Answer::NotInThisCopy { copy })
}

/// Whether the copy may answer now.
fn admit(agent: &Agent, reading: Reading) -> Result<(i64, Freshness), CannotAnswer> {
    let view = agent.replica().view();
    let grant = agent.grant();
    let state = CopyState {
        as_at_ms: view.beat.as_ref().map(|beat| beat.issued_ms),
        verified: view.is_proved(),
        barred: agent.barred(),
        lease_until_ms: grant.lease_until_ms,
        policy: &grant.policy,
    };
    let (age_s, freshness) = answer::admit(&state, &view.clock, reading)?;
    if view.head.as_ref().is_some_and(|head| head.scope != grant.scope) {
        // The grant moved the device to another scope whose copy has not arrived yet.
        return Err(CannotAnswer::NeverSynced);
    }
    Ok((age_s, freshness))
}

/// What the copy says to several questions, under one look at it: the statement and the records belong together.
struct Finding {
    copy: CopyStatement,
    /// Every record that may be shown now, with the place of its question.
    found: Vec<(usize, Found)>,
    /// Somebody with these details may not be among them, even where nobody is: all places of a question are taken.
    crowded: bool,
}

/// What the copy says now.
fn find(
    agent: &Agent,
    practitioner: PractitionerId,
    tokens: &[Token],
    reading: Reading,
) -> Result<Finding, CannotAnswer> {
    let (age_s, freshness) = admit(agent, reading)?;
    let view = agent.replica().view();
    let copy = statement(&view, age_s, freshness).ok_or(CannotAnswer::NeverSynced)?;
    let now_ms = view.clock.now(reading).ok_or(CannotAnswer::AgeUnknown)?;
    let (found, covered) = agent
        .vault()
        .with(reading.boot_ms, |session| {
            // Somebody else may have unlocked meanwhile: an answer is for who asked.
            let own = session.badge.practitioner == practitioner;
            own.then(|| {
                let mut all = Vec::new();
                for (question, token) in tokens.iter().enumerate() {
                    match view.find(agent.replica().store(), &session.keys, token) {
                        Ok(found) => all.extend(found.into_iter().map(|one| (question, one))),
                        Err(reason) => {
                            if reason == CannotAnswer::IntegrityFailure {
                                agent.scrub_status().wake();
                            }
                            return (Err(reason), false);
                        }
                    }
                }
                (Ok(all), view.covered_by(&session.keys))
            })
        })
        .flatten()
        .ok_or(CannotAnswer::VaultLocked)?;
    let mut found = found?;
    // R225: before anything is left out. A record that may not be shown any more keeps its place until it is removed.
    let crowded = by_name::is_crowded(&found);
    for (_, one) in &mut found {
        keep_visible(&mut one.record, now_ms);
    }
    found.retain(|(_, one)| !one.record.flags.is_empty());
    if found.is_empty() && !covered {
        return Err(CannotAnswer::KeyMissing); // R79
    }
    Ok(Finding { copy, found, crowded })
}

/// Takes out what may not be shown any more. Where only plans that did not fit are left, the record says whom to ring:
/// it must not turn into an absence.
fn keep_visible(record: &mut Record, now_ms: i64) {
    if record.more && !record.flags.iter().any(|flag| flag.is_visible(now_ms)) {
        record.restricted = true;
        record.flags.truncate(1);
        record.flags.iter_mut().for_each(|flag| flag.visible_until_min = None);
        return;
    }
    record.flags.retain(|flag| flag.is_visible(now_ms));
}

/// Which copy this is.
fn statement(view: &View, age_s: i64, freshness: Freshness) -> Option<CopyStatement> {
    let (beat, head) = (view.beat.as_ref()?, view.head.as_ref()?);
    let (as_at_ms, covers) = (beat.issued_ms, view.covers());
    Some(CopyStatement { as_at_ms, age_s, freshness, gseq: head.gseq, head: head.hash(), covers })
}

fn push_once(words: &mut Vec<String>, text: &str) {
    if !words.iter().any(|word| word == text) {
        words.push(text.to_owned());
    }
}

/// Appends an event to the chain and returns its position once it is on stable storage.
pub(crate) fn record(agent: &Agent, badge: &Badge, incident: Text<16>, act: Act) -> Result<u64, ()> {
    let break_glass = agent.glass_is_broken(badge.practitioner);
    let event = AuditEvent { practitioner: badge.practitioner, role: badge.role, incident, break_glass, act };
    let moment = agent.moment(agent.clock().reading());
    // Where the site has a break-glass, it must be reachable when the journal is full: the vault can still be opened.
    let reachable = matches!(event.act, Act::Unlock) && agent.grant().policy.break_glass_look_ups > 0;
    let priority = if reachable { Priority::Emergency } else { Priority::Routine };
    match agent.append(priority, &moment, &event) {
        Ok(seq) => Ok(seq),
        Err(error) => {
            tracing::error!(%error, "an audit event could not be written");
            Err(())
        }
    }
}

/// The same for an answer: what the journal does not take is counted instead, where a break-glass is in force, and told
/// as soon as the journal takes it. Else there is no answer (invariant 3).
pub(crate) fn record_or_count(agent: &Agent, badge: &Badge, incident: Text<16>, act: Act) -> Result<u64, ()> {
    record(agent, badge, incident, act).or_else(|()| agent.count_unrecorded(badge.practitioner).map_err(|_| ()))
}

/// The words that go with an answer.
fn words_for(answer: &Answer) -> Vec<String> {
    let stale = |copy: &CopyStatement| match copy.freshness {
        Freshness::Fresh => None,
        Freshness::Ageing => Some("This copy is ageing: connect and update when you can.".to_owned()),
        Freshness::Stale | Freshness::Locked => {
            Some("This copy is stale: it was current when last copied, and may have changed since.".to_owned())
        }
    };
    match answer {
        Answer::Flagged { copy } => {
            let mut words = vec![
                "There is a record for this person. Make sure that only staff can see the screen, then reveal it."
                    .into(),
            ];
            words.extend(stale(copy));
            words
        }
        Answer::NotInThisCopy { copy } => {
            let mut words = vec![answer::NOT_IN_THIS_COPY.to_owned(), answer::NOT_NO_CONCERNS.to_owned()];
            words.extend(stale(copy));
            words
        }
        Answer::CannotAnswer { reason } => vec![reason.explain().to_owned()],
        Answer::OutOfCoverage { .. } => vec![
            "This device does not cover that area, so it cannot say anything about it.".to_owned(),
            answer::NOT_NO_CONCERNS.to_owned(),
        ],
    }
}
