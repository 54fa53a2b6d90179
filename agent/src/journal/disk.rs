//! The durable steps of the journal and the keyslot file as a trait, so that tests can count them, fail them and cut the
//! power between them. It must not decide anything: what a failure means is the writer's business.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::durable::{self, Staged};

/// Each durable step; the provided methods are the real ones.
pub trait Disk: Send {
    /// Reserves zeros behind the end.
    ///
    /// # Errors
    /// Those of the file system, as for each step.
    fn reserve(&mut self, file: &File, at: u64, length: u64) -> io::Result<()> {
        durable::reserve(file, at, length)
    }
    /// Writes into reserved space.
    ///
    /// # Errors
    /// Those of the file system.
    fn write(&mut self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(bytes, at)
    }
    /// Puts what was written on stable storage.
    ///
    /// # Errors
    /// Those of the file system.
    fn sync(&mut self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
    /// Cuts a file off.
    ///
    /// # Errors
    /// Those of the file system.
    fn truncate(&mut self, file: &File, length: u64) -> io::Result<()> {
        file.set_len(length)
    }
    /// Writes and syncs a file that nobody sees yet.
    ///
    /// # Errors
    /// Those of the file system.
    fn stage(&mut self, path: &Path, bytes: &[u8]) -> io::Result<Staged> {
        Staged::write(path, bytes)
    }
    /// Gives it its name.
    ///
    /// # Errors
    /// Those of the file system.
    fn publish(&mut self, staged: Staged) -> io::Result<()> {
        staged.publish()
    }
    /// Deletes a file.
    ///
    /// # Errors
    /// Those of the file system.
    fn remove(&mut self, path: &Path) -> io::Result<()> {
        durable::remove(path)
    }
}

/// The real disk.
#[derive(Debug)]
pub struct OsDisk;

impl Disk for OsDisk {}
