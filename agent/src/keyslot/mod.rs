//! The keyslot file: every key that this device keeps, two generations in a file of fixed size, overwritten in place.
//! It must not leave a destroyed key in either slot, nor ever have both slots unreadable at once.
//!
//! | file | what it owns |
//! |---|---|
//! | `format.rs` | the bytes of a slot, frozen in tests |
//! | `contents.rs` | the body: which keys and what else |
//! | `vault.rs` | practitioners' slots, counted attempts, the delay after each |
//! | `usage.rs` | what practitioners used of their limits |
//! | `passphrase.rs` | what a passphrase must be |
//!
//! An update writes the older slot and syncs it; a crash leaves the newer slot, or both. Destroying writes the older
//! slot with a mark, syncs, then overwrites the other: a crash between the two is finished at the next opening.
//!
//! Overwriting in place is as much as a file can do. Flash may keep the old block where only its controller reads it,
//! and a copy-on-write file system keeps it by design: what such a copy is worth is decided by the device secret, under
//! which every slot is sealed.

mod contents;
mod format;
mod passphrase;
mod usage;
mod vault;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cpis_protocol::Refusal;
use cpis_protocol::id::PractitionerId;
use cpis_protocol::seal::Key;

pub(crate) use self::contents::secret;
pub use self::contents::{Contents, Erasure, LOCAL_KEYS_MAX, VAULT_SLOTS_MAX};
use self::format::{BadSlot, FILE_BYTES, FLAG_SCRUB, Opened, SLOT_BYTES};
pub use self::passphrase::{
    CHARACTERS_MIN, Choice, DIGITS_MIN, PIN_DIGITS_MIN, PassphraseProblem, check_new, check_passphrase,
};
pub use self::usage::{Telling, USAGE_MAX, Unrecorded, Usage};
pub use self::vault::{ATTEMPTS_MAX, DELAY_MAX_S, NewSlot, SlotStatus, VaultError};
use crate::device_secret::DeviceSecret;
use crate::device_secret::tpm::{Tpm, TpmError};
use crate::durable;
use crate::journal::{Disk, OsDisk};
use crate::random::{OsRandom, RandomError};

const KEK_DOMAIN: &str = "cpis-edge/1/keyslot";
const PEPPER_DOMAIN: &str = "cpis-edge/1/vault-pepper";

/// Why the keyslot file does not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyslotError {
    /// There is none.
    #[error("there is no keyslot file at {}: enrol this device", .0.display())]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is a keyslot file at {} already: it is not overwritten", .0.display())]
    Exists(PathBuf),
    /// Another process has it open.
    #[error("the keyslot file {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Whole, but sealed under another device secret.
    #[error("the keyslot file does not open with this device's secret: was the disk moved, or the secret replaced?")]
    WrongSecret,
    /// Neither slot can be read.
    #[error("neither copy in the keyslot file can be read: its keys are lost; enrol this device anew")]
    Damaged,
    /// Written by another version of this program.
    #[error("the keyslot file has format {0}, and this build reads format 1: install the version that wrote it")]
    Format(u8),
    /// Every key was destroyed: none may come back.
    #[error("this device was erased: enrol it again with a new invitation")]
    Erased,
    /// More than the file, or one of its lists, may hold.
    #[error("the keyslot file is full")]
    Full,
    /// The passphrase is too weak.
    #[error("passphrase refused: {0}")]
    Passphrase(PassphraseProblem),
    /// The opened vault is not the one of this device.
    #[error("that is not the vault of this device")]
    AnotherVault,
    /// Sealing, or the memory-hard step, was refused.
    #[error("keyslot: {0}")]
    Refused(#[from] Refusal),
    /// The TPM, where it keeps a practitioner's PIN.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The file system said no. What was there before is still there.
    #[error("keyslot file: {0}")]
    Io(#[from] io::Error),
}

/// The open keyslot file. It is locked against other processes until dropped.
pub struct Keyslot {
    file: File,
    disk: Box<dyn Disk>,
    kek: Key,
    pepper: Key,
    /// The TPM that keeps the device secret, where one does.
    tpm: Option<Tpm>,
    contents: Contents,
    generation: u64,
    /// Which slot holds that generation.
    newest: usize,
    fell_back: bool,
    /// When each practitioner last gave a wrong passphrase, and when this file was opened, by boot time.
    tried: BTreeMap<PractitionerId, u64>,
    since_boot_ms: u64,
}

impl std::fmt::Debug for Keyslot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyslot(generation {}, {:?})", self.generation, self.contents)
    }
}

