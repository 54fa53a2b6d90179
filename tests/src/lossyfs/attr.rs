//! Attributes of inodes: how they start and what may be asked to change. No state of its own.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use fuser::{FileAttr, FileType, INodeNo};

/// Who owns a new entry, and its permission bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

/// Attribute changes asked for in one call; the size is not among them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changes {
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) atime: Option<SystemTime>,
    pub(super) mtime: Option<SystemTime>,
}

/// Attributes of an entry made just now. Sizes are filled in when they are asked for.
pub(super) fn new(ino: u64, kind: FileType, owner: Owner) -> FileAttr {
    let now = now();
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        kind,
        perm: permissions(owner.mode),
        nlink: if kind == FileType::Directory { 2 } else { 1 },
        uid: owner.uid,
        gid: owner.gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Attributes of an entry found in the backing directory.
pub(super) fn stored(ino: u64, meta: &Metadata) -> FileAttr {
    let time = |found: io::Result<SystemTime>| found.unwrap_or(SystemTime::UNIX_EPOCH);
    let kind = if meta.is_dir() { FileType::Directory } else { FileType::RegularFile };
    FileAttr {
        atime: time(meta.accessed()),
        mtime: time(meta.modified()),
        ctime: time(meta.modified()),
        crtime: time(meta.created()),
        ..new(ino, kind, Owner { uid: meta.uid(), gid: meta.gid(), mode: meta.mode() })
    }
}

/// The time for file stamps.
#[allow(clippy::disallowed_methods, reason = "a file system stamps files with the time of its host")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}

/// The permission bits of a mode.
pub(super) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or_default()
}
