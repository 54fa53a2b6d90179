//! The look-up by name: several questions for what was typed, and candidates to confirm, each recorded before it is shown.
//! It must not call a candidate a match, nor show more of one than the two confirmers.

use cpis_protocol::answer::{Answer, CannotAnswer, CopyStatement};
use cpis_protocol::audit::{Act, Outcome};
use cpis_protocol::cell::SHARED_TOKEN_MAX;
use cpis_protocol::grant::Badge;
use cpis_protocol::name;
use cpis_protocol::nhs::Date;
use cpis_protocol::postcode::Postcode;
use cpis_protocol::query::Token;
use cpis_protocol::question::{self, Asked, Way};
use cpis_protocol::text::Text;
use serde::Serialize;

use super::{
    Finding, Reply, admit, find, keep_for_reveal, limited, miss, push_once, record_or_count, refused, words_for,
};
use crate::agent::Agent;
use crate::replica::Found;

/// Candidates that are shown at most; more are no help to anybody.
const CANDIDATES_MAX: usize = 32;

/// What goes with every candidate: it cannot be configured away.
pub const POSSIBLE_MATCH: &str = "Possible match, not a match by itself: confirm the initials and the last three digits \
    of the NHS number with the patient, family or notes before you reveal.";
/// What goes with a miss by name.
pub const NOT_FOUND_BY_NAME: &str = "Not found with these details. A surname that is spelt otherwise is found only with \
    the full postcode. If you can get the NHS number, look up by it.";
const THERE_MAY_BE_MORE: &str = "More people share these details than can be shown: look up by NHS number.";

/// A question by name, as typed.
#[derive(Clone, Default)]
pub struct NameQuestion {
    /// The surname; the whole name of somebody with a single one.
    pub surname: String,
    /// Given names; may be empty.
    pub given: String,
    /// The date of birth.
    pub birth: String,
    /// The full postcode, when known.
    pub postcode: Option<String>,
    /// Where the person lives, when known: an authority's name or GSS code.
    pub area: Option<String>,
    /// The incident or case that the crew works on.
    pub incident: Option<String>,
}

impl core::fmt::Debug for NameQuestion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("NameQuestion([redacted])")
    }
}

/// Somebody whom the question may mean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its number, from 1, for the reveal.
    pub candidate: usize,
    /// First letters of the given names, as far as the record has them.
    pub initials: String,
    /// The last three digits of the NHS number.
    pub last_three: String,
    /// In which way the details of the record differ from what was typed.
    pub found: Way,
}

struct Search {
    answer: Answer,
    candidates: Vec<(Way, Vec<Found>)>,
    may_be_more: bool,
}

/// Asks by name. Blocks for several memory-hard steps and for the disk: not for an async thread.
pub fn look_up_by_name(agent: &Agent, question: &NameQuestion) -> Reply {
    agent.attend();
    let reading = agent.clock().reading();
    let Some(badge) = agent.vault().with(reading.boot_ms, |session| session.badge.clone()) else {
        return refused(CannotAnswer::VaultLocked, None);
    };
    let given_code = question.postcode.as_deref().filter(|code| !code.trim().is_empty());
    let (Ok(birth), Ok(postcode)) =
        (question.birth.parse::<Date>(), given_code.map(str::parse::<Postcode>).transpose())
    else {
        return refused(CannotAnswer::InvalidName, None);
    };
    let asked = Asked { surname: &question.surname, given: &question.given, birth, postcode: postcode.as_ref() };
    let (Ok(questions), Ok(surname), Ok(given)) =
        (question::questions(&asked), name::plain(&question.surname), name::plain(&question.given))
    else {
        return refused(CannotAnswer::InvalidName, None);
    };
    let result = search(agent, &badge, &questions, question.area.as_deref());
    if result.as_ref().err() == Some(&CannotAnswer::RateLimited) && !agent.refusal_is_news(badge.practitioner) {
        return limited(agent, &badge, refused(CannotAnswer::RateLimited, None));
    }
    // Nearly everybody is filed with a given name: without one a miss says nothing, and must not look as if it did.
    let result = result.and_then(|search| match search.answer {
        Answer::NotInThisCopy { .. } if given.is_empty() => Err(CannotAnswer::InvalidName),
        _ => Ok(search),
    });
    let (outcome, reason) = super::outcome_of(result.as_ref().map(|search| &search.answer).map_err(|reason| *reason));
    let shown = result.as_ref().map_or(0, |search| search.candidates.len());
    let act = Act::LookUpByName {
        surname: Text::lossy(&surname),
        given: Text::lossy(&given),
        birth,
        postcode: postcode.as_ref().map_or(Text::EMPTY, |code| Text::lossy(code.compact())),
        candidates: u8::try_from(shown).unwrap_or(u8::MAX),
        outcome,
        reason: Text::lossy(reason),
    };
    let incident = Text::lossy(question.incident.as_deref().unwrap_or_default());
    // From here on every event is durable, or counted under a break-glass, or there is no answer.
    let Ok(look_up) = record_or_count(agent, &badge, incident, act) else {
        return refused(CannotAnswer::AuditCannotBeWritten, None);
    };
    let search = match result {
        Ok(search) => search,
        Err(reason) => return limited(agent, &badge, refused(reason, Some(look_up))),
    };
    for one in search.candidates.iter().flat_map(|(_, found)| found) {
        let act = Act::Candidate { look_up, feed: one.feed, blind: one.blind, version: one.version };
        if record_or_count(agent, &badge, incident, act).is_err() {
            return refused(CannotAnswer::AuditCannotBeWritten, Some(look_up));
        }
    }
    let reply = reply_of(&search, outcome, look_up);
    if let Answer::Flagged { copy } = &search.answer {
        let groups = search.candidates.into_iter().map(|(_, found)| found).collect();
        if !keep_for_reveal(agent, &badge, look_up, groups, true, copy.head) {
            return refused(CannotAnswer::VaultLocked, Some(look_up));
        }
    }
    limited(agent, &badge, reply)
}

