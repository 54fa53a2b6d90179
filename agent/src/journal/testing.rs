//! What the journal's tests share: links, receipts, segments made by hand, and disks that fail or lose power.
//! It must not be compiled into anything but tests.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cpis_protocol::Refusal;
use cpis_protocol::audit::{LINK_BYTES, Link, Receipt, Tip};
use cpis_protocol::id::{ChainId, DeviceId};
use cpis_protocol::sign::{self, Kind, Signer, Verified};
use tempfile::TempDir;

use super::disk::Disk;
use super::format::{Header, Record};
use super::{Journal, JournalError, Options, Priority, layout};
use crate::durable::{self, Staged};

pub(crate) const DEVICE: DeviceId = DeviceId([7; 16]);
pub(crate) const CHAIN: ChainId = ChainId([9; 16]);
pub(crate) const SMALL: Options =
    Options { capacity_bytes: 4 * 1024 * 1024, emergency_bytes: 8 * 1024, segment_bytes: 4 * 1024 };

/// In memory where there is such a file system, because most tests are not about the disk.
pub(crate) fn dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The journal checks hashes, not signatures, so any bytes are a link.
pub(super) fn link(tip: &Tip) -> (Link, Tip) {
    let mut bytes = [0x5a; LINK_BYTES];
    bytes[..8].copy_from_slice(&(tip.seq + 1).to_be_bytes());
    let link = Link::from_bytes(&bytes).unwrap();
    let next = tip.follow(&DEVICE, &link);
    (link, next)
}

pub(crate) fn append(journal: &Journal) -> Result<Tip, JournalError> {
    journal.append(Priority::Routine, |tip| Ok(link(tip))).map(|(_, tip)| tip)
}

/// The tip after `seq` links of [`link`].
pub(super) fn tip_at(chain: ChainId, seq: u64) -> Tip {
    (0..seq).fold(Tip::start(&DEVICE, chain), |tip, _| link(&tip).1)
}

pub(super) fn receipt_for(device: DeviceId, through: Tip) -> Verified<Receipt> {
    let server = Signer::from_seed([3; 32]);
    let bytes = server.sign(Kind::Receipt, &Receipt { device, through, issued_ms: 5 }).unwrap();
    sign::verify(&bytes, Kind::Receipt, &[server.public_key()], 1, 1024).unwrap()
}

pub(crate) fn receipt(through: Tip) -> Verified<Receipt> {
    receipt_for(DEVICE, through)
}

/// A segment made by hand: its bytes, and where each group begins.
pub(super) fn segment(before: Tip, acknowledged: Tip, groups: &[usize]) -> (Vec<u8>, Vec<usize>, Tip) {
    let mut bytes = Header::new(DEVICE, before, acknowledged).to_bytes().unwrap();
    let (mut begins, mut tip) = (Vec::new(), before);
    for links in groups {
        let group = bytes.len();
        begins.push(group);
        for _ in 0..*links {
            let (link, next) = link(&tip);
            Record::Link(Box::new(link), next.hash).write(group as u32, &mut bytes).unwrap();
            tip = next;
        }
    }
    (bytes, begins, tip)
}

/// Puts a segment where the journal looks for it; says where that is.
pub(super) fn place(root: &Path, before: &Tip, bytes: &[u8]) -> PathBuf {
    let chain = root.join("chain-0000000001");
    durable::create_dir(&chain).unwrap();
    let path = layout::segment_path(&chain, before);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The durable steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Reserve,
    Write,
    Sync,
    Truncate,
    Stage,
    Publish,
    Remove,
}

/// Counts the steps and fails one kind of them for as long as it is told to.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) syncs: usize,
    pub(super) fail: Option<(Step, io::ErrorKind)>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct FaultDisk(Arc<Mutex<Plan>>);

