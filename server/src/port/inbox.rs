//! The audit inbox's tables: chains, links, and what was not accepted.
//! It must not open an event: links are sealed bytes here.

use cpis_protocol::audit::{Link, Tip};
use cpis_protocol::digest::Hash;
use cpis_protocol::id::{ChainId, DeviceId, UnixMs};

use super::StoreError;

/// The end of one chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainRow {
    /// The device.
    pub device: DeviceId,
    /// Up to where everything is stored.
    pub through: Tip,
    /// When its first link came.
    pub opened_ms: UnixMs,
    /// The device already had another chain then.
    pub beside_another: bool,
}

/// One stored link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRow {
    /// Its position.
    pub seq: u64,
    /// The link.
    pub link: Link,
    /// Its hash.
    pub hash: Hash,
    /// When it came.
    pub received_ms: UnixMs,
}

/// Why something was set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspicion {
    /// A second, signed link for a position that is taken.
    Fork,
    /// A link whose signature does not verify where it claims to be.
    BadSignature,
    /// A batch that cannot be read.
    Unreadable,
}

impl Suspicion {
    /// The stored name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::BadSignature => "bad-signature",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Something that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuspicionRow {
    /// Why.
    pub why: Suspicion,
    /// Who sent it.
    pub device: DeviceId,
    /// The chain it claims, if that could be read.
    pub chain: Option<ChainId>,
    /// The position it claims.
    pub seq: u64,
    /// The bytes as they came.
    pub bytes: Vec<u8>,
    /// When.
    pub at_ms: UnixMs,
}

/// The audit inbox.
pub trait Inbox {
    /// All chains.
    ///
    /// # Errors
    /// [`StoreError`].
    fn chains(&self) -> Result<Vec<ChainRow>, StoreError>;

    /// One chain.
    ///
    /// # Errors
    /// [`StoreError`].
    fn chain(&self, device: DeviceId, chain: ChainId) -> Result<Option<ChainRow>, StoreError>;

    /// Whether a device has any chain.
    ///
    /// # Errors
    /// [`StoreError`].
    fn has_chain(&self, device: DeviceId) -> Result<bool, StoreError>;

    /// Adds a chain or moves its end on.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_chain(&self, row: &ChainRow) -> Result<(), StoreError>;

    /// The hash of the link at a position.
    ///
    /// # Errors
    /// [`StoreError`].
    fn link_hash(&self, device: DeviceId, chain: ChainId, seq: u64) -> Result<Option<Hash>, StoreError>;

    /// Appends a link.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] when the position is taken.
    fn add_link(&self, device: DeviceId, chain: ChainId, row: &LinkRow) -> Result<(), StoreError>;

    /// Up to `limit` links of a chain after a position, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    fn links(&self, device: DeviceId, chain: ChainId, after: u64, limit: usize) -> Result<Vec<LinkRow>, StoreError>;

    /// Sets something aside, once for the same bytes and at most `keep` for a device; says whether it was new.
    ///
    /// # Errors
    /// [`StoreError`].
    fn set_aside(&self, row: &SuspicionRow, keep: usize) -> Result<bool, StoreError>;

    /// Everything that was set aside, oldest first, without its bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    fn suspicions(&self) -> Result<Vec<SuspicionRow>, StoreError>;
}
