//! The combined question: asked first where the carrier is the server, given up for the separate ones where it fails.
//! It must not accept anything: what it brings is only at hand when the machine asks for it.

use super::{Effect, Outcome, Phase, Pull};
use crate::catch_up::{CatchUp, CaughtUp};
use crate::message::{Failure, Request};
use crate::sync::Now;

/// How long the separate questions are asked after the combined one was no use.
const SEPARATE_MS: u64 = 3_600_000;

impl Pull {
    pub(super) fn ask_everything(&mut self, wants_grant: bool) -> Effect {
        self.phase = Phase::CatchUp(wants_grant);
        Effect::CatchUp(CatchUp {
            root_version: self.trust.root().version,
            head: self.head.as_ref().map(|head| head.hash()),
            grant: wants_grant,
            // Nothing is fetched twice: a pinned target is completed first, and what is damaged or half fetched is compared
            // with what is here, which the server cannot know.
            cells: self.target.is_none() && self.damaged.is_empty() && self.staged.is_empty(),
            report: Default::default(),
            audit: Default::default(),
        })
    }

    pub(super) fn caught_up(&mut self, reply: Result<CaughtUp, Failure>, now: Now) -> Effect {
        let Phase::CatchUp(wants_grant) = core::mem::replace(&mut self.phase, Phase::Idle) else {
            return self.fail(Outcome::Refused(crate::Refusal::Malformed), now);
        };
        match reply {
            Ok(reply) => {
                self.at_hand.fill(reply);
                // Roots first: what else came may be signed by a key that only they name.
                let next = self.trust.root().version.saturating_add(1);
                if self.at_hand.holds(&Request::Root(next)) {
                    return self.ask_root(None);
                }
                self.ask_separately(wants_grant || self.at_hand.has_grant())
            }
            Err(Failure::Revoked | Failure::Suspended) => self.ask_grant(),
            Err(
                Failure::NotFound
                | Failure::TooLarge
                | Failure::EndlessReply
                | Failure::Unauthorised
                | Failure::Refused,
            ) => {
                // R235: An older server, or somebody on the way who lets no such question through.
                self.separate_until_ms = now.tick_ms.saturating_add(SEPARATE_MS);
                self.combined = false;
                self.ask_separately(wants_grant)
            }
            Err(failure @ (Failure::Offline | Failure::NotTheServer | Failure::Retry(_))) => {
                self.fail(Outcome::Failed(failure), now)
            }
        }
    }

    /// After something that a combined reply brought was refused, the next attempt asks for each object by its name: one
    /// wrong answerer must not keep the copy from getting on.
    pub(super) fn doubt_combined(&mut self, outcome: Outcome, now: Now) {
        if self.combined && matches!(outcome, Outcome::Refused(_)) {
            self.separate_until_ms = now.tick_ms.saturating_add(SEPARATE_MS);
            self.at_hand.clear();
        }
    }
}
