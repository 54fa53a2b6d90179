//! Opening a chain: every segment read, every hash followed, and only then the tail cut off.
//! It must not change a byte before the whole chain has been understood, nor cut in front of a whole later group.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cpis_protocol::audit::Tip;
use cpis_protocol::id::{ChainId, DeviceId};

use super::disk::Disk;
use super::error::JournalError;
use super::format::{BadHeader, HEADER_BYTES, Header, Record};
use super::index::{Entry, Index, Segment};
use super::scan::{Tail, header, scan};
use super::{RECEIPT_ROOM, RESERVE_STEP, layout};
use crate::durable;

const SEGMENT_READ_MAX: u64 = u32::MAX as u64;

/// A segment and how much of it is used.
pub(super) struct Used {
    pub(super) segment: Arc<Segment>,
    pub(super) end: u64,
}

/// A chain as it was found on disk; nothing has been changed.
pub(super) struct Found {
    pub(super) dir: PathBuf,
    pub(super) index: Index,
    pub(super) segments: Vec<Used>,
    /// Links in the remaining files, acknowledged ones too.
    pub(super) links: u64,
    pub(super) torn_bytes: u64,
    /// The last segment: its records, zeros in place of a torn tail, and the length of the file.
    last: Vec<u8>,
    last_length: u64,
}

impl Found {
    pub(super) fn used_bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.end).sum()
    }
}

/// What the records read so far add up to.
struct Replay {
    device: DeviceId,
    index: Index,
    acknowledged: Tip,
    links: u64,
}

impl Replay {
    /// Takes the next record; `false` when it does not follow.
    fn take(&mut self, segment: &Arc<Segment>, at: usize, record: Record) -> bool {
        let tip = self.index.tip();
        match record {
            Record::Link(link, hash) => {
                let Ok(at) = u32::try_from(at) else { return false };
                self.index.push(Entry { hash, segment: Arc::clone(segment), at });
                self.links += 1;
                tip.follow(&self.device, &link).hash == hash
            }
            Record::Receipt(through, _) => {
                let known = self.index.hash_at(through.seq);
                if through.chain != tip.chain || through.seq > tip.seq || known.is_some_and(|h| h != through.hash) {
                    return false;
                }
                // Two receipts may have been written in either order; both were verified, and they are cumulative.
                if through.seq > self.acknowledged.seq {
                    self.acknowledged = through;
                }
                self.index.cover(&through);
                true
            }
            Record::Note { closed, .. } => closed == tip,
        }
    }
}

fn damaged(path: &Path, offset: usize) -> JournalError {
    JournalError::Damaged { segment: path.to_owned(), offset: offset as u64 }
}

fn read_header(path: &Path, bytes: &[u8], device: &DeviceId) -> Result<Header, JournalError> {
    let header = header(bytes).map_err(|bad| match bad {
        BadHeader::Damaged => damaged(path, 0),
        BadHeader::Format(found) => JournalError::Format { segment: path.to_owned(), found },
    })?;
    if header.device != *device {
        return Err(JournalError::WrongDevice { found: header.device });
    }
    Ok(header)
}

/// Reads and checks a whole chain.
///
/// # Errors
/// [`JournalError::Damaged`], [`JournalError::Lost`], [`JournalError::Format`], [`JournalError::WrongDevice`],
/// [`JournalError::Io`].
pub(super) fn read_chain(dir: &Path, device: &DeviceId) -> Result<Found, JournalError> {
    let files = layout::segments(dir).map_err(JournalError::io("list the segments"))?;
    let mut replay: Option<Replay> = None;
    let mut found = Vec::new();
    let (mut last, mut last_length, mut torn_bytes) = (Vec::new(), 0, 0);
    for (place, (first, path)) in files.iter().enumerate() {
        let mut file = durable::open(path).map_err(JournalError::io("open a segment"))?;
        let mut bytes = durable::read_file(&mut file, SEGMENT_READ_MAX).map_err(JournalError::io("read a segment"))?;
        let header = read_header(path, &bytes, device)?;
        if header.before.seq.checked_add(1) != Some(*first) {
            return Err(damaged(path, 0));
        }
        let replay = replay.get_or_insert_with(|| Replay {
            device: *device,
            index: Index::new(header.before),
            acknowledged: header.acknowledged,
            links: 0,
        });
        continues(dir, path, &header, replay)?;
        let segment = Arc::new(Segment { path: path.clone(), file, before: header.before });
        let scan = scan(&bytes, |at, record| replay.take(&segment, at, record)).map_err(|at| damaged(path, at))?;
        torn_bytes = match scan.tail {
            Tail::Clean => 0,
            Tail::Torn(bytes) if place + 1 == files.len() => bytes,
            // A later segment was begun, so all of this one had been synced.
            Tail::Torn(_) | Tail::Damaged => return Err(damaged(path, scan.end)),
        };
        last_length = bytes.len() as u64;
        bytes.truncate(scan.end);
        bytes.resize(scan.end.saturating_add(usize::try_from(torn_bytes).unwrap_or(0)), 0);
        found.push(Used { segment, end: scan.end as u64 });
        last = bytes;
    }
    let Some(replay) = replay else { return Err(damaged(&dir.join("audit-*.journal"), 0)) };
    let base = replay.index.base();
    if replay.acknowledged.seq < base.seq {
        // The first remaining segment begins behind what any receipt covers.
        return Err(JournalError::Lost {
            dir: dir.to_owned(),
            after: replay.acknowledged.seq,
            before: base.seq.saturating_add(1),
        });
    }
    if replay.acknowledged != base {
        return Err(damaged(found.first().map_or(dir, |used| &used.segment.path), 0));
    }
    let Replay { index, links, .. } = replay;
    Ok(Found { dir: dir.to_owned(), index, segments: found, links, torn_bytes, last, last_length })
}

