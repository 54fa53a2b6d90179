//! The replica: the verified copy that look-ups are answered from, and the only way it changes.
//! It must not show a half-applied state, nor touch the last good generation before the next one is proved and durable.
//!
//! Every change of a feed writes a whole new generation under a fresh key, proves its state root, flips all feeds in one
//! commit, and then destroys the old key and drops the old rows: what sled keeps of them on disk opens for nobody.
//! The index in memory is built in the same pass that proves the state root, so "not there" is as proved as "there".

mod feed;
mod held;
mod time;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard};

use cpis_protocol::Refusal;
use cpis_protocol::cell::{Cell, CellKind};
use cpis_protocol::clock::{Carrier, Reading};
use cpis_protocol::head::{Beat, FeedState, Head, Reference};
use cpis_protocol::id::{FeedId, ScopeId};
use cpis_protocol::replica;
use cpis_protocol::seal::Key;
use cpis_protocol::sync::pull::{Plan, Source, StagedChunk};
use cpis_protocol::trust::Trust;

pub use feed::FeedCopy;
pub use view::{Found, View};

use crate::port::{Generation, GenerationKeys, Store, StoreError};
use crate::random::OsRandom;
use feed::{CHUNK_ROWS, ROW_CELLS};
use view::{NamedRows, StoredBeat, StoredHead};

/// The replica over a store and the keys of its generations.
pub struct Replica<S, K> {
    store: S,
    keys: K,
    named: NamedRows,
    view: RwLock<View>,
    /// Held while anything is being built: there is one writer.
    building: Mutex<Building>,
    /// Records that an apply took out and whose receipt is not written yet.
    removed: Mutex<Option<u32>>,
}

impl<S, K> core::fmt::Debug for Replica<S, K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Replica")
    }
}

#[derive(Debug, Default)]
struct Building {
    next: Generation,
    staged: BTreeMap<FeedId, Staged>,
}

#[derive(Debug)]
struct Staged {
    state: FeedState,
    generation: Generation,
    key: Key,
}

impl<S: Store, K: GenerationKeys> Replica<S, K> {
    /// Opens the replica and proves every feed against the stored head (invariant 5).
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails; damaged content is not an error but a view that cannot answer.
    pub fn open(store: S, keys: K, trust: &Trust, scope: &ScopeId) -> Result<Self, StoreError> {
        let named = NamedRows::new(keys.names());
        let view = Self::load(&store, &keys, &named, trust, scope)?;
        let highest = keys.generations().into_iter().chain(store.generations()?).max().unwrap_or(0);
        let building = Mutex::new(Building { next: highest + 1, staged: BTreeMap::new() });
        let replica = Self { store, keys, named, view: RwLock::new(view), building, removed: Mutex::default() };
        // A crash may have left keys and rows that nothing refers to. What does not verify now is left alone: it may
        // under another root, and clearing up on a full disk must not cost the copy.
        if !replica.view().unreadable
            && let Err(error) = replica.destroy_unused()
        {
            tracing::warn!(%error, "old generations could not be cleared away yet");
        }
        Ok(replica)
    }

