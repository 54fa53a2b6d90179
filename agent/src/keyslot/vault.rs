//! Vault slots: one practitioner, one passphrase, one wrapped copy of the vault's seed.
//! It must not try a passphrase before the attempt is counted on stable storage, nor keep a seed after the last one.
//!
//! Key of a slot = HKDF-SHA256 with salt = a key of the device secret, input = Argon2id (passphrase, salt of the slot),
//! info = domain and practitioner. So neither the passphrase nor the file nor the device secret opens it alone.
//!
//! Behind a PIN lies one thing more: 32 random bytes in a sealed object of the TPM, whose authorisation is derived from
//! the PIN in the same way and whose wrong authorisations count towards the TPM's lockout. They are mixed in after the
//! memory-hard step. A keyslot file put back from a backup gives back our own count, and not the TPM's.

use cpis_protocol::id::{PractitionerId, UnixMs};
use cpis_protocol::seal::{Key, MemoryHard, OpeningKey};
use cpis_protocol::{Refusal, digest};
use zeroize::Zeroizing;

use super::contents::{VAULT_SLOTS_MAX, VaultSlot, secret};
use super::passphrase::{Choice, PassphraseProblem, check_new};
use super::{Contents, Erasure, Keyslot, KeyslotError};
use crate::device_secret::counted;
use crate::device_secret::tpm::{TpmError, Uncounted};
use crate::random::OsRandom;

/// After so many failures in a row a slot closes, and its wrapped seed is destroyed.
pub const ATTEMPTS_MAX: u32 = 10;
/// After the first wrong attempt the next must wait for a second, then two, four, ..., at most this many.
pub const DELAY_MAX_S: u64 = 60;
const ASSOCIATED: &[u8] = b"cpis-edge/1/vault-slot";
const KEK_DOMAIN: &[u8] = b"cpis-edge/1/vault-kek\0";
const PIN_DOMAIN: &[u8] = b"cpis-edge/1/vault-pin\0";
const SEED_DOMAIN: &[u8] = b"cpis-edge/1/vault-seed\0";

/// Why the vault does not open.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// Not the passphrase of this slot.
    #[error("wrong passphrase; {} attempts are left", ATTEMPTS_MAX.saturating_sub(*attempts))]
    WrongPassphrase {
        /// Failures in a row, this one included.
        attempts: u32,
    },
    /// The last attempt was wrong, and its delay is not over. This one was not tried, and is not counted.
    #[error("too soon after a wrong passphrase: wait {wait_s} s and try again")]
    Wait {
        /// Seconds to wait.
        wait_s: u64,
    },
    /// This attempt was one too many, and closed the slot.
    #[error(
        "wrong passphrase; after {ATTEMPTS_MAX} wrong attempts this slot is now closed: a colleague must unlock and set it up again"
    )]
    JustClosed,
    /// Too many failures: somebody else with an open vault, or a new enrolment, must make the slot anew.
    #[error("this slot is closed after {ATTEMPTS_MAX} wrong attempts: a colleague must unlock and set it up again")]
    Closed,
    /// The TPM refuses every PIN for a while: nothing was tried.
    #[error(
        "the TPM refuses PINs for now, after too many wrong ones: wait, it forgets one of them at a time, or let a \
             colleague with a passphrase unlock (`cpis-agent doctor` says how long)"
    )]
    LockedOut,
    /// The practitioner has no slot on this device.
    #[error("there is no slot for this practitioner on this device")]
    NoSlot,
    /// The keyslot file could not be written or read.
    #[error(transparent)]
    Keyslot(#[from] KeyslotError),
}

/// A slot to be made.
#[derive(Debug, Clone, Copy)]
pub struct NewSlot {
    /// For whom.
    pub practitioner: PractitionerId,
    /// Memory-hard parameters, from signed policy.
    pub cost: MemoryHard,
    /// Whether the deployment is synthetic, so that the cost may be below the floor.
    pub synthetic: bool,
    /// When.
    pub created_ms: UnixMs,
}

/// What may be shown of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotStatus {
    /// Whose it is.
    pub practitioner: PractitionerId,
    /// Failures in a row.
    pub attempts: u32,
    /// Whether it is closed.
    pub closed: bool,
    /// When it was made.
    pub created_ms: UnixMs,
}

/// How long to wait after so many wrong attempts in a row.
const fn delay_ms(attempts: u32) -> u64 {
    if attempts == 0 {
        return 0;
    }
    // R161
    let doubled = if attempts > 16 { DELAY_MAX_S } else { 1 << (attempts - 1) };
    1000 * if doubled < DELAY_MAX_S { doubled } else { DELAY_MAX_S }
}

