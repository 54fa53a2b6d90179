//! A server's directory: configuration, keys, database and the trust root, opened together and checked against each
//! other. It must not start anything.

use std::path::{Path, PathBuf};

use cpis_protocol::Refusal;
use cpis_protocol::trust::Trust;

use crate::config::{self, Config, ConfigError};
use crate::keys::ServerKeys;
use crate::keys::file::KeyError;
use crate::port::{Deployment, Meta, Store as _, StoreError, Tx};
use crate::store::SqliteStore;

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A stored root does not verify.
    #[error("the stored trust root is refused: {0}")]
    Root(Refusal),
    /// No root was installed yet.
    #[error("no trust root is installed")]
    NoRoot,
    /// Not a server's directory.
    #[error("{0} is not a server's directory: run init there first")]
    NotSetUp(PathBuf),
}

/// The paths inside a server's directory.
#[derive(Debug, Clone)]
pub struct Paths(pub PathBuf);

impl Paths {
    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.0.join(config::FILE)
    }
    /// The key directory.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }
    /// The database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.0.join("server.sqlite")
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Home {
    /// Where.
    pub paths: Paths,
    /// The configuration.
    pub config: Config,
    /// The keys.
    pub keys: ServerKeys,
    /// The database.
    pub store: SqliteStore,
    /// The deployment's name.
    pub deployment: String,
    /// Whether only test numbers live here.
    pub synthetic: bool,
}

impl Home {
    /// Opens a directory.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn open(dir: &Path) -> Result<Self, HomeError> {
        let paths = Paths(dir.to_path_buf());
        if !paths.database().exists() {
            return Err(HomeError::NotSetUp(dir.to_path_buf()));
        }
        let config = Config::read(&paths.config())?;
        let keys = ServerKeys::load(&paths.keys())?;
        let store = SqliteStore::open(&paths.database())?;
        let (name, synthetic) = store.read(|tx| -> Result<_, HomeError> {
            let name = tx.meta(Meta::Name)?.ok_or_else(|| HomeError::NotSetUp(dir.to_path_buf()))?;
            Ok((name, is_synthetic(tx)?))
        })?;
        let deployment = String::from_utf8(name).map_err(|_| StoreError::Corrupt("meta.name"))?;
        Ok(Self { paths, config, keys, store, deployment, synthetic })
    }

    /// The newest root, verified step by step from the first, and naming this server's keys.
    ///
    /// # Errors
    /// [`HomeError`].
    pub fn trust(&self) -> Result<Trust, HomeError> {
        let trust = self.store.read(|tx| trust(tx))?.ok_or(HomeError::NoRoot)?;
        self.keys.check(trust.root())?;
        Ok(trust)
    }
}

/// Whether only test numbers live here.
///
/// # Errors
/// [`StoreError`].
pub fn is_synthetic<T: Deployment>(tx: &T) -> Result<bool, StoreError> {
    Ok(tx.meta(Meta::Synthetic)?.as_deref() == Some(&[1]))
}

/// The newest stored root; `None` when there is none.
///
/// # Errors
/// [`HomeError`].
pub fn trust<T: Tx>(tx: &T) -> Result<Option<Trust>, HomeError> {
    let mut trust: Option<Trust> = None;
    for bytes in tx.roots_after(0)? {
        let next = match &trust {
            None => Trust::pin(&bytes),
            Some(before) => before.rotate(&bytes),
        };
        trust = Some(next.map_err(HomeError::Root)?);
    }
    Ok(trust)
}
