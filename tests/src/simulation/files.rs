//! The keyslot file and the journal on a disk that forgets what was not synced.
//! It must not forget anything that was, nor tear anything larger than a sector apart from how a disk would.
//!
//! The files are real ones, in memory where the machine has such a file system; beside them stands what a disk would
//! hold. A failed sync is as on Linux: what it should have written is shown by the file and never reaches the disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cpis_agent::durable::{self, Staged};
use cpis_agent::journal::Disk;

use super::power::{Power, Verdict};

const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Held {
    /// What was synced, by path.
    durable: BTreeMap<PathBuf, Vec<u8>>,
    /// What was written and not synced.
    pending: Vec<(PathBuf, u64, Vec<u8>)>,
}

/// The files of one device.
#[derive(Debug, Clone)]
pub struct Files {
    held: Arc<Mutex<Held>>,
    power: Arc<Power>,
}

fn path_of(file: &File) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn put(image: &mut Vec<u8>, at: u64, bytes: &[u8]) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let end = at.saturating_add(bytes.len());
    if image.len() < end {
        image.resize(end, 0);
    }
    if let Some(to) = image.get_mut(at..end) {
        to.copy_from_slice(bytes);
    }
}

impl Files {
    /// Of a device whose power this is.
    #[must_use]
    pub fn new(power: Arc<Power>) -> Self {
        Self { held: Arc::default(), power }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes files as they are for synced: after enrolment, which is not simulated.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn adopt(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            for entry in path.read_dir()? {
                self.adopt(&entry?.path())?;
            }
            return Ok(());
        }
        let content = std::fs::read(path)?;
        self.held().durable.insert(path.to_owned(), content);
        Ok(())
    }

    /// The power went: of every unsynced write any of its sectors is on the disk, or none.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn lose_power(&self) -> io::Result<()> {
        let mut held = self.held();
        let pending = std::mem::take(&mut held.pending);
        for (path, at, bytes) in pending {
            let Some(image) = held.durable.get_mut(&path) else { continue };
            for (place, part) in bytes.chunks(SECTOR).enumerate() {
                if self.power.coin() {
                    put(image, at + (place * SECTOR) as u64, part);
                }
            }
        }
        let mut directories: Vec<&Path> = held.durable.keys().filter_map(|path| path.parent()).collect();
        directories.dedup();
        for directory in directories {
            for entry in directory.read_dir()? {
                let path = entry?.path();
                // Not the locks, which the kernel let go of; nor what is never written after enrolment.
                let ours = path.extension().is_some_and(|ending| ending == "journal" || ending == "new");
                if ours && path.is_file() && !held.durable.contains_key(&path) {
                    std::fs::remove_file(path)?;
                }
            }
        }
        for (path, content) in &held.durable {
            if std::fs::read(path).ok().as_ref() != Some(content) {
                std::fs::write(path, content)?;
            }
        }
        Ok(())
    }

    fn failed(verdict: Verdict) -> io::Error {
        match verdict {
            Verdict::Fails { full: true, .. } => io::ErrorKind::StorageFull.into(),
            Verdict::Fails { .. } | Verdict::Done => io::Error::other("the simulated disk fails"),
        }
    }

    /// Does a step that the power lets through, or the part of it that reached the disk.
    fn step<T>(&self, grows: bool, work: impl FnOnce(&mut Held) -> io::Result<T>) -> io::Result<T> {
        match self.power.step(grows) {
            Verdict::Done => work(&mut self.held()),
            verdict @ Verdict::Fails { reached, .. } => {
                if reached {
                    work(&mut self.held())?;
                }
                Err(Self::failed(verdict))
            }
        }
    }
}

impl Disk for Files {
    fn reserve(&mut self, file: &File, at: u64, length: u64) -> io::Result<()> {
        self.step(true, |_| durable::reserve(file, at, length))
    }

    fn write(&mut self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let path = path_of(file)?;
        self.step(false, |held| {
            held.pending.push((path, at, bytes.to_vec()));
            file.write_all_at(bytes, at)
        })
    }

    fn sync(&mut self, file: &File) -> io::Result<()> {
        let path = path_of(file)?;
        let verdict = self.power.step(false);
        let reached = matches!(verdict, Verdict::Done | Verdict::Fails { reached: true, .. });
        let off = self.power.is_off().is_some();
        let mut held = self.held();
        let Held { durable, pending } = &mut *held;
        if let Some(image) = durable.get_mut(&path).filter(|_| reached) {
            for (_, at, bytes) in pending.iter().filter(|(of, ..)| *of == path) {
                put(image, *at, bytes);
            }
        }
        // A power cut in the middle leaves it to chance; an error of the disk takes it for written.
        if reached || !off {
            pending.retain(|(of, ..)| *of != path);
        }
        match verdict {
            Verdict::Done => Ok(()),
            Verdict::Fails { .. } => Err(Self::failed(verdict)),
        }
    }

    fn truncate(&mut self, file: &File, length: u64) -> io::Result<()> {
        self.step(false, |_| file.set_len(length))
    }

    fn stage(&mut self, path: &Path, bytes: &[u8]) -> io::Result<Staged> {
        self.step(true, |_| Staged::write(path, bytes))
    }

    fn publish(&mut self, staged: Staged) -> io::Result<()> {
        let path = staged.target().to_owned();
        self.step(false, |held| {
            staged.publish()?;
            held.pending.retain(|(of, ..)| *of != path);
            let content = std::fs::read(&path)?;
            held.durable.insert(path, content);
            Ok(())
        })
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.step(false, |held| {
            durable::remove(path)?;
            held.pending.retain(|(of, ..)| of != path);
            held.durable.remove(path);
            Ok(())
        })
    }
}