fn reply_of(search: &Search, outcome: Outcome, look_up: u64) -> Reply {
    let mut words = words_for(&search.answer);
    if outcome == Outcome::Flagged {
        // The first words speak of one person: here it may be another.
        words.first_mut().into_iter().for_each(|word| POSSIBLE_MATCH.clone_into(word));
    } else if outcome == Outcome::NotInThisCopy {
        words.push(NOT_FOUND_BY_NAME.to_owned());
    }
    if search.may_be_more {
        push_once(&mut words, THERE_MAY_BE_MORE);
    }
    let candidates = search.candidates.iter().zip(1..).filter_map(|((way, found), candidate)| {
        let record = &found.first()?.record;
        let initials = record.initials.iter().filter(|b| **b != 0).map(|b| char::from(*b)).collect();
        Some(Candidate { candidate, initials, last_three: format!("{:03}", record.last_three), found: *way })
    });
    Reply { candidates: candidates.collect(), words, answer: search.answer.clone(), look_up: Some(look_up) }
}

fn search(
    agent: &Agent,
    badge: &Badge,
    questions: &[(Way, cpis_protocol::query::Query)],
    area: Option<&str>,
) -> Result<Search, CannotAnswer> {
    // A copy that may not answer is not worth the memory-hard steps.
    admit(agent, agent.clock().reading())?;
    let parameters = agent.replica().view().head.as_ref().map(|head| head.lookup).ok_or(CannotAnswer::NeverSynced)?;
    agent.quota(badge.practitioner)?;
    // All of them, whatever the first would find: hit and miss do the same work.
    let mut tokens: Vec<Token> = Vec::with_capacity(questions.len());
    for (_, query) in questions {
        tokens.push(agent.token(query, &parameters).map_err(|_| CannotAnswer::IntegrityFailure)?);
    }
    let Finding { copy, found, crowded } = find(agent, badge.practitioner, &tokens, agent.clock().reading())?;
    if found.is_empty() && crowded {
        return Err(CannotAnswer::Crowded); // R225
    }
    let ways = questions.iter().map(|(way, _)| *way).collect::<Vec<_>>();
    let candidates = grouped(found, &ways);
    if candidates.len() > CANDIDATES_MAX {
        return Err(CannotAnswer::InvalidName);
    }
    let answer = answer_of(agent, copy, candidates.is_empty(), area)?;
    Ok(Search { answer, candidates, may_be_more: crowded })
}

fn answer_of(agent: &Agent, copy: CopyStatement, none: bool, area: Option<&str>) -> Result<Answer, CannotAnswer> {
    if none { miss(agent, copy, area) } else { Ok(Answer::Flagged { copy }) }
}

/// Whether every place of one question in one feed is taken: then somebody may wait for one. To be asked of everything
/// that was found, shown or not.
pub(super) fn is_crowded(found: &[(usize, Found)]) -> bool {
    found.iter().any(|(question, one)| {
        let same = found.iter().filter(|(other, two)| other == question && two.feed == one.feed).count();
        same >= usize::from(SHARED_TOKEN_MAX)
    })
}

/// One candidate for each record, by the likeliest way. Feeds that carry the very same record (confirmers, plans, dates)
/// carry one person's; anything less is kept apart, for the person who confirms.
fn grouped(found: Vec<(usize, Found)>, ways: &[Way]) -> Vec<(Way, Vec<Found>)> {
    let mut groups: Vec<(usize, Vec<Found>)> = Vec::new();
    for (question, one) in found {
        let is_same = |other: &Found| other.feed == one.feed && other.blind == one.blind;
        if let Some((way, _)) = groups.iter_mut().find(|(_, group)| group.iter().any(is_same)) {
            *way = question.min(*way);
            continue;
        }
        let shares = |group: &[Found]| group.iter().all(|other| other.record == one.record && other.feed != one.feed);
        match groups.iter_mut().find(|(_, group)| shares(group)) {
            Some((way, group)) => {
                *way = question.min(*way);
                group.push(one);
            }
            None => groups.push((question, vec![one])),
        }
    }
    groups.sort_by_key(|(question, group)| {
        (*question, group.first().map(|one| (one.record.initials, one.record.last_three)))
    });
    let way = |question: usize| ways.get(question).copied().unwrap_or(Way::AsTyped);
    groups.into_iter().map(|(question, group)| (way(question), group)).collect()
}
