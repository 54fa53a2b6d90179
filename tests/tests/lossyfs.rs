//! The lossy file system itself: it must forget what was not synced, keep what was, and bite where a real store is
//! known to lose data. Where FUSE is not available these tests say so on stderr and pass without having run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use cpis_tests::lossyfs::{self, Fault, LossyFs, Mounted, Options};
use tempfile::TempDir;

/// A mount with its two directories; the fields are dropped in this order.
struct Bench {
    mounted: Mounted,
    backing: TempDir,
    mountpoint: TempDir,
}

impl Bench {
    /// None, said aloud, where FUSE cannot be used.
    fn new(strict_directories: bool) -> Result<Option<Self>> {
        if let Err(reason) = lossyfs::available() {
            // Straight to stderr, past the capture of the test harness.
            writeln!(io::stderr(), "NOT RUN: lossyfs: {reason}")?;
            return Ok(None);
        }
        let (backing, mountpoint) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let mounted = LossyFs::mount_with(backing.path(), mountpoint.path(), Options { strict_directories })?;
        Ok(Some(Self { mounted, backing, mountpoint }))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.path().join(name)
    }

    /// What is there after the cut, which must be the same in the mount and in the backing directory.
    fn left(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let read = |path: PathBuf| match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let (seen, stored) = (read(self.path(name))?, read(self.backing.path().join(name))?);
        ensure!(seen == stored, "{name}: mount and backing directory differ");
        Ok(seen)
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<File> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    Ok(file)
}

fn errno<T>(result: io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[test]
fn plain_files_return_to_their_last_sync() -> Result<()> {
    let Some(bench) = Bench::new(false)? else {
        return Ok(());
    };
    let base: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();

    let partly = write_synced(&bench.path("partly"), &base)?;
    partly.write_all_at(&[0xee; 5000], 40_000)?;
    partly.write_all_at(b"beyond the end", 200_000)?;
    fs::write(bench.path("never"), b"never synced")?;
    write_synced(&bench.path("shorter"), &base)?.set_len(10)?;
    let regrown = write_synced(&bench.path("regrown"), &base)?;
    regrown.set_len(10)?;
    regrown.set_len(20)?;
    regrown.sync_all()?;
    // By inode, not by handle: written through one, synced through another, opened before the write.
    let other = File::create(bench.path("other-handle"))?;
    fs::write(bench.path("other-handle"), b"kept")?;
    other.sync_all()?;
    OpenOptions::new().append(true).open(bench.path("other-handle"))?.write_all(b" lost")?;
    // The classic: a new version renamed over the old one without a sync is an empty file.
    write_synced(&bench.path("config"), b"old")?;
    fs::write(bench.path("config.tmp"), b"new")?;
    fs::rename(bench.path("config.tmp"), bench.path("config"))?;
    let mut sync_on_write = OpenOptions::new();
    sync_on_write.write(true).create(true).custom_flags(libc::O_DSYNC);
    sync_on_write.open(bench.path("dsync"))?.write_all(b"through")?;
    assert_eq!(fs::read(bench.path("config"))?, b"new");
    assert_eq!(fs::metadata(bench.path("partly"))?.len(), 200_014);

    bench.mounted.cut();
    assert_eq!(bench.left("partly")?, Some(base.clone()));
    assert_eq!(fs::metadata(bench.path("partly"))?.len(), 100_000);
    assert_eq!(bench.left("never")?, Some(Vec::new()));
    assert_eq!(bench.left("shorter")?, Some(base.clone()));
    assert_eq!(bench.left("regrown")?, Some([&base[..10], &[0; 10]].concat()));
    assert_eq!(bench.left("other-handle")?, Some(b"kept".to_vec()));
    assert_eq!(bench.left("config")?, Some(Vec::new()));
    assert_eq!(bench.left("config.tmp")?, None);
    assert_eq!(bench.left("dsync")?, Some(b"through".to_vec()));
    assert_eq!(errno(partly.write_at(b"x", 0)), Some(libc::EIO), "a handle from before the cut");
    assert_eq!(errno(partly.sync_all()), Some(libc::EIO), "a handle from before the cut");

    // Appending after the cut goes to the end as it is now, not as the kernel may remember it.
    let mut append = OpenOptions::new().append(true).open(bench.path("other-handle"))?;
    append.write_all(b"!")?;
    append.sync_all()?;
    bench.mounted.cut();
    assert_eq!(bench.left("other-handle")?, Some(b"kept!".to_vec()));
    assert_eq!(bench.mounted.stats().cuts, 2);
    Ok(())
}

#[test]
fn strict_directories_forget_entries_never_synced() -> Result<()> {
    let Some(bench) = Bench::new(true)? else {
        return Ok(());
    };
    let sync_dir = |name: &str| File::open(bench.path(name))?.sync_all();
    for name in ["stays", "removed", "before"] {
        write_synced(&bench.path(name), name.as_bytes())?;
    }
    fs::create_dir(bench.path("dir"))?;
    sync_dir(".")?;
    fs::remove_file(bench.path("removed"))?;
    fs::rename(bench.path("before"), bench.path("after"))?;
    write_synced(&bench.path("vanishes"), b"synced, but its directory was not")?;
    write_synced(&bench.path("dir/kept"), b"kept")?;
    sync_dir("dir")?;
    write_synced(&bench.path("dir/lost"), b"lost")?;
    fs::create_dir(bench.path("new"))?;
    write_synced(&bench.path("new/inner"), b"its directory is synced, but that one's is not")?;
    sync_dir("new")?;

    bench.mounted.cut();
    for name in ["stays", "removed", "before"] {
        assert_eq!(bench.left(name)?, Some(name.as_bytes().to_vec()));
    }
    for name in ["after", "vanishes", "dir/lost", "new/inner", "new"] {
        assert_eq!(bench.left(name)?, None, "{name}");
    }
    assert_eq!(bench.left("dir/kept")?, Some(b"kept".to_vec()));

    // The full recipe for replacing a file, which survives.
    write_synced(&bench.path("stays.tmp"), b"replaced")?;
    fs::rename(bench.path("stays.tmp"), bench.path("stays"))?;
    sync_dir(".")?;
    bench.mounted.cut();
    assert_eq!(bench.left("stays")?, Some(b"replaced".to_vec()));
    assert_eq!(bench.left("stays.tmp")?, None);

    fs::create_dir(bench.path("written-back"))?;
    fs::write(bench.path("written-back/file"), b"by the kernel")?;
    bench.mounted.write_back()?;
    bench.mounted.cut();
    assert_eq!(bench.left("written-back/file")?, Some(b"by the kernel".to_vec()));
    Ok(())
}

#[test]
fn ordinary_file_calls_work() -> Result<()> {
    let Some(bench) = Bench::new(false)? else {
        return Ok(());
    };
    fs::create_dir_all(bench.path("a/b/c"))?;
    for n in 0..700 {
        fs::write(bench.path(&format!("a/b/file-with-a-longish-name-{n:04}")), n.to_string())?;
    }
    assert_eq!(fs::read_dir(bench.path("a/b"))?.count(), 701);
    fs::rename(bench.path("a/b"), bench.path("moved"))?;
    assert_eq!(fs::read(bench.backing.path().join("moved/file-with-a-longish-name-0699"))?, b"", "not synced");
    assert_eq!(fs::read(bench.path("moved/file-with-a-longish-name-0699"))?, b"699");
    assert_eq!(errno(fs::remove_dir(bench.path("moved"))), Some(libc::ENOTEMPTY));
    fs::remove_dir_all(bench.path("moved"))?;
    assert_eq!(errno(fs::metadata(bench.path("moved"))), Some(libc::ENOENT));

    let mut file = write_synced(&bench.path("source"), &[7; 300_000])?;
    assert_eq!(fs::copy(bench.path("source"), bench.path("copy"))?, 300_000);
    assert_eq!(fs::read(bench.path("copy"))?, vec![7; 300_000]);
    file.try_lock()?;
    assert!(File::open(bench.path("source"))?.try_lock().is_err(), "flock is not held");
    file.unlock()?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 400_000)?;
    assert_eq!(file.seek(SeekFrom::End(0))?, 400_000);
    let punch = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 100, 100)?;
    let mut byte = [1];
    file.read_exact_at(&mut byte, 150)?;
    assert_eq!(byte, [0]);
    let no_replace = rustix::fs::RenameFlags::NOREPLACE;
    let (from, to) = (bench.path("copy"), bench.path("source"));
    let refused = rustix::fs::renameat_with(rustix::fs::CWD, &from, rustix::fs::CWD, &to, no_replace);
    assert_eq!(refused, Err(rustix::io::Errno::EXIST));
    // An unlinked file stays usable through its handle, and a file without a name can be had.
    fs::remove_file(bench.path("source"))?;
    file.write_all_at(b"still here", 0)?;
    file.sync_all()?;
    tempfile::tempfile_in(bench.mountpoint.path())?.write_all(b"nameless")?;
    fs::set_permissions(bench.path("copy"), std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    assert_eq!(rustix::fs::stat(bench.backing.path().join("copy"))?.st_mode & 0o7777, 0o600);
    ensure!(rustix::fs::statvfs(bench.mountpoint.path())?.f_bavail > 0, "no room is reported");
    Ok(())
}

#[test]
fn faults_act_until_taken_back() -> Result<()> {
    let Some(bench) = Bench::new(false)? else {
        return Ok(());
    };
    let mut file = write_synced(&bench.path("file"), b"synced")?;

    bench.mounted.set_fault(Some(Fault::ReadOnly));
    assert_eq!(errno(file.write(b"x")), Some(libc::EROFS));
    assert_eq!(errno(file.set_len(0)), Some(libc::EROFS));
    assert_eq!(errno(File::create(bench.path("new"))), Some(libc::EROFS));
    assert_eq!(errno(fs::rename(bench.path("file"), bench.path("name"))), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(bench.path("file"))), Some(libc::EROFS));
    assert_eq!(errno(fs::create_dir(bench.path("dir"))), Some(libc::EROFS));
    assert_eq!(fs::read(bench.path("file"))?, b"synced");
    file.sync_all()?;

