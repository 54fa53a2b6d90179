//! Opening and closing the vault, each recorded before it takes effect.
//! It must not let a vault open whose unlocking could not be recorded.

use cpis_protocol::audit::{Act, LockCause};
use cpis_protocol::grant::Badge;
use cpis_protocol::id::PractitionerId;
use cpis_protocol::text::Text;

use super::{Agent, UnlockError};
use crate::keyslot::{NewSlot, VaultError};
use crate::lookup;

impl Agent {
    /// Unlocks the vault for a practitioner. Blocks for the memory-hard step.
    ///
    /// # Errors
    /// [`UnlockError`].
    pub fn unlock(&self, practitioner: &str, passphrase: &str) -> Result<Badge, UnlockError> {
        let practitioner = PractitionerId::new(practitioner).map_err(|_| UnlockError::NoBadge)?;
        // One at a time: attempts at once do not get round the delay, and sessions replace each other in order.
        let _turn = self.people();
        let grant = self.grant();
        let now_ms = self.now().time_ms.ok_or(UnlockError::AgeUnknown)?;
        let badge = grant.badge(&practitioner, now_ms).cloned().ok_or(UnlockError::NoBadge)?;
        // A device that may not answer has no business with its keys.
        if self.barred().is_some() || now_ms >= grant.lease_until_ms {
            return Err(UnlockError::Withdrawn);
        }
        let boot_ms = || self.clock.reading().boot_ms;
        let opened = self.keys.keyslot().open_vault(practitioner, passphrase, boot_ms);
        let recorded = match &opened {
            Ok(_) => lookup::record(self, &badge, Text::EMPTY, Act::Unlock),
            Err(VaultError::WrongPassphrase { .. }) => lookup::record(self, &badge, Text::EMPTY, Act::UnlockFailed),
            Err(VaultError::JustClosed) => lookup::record(self, &badge, Text::EMPTY, Act::SlotClosed { practitioner }),
            // Nothing was tried, so there is nothing to record: a queue of refused attempts must not fill the outbox.
            Err(_) => Ok(0),
        };
        let opening = opened?;
        recorded.map_err(|()| UnlockError::AuditCannotBeWritten)?;
        // The memory-hard step takes a while: what counts is the grant of now, and its badge.
        let grant = self.grant();
        let now_ms = self.now().time_ms.ok_or(UnlockError::AgeUnknown)?;
        let badge = grant.badge(&practitioner, now_ms).cloned().ok_or(UnlockError::NoBadge)?;
        let previous = self.previous_grant();
        let previous = previous.as_deref().map(|verified| &**verified);
        let replaced = self
            .vault
            .open(badge.clone(), opening, &grant, previous, boot_ms())
            .map_err(|_| UnlockError::KeysDoNotOpen)?;
        if let Some(other) = replaced.filter(|other| other.practitioner != practitioner) {
            self.record_lock(&other, LockCause::Replaced);
        }
        Ok(badge)
    }

    /// Gives another practitioner with a badge an own slot.
    ///
    /// # Errors
    /// [`UnlockError`].
    pub fn add_slot(&self, practitioner: &str, passphrase: &str) -> Result<(), UnlockError> {
        let practitioner = PractitionerId::new(practitioner).map_err(|_| UnlockError::NoBadge)?;
        self.attend();
        let grant = self.grant();
        let reading = self.clock.reading();
        let now_ms = self.now().time_ms.ok_or(UnlockError::AgeUnknown)?;
        grant.badge(&practitioner, now_ms).ok_or(UnlockError::NoBadge)?;
        self.device_secret().check_new(passphrase)?;
        let slot = NewSlot {
            practitioner,
            cost: grant.policy.passphrase_cost,
            synthetic: self.trust().root().synthetic,
            created_ms: now_ms,
        };
        // The vault's lock is let go before the keyslot's is taken: status takes them the other way round.
        let opened = self.vault.with(reading.boot_ms, |session| (session.badge.clone(), session.opening_copy()));
        let (holder, opening) = opened.ok_or(UnlockError::Locked)?;
        let slots = self.keys.keyslot().vault_slots();
        let replaced = slots.iter().find(|slot| slot.practitioner == practitioner);
        // Else whoever is unlocked could take a colleague's name by giving them a passphrase of their own choice.
        if replaced.is_some_and(|slot| !slot.closed) && holder.practitioner != practitioner {
            return Err(UnlockError::SlotInUse);
        }
        let act = Act::SlotAdded { practitioner, replaced: replaced.is_some() };
        lookup::record(self, &holder, Text::EMPTY, act).map_err(|()| UnlockError::AuditCannotBeWritten)?;
        let added = self.keys.keyslot().add_vault_slot(slot, passphrase, &opening);
        added.map_err(|error| UnlockError::Vault(error.into()))
    }

    /// Locks the vault and records it.
    pub fn lock(&self) {
        if let Some(badge) = self.vault.close() {
            self.record_lock(&badge, LockCause::Touch);
        }
    }

    /// Records that a session has ended. It has, whether or not that can be recorded.
    pub(super) fn record_lock(&self, badge: &Badge, cause: LockCause) {
        if lookup::record(self, badge, Text::EMPTY, Act::Lock { cause }).is_err() {
            tracing::warn!(?cause, "the end of a session could not be recorded");
        }
    }

    /// Ends a session that must not go on: the device slept, nobody used it, or its badge is not good any more.
    pub fn attend(&self) {
        let reading = self.clock.reading();
        if self.sleep.happened(reading.boot_ms, self.clock.awake_ms())
            && let Some(badge) = self.vault.close()
        {
            tracing::info!("the device slept: the vault is locked");
            self.record_lock(&badge, LockCause::Sleep);
        }
        if let Some(badge) = self.vault.close_if_idle(reading.boot_ms) {
            tracing::info!("the vault locked itself");
            self.record_lock(&badge, LockCause::Idle);
        }
        if let Some(now_ms) = self.now().time_ms
            && let Some(badge) = self.vault.close_if_expired(now_ms)
        {
            tracing::info!("the badge is not good any more: the vault is locked");
            self.record_lock(&badge, LockCause::Withdrawn);
        }
    }
}
