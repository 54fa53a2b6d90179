//! The embedded database: SQLite behind the store port. The only folder that knows rusqlite.
//! It must not decide anything: it keeps rows, durably, and hands them back.
//!
//! WAL with `synchronous=FULL`: a commit is on the disk before it returns. One writer connection in this process behind
//! a lock, `BEGIN IMMEDIATE` against writers of other processes; readers have connections of their own.

mod evidence;
mod feeds;
mod fleet;
mod inbox;
mod register;
mod schema;

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::port::{Deployment, Meta, Store, StoreError};

/// How long a writer waits for a writer of another process.
const BUSY: Duration = Duration::from_secs(10);
/// Idle reader connections that are kept.
const READERS_KEPT: usize = 8;

/// An SQLite database file.
pub struct SqliteStore {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// Never reads a table: it only sees whether others have written.
    watcher: Mutex<Option<Connection>>,
}

impl std::fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SqliteStore({})", self.path.display())
    }
}

impl SqliteStore {
    /// Makes a new database; the file must not exist.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] when it exists, otherwise as [`Self::open`].
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        if path.exists() {
            return Err(StoreError::Constraint(format!("{} exists already", path.display())));
        }
        // The register is in it: readable by its owner only, and so are the files that SQLite makes beside it.
        let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        made.map_err(|error| StoreError::Disk(error.kind().to_string()))?;
        Self::connect_writer(path, OpenFlags::default())
    }

    /// Opens an existing database and brings an older schema up to date.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Newer`], [`StoreError::Busy`], or what the engine says.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing(path.display().to_string()));
        }
        Self::connect_writer(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)
    }

    fn connect_writer(path: &Path, flags: OpenFlags) -> Result<Self, StoreError> {
        let mut writer = Connection::open_with_flags(path, flags)?;
        configure(&writer)?;
        schema::migrate(&mut writer)?;
        Ok(Self {
            path: path.to_path_buf(),
            writer: Mutex::new(writer),
            readers: Mutex::default(),
            watcher: Mutex::default(),
        })
    }

    fn reader(&self) -> Result<Connection, StoreError> {
        if let Some(reader) = lock(&self.readers).pop() {
            return Ok(reader);
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let reader = Connection::open_with_flags(&self.path, flags)?;
        configure(&reader)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(reader)
    }
}

/// A poisoned lock is taken over: the transaction of the thread that panicked was rolled back when it was dropped.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn configure(connection: &Connection) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What is deleted is overwritten: a person taken out of the register is not left in free pages.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

/// One transaction.
#[derive(Debug)]
pub struct SqliteTx<'a>(Transaction<'a>);

impl Store for SqliteStore {
    type Tx<'a> = SqliteTx<'a>;

    fn read<R, E: From<StoreError>>(&self, work: impl FnOnce(&SqliteTx<'_>) -> Result<R, E>) -> Result<R, E> {
        let mut connection = self.reader()?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Deferred).map_err(StoreError::from)?;
        let result = work(&SqliteTx(tx));
        let mut readers = lock(&self.readers);
        if readers.len() < READERS_KEPT {
            readers.push(connection);
        }
        result
    }

    fn write<R, E: From<StoreError>>(&self, work: impl FnOnce(&SqliteTx<'_>) -> Result<R, E>) -> Result<R, E> {
        let mut connection = lock(&self.writer);
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(StoreError::from)?;
        let tx = SqliteTx(tx);
        let result = work(&tx)?;
        tx.0.commit().map_err(StoreError::from)?;
        Ok(result)
    }

    fn version(&self) -> Result<Option<u64>, StoreError> {
        let mut watcher = lock(&self.watcher);
        if watcher.is_none() {
            *watcher = Some(self.reader()?);
        }
        let Some(connection) = watcher.as_ref() else { return Ok(None) };
        let version: i64 = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        Ok(Some(unsigned(version)))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        // Only the engine's own words for the code: a full message may quote a value.
        let rusqlite::Error::SqliteFailure(failure, _) = &error else {
            return match error {
                rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..) => {
                    Self::Corrupt("a column")
                }
                _ => Self::Failed("a statement does not fit the schema".into()),
            };
        };
        match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy,
            ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => {
                Self::Disk(failure.to_string())
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Corrupt("the file"),
            ErrorCode::ConstraintViolation => {
                Self::Constraint("the name is taken, or something named does not exist".into())
            }
            _ => Self::Failed(failure.to_string()),
        }
    }
}

/// A fixed number of bytes from a BLOB column.
fn array<const N: usize>(bytes: Vec<u8>) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt("a column of fixed length"))
}

/// Text of a name column.
fn name<T: std::str::FromStr>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt("a name"))
}

/// SQLite's integers are signed; counters that never reach 2^63 pass as they are, random epochs keep their bits.
const fn signed(value: u64) -> i64 {
    value.cast_signed()
}

const fn unsigned(value: i64) -> u64 {
    value.cast_unsigned()
}

impl Deployment for SqliteTx<'_> {
    fn meta(&self, name: Meta) -> Result<Option<Vec<u8>>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
        Ok(statement.query_row([name.key()], |row| row.get(0)).optional()?)
    }

    fn set_meta(&self, name: Meta, value: &[u8]) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?1, ?2)")?;
        statement.execute((name.key(), value))?;
        Ok(())
    }

    fn root(&self, version: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT bytes FROM root WHERE version = ?1")?;
        Ok(statement.query_row([version], |row| row.get(0)).optional()?)
    }

    fn roots_after(&self, version: u32) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT bytes FROM root WHERE version > ?1 ORDER BY version")?;
        let rows = statement.query_map([version], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    fn put_root(&self, version: u32, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.prepare_cached("INSERT INTO root (version, bytes) VALUES (?1, ?2)")?.execute((version, bytes))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_committed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.sqlite");
        let store = SqliteStore::create(&path).unwrap();
        store.write(|tx| tx.set_meta(Meta::Name, b"kept")).unwrap();
        let undone: Result<(), StoreError> = store.write(|tx| {
            tx.set_meta(Meta::Name, b"lost")?;
            Err(StoreError::Busy)
        });
        assert_eq!(undone, Err(StoreError::Busy));
        assert!(store.read(|tx| tx.set_meta(Meta::Name, b"readers cannot write")).is_err());
        drop(store);
        let store = SqliteStore::open(&path).unwrap();
        assert_eq!(store.read(|tx| tx.meta(Meta::Name)), Ok(Some(b"kept".to_vec())));
        assert!(matches!(SqliteStore::create(&path), Err(StoreError::Constraint(_))));
        assert!(matches!(SqliteStore::open(&dir.path().join("no")), Err(StoreError::Missing(_))));
    }

    #[test]
    fn a_newer_schema_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("server.sqlite");
        drop(SqliteStore::create(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = SqliteStore::open(&path).err().unwrap();
        assert!(error.to_string().contains("schema 99"), "{error}");
    }
}
