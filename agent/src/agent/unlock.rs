//! Opening and closing the vault, each recorded before it takes effect.
//! It must not let a vault open whose unlocking could not be recorded.

use cpis_protocol::audit::Act;
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
        let opened = self.keys.keyslot().open_vault(practitioner, passphrase);
        let act = if opened.is_ok() { Act::Unlock } else { Act::UnlockFailed };
        let recorded = lookup::record(self, &badge, Text::EMPTY, act);
        let opening = opened?;
        recorded.map_err(|()| UnlockError::AuditCannotBeWritten)?;
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
        let add = |opening: &_| self.keys.keyslot().add_vault_slot(slot, passphrase, opening);
        let added = self.vault.with(reading.boot_ms, |session| add(session.opening()));
        added.ok_or(UnlockError::Locked)?.map_err(|error| UnlockError::Vault(error.into()))
    }

    /// Locks the vault and records it.
    pub fn lock(&self) {
        if let Some(badge) = self.vault.close() {
            let _ = lookup::record(self, &badge, Text::EMPTY, Act::Lock { idle: false });
        }
    }

    /// Locks the vault if nobody has used it for too long.
    pub fn lock_if_idle(&self) {
        if let Some(badge) = self.vault.close_if_idle(self.clock.reading().boot_ms) {
            tracing::info!("the vault locked itself");
            let _ = lookup::record(self, &badge, Text::EMPTY, Act::Lock { idle: true });
        }
    }
}