    fn load(store: &S, keys: &K, named: &NamedRows, trust: &Trust, scope: &ScopeId) -> Result<View, StoreError> {
        let Some(beat) = named.load::<StoredBeat>(store, "beat")? else { return Ok(View::default()) };
        let mut view = View { clock: beat.clock, ..View::default() };
        if beat.beat.is_empty() {
            return Ok(view);
        }
        let read = || -> Result<_, Refusal> {
            let verified = Beat::verify(&beat.beat, scope, trust, None, None)?;
            let stored: StoredHead =
                named.load(store, "head").map_err(|_| Refusal::DoesNotOpen)?.ok_or(Refusal::Truncated)?;
            let head = Head::verify(&stored.head, &verified.head, scope, trust)?;
            let bytes = named.load::<Vec<u8>>(store, "reference").map_err(|_| Refusal::DoesNotOpen)?;
            let reference = Reference::verify(&bytes.unwrap_or_default(), &head.reference)?;
            Ok((verified, stored, head, reference))
        };
        match read() {
            Ok((verified, stored, head, reference)) => {
                for state in &head.feeds {
                    let copy = stored
                        .generations
                        .iter()
                        .find(|(feed, _)| *feed == state.feed)
                        .and_then(|(_, generation)| keys.get(*generation).map(|key| (*generation, key)))
                        .and_then(|(generation, key)| FeedCopy::prove(store, generation, key, state).ok());
                    match copy {
                        Some(copy) => {
                            view.feeds.insert(state.feed, copy);
                        }
                        None => {
                            view.damaged.insert(state.feed);
                        }
                    }
                }
                view.beat = Some(verified);
                view.head = Some(head);
                view.reference = reference;
            }
            Err(refusal) => {
                tracing::error!(reason = refusal.code(), "the stored copy does not verify");
                if Beat::verify(&beat.beat, scope, trust, None, None).err() == Some(Refusal::UnknownKey) {
                    // As when its root came in: what a withdrawn key dated does not bound the clock.
                    view.clock.rebase(trust.root().issued_ms);
                }
                view.unreadable = true;
            }
        }
        Ok(view)
    }

