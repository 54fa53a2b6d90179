//! Reading the stored copy again, piece by piece, and proving it: rot is found before somebody asks.
//! It must not hold the copy for longer than a piece, nor leave a feed in use that does not prove.

use std::sync::PoisonError;

use cpis_protocol::head::FeedState;
use cpis_protocol::id::FeedId;

use super::Replica;
use super::feed::{self, Prover};
use super::staging::Rows;
use crate::port::{Generation, GenerationKeys, Store};

/// One feed's reading.
#[derive(Debug)]
pub struct Scrub {
    state: FeedState,
    generation: Generation,
    row: u32,
    prover: Prover,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrubbed {
    /// There is more to read.
    More,
    /// Everything is as it was proved, or another generation has taken its place meanwhile.
    Sound,
    /// It is damaged, and marked so: nothing is answered until it is repaired.
    Damaged,
}

impl<S: Store, K: GenerationKeys> Replica<S, K> {
    /// The feeds to read.
    pub fn feeds(&self) -> Vec<FeedId> {
        self.view().feeds.keys().copied().collect()
    }

    /// Begins with a feed; `None` where it is not held, or known to be damaged.
    pub fn begin_scrub(&self, feed: &FeedId) -> Option<Scrub> {
        let view = self.view();
        let copy = view.feeds.get(feed)?;
        let (state, generation) = (copy.state().clone(), copy.generation());
        Some(Scrub { state, generation, row: 0, prover: Prover::without_index() })
    }

    /// Reads so many rows more, and at the end compares with the signed state.
    pub fn scrub(&self, scrub: &mut Scrub, rows: u32) -> Scrubbed {
        let end = scrub.state.count.div_ceil(feed::ROW_CELLS as u32);
        let sound = {
            let view = self.view();
            let Some(copy) = view.feeds.get(&scrub.state.feed).filter(|copy| copy.generation() == scrub.generation)
            else {
                return Scrubbed::Sound;
            };
            let until = scrub.row.saturating_add(rows).min(end);
            let mut read = (scrub.row..until).map(|row| copy.row(&self.store, row));
            let sound =
                read.try_for_each(|cells| cells?.iter().try_for_each(|cell| scrub.prover.push(cell, &scrub.state)));
            scrub.row = until;
            sound.is_ok() && (until < end || scrub.prover.check(&scrub.state).is_ok())
        };
        if !sound {
            self.give_up(&scrub.state.feed, scrub.generation);
            return Scrubbed::Damaged;
        }
        if scrub.row < end { Scrubbed::More } else { Scrubbed::Sound }
    }

    /// Takes a damaged generation out of use; what is good of it is taken over by the repair (R252).
    fn give_up(&self, feed: &FeedId, generation: Generation) {
        let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        // R258
        if let Some(copy) = view.feeds.remove(feed) {
            if copy.generation() != generation {
                view.feeds.insert(*feed, copy);
                return;
            }
            tracing::error!(%feed, "the stored copy of a feed is damaged: it cannot answer until it is repaired");
            let (state, generation, key) = copy.into_parts();
            building.remains.insert(*feed, Rows { state, generation, key });
            view.damaged.insert(*feed);
        }
    }
}