    bench.mounted.set_fault(Some(Fault::NoSpace { bytes: 10 }));
    assert_eq!(file.write(b" 7 bytes")?, 8);
    assert_eq!(file.write(b"four")?, 2, "the write that fills the disk is cut short");
    assert_eq!(errno(file.write(b"x")), Some(libc::ENOSPC));
    assert_eq!(bench.mounted.fault(), Some(Fault::NoSpace { bytes: 0 }));
    file.sync_all()?;

    let fail = |skip, times, drop_dirty| bench.mounted.set_fault(Some(Fault::FailFsync { skip, times, drop_dirty }));
    fail(1, 2, false);
    file.write_all(b"!")?;
    file.sync_all()?;
    file.write_all(b"?")?;
    assert_eq!(errno(file.sync_all()), Some(libc::EIO));
    assert_eq!(errno(File::open(bench.mountpoint.path())?.sync_all()), Some(libc::EIO), "directories too");
    file.sync_all()?;
    bench.mounted.cut();
    assert_eq!(bench.left("file")?, Some(b"synced 7 bytesfo!?".to_vec()));

    // A failed fsync whose pages are gone: the second one succeeds and has written nothing.
    let file = OpenOptions::new().write(true).open(bench.path("file"))?;
    bench.mounted.fail_next_fsync();
    file.write_all_at(b"SYNC", 0)?;
    assert_eq!(errno(file.sync_all()), Some(libc::EIO));
    file.sync_all()?;
    assert_eq!(fs::read(bench.path("file"))?, b"SYNCed 7 bytesfo!?");
    bench.mounted.cut();
    assert_eq!(bench.left("file")?, Some(b"synced 7 bytesfo!?".to_vec()));

