//! The one thread that writes: it takes everything that waits as a group, writes it, syncs once, and tells each caller.
//! It must not tell anybody of success before the sync, nor write again after a write or sync has failed.

use std::path::{Path, PathBuf};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use cpis_protocol::audit::Tip;
use cpis_protocol::id::{ChainId, DeviceId};

use super::disk::Disk;
use super::error::JournalError;
use super::format::{HEADER_BYTES, Header, LINK_RECORD_BYTES, Record};
use super::index::{Entry, Index, Segment};
use super::layout::{self, segment_path};
use super::recover::Used;
use super::{RECEIPT_ROOM, RESERVE_STEP, ROLL_COVERED_BYTES};
use crate::durable;

/// Where a caller waits. The answer to a receipt is how many links it newly covers.
pub(super) type Reply = SyncSender<Result<u64, JournalError>>;

/// What a caller waits for.
pub(super) enum What {
    /// A record to be appended; for a link, the tip after it.
    Record(Record),
    /// A new chain.
    Chain {
        /// Its identity.
        chain: ChainId,
        /// Although links are unsent.
        forced: bool,
    },
}

/// What a caller waits for, and where it waits.
pub(super) struct Work {
    pub(super) what: What,
    pub(super) reply: Reply,
}

/// What callers and the writer share.
pub(super) struct State {
    /// The tip behind everything that waits: what the next link is made from.
    pub(super) next: Tip,
    pub(super) queue: Vec<Work>,
    pub(super) queued_bytes: u64,
    /// The links on stable storage.
    pub(super) index: Index,
    /// Bytes of all records that are kept, closed chains included.
    pub(super) used_bytes: u64,
    pub(super) poisoned: Option<JournalError>,
    pub(super) closing: bool,
}

/// The state and the bell that wakes the writer.
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    pub(super) bell: Condvar,
}

impl Shared {
    /// A panic in a caller's closure leaves the state as it was before, so a poisoned mutex is taken over.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for work; `None` when the journal is being closed.
    fn wait(&self) -> Option<Vec<Work>> {
        let mut state = self.lock();
        while state.queue.is_empty() {
            if state.closing {
                return None;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Some(std::mem::take(&mut state.queue))
    }
}

/// What only the writer's thread owns.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) disk: Box<dyn Disk>,
    pub(super) root: PathBuf,
    pub(super) number: u64,
    pub(super) device: DeviceId,
    pub(super) segments: Vec<Used>,
    /// Up to where the last segment is reserved.
    pub(super) reserved: u64,
    pub(super) segment_bytes: u64,
    /// Bytes of closed chains with links unsent.
    pub(super) closed_bytes: u64,
}

impl Writer {
    /// Serves until the journal is closed.
    pub(super) fn run(mut self) {
        while let Some(works) = self.shared.wait() {
            self.serve(works);
        }
    }

    fn serve(&mut self, works: Vec<Work>) {
        let mut waiting = works.into_iter().peekable();
        while waiting.peek().is_some() {
            let mut group = Vec::new();
            while let Some(Work { what: What::Record(record), reply }) =
                waiting.next_if(|w| matches!(w.what, What::Record(_)))
            {
                group.push((record, reply));
            }
            if let Err((error, replies)) = self.group(group) {
                return self.fail(&error, replies.into_iter().chain(waiting.map(|w| w.reply)));
            }
            if let Some(Work { what: What::Chain { chain, forced }, reply }) = waiting.next() {
                if let Err(error) = self.new_chain(chain, forced) {
                    return self.fail(&error, std::iter::once(reply).chain(waiting.map(|w| w.reply)));
                }
                let _ = reply.send(Ok(0));
            }
        }
    }

    /// Nothing of this group, nor of what was chained to it meanwhile, counts: the tip falls back to the durable one.
    fn fail(&self, error: &JournalError, replies: impl Iterator<Item = Reply>) {
        let mut state = self.shared.lock();
        let queued = std::mem::take(&mut state.queue);
        state.queued_bytes = 0;
        state.next = state.index.tip();
        if error.is_poisoned() {
            tracing::error!(%error, "audit journal closed until it is opened anew");
            state.poisoned = Some(error.clone());
        }
        drop(state);
        for reply in replies.chain(queued.into_iter().map(|w| w.reply)) {
            let _ = reply.send(Err(error.clone()));
        }
    }

