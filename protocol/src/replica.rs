//! What a replica does with cells: which road leads to a head, whether a delta may follow, and the merged live set.
//! It must not hold the replica: storage is the agent's, and only an equal state root lets a result be used.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::iter::Peekable;

use crate::cell::{Cell, CellKind};
use crate::digest::Hash;
use crate::head::FeedState;
use crate::id::{BlindId, FeedSeq};
use crate::tree::TreeHasher;
use crate::{Refusal, limits};

/// How to reach a feed's state in a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Road {
    /// Already there.
    Unchanged,
    /// By the cells in between.
    Delta {
        /// Exclusive.
        from: FeedSeq,
        /// Inclusive.
        to: FeedSeq,
    },
    /// By the whole live set.
    Snapshot,
}

/// Chooses the road. Both end at the same state root, so this decides bytes, never correctness.
///
/// # Errors
/// [`Refusal::Rollback`] when the head is behind in the same epoch.
pub fn road(have: Option<&FeedState>, want: &FeedState) -> Result<Road, Refusal> {
    let Some(have) = have.filter(|have| have.epoch == want.epoch) else { return Ok(Road::Snapshot) }; // R42
    if want.seq < have.seq {
        return Err(Refusal::Rollback);
    }
    if want.seq == have.seq {
        let same = want.state_root == have.state_root && want.count == have.count;
        return Ok(if same { Road::Unchanged } else { Road::Snapshot });
    }
    let delta = want.seq - have.seq;
    Ok(if delta <= want.count.saturating_add(64) {
        Road::Delta { from: have.seq, to: want.seq }
    } else {
        Road::Snapshot
    })
}

/// The stretches of a way by deltas, each one object: exclusive start, inclusive end.
pub fn stretches(from: FeedSeq, to: FeedSeq) -> impl Iterator<Item = (FeedSeq, FeedSeq)> {
    let next = move |from: &FeedSeq| Some(from.saturating_add(limits::DELTA_CELLS_MAX)).filter(|next| *next < to);
    core::iter::successors(Some(from).filter(|from| *from < to), next)
        .map(move |from| (from, from.saturating_add(limits::DELTA_CELLS_MAX).min(to)))
}

/// Checks that `cells` are exactly the positions after `from` up to `to`, in order.
///
/// # Errors
/// [`Refusal::WrongCount`], [`Refusal::Gap`].
pub fn check_delta(cells: &[Cell], from: FeedSeq, to: FeedSeq) -> Result<(), Refusal> {
    if cells.len() != to.saturating_sub(from) as usize {
        return Err(Refusal::WrongCount);
    }
    let exact = cells.iter().zip(from.saturating_add(1)..=to).all(|(cell, seq)| cell.seq() == seq); // R96
    if exact { Ok(()) } else { Err(Refusal::Gap) }
}

/// Checks that `cells` can stand in a live set at `seq`: PUTs, strictly sorted by blind id after `after`.
///
/// # Errors
/// [`Refusal::OutOfOrder`], [`Refusal::Malformed`].
pub fn check_live(cells: &[Cell], after: Option<BlindId>, seq: FeedSeq) -> Result<(), Refusal> {
    let mut last = after;
    for cell in cells {
        if cell.kind() != CellKind::Put || cell.seq() > seq {
            // R94
            return Err(Refusal::Malformed);
        }
        if last.is_some_and(|last| cell.blind() <= last) {
            return Err(Refusal::OutOfOrder);
        }
        last = Some(cell.blind());
    }
    Ok(())
}

/// The last word of a delta on each record: its new cell, or `None` when it was removed.
pub type Changes = BTreeMap<BlindId, Option<Cell>>;

/// Reduces cells in log order to the last word on each record.
#[must_use]
pub fn changes(cells: &[Cell]) -> Changes {
    let mut changes = Changes::new();
    for cell in cells {
        match cell.kind() {
            CellKind::Put => changes.insert(cell.blind(), Some(cell.clone())), // R98
            CellKind::Remove => changes.insert(cell.blind(), None),
            CellKind::Pad => None,
        };
    }
    changes
}

/// Merges a sorted live set with changes; passes on the errors of the old set and ends at the first.
pub fn merge<E, I: Iterator<Item = Result<Cell, E>>>(old: I, changes: Changes) -> Merged<I> {
    Merged { old: old.peekable(), changes: changes.into_iter().peekable() }
}

/// See [`merge`].
pub struct Merged<I: Iterator> {
    old: Peekable<I>,
    changes: Peekable<alloc::collections::btree_map::IntoIter<BlindId, Option<Cell>>>,
}

