//! The audit journal: the only copy of the device's audit chain that counts, in files that are only appended to.
//! It must not tell a caller that an event is kept before it is on stable storage, nor let go of a link that no
//! verified receipt covers.
//!
//! | file | what it owns |
//! |---|---|
//! | `format.rs` | the bytes: segment header, record frame, frozen in tests |
//! | `scan.rs` | one segment from first byte to tail; torn or damaged |
//! | `recover.rs` | a whole chain; what is cut off and when |
//! | `index.rs` | the unacknowledged links in memory, 56 bytes each |
//! | `layout.rs` | names, staging, new chains |
//! | `writer.rs` | the thread that writes, syncs, rolls and prunes |
//! | `options.rs` | how much it may hold, and what opening it says |
//! | `disk.rs` | each durable step as a seam for tests |
//!
//! Callers make and sign their link on their own thread, one after the other, from the tip behind everything that
//! waits; the writer takes all that waits as one group. While it syncs, the next group gathers.

mod disk;
mod error;
mod format;
mod index;
mod layout;
mod options;
mod recover;
mod scan;
mod writer;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod recovery_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use cpis_protocol::audit::{Batch, Link, Receipt, Tip};
use cpis_protocol::digest::Hash;
use cpis_protocol::id::{ChainId, DeviceId};
use cpis_protocol::sign::Verified;
use cpis_protocol::{Refusal, limits};

pub use self::disk::{Disk, OsDisk};
pub use self::error::JournalError;
use self::format::{Framed, LINK_RECORD_BYTES, Record};
use self::index::Entry;
pub use self::options::{Fill, Options, Priority, Recovery};
pub use self::recover::ClosedChain;
use self::writer::{Shared, State, What, Work, Writer};
use crate::durable;

/// Space is reserved in such steps.
const RESERVE_STEP: u64 = 256 * 1024;
/// Links never use the last of the reserved space, so that receipts, which free space, can be written on a full disk.
const RECEIPT_ROOM: u64 = 16 * 1024;
/// A covered segment of more than this is left for a new one, so that its bytes can go.
const ROLL_COVERED_BYTES: u64 = 64 * 1024;

/// The open journal; share it by reference between threads. Dropped, it finishes what waits and releases the lock.
pub struct Journal {
    shared: Arc<Shared>,
    device: DeviceId,
    options: Options,
    thread: Option<JoinHandle<()>>,
    /// Released last, after the thread has ended.
    _lock: durable::Lock,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Journal {
    /// Makes the journal of a newly enrolled device in `dir`, whose parent must exist, and opens it.
    ///
    /// # Errors
    /// [`JournalError::Exists`], [`JournalError::InUse`], [`JournalError::Io`].
    pub fn create(dir: &Path, device: DeviceId, chain: ChainId, options: Options) -> Result<Self, JournalError> {
        options.check()?;
        durable::create_dir(dir).map_err(JournalError::io("make the directory"))?;
        let lock = take_lock(dir)?;
        if !layout::chains(dir).map_err(JournalError::io("list the chains"))?.is_empty() {
            return Err(JournalError::Exists(dir.to_owned()));
        }
        begin(dir, 1, device, chain)?;
        Self::start(dir, device, options, Box::new(OsDisk), lock).map(|(journal, _)| journal)
    }

    /// Opens the journal: reads and checks all of the chain in use, cuts off a torn tail, prunes what is covered.
    ///
    /// # Errors
    /// [`JournalError::Missing`], [`JournalError::InUse`], [`JournalError::Damaged`], [`JournalError::Lost`],
    /// [`JournalError::Format`], [`JournalError::WrongDevice`]: nothing was changed. [`JournalError::Io`].
    pub fn open(dir: &Path, device: DeviceId, options: Options) -> Result<(Self, Recovery), JournalError> {
        Self::open_on(dir, device, options, Box::new(OsDisk))
    }

    /// The same over the given durable steps.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(
        dir: &Path,
        device: DeviceId,
        options: Options,
        disk: Box<dyn Disk>,
    ) -> Result<(Self, Recovery), JournalError> {
        options.check()?;
        if layout::chains(dir).map_err(JournalError::io("list the chains"))?.is_empty() {
            return Err(JournalError::Missing(dir.to_owned()));
        }
        let lock = take_lock(dir)?;
        Self::start(dir, device, options, disk, lock)
    }

    /// Leaves a damaged chain where it is, as evidence, and begins another. For an operator's explicit decision.
    ///
    /// # Errors
    /// [`JournalError::Missing`], [`JournalError::InUse`], [`JournalError::Io`].
    pub fn start_over(
        dir: &Path,
        device: DeviceId,
        chain: ChainId,
        options: Options,
    ) -> Result<(Self, Recovery), JournalError> {
        options.check()?;
        let chains = layout::chains(dir).map_err(JournalError::io("list the chains"))?;
        let Some((number, _)) = chains.last() else { return Err(JournalError::Missing(dir.to_owned())) };
        let lock = take_lock(dir)?;
        begin(dir, number.saturating_add(1), device, chain)?;
        Self::start(dir, device, options, Box::new(OsDisk), lock)
    }

