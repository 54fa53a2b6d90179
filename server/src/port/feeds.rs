//! The feeds' tables: logs of cells, where each person's records lie, scopes and signed heads.
//! It must not open a cell or a key: both are sealed bytes here.

use cpis_protocol::cell::Cell;
use cpis_protocol::digest::Hash;
use cpis_protocol::head::FeedState;
use cpis_protocol::id::{BlindId, Epoch, FeedId, FeedSeq, RegisterSeq, ScopeId, UnixMs};

use cpis_protocol::id::DeviceId;

use super::{PersonId, StoreError};

/// A feed's present state.
pub type FeedRow = FeedState;

/// One epoch of one feed's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CellLog {
    /// The feed.
    pub feed: FeedId,
    /// The identity of its log.
    pub epoch: Epoch,
}

/// Where a person's record lies in one feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The feed.
    pub feed: FeedId,
    /// Its blind identity there.
    pub blind: BlindId,
    /// Hash of what was sealed, so that an equal record is not published again.
    pub fingerprint: Hash,
}

/// A scope and its feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeRow {
    /// The scope.
    pub scope: ScopeId,
    /// Its feeds, sorted.
    pub feeds: Vec<FeedId>,
}

/// A signed head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadRow {
    /// SHA-256 of the bytes.
    pub hash: Hash,
    /// The scope.
    pub scope: ScopeId,
    /// The instant of the register.
    pub gseq: RegisterSeq,
    /// When it was signed.
    pub issued_ms: UnixMs,
    /// The signed bytes.
    pub bytes: Vec<u8>,
}

/// Feeds, scopes and heads.
pub trait Feeds {
    /// All feeds, sorted.
    ///
    /// # Errors
    /// [`StoreError`].
    fn feeds(&self) -> Result<Vec<FeedRow>, StoreError>;

    /// One feed.
    ///
    /// # Errors
    /// [`StoreError`].
    fn feed(&self, feed: FeedId) -> Result<Option<FeedRow>, StoreError>;

    /// Adds a feed, or moves its state on.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_feed(&self, row: &FeedRow) -> Result<(), StoreError>;

    /// The sealed keys of a feed's log, by number.
    ///
    /// # Errors
    /// [`StoreError`].
    fn feed_keys(&self, log: CellLog) -> Result<Vec<(u32, Vec<u8>)>, StoreError>;

    /// Keeps a sealed key.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_feed_key(&self, log: CellLog, key_id: u32, sealed: &[u8], made_ms: UnixMs) -> Result<(), StoreError>;

    /// When a key was made; `None` when there is no such key.
    ///
    /// # Errors
    /// [`StoreError`].
    fn feed_key_made(&self, log: CellLog, key_id: u32) -> Result<Option<UnixMs>, StoreError>;

    /// Writes down that a device is granted a key.
    ///
    /// # Errors
    /// [`StoreError`].
    fn hold_key(&self, device: DeviceId, log: CellLog, key_id: u32, granted_ms: UnixMs) -> Result<(), StoreError>;

    /// The keys of a log that a device was ever granted, by number, each with whether it has held the feed since.
    ///
    /// # Errors
    /// [`StoreError`].
    fn held_keys(&self, device: DeviceId, log: CellLog) -> Result<Vec<(u32, bool)>, StoreError>;

    /// Writes down that a device left every feed but these, and when.
    ///
    /// # Errors
    /// [`StoreError`].
    fn leave_other_feeds(&self, device: DeviceId, kept: &[FeedId], at_ms: UnixMs) -> Result<(), StoreError>;

    /// How many devices were granted a key of this feed that is not the current one of `log`, this or another epoch's.
    ///
    /// # Errors
    /// [`StoreError`].
    fn holders_of_older(&self, log: CellLog, key_id: u32) -> Result<u64, StoreError>;

    /// Persons with a record in a feed above an identity, in order, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn placed_after(&self, feed: FeedId, above: PersonId, limit: usize) -> Result<Vec<PersonId>, StoreError>;

    /// Where a person's records lie.
    ///
    /// # Errors
    /// [`StoreError`].
    fn placements(&self, person: PersonId) -> Result<Vec<Placement>, StoreError>;

    /// Adds or replaces where a person's record lies in a feed.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_placement(&self, person: PersonId, placement: &Placement) -> Result<(), StoreError>;

    /// Forgets where a person's record lay.
    ///
    /// # Errors
    /// [`StoreError`].
    fn delete_placement(&self, person: PersonId, feed: FeedId) -> Result<(), StoreError>;

