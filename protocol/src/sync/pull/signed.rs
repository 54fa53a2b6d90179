//! What the device authority and the root keys signed: grants, withdrawals, roots. What comes is stored before it counts.
//! It must not take a number or a time from a key that the root in force does not name.

use alloc::boxed::Box;
use alloc::vec;

use super::{Effect, Phase, Pull};
use crate::Refusal;
use crate::grant::Grant;
use crate::message::Request;
use crate::sync::Now;
use crate::trust::Role;
use crate::withdrawal::{Withdrawal, WithdrawalAction};

impl Pull {
    pub(super) fn grant_fetched(&mut self, body: &[u8], now: Now) -> Result<Effect, Refusal> {
        let last = Some(&*self.grant).filter(|_| !self.grant_withdrawn);
        let grant = Grant::verify(body, &self.device, &self.trust, last)?;
        if self.withdrawn.as_ref().is_some_and(|word| grant.number <= word.number) {
            return Err(Refusal::Rollback); // R182
        }
        grant.check_new(&self.trust, now.time_ms)?;
        self.phase = Phase::GrantStored(Box::new(grant.clone()));
        Ok(Effect::StoreGrant { grant, asked_ms: self.asked_ms })
    }

    pub(super) fn withdrawal_fetched(&mut self, body: &[u8], now: Now) -> Result<Effect, Refusal> {
        // A grant by a withdrawn key is no measure: its number may be as high as a thief likes.
        let granted = if self.grant_withdrawn { 0 } else { self.grant.number };
        let last = granted.max(self.withdrawn.as_ref().map_or(0, |word| word.number));
        let withdrawal = Withdrawal::verify(body, &self.device, &self.trust, last)?;
        self.trust.check_role(Role::DeviceAuthority, now.time_ms)?; // R29
        self.target = None;
        if withdrawal.action == WithdrawalAction::Erase {
            return Ok(Effect::Erase);
        }
        self.withdrawn = Some(withdrawal.clone());
        self.phase = Phase::Suspending;
        Ok(Effect::Suspend(withdrawal))
    }

    pub(super) fn ask_root(&mut self, why: Option<Refusal>) -> Effect {
        self.root_steps += 1; // R27
        self.phase = Phase::Root(why);
        Effect::Fetch(vec![Request::Root(self.trust.root().version.saturating_add(1))])
    }

    /// A root on the way may have expired; only the last must not have (TUF 5.3.10), which the beat is held to.
    pub(super) fn root_fetched(&mut self, body: &[u8]) -> Result<Effect, Refusal> {
        let next = self.trust.rotate(body)?;
        self.phase = Phase::RootStored(next.clone());
        Ok(Effect::StoreRoot(next))
    }
}
