//! The replica's storage in sled: two trees, small sealed values, one atomic and synced commit. The home of sled.
//! It must not hold anything that cannot be fetched again, nor anything readable.
//!
//! | tree | key | value |
//! |---|---|---|
//! | `named` | 16-byte keyed hash of a name | beat, head, reference data, active generation of a feed, clock: sealed |
//! | `rows` | generation (8, big endian), row (4, big endian) | up to 16 cells, sealed under the generation's key |
//!
//! On Linux sled's flush alone does not survive a power cut (it uses `sync_file_range`), so a commit is: transaction,
//! flush, then `sync_data` on sled's file through an own handle. Values stay below 4 KiB, because sled writes large
//! ones to files of their own that it does not sync. sled can panic or refuse on a broken directory: it is opened under
//! a guard, and the caller sets the directory aside. A write that fails leaves sled reading and refusing every later
//! write: it is opened anew once the disk takes writes again.

use std::fs::File;
use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

use sled::transaction::ConflictableTransactionError;

use crate::port::{Generation, RowName, Store, StoreError};

/// Values above this are refused: sled would put them into unsynced files.
const VALUE_BYTES_MAX: usize = 4096;
/// Parts of a larger named row; at most 255 of them.
const PART_BYTES: usize = 4000;
const CACHE_BYTES: u64 = 2 * 1024 * 1024;

/// What must fit on the disk beside what is to be written: of a write that fails half-way sled may also lose, until it is
/// opened anew, what it held before.
const PROBE_BYTES: u64 = 512 * 1024;

/// The replica in sled.
pub struct SledStore {
    /// `None` only where it was closed after a failure and did not open again yet.
    open: RwLock<Option<Open>>,
    /// sled stays broken once a write failed, also when there is room again: it is opened anew before the next write.
    failed: AtomicBool,
    /// Bytes that sled was given since they were last on the disk for certain.
    pending: AtomicU64,
    directory: PathBuf,
}

struct Open {
    db: sled::Db,
    named: sled::Tree,
    rows: sled::Tree,
    file: File,
}

impl core::fmt::Debug for SledStore {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SledStore({})", self.directory.display())
    }
}

fn io(error: &dyn core::fmt::Display) -> StoreError {
    StoreError::Io(error.to_string())
}

impl Open {
    /// Opens or makes the store; sled may panic on a broken directory.
    fn guarded(directory: &Path) -> Result<Self, StoreError> {
        // sled lets go of its directory a moment after the last handle is gone: a good one must not be taken for broken.
        for _ in 0..20 {
            match Self::once(directory) {
                Err(StoreError::DoesNotOpen(error)) if error.contains("acquire lock") => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                other => return other,
            }
        }
        Self::once(directory)
    }

    fn once(directory: &Path) -> Result<Self, StoreError> {
        let opened = catch_unwind(AssertUnwindSafe(|| Self::unguarded(directory)));
        match opened {
            Ok(Ok(store)) => Ok(store),
            Ok(Err(error)) => Err(StoreError::DoesNotOpen(error)),
            Err(_) => Err(StoreError::DoesNotOpen("it is damaged".into())),
        }
    }

    fn unguarded(directory: &Path) -> Result<Self, String> {
        let text = |error: &dyn core::fmt::Display| error.to_string();
        let db = sled::Config::new()
            .path(directory)
            .cache_capacity(CACHE_BYTES)
            .mode(sled::Mode::LowSpace)
            .flush_every_ms(None)
            .open()
            .map_err(|e| text(&e))?;
        let named = db.open_tree("named").map_err(|e| text(&e))?;
        let rows = db.open_tree("rows").map_err(|e| text(&e))?;
        let file = File::options().read(true).write(true).open(directory.join("db")).map_err(|e| text(&e))?;
        // A new store's files must be found again after a power cut.
        db.flush().map_err(|e| text(&e))?;
        for entry in std::fs::read_dir(directory).map_err(|e| text(&e))? {
            let path = entry.map_err(|e| text(&e))?.path();
            if path.is_file() {
                File::open(&path).and_then(|f| f.sync_all()).map_err(|e| text(&e))?;
            }
        }
        File::open(directory).and_then(|d| d.sync_all()).map_err(|e| text(&e))?;
        if let Some(parent) = directory.parent() {
            File::open(parent).and_then(|d| d.sync_all()).map_err(|e| text(&e))?;
        }
        Ok(Self { db, named, rows, file })
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| io(&e))?;
        self.file.sync_data().map_err(|e| io(&e))
    }

    fn commit(&self, rows: &[(RowName, Vec<u8>)]) -> Result<(), StoreError> {
        // Everything that the named rows will refer to is on the disk before they can be.
        self.sync()?;
        let mut parts = Vec::new();
        for (name, value) in rows {
            let mut rest = value.as_slice();
            for part in 0..=u8::MAX {
                let (bytes, after) = rest.split_at(rest.len().min(PART_BYTES));
                parts.push((SledStore::part(name, part), bytes.to_vec()));
                rest = after;
                if bytes.len() < PART_BYTES {
                    break;
                }
            }
            if !rest.is_empty() {
                return Err(StoreError::Io("a value is too large".into()));
            }
        }
        self.named
            .transaction(|tree| {
                for (key, value) in &parts {
                    tree.insert(&key[..], value.as_slice())?;
                }
                tree.flush();
                Ok::<(), ConflictableTransactionError<()>>(())
            })
            .map_err(|e| StoreError::Io(format!("{e:?}")))?;
        self.sync()
    }
}