    /// The present copy. Holding it keeps its generations readable: a flip waits.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store, for status and look-ups.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// Stores verified chunks as rows of a generation that nothing refers to yet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn stage(&self, chunks: Vec<StagedChunk>) -> Result<(), StoreError> {
        let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in chunks {
            let known = building.staged.get(&chunk.state.feed).is_some_and(|staged| staged.state == chunk.state);
            if !known && building.staged.remove(&chunk.state.feed).is_some() {
                tracing::debug!(feed = %chunk.state.feed, "a half-staged generation was given up");
            }
            if !known {
                let (generation, key) = self.new_generation(&mut building, chunk.state.feed)?;
                let staged = Staged { state: chunk.state.clone(), generation, key };
                building.staged.insert(chunk.state.feed, staged);
            }
            let Some(staged) = building.staged.get(&chunk.state.feed) else { continue };
            let rows = chunk.cells.chunks(ROW_CELLS).zip(chunk.index * CHUNK_ROWS..);
            let sealed = rows.map(|(cells, row)| feed::seal_row(&staged.key, staged.generation, row, cells));
            self.store.write_rows(staged.generation, sealed.collect::<Result<_, _>>()?)?;
        }
        Ok(())
    }

    fn new_generation(&self, building: &mut Building, feed: FeedId) -> Result<(Generation, Key), StoreError> {
        let generation = building.next;
        building.next += 1;
        let key = Key::random(&mut OsRandom);
        // The key is durable before anything under it is: a crash here leaves a key without rows, destroyed at start.
        self.keys.add(&[(feed, generation, &key)])?;
        Ok((generation, key))
    }

    /// Builds the next generation of every changed feed, proves it, and flips all feeds in one commit.
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails. The inner error lists the feeds whose result is not what was signed; in
    /// both cases the old copy keeps answering.
    pub fn apply(&self, plan: Plan, carrier: Carrier, reading: Reading) -> Result<Result<(), Vec<FeedId>>, StoreError> {
        let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_not_overtaken(&plan)?;
        let removed = self.would_remove(&plan);
        let result = self.build_and_flip(&mut building, plan, carrier, reading);
        building.staged.clear();
        drop(building);
        // The flip stands or the old copy does: cleaning up can fail and be tried again, without saying otherwise.
        let destroyed = self.destroy_unused();
        if let Err(error) = &destroyed {
            tracing::warn!(%error, "old generations could not be cleared away yet");
        }
        if let (Ok(Ok(())), Ok(())) = (&result, &destroyed) {
            *self.removed.lock().unwrap_or_else(PoisonError::into_inner) = removed;
        }
        result
    }

    /// How many records a plan takes out; `None` when none. A feed that comes whole is counted by its size.
    fn would_remove(&self, plan: &Plan) -> Option<u32> {
        let view = self.view();
        let gone = view.feeds.iter().filter(|(feed, _)| plan.head.feed(feed).is_none());
        let mut removed = gone.map(|(_, copy)| copy.state().count).fold(0, u32::saturating_add);
        for (state, source) in plan.head.feeds.iter().zip(&plan.sources) {
            removed = removed.saturating_add(match source {
                Source::Unchanged => 0,
                Source::Staged => {
                    view.feeds.get(&state.feed).map_or(0, |old| old.state().count.saturating_sub(state.count))
                }
                Source::Delta(cells) => {
                    let removes = cells.iter().filter(|cell| cell.kind() == CellKind::Remove).count();
                    u32::try_from(removes).unwrap_or(u32::MAX)
                }
            });
        }
        (removed > 0).then_some(removed)
    }

    /// The number of records that the last apply took out, once.
    pub fn take_removed(&self) -> Option<u32> {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Forgets the copy, whose keys are destroyed, and gives its space back; the clock stays.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn clear(&self) -> Result<(), StoreError> {
        let mut building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        building.staged.clear();
        let clock = {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            *view = View { clock: view.clock, ..View::default() };
            view.clock
        };
        let mut rows = vec![self.named.seal("beat", &StoredBeat { beat: Vec::new(), clock })?];
        for name in ["head", "reference"] {
            rows.push(self.named.seal(name, &Vec::<u8>::new())?);
        }
        for generation in self.store.generations()? {
            self.store.drop_generation(generation)?;
        }
        self.store.commit(&rows)
    }

    /// Another carrier may have moved the copy since the machine looked: a plan never leads back.
    fn check_not_overtaken(&self, plan: &Plan) -> Result<(), StoreError> {
        let view = self.view();
        let Some(head) = view.head.as_ref().filter(|head| head.scope == plan.head.scope) else { return Ok(()) };
        let older = plan.head.gseq < head.gseq
            || view.beat.as_ref().is_some_and(|last| plan.beat.issued_ms < last.issued_ms)
            || (plan.reference.is_none() && head.reference != plan.head.reference);
        if older { Err(StoreError::Overtaken) } else { Ok(()) }
    }

    fn build_and_flip(
        &self,
        building: &mut Building,
        plan: Plan,
        carrier: Carrier,
        reading: Reading,
    ) -> Result<Result<(), Vec<FeedId>>, StoreError> {
        let mut next = BTreeMap::new();
        let mut wrong = Vec::new();
        for (state, source) in plan.head.feeds.iter().zip(plan.sources) {
            match self.build(building, state, source)? {
                Ok(copy) => {
                    next.insert(state.feed, copy);
                }
                Err(refusal) => {
                    tracing::error!(feed = %state.feed, reason = refusal.code(), "a feed did not come out as signed");
                    wrong.push(state.feed);
                }
            }
        }
        if !wrong.is_empty() {
            return Ok(Err(wrong));
        }
        let reference = match &plan.reference {
            Some(bytes) => Reference::verify(bytes, &plan.head.reference).ok(),
            None => Some(self.view().reference.clone()),
        };
        let Some(reference) = reference else { return Ok(Err(plan.head.feeds.iter().map(|f| f.feed).collect())) };
        let mut clock = self.view().clock;
        clock.observe(plan.beat.issued_ms, carrier, reading);
        let generations: Vec<_> =
            plan.head.feeds.iter().map(|f| f.feed).zip(self.generations_of(&plan.head, &next)).collect();
        let mut rows = vec![
            self.named.seal("beat", &StoredBeat { beat: plan.beat.bytes().to_vec(), clock })?,
            self.named.seal("head", &StoredHead { head: plan.head.bytes().to_vec(), generations })?,
        ];
        if let Some(bytes) = &plan.reference {
            rows.push(self.named.seal("reference", bytes)?);
        }
        // The flip. Before it the old copy stands, after it the new one; a crash in between leaves one of the two.
        self.store.commit(&rows)?;
        {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            let mut old = std::mem::take(&mut view.feeds);
            view.feeds = next
                .into_iter()
                .filter_map(|(feed, copy)| {
                    let kept = || Some(old.remove(&feed)?.restate(plan.head.feed(&feed)?));
                    copy.or_else(kept).map(|copy| (feed, copy))
                })
                .collect();
            view.beat = Some(plan.beat);
            view.head = Some(plan.head);
            view.reference = reference;
            view.clock = clock;
            view.damaged = BTreeSet::new();
            view.unreadable = false;
        }
        Ok(Ok(()))
    }

    fn generations_of(&self, head: &Head, next: &BTreeMap<FeedId, Option<FeedCopy>>) -> Vec<Generation> {
        let view = self.view();
        let of = |feed: &FeedId| match next.get(feed) {
            Some(Some(copy)) => copy.generation(),
            _ => view.feeds.get(feed).map_or(0, FeedCopy::generation),
        };
        head.feeds.iter().map(|state| of(&state.feed)).collect()
    }

    /// One feed's next generation, proved; `None` when the present one stands.
    fn build(
        &self,
        building: &mut Building,
        state: &FeedState,
        source: Source,
    ) -> Result<Result<Option<FeedCopy>, Refusal>, StoreError> {
        match source {
            Source::Unchanged => {
                let view = self.view();
                let same = view.feeds.get(&state.feed).is_some_and(|copy| copy.state().state_root == state.state_root);
                Ok(if same { Ok(None) } else { Err(Refusal::WrongStateRoot) })
            }
            Source::Staged => {
                let staged = building.staged.remove(&state.feed).filter(|staged| staged.state == *state);
                if staged.is_none() && state.count == 0 {
                    // An empty feed has no chunks to stage.
                    let (generation, key) = self.new_generation(building, state.feed)?;
                    return Ok(FeedCopy::prove(&self.store, generation, key, state).map(Some));
                }
                let Some(staged) = staged else { return Ok(Err(Refusal::Gap)) };
                Ok(FeedCopy::prove(&self.store, staged.generation, staged.key, state).map(Some))
            }
            Source::Delta(cells) => {
                let (generation, key) = self.new_generation(building, state.feed)?;
                let view = self.view();
                let Some(old) = view.feeds.get(&state.feed) else { return Ok(Err(Refusal::Gap)) };
                let merged = replica::merge(old.cells(&self.store), replica::changes(&cells));
                self.write_generation(generation, key, state, merged)
            }
        }
    }

    fn write_generation(
        &self,
        generation: Generation,
        key: Key,
        state: &FeedState,
        cells: impl Iterator<Item = Result<Cell, Refusal>>,
    ) -> Result<Result<Option<FeedCopy>, Refusal>, StoreError> {
        let mut prover = feed::Prover::default();
        let mut row_cells = Vec::with_capacity(ROW_CELLS);
        let mut rows = Vec::new();
        let mut number = 0;
        for cell in cells {
            let cell = match cell {
                Ok(cell) => cell,
                Err(refusal) => return Ok(Err(refusal)),
            };
            if let Err(refusal) = prover.push(&cell, state) {
                return Ok(Err(refusal));
            }
            row_cells.push(cell);
            if row_cells.len() == ROW_CELLS {
                rows.push(feed::seal_row(&key, generation, number, &row_cells)?);
                row_cells.clear();
                number += 1;
            }
            if rows.len() == 64 {
                self.store.write_rows(generation, std::mem::take(&mut rows))?;
            }
        }
        if !row_cells.is_empty() {
            rows.push(feed::seal_row(&key, generation, number, &row_cells)?);
        }
        self.store.write_rows(generation, rows)?;
        Ok(prover.finish(state, generation, key).map(Some))
    }

    /// Destroys the keys of every generation that the view does not use, then gives their space back.
    fn destroy_unused(&self) -> Result<(), StoreError> {
        let building = self.building.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keep: Vec<_> = self.view().feeds.values().map(FeedCopy::generation).collect();
        keep.extend(building.staged.values().map(|staged| staged.generation));
        // A crash between the two leaves rows that open for nobody.
        if self.keys.generations().iter().any(|generation| !keep.contains(generation)) {
            self.keys.retain(&keep)?;
        }
        let mut dropped = false;
        for generation in self.store.generations()? {
            if !keep.contains(&generation) {
                self.store.drop_generation(generation)?;
                dropped = true;
            }
        }
        if dropped { self.store.commit(&[]) } else { Ok(()) }
    }
}
