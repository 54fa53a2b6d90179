//! The way from "is there something new?" to one verified plan that flips all feeds at once.
//! It must not let anything through that is not verified, nor give up the present head before the next is whole.
//!
//! Order (design section 5): grant and next root when due, beat, head, reference data, then manifests, deltas and
//! chunks, then apply.
//! A target head is pinned until it is complete; a broken download goes on at the next object.

mod at_hand;
mod combined;
mod pace;
mod resume;
mod signed;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use self::at_hand::AtHand;
use self::resume::is_final;
use super::Now;
use super::backoff::Backoff;
use super::step::Phase;
pub use super::step::{Effect, Input, Outcome, Pinned, Start};
use super::target::{Arrived, Target, Work};
pub use super::target::{Comparison, Plan, Source, StagedChunk};
use crate::grant::Grant;
use crate::head::{Beat, FeedState, Head, Reference};
use crate::id::{DeviceId, FeedId};
use crate::message::{Failure, Request};
use crate::sign::{Kind, Verified};
use crate::trust::{Role, Trust};
use crate::withdrawal::Withdrawal;
use crate::{Refusal, limits};

/// Requests under way at once: hides round trips without holding much in memory.
const REQUESTS_MAX: usize = 8;

/// The machine.
#[derive(Debug)]
pub struct Pull {
    trust: Trust,
    grant: Verified<Grant>,
    device: DeviceId,
    with_grant: bool,
    /// The newest withdrawal: no grant up to its number counts.
    withdrawn: Option<Verified<Withdrawal>>,
    beat: Option<Verified<Beat>>,
    head: Option<Verified<Head>>,
    damaged: BTreeSet<FeedId>,
    /// The states for which chunks are staged.
    staged: BTreeMap<FeedId, FeedState>,
    /// The grant was signed by a key that the root in force does not name: it is no measure for the next one.
    grant_withdrawn: bool,
    target: Option<Target>,
    phase: Phase,
    backoff: Backoff,
    grant_due_ms: u64,
    root_steps: u32,
    /// Whether a grant was fetched in this attempt.
    grant_is_new: bool,
    /// The tick of the last question for a grant or a beat: signed time is anchored there and not where it is stored, or
    /// a reply that was held back, or a long download, would make the copy look younger.
    asked_ms: u64,
    /// What came with the combined reply and was not asked for yet.
    at_hand: AtHand,
    /// Until then the combined question is not asked: it was refused, or what it brought was.
    separate_until_ms: u64,
    /// Whether this attempt asked the combined question.
    combined: bool,
}

impl Pull {
    /// From the stored state.
    #[must_use]
    pub fn new(start: Start) -> Self {
        let device = start.grant.device;
        let mut pull = Self {
            trust: start.trust,
            grant: start.grant,
            device,
            with_grant: start.with_grant,
            withdrawn: start.withdrawn,
            beat: start.beat,
            head: start.head,
            damaged: start.damaged,
            staged: start.staged,
            grant_withdrawn: false,
            target: None,
            phase: Phase::Idle,
            backoff: Backoff::new(device),
            grant_due_ms: 0,
            root_steps: 0,
            grant_is_new: false,
            asked_ms: 0,
            at_hand: AtHand::default(),
            separate_until_ms: 0,
            combined: false,
        };
        pull.let_go();
        pull.target = start.pinned.and_then(|pinned| pull.restored(pinned));
        pull
    }

    /// What a key signed that the root in force does not name is no measure for what comes after it: a thief may have
    /// signed a time, a register sequence or a number so high that nothing honest would follow.
    fn let_go(&mut self) {
        // R187
        self.beat = self.beat.take().filter(|beat| self.trust.stands(Role::Beat, Kind::Beat, beat));
        self.head = self.head.take().filter(|head| self.trust.stands(Role::Publisher, Kind::Head, head));
        self.grant_withdrawn = !self.trust.stands(Role::DeviceAuthority, Kind::Grant, &self.grant);
        // R221: its number only. Whether the device is suspended is for the next grant to say.
        let stands = |word: &Verified<Withdrawal>| self.trust.stands(Role::DeviceAuthority, Kind::Withdrawal, word);
        self.withdrawn = self.withdrawn.take().filter(stands);
    }

