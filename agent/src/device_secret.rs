//! The device secret: what the keyslot file cannot be opened without, wherever this machine keeps such a thing.
//! It must not leave the device nor be printed; today it is a root-only file, tomorrow a TPM or a systemd credential.
//!
//! `device.secret`: exactly 32 random bytes, mode 0600, made once. A backup that holds it beside the keyslot file is as
//! good as the device: leave it out of backups.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cpis_protocol::digest;
use cpis_protocol::seal::Key;
use rand_core::CryptoRng;
use zeroize::{Zeroize as _, Zeroizing};

use crate::durable;

const BYTES: usize = 32;

/// Why there is no device secret.
#[derive(Debug, thiserror::Error)]
pub enum DeviceSecretError {
    /// There is none: the device is not enrolled, or the file was deleted and the device must be enrolled anew.
    #[error("there is no device secret at {}: enrol this device", .0.display())]
    Missing(PathBuf),
    /// There is one already, and with it perhaps keys that only it opens.
    #[error("there is a device secret at {} already: it is not overwritten", .0.display())]
    Exists(PathBuf),
    /// Not 32 bytes.
    #[error("{} is not a device secret: it must hold exactly 32 bytes", .0.display())]
    Malformed(PathBuf),
    /// Others could read or replace it.
    #[error("{} can be read or written by others, or belongs to somebody else: make it mode 0600 and enrol anew", .0.display())]
    Exposed(PathBuf),
    /// The file system said no.
    #[error("device secret: {0}")]
    Io(#[from] io::Error),
}

/// A 32-byte secret of this device; zeroised when dropped, never printed, never cloned.
pub struct DeviceSecret {
    key: Zeroizing<[u8; BYTES]>,
    provider: Provider,
}

/// Where the secret came from. A TPM or a systemd credential becomes a variant here and a constructor below.
enum Provider {
    RootOnlyFile,
}

impl std::fmt::Debug for DeviceSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceSecret({}, [secret])", self.kind())
    }
}

impl DeviceSecret {
    /// Makes a new secret in a file of its own, which must not exist.
    ///
    /// # Errors
    /// [`DeviceSecretError::Exists`], [`DeviceSecretError::Io`].
    pub fn create_file(path: &Path, rng: &mut impl CryptoRng) -> Result<Self, DeviceSecretError> {
        let mut key = Zeroizing::new([0; BYTES]);
        rng.fill_bytes(key.as_mut_slice());
        // A crash before the last step leaves no secret or this one, whole; nothing is sealed under it yet.
        durable::create_new(path, key.as_slice()).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => DeviceSecretError::Exists(path.to_owned()),
            _ => DeviceSecretError::Io(error),
        })?;
        Ok(Self { key, provider: Provider::RootOnlyFile })
    }

    /// Reads the secret from its file, which must belong to the running user and be closed to all others.
    ///
    /// # Errors
    /// [`DeviceSecretError`].
    pub fn open_file(path: &Path) -> Result<Self, DeviceSecretError> {
        let bytes = match durable::read(path, BYTES as u64) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(DeviceSecretError::Missing(path.to_owned()));
            }
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                return Err(DeviceSecretError::Malformed(path.to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        let facts = std::fs::symlink_metadata(path)?;
        let own = rustix::process::geteuid().as_raw();
        if facts.permissions().mode() & 0o077 != 0 || facts.uid() != own {
            return Err(DeviceSecretError::Exposed(path.to_owned()));
        }
        let mut key = Zeroizing::new([0; BYTES]);
        if bytes.len() != BYTES {
            return Err(DeviceSecretError::Malformed(path.to_owned()));
        }
        key.copy_from_slice(&bytes);
        Ok(Self { key, provider: Provider::RootOnlyFile })
    }

    /// What holds the secret, in words for `doctor`.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self.provider {
            Provider::RootOnlyFile => "root-only file (no hardware protection: a copied disk opens with it)",
        }
    }

    /// Whether hardware counts wrong attempts, so that a short PIN would be acceptable.
    #[must_use]
    pub const fn counts_attempts(&self) -> bool {
        match self.provider {
            Provider::RootOnlyFile => false,
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::OsRandom;

    #[test]
    fn created_once_and_refused_when_exposed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.secret");
        assert!(matches!(DeviceSecret::open_file(&path), Err(DeviceSecretError::Missing(_))));
        let made = DeviceSecret::create_file(&path, &mut OsRandom).unwrap();
        assert!(matches!(DeviceSecret::create_file(&path, &mut OsRandom), Err(DeviceSecretError::Exists(_))));
        let read = DeviceSecret::open_file(&path).unwrap();
        assert_eq!(made.derive("a").expose(), read.derive("a").expose());
        assert_ne!(made.derive("a").expose(), made.derive("b").expose());
        assert_eq!(format!("{read:?}").matches("secret]").count(), 1);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(DeviceSecret::open_file(&path), Err(DeviceSecretError::Exposed(_))));
        std::fs::remove_file(&path).unwrap();
        durable::create_new(&path, &[1; 31]).unwrap();
        assert!(matches!(DeviceSecret::open_file(&path), Err(DeviceSecretError::Malformed(_))));
    }
}
