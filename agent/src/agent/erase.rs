//! Erasure: when the lease is over, or a signed withdrawal says so, every key goes and the receipt stays.
//! It must not destroy on unknown time or an unsigned word, nor touch the journal: unsent audit still goes up.
//!
//! One write of the keyslot file destroys slots, grant and local keys and notes what the receipt must say, so a crash
//! leaves everything or the note; the receipt follows, and is written at the next start where a crash came between.
//! A crash between receipt and mark writes it twice, which says the same twice.

use cpis_protocol::answer::CannotAnswer;
use cpis_protocol::audit::{Act, AuditEvent, ErasureCause, LockCause, Moment};
use cpis_protocol::grant::Grant;
use cpis_protocol::id::PractitionerId;
use cpis_protocol::policy::Policy;
use cpis_protocol::sign::Verified;
use cpis_protocol::text::Text;
use cpis_protocol::withdrawal::Withdrawal;

use super::Agent;
use crate::journal::{JournalError, Priority};
use crate::keyslot::{Erasure, KeyslotError};
use crate::lookup;

/// Erasure, or its receipt, is not complete; it goes on at the next start or tick.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// The keyslot file could not be written.
    #[error(transparent)]
    Keyslot(#[from] KeyslotError),
    /// The receipt could not be written.
    #[error("the erasure receipt could not be written: {0}")]
    Journal(#[from] JournalError),
}

/// What stands in for the grant of an erased device: it admits nobody and nothing.
pub(super) fn remains(erasure: &Erasure, device: cpis_protocol::id::DeviceId) -> Grant {
    Grant {
        number: 0,
        device,
        site: erasure.site,
        scope: erasure.scope,
        issued_ms: erasure.event_ms,
        lease_until_ms: erasure.lease_until_ms,
        policy: Policy::default(),
        badges: Vec::new(),
        feeds: Vec::new(),
        sealed_keys: Vec::new(),
    }
}

impl Agent {
    /// Why the device may answer nothing at all, if so.
    pub fn barred(&self) -> Option<CannotAnswer> {
        let keyslot = self.keys.keyslot();
        let contents = keyslot.contents();
        match &contents.erasure {
            Some(erasure) if erasure.cause == ErasureCause::LeaseExpired => Some(CannotAnswer::LeaseExpired),
            Some(_) => Some(CannotAnswer::Revoked),
            None => contents.suspended.then_some(CannotAnswer::Suspended),
        }
    }

    /// What was erased and why, once it was.
    pub fn erasure(&self) -> Option<Erasure> {
        self.keys.keyslot().contents().erasure.clone()
    }

    /// A verified withdrawal: locks, answers nothing, keeps everything until the next grant.
    ///
    /// # Errors
    /// [`KeyslotError`].
    pub fn suspend(&self, word: &Verified<Withdrawal>) -> Result<(), KeyslotError> {
        self.keys.keyslot().update(|contents| {
            contents.suspended = true;
            contents.withdrawal = word.bytes().to_vec();
            Ok(())
        })?;
        self.lock_withdrawn();
        Ok(())
    }

    fn lock_withdrawn(&self) {
        if let Some(badge) = self.vault.close() {
            let _ = lookup::record(self, &badge, Text::EMPTY, Act::Lock { cause: LockCause::Withdrawn });
        }
    }

    /// Erases when the lease is over by trusted time. On unknown time nothing is destroyed.
    ///
    /// # Errors
    /// [`EraseError`].
    pub fn erase_if_expired(&self) -> Result<(), EraseError> {
        if self.erasure().is_some_and(|erasure| erasure.receipted) {
            return Ok(());
        }
        if self.lease_is_surely_over() { self.erase(ErasureCause::LeaseExpired) } else { self.finish_erasure() }
    }

    fn lease_is_surely_over(&self) -> bool {
        let (clock, reading, end_ms) = (self.replica.clock(), self.clock.reading(), self.grant().lease_until_ms);
        let mut watch = self.lease_watch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        watch.is_surely_over(&clock, reading, end_ms)
    }

    /// Destroys slots, grant and local keys in both copies of the keyslot file, then writes the receipt.
    ///
    /// # Errors
    /// [`EraseError`]; what was destroyed stays destroyed, and the rest is done at the next call.
    pub fn erase(&self, cause: ErasureCause) -> Result<(), EraseError> {
        self.lock_withdrawn();
        let (grant, signed) = (self.grant(), self.signed_grant());
        let (gseq, head, anchor_ms, records) = {
            let view = self.replica.view();
            let head = view.head.as_ref();
            let records = view.feeds.values().map(|copy| copy.state().count).fold(0, u32::saturating_add);
            let anchor_ms = view.beat.as_ref().map_or(0, |beat| beat.issued_ms);
            (head.map_or(0, |h| h.gseq), head.map_or([0; 32], Verified::hash), anchor_ms, records)
        };
        let reading = self.clock.reading();
        let event_ms = self.replica.clock().now(reading).unwrap_or(reading.wall_ms);
        let (site, scope, lease_until_ms) = (grant.site, grant.scope, grant.lease_until_ms);
        let note =
            Erasure { cause, records, event_ms, anchor_ms, gseq, head, site, scope, lease_until_ms, receipted: false };
        let erased = self.keys.keyslot().erase(&note, |contents| {
            // A grant may have come meanwhile: its lease is not the one that ran out.
            let renewed = signed.as_ref().is_some_and(|signed| contents.grant != signed.bytes());
            cause != ErasureCause::LeaseExpired || !renewed
        })?;
        if !erased {
            return Ok(());
        }
        tracing::warn!(?cause, "every key of this device was destroyed");
        self.finish_erasure()
    }

    /// Clears the replica's rows and writes the receipt, where that is still to be done.
    ///
    /// # Errors
    /// [`EraseError`].
    pub(super) fn finish_erasure(&self) -> Result<(), EraseError> {
        let Some(erasure) = self.erasure() else { return Ok(()) };
        self.vault.close();
        self.set_grant(remains(&erasure, self.device), None);
        *self.previous.write().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        if let Err(error) = self.replica.clear() {
            // Its keys are gone: this only gives space back.
            tracing::warn!(%error, "the rows of the erased copy could not be cleared away yet");
        }
        if erasure.receipted {
            return Ok(());
        }
        let Erasure { event_ms, anchor_ms, gseq, head, cause, records, .. } = erasure;
        self.append_erased(&Moment { event_ms, anchor_ms, gseq, head }, cause, records)?;
        self.keys.keyslot().update(|contents| {
            if let Some(erasure) = contents.erasure.as_mut() {
                erasure.receipted = true;
            }
            Ok(())
        })?;
        Ok(())
    }

    fn append_erased(&self, moment: &Moment, cause: ErasureCause, records: u32) -> Result<(), JournalError> {
        // Nobody is in a session: the device itself says so.
        let event = AuditEvent {
            practitioner: PractitionerId::EMPTY,
            role: Text::EMPTY,
            incident: Text::EMPTY,
            break_glass: false,
            act: Act::Erased { cause, records },
        };
        self.append(Priority::Emergency, moment, &event).map(drop)
    }

    /// The receipt for records that the last apply took out, written once their old keys are destroyed.
    pub fn receipt_for_update(&self) {
        let Some(records) = self.replica.take_removed() else { return };
        let moment = {
            let view = self.replica.view();
            let Some(head) = view.head.as_ref() else { return };
            let anchor_ms = view.beat.as_ref().map_or(0, |beat| beat.issued_ms);
            let reading = self.clock.reading();
            let event_ms = view.clock.now(reading).unwrap_or(reading.wall_ms);
            Moment { event_ms, anchor_ms, gseq: head.gseq, head: head.hash() }
        };
        if let Err(error) = self.append_erased(&moment, ErasureCause::Update, records) {
            tracing::error!(%error, "the erasure receipt of an update could not be written");
        }
    }
}