    bench.mounted.set_fault(None);
    write_synced(&bench.path("file"), b"well again")?;
    bench.mounted.cut();
    assert_eq!(bench.left("file")?, Some(b"well again".to_vec()));
    assert!(bench.mounted.stats().faults >= 10, "{:?}", bench.mounted.stats());
    Ok(())
}

#[test]
fn dropping_unmounts_even_if_busy() -> Result<()> {
    let Some(Bench { mounted, backing, mountpoint }) = Bench::new(false)? else {
        return Ok(());
    };
    let file = write_synced(&mountpoint.path().join("file"), b"synced")?;
    file.write_all_at(b"unsynced and longer", 0)?;
    drop(mounted);
    assert_eq!(fs::read_dir(mountpoint.path())?.count(), 0, "the mount is still there");
    assert_eq!(errno(file.sync_all()), Some(libc::EIO));
    assert_eq!(fs::read(backing.path().join("file"))?, b"synced");
    // What was left behind can be mounted again, and neither directory may lie within the other.
    let again = LossyFs::mount(backing.path(), mountpoint.path())?;
    assert_eq!(fs::read(again.mountpoint().join("file"))?, b"synced");
    drop(again);
    assert!(LossyFs::mount(mountpoint.path(), mountpoint.path()).is_err());
    Ok(())
}

#[test]
fn a_mount_left_by_a_killed_process_is_detached_by_the_next() -> Result<()> {
    let Some(_fuse) = Bench::new(false)? else { return Ok(()) };
    let dir = tempfile::Builder::new().prefix("with space \\040 ").tempdir()?;
    let (backing, mountpoint) = (dir.path().join("backing"), dir.path().join("mountpoint"));
    fs::create_dir(&backing)?;
    fs::create_dir(&mountpoint)?;
    let (child, mut lines) = spawn(dir.path(), "mount", 0)?;
    assert_eq!(lines.next().as_deref(), Some("mounted"));
    fs::write(mountpoint.join("file"), b"served")?;
    drop(child);
    assert!(fs::read(mountpoint.join("file")).is_err(), "somebody still serves it");
    let elsewhere = tempfile::tempdir()?;
    let mounted = LossyFs::mount(&backing, elsewhere.path())?;
    assert_eq!(fs::read_dir(&mountpoint)?.count(), 0, "the dead mount is still there");
    assert_eq!(fs::read(mounted.mountpoint().join("file"))?, b"");
    drop(mounted);
    Ok(())
}

