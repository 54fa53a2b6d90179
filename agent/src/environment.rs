//! What the agent has of the machine it runs on: clocks, the replica's storage, the durable steps of its files, threads.
//! It must not decide anything: it hands out adapters, and a simulator may hand out its own.

use std::path::Path;
use std::sync::Arc;

use crate::clock::SystemClock;
use crate::journal::{Disk, OsDisk};
use crate::port::{Clock, Store, StoreError};
use crate::random::{OsRandom, RandomError};
use crate::store::SledStore;

/// The machine under an agent.
pub trait Environment: Send + Sync + 'static {
    /// Its clocks.
    ///
    /// # Errors
    /// [`RandomError`], where the identity of this boot had to be drawn.
    fn clock(&self) -> Result<Arc<dyn Clock>, RandomError>;

    /// Opens the replica's storage in a directory, or makes it there.
    ///
    /// # Errors
    /// [`StoreError`].
    fn open_store(&self, directory: &Path) -> Result<Box<dyn Store>, StoreError>;

    /// The durable steps of the keyslot file and of the journal, for each a value of its own.
    fn disk(&self) -> Box<dyn Disk>;

    /// Whether blocking work is done on the thread that asks for it, so that nothing happens beside it.
    fn is_single_threaded(&self) -> bool {
        false
    }
}

/// The machine itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThisMachine;

impl Environment for ThisMachine {
    fn clock(&self) -> Result<Arc<dyn Clock>, RandomError> {
        Ok(Arc::new(SystemClock::new(OsRandom::bytes()?)))
    }

    fn open_store(&self, directory: &Path) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(SledStore::open(directory)?))
    }

    fn disk(&self) -> Box<dyn Disk> {
        Box::new(OsDisk)
    }
}
