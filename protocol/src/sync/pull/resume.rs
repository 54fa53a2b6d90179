//! Nothing is fetched twice: a target that outlives a restart, and what the device holds of it already.
//! It must not believe what comes from the disk more than what comes from the wire: both are verified the same way.

use alloc::boxed::Box;
use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::super::Now;
use super::super::step::Phase;
use super::super::target::Target;
use super::{Effect, Outcome, Pinned, Pull};
use crate::Refusal;
use crate::head::{Beat, FeedState, Head, Reference};
use crate::id::FeedId;
use crate::message::Failure;
use crate::sign::{Kind, Verified};
use crate::trust::Role;

/// What is gone or wrong will not get better: the next attempt starts from a new beat.
pub(super) const fn is_final(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Failed(Failure::NotFound) | Outcome::Refused(_))
}

impl Pull {
    /// The way to a verified head from what the device holds.
    pub(super) fn lay_out(
        &self,
        beat: Verified<Beat>,
        head: Verified<Head>,
        asked_ms: Option<u64>,
    ) -> Result<Target, Refusal> {
        let held = |feed: &FeedId| self.head.as_ref().and_then(|head| head.feed(feed));
        // A damaged feed counts as not held: no delta follows on it, and what is good of it is found by comparison.
        let have = |feed: &FeedId| held(feed).filter(|_| !self.damaged.contains(feed));
        let near = |want: &FeedState| {
            let here = held(&want.feed).into_iter().chain(self.staged.get(&want.feed));
            here.filter(|state| state.epoch == want.epoch).any(|state| state.state_root != want.state_root)
        };
        Target::new(beat, head, asked_ms, have, near)
    }

    /// Pins a verified head that a beat names, and begins with what it needs.
    pub(super) fn follow(&mut self, beat: Verified<Beat>, head: Verified<Head>, now: Now) -> Result<Effect, Refusal> {
        self.trust.check_role(Role::Publisher, now.time_ms)?;
        let same_scope = self.head.as_ref().filter(|old| old.scope == head.scope);
        if head.gseq != beat.gseq || same_scope.is_some_and(|old| head.gseq < old.gseq) {
            // R39
            return Err(Refusal::Rollback);
        }
        if let Some(effect) = self.keys_first(&head, now) {
            return Ok(effect);
        }
        self.target = Some(self.lay_out(beat, head, Some(self.asked_ms))?);
        Ok(self.next_work())
    }

    /// A target that was on its way in when the agent stopped, if it still may come in. Its beat is of another time: it
    /// dates nothing until the server names the same head again.
    pub(super) fn restored(&self, pinned: Pinned) -> Option<Target> {
        let Pinned { beat, head, reference } = pinned;
        let stands =
            self.trust.stands(Role::Beat, Kind::Beat, &beat) && self.trust.stands(Role::Publisher, Kind::Head, &head); // R254
        let of_scope = head.scope == self.grant.scope && beat.scope == head.scope && beat.head == head.hash();
        let same_scope = self.head.as_ref().filter(|held| held.scope == head.scope);
        let later = self.beat.as_ref().filter(|last| last.scope == beat.scope);
        let ahead = same_scope.is_none_or(|held| head.gseq >= held.gseq)
            && later.is_none_or(|last| beat.issued_ms >= last.issued_ms && beat.gseq >= last.gseq);
        if !stands || !of_scope || !ahead || !self.grant.covers(&head) {
            return None;
        }
        let mut target = self.lay_out(beat, head, None).ok()?; // R255
        if target.staged.is_empty() {
            // Only deltas: what there is of them was in memory.
            return None;
        }
        target.pinned = true;
        target.reference = reference.filter(|bytes| Reference::verify(bytes, &target.head.reference).is_ok());
        Some(target)
    }

    /// What comes before the next request for cells: that the target is remembered, and what is here of it already.
    pub(super) fn beforehand(&mut self) -> Option<Effect> {
        let target = self.target.as_mut()?;
        if !target.pinned && !target.staged.is_empty() {
            target.pinned = true;
            self.phase = Phase::Pinning;
            let (beat, head) = (target.beat.clone(), target.head.clone());
            return Some(Effect::Pin(Box::new(Pinned { beat, head, reference: target.reference.clone() })));
        }
        let comparisons = target.comparisons();
        if comparisons.is_empty() {
            return None;
        }
        self.phase = Phase::Comparing(comparisons.iter().map(|comparison| comparison.state.feed).collect());
        Some(Effect::Compare(comparisons))
    }

    pub(super) fn compared(&mut self, held: &[(FeedId, Vec<u32>)], now: Now) -> Effect {
        let phase = core::mem::replace(&mut self.phase, Phase::Idle);
        let (Phase::Comparing(feeds), Some(target)) = (phase, self.target.as_mut()) else {
            return self.fail(Outcome::Refused(Refusal::Malformed), now);
        };
        for feed in feeds {
            // Of what is not named, nothing is held.
            let of_feed = held.iter().filter(|(held, _)| *held == feed);
            let chunks: BTreeSet<u32> = of_feed.flat_map(|(_, chunks)| chunks).copied().collect();
            if let Some(state) = target.head.feed(&feed).filter(|_| !chunks.is_empty()) {
                self.staged.insert(feed, state.clone());
            }
            target.compared(feed, &chunks);
        }
        self.next_work()
    }

    /// Lets go of a target whose keys are gone from a newer grant, which would be a copy that nobody can read, and of one
    /// whose beat is over (R33) and whose head is not the newest.
    pub(super) fn drop_unfit(&mut self, newest: &Beat, now: Now) {
        let grant = &self.grant;
        self.target = self.target.take().filter(|target| {
            let until_ms = target.beat.issued_ms.saturating_add(i64::from(target.beat.valid_s) * 1000);
            let timely = target.beat.head == newest.head || now.time_ms.is_none_or(|now_ms| now_ms < until_ms);
            grant.covers(&target.head) && timely
        });
    }

    /// Ends an attempt; a target of which something is gone or wrong is given up. What is staged of it stays.
    pub(super) fn end_with(&mut self, outcome: Outcome, now: Now) -> Effect {
        if is_final(&outcome) {
            self.target = None;
        }
        self.fail(outcome, now)
    }
}
