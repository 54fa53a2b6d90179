//! The replica's storage in memory: what is shown, what is durable, and what waits in between.
//! It must not be kinder than sled on a real disk: a commit that fails may have reached it, and a cut keeps any part of
//! what was not committed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cpis_agent::port::{Generation, RowName, Store, StoreError};

use super::dice::Dice;
use super::power::{Power, Verdict};

#[derive(Debug, Clone, Default)]
struct Content {
    named: BTreeMap<RowName, Vec<u8>>,
    rows: BTreeMap<(Generation, u32), Vec<u8>>,
}

#[derive(Debug)]
enum Change {
    Rows(Generation, Vec<(u32, Vec<u8>)>),
    Drop(Generation),
    Named(Vec<(RowName, Vec<u8>)>),
}

impl Content {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Rows(generation, rows) => {
                self.rows.extend(rows.iter().map(|(row, value)| ((*generation, *row), value.clone())));
            }
            Change::Drop(generation) => self.rows.retain(|(of, _), _| of != generation),
            Change::Named(rows) => self.named.extend(rows.iter().cloned()),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    shown: Content,
    durable: Content,
    pending: Vec<Change>,
    /// As sled after an error of the disk: nothing more is written until it is opened anew.
    stuck: bool,
    /// The next opening finds it damaged beyond use.
    damaged: bool,
}

impl State {
    fn change(&mut self, change: Change) {
        self.shown.apply(&change);
        self.pending.push(change);
    }

    fn flush(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            self.durable.apply(&change);
        }
    }
}

/// The storage of one device's replica, whichever process has it open.
#[derive(Debug, Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    power: Arc<Power>,
}

fn io() -> StoreError {
    StoreError::Io("the simulated disk fails".into())
}

impl MemoryStore {
    /// Empty.
    #[must_use]
    pub fn new(power: Arc<Power>) -> Self {
        Self { state: Arc::default(), power }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens it as what lies in a directory; whoever moves the directory away finds it empty.
    ///
    /// # Errors
    /// [`StoreError::DoesNotOpen`] while it is damaged.
    pub fn open(&self, directory: &Path) -> Result<Self, StoreError> {
        let mut state = self.state();
        if directory.exists() {
            if state.damaged {
                return Err(StoreError::DoesNotOpen("the simulated store is damaged".into()));
            }
        } else {
            *state = State::default();
            std::fs::create_dir(directory).map_err(|error| StoreError::DoesNotOpen(error.to_string()))?;
        }
        state.stuck = false;
        drop(state);
        Ok(self.clone())
    }

    /// The process ended: what it had not committed is on the disk in part.
    pub fn lose(&self) {
        let mut state = self.state();
        for change in std::mem::take(&mut state.pending) {
            if self.power.coin() {
                state.durable.apply(&change);
            }
        }
        state.shown = state.durable.clone();
    }

    /// It does not open any more.
    pub fn damage(&self) {
        self.state().damaged = true;
    }

    /// One bit of what is stored turns; false when there is nothing.
    pub fn rot(&self, dice: &mut Dice) -> bool {
        let mut state = self.state();
        let keys: Vec<_> = state.durable.rows.keys().copied().collect();
        let Some(key) = dice.pick(&keys).copied() else { return false };
        let (at, bit) = (dice.next(), dice.below(8));
        let State { shown, durable, .. } = &mut *state;
        for value in [shown.rows.get_mut(&key), durable.rows.get_mut(&key)].into_iter().flatten() {
            let length = value.len() as u64;
            if let Some(byte) = value.get_mut(usize::try_from(at % length.max(1)).unwrap_or(0)) {
                *byte ^= 1 << bit;
            }
        }
        true
    }

    fn write(&self, grows: bool, change: Change) -> Result<(), StoreError> {
        let mut state = self.state();
        if state.stuck {
            return Err(io());
        }
        match self.power.step(grows) {
            Verdict::Done => {
                state.change(change);
                Ok(())
            }
            Verdict::Fails { reached, full } => {
                if reached {
                    state.change(change);
                }
                state.stuck = !full && self.power.coin();
                Err(io())
            }
        }
    }
}

impl Store for MemoryStore {
    fn load(&self, name: &RowName) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().shown.named.get(name).cloned())
    }

    fn row(&self, generation: Generation, row: u32) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.state().shown.rows.get(&(generation, row)).cloned())
    }

    fn write_rows(&self, generation: Generation, rows: Vec<(u32, Vec<u8>)>) -> Result<(), StoreError> {
        self.write(true, Change::Rows(generation, rows))
    }

    fn commit(&self, rows: &[(RowName, Vec<u8>)]) -> Result<(), StoreError> {
        // As the real one: what the named rows will refer to first, then they, then all of it synced.
        for named in [None, Some(rows.to_vec())] {
            if let Some(rows) = named.filter(|_| !rows.is_empty()) {
                self.write(true, Change::Named(rows))?;
            }
            let mut state = self.state();
            if state.stuck {
                return Err(io());
            }
            match self.power.step(false) {
                Verdict::Done => state.flush(),
                Verdict::Fails { reached, full } => {
                    if reached {
                        state.flush();
                    }
                    state.stuck = !full && self.power.coin();
                    return Err(io());
                }
            }
        }
        Ok(())
    }

    fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        let found: BTreeSet<_> = self.state().shown.rows.keys().map(|(generation, _)| *generation).collect();
        Ok(found.into_iter().collect())
    }

    fn drop_generation(&self, generation: Generation) -> Result<(), StoreError> {
        self.write(false, Change::Drop(generation))
    }

    fn bytes(&self) -> u64 {
        self.state().shown.rows.values().map(|value| value.len() as u64).sum()
    }
}
