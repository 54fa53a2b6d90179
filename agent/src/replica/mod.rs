//! The replica: the verified copy that look-ups are answered from, and the only way it changes.
//! It must not show a half-applied state, nor touch the last good generation before the next one is proved and durable.
//!
//! Every change of a feed writes a whole new generation under a fresh key, proves its state root, flips all feeds in one
//! commit, and then destroys the old key and drops the old rows: what sled keeps of them on disk opens for nobody.
//! The index in memory is built in the same pass that proves the state root, so "not there" is as proved as "there".

mod feed;
mod held;
mod scrub;
mod staging;
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
use cpis_protocol::sync::pull::{Plan, Source};
use cpis_protocol::trust::Trust;

pub use feed::FeedCopy;
pub use scrub::{Scrub, Scrubbed};
pub use view::{Found, View};

use crate::port::{Generation, GenerationKeys, RowName, Store, StoreError};
use feed::ROW_CELLS;
use staging::Rows;
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
    staged: BTreeMap<FeedId, Rows>,
    /// Whether the disk does not say yet what is staged.
    unsaved: bool,
    /// Generations of the present head that did not prove: what is good of them is taken over.
    remains: BTreeMap<FeedId, Rows>,
    /// A flip failed, and the disk may hold it all the same: both generations stay, until named rows were written again.
    uncertain: bool,
}

impl<S: Store, K: GenerationKeys> Replica<S, K> {
    /// Opens the replica and proves every feed against the stored head (invariant 5).
    ///
    /// # Errors
    /// [`StoreError`] when the storage fails; damaged content is not an error but a view that cannot answer.
    pub fn open(store: S, keys: K, trust: &Trust, scope: &ScopeId) -> Result<Self, StoreError> {
        let named = NamedRows::new(keys.names());
        let (view, remains) = Self::load(&store, &keys, &named, trust, scope)?;
        let highest = keys.generations().into_iter().chain(store.generations()?).max().unwrap_or(0);
        let staged = staging::load(&store, &keys, &named);
        let building = Mutex::new(Building { next: highest + 1, staged, remains, ..Building::default() });
        let replica = Self { store, keys, named, view: RwLock::new(view), building, removed: Mutex::default() };
        // A crash may have left keys and rows that nothing refers to. What does not verify now is left alone: it may
        // under another root, and clearing up on a full disk must not cost the copy.
        if !replica.view().unreadable
            && let Err(error) = replica.clean()
        {
            tracing::warn!(%error, "old generations could not be cleared away yet");
        }
        Ok(replica)
    }

