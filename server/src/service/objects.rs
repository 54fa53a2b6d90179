//! The immutable objects: heads, reference data, roots, deltas, manifests and chunks.
//! It must not hand a device the cells of a feed outside its scope, sealed or not.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use cpis_protocol::cell::{CELL_BYTES, Cell};
use cpis_protocol::compare::Bounds;
use cpis_protocol::digest::Hash;
use cpis_protocol::id::{Epoch, FeedId, FeedSeq, ScopeId};
use cpis_protocol::limits;
use cpis_protocol::tree::{self, Manifest};

use super::mirror::Asker;
use super::{Service, ServiceError};
use crate::port::{CellLog, Deployment as _, Feeds, Store, StoreError, Tx};

/// Bytes of live sets kept in memory, so that the chunks of one snapshot do not each sort the log again.
const SNAPSHOT_BYTES_KEPT: usize = 64 * 1024 * 1024;

/// A live set at a position, its cells in order.
pub(crate) type Snapshot = Arc<Vec<u8>>;

/// The last live sets asked for, the newest at the back.
#[derive(Debug, Default)]
pub(super) struct Snapshots(VecDeque<(CellLog, FeedSeq, Snapshot)>);

impl Snapshots {
    fn find(&self, log: CellLog, seq: FeedSeq) -> Option<Snapshot> {
        self.0.iter().find(|(l, s, _)| (*l, *s) == (log, seq)).map(|(_, _, snapshot)| Arc::clone(snapshot))
    }

    fn keep(&mut self, log: CellLog, seq: FeedSeq, snapshot: &Snapshot) {
        if self.find(log, seq).is_none() {
            self.0.push_back((log, seq, Arc::clone(snapshot)));
        }
        while self.0.len() > 1 && self.0.iter().map(|(_, _, kept)| kept.len()).sum::<usize>() > SNAPSHOT_BYTES_KEPT {
            self.0.pop_front();
        }
    }
}

/// Re-creates the live set at a position; `None` beyond the log or in an epoch that never was.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn snapshot<T: Tx>(tx: &T, log: CellLog, seq: FeedSeq) -> Result<Option<Snapshot>, StoreError> {
    // R259: Below the floor part of the set is gone, and part of it is worse than none.
    if seq < tx.log_floor(log)? || !reaches(tx, log, seq)? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    tx.live(log, seq, &mut |cell| {
        bytes.extend_from_slice(cell);
        Ok(())
    })?;
    Ok(Some(Arc::new(bytes)))
}

fn reaches<T: Feeds>(tx: &T, log: CellLog, seq: FeedSeq) -> Result<bool, StoreError> {
    let Some(feed) = tx.feed(log.feed)? else { return Ok(false) };
    if feed.epoch == log.epoch {
        return Ok(seq <= feed.seq);
    }
    // A head of before a re-seal: what it names can still be had, for whoever holds the keys of then.
    let end = tx.log_end(log)?;
    Ok(end > 0 && seq <= end)
}

/// The wire form of a live set's manifest.
pub(crate) fn manifest(snapshot: &[u8]) -> Vec<u8> {
    let leaves: Vec<Hash> = snapshot.chunks_exact(CELL_BYTES).map(tree::leaf).collect();
    Manifest::of(&leaves).to_bytes()
}

/// The wire form of where each chunk of a live set begins.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub(crate) fn bounds(snapshot: &[u8]) -> Result<Vec<u8>, StoreError> {
    let first = snapshot.chunks(limits::CHUNK_CELLS as usize * CELL_BYTES).filter_map(|chunk| chunk.get(..CELL_BYTES));
    let first: Result<Vec<_>, _> = first.map(|bytes| Cell::from_bytes(bytes).map(|cell| cell.blind())).collect();
    Ok(Bounds::from_first(first.map_err(|_| StoreError::Corrupt("cell.bytes"))?).to_bytes())
}