impl Keyslot {
    /// Makes the file, with the contents in both slots, and opens it.
    ///
    /// # Errors
    /// [`KeyslotError::Exists`], [`KeyslotError::Full`], [`KeyslotError::Io`].
    pub fn create(path: &Path, secret: &DeviceSecret, contents: &Contents) -> Result<Self, KeyslotError> {
        let kek = secret.derive(KEK_DOMAIN);
        let body = contents.to_body()?;
        let mut bytes = format::seal(&kek, 0, 1, &body, &mut OsRandom)?;
        bytes.extend_from_slice(&format::seal(&kek, 0, 2, &body, &mut OsRandom)?);
        // A crash leaves no file or the whole one.
        durable::create_new(path, &bytes).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeyslotError::Exists(path.to_owned()),
            _ => KeyslotError::Io(error),
        })?;
        Self::open(path, secret)
    }

    /// Opens the file: the newer slot that is whole counts. Finishes a destruction that was cut short.
    ///
    /// # Errors
    /// [`KeyslotError::Missing`], [`KeyslotError::InUse`], [`KeyslotError::WrongSecret`], [`KeyslotError::Damaged`],
    /// [`KeyslotError::Format`], [`KeyslotError::Io`].
    pub fn open(path: &Path, secret: &DeviceSecret) -> Result<Self, KeyslotError> {
        Self::open_on(path, secret, Box::new(OsDisk))
    }

    /// The same over the given durable steps.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(path: &Path, secret: &DeviceSecret, disk: Box<dyn Disk>) -> Result<Self, KeyslotError> {
        let mut file = durable::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KeyslotError::Missing(path.to_owned()),
            _ => KeyslotError::Io(error),
        })?;
        if !durable::try_lock(&file)? {
            return Err(KeyslotError::InUse(path.to_owned()));
        }
        let bytes = match durable::read_file(&mut file, FILE_BYTES as u64) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return Err(KeyslotError::Damaged),
            Err(error) => return Err(error.into()),
        };
        let kek = secret.derive(KEK_DOMAIN);
        let (first, second) = bytes.split_at_checked(SLOT_BYTES).ok_or(KeyslotError::Damaged)?;
        let slots = [format::open(&kek, first), format::open(&kek, second)];
        let fell_back = slots.iter().any(Result::is_err);
        let (newest, opened) = newer(slots)?;
        let contents = Contents::from_body(&opened.body).map_err(|_| KeyslotError::Damaged)?;
        let pepper = secret.derive(PEPPER_DOMAIN);
        let mut this = Self {
            file,
            disk,
            kek,
            pepper,
            tpm: secret.tpm().cloned(),
            contents,
            generation: opened.generation,
            newest,
            fell_back,
            tried: BTreeMap::new(),
            since_boot_ms: 0,
        };
        // What was read may be in the page cache only, if the process before ended between write and sync.
        this.disk.sync(&this.file)?;
        if opened.flags & FLAG_SCRUB != 0 {
            this.overwrite_other()?;
        }
        Ok(this)
    }

    /// What the file holds.
    #[must_use]
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The generation that counts.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether one of the slots could not be read when the file was opened: an update was cut short, or a slot rotted.
    #[must_use]
    pub const fn fell_back(&self) -> bool {
        self.fell_back
    }

    fn pepper(&self) -> &Key {
        &self.pepper
    }

    /// Changes the contents durably. An error, of the closure or of the disk, leaves them as they were.
    /// What is removed this way is still in the other slot: see [`Self::destroy`].
    ///
    /// # Errors
    /// Those of `change`; [`KeyslotError::Full`], [`KeyslotError::Io`].
    pub fn update<T>(
        &mut self,
        change: impl FnOnce(&mut Contents) -> Result<T, KeyslotError>,
    ) -> Result<T, KeyslotError> {
        let (next, result) = self.changed(change)?;
        // A crash here leaves the older slot torn and the newer one as it was, or the new generation whole.
        self.write(next, 0)?;
        Ok(result)
    }

    /// Changes the contents durably and overwrites both slots, so that what is removed is in neither.
    ///
    /// # Errors
    /// Those of `change`; [`KeyslotError::Full`]; [`KeyslotError::Io`], after which it must be called again.
    pub fn destroy<T>(
        &mut self,
        change: impl FnOnce(&mut Contents) -> Result<T, KeyslotError>,
    ) -> Result<T, KeyslotError> {
        let (next, result) = self.changed(change)?;
        // A crash behind the first write leaves a marked slot: the next opening overwrites the other one.
        self.write(next, FLAG_SCRUB)?;
        self.overwrite_other()?;
        Ok(result)
    }

    /// A changed copy of the contents; the original stays until the copy is on stable storage.
    fn changed<T>(
        &self,
        change: impl FnOnce(&mut Contents) -> Result<T, KeyslotError>,
    ) -> Result<(Contents, T), KeyslotError> {
        let mut next = Contents::from_body(&self.contents.to_body()?)?;
        let result = change(&mut next)?;
        Ok((next, result))
    }

    fn write(&mut self, next: Contents, flags: u8) -> Result<(), KeyslotError> {
        self.write_body(&next.to_body()?, flags)?;
        self.contents = next;
        Ok(())
    }

    fn overwrite_other(&mut self) -> Result<(), KeyslotError> {
        let body = self.contents.to_body()?;
        self.write_body(&body, 0)
    }

    /// Seals into the older slot, as a whole, and syncs. The newer slot is never touched.
    fn write_body(&mut self, body: &[u8], flags: u8) -> Result<(), KeyslotError> {
        let generation = self.generation.checked_add(1).ok_or(KeyslotError::Full)?;
        let older = 1 - self.newest;
        let slot = format::seal(&self.kek, flags, generation, body, &mut OsRandom)?;
        self.disk.write(&self.file, &slot, (older * SLOT_BYTES) as u64)?;
        self.disk.sync(&self.file)?;
        (self.generation, self.newest) = (generation, older);
        Ok(())
    }
}

/// Which slot counts.
fn newer(slots: [Result<Opened, BadSlot>; 2]) -> Result<(usize, Opened), KeyslotError> {
    match slots {
        [Ok(first), Ok(second)] if first.generation > second.generation => Ok((0, first)),
        [_, Ok(second)] => Ok((1, second)),
        [Ok(first), Err(_)] => Ok((0, first)),
        [Err(BadSlot::Format(found)), _] | [_, Err(BadSlot::Format(found))] => Err(KeyslotError::Format(found)),
        [Err(BadSlot::DoesNotOpen), _] | [_, Err(BadSlot::DoesNotOpen)] => Err(KeyslotError::WrongSecret),
        [Err(BadSlot::Damaged), Err(BadSlot::Damaged)] => Err(KeyslotError::Damaged),
    }
}