    fn start(
        root: &Path,
        device: DeviceId,
        options: Options,
        mut disk: Box<dyn Disk>,
        lock: durable::Lock,
    ) -> Result<(Self, Recovery), JournalError> {
        let mut chains = layout::chains(root).map_err(JournalError::io("list the chains"))?;
        let Some((number, dir)) = chains.pop() else { return Err(JournalError::Missing(root.to_owned())) };
        let found = recover::read_chain(&dir, &device)?;
        // Nothing has been changed up to here, and the chain in use is whole.
        let clear = |at: &Path| layout::clear_staged(at).map_err(JournalError::io("delete staged files"));
        let staged_removed = clear(root)? + clear(&found.dir)?;
        let reserved = recover::settle(&found, disk.as_mut())?;
        let (closed, closed_bytes) = recover::closed_chains(&chains, &device)?;
        let used_bytes = closed_bytes + found.used_bytes();
        let (links, torn_bytes) = (found.links, found.torn_bytes);
        let state = State {
            next: found.index.tip(),
            queue: Vec::new(),
            queued_bytes: 0,
            index: found.index,
            used_bytes,
            poisoned: None,
            closing: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), bell: Condvar::new() });
        let mut writer = Writer {
            shared: Arc::clone(&shared),
            disk,
            root: root.to_owned(),
            number,
            device,
            segments: found.segments,
            reserved,
            segment_bytes: options.segment_bytes,
            closed_bytes,
        };
        writer.prune_and_count()?;
        let recovery = Recovery {
            links,
            unacknowledged: shared.lock().index.len(),
            segments: writer.segments.len(),
            torn_bytes,
            staged_removed,
            closed,
        };
        let thread = std::thread::Builder::new()
            .name("audit-journal".into())
            .spawn(move || writer.run())
            .map_err(JournalError::io("start the writer"))?;
        Ok((Self { shared, device, options, thread: Some(thread), _lock: lock }, recovery))
    }

    /// Makes the next link and waits until it is on stable storage. Blocks: not for an async thread.
    ///
    /// `make` gets the tip that it must follow, on this thread, while others wait for theirs. A link that it has made
    /// may be lost without a trace when an error is returned; it must not have been shown to anybody.
    ///
    /// # Errors
    /// [`JournalError::Full`], [`JournalError::NoSpace`], [`JournalError::Refused`], [`JournalError::NotNext`]: the
    /// journal goes on. [`JournalError::Poisoned`]: it must be opened anew.
    pub fn append(
        &self,
        priority: Priority,
        make: impl FnOnce(&Tip) -> Result<(Link, Tip), Refusal> + Send,
    ) -> Result<(u64, Tip), JournalError> {
        let mut state = self.usable()?;
        let limit = match priority {
            Priority::Routine => self.options.routine_bytes(),
            Priority::Emergency => self.options.capacity_bytes,
        };
        if state.used_bytes + state.queued_bytes + LINK_RECORD_BYTES as u64 > limit {
            return Err(JournalError::Full);
        }
        let (link, tip) = make(&state.next)?;
        if state.next.follow(&self.device, &link) != tip {
            return Err(JournalError::NotNext);
        }
        state.next = tip;
        state.queued_bytes += LINK_RECORD_BYTES as u64;
        self.wait(state, What::Record(Record::Link(Box::new(link), tip.hash)))?;
        Ok((tip.seq, tip))
    }

    /// Takes in a receipt: it is made durable, and then whole segments that are covered are deleted.
    /// Says how many links it newly covers; zero for one that is older than what is known.
    ///
    /// # Errors
    /// [`JournalError::Refused`] with what [`Receipt::check`] says: the receipt is not for this chain as it is here.
    /// [`JournalError::NoSpace`]; [`JournalError::Poisoned`].
    pub fn acknowledge(&self, receipt: &Verified<Receipt>) -> Result<u64, JournalError> {
        let state = self.usable()?;
        let base = state.index.base();
        if receipt.bytes().len() > limits::RECEIPT_BYTES_MAX {
            return Err(Refusal::TooLarge.into());
        }
        if state.next.chain != base.chain {
            // A new chain is about to begin.
            return Err(Refusal::WrongEpoch.into());
        }
        let older = receipt.through.chain == base.chain && receipt.through.seq < base.seq;
        if receipt.device == self.device && older {
            return Ok(0);
        }
        receipt.check(&self.device, base.chain, |seq| state.index.hash_at(seq))?;
        if receipt.through.seq == base.seq {
            return Ok(0);
        }
        self.wait(state, What::Record(Record::Receipt(receipt.through, receipt.bytes().to_vec())))
    }

    /// Closes the chain and begins another, after a fork. Unsent links of the old one stay on disk when it is forced.
    ///
    /// # Errors
    /// [`JournalError::Unacknowledged`] unless forced, [`JournalError::SameChain`], [`JournalError::Io`],
    /// [`JournalError::Poisoned`].
    pub fn new_chain(&self, chain: ChainId, forced: bool) -> Result<(), JournalError> {
        let mut state = self.usable()?;
        if state.next.chain == chain {
            return Err(JournalError::SameChain(chain));
        }
        let unsent = state.next.seq.saturating_sub(state.index.base().seq);
        if unsent != 0 && !forced {
            return Err(JournalError::Unacknowledged(unsent));
        }
        state.next = Tip::start(&self.device, chain);
        self.wait(state, What::Chain { chain, forced }).map(|_| ())
    }

    fn usable(&self) -> Result<std::sync::MutexGuard<'_, State>, JournalError> {
        let state = self.shared.lock();
        match &state.poisoned {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    /// Hands work to the writer and waits for its answer, without the lock.
    fn wait(&self, mut state: std::sync::MutexGuard<'_, State>, what: What) -> Result<u64, JournalError> {
        let (reply, answer) = sync_channel(1);
        state.queue.push(Work { what, reply });
        drop(state);
        self.shared.bell.notify_one();
        answer.recv().unwrap_or_else(|_| Err(JournalError::poisoned("writer")(std::io::ErrorKind::BrokenPipe.into())))
    }

    /// The last link on stable storage.
    #[must_use]
    pub fn tip(&self) -> Tip {
        self.shared.lock().index.tip()
    }

    /// What the last receipt covers.
    #[must_use]
    pub fn acknowledged(&self) -> Tip {
        self.shared.lock().index.base()
    }

    /// How many links no receipt covers yet.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.shared.lock().index.len()
    }

    /// The hash after link `seq`, for every link from the acknowledged tip to the own one.
    #[must_use]
    pub fn hash_at(&self, seq: u64) -> Option<Hash> {
        self.shared.lock().index.hash_at(seq)
    }

    /// How full the journal is.
    #[must_use]
    pub fn fill(&self) -> Fill {
        let state = self.shared.lock();
        let (used, routine) = (state.used_bytes + state.queued_bytes, self.options.routine_bytes());
        if used + LINK_RECORD_BYTES as u64 > routine {
            Fill::Full
        } else if used >= routine / 5 * 4 {
            Fill::Warning
        } else {
            Fill::Normal
        }
    }

    /// The bytes of all records that are kept.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.shared.lock().used_bytes
    }

    /// The first links that no receipt covers, at most `max` and at most what one batch may hold; read back from disk
    /// and checked. `None` when everything is acknowledged.
    ///
    /// # Errors
    /// [`JournalError::Damaged`] when the disk no longer gives what was written, [`JournalError::Io`].
    pub fn unacknowledged(&self, max: usize) -> Result<Option<Batch>, JournalError> {
        let (after, entries) = {
            let state = self.shared.lock();
            (state.index.base(), state.index.first(max.min(limits::AUDIT_LINKS_MAX)))
        };
        if entries.is_empty() {
            return Ok(None);
        }
        let mut tip = after;
        let mut links = Vec::with_capacity(entries.len());
        for entry in &entries {
            let link = read_link(entry)?;
            tip = tip.follow(&self.device, &link);
            if tip.hash != entry.hash {
                return Err(changed(entry));
            }
            links.push(link);
        }
        Ok(Some(Batch { device: self.device, after, links }))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.bell.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn changed(entry: &Entry) -> JournalError {
    JournalError::Damaged { segment: entry.segment.path.clone(), offset: u64::from(entry.at) }
}

fn read_link(entry: &Entry) -> Result<Link, JournalError> {
    let mut bytes = [0; LINK_RECORD_BYTES];
    entry.segment.file.read_exact_at(&mut bytes, u64::from(entry.at)).map_err(JournalError::io("read a link back"))?;
    match Framed::read(&bytes).and_then(|framed| framed.record()) {
        Some(Record::Link(link, _)) => Ok(*link),
        _ => Err(changed(entry)),
    }
}

fn take_lock(dir: &Path) -> Result<durable::Lock, JournalError> {
    durable::lock(&layout::lock_path(dir))
        .map_err(JournalError::io("take the lock"))?
        .ok_or_else(|| JournalError::InUse(dir.to_owned()))
}

fn begin(root: &Path, number: u64, device: DeviceId, chain: ChainId) -> Result<PathBuf, JournalError> {
    layout::stage_chain(root, number, device, Tip::start(&device, chain))
        .and_then(|staged| staged.publish(root))
        .map_err(JournalError::io("begin a chain"))
}
