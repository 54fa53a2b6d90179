//! What the server needs of a database, so that another engine can stand behind it.
//! It must not name an engine, and an implementation must not decide anything: verification and order are above.
//!
//! A [`Store::write`] is one durable transaction: when it returns `Ok`, its effect survives a power cut. Writers of
//! all processes exclude each other; a reader sees one instant.

mod evidence;
mod feeds;
mod fleet;
mod inbox;
mod register;

pub use evidence::{AlertKind, AlertRow, Evidence, HeldFeed, Mark, NewAlert, ProofRow, RemovalRow};
pub use feeds::{CellLog, FeedRow, Feeds, HeadRow, Placement, ScopeRow};
pub use fleet::{DeviceEvent, DeviceRow, DeviceState, Fleet, InvitationRow, PractitionerRow, Reported, SiteRow};
pub use inbox::{ChainRow, Inbox, LinkRow, Suspicion, SuspicionRow};
pub use register::{AuthorityEntry, IngestRow, Person, PersonId, PersonPlan, Register, RegisterCounts};

/// Why the database did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another writer holds the database; try again later.
    #[error("the database is busy with another writer")]
    Busy,
    /// No space, or the disk refuses.
    #[error("the database cannot write: {0}")]
    Disk(String),
    /// The file was written by a newer release.
    #[error("the database has schema {found}, and this release knows up to {known}: install the newer release again")]
    Newer {
        /// In the file.
        found: u32,
        /// In this build.
        known: u32,
    },
    /// There is no database where one was expected.
    #[error("there is no database at {0}")]
    Missing(String),
    /// A stored value is not what was written.
    #[error("the database holds something unreadable in {0}")]
    Corrupt(&'static str),
    /// A name is taken, or a named thing does not exist.
    #[error("the database refuses: {0}")]
    Constraint(String),
    /// Anything else the engine says.
    #[error("the database failed: {0}")]
    Failed(String),
}

/// A database.
pub trait Store: Send + Sync + 'static {
    /// A transaction.
    type Tx<'a>: Tx
    where
        Self: 'a;

    /// Runs `work` on one instant of the database. Writing inside fails.
    ///
    /// # Errors
    /// [`StoreError`], or whatever `work` returns.
    fn read<R, E: From<StoreError>>(&self, work: impl FnOnce(&Self::Tx<'_>) -> Result<R, E>) -> Result<R, E>;

    /// Runs `work` as the only writer, and makes its effect durable before returning `Ok`; an error undoes it whole.
    ///
    /// # Errors
    /// [`StoreError`], or whatever `work` returns.
    fn write<R, E: From<StoreError>>(&self, work: impl FnOnce(&Self::Tx<'_>) -> Result<R, E>) -> Result<R, E>;

    /// A number that is another one after anybody, in whatever process, has written. Cheap enough to ask every second.
    /// `None` where the engine has no such thing.
    ///
    /// # Errors
    /// [`StoreError`].
    fn version(&self) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
}

/// Everything that one transaction can do.
pub trait Tx: Deployment + Register + Feeds + Fleet + Inbox + Evidence {}
impl<T: Deployment + Register + Feeds + Fleet + Inbox + Evidence> Tx for T {}

/// A named value of the deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meta {
    /// The encoded look-up parameters.
    Lookup,
    /// The register sequence up to which everything is published.
    PublishedGseq,
    /// Whether only test numbers live here.
    Synthetic,
    /// The deployment's name.
    Name,
    /// The number of the last link set aside that alerts were raised for.
    DigestedAside,
    /// The encoded list of mirrors.
    Mirrors,
}

impl Meta {
    /// The stored name.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Lookup => "lookup",
            Self::PublishedGseq => "published-gseq",
            Self::Synthetic => "synthetic",
            Self::Name => "name",
            Self::DigestedAside => "digested-aside",
            Self::Mirrors => "mirrors",
        }
    }
}

/// Facts about the deployment, and its chain of roots.
pub trait Deployment {
    /// A named value.
    ///
    /// # Errors
    /// [`StoreError`].
    fn meta(&self, name: Meta) -> Result<Option<Vec<u8>>, StoreError>;

    /// Sets a named value.
    ///
    /// # Errors
    /// [`StoreError`].
    fn set_meta(&self, name: Meta, value: &[u8]) -> Result<(), StoreError>;

    /// The signed root of a version.
    ///
    /// # Errors
    /// [`StoreError`].
    fn root(&self, version: u32) -> Result<Option<Vec<u8>>, StoreError>;

    /// The signed roots after a version, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    fn roots_after(&self, version: u32) -> Result<Vec<Vec<u8>>, StoreError>;

    /// Keeps a signed root for ever.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_root(&self, version: u32, bytes: &[u8]) -> Result<(), StoreError>;
}
