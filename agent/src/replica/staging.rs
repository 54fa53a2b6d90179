//! What is on its way in, where no look-up sees it: staged chunks, the head that they are for, and what is taken over.
//! It must not take anything for held that the manifest does not prove, nor give a staged chunk up before a flip.
//!
//! | named row | what |
//! |---|---|
//! | `pinned` | the signed beat and head on their way in, and reference data; empty lists when there is none |
//! | `staged` | for each feed with staged chunks: the state in that head, and the generation whose rows they are |
//!
//! Which chunks are there is said by the rows themselves: they are read and proved again, against a manifest, before
//! they count (R252). A commit follows each round of chunks, so that a restart loses none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use cpis_protocol::cell::Cell;
use cpis_protocol::compare;
use cpis_protocol::head::{Beat, FeedState, Head};
use cpis_protocol::id::{FeedId, ScopeId};
use cpis_protocol::seal::Key;
use cpis_protocol::sync::pull::{Comparison, Pinned, StagedChunk};
use cpis_protocol::trust::Trust;
use cpis_protocol::{limits, replica};
use serde::{Deserialize, Serialize};

use super::feed::{self, CHUNK_ROWS, ROW_CELLS};
use super::view::NamedRows;
use super::{Building, Replica};
use crate::port::{Generation, GenerationKeys, RowName, Store, StoreError};
use crate::random::OsRandom;

/// Rows of a generation for one state of a feed, perhaps not all, perhaps not all sound.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) state: FeedState,
    pub(super) generation: Generation,
    pub(super) key: Key,
}

/// The row `pinned`.
#[derive(Default, Serialize, Deserialize)]
struct StoredPin {
    beat: Vec<u8>,
    head: Vec<u8>,
    reference: Option<Vec<u8>>,
}

/// The row `staged`.
type StoredStaging = Vec<(FeedState, Generation)>;

/// The rows that say that nothing is on its way in.
pub(super) fn nothing(named: &NamedRows) -> Result<[(RowName, Vec<u8>); 2], StoreError> {
    Ok([named.seal("pinned", &StoredPin::default())?, named.seal("staged", &StoredStaging::new())?])
}

/// What was staged when the agent stopped. What cannot be read is fetched again.
pub(super) fn load<S: Store, K: GenerationKeys>(store: &S, keys: &K, named: &NamedRows) -> BTreeMap<FeedId, Rows> {
    let stored = named.load::<StoredStaging>(store, "staged").unwrap_or_else(|error| {
        tracing::warn!(%error, "what was staged cannot be read");
        None
    });
    let rows = |(state, generation): (FeedState, Generation)| {
        Some((state.feed, Rows { key: keys.get(generation)?, state, generation }))
    };
    stored.into_iter().flatten().filter_map(rows).collect()
}

impl Rows {
    /// The rows that can be read, each with its number.
    fn readable<'a>(&'a self, store: &'a impl Store) -> impl Iterator<Item = (u32, Vec<Cell>)> + 'a {
        feed::readable(store, &self.key, self.generation, self.state.count)
    }
}

