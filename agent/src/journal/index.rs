//! Where each link stands that no receipt covers yet, and the hash of the chain after it. In memory only.
//! It must not hold a link that is not on stable storage.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use cpis_protocol::audit::Tip;
use cpis_protocol::digest::Hash;

/// An open segment; readers share it, so that they can finish although it is pruned meanwhile.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// The tip before its first link.
    pub(super) before: Tip,
}

/// One link, 56 bytes in memory.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) hash: Hash,
    pub(super) segment: Arc<Segment>,
    pub(super) at: u32,
}

/// The links after the acknowledged tip, in order.
#[derive(Debug)]
pub(super) struct Index {
    base: Tip,
    entries: VecDeque<Entry>,
}

impl Index {
    pub(super) const fn new(base: Tip) -> Self {
        Self { base, entries: VecDeque::new() }
    }

    /// What the last receipt covers.
    pub(super) const fn base(&self) -> Tip {
        self.base
    }

    /// The last link.
    pub(super) fn tip(&self) -> Tip {
        let hash = self.entries.back().map_or(self.base.hash, |entry| entry.hash);
        Tip { chain: self.base.chain, seq: self.base.seq + self.entries.len() as u64, hash }
    }

    /// How many links there are.
    pub(super) fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// The hash after link `seq`, from the acknowledged tip to the own one.
    pub(super) fn hash_at(&self, seq: u64) -> Option<Hash> {
        let Some(place) = seq.checked_sub(self.base.seq)?.checked_sub(1) else { return Some(self.base.hash) };
        self.entries.get(usize::try_from(place).ok()?).map(|entry| entry.hash)
    }

    /// Forgets the links up to `through`, which must be one of them, and says how many these were.
    pub(super) fn cover(&mut self, through: &Tip) -> u64 {
        if self.hash_at(through.seq) != Some(through.hash) {
            return 0;
        }
        let covered = through.seq - self.base.seq;
        self.entries.drain(..usize::try_from(covered).unwrap_or(usize::MAX).min(self.entries.len()));
        self.base = *through;
        covered
    }

    /// The first links, at most `max`.
    pub(super) fn first(&self, max: usize) -> Vec<Entry> {
        self.entries.iter().take(max).cloned().collect()
    }
}
