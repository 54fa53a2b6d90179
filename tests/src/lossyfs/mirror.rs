//! Writes the durable state out to the backing directory, one entry at a time.
//!
//! Plain file operations on the host and nothing else: no state, no decision about what is durable. Nothing here is
//! synced, because the host itself is not the machine whose power is cut.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, chown};
use std::path::Path;

use fuser::FileAttr;

/// Creates or replaces a whole file.
pub(super) fn put(path: &Path, bytes: &[u8], attr: &FileAttr) -> io::Result<()> {
    fs::write(path, bytes)?;
    set_owner(path, attr)
}

/// Creates a directory.
pub(super) fn mkdir(path: &Path, attr: &FileAttr) -> io::Result<()> {
    fs::create_dir(path)?;
    set_owner(path, attr)
}

/// Sets the length and writes the changed ranges of a file that is there already.
pub(super) fn patch<'a>(path: &Path, len: u64, ranges: impl Iterator<Item = (u64, &'a [u8])>) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).open(path)?;
    file.set_len(len)?;
    for (offset, bytes) in ranges {
        file.write_all_at(bytes, offset)?;
    }
    Ok(())
}

/// Removes a file, or a directory with all it holds.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

/// Gives an entry the owner and mode of `attr`; the owner only where it differs, as that takes root.
pub(super) fn set_owner(path: &Path, attr: &FileAttr) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::symlink_metadata(path)?;
    if (found.uid(), found.gid()) != (attr.uid, attr.gid) {
        chown(path, Some(attr.uid), Some(attr.gid))?;
    }
    fs::set_permissions(path, Permissions::from_mode(u32::from(attr.perm)))
}