    fn group(&mut self, group: Vec<(Record, Reply)>) -> Result<(), (JournalError, Vec<Reply>)> {
        if group.is_empty() {
            return Ok(());
        }
        let written = self.roll_when_long().and_then(|()| self.write(group.iter().map(|(record, _)| record)));
        let (segment, places) = match written {
            Ok(written) => written,
            Err(error) => return Err((error, group.into_iter().map(|(_, reply)| reply).collect())),
        };
        // A crash from here on finds the whole group; callers may not have been told, and their events stand.
        let mut receipts = Vec::new();
        let mut links = Vec::new();
        let mut state = self.shared.lock();
        for ((record, reply), at) in group.into_iter().zip(places) {
            match record {
                Record::Link(_, hash) => {
                    state.index.push(Entry { hash, segment: Arc::clone(&segment), at });
                    state.queued_bytes = state.queued_bytes.saturating_sub(LINK_RECORD_BYTES as u64);
                    links.push(reply);
                }
                Record::Receipt(through, _) => receipts.push((reply, state.index.cover(&through))),
                Record::Note { .. } => {}
            }
        }
        state.used_bytes = self.used_bytes();
        drop(state);
        for reply in links {
            let _ = reply.send(Ok(0));
        }
        if receipts.is_empty() {
            return Ok(());
        }
        let pruned = self.prune_and_count();
        for (reply, covered) in receipts {
            let _ = reply.send(Ok(covered));
        }
        // What was acknowledged is durable; only what comes next must wait for the journal to be opened anew.
        pruned.map_err(|error| (error, Vec::new()))
    }

    fn active(&self) -> Result<(Arc<Segment>, u64), JournalError> {
        let used = self.segments.last().ok_or_else(|| JournalError::Missing(self.root.clone()))?;
        Ok((Arc::clone(&used.segment), used.end))
    }

    /// Appends one group and syncs it; says where each record stands.
    fn write<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Record>,
    ) -> Result<(Arc<Segment>, Vec<u32>), JournalError> {
        let (segment, end) = self.active()?;
        let group = u32::try_from(end).map_err(|_| JournalError::Full)?;
        let (mut bytes, mut places, mut room) = (Vec::new(), Vec::new(), 0);
        for record in records {
            places.push(group.saturating_add(u32::try_from(bytes.len()).unwrap_or(u32::MAX)));
            record.write(group, &mut bytes)?;
            if matches!(record, Record::Link(..)) {
                room = RECEIPT_ROOM;
            }
        }
        let after = end + bytes.len() as u64;
        if u32::try_from(after).is_err() {
            return Err(JournalError::Full);
        }
        self.reserve(&segment, after + room)?;
        let written = match self.disk.write(&segment.file, &bytes, end) {
            // A crash before the sync leaves any part of the group; recovery keeps its whole records up to the first
            // hole and cuts off the rest, of which nobody was told.
            Ok(()) => self.disk.sync(&segment.file).map_err(JournalError::poisoned("sync")),
            Err(error) => Err(JournalError::poisoned("write")(error)),
        };
        if let Err(error) = written {
            // Best effort: recovery would find the same end by itself.
            if self.disk.truncate(&segment.file, end).is_ok() {
                let _ = self.disk.sync(&segment.file);
            }
            return Err(error);
        }
        if let Some(used) = self.segments.last_mut() {
            used.end = after;
        }
        Ok((segment, places))
    }

    /// Space for a whole group is had before its first byte is written.
    fn reserve(&mut self, segment: &Segment, needed: u64) -> Result<(), JournalError> {
        if needed <= self.reserved {
            return Ok(());
        }
        let target = needed.next_multiple_of(RESERVE_STEP);
        self.disk.reserve(&segment.file, self.reserved, target - self.reserved).map_err(|error| {
            use std::io::ErrorKind::{QuotaExceeded, StorageFull};
            match error.kind() {
                StorageFull | QuotaExceeded => JournalError::NoSpace(Arc::new(error)),
                _ => JournalError::poisoned("reservation")(error),
            }
        })?;
        self.reserved = target;
        Ok(())
    }

    fn roll_when_long(&mut self) -> Result<(), JournalError> {
        let (segment, end) = self.active()?;
        // Without a link of its own the next segment would have the same name.
        let own_links = self.shared.lock().index.tip().seq > segment.before.seq;
        if end >= self.segment_bytes && own_links { self.roll() } else { Ok(()) }
    }

