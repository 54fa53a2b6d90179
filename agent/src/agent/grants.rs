//! Taking in grants: the newest is kept, and the one before it for as long as the copy needs a key that only it holds.
//! It must not open a key: which keys a grant holds is listed in it in the clear.

use std::sync::{Arc, PoisonError};

use cpis_protocol::audit::LockCause;
use cpis_protocol::clock::{Carrier, Reading};
use cpis_protocol::grant::Grant;
use cpis_protocol::id::FeedId;
use cpis_protocol::sign::Verified;
use cpis_protocol::sync::pull::Plan;

use super::{Agent, HeldGrant};
use crate::keyslot::KeyslotError;
use crate::port::StoreError;

impl Agent {
    /// The newest grant as it was signed; `None` once erased.
    pub(super) fn signed_grant(&self) -> Option<Arc<Verified<Grant>>> {
        self.grant.read().unwrap_or_else(PoisonError::into_inner).signed.clone()
    }

    /// The grant before the newest, while the copy needs it.
    pub(super) fn previous_grant(&self) -> Option<Arc<Verified<Grant>>> {
        self.previous.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stores a newer grant, which was asked for at that reading; an open session gets its keys.
    ///
    /// # Errors
    /// [`KeyslotError`]; the old grant stays in force.
    pub fn store_grant(&self, grant: Verified<Grant>, asked: Reading) -> Result<(), KeyslotError> {
        let grant = Arc::new(grant);
        let previous = self.still_needed(&grant);
        let closed = self.keys.keyslot().destroy(|contents| {
            if contents.erasure.is_some() {
                // Erased meanwhile: no key may come back.
                return Err(KeyslotError::Erased);
            }
            contents.grant = grant.bytes().to_vec();
            contents.grant_root = Vec::new();
            contents.previous_grant = previous.as_ref().map_or_else(Vec::new, |previous| previous.bytes().to_vec());
            // A grant with a higher number proves that the device is no longer suspended.
            contents.suspended = false;
            // R162
            let badged = |who| grant.badges.iter().any(|badge| badge.practitioner == who);
            Ok(contents.retain_slots(badged))
        })?;
        if closed > 0 {
            tracing::info!(closed, "slots of people without a badge were destroyed");
        }
        self.replica.set_clock_rule(grant.policy.clock_after_restart);
        self.replica.observe(grant.issued_ms, Carrier::Live, asked);
        // First the grants, then the session: an unlock in between takes the new ones.
        let before = {
            let next = HeldGrant { plain: Arc::new((**grant).clone()), signed: Some(Arc::clone(&grant)) };
            let mut current = self.grant.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, next).plain
        };
        *self.previous.write().unwrap_or_else(PoisonError::into_inner) = previous;
        self.renew_session(before.policy == grant.policy);
        Ok(())
    }

    /// Flips to the next copy, then lets go of the keys that only the copy before it needed.
    ///
    /// # Errors
    /// As the replica's.
    pub fn apply(&self, plan: Plan, carrier: Carrier, reading: Reading) -> Result<Result<(), Vec<FeedId>>, StoreError> {
        let applied = self.replica.apply(plan, carrier, reading)?;
        if applied.is_ok() {
            self.settle_grants();
        }
        Ok(applied)
    }

    /// Destroys the previous grant once the copy does without it; when the disk refuses, the next flip tries again.
    fn settle_grants(&self) {
        let Some(grant) = self.signed_grant() else { return };
        if self.previous_grant().is_none() || self.still_needed(&grant).is_some() {
            return;
        }
        let destroyed = self.keys.keyslot().destroy(|contents| {
            contents.previous_grant = Vec::new();
            Ok(())
        });
        if let Err(error) = destroyed {
            tracing::error!(%error, "the keys of the copy before could not be destroyed");
            return;
        }
        *self.previous.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.renew_session(true);
    }

    /// Which of the grants held now must stay beside `newest`, so that the present copy can still be read.
    fn still_needed(&self, newest: &Verified<Grant>) -> Option<Arc<Verified<Grant>>> {
        let view = self.replica.view();
        let head = view.head.as_ref()?;
        if newest.scope != head.scope || newest.covers(head) {
            return None;
        }
        let held = [self.signed_grant(), self.previous_grant()];
        held.into_iter().flatten().find(|grant| grant.scope == head.scope && grant.covers(head))
    }

    /// Gives an open session the keys held now; one whose badge is gone, or whose policy is another, ends.
    fn renew_session(&self, same_policy: bool) {
        let (grant, previous) = (self.grant(), self.previous_grant());
        let previous = previous.as_deref().map(|previous| &**previous);
        let renewed = self.vault.renew(&grant, previous, self.now().time_ms);
        // Whoever works under another policy must have been told of it: they unlock anew.
        let ended = if same_policy { renewed } else { renewed.or_else(|| self.vault.close()) };
        if let Some(badge) = ended {
            self.record_lock(&badge, LockCause::Withdrawn);
        }
    }
}
