//! What stands between a request and the inode table: dead handles, injected faults, counting.
//!
//! Everything here runs under one lock and never waits for anything but the backing directory, so a client killed in
//! the middle of a request cannot hold anything up.

use fuser::{Errno, FileHandle};

use super::tree::Tree;
use super::{Fault, Stats};

type Result<T> = std::result::Result<T, Errno>;

/// The whole file system behind its lock.
#[derive(Debug)]
pub(super) struct State {
    pub(super) tree: Tree,
    pub(super) fault: Option<Fault>,
    pub(super) stats: Stats,
    /// Number of the boot: handles opened before the last cut carry an older one and are dead.
    boot: u64,
}

impl State {
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree, fault: None, stats: Stats::default(), boot: 0 }
    }

    /// Handle for a file or directory being opened.
    pub(super) fn handle(&self) -> FileHandle {
        FileHandle(self.boot)
    }

    /// EIO for a handle opened before the last power cut.
    pub(super) fn alive(&self, handle: FileHandle) -> Result<()> {
        if handle.0 == self.boot { Ok(()) } else { Err(Errno::EIO) }
    }

    /// EROFS where the read-only fault is set.
    pub(super) fn writable(&mut self) -> Result<()> {
        if self.fault == Some(Fault::ReadOnly) {
            return Err(self.inject(Errno::EROFS));
        }
        Ok(())
    }

    /// Bytes that still fit, if the disk is set to fill up.
    pub(super) fn room(&self) -> Option<u64> {
        match self.fault {
            Some(Fault::NoSpace { bytes }) => Some(bytes),
            _ => None,
        }
    }

    /// Writes as much as fits; ENOSPC only when not one byte does.
    pub(super) fn write(&mut self, ino: u64, offset: Option<u64>, data: &[u8]) -> Result<u32> {
        self.writable()?;
        let room = self.room().map_or(data.len(), |room| usize::try_from(room).unwrap_or(usize::MAX));
        let data = &data[..data.len().min(room)];
        if data.is_empty() {
            return Err(self.inject(Errno::ENOSPC));
        }
        let content = self.tree.content_mut(ino)?;
        let offset = offset.unwrap_or(content.len() as u64);
        content.write(offset, data)?;
        self.use_up(data.len() as u64);
        self.stats.writes += 1;
        self.stats.bytes_written += data.len() as u64;
        u32::try_from(data.len()).map_err(|_| Errno::EINVAL)
    }

    /// Truncates or extends; takes no room, as the extension is a hole.
    pub(super) fn set_len(&mut self, ino: u64, len: u64) -> Result<()> {
        self.writable()?;
        self.stats.truncations += 1;
        self.tree.content_mut(ino)?.set_len(len)
    }

    /// Preallocation (mode 0 or `KEEP_SIZE`), hole punching and zeroing.
    pub(super) fn allocate(&mut self, ino: u64, offset: u64, len: u64, mode: i32) -> Result<()> {
        self.writable()?;
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zero = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => false,
            libc::FALLOC_FL_ZERO_RANGE => true,
            libc::FALLOC_FL_PUNCH_HOLE if keep => true,
            _ => return Err(Errno::EOPNOTSUPP),
        };
        let end = offset.checked_add(len).ok_or(Errno::EFBIG)?;
        let growth = if keep { 0 } else { end.saturating_sub(self.tree.content(ino)?.len() as u64) };
        if self.room().is_some_and(|room| room < growth) {
            return Err(self.inject(Errno::ENOSPC));
        }
        let content = self.tree.content_mut(ino)?;
        if zero {
            content.zero(offset, len)?;
        }
        if growth > 0 {
            content.set_len(end)?;
        }
        self.use_up(growth);
        Ok(())
    }

    /// fsync or fdatasync of a file.
    pub(super) fn sync_file(&mut self, ino: u64) -> Result<()> {
        if self.tree.content(ino)?.is_dirty() {
            self.writable()?;
        }
        if let Some(drop_dirty) = self.fsync_fails() {
            if drop_dirty {
                self.tree.content_mut(ino)?.drop_dirty();
            }
            return Err(self.inject(Errno::EIO));
        }
        self.tree.sync_file(ino)?;
        self.stats.syncs += 1;
        Ok(())
    }

    /// fsync of a directory.
    pub(super) fn sync_dir(&mut self, ino: u64) -> Result<()> {
        if self.fsync_fails().is_some() {
            return Err(self.inject(Errno::EIO));
        }
        self.tree.sync_dir(ino)?;
        self.stats.dir_syncs += 1;
        Ok(())
    }

    /// The power goes and comes back. A fault that is set stays set.
    pub(super) fn cut(&mut self) {
        self.tree.revert();
        self.boot += 1;
        self.stats.cuts += 1;
    }

    fn use_up(&mut self, len: u64) {
        if let Some(Fault::NoSpace { bytes }) = &mut self.fault {
            *bytes = bytes.saturating_sub(len);
        }
    }

    /// Whether this sync is to fail, and if so whether its pages are to be dropped.
    fn fsync_fails(&mut self) -> Option<bool> {
        let Some(Fault::FailFsync { skip, times, drop_dirty }) = &mut self.fault else {
            return None;
        };
        if *skip > 0 {
            *skip -= 1;
            return None;
        }
        *times = times.checked_sub(1)?;
        Some(*drop_dirty)
    }

    fn inject(&mut self, errno: Errno) -> Errno {
        self.stats.faults += 1;
        errno
    }
}
