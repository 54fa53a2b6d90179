//! The device secret: what the keyslot file cannot be opened without, wherever this machine keeps such a thing.
//! It must not leave the device nor be printed; nor may one provider ever stand in for another unasked.
//!
//! | file | what it owns |
//! |---|---|
//! | `tpm/` | a TPM 2.0: a sealed object in `device.tpm`; counts the attempts at PINs |
//! | `credential.rs` | a systemd credential |
//! | `file.rs` | a root-only file, `device.secret` |
//! | `record.rs` | `device.provider`: which of them, fixed at enrolment |
//!
//! At enrolment `auto` takes the best there is, and stops where a TPM is there but cannot be used. Afterwards the record
//! decides: a provider that is missing, or that holds another secret, is an error, and nothing is made anew.

mod credential;
mod file;
mod record;
pub mod tpm;

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use cpis_protocol::digest;
use cpis_protocol::seal::Key;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

pub use self::credential::NAME as CREDENTIAL;
pub use self::record::NAME as RECORD;
use self::record::Record;
use self::tpm::{Address, DEVICE, Tpm, TpmError, Uncounted};
use crate::keyslot::{Choice as SecretChoice, PassphraseProblem, check_new};

const BYTES: usize = 32;
/// The TPM's file.
pub const BLOB: &str = "device.tpm";

type SecretKey = Zeroizing<[u8; BYTES]>;

fn exactly(bytes: &[u8]) -> Option<SecretKey> {
    let mut key = Zeroizing::new([0; BYTES]);
    if bytes.len() != BYTES {
        return None;
    }
    key.copy_from_slice(bytes);
    Some(key)
}

/// Why there is no device secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceSecretError {
    /// There is none: the device is not enrolled, or the file was deleted and the device must be enrolled anew.
    #[error("there is no device secret at {}: put the file back, or enrol this device anew", .0.display())]
    Missing(PathBuf),
    /// There is one already, and with it perhaps keys that only it opens.
    #[error("there is a device secret at {} already: it is not overwritten", .0.display())]
    Exists(PathBuf),
    /// Not 32 bytes of a secret.
    #[error("{} is not a device secret: it must hold exactly 32 random bytes", .0.display())]
    Malformed(PathBuf),
    /// Others could read or replace it.
    #[error("{} can be read or written by others, or belongs to somebody else: make it mode 0600 and enrol anew", .0.display())]
    Exposed(PathBuf),
    /// systemd gives no credential of that name.
    #[error(
        "there is no systemd credential {CREDENTIAL}: start the agent as its unit, with \
         `LoadCredentialEncrypted={CREDENTIAL}` in it (make one with `head -c 32 /dev/urandom | systemd-creds encrypt \
         --name={CREDENTIAL} - /etc/credstore.encrypted/{CREDENTIAL}`)"
    )]
    NoCredential,
    /// The record of the provider is gone.
    #[error(
        "there is no {}, so that it is not known who keeps this device's secret: put it back from a copy of this \
         directory, or enrol this device anew", .0.display()
    )]
    NoRecord(PathBuf),
    /// The record of the provider was changed, or is of another version.
    #[error("{} is not as enrolment wrote it: put it back from a copy of this directory, or enrol this device anew", .0.display())]
    BadRecord(PathBuf),
    /// The configuration asks for another provider than the one that this device was enrolled with.
    #[error(
        "agent.toml asks for device_secret = \"{configured}\", and this device was enrolled with \"{recorded}\": write \
         \"{recorded}\" or \"auto\" there, or enrol this device anew"
    )]
    ConfiguredOtherwise {
        /// What `agent.toml` says.
        configured: Provider,
        /// What the record says.
        recorded: Provider,
    },
    /// The provider is there and keeps another secret.
    #[error(
        "the {} keeps another secret than the one that this device was enrolled with: put the old one back, or enrol \
         this device anew. Nothing was changed", .0.words()
    )]
    Replaced(Provider),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// The file system said no.
    #[error("device secret: {0}")]
    Io(#[from] io::Error),
}

/// Who keeps a device secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// A TPM 2.0.
    Tpm,
    /// systemd.
    Credential,
    /// A file that only the agent's user reads.
    File,
}

impl Provider {
    /// The word in the configuration and in reports.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Tpm => "tpm",
            Self::Credential => "credential",
            Self::File => "file",
        }
    }

    /// The provider in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Tpm => "TPM 2.0",
            Self::Credential => "systemd credential",
            Self::File => "root-only file",
        }
    }
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

