//! One secret in one file: magic, format, purpose, 32 bytes, and a checksum against damage.
//! It must not read a file that others may read, nor overwrite one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use cpis_protocol::digest;
use zeroize::{Zeroize as _, Zeroizing};

const MAGIC: &[u8; 8] = b"CPIS-KEY";
const FORMAT: u8 = 1;
const FILE_BYTES: usize = 8 + 1 + 1 + 32 + 4;

/// Why a key file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none.
    #[error("there is no key file {0}")]
    Missing(String),
    /// There is one already; keys are never overwritten.
    #[error("{0} exists already, and keys are never overwritten")]
    Exists(String),
    /// Others than the owner may read it.
    #[error("{0} may be read by others than its owner: chmod 600 it, and think about who has read it")]
    Exposed(String),
    /// Not a key file, of a newer format, for another purpose, or damaged.
    #[error("{0} is not the key file that belongs there, or it is damaged")]
    Damaged(String),
    /// The passphrase does not open it.
    #[error("the passphrase does not open {0}")]
    WrongPassphrase(String),
    /// It lies open, where a passphrase is wanted.
    #[error("{0} has no passphrase: whoever reads the file is a root officer")]
    NoPassphrase(String),
    /// The key derivation could not be done.
    #[error("the passphrase could not be hardened: not enough memory")]
    Derivation,
    /// The trust root names another key for this role.
    #[error("the trust root does not name this server's {0} key")]
    NotInRoot(&'static str),
    /// There is no next key to go over to.
    #[error("there is no next {0} key here")]
    NoNext(&'static str),
    /// The trust root in force does not name the next key yet.
    #[error("the trust root in force does not name the next {0} key yet")]
    NextNotInRoot(&'static str),
    /// The key is still in use.
    #[error("the {0} key {1} is still in use: the trust root in force names it, or it is the present one")]
    InUse(&'static str, String),
    /// No such key.
    #[error("there is no {0} key {1} here")]
    NoSuchKey(&'static str, String),
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] crate::certificate::CertificateError),
    /// The file system refuses.
    #[error("{0}: {1}")]
    Io(String, io::Error),
}

/// What a secret is for; part of the file, so that files cannot be swapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Signs heads.
    Publisher,
    /// Signs beats.
    Beat,
    /// Signs grants and certificates.
    Authority,
    /// Signs receipts.
    Receipt,
    /// Opens audit events.
    Audit,
    /// Seals secrets in the database.
    Storage,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Publisher, Self::Beat, Self::Authority, Self::Receipt, Self::Audit, Self::Storage];

    /// The name of the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Beat => "beat",
            Self::Authority => "device-authority",
            Self::Receipt => "receipt",
            Self::Audit => "audit-recipient",
            Self::Storage => "storage",
        }
    }

    /// The signing role; `None` for what does not sign.
    #[must_use]
    pub const fn role(self) -> Option<cpis_protocol::trust::Role> {
        use cpis_protocol::trust::Role;
        match self {
            Self::Publisher => Some(Role::Publisher),
            Self::Beat => Some(Role::Beat),
            Self::Authority => Some(Role::DeviceAuthority),
            Self::Receipt => Some(Role::Receipt),
            Self::Audit | Self::Storage => None,
        }
    }

    const fn byte(self) -> u8 {
        match self {
            Self::Publisher => 1,
            Self::Beat => 2,
            Self::Authority => 3,
            Self::Receipt => 4,
            Self::Audit => 5,
            Self::Storage => 6,
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> KeyError {
    let path = shown(path);
    move |error| match error.kind() {
        io::ErrorKind::NotFound => KeyError::Missing(path),
        io::ErrorKind::AlreadyExists => KeyError::Exists(path),
        _ => KeyError::Io(path, error),
    }
}

/// Makes a directory that only its owner may enter.
///
/// # Errors
/// [`KeyError::Io`].
pub fn make_private_dir(dir: &Path) -> Result<(), KeyError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))
}

/// Makes the entries of a directory durable.
///
/// # Errors
/// [`KeyError::Io`].
pub fn sync_dir(dir: &Path) -> Result<(), KeyError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error(dir))
}

/// Writes a new file that only its owner may read, durably.
///
/// # Errors
/// [`KeyError::Exists`], [`KeyError::Io`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error(path))
}

/// Reads a file that only its owner may read.
///
/// # Errors
/// [`KeyError`].
pub fn read_private(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let file = File::open(path).map_err(io_error(path))?;
    let mode = file.metadata().map_err(io_error(path))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed(shown(path)));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(limit).unwrap_or(4096)));
    file.take(limit).read_to_end(&mut bytes).map_err(io_error(path))?;
    Ok(bytes)
}

/// Writes a new key file and zeroises the secret.
///
/// # Errors
/// [`KeyError::Exists`], [`KeyError::Io`].
pub fn write_new(path: &Path, purpose: Purpose, secret: &[u8; 32]) -> Result<(), KeyError> {
    let mut secret = Zeroizing::new(*secret);
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[FORMAT, purpose.byte()]);
    bytes.extend_from_slice(secret.as_slice());
    let check = checksum(&bytes);
    bytes.extend_from_slice(&check);
    secret.zeroize();
    write_private(path, &bytes)
}

/// Reads a key file.
///
/// # Errors
/// [`KeyError`].
pub fn read(path: &Path, purpose: Purpose) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let bytes = read_private(path, FILE_BYTES as u64 + 1)?;
    let damaged = || KeyError::Damaged(shown(path));
    let (body, check) = bytes.split_last_chunk::<4>().ok_or_else(damaged)?;
    let secret = body.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(&[FORMAT, purpose.byte()]));
    let secret: [u8; 32] = secret.and_then(|secret| secret.try_into().ok()).ok_or_else(damaged)?;
    if *check == checksum(body) { Ok(Zeroizing::new(secret)) } else { Err(damaged()) }
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = digest::hash("cpis-edge/1/key-file", &[bytes]);
    [a, b, c, d]
}

/// Overwrites a key file and removes it. Flash and copy-on-write file systems may keep the old blocks.
///
/// # Errors
/// [`KeyError::Io`].
pub fn destroy(path: &Path) -> Result<(), KeyError> {
    let mut file = OpenOptions::new().write(true).open(path).map_err(io_error(path))?;
    file.write_all(&[0; FILE_BYTES]).and_then(|()| file.sync_all()).map_err(io_error(path))?;
    fs::remove_file(path).map_err(io_error(path))
}

/// Replaces a file that is not secret, durably: the old or the new content, never a mixture.
///
/// # Errors
/// [`KeyError::Io`].
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeyError> {
    let aside = path.with_extension("new");
    let mut file = File::create(&aside).map_err(io_error(&aside))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error(&aside))?;
    fs::rename(&aside, path).map_err(io_error(path))?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(dir)
}
