//! The device secret, and practitioners' PINs, in a TPM 2.0: sealed objects that only this chip opens.
//! It must not hand out what was sealed by another TPM, nor let a PIN be tried without the chip counting it.
//!
//! | file | what it owns |
//! |---|---|
//! | `address.rs` | where a TPM is |
//! | `link.rs` | bytes there and back |
//! | `wire.rs` | the TPM's structures and this program's templates, frozen in tests |
//! | `session.rs` | the salted, encrypted session |
//! | `chip.rs` | the commands |
//! | `blob.rs` | the file `device.tpm`, frozen in tests |
//! | `error.rs` | response codes in words |
//!
//! The storage key is made anew from the TPM's owner seed each time (the same key, as long as the TPM is not cleared),
//! compared with the one recorded at enrolment, and flushed afterwards. The session is salted to the *recorded* key, so
//! that after enrolment nothing on the bus can take the TPM's place; at enrolment itself the TPM is taken on trust. The
//! secret and the PIN never cross the bus in clear. Nothing is bound to what was booted: an update of the system does
//! not lock a device out, and another system booted on the same machine can ask the TPM for the device secret.

mod address;
mod blob;
mod chip;
mod error;
mod link;
mod session;
mod wire;

use std::path::Path;

use zeroize::Zeroizing;

pub use self::address::{Address, BadAddress, DEVICE};
use self::blob::{Blob, object_from_bytes, object_to_bytes};
use self::chip::{Chip, Conversation, Object};
pub use self::error::TpmError;
use crate::durable;

/// The least that the chip's counter must be worth for a PIN: one further try in so many seconds, once it has locked.
pub const RECOVERY_MIN_S: u32 = 60;
/// The most tries that it may allow at once.
pub const TRIES_MAX: u32 = 100;

/// `TPM_PT_PERMANENT`, and the bit that tells of a lockout authorisation.
const PERMANENT: u32 = 0x200;
const LOCKOUT_AUTH_SET: u32 = 1 << 2;
const IN_LOCKOUT: u32 = 1 << 9;
/// `TPM_PT_LOCKOUT_COUNTER`, `TPM_PT_MAX_AUTH_FAIL`, `TPM_PT_LOCKOUT_INTERVAL`.
const COUNTER: u32 = 0x20e;
const TRIES: u32 = 0x20f;
const INTERVAL: u32 = 0x210;

/// How the chip counts wrong authorisations: of all its users together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// Wrong ones that it remembers.
    pub wrong: u32,
    /// So many lock it.
    pub most: u32,
    /// It forgets one in so many seconds; 0 means that it does not count at all.
    pub forgets_one_in_s: u32,
    /// It refuses everything that counts.
    pub locked: bool,
    /// Only somebody with a password can set the counter back.
    pub reset_needs_password: bool,
}

/// Why no PIN can be accepted on this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Uncounted {
    /// The device secret is not in a TPM.
    #[error("this device has no chip that counts attempts: use four words, or at least 16 digits")]
    NoHardware,
    /// The TPM did not say how it counts.
    #[error("the TPM does not say how it counts attempts just now: try again, or use four words")]
    Unknown,
    /// Its counting is switched off.
    #[error(
        "this TPM does not count attempts: set it with `tpm2_dictionarylockout -s -n 32 -t 600`, or use four words"
    )]
    Off,
    /// Whoever has the machine can set the counter back.
    #[error(
        "this TPM has no lockout password, so whoever has the machine can set its counter back: set one with \
         `tpm2_changeauth -c lockout`, or use four words"
    )]
    NoLockoutPassword,
    /// All PINs could be tried in months.
    #[error(
        "this TPM allows too many attempts: set it with `tpm2_dictionarylockout -s -n 32 -t 600` (it must forget one in \
         {RECOVERY_MIN_S} s or slower, and lock after {TRIES_MAX} or fewer), or use four words"
    )]
    TooQuick,
}

impl Attempts {
    /// Whether a PIN of six digits can rest on it: some months on average, with the machine in hand, instead of days.
    ///
    /// # Errors
    /// [`Uncounted`].
    pub const fn protect_a_pin(&self) -> Result<(), Uncounted> {
        if self.forgets_one_in_s == 0 || self.most == 0 {
            return Err(Uncounted::Off);
        }
        if !self.reset_needs_password {
            return Err(Uncounted::NoLockoutPassword);
        }
        if self.forgets_one_in_s < RECOVERY_MIN_S || self.most > TRIES_MAX {
            return Err(Uncounted::TooQuick);
        }
        Ok(())
    }
}

/// One particular TPM: where it is and which storage key proves that it is the same. It holds no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Tpm {
    address: Address,
    storage_key: Vec<u8>,
}