const STORE: &str = "CPIS_LOSSYFS_STORE";
const MODE: &str = "CPIS_LOSSYFS_MODE";
const FIRST: &str = "CPIS_LOSSYFS_FIRST";

fn payload(key: u64) -> Vec<u8> {
    (0..key * 37 % 900 + 20).map(|n| (n ^ key) as u8).collect()
}

/// Not a test of its own but the program of the children: writes without end, lists what is there, or holds a mount.
#[test]
fn child() -> Result<()> {
    let Some(store) = std::env::var_os(STORE).map(PathBuf::from) else {
        return Ok(());
    };
    let mode = std::env::var(MODE)?;
    let mut out = io::stdout();
    if mode == "mount" {
        let _mounted = LossyFs::mount(&store.join("backing"), &store.join("mountpoint"))?;
        writeln!(out, "\nkey mounted")?;
        loop {
            std::thread::park();
        }
    }
    let db = sled::Config::new().path(&store).flush_every_ms(None).open()?;
    if mode == "read" {
        for entry in db.iter() {
            let (key, value) = entry?;
            let key = u64::from_be_bytes(key.as_ref().try_into()?);
            ensure!(value.as_ref() == payload(key), "key {key} has a wrong value");
            writeln!(out, "\nkey {key}")?;
        }
        writeln!(out, "\nkey end")?;
        return Ok(());
    }
    let handle = File::open(store.join("db"))?;
    for key in std::env::var(FIRST)?.parse::<u64>()?.. {
        db.insert(key.to_be_bytes(), payload(key))?;
        db.flush()?;
        if mode == "flush and sync" {
            handle.sync_data()?;
        }
        writeln!(out, "\nkey {key}")?;
    }
    Ok(())
}

/// A child that is killed and reaped in any case.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _status = self.0.wait();
    }
}

fn spawn(store: &Path, mode: &str, first: u64) -> Result<(Killed, impl Iterator<Item = String> + use<>)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--exact", "child", "--nocapture"]);
    command.env(STORE, store).env(MODE, mode).env(FIRST, first.to_string());
    let mut child = Killed(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?);
    let lines = BufReader::new(child.0.stdout.take().context("no stdout")?).lines().map_while(Result::ok);
    Ok((child, lines.filter_map(|line| Some(line.strip_prefix("key ")?.to_owned()))))
}

/// Writes until `count` keys are acknowledged, cuts the power, kills the writer; the number of the next key.
fn write_and_cut(bench: &Bench, mode: &str, first: u64, count: usize) -> Result<u64> {
    let (child, mut acks) = spawn(&bench.path("store"), mode, first)?;
    let last = acks.by_ref().take(count).last().context("the writer acknowledged nothing")?;
    bench.mounted.cut();
    drop(child);
    // Whatever else it acknowledged counts too: past the cut, no sync of a dead handle can have succeeded.
    let last = acks.filter(|_| mode == "flush and sync").last().unwrap_or(last);
    Ok(last.parse::<u64>()? + 1)
}

/// How many of the keys below `next` are lost; all of them if the store does not open any more.
fn lost(bench: &Bench, next: u64) -> Result<usize> {
    let (child, lines) = spawn(&bench.path("store"), "read", 0)?;
    let lines: BTreeSet<String> = lines.collect();
    drop(child);
    let readable = lines.contains("end");
    Ok((0..next).filter(|key| !readable || !lines.contains(&key.to_string())).count())
}

#[test]
fn sled_flush_loses_acknowledged_writes() -> Result<()> {
    let mut losses = Vec::new();
    for run in 0..3 {
        let Some(bench) = Bench::new(false)? else {
            return Ok(());
        };
        let next = write_and_cut(&bench, "flush", 0, 30 + run * 40)?;
        losses.push((lost(&bench, next)?, next));
    }
    assert!(losses.iter().any(|(lost, _)| *lost > 0), "the emulation does not bite: {losses:?}");
    Ok(())
}

#[test]
fn sled_flush_and_sync_loses_nothing() -> Result<()> {
    let Some(bench) = Bench::new(false)? else {
        return Ok(());
    };
    let mut next = 0;
    for run in 0..12 {
        next = write_and_cut(&bench, "flush and sync", next, 5 + run * 17)?;
        assert_eq!(lost(&bench, next)?, 0, "of {next} keys after cut {run}");
    }
    assert_eq!(bench.mounted.stats().cuts, 12);
    Ok(())
}