/// What `agent.toml` asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// At enrolment the best there is; afterwards what was recorded.
    #[default]
    Auto,
    /// A TPM 2.0 or nothing.
    Tpm,
    /// A systemd credential or nothing.
    Credential,
    /// A root-only file.
    File,
}

impl Choice {
    const fn demanded(self) -> Option<Provider> {
        match self {
            Self::Auto => None,
            Self::Tpm => Some(Provider::Tpm),
            Self::Credential => Some(Provider::Credential),
            Self::File => Some(Provider::File),
        }
    }
}

/// Where providers are to be looked for, and which one is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources {
    /// Which one is wanted.
    pub choice: Choice,
    /// The TPM; `None` means the machine's own, if it has one.
    pub tpm: Option<Address>,
    /// systemd's directory of credentials.
    pub credentials: Option<PathBuf>,
}

/// The provider of a device that is being enrolled, tried before anything is asked of the server.
pub enum Chosen {
    /// This TPM.
    Tpm(Tpm),
    /// This credential.
    Credential(Credential),
    /// A file.
    File,
}

/// The content of a systemd credential; zeroised when dropped, never printed, never cloned.
pub struct Credential(SecretKey);

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Credential([secret])")
    }
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Chosen({})", self.provider())
    }
}

impl Chosen {
    /// Finds the provider for a device that is being enrolled.
    ///
    /// # Errors
    /// [`DeviceSecretError`] when the one that is wanted, or a TPM that is there, cannot be used.
    pub fn find(sources: &Sources) -> Result<Self, DeviceSecretError> {
        let provider = match sources.choice {
            Choice::Tpm => Provider::Tpm,
            Choice::Credential => Provider::Credential,
            Choice::File => Provider::File,
            // A TPM that is there and cannot be used is an error, not a reason to take less.
            Choice::Auto if sources.tpm.is_some() || Path::new(DEVICE).exists() => Provider::Tpm,
            Choice::Auto => match credential::open(sources.credentials.as_deref()) {
                Err(DeviceSecretError::NoCredential) => Provider::File,
                _ => Provider::Credential,
            },
        };
        Ok(match provider {
            Provider::Tpm => Self::Tpm(Tpm::meet(&sources.tpm.clone().unwrap_or_default())?),
            Provider::Credential => Self::Credential(Credential(credential::open(sources.credentials.as_deref())?)),
            Provider::File => Self::File,
        })
    }

    /// Which it is.
    #[must_use]
    pub const fn provider(&self) -> Provider {
        match self {
            Self::Tpm(_) => Provider::Tpm,
            Self::Credential(_) => Provider::Credential,
            Self::File => Provider::File,
        }
    }

    /// Checks a practitioner's new passphrase or PIN.
    ///
    /// # Errors
    /// [`PassphraseProblem`].
    pub fn check_new(&self, secret: &str) -> Result<SecretChoice, PassphraseProblem> {
        let tpm = if let Self::Tpm(tpm) = self { Some(tpm) } else { None };
        check_new(secret, || counted(tpm))
    }
}

/// Whether hardware counts the attempts at a PIN, now.
///
/// # Errors
/// [`Uncounted`].
pub fn counted(tpm: Option<&Tpm>) -> Result<(), Uncounted> {
    let tpm = tpm.ok_or(Uncounted::NoHardware)?;
    let attempts = tpm.attempts().map_err(|error| {
        tracing::warn!(%error, "the TPM does not say how it counts attempts");
        Uncounted::Unknown
    })?;
    attempts.protect_a_pin()
}

/// A 32-byte secret of this device; zeroised when dropped, never printed, never cloned.
pub struct DeviceSecret {
    key: SecretKey,
    provider: Provider,
    since_ms: Option<i64>,
    tpm: Option<Tpm>,
}

impl std::fmt::Debug for DeviceSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceSecret({}, [secret])", self.provider)
    }
}