/// A segment's header must say exactly what the segments before it add up to.
fn continues(dir: &Path, path: &Path, header: &Header, replay: &Replay) -> Result<(), JournalError> {
    let tip = replay.index.tip();
    if header.before.chain == tip.chain && header.before.seq > tip.seq {
        return Err(JournalError::Lost { dir: dir.to_owned(), after: tip.seq, before: header.before.seq + 1 });
    }
    if header.before != tip
        || header.acknowledged != replay.acknowledged
        || header.acknowledged.chain != tip.chain
        || header.acknowledged.seq > tip.seq
    {
        return Err(damaged(path, 0));
    }
    Ok(())
}

/// Makes what was read true on disk: the last segment's records are written again, with zeros over a torn tail, and
/// synced. Says up to where it is reserved.
///
/// They are written again although the bytes are the same: after a failed sync the kernel may show pages as clean that
/// the disk never had, and a link that was uploaded from such a page and then lost would make the device fork itself.
/// A crash in between leaves old or same bytes of records that were checked, or a tail that is still torn. The file is
/// not made shorter, because on a full disk what it has reserved could not be had again.
pub(super) fn settle(found: &Found, disk: &mut dyn Disk) -> Result<u64, JournalError> {
    let Some(Used { segment, end }) = found.segments.last() else { return Ok(0) };
    let file: &File = &segment.file;
    let records = found.last.get(HEADER_BYTES..).unwrap_or_default();
    disk.write(file, records, HEADER_BYTES as u64).map_err(JournalError::io("write the tail again"))?;
    let mut reserved = found.last_length.max(*end);
    if reserved < end + RECEIPT_ROOM {
        // Without space the journal can still be read, uploaded and so pruned.
        let target = (end + RECEIPT_ROOM).next_multiple_of(RESERVE_STEP);
        if disk.reserve(file, reserved, target - reserved).is_ok() {
            reserved = target;
        }
    }
    disk.sync(file).map_err(JournalError::io("sync the last segment"))?;
    Ok(reserved)
}

/// A chain that was closed with links that no receipt covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClosedChain {
    /// Where it is kept.
    pub dir: PathBuf,
    /// The chain and how many of its links were never acknowledged; `None` when it is damaged.
    pub unsent: Option<(ChainId, u64)>,
}

/// Looks at the closed chains; one that is covered whole is deleted. Also says how many bytes they hold.
pub(super) fn closed_chains(
    dirs: &[(u64, PathBuf)],
    device: &DeviceId,
) -> Result<(Vec<ClosedChain>, u64), JournalError> {
    let (mut kept, mut bytes) = (Vec::new(), 0);
    for (_, dir) in dirs {
        match read_chain(dir, device) {
            Ok(found) if found.index.len() == 0 && found.torn_bytes == 0 => {
                layout::discard_chain(dir).map_err(JournalError::io("delete a closed chain"))?;
            }
            Ok(found) => {
                bytes += found.used_bytes();
                kept.push(ClosedChain {
                    dir: dir.clone(),
                    unsent: Some((found.index.base().chain, found.index.len())),
                });
            }
            Err(JournalError::Io { step, source }) => return Err(JournalError::Io { step, source }),
            Err(_) => {
                for (_, path) in layout::segments(dir).map_err(JournalError::io("list the segments"))? {
                    bytes += path.metadata().map_err(JournalError::io("look at a segment"))?.len();
                }
                kept.push(ClosedChain { dir: dir.clone(), unsent: None });
            }
        }
    }
    Ok((kept, bytes))
}