impl SledStore {
    /// Opens or makes the store.
    ///
    /// # Errors
    /// [`StoreError::DoesNotOpen`], also when sled panics.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let open = RwLock::new(Some(Open::guarded(directory)?));
        Ok(Self {
            open,
            failed: AtomicBool::new(false),
            pending: AtomicU64::new(0),
            directory: directory.to_path_buf(),
        })
    }

    fn read<R>(&self, work: impl FnOnce(&Open) -> Result<R, StoreError>) -> Result<R, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        work(open.as_ref().ok_or_else(|| StoreError::Io("it was closed after a failure".into()))?)
    }

    /// Gives sled so many bytes to write, if there is room for twice as many: on a full disk it is left alone.
    fn write<R>(&self, bytes: usize, work: impl FnOnce(&Open) -> Result<R, StoreError>) -> Result<R, StoreError> {
        let pending = self.pending.fetch_add(bytes as u64, Ordering::AcqRel).saturating_add(bytes as u64);
        if let Err(error) = self.probe(PROBE_BYTES.saturating_add(pending.saturating_mul(2))) {
            self.pending.fetch_sub(bytes as u64, Ordering::AcqRel);
            return Err(io(&error));
        }
        if self.failed.load(Ordering::Acquire) {
            self.open_anew()?;
        }
        let result = self.read(work);
        if result.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        result
    }

    /// Closes a store that failed and opens it again. What is open stays while the disk takes nothing: it still reads.
    fn open_anew(&self) -> Result<(), StoreError> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // sled holds its directory until the last handle is gone.
        drop(open.take());
        *open = Some(Open::guarded(&self.directory).map_err(|e| io(&e))?);
        self.failed.store(false, Ordering::Release);
        self.pending.store(0, Ordering::Release);
        tracing::info!("the replica's storage takes writes again");
        Ok(())
    }

    /// Whether the disk takes so much. Space is set aside and given back; where that cannot be asked for it is written.
    fn probe(&self, bytes: u64) -> std::io::Result<()> {
        let path = self.directory.join("probe");
        let written = File::create(&path).and_then(|mut file| {
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                    std::io::copy(&mut std::io::repeat(0).take(bytes), &mut file)?;
                    file.sync_all()
                }
                other => Ok(other?),
            }
        });
        let removed = std::fs::remove_file(&path);
        written.and(removed)
    }

    fn key(generation: Generation, row: u32) -> [u8; 12] {
        let mut key = [0; 12];
        let (high, low) = key.split_at_mut(8);
        high.copy_from_slice(&generation.to_be_bytes());
        low.copy_from_slice(&row.to_be_bytes());
        key
    }

    fn part(name: &RowName, part: u8) -> [u8; 17] {
        let mut key = [part; 17];
        for (to, from) in key.iter_mut().zip(name) {
            *to = *from;
        }
        key
    }
}

