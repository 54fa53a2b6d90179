//! Files that survive a power cut: whole-file replacement, directories, reservation, locks, checksum.
//! The only home of `rustix` file calls; it must not know what the bytes mean.
//!
//! A whole file is replaced in four steps: write `NAME.new`, fsync it, rename it to `NAME`, fsync the directory. A
//! crash before the rename leaves the old file and a stray `.new`; after it, the old or the new one, each of them whole.
//! Directories are 0700 and files 0600; a symbolic link as the last part of a path is refused.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FallocateFlags, OFlags, RenameFlags};

/// The ending of a file that is not yet published; recovery may delete it.
pub const STAGED_ENDING: &str = ".new";
/// The mode of a file that others may read; every other is for the agent's user alone.
pub const SHARED: u32 = 0o644;
const ZEROS: [u8; 4096] = [0; 4096];

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // NOFOLLOW is a small positive flag on every Unix.
    options.mode(0o600).custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// Makes a directory, 0700, and makes its name durable. One that exists is left as it is.
///
/// # Errors
/// Those of the file system.
pub fn create_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Those of the file system.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

/// Reads a whole file of at most `limit` bytes.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] beyond the limit; those of the file system.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut file = options().read(true).open(path)?;
    read_file(&mut file, limit)
}

/// Reads an open file from where it stands, at most `limit` bytes.
///
/// # Errors
/// As [`read`].
pub fn read_file(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(bytes)
}

/// Opens an existing file for reading and writing in place.
///
/// # Errors
/// Those of the file system.
pub fn open(path: &Path) -> io::Result<File> {
    options().read(true).write(true).open(path)
}

/// A file that is written and synced under its staged name, and that nobody sees yet. Dropped, it is deleted.
#[derive(Debug)]
pub struct Staged {
    target: PathBuf,
    staged: PathBuf,
    published: bool,
}

impl Staged {
    /// Writes and syncs `bytes` under the staged name. A failure leaves everything visible as it was.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(target: &Path, bytes: &[u8]) -> io::Result<Self> {
        let (this, mut file) = Self::begin(target, 0o600)?;
        file.write_all(bytes)?;
        // Without this sync a crash after the rename could leave a file of the right name and no content.
        file.sync_all()?;
        Ok(this)
    }

    /// Makes the file under its staged name, to be written piece by piece and given to [`Self::publish_written`].
    ///
    /// # Errors
    /// Those of the file system.
    pub fn begin(target: &Path, mode: u32) -> io::Result<(Self, File)> {
        let mut staged = target.as_os_str().to_owned();
        staged.push(STAGED_ENDING);
        let staged = PathBuf::from(staged);
        let file = options().mode(mode).write(true).create(true).truncate(true).open(&staged)?;
        Ok((Self { target: target.to_owned(), staged, published: false }, file))
    }

    /// Syncs what was written, and publishes it.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_written(self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        self.publish()
    }

    /// The name that it will have.
    #[must_use]
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the file its name, in place of any before it. After a failure it is not known which of the two is there.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn publish(mut self) -> io::Result<()> {
        std::fs::rename(&self.staged, &self.target)?;
        self.published = true;
        // A crash before this sync may bring the old file back, whole.
        sync_parent(&self.target)
    }

    /// Gives the file its name, unless there is one of that name.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`]; those of the file system.
    pub fn publish_new(mut self) -> io::Result<()> {
        rustix::fs::renameat_with(CWD, &self.staged, CWD, &self.target, RenameFlags::NOREPLACE)?;
        self.published = true;
        sync_parent(&self.target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            let _ = std::fs::remove_file(&self.staged);
        }
    }
}

/// Replaces a file as a whole, or makes it.
///
/// # Errors
/// Those of the file system; the old file is then still whole.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Staged::write(path, bytes)?.publish()
}

/// Makes a file that must not exist yet.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`]; those of the file system.
pub fn create_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    Staged::write(path, bytes)?.publish_new()
}

/// Deletes a file and makes that durable. A crash before the sync may bring the whole file back, never a part.
///
/// # Errors
/// Those of the file system.
pub fn remove(path: &Path) -> io::Result<()> {
    std::fs::remove_file(path)?;
    sync_parent(path)
}

/// Deletes a directory with all in it and makes that durable.
///
/// # Errors
/// Those of the file system.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    std::fs::remove_dir_all(path)?;
    sync_parent(path)
}

/// Extends a file with reserved zeros, so that writing there cannot run out of space.
///
/// Where the file system cannot reserve, zeros are written, which reserves as well on all but copy-on-write ones.
///
/// # Errors
/// [`io::ErrorKind::StorageFull`], [`io::ErrorKind::QuotaExceeded`]; those of the file system.
pub fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), offset, length) {
        Ok(()) => Ok(()),
        Err(error) if error == rustix::io::Errno::OPNOTSUPP || error == rustix::io::Errno::NOSYS => {
            let end = offset.saturating_add(length);
            let mut at = offset;
            while at < end {
                let piece = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROS.len());
                file.write_all_at(&ZEROS[..piece], at)?;
                at += piece as u64;
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// An exclusive lock that the kernel releases when its holder ends, however it ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

/// Takes the lock file `path`, or `None` when another holds it.
///
/// # Errors
/// Those of the file system.
pub fn lock(path: &Path) -> io::Result<Option<Lock>> {
    let file = options().read(true).write(true).create(true).truncate(false).open(path)?;
    Ok(try_lock(&file)?.then_some(Lock(file)))
}

/// Takes the lock on an open file; `false` when another holds it.
///
/// # Errors
/// Those of the file system.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// CRC-32 (ISO-HDLC) over the parts in order: finds accidents, proves nothing against a person.
#[must_use]
pub fn checksum(parts: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replace_create_and_modes() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        create_dir(&sub).unwrap();
        create_dir(&sub).unwrap();
        assert_eq!(sub.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let path = sub.join("file");
        create_new(&path, b"one").unwrap();
        assert_eq!(create_new(&path, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(read(&path, 3).unwrap(), b"one");
        replace(&path, b"three").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"three");
        assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(sub.read_dir().unwrap().count(), 1, "no staged file is left behind");
        std::os::unix::fs::symlink(&path, sub.join("link")).unwrap();
        assert!(open(&sub.join("link")).is_err());
        remove(&path).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn reserve_reads_as_zeros_and_locks_exclude() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        create_new(&path, b"x").unwrap();
        reserve(&open(&path).unwrap(), 1, 5000).unwrap();
        let bytes = read(&path, 10_000).unwrap();
        assert_eq!((bytes.len(), bytes[0]), (5001, b'x'));
        assert!(bytes[1..].iter().all(|b| *b == 0));
        let held = lock(&dir.path().join("lock")).unwrap();
        assert!(held.is_some());
        assert!(lock(&dir.path().join("lock")).unwrap().is_none());
        drop(held);
        assert!(lock(&dir.path().join("lock")).unwrap().is_some());
    }

    #[test]
    fn checksum_is_crc32() {
        assert_eq!(checksum(&[b"1234", b"56789"]), 0xcbf4_3926);
    }
}
