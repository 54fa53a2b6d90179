//! The device secret in a root-only file: what there is where the machine keeps no secret.
//! It must not be taken from a file that others could have read or written.
//!
//! `device.secret`: exactly 32 random bytes, mode 0600, made once. A backup that holds it beside the keyslot file is as
//! good as the device: leave it out of backups.

use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use zeroize::Zeroizing;

use super::{BYTES, DeviceSecretError, SecretKey};
use crate::durable;

/// The file's name.
pub(super) const NAME: &str = "device.secret";

/// Writes a new secret into a file that must not exist.
pub(super) fn create(path: &Path, key: &SecretKey) -> Result<(), DeviceSecretError> {
    // A crash before the last step leaves no secret or this one, whole; nothing is sealed under it yet.
    durable::create_new(path, key.as_slice()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => DeviceSecretError::Exists(path.to_owned()),
        _ => DeviceSecretError::Io(error),
    })
}

/// Reads the secret from its file, which must belong to the running user and be closed to all others.
pub(super) fn open(path: &Path) -> Result<SecretKey, DeviceSecretError> {
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
    super::exactly(&bytes).ok_or_else(|| DeviceSecretError::Malformed(path.to_owned()))
}
