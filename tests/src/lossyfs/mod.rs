//! A file system in user space that forgets unsynced writes when the power is cut.
//!
//! Tests put a store on it, kill the writer, call [`Mounted::cut`] and look at what a machine would find after the
//! power came back. `SIGKILL` alone shows nothing of this: the page cache of the host survives it. The fault model is
//! that of LazyFS (INESC TEC): the page cache is lost, the disk and the metadata journal are honest.
//!
//! What is injected:
//! - Power cut: every file returns to the contents and length of its last successful fsync or fdatasync, by any handle.
//!   A write on an `O_SYNC` or `O_DSYNC` handle and `msync(MS_SYNC)` count as one; `sync_file_range`, `sync(2)`,
//!   `syncfs(2)` and closing do **not**. Handles opened before the cut are dead and give EIO, so a writer killed only
//!   after the cut cannot make anything durable, or acknowledge it as such, in between.
//! - [`Options::strict_directories`]: directory entries made, renamed or removed since the last fsync of their
//!   directory are undone as well. Off, they are durable at once, as in LazyFS: a file never synced is there, empty.
//! - [`Fault`]: failing fsync (with or without the loss of the pages), full disk, read-only disk.
//!
//! What is not: torn or reordered writes (a cut keeps all of a sync or none of it), writeback by the kernel on its own
//! (see [`Mounted::write_back`]), disks that lie about a sync, bit rot, loss of mode, owner and times. There are no
//! links, special files or extended attributes, and no renames that exchange; in strict mode directories cannot be
//! moved across directories (EXDEV). A process that is still running after the cut can still create, rename and
//! remove entries by path: kill it before looking. Advisory locks are the kernel's, and go with the process. Shared
//! maps (SQLite's `-shm` file) need Linux 6.6; before that, use `PRAGMA locking_mode=EXCLUSIVE`. All files are held in
//! memory twice; at most 1 GiB is loaded.
//!
//! The backing directory always holds exactly the durable state, and must not be changed behind the mount. Nothing
//! here may reach production code, wait for a client, or keep a mount alive after its [`Mounted`] is dropped.

mod attr;
mod content;
mod mirror;
mod serve;
mod state;
mod tree;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, ensure};
use fuser::{BackgroundSession, INodeNo, MountOption, SessionACL};

use serve::Server;
use state::State;
use tree::Tree;

/// Says in plain words why this file system cannot be used here, if so. Makes a trial mount.
pub fn available() -> Result<(), String> {
    if !Path::new("/dev/fuse").exists() {
        return Err("there is no /dev/fuse (kernel module not loaded, or device not passed to this container)".into());
    }
    let installed =
        |name| env::split_paths(&env::var_os("PATH").unwrap_or_default()).any(|dir| dir.join(name).exists());
    if !rustix::process::geteuid().is_root() && !["fusermount3", "fusermount"].into_iter().any(installed) {
        return Err("this user is not root, and neither fusermount3 nor fusermount is installed".into());
    }
    trial().map_err(|error| format!("a trial mount failed (a container needs CAP_SYS_ADMIN for it): {error:#}"))
}

fn trial() -> anyhow::Result<()> {
    let (backing, mountpoint) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let _mounted = LossyFs::mount(backing.path(), mountpoint.path())?;
    fs::write(mountpoint.path().join("trial"), b"trial")?;
    ensure!(fs::read(mountpoint.path().join("trial"))? == b"trial", "what was written does not read back");
    Ok(())
}

/// How to mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Entries of a directory become durable by an fsync of that directory only.
    pub strict_directories: bool,
}

/// A fault injected into requests until it is replaced or taken back. It survives a power cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// fsync, fdatasync and fsync of directories give EIO, and make nothing durable.
    FailFsync {
        /// So many syncs succeed first.
        skip: u32,
        /// So many fail after that.
        times: u32,
        /// As Linux does since 4.13: the pages count as clean although they are not on the disk, so the next fsync
        /// succeeds without writing them. Off, the next fsync writes them.
        drop_dirty: bool,
    },
    /// Writes give ENOSPC once so many more bytes are written; the write that reaches the limit is cut short.
    /// Overwriting takes room as well, as on a copy-on-write disk. New empty files, and holes, take none.
    NoSpace {
        /// Bytes that still fit.
        bytes: u64,
    },
    /// Everything that would change something gives EROFS, and so does syncing a file with unsynced changes.
    ReadOnly,
}

/// What has happened since the mount.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Stats {
    /// Write requests that succeeded; the kernel may split a large write.
    pub writes: u64,
    /// Bytes in them.
    pub bytes_written: u64,
    /// Changes of length by truncation.
    pub truncations: u64,
    /// Successful fsyncs and fdatasyncs of files, including those a write on an `O_SYNC` handle implies.
    pub syncs: u64,
    /// Successful fsyncs of directories.
    pub dir_syncs: u64,
    /// Power cuts.
    pub cuts: u64,
    /// Requests refused because of a [`Fault`].
    pub faults: u64,
}

/// The file system; see [`LossyFs::mount`].
#[derive(Clone, Copy, Debug)]
pub struct LossyFs;