/// One chunk of a live set.
pub(crate) fn chunk(snapshot: &[u8], index: u32) -> Option<&[u8]> {
    snapshot.chunks(limits::CHUNK_CELLS as usize * CELL_BYTES).nth(index as usize)
}

impl<S: Store> Service<S> {
    pub(super) fn head(&self, device: &impl Asker, hash: &Hash) -> Result<Vec<u8>, ServiceError> {
        let head = self.store.read(|tx| tx.head(hash))?.ok_or(ServiceError::NotFound)?;
        self.check_scope(device, head.scope)?;
        Ok(head.bytes)
    }

    pub(super) fn reference(&self, hash: &Hash) -> Result<Vec<u8>, ServiceError> {
        self.store.read(|tx| tx.reference(hash))?.ok_or(ServiceError::NotFound)
    }

    pub(super) fn root(&self, version: u32) -> Result<Vec<u8>, ServiceError> {
        self.store.read(|tx| tx.root(version))?.ok_or(ServiceError::NotFound)
    }

    pub(super) fn delta(
        &self,
        device: &impl Asker,
        feed: FeedId,
        epoch: Epoch,
        from: FeedSeq,
        to: FeedSeq,
    ) -> Result<Vec<u8>, ServiceError> {
        if from >= to {
            return Err(ServiceError::Refused("empty-range"));
        }
        if to - from > limits::DELTA_CELLS_MAX {
            return Err(ServiceError::Refused("range-too-long"));
        }
        self.check_feed(device, feed)?;
        let log = CellLog { feed, epoch };
        let cells =
            self.store.read(|tx| if reaches(tx, log, to)? { tx.cells(log, from, to) } else { Ok(Vec::new()) })?;
        // The whole range or nothing: part of it would be taken for the whole by a careless cache.
        if cells.len() == (to - from) as usize * CELL_BYTES { Ok(cells) } else { Err(ServiceError::NotFound) }
    }

    pub(super) fn manifest(
        &self,
        device: &impl Asker,
        feed: FeedId,
        epoch: Epoch,
        seq: FeedSeq,
    ) -> Result<Vec<u8>, ServiceError> {
        Ok(manifest(&self.live(device, CellLog { feed, epoch }, seq)?))
    }

    pub(super) fn bounds(
        &self,
        device: &impl Asker,
        feed: FeedId,
        epoch: Epoch,
        seq: FeedSeq,
    ) -> Result<Vec<u8>, ServiceError> {
        Ok(bounds(&self.live(device, CellLog { feed, epoch }, seq)?)?)
    }

    pub(super) fn chunk(
        &self,
        device: &impl Asker,
        feed: FeedId,
        epoch: Epoch,
        seq: FeedSeq,
        index: u32,
    ) -> Result<Vec<u8>, ServiceError> {
        let snapshot = self.live(device, CellLog { feed, epoch }, seq)?;
        chunk(&snapshot, index).map(<[u8]>::to_vec).ok_or(ServiceError::NotFound)
    }

    fn live(&self, device: &impl Asker, log: CellLog, seq: FeedSeq) -> Result<Snapshot, ServiceError> {
        self.check_feed(device, log.feed)?;
        if let Some(kept) = self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).find(log, seq) {
            return Ok(kept);
        }
        let made = self.store.read(|tx| snapshot(tx, log, seq))?.ok_or(ServiceError::NotFound)?;
        self.snapshots.lock().unwrap_or_else(PoisonError::into_inner).keep(log, seq, &made);
        Ok(made)
    }

    fn check_feed(&self, device: &impl Asker, feed: FeedId) -> Result<(), ServiceError> {
        let covers = |scope: &ScopeId| {
            let scope = self.store.read(|tx| tx.scope(*scope))?;
            Ok::<_, StoreError>(scope.is_some_and(|scope| scope.feeds.contains(&feed)))
        };
        for scope in device.scopes() {
            if covers(scope)? {
                return Ok(());
            }
        }
        Err(ServiceError::Unauthorised)
    }
}
