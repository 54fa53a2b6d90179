//! One feed's generation: its sealed rows, the proof of its state root, and the index built in the same pass.
//! It must not answer from a cell that the proof did not cover.

use cpis_protocol::Refusal;
use cpis_protocol::cell::{CELL_BYTES, Cell, Locator, SLOTS};
use cpis_protocol::head::FeedState;
use cpis_protocol::id::BlindId;
use cpis_protocol::limits::CHUNK_CELLS;
use cpis_protocol::replica;
use cpis_protocol::seal::Key;
use cpis_protocol::tree::TreeHasher;

use crate::port::{Generation, Store, StoreError};
use crate::random::OsRandom;

/// Cells in one row: 2,560 bytes and the seal, well below what sled stores inline.
pub(crate) const ROW_CELLS: usize = 16;
/// Rows in one snapshot chunk.
pub(crate) const CHUNK_ROWS: u32 = CHUNK_CELLS / ROW_CELLS as u32;

/// A locator and the number of its cell: ten bytes, so that 20,000 records cost 800 KB of memory.
type Entry = [u8; 10];

fn aad(generation: Generation, row: u32) -> [u8; 15] {
    let mut aad = *b"row____________";
    let (_, rest) = aad.split_at_mut(3);
    let (high, low) = rest.split_at_mut(8);
    high.copy_from_slice(&generation.to_be_bytes());
    low.copy_from_slice(&row.to_be_bytes());
    aad
}

/// Seals one row.
pub(crate) fn seal_row(
    key: &Key,
    generation: Generation,
    row: u32,
    cells: &[Cell],
) -> Result<(u32, Vec<u8>), StoreError> {
    let plain: Vec<u8> = cells.iter().flat_map(|cell| *cell.as_bytes()).collect();
    let sealed = key.seal(&aad(generation, row), &plain, &mut OsRandom);
    Ok((row, sealed.map_err(|e| StoreError::Io(e.to_string()))?))
}

fn open_row(store: &impl Store, key: &Key, generation: Generation, row: u32) -> Result<Vec<Cell>, Refusal> {
    let sealed = store.row(generation, row).map_err(|_| Refusal::DoesNotOpen)?.ok_or(Refusal::Truncated)?;
    Cell::read_all(&key.open(&aad(generation, row), &sealed)?)
}

/// The rows of a generation that can be read, each with its number: what is missing or damaged is passed over.
pub(crate) fn readable<'a>(
    store: &'a impl Store,
    key: &'a Key,
    generation: Generation,
    count: u32,
) -> impl Iterator<Item = (u32, Vec<Cell>)> + 'a {
    let rows = 0..count.div_ceil(ROW_CELLS as u32);
    rows.filter_map(move |row| Some((row, open_row(store, key, generation, row).ok()?)))
}

/// Takes cells in order and proves them against a signed state.
#[derive(Debug, Default)]
pub(crate) struct Prover {
    tree: TreeHasher,
    index: Vec<Entry>,
    last: Option<BlindId>,
    /// Only the proof is wanted.
    without_index: bool,
}

impl Prover {
    /// One that proves and makes no index.
    pub(crate) fn without_index() -> Self {
        Self { without_index: true, ..Self::default() }
    }

    /// Compares what was pushed with the signed state.
    pub(crate) fn check(&self, state: &FeedState) -> Result<(), Refusal> {
        replica::check_state(&self.tree, state)
    }

    pub(crate) fn push(&mut self, cell: &Cell, state: &FeedState) -> Result<(), Refusal> {
        if self.tree.count() >= state.count {
            return Err(Refusal::WrongCount);
        }
        if self.index.is_empty() && !self.without_index {
            self.index.reserve_exact(state.count as usize * SLOTS);
        }
        replica::check_live(std::slice::from_ref(cell), self.last, state.seq)?;
        self.last = Some(cell.blind());
        for locator in cell.locators().into_iter().filter(|_| !self.without_index) {
            let mut entry = [0; 10];
            let (head, number) = entry.split_at_mut(6);
            head.copy_from_slice(&locator);
            number.copy_from_slice(&self.tree.count().to_be_bytes());
            self.index.push(entry);
        }
        self.tree.push(cell.leaf());
        Ok(())
    }