/// The chunks of the wanted state that these rows have whole, each once, to `keep`.
fn matching(
    rows: impl Iterator<Item = (u32, Vec<Cell>)>,
    of: &FeedState,
    wanted: &Comparison,
    keep: &mut impl FnMut(u32, Vec<Cell>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if let Some(bounds) = wanted.bounds.as_ref().filter(|_| of.state_root != wanted.state.state_root) {
        return compare::by_range(rows.flat_map(|(_, cells)| cells), bounds, &wanted.manifest, keep);
    }
    let mut chunk: (u32, Vec<Cell>) = (0, Vec::new());
    let mut close = |(index, cells): (u32, Vec<Cell>)| {
        let held = wanted.manifest.check_chunk(index, &replica::leaves(&cells)).is_ok(); // R252
        if held { keep(index, cells) } else { Ok(()) }
    };
    for (row, cells) in rows {
        let index = row / CHUNK_ROWS;
        if index != chunk.0 {
            close(std::mem::replace(&mut chunk, (index, Vec::new())))?;
        }
        chunk.1.extend(cells);
    }
    close(chunk)
}

impl<S: Store, K: GenerationKeys> Replica<S, K> {
    /// Remembers what is on its way in.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn pin(&self, pinned: &Pinned) -> Result<(), StoreError> {
        let _building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let (beat, head) = (pinned.beat.bytes().to_vec(), pinned.head.bytes().to_vec());
        let row = self.named.seal("pinned", &StoredPin { beat, head, reference: pinned.reference.clone() })?;
        self.store.commit(&[row]) // R254
    }

    /// What was on its way in, if it verifies under this root.
    pub fn pinned(&self, trust: &Trust, scope: &ScopeId) -> Option<Pinned> {
        let stored = self.named.load::<StoredPin>(&self.store, "pinned").ok()??;
        if stored.head.is_empty() {
            return None;
        }
        let read = || {
            let beat = Beat::verify(&stored.beat, scope, trust, None, None)?;
            let head = Head::verify(&stored.head, &beat.head, scope, trust)?;
            Ok::<_, cpis_protocol::Refusal>((beat, head))
        };
        match read() {
            Ok((beat, head)) => Some(Pinned { beat, head, reference: stored.reference }),
            Err(refusal) => {
                tracing::info!(reason = refusal.code(), "what was on its way in is let go of");
                None
            }
        }
    }

    /// The states for which chunks are staged.
    pub fn staged(&self) -> BTreeMap<FeedId, FeedState> {
        let building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        building.staged.iter().map(|(feed, rows)| (*feed, rows.state.clone())).collect()
    }

    /// Stores verified chunks as rows of a generation that nothing refers to yet, durably.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn stage(&self, chunks: Vec<StagedChunk>) -> Result<(), StoreError> {
        let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let states: BTreeMap<FeedId, &FeedState> =
            chunks.iter().map(|chunk| (chunk.state.feed, &chunk.state)).collect();
        let is_new = |state: &&FeedState| building.staged.get(&state.feed).is_none_or(|rows| rows.state != **state);
        let fresh: Vec<FeedState> = states.into_values().filter(is_new).cloned().collect();
        for rows in self.begin(&mut building, fresh)? {
            building.staged.insert(rows.state.feed, rows);
            building.unsaved = true;
        }
        for chunk in chunks {
            let Some(rows) = building.staged.get(&chunk.state.feed) else { continue };
            self.write_chunk(rows, chunk.index, &chunk.cells)?;
        }
        self.keep_staging(&mut building)
    }

    /// Stages, for each wanted state, the chunks that are here already; gives their numbers for each feed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn take_over(&self, wanted: &[Comparison]) -> Result<Vec<(FeedId, Vec<u32>)>, StoreError> {
        let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut all, mut copied, mut superseded) = (Vec::new(), false, false);
        for one in wanted {
            let feed = one.state.feed;
            let before = building.staged.remove(&feed);
            let remains = building.remains.remove(&feed);
            let result = self.take_over_one(&mut building, one, before.as_ref(), remains.as_ref());
            building.remains.extend(remains.map(|rows| (feed, rows)));
            let is_same = before.as_ref().is_some_and(|rows| rows.state == one.state);
            match result {
                Ok((held, fresh)) => {
                    building.unsaved |= fresh.is_some() || (before.is_some() && !is_same);
                    superseded |= before.is_some() && !is_same;
                    copied |= held.1;
                    // Rows for another state have given what was good of them.
                    let kept = fresh.or_else(|| before.filter(|_| is_same));
                    building.staged.extend(kept.map(|rows| (feed, rows)));
                    all.push((feed, held.0.into_iter().collect()));
                    if superseded && self.keys_are_many() {
                        self.keep_staging(&mut building)?;
                        self.destroy_unused(&building)?;
                        superseded = false;
                    }
                }
                Err(error) => {
                    building.staged.extend(before.map(|rows| (feed, rows)));
                    return Err(error);
                }
            }
        }
        if copied || building.unsaved {
            self.keep_staging(&mut building)?;
        }
        if superseded {
            self.destroy_unused(&building)?;
        }
        Ok(all)
    }

    /// Whether there is room for no more than another generation of every feed: then nothing is kept longer than it must.
    pub(super) fn keys_are_many(&self) -> bool {
        self.keys.generations().len() >= limits::FEEDS_MAX * 3 / 2
    }

    /// What is held of one wanted state and whether any of it was copied; and the generation that was begun for that.
    #[expect(clippy::type_complexity, reason = "two pairs that are taken apart at once")]
    fn take_over_one(
        &self,
        building: &mut Building,
        wanted: &Comparison,
        before: Option<&Rows>,
        remains: Option<&Rows>,
    ) -> Result<((BTreeSet<u32>, bool), Option<Rows>), StoreError> {
        let view = self.view();
        let (mut held, mut fresh, mut copied) = (BTreeSet::new(), None, false);
        let same = before.filter(|rows| rows.state == wanted.state);
        if let Some(rows) = same {
            matching(rows.readable(&self.store), &rows.state, wanted, &mut |index, _| {
                held.insert(index);
                Ok(())
            })?;
        }
        let mut copy = |index: u32, cells: Vec<Cell>| {
            if held.insert(index) {
                if same.is_none() && fresh.is_none() {
                    fresh = self.begin(building, vec![wanted.state.clone()])?.pop();
                }
                if let Some(rows) = same.or(fresh.as_ref()) {
                    self.write_chunk(rows, index, &cells)?;
                    copied = true;
                }
            }
            Ok(())
        };
        let comparable = |state: &FeedState| state.epoch == wanted.state.epoch;
        if let Some(own) = view.feeds.get(&wanted.state.feed).filter(|own| comparable(own.state())) {
            matching(own.readable(&self.store), own.state(), wanted, &mut copy)?;
        }
        let other = before.filter(|rows| rows.state != wanted.state);
        for rows in remains.into_iter().chain(other).filter(|rows| comparable(&rows.state)) {
            matching(rows.readable(&self.store), &rows.state, wanted, &mut copy)?;
        }
        Ok(((held, copied), fresh))
    }

    fn write_chunk(&self, rows: &Rows, index: u32, cells: &[Cell]) -> Result<(), StoreError> {
        let numbered = cells.chunks(ROW_CELLS).zip(index * CHUNK_ROWS..);
        let sealed = numbered.map(|(cells, row)| feed::seal_row(&rows.key, rows.generation, row, cells));
        self.store.write_rows(rows.generation, sealed.collect::<Result<_, _>>()?)
    }

    /// Begins generations: their keys are durable before anything under them is. A crash in between leaves keys without
    /// rows, which are destroyed at the next start.
    pub(super) fn begin(&self, building: &mut Building, states: Vec<FeedState>) -> Result<Vec<Rows>, StoreError> {
        let begun = states.into_iter().zip(building.next..);
        let begun: Vec<Rows> =
            begun.map(|(state, generation)| Rows { state, generation, key: Key::random(&mut OsRandom) }).collect();
        building.next += begun.len() as Generation;
        let keys: Vec<_> = begun.iter().map(|rows| (rows.state.feed, rows.generation, &rows.key)).collect();
        if !keys.is_empty() {
            self.keys.add(&keys)?;
        }
        Ok(begun)
    }

    /// Makes what is staged survive a power cut.
    fn keep_staging(&self, building: &mut Building) -> Result<(), StoreError> {
        if building.unsaved {
            let staged = building.staged.values().map(|rows| (rows.state.clone(), rows.generation));
            self.store.commit(&[self.named.seal("staged", &staged.collect::<StoredStaging>())?])?;
            building.unsaved = false;
            return Ok(());
        }
        self.store.commit(&[])
    }
}
