//! The plain file `device.provider` beside the keyslot file: who keeps this device's secret, fixed at enrolment.
//! It must not decide anything alone: a changed record leads to an error, since the keyslot file opens with one secret.

use std::io;
use std::path::Path;

use cpis_protocol::digest;
use cpis_protocol::id::hex;
use serde::{Deserialize, Serialize};

use super::{DeviceSecretError, Provider, SecretKey};
use crate::durable;

/// The file's name.
pub const NAME: &str = "device.provider";
const FORMAT: u32 = 1;
const BYTES_MAX: u64 = 4096;
const CHECK_DOMAIN: &[u8] = b"cpis-edge/1/device-secret-check";
const HEADING: &str = "# Written at enrolment: who keeps this device's secret. Changing this file does not move the \
                       secret.\n";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    format: u32,
    pub(super) provider: Provider,
    pub(super) since_ms: i64,
    /// Eight bytes derived from the secret, in hex: they tell another secret from this one.
    check: String,
}

impl Record {
    pub(super) fn new(provider: Provider, since_ms: i64, key: &SecretKey) -> Self {
        Self { format: FORMAT, provider, since_ms, check: check(key) }
    }

    /// Whether it was made for this secret.
    pub(super) fn is_of(&self, key: &SecretKey) -> bool {
        self.check == check(key)
    }

    fn to_text(&self) -> Result<String, DeviceSecretError> {
        let text = toml::to_string(self).map_err(|error| DeviceSecretError::Io(io::Error::other(error)))?;
        Ok(format!("{HEADING}{text}"))
    }

    pub(super) fn create(&self, path: &Path) -> Result<(), DeviceSecretError> {
        durable::create_new(path, self.to_text()?.as_bytes()).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => DeviceSecretError::Exists(path.to_owned()),
            _ => DeviceSecretError::Io(error),
        })
    }

    pub(super) fn read(path: &Path) -> Result<Self, DeviceSecretError> {
        let bad = || DeviceSecretError::BadRecord(path.to_owned());
        let bytes = durable::read(path, BYTES_MAX).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DeviceSecretError::NoRecord(path.to_owned()),
            io::ErrorKind::FileTooLarge => bad(),
            _ => DeviceSecretError::Io(error),
        })?;
        let text = String::from_utf8(bytes).map_err(|_| bad())?;
        let record: Self = toml::from_str(&text).map_err(|_| bad())?;
        if record.format == FORMAT { Ok(record) } else { Err(bad()) }
    }
}

fn check(key: &SecretKey) -> String {
    hex(&digest::expand::<8>(key, &[CHECK_DOMAIN]))
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    #[test]
    fn frozen_text_and_refusals() {
        let (key, other) = (Zeroizing::new([1; 32]), Zeroizing::new([2; 32]));
        let record = Record::new(Provider::Tpm, 1_795_370_700_000, &key);
        assert!(record.is_of(&key) && !record.is_of(&other));
        let text = format!(
            "{HEADING}format = 1\nprovider = \"tpm\"\nsince_ms = 1795370700000\ncheck = \"{}\"\n",
            record.check
        );
        assert_eq!((record.to_text().unwrap(), record.check.len()), (text.clone(), 16));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        assert!(matches!(Record::read(&path), Err(DeviceSecretError::NoRecord(_))));
        record.create(&path).unwrap();
        assert!(matches!(record.create(&path), Err(DeviceSecretError::Exists(_))));
        assert_eq!(Record::read(&path).unwrap(), record);
        for (from, to) in [("format = 1", "format = 2"), ("\"tpm\"", "\"chip\""), ("check", "chekc"), ("since", "")] {
            durable::replace(&path, text.replace(from, to).as_bytes()).unwrap();
            assert!(matches!(Record::read(&path), Err(DeviceSecretError::BadRecord(_))), "{to}");
        }
    }
}
