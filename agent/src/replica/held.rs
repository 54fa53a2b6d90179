//! What the copy can hand on to others of its scope: cells in chunks as the server would send them, and roots that were.
//! It must not hand on a row that does not open, nor anything of one device alone.

use std::sync::PoisonError;

use cpis_protocol::Refusal;
use cpis_protocol::cell::CELL_BYTES;
use cpis_protocol::limits::CHUNK_CELLS;
use cpis_protocol::trust::Trust;

use super::feed::CHUNK_ROWS;
use super::{FeedCopy, Replica};
use crate::port::{GenerationKeys, Store, StoreError};

/// A root above this is not kept: sled holds small values only, and an honest one has a few kilobytes.
const ROOT_BYTES_KEPT: usize = 16 * 1024;

fn root_row(version: u32) -> String {
    format!("root {version}")
}

impl<S: Store, K: GenerationKeys> Replica<S, K> {
    /// Keeps a root that was in force, for devices that are further behind. Nothing of this device hangs on it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep_root(&self, trust: &Trust) -> Result<(), StoreError> {
        let bytes = trust.root().bytes();
        if bytes.len() > ROOT_BYTES_KEPT {
            return Ok(());
        }
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        self.store.commit(&[self.named.seal(&root_row(trust.root().version), &bytes.to_vec())?])
    }

    /// A root that was in force, as it was signed.
    pub fn kept_root(&self, version: u32) -> Option<Vec<u8>> {
        self.named.load(&self.store, &root_row(version)).ok().flatten()
    }
}

impl FeedCopy {
    /// One chunk of the live set: 256 cells, or those that are left.
    ///
    /// # Errors
    /// [`Refusal`]: a row is missing or does not open, or there is no such chunk.
    pub fn chunk(&self, store: &impl Store, index: u32) -> Result<Vec<u8>, Refusal> {
        let first = index.checked_mul(CHUNK_CELLS).filter(|first| *first < self.state().count);
        let cells = self.state().count - first.ok_or(Refusal::WrongCount)?;
        let cells = cells.min(CHUNK_CELLS) as usize;
        let mut bytes = Vec::with_capacity(cells * CELL_BYTES);
        for row in (index * CHUNK_ROWS..).take(CHUNK_ROWS as usize) {
            if bytes.len() >= cells * CELL_BYTES {
                break;
            }
            bytes.extend(self.row(store, row)?.iter().flat_map(|cell| *cell.as_bytes()));
        }
        if bytes.len() == cells * CELL_BYTES { Ok(bytes) } else { Err(Refusal::WrongCount) }
    }
}