    /// Cells of the target fetched so far, and in all.
    #[must_use]
    pub fn progress(&self) -> Option<(u64, u64)> {
        self.target.as_ref().map(|target| (target.cells_done, target.cells_total))
    }

    /// Whether an attempt is under way.
    #[must_use]
    pub const fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Idle)
    }

    /// A feed turned out damaged while nothing was under way: the next attempt fetches it whole.
    pub fn report_damage(&mut self, feed: FeedId) {
        self.damaged.insert(feed);
    }

    /// One step.
    pub fn step(&mut self, input: Input, now: Now) -> Effect {
        let mut effect = self.react(input, now);
        loop {
            let Effect::Fetch(requests) = &effect else {
                if matches!(effect, Effect::CatchUp(_)) {
                    self.asked_ms = now.tick_ms; // R48
                }
                return effect;
            };
            if let Some(replies) = self.at_hand.answer(requests) {
                effect = self.react(Input::Fetched(replies), now);
                continue;
            }
            if requests.iter().any(|request| matches!(request, Request::Grant | Request::Beat(_))) {
                self.asked_ms = now.tick_ms;
                // What was signed before this question must not be dated by it.
                self.at_hand.forget_signed_times();
            }
            return effect;
        }
    }

    fn react(&mut self, input: Input, now: Now) -> Effect {
        match input {
            Input::Wake => self.begin(now, false),
            Input::WakeNow => self.begin(now, true),
            Input::CaughtUp(reply) => self.caught_up(reply, now),
            Input::Fetched(replies) => self.fetched(replies, now),
            Input::Stored => self.stored(now),
            Input::StoreFailed => {
                // Part of what the target brought is gone with the failed write.
                self.target = None;
                self.at_hand.clear();
                self.fail(Outcome::StoreFailed, now)
            }
            Input::Compared(held) => self.compared(&held, now),
            Input::Applied(result) => self.applied(result, now),
        }
    }

    fn begin(&mut self, now: Now, with_grant: bool) -> Effect {
        self.root_steps = 0;
        self.grant_is_new = false;
        let wants_grant = self.with_grant && (with_grant || now.tick_ms >= self.grant_due_ms);
        self.at_hand.begin(self.target.is_some());
        self.combined = self.with_grant && now.tick_ms >= self.separate_until_ms;
        if self.combined { self.ask_everything(wants_grant) } else { self.ask_separately(wants_grant) }
    }

    fn ask_separately(&mut self, wants_grant: bool) -> Effect {
        if wants_grant { self.ask_grant() } else { self.ask_beat() }
    }

    fn ask_grant(&mut self) -> Effect {
        self.phase = Phase::Grant;
        Effect::Fetch(vec![Request::Grant])
    }

    /// What to do first about a head whose cells the granted keys do not all open; `None` when they do.
    fn keys_first(&mut self, head: &Head, now: Now) -> Option<Effect> {
        if self.grant.covers(head) {
            return None;
        }
        // R49: Keys before cells: a copy that no held key opens could not answer, locked or open.
        Some(if self.with_grant && !self.grant_is_new { self.ask_grant() } else { self.fail(Outcome::KeyMissing, now) })
    }

    fn ask_beat(&mut self) -> Effect {
        self.phase = Phase::Beat;
        Effect::Fetch(vec![Request::Beat(self.grant.scope)])
    }

    fn fetched(&mut self, replies: Vec<Result<Vec<u8>, Failure>>, now: Now) -> Effect {
        if let Phase::Cells = self.phase {
            return self.cells_fetched(replies, now);
        }
        let Some(reply) = replies.into_iter().next() else {
            return self.fail(Outcome::Refused(Refusal::Malformed), now);
        };
        let phase = core::mem::replace(&mut self.phase, Phase::Idle);
        let body = match (reply, &phase) {
            (Ok(body), _) => body,
            // Anybody on the way can say so: only the signed answer to the question for the grant counts (R183). Once in
            // an attempt: whoever passes grants on and refuses the rest would keep the device asking without a pause.
            (Err(Failure::Revoked | Failure::Suspended), phase)
                if self.with_grant && !self.grant_is_new && !matches!(phase, Phase::Grant) =>
            {
                return self.ask_grant();
            }
            // No next root: the object that led here is refused for its own reason.
            (Err(Failure::NotFound), Phase::Root(Some(why))) => return self.fail(Outcome::Refused(*why), now),
            (Err(Failure::NotFound), Phase::Root(None)) => return self.ask_beat(),
            (Err(failure), _) => {
                if matches!((failure, &phase), (Failure::NotFound, Phase::Reference)) {
                    // What is gone will not come back: the next attempt starts from a new beat.
                    self.target = None;
                }
                return self.fail(Outcome::Failed(failure), now);
            }
        };
        let in_root = matches!(phase, Phase::Root(_));
        let result = match phase {
            Phase::Grant if Withdrawal::is_claimed_by(&body) => self.withdrawal_fetched(&body, now),
            Phase::Grant => self.grant_fetched(&body, now),
            Phase::Beat => self.beat_fetched(&body, now),
            Phase::Root(_) => self.root_fetched(&body),
            Phase::Head(beat) => self.head_fetched(&body, beat, now),
            Phase::Reference => self.reference_fetched(body, now),
            Phase::Idle
            | Phase::CatchUp(_)
            | Phase::GrantStored(_)
            | Phase::Suspending
            | Phase::RootStored(_)
            | Phase::Confirming
            | Phase::Pinning
            | Phase::Comparing(_)
            | Phase::Cells
            | Phase::Staging(_)
            | Phase::Applying => Err(Refusal::Malformed),
        };
        match result {
            Ok(effect) => effect,
            // A key that this root does not know may be named by the next one, and an expired root may have a successor.
            Err(why @ (Refusal::UnknownKey | Refusal::Expired))
                if !in_root && self.root_steps < limits::ROOT_STEPS_MAX =>
            {
                self.ask_root(Some(why))
            }
            Err(refusal) => self.fail(Outcome::Refused(refusal), now),
        }
    }

    fn beat_fetched(&mut self, body: &[u8], now: Now) -> Result<Effect, Refusal> {
        self.trust.check_expiry(now.time_ms)?;
        let beat = Beat::verify(body, &self.grant.scope, &self.trust, self.beat.as_deref(), now.time_ms)?;
        let current = self.head.as_ref().filter(|head| head.scope == beat.scope).map(Verified::hash);
        if current == Some(beat.head) && self.damaged.is_empty() {
            let covered = self.head.as_ref().is_some_and(|head| self.grant.covers(head));
            if !covered && self.with_grant && !self.grant_is_new {
                return Ok(self.ask_grant()); // R49
            }
            // R34
            self.phase = Phase::Confirming;
            self.target = None;
            self.beat = Some(beat.clone());
            return Ok(Effect::Confirm { beat, asked_ms: self.asked_ms });
        }
        self.drop_unfit(&beat, now);
        // A pinned target is completed first, even if the register has moved on meanwhile.
        if let Some(target) = self.target.as_mut().filter(|target| target.head.scope == beat.scope) {
            if target.beat.head == beat.head {
                target.beat = beat;
                target.asked_ms = Some(self.asked_ms);
            } else {
                target.overtaken = true;
            }
            return Ok(self.next_work());
        }
        // Damaged: what the head says is known.
        if let Some(held) = self.head.clone().filter(|held| held.hash() == beat.head) {
            return self.follow(beat, held, now);
        }
        let head = beat.head;
        self.phase = Phase::Head(beat);
        Ok(Effect::Fetch(vec![Request::Head(head)]))
    }

    fn head_fetched(&mut self, body: &[u8], beat: Verified<Beat>, now: Now) -> Result<Effect, Refusal> {
        let head = Head::verify(body, &beat.head, &self.grant.scope, &self.trust)?;
        self.follow(beat, head, now) // R39
    }

    fn reference_fetched(&mut self, body: Vec<u8>, now: Now) -> Result<Effect, Refusal> {
        let Some(target) = self.target.as_mut() else {
            return Ok(self.fail(Outcome::Refused(Refusal::Malformed), now));
        };
        if let Err(refusal) = Reference::verify(&body, &target.head.reference) {
            self.target = None;
            return Err(refusal);
        }
        target.reference = Some(body);
        Ok(self.next_work())
    }

    fn next_work(&mut self) -> Effect {
        let Some(target) = self.target.as_mut() else { return self.ask_beat() };
        // Asked for here, so that a pinned target whose reference data was lost on the way asks again.
        let reference = target.head.reference;
        if target.reference.is_none() && self.head.as_ref().is_none_or(|old| old.reference != reference) {
            self.phase = Phase::Reference;
            return Effect::Fetch(vec![Request::Reference(reference)]);
        }
        if let Some(effect) = self.beforehand() {
            return effect;
        }
        let Some(target) = self.target.as_mut() else { return self.ask_beat() };
        // What is at hand is taken in first, wherever it stands: it costs no round trip. Were it asked for together with
        // what is not, all of it would come over the network again.
        let at_hand = &self.at_hand;
        target.begin_work(REQUESTS_MAX, |work| at_hand.holds(&work.request())); // R44
        if target.under_way.is_empty() {
            self.phase = Phase::Applying;
            return Effect::Apply(Box::new(target.plan()));
        }
        self.phase = Phase::Cells;
        Effect::Fetch(target.under_way.iter().map(Work::request).collect())
    }

    fn cells_fetched(&mut self, replies: Vec<Result<Vec<u8>, Failure>>, now: Now) -> Effect {
        self.phase = Phase::Idle;
        let Some(target) = self.target.as_mut() else { return self.fail(Outcome::Refused(Refusal::Malformed), now) };
        let Arrived { chunks, trouble, unreachable } = target.take_in_all(replies);
        self.damaged.extend(unreachable);
        match trouble {
            Some(Outcome::Failed(Failure::Revoked | Failure::Suspended)) if self.with_grant && !self.grant_is_new => {
                self.ask_grant()
            }
            // What arrived whole is kept before the failure is dealt with: nothing is fetched twice.
            _ if !chunks.is_empty() => {
                self.staged.extend(chunks.iter().map(|chunk| (chunk.state.feed, chunk.state.clone())));
                self.phase = Phase::Staging(trouble.filter(is_final)); // R95
                Effect::Stage(chunks)
            }
            Some(outcome) => self.end_with(outcome, now),
            None => self.next_work(),
        }
    }

    fn stored(&mut self, now: Now) -> Effect {
        match core::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::GrantStored(grant) => {
                // In force only now: no copy must hang on keys that the disk does not hold.
                self.grant = *grant;
                self.grant_withdrawn = false;
                self.grant_is_new = true;
                self.grant_due_ms = now.tick_ms.saturating_add(u64::from(self.grant.policy.grant_refresh_s) * 1000);
                // As often as the grant: else a root that only withdraws a key would never be asked for (TUF 5.3.3).
                if self.root_steps < limits::ROOT_STEPS_MAX { self.ask_root(None) } else { self.ask_beat() }
            }
            Phase::RootStored(next) => {
                // In force only now: a root that the disk does not hold must not be what stored objects hang on.
                self.trust = next; // R28
                self.let_go();
                // A pinned target was verified under the old root, perhaps by a key that the new one withdraws.
                self.target = None;
                if !self.with_grant {
                    return self.ask_beat();
                }
                // The grant too may be signed by a key that only the new root knows.
                self.ask_grant()
            }
            Phase::Suspending => self.fail(Outcome::Failed(Failure::Suspended), now),
            Phase::Confirming => self.rest(now),
            Phase::Pinning | Phase::Staging(None) => self.next_work(),
            Phase::Staging(Some(outcome)) => self.end_with(outcome, now),
            Phase::Idle
            | Phase::CatchUp(_)
            | Phase::Grant
            | Phase::Beat
            | Phase::Root(_)
            | Phase::Head(_)
            | Phase::Reference
            | Phase::Comparing(_)
            | Phase::Cells
            | Phase::Applying => self.fail(Outcome::Refused(Refusal::Malformed), now),
        }
    }
}