impl std::fmt::Debug for Tpm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tpm({})", self.address)
    }
}

impl Tpm {
    /// The TPM that answers at an address, taken on trust: for enrolment only.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn meet(address: &Address) -> Result<Self, TpmError> {
        let (_, storage_key) = Chip::open(address)?.storage_key()?;
        let this = Self { address: address.clone(), storage_key };
        // What cannot hold a session is of no use later.
        this.converse()?;
        Ok(this)
    }

    fn converse(&self) -> Result<Conversation, TpmError> {
        Chip::open(&self.address)?.converse(&self.storage_key)
    }

    /// Seals a secret without authorisation into a file that must not exist; the inner result is the file system's.
    ///
    /// # Errors
    /// [`TpmError`].
    pub(super) fn create_file(&self, path: &Path, secret: &[u8]) -> Result<std::io::Result<()>, TpmError> {
        let object = self.converse()?.seal(secret, &[], false)?;
        let blob = Blob { storage_key: self.storage_key.clone(), object };
        Ok(durable::create_new(path, &blob.to_bytes()))
    }

    /// Unseals the secret of a file.
    ///
    /// # Errors
    /// [`TpmError`].
    pub(super) fn open_file(address: &Address, path: &Path) -> Result<(Self, Zeroizing<Vec<u8>>), TpmError> {
        let blob = Blob::read(path)?;
        let this = Self { address: address.clone(), storage_key: blob.storage_key };
        let secret = this.converse()?.unseal(&blob.object, &[])?;
        Ok((this, secret))
    }

    /// Unseals the secret of a file that was just made.
    ///
    /// # Errors
    /// [`TpmError`].
    pub(super) fn again(&self, path: &Path) -> Result<(Self, Zeroizing<Vec<u8>>), TpmError> {
        Self::open_file(&self.address, path)
    }

    /// Seals `content` so that each wrong `authorisation` counts towards the chip's lockout; gives the object's bytes.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn seal_counted(&self, content: &[u8; 32], authorisation: &[u8; 32]) -> Result<Vec<u8>, TpmError> {
        Ok(object_to_bytes(&self.converse()?.seal(content, authorisation, true)?))
    }

    /// Unseals what [`Self::seal_counted`] sealed.
    ///
    /// # Errors
    /// [`TpmError::WrongAuthorisation`] when it was wrong and has been counted; [`TpmError::LockedOut`] when nothing
    /// was tried; [`TpmError::ObjectDamaged`] for what is no such object.
    pub fn unseal_counted(&self, object: &[u8], authorisation: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, TpmError> {
        let object = object_from_bytes(object).filter(is_counted).ok_or(TpmError::ObjectDamaged)?;
        let content = self.converse()?.unseal(&object, authorisation)?;
        let mut copy = Zeroizing::new([0; 32]);
        if content.len() != copy.len() {
            return Err(TpmError::ObjectDamaged);
        }
        copy.copy_from_slice(&content);
        Ok(copy)
    }

    /// How the chip counts, now.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn attempts(&self) -> Result<Attempts, TpmError> {
        let properties = Chip::open(&self.address)?.properties(PERMANENT, INTERVAL - PERMANENT + 1)?;
        let property = |wanted| properties.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let read = || {
            let permanent = property(PERMANENT)?;
            Some(Attempts {
                wrong: property(COUNTER)?,
                most: property(TRIES)?,
                forgets_one_in_s: property(INTERVAL)?,
                locked: permanent & IN_LOCKOUT != 0,
                reset_needs_password: permanent & LOCKOUT_AUTH_SET != 0,
            })
        };
        read().ok_or_else(|| TpmError::Malformed(self.address.clone()))
    }
}

fn is_counted(object: &Object) -> bool {
    wire::is_counted(&object.public)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pin_may_rest_on() {
        let good = Attempts { wrong: 0, most: 32, forgets_one_in_s: 600, locked: false, reset_needs_password: true };
        assert_eq!(good.protect_a_pin(), Ok(()));
        let cases = [
            (Attempts { forgets_one_in_s: 0, ..good }, Uncounted::Off),
            (Attempts { most: 0, ..good }, Uncounted::Off),
            (Attempts { reset_needs_password: false, ..good }, Uncounted::NoLockoutPassword),
            (Attempts { forgets_one_in_s: RECOVERY_MIN_S - 1, ..good }, Uncounted::TooQuick),
            (Attempts { most: TRIES_MAX + 1, ..good }, Uncounted::TooQuick),
        ];
        for (attempts, expected) in cases {
            assert_eq!(attempts.protect_a_pin(), Err(expected));
        }
    }
}