    /// The stored copy, and the generations of it that do not prove.
    fn load(
        store: &S,
        keys: &K,
        named: &NamedRows,
        trust: &Trust,
        scope: &ScopeId,
    ) -> Result<(View, BTreeMap<FeedId, Rows>), StoreError> {
        let mut remains = BTreeMap::new();
        let Some(beat) = named.load::<StoredBeat>(store, "beat")? else { return Ok((View::default(), remains)) };
        let mut view = View { clock: beat.clock, ..View::default() };
        if beat.beat.is_empty() {
            return Ok((view, remains));
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
                    let generation =
                        stored.generations.iter().find(|(feed, _)| *feed == state.feed).map(|found| found.1);
                    let key = |generation: Option<Generation>| Some((generation?, keys.get(generation?)?));
                    let proved = key(generation)
                        .and_then(|(generation, key)| FeedCopy::prove(store, generation, key, state).ok());
                    if let Some(copy) = proved {
                        view.feeds.insert(state.feed, copy);
                        continue;
                    }
                    view.damaged.insert(state.feed);
                    if let Some((generation, key)) = key(generation) {
                        remains.insert(state.feed, Rows { state: state.clone(), generation, key });
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
        Ok((view, remains))
    }

    /// The present copy. Holding it keeps its generations readable: a flip waits.
    pub fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store, for status and look-ups.
    pub const fn store(&self) -> &S {
        &self.store
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
        if self.keys_are_many() {
            let is_staged = |feed: &FeedId| {
                let sources = plan.head.feeds.iter().zip(&plan.sources);
                sources.filter(|(state, _)| state.feed == *feed).any(|(_, source)| *source == Source::Staged)
            };
            building.staged.retain(|feed, _| is_staged(feed));
            self.destroy_unused(&building)?;
        }
        let result = self.build_and_flip(&mut building, plan, carrier, reading);
        match &result {
            Ok(Ok(())) => *building = Building { next: building.next, ..Building::default() },
            Ok(Err(_)) => {}
            Err(_) => {
                building.uncertain = true;
                return result;
            }
        }
        drop(building);
        // The flip stands or the old copy does: cleaning up can fail and be tried again, without saying otherwise.
        let destroyed = self.clean();
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
        *building = Building { next: building.next, ..Building::default() };
        let clock = {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            *view = View { clock: view.clock, ..View::default() };
            view.clock
        };
        let mut rows = vec![self.named.seal("beat", &StoredBeat { beat: Vec::new(), clock })?];
        for name in ["head", "reference"] {
            rows.push(self.named.seal(name, &Vec::<u8>::new())?);
        }
        rows.extend(staging::nothing(&self.named)?);
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
        rows.extend(staging::nothing(&self.named)?);
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
                let staged = building.staged.get(&state.feed).filter(|staged| staged.state == *state);
                // The chunks stay staged until the flip stands: what is refused now is not fetched again.
                let of_staged = staged.and_then(|rows| Some((rows.generation, self.keys.get(rows.generation)?)));
                let (generation, key) = match of_staged {
                    Some(found) => found,
                    // An empty feed has no chunks to stage.
                    None if state.count == 0 => self.new_generation(building, state)?,
                    None => return Ok(Err(Refusal::Gap)),
                };
                Ok(FeedCopy::prove(&self.store, generation, key, state).map(Some))
            }
            Source::Delta(cells) => {
                let (generation, key) = self.new_generation(building, state)?;
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

    fn new_generation(&self, building: &mut Building, state: &FeedState) -> Result<(Generation, Key), StoreError> {
        let begun = self.begin(building, vec![state.clone()])?.pop();
        begun.map(|rows| (rows.generation, rows.key)).ok_or_else(|| StoreError::Io("no generation was begun".into()))
    }

    /// After a commit that failed: the rows that must not be of another copy than the one in memory.
    fn present_rows(&self, building: &Building) -> Result<Vec<(RowName, Vec<u8>)>, StoreError> {
        let view = self.view();
        let Some(head) = &view.head else { return Ok(Vec::new()) };
        let proved = view.feeds.iter().map(|(feed, copy)| (*feed, copy.generation()));
        let damaged = building.remains.iter().map(|(feed, rows)| (*feed, rows.generation));
        let generations = proved.chain(damaged).collect();
        let reference = view.reference.encode().map_err(|e| StoreError::Io(e.to_string()))?;
        Ok(vec![
            self.named.seal("head", &StoredHead { head: head.bytes().to_vec(), generations })?,
            self.named.seal("reference", &reference)?,
        ])
    }

    /// Stores the row that moves the copy's age, and after a failed flip what it belongs to.
    fn store_age(&self, building: &mut Building, beat: &StoredBeat) -> Result<(), StoreError> {
        let mut rows = vec![self.named.seal("beat", beat)?];
        if !building.uncertain {
            return self.store.commit(&rows);
        }
        rows.extend(self.present_rows(building)?);
        self.store.commit(&rows)?;
        building.uncertain = false;
        self.destroy_unused(building)
    }

    fn clean(&self) -> Result<(), StoreError> {
        self.destroy_unused(&self.building.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Destroys the keys of every generation that neither the view nor what is being built uses, then gives their space
    /// back.
    fn destroy_unused(&self, building: &Building) -> Result<(), StoreError> {
        let mut keep: Vec<_> = self.view().feeds.values().map(FeedCopy::generation).collect();
        keep.extend(building.staged.values().chain(building.remains.values()).map(|rows| rows.generation));
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