impl LossyFs {
    /// Shows `backing` at `mountpoint`, with durable directories. Both must exist; neither may lie within the other.
    pub fn mount(backing: &Path, mountpoint: &Path) -> anyhow::Result<Mounted> {
        Self::mount_with(backing, mountpoint, Options::default())
    }

    /// The same with options.
    pub fn mount_with(backing: &Path, mountpoint: &Path, options: Options) -> anyhow::Result<Mounted> {
        sweep();
        let backing = backing.canonicalize().with_context(|| format!("backing {}", backing.display()))?;
        let mountpoint = mountpoint.canonicalize().with_context(|| format!("mount point {}", mountpoint.display()))?;
        let nested = backing.starts_with(&mountpoint) || mountpoint.starts_with(&backing);
        ensure!(!nested, "{} and {} lie within each other", backing.display(), mountpoint.display());
        let tree = Tree::load(&backing, options.strict_directories)?;
        let state = Arc::new(Mutex::new(State::new(tree)));
        let server = Server { state: Arc::clone(&state), backing };
        let mut config = fuser::Config::default();
        config.mount_options = vec![MountOption::FSName("lossyfs".into()), MountOption::DefaultPermissions];
        if rustix::process::geteuid().is_root() {
            config.acl = SessionACL::All;
        }
        let session = fuser::spawn_mount(server, &mountpoint, &config)
            .with_context(|| format!("mounting at {}", mountpoint.display()))?;
        Ok(Mounted { session: Some(session), state, mountpoint })
    }
}

/// A mounted file system. Dropping it forgets what is unsynced and unmounts; if a process still holds files open there,
/// the mount is detached and those files give EIO. What a process killed too early leaves mounted is detached by the
/// next mount.
pub struct Mounted {
    session: Option<BackgroundSession>,
    state: Arc<Mutex<State>>,
    mountpoint: PathBuf,
}

impl Mounted {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// Power cut: forgets every unsynced change and kills every handle, at one instant.
    ///
    /// What a writer had acknowledged before this call counts as acknowledged. Kill the writers before or after.
    pub fn cut(&self) {
        // Pages of shared maps first: they would otherwise outlive the cut in the kernel. Not under the lock, as the
        // kernel writes them back through the server before it answers.
        let known = self.lock().tree.known_files();
        if let Some(session) = &self.session {
            let notifier = session.notifier();
            for ino in known {
                let _gone_meanwhile = notifier.inval_inode(INodeNo(ino), 0, 0);
            }
        }
        self.lock().cut();
    }

    /// Makes everything durable, as writeback by the kernel or a clean shutdown would. Not stopped by a fault.
    pub fn write_back(&self) -> anyhow::Result<()> {
        self.lock().tree.sync_all().map_err(|errno| io::Error::from_raw_os_error(errno.code()).into())
    }

    /// Injects a fault from the next request on, or takes it back.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// Fails the next fsync with EIO and drops its pages, as Linux does.
    pub fn fail_next_fsync(&self) {
        self.set_fault(Some(Fault::FailFsync { skip: 0, times: 1, drop_dirty: true }));
    }

    /// The fault as it stands, with what is left of its counters.
    pub fn fault(&self) -> Option<Fault> {
        self.lock().fault
    }

    /// Counts since the mount.
    pub fn stats(&self) -> Stats {
        self.lock().stats
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mounted").field("mountpoint", &self.mountpoint).finish_non_exhaustive()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.lock().cut();
        let Some(session) = self.session.take() else {
            return;
        };
        let server = unmount(session);
        if mounts().contains(&self.mountpoint) {
            // Busy. The server thread goes on until the last handle is closed; nobody waits for it.
            detach(&self.mountpoint);
            return;
        }
        // Bounded, because a copy of the mount in another namespace would keep the server busy.
        for _ in 0..200 {
            if server.is_finished() {
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Plain unmount: the fields that stay behind in `session` do it when they are dropped here.
fn unmount(session: BackgroundSession) -> JoinHandle<io::Result<()>> {
    let BackgroundSession { guard, .. } = session;
    guard
}

/// Lazy unmount by the tools every Linux has, as the system call is not to be had without unsafe code.
fn detach(mountpoint: &Path) {
    for (tool, flags) in [("umount", &["-l"][..]), ("fusermount3", &["-u", "-z"]), ("fusermount", &["-u", "-z"])] {
        let mut command = Command::new(tool);
        command.args(flags).arg(mountpoint).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if command.status().is_ok_and(|status| status.success()) {
            return;
        }
    }
}

/// Detaches what processes killed before they could unmount have left behind: the kernel says that nobody serves it.
fn sweep() {
    let dead = |path: &PathBuf| fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotConnected);
    mounts().iter().filter(|path| dead(path)).for_each(|path| detach(path));
}

/// Where file systems of this kind are mounted, from the mount table: asking a mount point would ask its server.
fn mounts() -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    let table = String::from_utf8_lossy(&table);
    let ours = table.lines().filter(|line| line.contains(" - fuse lossyfs "));
    ours.filter_map(|line| line.split(' ').nth(4)).map(unescape).collect()
}

/// Undoes the octal escapes of the mount table.
fn unescape(field: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), field.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let (b'\\', Some(byte)) = (first, code) {
            bytes.push(byte);
            rest = &tail[3..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    OsString::from_vec(bytes).into()
}
