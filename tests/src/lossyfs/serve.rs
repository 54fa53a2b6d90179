//! Answers the kernel: turns each request into one call on the state under its lock.
//!
//! No decision about durability is made here. The kernel is told to cache nothing (zero time to live, direct I/O) and
//! keeps advisory locks to itself, as remote locks are not advertised. Requests that are not here (links, special
//! files, extended attributes) are answered "not supported" by the defaults of the trait.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::attr::{self, Changes, Owner};
use super::state::State;

/// Nothing is cached: every path walk and every stat asks again.
const TTL: Duration = Duration::ZERO;
const GENERATION: Generation = Generation(0);
/// No page cache, and no request when a descriptor is closed: a test process that exits with open files must not have
/// to answer itself.
const OPEN: FopenFlags = FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_NOFLUSH);

type Result<T> = std::result::Result<T, Errno>;

/// The server side of one mount.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) state: Arc<Mutex<State>>,
    pub(super) backing: PathBuf,
}

impl Server {
    fn with<T>(&self, run: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        run(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn make(&self, req: &Request, at: (INodeNo, &OsStr), mode: u32, kind: FileType) -> Result<(FileAttr, FileHandle)> {
        let owner = Owner { uid: req.uid(), gid: req.gid(), mode };
        self.with(|state| {
            state.writable()?;
            Ok((state.tree.create(at.0.0, at.1, kind, owner)?, state.handle()))
        })
    }
}

fn empty(reply: ReplyEmpty, result: Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn entry(reply: ReplyEntry, result: Result<FileAttr>) {
    match result {
        Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
        Err(errno) => reply.error(errno),
    }
}

fn time(asked: Option<TimeOrNow>) -> Option<SystemTime> {
    asked.map(|time| match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => attr::now(),
    })
}

impl Filesystem for Server {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Shared maps in spite of direct I/O (SQLite's -shm file). A kernel before 6.6 refuses; then there are none.
        let _refused = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.with(|state| state.tree.lookup(parent.0, name)));
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        let _infallible = self.with(|state| {
            state.tree.forget(ino.0, nlookup);
            Ok(())
        });
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.with(|state| state.tree.attr(ino.0)) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let result = self.with(|state| {
            fh.map_or(Ok(()), |fh| state.alive(fh))?;
            state.writable()?;
            size.map_or(Ok(()), |size| state.set_len(ino.0, size))?;
            state.tree.set_attr(ino.0, Changes { mode, uid, gid, atime: time(atime), mtime: time(mtime) })?;
            state.tree.attr(ino.0)
        });
        match result {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(errno) => reply.error(errno),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        entry(reply, self.make(req, (parent, name), mode, FileType::Directory).map(|made| made.0));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(req, (parent, name), mode, FileType::RegularFile) {
            Ok((attr, handle)) => reply.created(&TTL, &attr, GENERATION, handle, OPEN),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.with(|state| state.writable().and_then(|()| state.tree.remove(parent.0, name, false))));
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.with(|state| state.writable().and_then(|()| state.tree.remove(parent.0, name, true))));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let keep = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let result = self.with(|state| {
            if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
                return Err(Errno::EINVAL);
            }
            state.writable()?;
            state.tree.rename((parent.0, name), (newparent.0, newname), keep)
        });
        empty(reply, result);
    }

    fn open(&self, _req: &Request, _ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let result = self.with(|state| {
            if flags.acc_mode() != OpenAccMode::O_RDONLY {
                state.writable()?;
            }
            Ok(state.handle())
        });
        match result {
            Ok(handle) => reply.opened(handle, OPEN),
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let result = self.with(|state| {
            state.alive(fh)?;
            Ok(state.tree.content(ino.0)?.read(offset, size as usize).to_vec())
        });
        match result {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Pages of a shared map come back by whatever handle the kernel has at hand, and with its flags.
        let by_call = !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let result = self.with(|state| {
            if !by_call && state.alive(fh).is_err() {
                // A page of before the cut: gone. Not an error, as the kernel would show that to whoever opens next.
                return u32::try_from(data.len()).map_err(|_| Errno::EINVAL);
            }
            state.alive(fh)?;
            let append = by_call && flags.0 & libc::O_APPEND != 0;
            let written = state.write(ino.0, (!append).then_some(offset), data)?;
            if by_call && flags.0 & libc::O_DSYNC != 0 {
                state.sync_file(ino.0)?;
            }
            Ok(written)
        });
        match result {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(reply, self.with(|state| state.alive(fh).and_then(|()| state.sync_file(ino.0))));
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.with(|state| Ok(state.handle())) {
            Ok(handle) => reply.opened(handle, FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = self.with(|state| {
            state.alive(fh)?;
            state.tree.list(ino.0)
        });
        match result {
            Ok(entries) => {
                for entry in entries.into_iter().filter(|entry| entry.at > offset) {
                    if reply.add(INodeNo(entry.ino), entry.at, entry.kind, entry.name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        empty(reply, self.with(|state| state.alive(fh).and_then(|()| state.sync_dir(ino.0))));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match (rustix::fs::statvfs(&self.backing), self.with(|state| Ok(state.room()))) {
            (Ok(stat), Ok(room)) => {
                let unit = stat.f_frsize.max(1);
                let limit = room.map_or(u64::MAX, |room| room / unit);
                let (free, avail) = (stat.f_bfree.min(limit), stat.f_bavail.min(limit));
                let size = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                let (block, name, unit) = (size(stat.f_bsize), size(stat.f_namemax), size(unit));
                reply.statfs(stat.f_blocks, free, avail, stat.f_files, stat.f_ffree, block, name, unit);
            }
            (Err(error), _) => reply.error(Errno::from_i32(error.raw_os_error())),
            (_, Err(errno)) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        empty(reply, self.with(|state| state.alive(fh).and_then(|()| state.allocate(ino.0, offset, length, mode))));
    }
}
