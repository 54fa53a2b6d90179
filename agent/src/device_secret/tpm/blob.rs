//! The file `device.tpm` beside the keyslot file, and the bytes of a sealed object. Pure but for the one read.
//! It must not hold anything that opens without the TPM: it is public areas and what the TPM encrypted to itself.
//!
//! `device.tpm` (integers big endian, as in the TPM's own structures):
//!
//! | bytes | field |
//! |--:|---|
//! | 8 | magic `CPISTPM2` |
//! | 1 | format version, 1 |
//! | 2 + n | public area of the storage key (`TPM2B_PUBLIC`): which TPM it is |
//! | 2 + n | public area of the sealed object |
//! | 2 + n | private area of the sealed object (`TPM2B_PRIVATE`) |
//! | 4 | CRC-32 of all bytes before |

use std::io;
use std::path::Path;

use super::chip::Object;
use super::error::TpmError;
use super::wire::{Reader, Writer};
use crate::durable;

const MAGIC: &[u8; 8] = b"CPISTPM2";
const FORMAT: u8 = 1;
const BYTES_MAX: u64 = 4096;

/// What the file holds.
pub(super) struct Blob {
    pub(super) storage_key: Vec<u8>,
    pub(super) object: Object,
}

impl Blob {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let bytes = Writer::new().raw(MAGIC).u8(FORMAT).sized(&self.storage_key);
        let mut bytes = bytes.raw(&object_to_bytes(&self.object)).done().to_vec();
        let checksum = durable::checksum(&[&bytes]);
        bytes.extend_from_slice(&checksum.to_be_bytes());
        bytes
    }

    /// Reads the file.
    pub(super) fn read(path: &Path) -> Result<Self, TpmError> {
        let damaged = || TpmError::BlobDamaged(path.to_owned());
        let bytes = durable::read(path, BYTES_MAX).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => TpmError::BlobMissing(path.to_owned()),
            _ => damaged(),
        })?;
        let (checked, checksum) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
        if durable::checksum(&[checked]) != u32::from_be_bytes(*checksum) {
            return Err(damaged());
        }
        let (magic, rest) = checked.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (format, rest) = rest.split_first().ok_or_else(damaged)?;
        match (magic == MAGIC, *format) {
            (true, FORMAT) => {}
            (true, other) => return Err(TpmError::BlobFormat(path.to_owned(), other)),
            (false, _) => return Err(damaged()),
        }
        let mut reader = Reader(rest);
        let storage_key = reader.sized().ok_or_else(damaged)?.to_vec();
        let object = object_from_bytes(reader.0).ok_or_else(damaged)?;
        Ok(Self { storage_key, object })
    }
}

/// An object's bytes: public area and private area, each with its length.
pub(super) fn object_to_bytes(object: &Object) -> Vec<u8> {
    Writer::new().sized(&object.public).sized(&object.private).done().to_vec()
}

/// Reads [`object_to_bytes`]; `None` when that is not what it is.
pub(super) fn object_from_bytes(bytes: &[u8]) -> Option<Object> {
    let mut reader = Reader(bytes);
    let (public, private) = reader.sized().zip(reader.sized())?;
    reader.0.is_empty().then(|| Object { public: public.to_vec(), private: private.to_vec() })
}

#[cfg(test)]
mod tests {
    use cpis_protocol::id::hex;

    use super::*;

    #[test]
    fn frozen_file_and_every_changed_byte() {
        let blob =
            Blob { storage_key: vec![0x11; 3], object: Object { public: vec![0x22; 2], private: vec![0x33; 4] } };
        let bytes = blob.to_bytes();
        assert_eq!(hex(&bytes[..bytes.len() - 4]), "4350495354504d3201000311111100022222000433333333");
        assert_eq!(bytes[bytes.len() - 4..], durable::checksum(&[&bytes[..bytes.len() - 4]]).to_be_bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device.tpm");
        assert!(matches!(Blob::read(&path), Err(TpmError::BlobMissing(_))));
        durable::create_new(&path, &bytes).unwrap();
        let read = Blob::read(&path).unwrap();
        assert_eq!((read.to_bytes(), read.object.private), (bytes.clone(), vec![0x33; 4]));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            durable::replace(&path, &bad).unwrap();
            assert!(matches!(Blob::read(&path), Err(TpmError::BlobDamaged(_))), "byte {at}");
        }
        let with = |change: fn(&mut Vec<u8>)| {
            let mut other = bytes[..bytes.len() - 4].to_vec();
            change(&mut other);
            other.extend_from_slice(&durable::checksum(&[&other]).to_be_bytes());
            durable::replace(&path, &other).unwrap();
            Blob::read(&path).err()
        };
        assert!(matches!(with(|bytes| bytes[8] = 2), Some(TpmError::BlobFormat(_, 2))));
        assert!(matches!(with(|bytes| bytes.push(0)), Some(TpmError::BlobDamaged(_))));
        assert!(matches!(with(Vec::clear), Some(TpmError::BlobDamaged(_))));
    }
}