impl Store for SledStore {
    /// A value is its parts one after the other; a part shorter than the full length, perhaps empty, is the last.
    fn load(&self, name: &RowName) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|open| {
            let mut value = Vec::new();
            for part in 0..=u8::MAX {
                match open.named.get(Self::part(name, part)).map_err(|e| io(&e))? {
                    None if part == 0 => return Ok(None),
                    None => return Err(StoreError::Io("a part is missing".into())),
                    Some(bytes) => {
                        value.extend_from_slice(&bytes);
                        if bytes.len() < PART_BYTES {
                            return Ok(Some(value));
                        }
                    }
                }
            }
            Err(StoreError::Io("a value has too many parts".into()))
        })
    }

    fn row(&self, generation: Generation, row: u32) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|open| {
            let value = open.rows.get(Self::key(generation, row)).map_err(|e| io(&e))?;
            Ok(value.map(|bytes| bytes.to_vec()))
        })
    }

    fn write_rows(&self, generation: Generation, rows: Vec<(u32, Vec<u8>)>) -> Result<(), StoreError> {
        if rows.iter().any(|(_, value)| value.len() > VALUE_BYTES_MAX) {
            return Err(StoreError::Io("a row is too large".into()));
        }
        let bytes = rows.iter().map(|(_, value)| value.len()).sum();
        self.write(bytes, |open| {
            let mut batch = sled::Batch::default();
            for (row, value) in rows {
                batch.insert(&Self::key(generation, row), value);
            }
            open.rows.apply_batch(batch).map_err(|e| io(&e))
        })
    }

    fn commit(&self, rows: &[(RowName, Vec<u8>)]) -> Result<(), StoreError> {
        let bytes = rows.iter().map(|(_, value)| value.len()).sum();
        self.write(bytes, |open| open.commit(rows))?;
        self.pending.store(0, Ordering::Release);
        Ok(())
    }

    fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        self.read(|open| {
            let mut found = Vec::new();
            let mut at = [0; 12];
            // One seek for each generation, not one for each row.
            while let Some(entry) = open.rows.range(at..).next() {
                let (key, _) = entry.map_err(|e| io(&e))?;
                let generation = key.get(..8).and_then(|b| b.try_into().ok()).map_or(0, Generation::from_be_bytes);
                found.push(generation);
                let Some(next) = generation.checked_add(1) else { break };
                at = Self::key(next, 0);
            }
            Ok(found)
        })
    }

    fn drop_generation(&self, generation: Generation) -> Result<(), StoreError> {
        // A full disk must not keep space from being given back: this needs little.
        self.write(0, |open| {
            loop {
                let mut batch = sled::Batch::default();
                let mut count = 0;
                for entry in open.rows.scan_prefix(generation.to_be_bytes()).keys().take(256) {
                    batch.remove(entry.map_err(|e| io(&e))?);
                    count += 1;
                }
                if count == 0 {
                    return Ok(());
                }
                open.rows.apply_batch(batch).map_err(|e| io(&e))?;
            }
        })
    }

    fn bytes(&self) -> u64 {
        self.read(|open| Ok(open.db.size_on_disk().unwrap_or(0))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_rows_of_any_size_and_generations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("replica");
        let store = SledStore::open(&path).unwrap();
        for size in [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES] {
            store.commit(&[([7; 16], vec![size as u8; size])]).unwrap();
            assert_eq!(store.load(&[7; 16]).unwrap(), Some(vec![size as u8; size]));
        }
        store.commit(&[([7; 16], b"short".to_vec())]).unwrap();
        store.write_rows(3, vec![(0, vec![1]), (1, vec![2])]).unwrap();
        store.write_rows(9, (0..600).map(|row| (row, vec![3])).collect()).unwrap();
        store.commit(&[]).unwrap();
        drop(store);
        let store = SledStore::open(&path).unwrap();
        assert_eq!(store.load(&[7; 16]).unwrap().as_deref(), Some(&b"short"[..]));
        assert_eq!(store.generations().unwrap(), [3, 9]);
        assert_eq!(store.row(3, 1).unwrap(), Some(vec![2]));
        store.drop_generation(9).unwrap();
        assert_eq!(store.generations().unwrap(), [3]);
        assert!(store.write_rows(3, vec![(5, vec![0; VALUE_BYTES_MAX + 1])]).is_err());
    }

    #[test]
    fn a_second_opening_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _store = SledStore::open(dir.path()).unwrap();
        assert!(matches!(SledStore::open(dir.path()), Err(StoreError::DoesNotOpen(_))));
    }

    /// sled may refuse a damaged directory, panic, or open without what was in it. Each is caught: never a crash, and
    /// never a value that was not written.
    #[test]
    fn damage_never_takes_the_process_down() {
        for (file, at) in [("conf", 0), ("db", 0), ("db", 4000), ("db", 20_000)] {
            let dir = tempfile::tempdir().unwrap();
            let store = SledStore::open(dir.path()).unwrap();
            for n in 0..200u8 {
                store.commit(&[([n; 16], vec![n; 300])]).unwrap();
            }
            drop(store);
            let path = dir.path().join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            let end = bytes.len();
            bytes[at.min(end)..(at + 700).min(end)].fill(0xa5);
            std::fs::write(&path, bytes).unwrap();
            let Ok(store) = SledStore::open(dir.path()) else { continue };
            for n in 0..200u8 {
                if let Ok(Some(value)) = store.load(&[n; 16]) {
                    assert_eq!(value, vec![n; 300], "{file} at {at}");
                }
            }
        }
    }
}