impl FaultDisk {
    pub(super) fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, step: Step) -> io::Result<()> {
        match self.plan().fail {
            Some((failing, kind)) if failing == step => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

impl Disk for FaultDisk {
    fn reserve(&mut self, file: &File, at: u64, length: u64) -> io::Result<()> {
        self.step(Step::Reserve)?;
        durable::reserve(file, at, length)
    }
    fn write(&mut self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Err(error) = self.step(Step::Write) {
            file.write_all_at(&bytes[..bytes.len() / 2], at)?;
            return Err(error);
        }
        file.write_all_at(bytes, at)
    }
    fn sync(&mut self, _file: &File) -> io::Result<()> {
        self.step(Step::Sync)?;
        self.plan().syncs += 1;
        // As slow as a tablet's flash, so that groups gather.
        std::thread::sleep(std::time::Duration::from_millis(1));
        Ok(())
    }
    fn truncate(&mut self, file: &File, length: u64) -> io::Result<()> {
        self.step(Step::Truncate)?;
        file.set_len(length)
    }
    fn stage(&mut self, path: &Path, bytes: &[u8]) -> io::Result<Staged> {
        self.step(Step::Stage)?;
        Staged::write(path, bytes)
    }
    fn publish(&mut self, staged: Staged) -> io::Result<()> {
        self.step(Step::Publish)?;
        staged.publish()
    }
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.step(Step::Remove)?;
        durable::remove(path)
    }
}

/// A new journal of [`DEVICE`], and what makes its syncs fail from then on.
pub(crate) fn journal_to_poison(root: &Path) -> (Journal, impl FnOnce() + use<>) {
    drop(Journal::create(root, DEVICE, CHAIN, SMALL).unwrap());
    let disk = FaultDisk::default();
    let (journal, _) = Journal::open_on(root, DEVICE, SMALL, Box::new(disk.clone())).unwrap();
    (journal, move || disk.plan().fail = Some((Step::Sync, io::ErrorKind::Other)))
}

/// What a disk really holds, beside what the page cache shows.
#[derive(Debug)]
pub(super) struct Power {
    /// What was synced, by path.
    durable: BTreeMap<PathBuf, Vec<u8>>,
    /// What was written and not synced.
    pending: Vec<(PathBuf, u64, Vec<u8>)>,
    /// Steps until the power goes.
    pub(super) steps: usize,
    random: u64,
}

impl Power {
    pub(super) fn coin(&mut self) -> bool {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 63 == 1
    }

    /// Puts what the disk holds after the cut into `root`: of every unsynced write any of its sectors, or none.
    pub(super) fn restore(&mut self, from: &Path, root: &Path) {
        let mut files = self.durable.clone();
        for (path, at, bytes) in std::mem::take(&mut self.pending) {
            let Some(file) = files.get_mut(&path) else { continue };
            for (place, byte_at) in (at as usize..at as usize + bytes.len()).enumerate() {
                if byte_at % 512 == 0 || place == 0 {
                    self.random = self.random.rotate_left(9) ^ u64::from(self.coin());
                }
                if self.random & 1 == 1 {
                    file.resize(file.len().max(byte_at + 1), 0);
                    file[byte_at] = bytes[place];
                }
            }
        }
        for (path, bytes) in files {
            let to = root.join(path.strip_prefix(from).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::write(to, bytes).unwrap();
        }
    }
}

/// A disk whose power goes after a number of steps. Only what was synced is believed to be there.
#[derive(Debug, Clone)]
pub(super) struct PowerDisk(pub(super) Arc<Mutex<Power>>);

impl PowerDisk {
    pub(super) fn new(root: &Path, steps: usize, seed: u64) -> Self {
        let mut durable = BTreeMap::new();
        for (_, chain) in layout::chains(root).unwrap() {
            for (_, path) in layout::segments(&chain).unwrap() {
                durable.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
        Self(Arc::new(Mutex::new(Power { durable, pending: Vec::new(), steps, random: seed })))
    }

    fn power(&self) -> MutexGuard<'_, Power> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `Err` when the power is gone; the second is whether the step still reached the disk.
    fn step(&self) -> Result<(), (io::Error, bool)> {
        let mut power = self.power();
        if power.steps == 0 {
            return Err((io::Error::other("no power"), false));
        }
        power.steps -= 1;
        if power.steps == 0 {
            let reached = power.coin();
            return Err((io::Error::other("power cut"), reached));
        }
        Ok(())
    }
}

fn path_of(file: &File) -> PathBuf {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap()
}

impl Disk for PowerDisk {
    fn write(&mut self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        let result = self.step();
        if matches!(result, Ok(()) | Err((_, true))) {
            self.power().pending.push((path_of(file), at, bytes.to_vec()));
        }
        result.map_err(|(error, _)| error)?;
        file.write_all_at(bytes, at)
    }
    fn sync(&mut self, file: &File) -> io::Result<()> {
        self.step().map_err(|(error, _)| error)?;
        let path = path_of(file);
        let content = std::fs::read(&path)?;
        let mut power = self.power();
        power.pending.retain(|(pending, ..)| *pending != path);
        power.durable.insert(path, content);
        Ok(())
    }
    fn truncate(&mut self, file: &File, length: u64) -> io::Result<()> {
        self.step().map_err(|(error, _)| error)?;
        file.set_len(length)
    }
    fn publish(&mut self, staged: Staged) -> io::Result<()> {
        let result = self.step();
        let path = staged.target().to_owned();
        if matches!(result, Ok(()) | Err((_, true))) {
            staged.publish()?;
            let content = std::fs::read(&path)?;
            self.power().durable.insert(path, content);
        }
        result.map_err(|(error, _)| error)
    }
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        let result = self.step();
        if matches!(result, Ok(()) | Err((_, true))) {
            durable::remove(path)?;
            self.power().durable.remove(path);
        }
        result.map_err(|(error, _)| error)
    }
}

/// For closures that must not be called.
pub(super) fn never(_: &Tip) -> Result<(Link, Tip), Refusal> {
    panic!("the journal must refuse before a link is made")
}
