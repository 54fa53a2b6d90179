//! The device secret as a systemd credential: decrypted by systemd when the unit starts, in memory that is not swapped.
//! It must not be made or changed here: who runs the machine makes it, and systemd keeps it.
//!
//! `$CREDENTIALS_DIRECTORY/cpis-device-secret`: exactly 32 random bytes, as `LoadCredentialEncrypted=` gives it. What a
//! copied disk is worth then depends on what systemd encrypted it with: its TPM key keeps it, its host key lies on the
//! same disk.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use zeroize::Zeroizing;

use super::{BYTES, DeviceSecretError, SecretKey};
use crate::durable;

/// The credential's name.
pub const NAME: &str = "cpis-device-secret";

/// Reads the credential from systemd's directory.
pub(super) fn open(directory: Option<&Path>) -> Result<SecretKey, DeviceSecretError> {
    let path = directory.ok_or(DeviceSecretError::NoCredential)?.join(NAME);
    let bytes = match durable::read(&path, BYTES as u64) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(DeviceSecretError::NoCredential),
        Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            return Err(DeviceSecretError::Malformed(path));
        }
        Err(error) => return Err(error.into()),
    };
    // systemd gives access by an access control list, whose mask shows as the group's bits; others have none.
    if std::fs::symlink_metadata(&path)?.permissions().mode() & 0o007 != 0 {
        return Err(DeviceSecretError::Exposed(path));
    }
    let key = super::exactly(&bytes).ok_or_else(|| DeviceSecretError::Malformed(path.clone()))?;
    // A file of zeros or of one letter is a mistake at making it, and as good as no secret.
    match key.first() {
        Some(first) if key.iter().any(|byte| byte != first) => Ok(key),
        _ => Err(DeviceSecretError::Malformed(path)),
    }
}