    /// Begins the next segment. Its header is durable under its name before anything else is done.
    fn roll(&mut self) -> Result<(), JournalError> {
        let (old, end) = self.active()?;
        let (tip, acknowledged) = {
            let state = self.shared.lock();
            (state.index.tip(), state.index.base())
        };
        let Some(dir) = old.path.parent() else { return Ok(()) };
        let path = segment_path(dir, &tip);
        let header = layout::first_bytes(&Header::new(self.device, tip, acknowledged))?;
        // A crash or failure before the rename leaves the old segment in use, and a staged file that nobody reads.
        let staged = match self.disk.stage(&path, &header) {
            Ok(staged) => staged,
            Err(error) => {
                tracing::warn!(%error, "audit journal: no new segment; the old one goes on");
                return Ok(());
            }
        };
        // After a failed rename or directory sync it is not known which segment is the last: poisoned.
        self.disk.publish(staged).map_err(JournalError::poisoned("new segment"))?;
        let file = durable::open(&path).map_err(JournalError::poisoned("new segment"))?;
        if path == old.path {
            // The old one had no link of its own and was covered whole: the rename has replaced it.
            self.segments.pop();
        } else {
            // Gives back what was reserved; a crash leaves zeros at the end, which is the same.
            let _ = self.disk.truncate(&old.file, end);
        }
        self.reserved = header.len() as u64;
        let segment = Arc::new(Segment { path, file, before: tip });
        self.segments.push(Used { segment, end: HEADER_BYTES as u64 });
        Ok(())
    }

    /// Deletes segments of which every link is covered, oldest first, so that what remains is always one piece.
    fn prune(&mut self) -> Result<(), JournalError> {
        let (tip, base) = {
            let state = self.shared.lock();
            (state.index.tip(), state.index.base())
        };
        if tip == base && self.active()?.1 > ROLL_COVERED_BYTES {
            self.roll()?;
        }
        while let [first, second, ..] = self.segments.as_slice() {
            if second.segment.before.seq > base.seq {
                break;
            }
            // The receipt that covers it is durable. A crash leaves the segment whole, and the next start deletes it.
            if let Err(error) = self.disk.remove(&first.segment.path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(%error, "audit journal: a covered segment stays for now");
                break;
            }
            self.segments.remove(0);
        }
        Ok(())
    }

    /// Closes the chain with a note and begins another in a directory of its own.
    fn new_chain(&mut self, chain: ChainId, forced: bool) -> Result<(), JournalError> {
        let (closed, base) = {
            let state = self.shared.lock();
            (state.index.tip(), state.index.base())
        };
        if closed != base && !forced {
            return Err(JournalError::Unacknowledged(closed.seq - base.seq));
        }
        // A crash behind this note leaves the old chain in use, with a note that names a chain which never began.
        self.write(std::iter::once(&Record::Note { closed, next: chain, forced }))?;
        let start = Tip::start(&self.device, chain);
        let number = self.number + 1;
        let staged =
            layout::stage_chain(&self.root, number, self.device, start).map_err(JournalError::io("new chain"))?;
        let dir = staged.publish(&self.root).map_err(JournalError::poisoned("new chain"))?;
        let path = segment_path(&dir, &start);
        let file = durable::open(&path).map_err(JournalError::poisoned("new chain"))?;
        let old_dir = self.active()?.0.path.parent().map(Path::to_owned);
        self.closed_bytes = if closed == base { self.closed_bytes } else { self.used_bytes() };
        let segment = Arc::new(Segment { path, file, before: start });
        self.segments = vec![Used { segment, end: HEADER_BYTES as u64 }];
        self.reserved = HEADER_BYTES as u64 + RECEIPT_ROOM;
        self.number = number;
        let mut state = self.shared.lock();
        state.index = Index::new(start);
        state.used_bytes = self.used_bytes();
        drop(state);
        if closed == base
            && let Some(old_dir) = old_dir
            && let Err(error) = layout::discard_chain(&old_dir)
        {
            tracing::warn!(%error, "audit journal: a covered chain stays for now");
        }
        Ok(())
    }

    /// Deletes what is covered and counts what is left.
    pub(super) fn prune_and_count(&mut self) -> Result<(), JournalError> {
        let pruned = self.prune();
        self.shared.lock().used_bytes = self.used_bytes();
        pruned
    }

    /// The bytes of all records that are kept.
    fn used_bytes(&self) -> u64 {
        self.closed_bytes + self.segments.iter().map(|s| s.end).sum::<u64>()
    }
}