/// What the passphrase or PIN gives, together with the device secret.
fn stretch(pepper: &Key, cost: MemoryHard, salt: &[u8; 16], passphrase: &str) -> Result<Zeroizing<[u8; 32]>, Refusal> {
    let stretched = cost.derive(passphrase.as_bytes(), salt, ASSOCIATED)?;
    Ok(Zeroizing::new(digest::prf(pepper.expose(), stretched.as_slice())))
}

/// The authorisation of a PIN's object in the TPM.
fn authorisation(mixed: &[u8; 32], practitioner: PractitionerId) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(digest::expand(mixed, &[PIN_DOMAIN, practitioner.as_bytes()]))
}

fn slot_key(mixed: &[u8; 32], practitioner: PractitionerId) -> Key {
    let bytes = Zeroizing::new(digest::expand::<32>(mixed, &[KEK_DOMAIN, practitioner.as_bytes()]));
    secret(&bytes, Key::from_bytes)
}

fn seed_place(contents: &Contents, practitioner: PractitionerId) -> Vec<u8> {
    [SEED_DOMAIN, contents.vault(), practitioner.as_bytes()].concat()
}

impl Keyslot {
    /// Makes a practitioner's slot, or makes it anew: then the old wrapped seed is in neither copy afterwards.
    ///
    /// # Errors
    /// [`KeyslotError::Passphrase`], [`KeyslotError::Full`] beyond [`VAULT_SLOTS_MAX`],
    /// [`KeyslotError::AnotherVault`], [`KeyslotError::Refused`] for a cost below the floor, [`KeyslotError::Io`].
    pub fn add_vault_slot(&mut self, slot: NewSlot, passphrase: &str, vault: &OpeningKey) -> Result<(), KeyslotError> {
        let choice = check_new(passphrase, || counted(self.tpm.as_ref()))?;
        let NewSlot { practitioner, cost, synthetic, created_ms } = slot;
        let cost = cost.check(synthetic)?;
        if vault.sealing_key() != *self.contents().vault() {
            return Err(KeyslotError::AnotherVault);
        }
        let replaces = self.contents().slot(practitioner).is_some();
        if !replaces && self.contents().slots.len() >= VAULT_SLOTS_MAX {
            return Err(KeyslotError::Full);
        }
        let salt = OsRandom::bytes::<16>()?;
        let mut mixed = stretch(self.pepper(), cost, &salt, passphrase)?;
        let object = match (choice, &self.tpm) {
            (Choice::Passphrase, _) => Vec::new(),
            (Choice::Pin, None) => return Err(PassphraseProblem::DigitsOnly(Uncounted::NoHardware).into()),
            (Choice::Pin, Some(tpm)) => {
                let content = Zeroizing::new(OsRandom::bytes::<32>()?);
                let object = tpm.seal_counted(&content, &authorisation(&mixed, practitioner))?;
                mixed = Zeroizing::new(digest::prf(mixed.as_slice(), content.as_slice()));
                object
            }
        };
        let key = slot_key(&mixed, practitioner);
        let wrapped = key.seal(&seed_place(self.contents(), practitioner), vault.expose(), &mut OsRandom)?;
        let made = VaultSlot { practitioner, cost, salt, wrapped, attempts: 0, created_ms, counted: object };
        let put = |contents: &mut Contents| {
            contents.slots.retain(|slot| slot.practitioner != practitioner);
            contents.slots.push(made);
            Ok(())
        };
        if replaces { self.destroy(put) } else { self.update(put) }
    }

    /// Removes a practitioner's slot from both copies; says whether there was one.
    ///
    /// # Errors
    /// [`KeyslotError::Io`].
    pub fn remove_vault_slot(&mut self, practitioner: PractitionerId) -> Result<bool, KeyslotError> {
        if self.contents().slot(practitioner).is_none() {
            return Ok(false);
        }
        self.destroy(|contents| {
            contents.slots.retain(|slot| slot.practitioner != practitioner);
            Ok(true)
        })
    }

    /// Destroys every slot, both grants and all local keys in both copies, and notes why in the same write: the only way
    /// to let go of all of them. The device key stays, so that unsent audit can still be sent. What was erased before
    /// stays as it was noted; `false`, with nothing done, where `holds` says that this is not what was to be erased.
    ///
    /// # Errors
    /// [`KeyslotError::Io`], after which it must be called again.
    pub fn erase(&mut self, note: &Erasure, holds: impl FnOnce(&Contents) -> bool) -> Result<bool, KeyslotError> {
        if self.contents().erasure.is_none() && !holds(self.contents()) {
            return Ok(false);
        }
        self.destroy(|contents| {
            if contents.erasure.is_none() {
                contents.erase_keys();
                contents.erasure = Some(note.clone());
            }
            Ok(true)
        })
    }