impl DeviceSecret {
    /// Makes a new secret in `directory` (or takes the credential), proves that it can be had again, and records who
    /// keeps it. None of the files may exist.
    ///
    /// # Errors
    /// [`DeviceSecretError`].
    pub fn create(
        directory: &Path,
        chosen: Chosen,
        since_ms: i64,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, DeviceSecretError> {
        let provider = chosen.provider();
        let mut key = Zeroizing::new([0; BYTES]);
        rng.fill_bytes(key.as_mut_slice());
        let mut tpm = None;
        match chosen {
            Chosen::File => file::create(&directory.join(file::NAME), &key)?,
            Chosen::Credential(credential) => key = credential.0,
            Chosen::Tpm(chip) => {
                let path = directory.join(BLOB);
                chip.create_file(&path, key.as_slice())?.map_err(|error| match error.kind() {
                    io::ErrorKind::AlreadyExists => DeviceSecretError::Exists(path.clone()),
                    _ => DeviceSecretError::Io(error),
                })?;
                let (again, secret) = chip.again(&path)?;
                if exactly(&secret).as_deref() != Some(&*key) {
                    return Err(DeviceSecretError::Replaced(provider));
                }
                tpm = Some(again);
            }
        }
        // A crash before this leaves a directory that is not enrolled: enrolment discards what it finds there.
        Record::new(provider, since_ms, &key).create(&directory.join(RECORD))?;
        Ok(Self { key, provider, since_ms: Some(since_ms), tpm })
    }

    /// Opens the secret of an enrolled device from the provider that its record names, and from no other.
    ///
    /// # Errors
    /// [`DeviceSecretError`].
    pub fn open(directory: &Path, sources: &Sources) -> Result<Self, DeviceSecretError> {
        let record = Record::read(&directory.join(RECORD))?;
        let provider = record.provider;
        if let Some(configured) = sources.choice.demanded().filter(|demanded| *demanded != provider) {
            return Err(DeviceSecretError::ConfiguredOtherwise { configured, recorded: provider });
        }
        let (key, tpm) = match provider {
            Provider::File => (file::open(&directory.join(file::NAME))?, None),
            Provider::Credential => (credential::open(sources.credentials.as_deref())?, None),
            Provider::Tpm => {
                let address = sources.tpm.clone().unwrap_or_default();
                let (chip, secret) = Tpm::open_file(&address, &directory.join(BLOB))?;
                (exactly(&secret).ok_or(TpmError::ObjectDamaged)?, Some(chip))
            }
        };
        if !record.is_of(&key) {
            return Err(DeviceSecretError::Replaced(provider));
        }
        Ok(Self { key, provider, since_ms: Some(record.since_ms), tpm })
    }

    /// Makes a new secret in a file of its own, which must not exist, without a record.
    ///
    /// # Errors
    /// [`DeviceSecretError::Exists`], [`DeviceSecretError::Io`].
    pub fn create_file(path: &Path, rng: &mut impl CryptoRng) -> Result<Self, DeviceSecretError> {
        let mut key = Zeroizing::new([0; BYTES]);
        rng.fill_bytes(key.as_mut_slice());
        file::create(path, &key)?;
        Ok(Self { key, provider: Provider::File, since_ms: None, tpm: None })
    }

    /// Reads the secret from its file, without a record.
    ///
    /// # Errors
    /// [`DeviceSecretError`].
    pub fn open_file(path: &Path) -> Result<Self, DeviceSecretError> {
        Ok(Self { key: file::open(path)?, provider: Provider::File, since_ms: None, tpm: None })
    }

    /// Deletes what an enrolment that was cut short left in `directory`. Only where there is no keyslot file: what is
    /// deleted opens nothing then.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn discard(directory: &Path) -> io::Result<()> {
        for name in [file::NAME, BLOB, RECORD] {
            match std::fs::remove_file(directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Who keeps the secret.
    #[must_use]
    pub const fn provider(&self) -> Provider {
        self.provider
    }

    /// Since when, by this device's clock when it asked to be enrolled.
    #[must_use]
    pub const fn since_ms(&self) -> Option<i64> {
        self.since_ms
    }

    /// The TPM that keeps the secret, where one does: it can count attempts at PINs.
    #[must_use]
    pub const fn tpm(&self) -> Option<&Tpm> {
        self.tpm.as_ref()
    }

    /// Checks a practitioner's new passphrase or PIN.
    ///
    /// # Errors
    /// [`PassphraseProblem`].
    pub fn check_new(&self, secret: &str) -> Result<SecretChoice, PassphraseProblem> {
        check_new(secret, || counted(self.tpm()))
    }

    /// A key for one use, named by its domain.
    #[must_use]
    pub fn derive(&self, domain: &str) -> Key {
        let mut bytes = digest::expand::<32>(&self.key, &[domain.as_bytes()]);
        let key = Key::from_bytes(bytes);
        bytes.zeroize();
        key
    }
}
