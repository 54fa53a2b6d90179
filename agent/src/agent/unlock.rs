//! Opening and closing the vault, each recorded before it takes effect.
//! It must not let a vault open whose unlocking could not be recorded.

use cpis_protocol::audit::{Act, LockCause};
use cpis_protocol::grant::Badge;
use cpis_protocol::id::PractitionerId;
use cpis_protocol::text::Text;

use super::{Agent, UnlockError};
use crate::keyslot::{NewSlot, check_passphrase};
use crate::lookup;

impl Agent {
    /// Unlocks the vault for a practitioner. Blocks for the memory-hard step.
    ///
    /// # Errors
    /// [`UnlockError`].
    pub fn unlock(&self, practitioner: &str, passphrase: &str) -> Result<Badge, UnlockError> {
        let practitioner = PractitionerId::new(practitioner).map_err(|_| UnlockError::NoBadge)?;
        let grant = self.grant();
        let reading = self.clock.reading();
        let now_ms = self.replica.clock().now(reading).unwrap_or(reading.wall_ms);
        let badge = grant.badge(&practitioner, now_ms).cloned().ok_or(UnlockError::NoBadge)?;
        // A device that may not answer has no business with its keys.
        if self.is_revoked() || now_ms >= grant.lease_until_ms {
            return Err(UnlockError::Withdrawn);
        }
        let opened = self.keys.keyslot().open_vault(practitioner, passphrase);
        let act = if opened.is_ok() { Act::Unlock } else { Act::UnlockFailed };
        let recorded = lookup::record(self, &badge, Text::EMPTY, act);
        let opening = opened?;
        recorded.map_err(|()| UnlockError::AuditCannotBeWritten)?;
        // The memory-hard step takes a while: what counts is the grant of now, and its badge.
        let grant = self.grant();
        let badge = grant.badge(&practitioner, now_ms).cloned().ok_or(UnlockError::NoBadge)?;
        self.vault
            .open(badge.clone(), opening, &grant, self.clock.reading().boot_ms)
            .map_err(|_| UnlockError::KeysDoNotOpen)?;
        Ok(badge)
    }

    /// Gives another practitioner with a badge an own slot.
    ///
    /// # Errors
    /// [`UnlockError`].
    pub fn add_slot(&self, practitioner: &str, passphrase: &str) -> Result<(), UnlockError> {
        let practitioner = PractitionerId::new(practitioner).map_err(|_| UnlockError::NoBadge)?;
        let grant = self.grant();
        let reading = self.clock.reading();
        let now_ms = self.replica.clock().now(reading).unwrap_or(reading.wall_ms);
        grant.badge(&practitioner, now_ms).ok_or(UnlockError::NoBadge)?;
        check_passphrase(passphrase)?;
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
            let _ = lookup::record(self, &badge, Text::EMPTY, Act::Lock { cause: LockCause::Touch });
        }
    }

    /// Locks the vault if nobody has used it for too long.
    pub fn lock_if_idle(&self) {
        if let Some(badge) = self.vault.close_if_idle(self.clock.reading().boot_ms) {
            tracing::info!("the vault locked itself");
            let _ = lookup::record(self, &badge, Text::EMPTY, Act::Lock { cause: LockCause::Idle });
        }
    }
}
