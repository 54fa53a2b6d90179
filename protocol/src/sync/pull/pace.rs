//! How an attempt ends, and when the next one begins.
//! It must not hold a table of its own: that is the backoff's.

use alloc::vec::Vec;

use super::{Effect, Outcome, Phase, Pull};
use crate::Refusal;
use crate::id::FeedId;
use crate::sync::Now;

/// The interval of a device that no beat has told another.
const POLL_S: u16 = 300;
/// The spread of such a device.
const SPREAD_S: u16 = 5;

impl Pull {
    /// The seconds over which the server wants devices to spread after an outage.
    #[must_use]
    pub fn spread_s(&self) -> u16 {
        self.beat.as_ref().map_or(SPREAD_S, |beat| beat.spread_s)
    }

    pub(super) fn applied(&mut self, result: Result<(), Vec<FeedId>>, now: Now) -> Effect {
        if !matches!(core::mem::replace(&mut self.phase, Phase::Idle), Phase::Applying) {
            return self.fail(Outcome::Refused(Refusal::Malformed), now);
        }
        let Some(target) = self.target.take() else { return self.fail(Outcome::Refused(Refusal::Malformed), now) };
        let overtaken = target.overtaken;
        match result {
            Ok(()) => {
                self.beat = Some(target.beat);
                self.head = Some(target.head);
                self.damaged.clear();
                self.staged.clear();
                // What was pinned is in; what came after it is asked for at once.
                if overtaken { self.ask_beat() } else { self.rest(now) }
            }
            Err(feeds) => {
                // These feeds are fetched whole next time; the old generation keeps answering.
                self.damaged.extend(feeds);
                self.fail(Outcome::Refused(Refusal::WrongStateRoot), now)
            }
        }
    }

    pub(super) fn rest(&mut self, now: Now) -> Effect {
        self.backoff.succeeded(now.tick_ms);
        self.at_hand.clear();
        let poll_s = self.beat.as_ref().map_or(POLL_S, |beat| beat.next_poll_s.max(1));
        let until_ms = self.backoff.poll_at(now, u64::from(poll_s) * 1000);
        Effect::Wait { until_ms, outcome: Outcome::UpToDate }
    }

    pub(super) fn fail(&mut self, outcome: Outcome, now: Now) -> Effect {
        self.phase = Phase::Idle;
        self.doubt_combined(outcome, now);
        let failure = match outcome {
            Outcome::Failed(failure) => Some(failure),
            Outcome::UpToDate | Outcome::Refused(_) | Outcome::StoreFailed | Outcome::KeyMissing => None,
        };
        let wait_ms = self.backoff.failed(failure, self.spread_s(), now.tick_ms);
        Effect::Wait { until_ms: now.tick_ms.saturating_add(wait_ms), outcome }
    }
}
