//! Erasure: when the lease is over, or a signed withdrawal says so, every key goes and the receipt stays.
//! It must not destroy on unknown time or an unsigned word, nor touch the journal: unsent audit still goes up.
//!
//! One write of the keyslot file destroys slots, grant and local keys and notes what the receipt must say, so a crash
//! leaves everything or the note; the receipt follows, and is written at the next start where a crash came between.
//! Which link it will be is noted before it is appended, so that a crash in between does not double it.

use cpis_protocol::answer::CannotAnswer;
use cpis_protocol::audit::{Act, AuditEvent, ErasureCause, LockCause, Moment};
use cpis_protocol::digest::Hash;
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
use crate::random::OsRandom;

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

/// Nobody is in a session: the device itself says so.
const fn erased(cause: ErasureCause, records: u32) -> AuditEvent {
    AuditEvent {
        practitioner: PractitionerId::EMPTY,
        role: Text::EMPTY,
        incident: Text::EMPTY,
        break_glass: false,
        act: Act::Erased { cause, records },
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
        let (announced, receipted) = (None, false);
        let note = Erasure {
            cause,
            records,
            event_ms,
            anchor_ms,
            gseq,
            head,
            site,
            scope,
            lease_until_ms,
            announced,
            receipted,
        };
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
        // Whoever comes second finds the receipt written.
        let _turn = self.erasing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
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
        if !erasure.announced.is_some_and(|(seq, hash)| self.chain_holds(seq, &hash)) {
            self.append_receipt(&erasure)?;
        }
        self.change_erasure(|erasure| erasure.receipted = true)?;
        Ok(())
    }

    /// Whether the chain holds this link, here or at the server.
    fn chain_holds(&self, seq: u64, hash: &Hash) -> bool {
        seq < self.journal.acknowledged().seq || self.journal.hash_at(seq) == Some(*hash)
    }

    fn change_erasure(&self, change: impl FnOnce(&mut Erasure)) -> Result<(), KeyslotError> {
        self.keys.keyslot().update(|contents| {
            if let Some(erasure) = contents.erasure.as_mut() {
                change(erasure);
            }
            Ok(())
        })
    }

    /// Appends the receipt, which link it will be being durable before it is: a crash in between does not double it.
    fn append_receipt(&self, erasure: &Erasure) -> Result<(), EraseError> {
        let Erasure { event_ms, anchor_ms, gseq, head, cause, records, .. } = *erasure;
        let (moment, event) = (Moment { event_ms, anchor_ms, gseq, head }, erased(cause, records));
        let recipient = *self.trust().audit_recipient().map_err(JournalError::Refused)?;
        let appended = self.journal.append(Priority::Emergency, |tip| {
            let (link, next) = tip.append(&self.device, &self.signer, &recipient, &moment, &event, &mut OsRandom)?;
            // The journal's lock is held here, and nobody who holds the keyslot's waits for it.
            self.change_erasure(|erasure| erasure.announced = Some((next.seq, next.hash))).map_err(|error| {
                tracing::error!(%error, "the keyslot file cannot be written");
                cpis_protocol::Refusal::Malformed
            })?;
            Ok((link, next))
        });
        match appended {
            Ok(_) => {
                self.wake_push.notify_one();
                Ok(())
            }
            // The link may be on the disk although its sync failed: the journal says so when it is opened anew.
            Err(error) if error.is_poisoned() => Err(error.into()),
            Err(error) => {
                // Another link takes that position.
                self.change_erasure(|erasure| erasure.announced = None)?;
                Err(error.into())
            }
        }
    }

    /// Whether a receipt of the server's up to this position must wait: the note that its link is there is missing.
    pub(super) fn erasure_holds_back(&self, through: u64) -> bool {
        let announced = |erasure: Erasure| erasure.announced.filter(|_| !erasure.receipted);
        self.erasure().and_then(announced).is_some_and(|(seq, _)| seq <= through)
    }

    fn append_erased(&self, moment: &Moment, cause: ErasureCause, records: u32) -> Result<(), JournalError> {
        self.append(Priority::Emergency, moment, &erased(cause, records)).map(drop)
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
