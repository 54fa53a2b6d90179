//! State roots: the Merkle tree hash of RFC 6962 2.1 over the live cells of a feed, sorted by blind id.
//! It must not know what a cell holds.

use alloc::vec::Vec;
use sha2::{Digest, Sha256};

use crate::Refusal;
use crate::digest::Hash;
use crate::limits::CHUNK_CELLS;

/// The hash of a leaf.
#[must_use]
pub fn leaf(bytes: &[u8]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    hasher.update(bytes);
    hasher.finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([1]); // R90
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// Builds a tree hash from leaf hashes in order, in memory logarithmic in their number.
#[derive(Debug, Default, Clone)]
pub struct TreeHasher {
    /// Perfect subtrees, the largest first, each with its height.
    stack: Vec<(u32, Hash)>,
    count: u32,
}

impl TreeHasher {
    /// Adds the next leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut entry = (0, leaf);
        while let Some((height, left)) = self.stack.last() {
            if *height != entry.0 {
                break;
            }
            entry = (height + 1, node(left, &entry.1));
            self.stack.pop();
        }
        self.stack.push(entry);
        self.count = self.count.saturating_add(1);
    }

    /// How many leaves there are.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// The tree hash; of nothing, SHA-256 of the empty string (RFC 6962 2.1).
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut subtrees = self.stack.iter().rev();
        let Some((_, last)) = subtrees.next() else { return Sha256::digest([]).into() };
        subtrees.fold(*last, |right, (_, left)| node(left, &right))
    }
}

/// The tree hash over leaf hashes.
#[must_use]
pub fn root(leaves: impl IntoIterator<Item = Hash>) -> Hash {
    let mut hasher = TreeHasher::default();
    for leaf in leaves {
        hasher.push(leaf);
    }
    hasher.root()
}

/// The hashes of consecutive chunks of [`CHUNK_CELLS`] leaves: whole subtrees of the state tree, so that a list of them
/// proves itself against the state root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    chunks: Vec<Hash>,
    count: u32,
}

impl Manifest {
    /// Cuts leaf hashes, in order, into chunks.
    #[must_use]
    pub fn of(leaves: &[Hash]) -> Self {
        let chunks = leaves.chunks(CHUNK_CELLS as usize).map(|chunk| root(chunk.iter().copied())).collect();
        Self { chunks, count: u32::try_from(leaves.len()).unwrap_or(u32::MAX) }
    }

    /// The manifest of a state of at most one chunk: its only hash is the signed state root, so nobody need be asked.
    #[must_use]
    pub fn of_one(count: u32, state_root: Hash) -> Option<Self> {
        // R251
        match count {
            0 => Some(Self { chunks: Vec::new(), count }),
            1..=CHUNK_CELLS => Some(Self { chunks: alloc::vec![state_root], count }),
            _ => None,
        }
    }

    /// The wire form: the chunk hashes, nothing else.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.chunks.concat() // R91
    }

    /// Reads the wire form and proves it against a signed state root and count.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Malformed`], [`Refusal::WrongCount`], [`Refusal::WrongStateRoot`].
    pub fn verify(bytes: &[u8], count: u32, state_root: &Hash) -> Result<Self, Refusal> {
        if bytes.len() > crate::limits::MANIFEST_BYTES_MAX || count > crate::limits::FEED_CELLS_MAX {
            return Err(Refusal::TooLarge);
        }
        let (chunks, rest) = bytes.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(Refusal::Malformed);
        }
        if chunks.len() != count.div_ceil(CHUNK_CELLS) as usize {
            // R92
            return Err(Refusal::WrongCount);
        }
        // Chunks are aligned powers of two, so the tree over their hashes is the tree over the leaves.
        if root(chunks.iter().copied()) != *state_root {
            return Err(Refusal::WrongStateRoot);
        }
        Ok(Self { chunks: chunks.to_vec(), count })
    }

    /// How many chunks there are.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.count.div_ceil(CHUNK_CELLS)
    }

    /// How many cells chunk `index` has.
    #[must_use]
    pub fn chunk_cells(&self, index: u32) -> u32 {
        self.count.saturating_sub(index.saturating_mul(CHUNK_CELLS)).min(CHUNK_CELLS)
    }

    /// Checks the leaf hashes of one received chunk.
    ///
    /// # Errors
    /// [`Refusal::WrongCount`], [`Refusal::WrongHash`].
    pub fn check_chunk(&self, index: u32, leaves: &[Hash]) -> Result<(), Refusal> {
        let expected = self.chunks.get(index as usize).ok_or(Refusal::WrongCount)?; // R93
        if leaves.len() != self.chunk_cells(index) as usize {
            return Err(Refusal::WrongCount);
        }
        if root(leaves.iter().copied()) == *expected { Ok(()) } else { Err(Refusal::WrongHash) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition of RFC 6962 2.1, word for word.
    fn reference(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => Sha256::digest([]).into(),
            [one] => *one,
            many => {
                let k = many.len().next_power_of_two() / 2;
                node(&reference(&many[..k]), &reference(&many[k..]))
            }
        }
    }

    fn leaves(n: u32) -> Vec<Hash> {
        (0..n).map(|i| leaf(&i.to_be_bytes())).collect()
    }

    #[test]
    fn equals_the_definition() {
        for n in (0..70).chain([255, 256, 257, 511, 513, 1000]) {
            assert_eq!(root(leaves(n)), reference(&leaves(n)), "{n} leaves");
        }
    }

    #[test]
    fn a_manifest_proves_itself() {
        for n in [0, 1, 255, 256, 257, 600, 1024, 1025] {
            let leaves = leaves(n);
            let state_root = root(leaves.iter().copied());
            let bytes = Manifest::of(&leaves).to_bytes();
            let manifest = Manifest::verify(&bytes, n, &state_root).unwrap_or_else(|e| panic!("{n}: {e}"));
            for (i, chunk) in leaves.chunks(CHUNK_CELLS as usize).enumerate() {
                assert_eq!(manifest.check_chunk(i as u32, chunk), Ok(()));
                assert_eq!(manifest.check_chunk(i as u32, &chunk[1..]), Err(Refusal::WrongCount));
            }
            assert_eq!(Manifest::of_one(n, state_root), (n <= 256).then_some(manifest));
            assert_eq!(Manifest::verify(&bytes, n + 256, &state_root), Err(Refusal::WrongCount));
            if n > 0 {
                let mut wrong = bytes.clone();
                wrong[0] ^= 1;
                assert_eq!(Manifest::verify(&wrong, n, &state_root), Err(Refusal::WrongStateRoot));
            }
        }
    }
}