    /// A person's places among those who share a question in a feed: the keyed hash of the question, and the place.
    ///
    /// # Errors
    /// [`StoreError`].
    fn seats(&self, person: PersonId, feed: FeedId) -> Result<Vec<(Hash, u32)>, StoreError>;

    /// Gives a person the lowest free place of a question.
    ///
    /// # Errors
    /// [`StoreError`].
    fn take_seat(&self, person: PersonId, feed: FeedId, question: &Hash) -> Result<u32, StoreError>;

    /// Takes a person's place away.
    ///
    /// # Errors
    /// [`StoreError`].
    fn leave_seat(&self, person: PersonId, feed: FeedId, question: &Hash) -> Result<(), StoreError>;

    /// The first person whose place of a question is `from` or above.
    ///
    /// # Errors
    /// [`StoreError`].
    fn seated_from(&self, feed: FeedId, question: &Hash, from: u32) -> Result<Option<PersonId>, StoreError>;

    /// Appends a cell to a log and marks the live cell with its blind identity, if any, as superseded by it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn append(&self, log: CellLog, cell: &Cell) -> Result<(), StoreError>;

    /// The bytes of the cells after `from` up to `to`, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    fn cells(&self, log: CellLog, from: FeedSeq, to: FeedSeq) -> Result<Vec<u8>, StoreError>;

    /// Hands the live cells as of a position, sorted by blind identity, to `each`.
    ///
    /// # Errors
    /// [`StoreError`], or what `each` returns.
    fn live(
        &self,
        log: CellLog,
        seq: FeedSeq,
        each: &mut dyn FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;

    /// The last position of a log of any epoch; 0 where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_end(&self, log: CellLog) -> Result<FeedSeq, StoreError>;

    /// Every log of every epoch that ever had a key.
    ///
    /// # Errors
    /// [`StoreError`].
    fn logs(&self) -> Result<Vec<CellLog>, StoreError>;

    /// The position from which on live sets and deltas of a log can be made; 0 for all of it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_floor(&self, log: CellLog) -> Result<FeedSeq, StoreError>;

    /// Raises the floor of a log; never lowers it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn raise_floor(&self, log: CellLog, floor: FeedSeq) -> Result<(), StoreError>;

    /// Writes down that a log has ended by now, if nobody did before; gives when it was written down.
    ///
    /// # Errors
    /// [`StoreError`].
    fn end_log(&self, log: CellLog, now_ms: UnixMs) -> Result<UnixMs, StoreError>;

    /// Takes at most `limit` cells out that stand at or before `floor` and were superseded by then, or were never live;
    /// with [`FeedSeq::MAX`] any cell. Gives how many went.
    ///
    /// # Errors
    /// [`StoreError`].
    fn prune(&self, log: CellLog, floor: FeedSeq, limit: usize) -> Result<usize, StoreError>;

    /// The head of a scope that was the newest at a time; the first one where there was none yet.
    ///
    /// # Errors
    /// [`StoreError`].
    fn head_at(&self, scope: ScopeId, at_ms: UnixMs) -> Result<Option<HeadRow>, StoreError>;

    /// How many cells were ever appended to the present logs, whether they are still there or not.
    ///
    /// # Errors
    /// [`StoreError`].
    fn count_cells(&self) -> Result<u64, StoreError>;

    /// All scopes, sorted.
    ///
    /// # Errors
    /// [`StoreError`].
    fn scopes(&self) -> Result<Vec<ScopeRow>, StoreError>;

    /// One scope.
    ///
    /// # Errors
    /// [`StoreError`].
    fn scope(&self, scope: ScopeId) -> Result<Option<ScopeRow>, StoreError>;

    /// Adds a scope.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] when the name is taken.
    fn add_scope(&self, row: &ScopeRow) -> Result<(), StoreError>;

    /// Keeps a signed head for ever and makes it the newest of its scope.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_head(&self, row: &HeadRow) -> Result<(), StoreError>;

    /// A head by its hash.
    ///
    /// # Errors
    /// [`StoreError`].
    fn head(&self, hash: &Hash) -> Result<Option<HeadRow>, StoreError>;

    /// The newest head of a scope.
    ///
    /// # Errors
    /// [`StoreError`].
    fn newest_head(&self, scope: ScopeId) -> Result<Option<HeadRow>, StoreError>;

    /// Reference data by its hash.
    ///
    /// # Errors
    /// [`StoreError`].
    fn reference(&self, hash: &Hash) -> Result<Option<Vec<u8>>, StoreError>;

    /// Keeps reference data for ever.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_reference(&self, hash: &Hash, bytes: &[u8]) -> Result<(), StoreError>;
}