    /// The slots, in the order in which they were made.
    #[must_use]
    pub fn vault_slots(&self) -> Vec<SlotStatus> {
        let status = |slot: &VaultSlot| SlotStatus {
            practitioner: slot.practitioner,
            attempts: slot.attempts,
            closed: slot.wrapped.is_empty(),
            created_ms: slot.created_ms,
        };
        self.contents().slots.iter().map(status).collect()
    }

    /// Says when this process began: the delay after a wrong attempt of an earlier one begins anew here, so that a
    /// restart shortens nothing.
    pub const fn begin_delays(&mut self, boot_ms: u64) {
        self.since_boot_ms = boot_ms;
    }

    /// Opens the vault with a passphrase. Takes as long as the slot's cost says: not for an async thread. `boot_ms` is
    /// read here, under the one turn that the caller holds, so that attempts at once do not get round the delay.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open_vault(
        &mut self,
        practitioner: PractitionerId,
        passphrase: &str,
        boot_ms: impl Fn() -> u64,
    ) -> Result<OpeningKey, VaultError> {
        let slot = self.contents().slot(practitioner).ok_or(VaultError::NoSlot)?.clone();
        if slot.wrapped.is_empty() {
            return Err(VaultError::Closed);
        }
        if slot.attempts >= ATTEMPTS_MAX {
            // The power went after the last attempt was counted and before the slot was closed.
            self.close(practitioner)?;
            return Err(VaultError::JustClosed);
        }
        let last = self.tried.get(&practitioner).copied().unwrap_or(self.since_boot_ms);
        let wait_ms = delay_ms(slot.attempts).saturating_sub(boot_ms().saturating_sub(last));
        if wait_ms > 0 {
            return Err(VaultError::Wait { wait_s: wait_ms.div_ceil(1000) });
        }
        let attempts = slot.attempts + 1;
        // A crash behind this leaves an attempt counted that was perhaps never made, and never the other way round.
        self.set_attempts(practitioner, attempts)?;
        let key = match self.key_of(&slot, passphrase) {
            Ok(key) => key,
            Err(error) => {
                // There was not enough memory, or the TPM refused or was not there: nothing was tried.
                self.set_attempts(practitioner, slot.attempts)?;
                return Err(error);
            }
        };
        let seed = key.map(|key| key.open(&seed_place(self.contents(), practitioner), &slot.wrapped));
        if let Some(seed) =
            seed.and_then(Result::ok).and_then(|s| Some(Zeroizing::new(<[u8; 32]>::try_from(s.as_slice()).ok()?)))
        {
            if let Err(error) = self.set_attempts(practitioner, 0) {
                tracing::warn!(%error, "a right passphrase is still counted as an attempt");
            }
            return Ok(secret(&seed, OpeningKey::from_seed));
        }
        // The memory-hard step is over: the delay begins now.
        self.tried.insert(practitioner, boot_ms());
        if attempts < ATTEMPTS_MAX {
            return Err(VaultError::WrongPassphrase { attempts });
        }
        self.close(practitioner)?;
        Err(VaultError::JustClosed)
    }

    /// The key of a slot; `None` when the TPM found the PIN wrong, and counted it.
    fn key_of(&self, slot: &VaultSlot, passphrase: &str) -> Result<Option<Key>, VaultError> {
        let mixed = stretch(self.pepper(), slot.cost, &slot.salt, passphrase).map_err(KeyslotError::Refused)?;
        if slot.counted.is_empty() {
            return Ok(Some(slot_key(&mixed, slot.practitioner)));
        }
        let tpm = self.tpm.as_ref().ok_or(KeyslotError::Tpm(TpmError::Another))?;
        match tpm.unseal_counted(&slot.counted, &authorisation(&mixed, slot.practitioner)) {
            Ok(content) => {
                let mixed = Zeroizing::new(digest::prf(mixed.as_slice(), content.as_slice()));
                Ok(Some(slot_key(&mixed, slot.practitioner)))
            }
            Err(TpmError::WrongAuthorisation) => Ok(None),
            Err(TpmError::LockedOut) => Err(VaultError::LockedOut),
            Err(error) => Err(KeyslotError::Tpm(error).into()),
        }
    }

    fn set_attempts(&mut self, practitioner: PractitionerId, attempts: u32) -> Result<(), KeyslotError> {
        self.update(|contents| {
            if let Some(slot) = contents.slot_mut(practitioner) {
                slot.attempts = attempts;
            }
            Ok(())
        })
    }

    fn close(&mut self, practitioner: PractitionerId) -> Result<(), KeyslotError> {
        self.destroy(|contents| {
            if let Some(slot) = contents.slot_mut(practitioner) {
                slot.wrapped.clear();
                slot.counted.clear();
                slot.attempts = ATTEMPTS_MAX;
            }
            Ok(())
        })
    }
}

impl From<PassphraseProblem> for KeyslotError {
    fn from(problem: PassphraseProblem) -> Self {
        Self::Passphrase(problem)
    }
}
