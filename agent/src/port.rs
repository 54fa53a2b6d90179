//! The agent's ports: what the use cases need of the outside, in words of the protocol.
//! It must not name a tool: adapters implement these, and the simulator may too.

use core::future::Future;

use cpis_protocol::clock::Reading;
use cpis_protocol::id::FeedId;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::seal::Key;

use crate::trouble::Trouble;

/// The key of a named row: a keyed hash, so that even names are not readable on disk.
pub type RowName = [u8; 16];
/// The number of a generation: one written, immutable state of one feed. Never used twice.
pub type Generation = u64;

/// The replica's storage could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The disk is full, read-only or failing. What was committed before still stands.
    #[error("the replica's storage failed: {0}")]
    Io(String),
    /// Another carrier has moved the copy meanwhile. Nothing was changed.
    #[error("the copy was moved by another carrier meanwhile")]
    Overtaken,
    /// The directory does not open: it is damaged, or another process has it.
    #[error("the replica's storage does not open: {0}")]
    DoesNotOpen(String),
}

/// Where the replica lies. Everything in it can be fetched again.
pub trait Store: Send + Sync + 'static {
    /// A named row.
    ///
    /// # Errors
    /// [`StoreError`].
    fn load(&self, name: &RowName) -> Result<Option<Vec<u8>>, StoreError>;

    /// Row `row` of a generation.
    ///
    /// # Errors
    /// [`StoreError`].
    fn row(&self, generation: Generation, row: u32) -> Result<Option<Vec<u8>>, StoreError>;

    /// Writes rows of a generation that nothing refers to yet. Durable only with the next commit.
    ///
    /// # Errors
    /// [`StoreError`].
    fn write_rows(&self, generation: Generation, rows: Vec<(u32, Vec<u8>)>) -> Result<(), StoreError>;

    /// Sets the named rows, all or none, and returns only when they *and everything written before* would survive a
    /// power cut (invariant 2).
    ///
    /// # Errors
    /// [`StoreError`]; then none of it may be relied on.
    fn commit(&self, rows: &[(RowName, Vec<u8>)]) -> Result<(), StoreError>;

    /// All generations that have rows.
    ///
    /// # Errors
    /// [`StoreError`].
    fn generations(&self) -> Result<Vec<Generation>, StoreError>;

    /// Takes the rows of a generation out. Their key is destroyed elsewhere: this only gives the space back.
    ///
    /// # Errors
    /// [`StoreError`].
    fn drop_generation(&self, generation: Generation) -> Result<(), StoreError>;

    /// Bytes that the store takes on disk.
    fn bytes(&self) -> u64;
}

impl<S: Store + ?Sized> Store for Box<S> {
    fn load(&self, name: &RowName) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).load(name)
    }

    fn row(&self, generation: Generation, row: u32) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).row(generation, row)
    }

    fn write_rows(&self, generation: Generation, rows: Vec<(u32, Vec<u8>)>) -> Result<(), StoreError> {
        (**self).write_rows(generation, rows)
    }

    fn commit(&self, rows: &[(RowName, Vec<u8>)]) -> Result<(), StoreError> {
        (**self).commit(rows)
    }

    fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        (**self).generations()
    }

    fn drop_generation(&self, generation: Generation) -> Result<(), StoreError> {
        (**self).drop_generation(generation)
    }

    fn bytes(&self) -> u64 {
        (**self).bytes()
    }
}

/// The way to the server, or to whatever carries the same objects.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request and brings the body of a good reply, never longer than the request allows.
    fn send(&self, request: Request) -> impl Future<Output = Result<Vec<u8>, Failure>> + Send;

    /// The beginning of an immutable object came by another way: when it is asked for, the rest is enough. A carrier that
    /// cannot ask for a rest may drop it.
    fn take_up(&self, _request: &Request, _begun: Vec<u8>) {}

    /// Bytes of replies that have come in so far: whether a request gets on.
    fn heard(&self) -> u64 {
        0
    }

    /// What stood in the way when the last request failed; `None` when it went through, or where nothing is known.
    fn trouble(&self) -> Option<Trouble> {
        None
    }
}

/// Clocks.
pub trait Clock: Send + Sync + 'static {
    /// What the clocks say.
    fn reading(&self) -> Reading;

    /// Milliseconds since boot without those in suspend. A clock that does not know counts suspend as well.
    fn awake_ms(&self) -> u64 {
        self.reading().boot_ms
    }
}

/// Where the keys of generations live: a file where destroying one is not left to a log-structured store.
pub trait GenerationKeys: Send + Sync + 'static {
    /// The key of a generation.
    fn get(&self, generation: Generation) -> Option<Key>;

    /// The key for the names and the named rows, which say nothing about any person.
    fn names(&self) -> Key;

    /// All generations that have a key.
    fn generations(&self) -> Vec<Generation>;

    /// Keeps new keys durably.
    ///
    /// # Errors
    /// [`StoreError`].
    fn add(&self, keys: &[(FeedId, Generation, &Key)]) -> Result<(), StoreError>;

    /// Destroys every key that is not listed, in every copy.
    ///
    /// # Errors
    /// [`StoreError`].
    fn retain(&self, keep: &[Generation]) -> Result<(), StoreError>;
}