impl<I: Iterator> core::fmt::Debug for Merged<I> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Merged")
    }
}

impl<E, I: Iterator<Item = Result<Cell, E>>> Iterator for Merged<I> {
    type Item = Result<Cell, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let old = match self.old.peek() {
                Some(Err(_)) => return self.old.next(),
                Some(Ok(cell)) => Some(cell.blind()),
                None => None,
            };
            match (old, self.changes.peek().map(|(blind, _)| *blind)) {
                (Some(old), Some(change)) if old < change => return self.old.next(),
                (Some(_), None) => return self.old.next(),
                (None, None) => return None,
                (old, Some(change)) => {
                    if old == Some(change) {
                        self.old.next();
                    }
                    if let Some((_, Some(cell))) = self.changes.next() {
                        return Some(Ok(cell));
                    }
                }
            }
        }
    }
}

/// Compares a recomputed state with the signed one: only equality flips the feed (invariant 5).
///
/// # Errors
/// [`Refusal::WrongCount`], [`Refusal::WrongStateRoot`].
pub fn check_state(tree: &TreeHasher, want: &FeedState) -> Result<(), Refusal> {
    if tree.count() != want.count {
        // R45
        return Err(Refusal::WrongCount);
    }
    if tree.root() == want.state_root { Ok(()) } else { Err(Refusal::WrongStateRoot) }
}

/// The state root over live cells in order.
#[must_use]
pub fn state_root<'a>(cells: impl IntoIterator<Item = &'a Cell>) -> (u32, Hash) {
    let mut tree = TreeHasher::default();
    for cell in cells {
        tree.push(cell.leaf());
    }
    (tree.count(), tree.root())
}

/// The leaf hashes of cells.
#[must_use]
pub fn leaves(cells: &[Cell]) -> Vec<Hash> {
    cells.iter().map(Cell::leaf).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::testing::TestRng;
    use crate::text::Text;
    use proptest::prelude::*;

    fn state(seq: u32, count: u32) -> FeedState {
        FeedState { feed: Text::EMPTY, epoch: 1, seq, count, state_root: [seq as u8; 32], key_id: 0, oldest_key_id: 0 }
    }

    #[test]
    fn roads() {
        assert_eq!(road(None, &state(5, 5)), Ok(Road::Snapshot));
        assert_eq!(road(Some(&state(5, 5)), &state(5, 5)), Ok(Road::Unchanged));
        assert_eq!(road(Some(&state(5, 5)), &FeedState { state_root: [9; 32], ..state(5, 5) }), Ok(Road::Snapshot));
        assert_eq!(road(Some(&state(5, 5)), &FeedState { epoch: 2, ..state(3, 5) }), Ok(Road::Snapshot));
        assert_eq!(road(Some(&state(5, 5)), &state(4, 5)), Err(Refusal::Rollback));
        assert_eq!(road(Some(&state(5, 500)), &state(8, 500)), Ok(Road::Delta { from: 5, to: 8 }));
        assert_eq!(road(Some(&state(5, 5)), &state(800, 5)), Ok(Road::Snapshot));
    }

    proptest! {
        /// For any history and any cut of it, deltas from the cut end at the same live set as the whole log.
        #[test]
        fn deltas_equal_the_whole(ops in prop::collection::vec((0u8..12, 0u8..3), 0..120), cut in 0usize..120) {
            let mut rng = TestRng(1);
            let log: Vec<Cell> = ops.iter().zip(1u32..).map(|((who, what), seq)| {
                let kind = [CellKind::Put, CellKind::Remove, CellKind::Pad][usize::from(*what)];
                Cell::filled(kind, BlindId([*who; 8]), seq, &mut rng)
            }).collect();
            let live = |cells: &[Cell]| -> Vec<Cell> { changes(cells).into_values().flatten().collect() };
            let cut = cut.min(log.len());
            let old = live(&log[..cut]).into_iter().map(Ok::<_, ()>);
            let merged: Result<Vec<Cell>, ()> = merge(old, changes(&log[cut..])).collect();
            prop_assert_eq!(merged, Ok(live(&log)));
            prop_assert_eq!(check_delta(&log[cut..], cut as u32, log.len() as u32), Ok(()));
            prop_assert_eq!(check_live(&live(&log), None, log.len() as u32), Ok(()));
            if log.len() > cut {
                prop_assert_eq!(check_delta(&log[cut..], cut as u32 + 1, log.len() as u32 + 1), Err(Refusal::Gap));
            }
        }
    }
}