    pub(crate) fn finish(mut self, state: &FeedState, generation: Generation, key: Key) -> Result<FeedCopy, Refusal> {
        replica::check_state(&self.tree, state)?;
        self.index.sort_unstable();
        Ok(FeedCopy { state: state.clone(), generation, key, index: self.index })
    }
}

/// A proved generation of one feed.
#[derive(Debug)]
pub struct FeedCopy {
    state: FeedState,
    generation: Generation,
    key: Key,
    index: Vec<Entry>,
}

impl FeedCopy {
    /// Reads every row of a generation and proves it against a signed state.
    ///
    /// # Errors
    /// [`Refusal`]: a missing, changed, surplus or misplaced cell.
    pub fn prove(store: &impl Store, generation: Generation, key: Key, state: &FeedState) -> Result<Self, Refusal> {
        let mut prover = Prover::default();
        for row in 0..state.count.div_ceil(ROW_CELLS as u32) {
            for cell in open_row(store, &key, generation, row)? {
                prover.push(&cell, state)?;
            }
        }
        prover.finish(state, generation, key)
    }

    /// Moves to a newer signed state of the same cells: after a rotation only the key numbers are others.
    pub(crate) fn restate(mut self, state: &FeedState) -> Self {
        self.state = state.clone();
        self
    }

    /// What a damaged one leaves: its state, its generation and the key of that.
    pub(crate) fn into_parts(self) -> (FeedState, Generation, Key) {
        (self.state, self.generation, self.key)
    }

    /// One row.
    pub(crate) fn row(&self, store: &impl Store, row: u32) -> Result<Vec<Cell>, Refusal> {
        open_row(store, &self.key, self.generation, row)
    }

    /// The signed state that it was proved against.
    #[must_use]
    pub const fn state(&self) -> &FeedState {
        &self.state
    }

    /// Its number.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// All cells, in order.
    pub fn cells<'a>(&'a self, store: &'a impl Store) -> impl Iterator<Item = Result<Cell, Refusal>> + 'a {
        (0..self.state.count.div_ceil(ROW_CELLS as u32)).flat_map(move |row| {
            match open_row(store, &self.key, self.generation, row) {
                Ok(cells) => cells.into_iter().map(Ok).collect::<Vec<_>>(),
                Err(refusal) => vec![Err(refusal)],
            }
        })
    }

    /// The rows that can be read, each with its number.
    pub(crate) fn readable<'a>(&'a self, store: &'a impl Store) -> impl Iterator<Item = (u32, Vec<Cell>)> + 'a {
        readable(store, &self.key, self.generation, self.state.count)
    }

    /// The numbers of the cells that have a slot with this locator.
    pub fn find(&self, locator: Locator) -> impl Iterator<Item = u32> {
        let start = self.index.partition_point(|entry| entry.as_slice() < locator.as_slice());
        let entries = self.index.iter().skip(start).take_while(move |entry| entry.starts_with(&locator));
        entries.map(|entry| entry.last_chunk::<4>().map_or(0, |number| u32::from_be_bytes(*number)))
    }

    /// One cell by its number.
    ///
    /// # Errors
    /// [`Refusal::DoesNotOpen`], [`Refusal::Truncated`]: the storage changed after the proof.
    pub fn cell(&self, store: &impl Store, number: u32) -> Result<Cell, Refusal> {
        let row = open_row(store, &self.key, self.generation, number / ROW_CELLS as u32)?;
        row.into_iter().nth(number as usize % ROW_CELLS).ok_or(Refusal::Truncated)
    }
}

const _: () = assert!(ROW_CELLS * CELL_BYTES + 40 < 4096);
