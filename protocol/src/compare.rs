//! Comparison by key range: which chunks of a wanted state a device holds already, wherever they lie in its own set.
//! It must not take a range for held unless its tree hash is the manifest's: a list of bounds is nobody's word.
//!
//! A chunk is a run of cells between two blind ids, and the manifest that proves itself against the signed state root
//! gives the tree hash of each. So bounds need no proof: wrong ones make ranges differ that are equal, which costs bytes.

use alloc::vec::Vec;

use crate::Refusal;
use crate::cell::Cell;
use crate::id::BlindId;
use crate::limits::{BOUNDS_BYTES_MAX, CHUNK_CELLS};
use crate::replica;
use crate::tree::Manifest;

/// Bytes of one bound.
const BOUND_BYTES: usize = 8;

/// The first blind id of each chunk of a live set: chunk *i* holds the records from bound *i* on, up to the next bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds(Vec<BlindId>);

impl Bounds {
    /// Those of a live set, given by its blind ids in order.
    #[must_use]
    pub fn of(live: impl IntoIterator<Item = BlindId>) -> Self {
        Self(live.into_iter().step_by(CHUNK_CELLS as usize).collect())
    }

    /// Those of a live set, given by the first blind id of each of its chunks.
    #[must_use]
    pub const fn from_first(first: Vec<BlindId>) -> Self {
        Self(first)
    }

    /// The wire form: the blind ids, nothing else.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|bound| bound.0).collect() // R250
    }

    /// Reads the wire form for a state of so many chunks.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Malformed`], [`Refusal::WrongCount`], [`Refusal::OutOfOrder`].
    pub fn read(bytes: &[u8], chunks: u32) -> Result<Self, Refusal> {
        if bytes.len() > BOUNDS_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        let (bounds, rest) = bytes.as_chunks::<BOUND_BYTES>();
        if !rest.is_empty() {
            return Err(Refusal::Malformed);
        }
        if bounds.len() != chunks as usize {
            return Err(Refusal::WrongCount);
        }
        if !bounds.is_sorted_by(|a, b| a < b) {
            return Err(Refusal::OutOfOrder);
        }
        Ok(Self(bounds.iter().map(|bound| BlindId(*bound)).collect()))
    }

    /// The chunk in whose range a record lies; `None` before the first.
    fn chunk(&self, blind: BlindId) -> Option<u32> {
        u32::try_from(self.0.partition_point(|bound| *bound <= blind)).ok()?.checked_sub(1)
    }
}

/// Hands every chunk of the wanted state that `cells` hold whole, by its number, to `each`. `cells` are what can be read
/// of any live set of the same epoch, by blind id; what is missing among them makes its range differ.
///
/// # Errors
/// What `each` returns.
pub fn by_range<E>(
    cells: impl IntoIterator<Item = Cell>,
    bounds: &Bounds,
    manifest: &Manifest,
    mut each: impl FnMut(u32, Vec<Cell>) -> Result<(), E>,
) -> Result<(), E> {
    let mut run: Vec<Cell> = Vec::new();
    let mut at = None;
    let mut close = |at: Option<u32>, run: &mut Vec<Cell>| {
        let run = core::mem::take(run);
        let Some(index) = at else { return Ok(()) };
        // R252
        if manifest.check_chunk(index, &replica::leaves(&run)).is_ok() { each(index, run) } else { Ok(()) }
    };
    for cell in cells {
        let index = bounds.chunk(cell.blind());
        if index != at {
            close(at, &mut run)?;
            at = index;
        }
        // One more than a chunk has is enough to differ.
        if at.is_some() && run.len() <= CHUNK_CELLS as usize {
            run.push(cell);
        }
    }
    close(at, &mut run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::CellKind;
    use crate::seal::testing::TestRng;
    use alloc::collections::BTreeMap;
    use core::convert::Infallible;
    use proptest::prelude::*;

    /// A live set of even blind ids, spread over the key space.
    fn live(count: u64) -> BTreeMap<BlindId, Cell> {
        let mut rng = TestRng(1);
        let blind = |who: u64| BlindId((who << 40).to_be_bytes());
        (0..count).map(|who| (blind(who * 2), Cell::filled(CellKind::Put, blind(who * 2), 1, &mut rng))).collect()
    }

    fn held(cells: &BTreeMap<BlindId, Cell>, bounds: &Bounds, manifest: &Manifest) -> BTreeMap<u32, Vec<Cell>> {
        let mut held = BTreeMap::new();
        let Ok(()) = by_range(cells.values().cloned(), bounds, manifest, |index, cells| {
            assert_eq!(held.insert(index, cells), None);
            Ok::<(), Infallible>(())
        });
        held
    }

    fn wanted(live: &BTreeMap<BlindId, Cell>) -> (Bounds, Manifest, Vec<Vec<Cell>>) {
        let cells: Vec<Cell> = live.values().cloned().collect();
        let chunks = cells.chunks(CHUNK_CELLS as usize).map(<[Cell]>::to_vec).collect();
        (Bounds::of(live.keys().copied()), Manifest::of(&replica::leaves(&cells)), chunks)
    }

    #[test]
    fn one_insertion_shifts_every_place_and_one_range() {
        let old = live(1500);
        let mut new = old.clone();
        let blind = BlindId((401u64 << 40).to_be_bytes());
        new.insert(blind, Cell::filled(CellKind::Put, blind, 2, &mut TestRng(2)));
        let (bounds, manifest, chunks) = wanted(&new);
        let held = held(&old, &bounds, &manifest);
        assert_eq!(held.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5], "only the first range differs");
        assert!(held.iter().all(|(index, cells)| chunks[*index as usize] == *cells));
    }

    proptest! {
        /// Whatever was added, replaced, taken out or lost, and whatever the bounds say: what is taken for held is what
        /// was signed; with honest bounds everything that is equal is found.
        #[test]
        fn what_is_held_is_what_was_signed(
            edits in prop::collection::vec((0u64..3000, 0u8..3), 0..40),
            lost in prop::collection::vec(0u64..3000, 0..20),
            lies in prop::collection::vec((0usize..8, any::<u64>()), 0..4),
        ) {
            let mut old = live(1500);
            let mut new = old.clone();
            for (who, what) in edits {
                let blind = BlindId((who << 40).to_be_bytes());
                match what {
                    0 => drop(new.remove(&blind)),
                    _ => drop(new.insert(blind, Cell::filled(CellKind::Put, blind, 2, &mut TestRng(who)))),
                }
            }
            for who in lost {
                old.remove(&BlindId((who << 40).to_be_bytes()));
            }
            let (bounds, manifest, chunks) = wanted(&new);
            let honest = held(&old, &bounds, &manifest);
            for (index, cells) in &honest {
                prop_assert_eq!(&chunks[*index as usize], cells);
            }
            for (index, chunk) in chunks.iter().enumerate() {
                let end = chunks.get(index + 1).map(|next| next[0].blind());
                let own = old.range(chunk[0].blind()..).take_while(|(blind, _)| end.is_none_or(|end| **blind < end));
                let equal = own.map(|(_, cell)| cell.clone()).collect::<Vec<_>>() == *chunk;
                prop_assert_eq!(honest.contains_key(&(index as u32)), equal, "chunk {}", index);
            }
            let mut lying = bounds.0.clone();
            for (at, to) in lies {
                let length = lying.len();
                lying[at % length] = BlindId(to.to_be_bytes());
            }
            lying.sort_unstable();
            for (index, cells) in held(&old, &Bounds(lying), &manifest) {
                prop_assert_eq!(&chunks[index as usize], &cells);
            }
        }
    }
}
