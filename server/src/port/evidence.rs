//! What is derived from the audit chains and from publishing: erasure proofs, alerts, removed records, cursors.
//! It must not hold an identifier of a person: a removed record is named by a mark that only the storage key computes.

use cpis_protocol::audit::ErasureCause;
use cpis_protocol::digest::Hash;
use cpis_protocol::id::{ChainId, DeviceId, FeedId, PractitionerId, RegisterSeq, UnixMs};

use super::{ChainRow, LinkRow, PersonId, StoreError, SuspicionRow};

/// What names a person whose record was removed, without saying who it is.
pub type Mark = Hash;

/// One erasure receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofRow {
    /// Whose.
    pub device: DeviceId,
    /// The chain that holds it.
    pub chain: ChainId,
    /// Its position there.
    pub seq: u64,
    /// Why keys were destroyed.
    pub cause: ErasureCause,
    /// How many records went.
    pub records: u32,
    /// The register sequence of the copy that the device held then.
    pub gseq: RegisterSeq,
    /// The first half of the hash of that copy's head.
    pub head: [u8; 16],
    /// When, by the device.
    pub event_ms: UnixMs,
    /// When it was stored here.
    pub received_ms: UnixMs,
}

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertKind {
    /// A second, signed link for a position that is taken.
    Fork,
    /// A link whose signature does not verify.
    BadSignature,
    /// A batch that cannot be read, or an event that does not open.
    Unreadable,
    /// A chain was begun beside another of the same device.
    SecondChain,
    /// More people share their details than a device finds by name: those beyond are found by NHS number only.
    Crowded,
    /// Somebody broke the glass.
    BreakGlass,
    /// Answers were given while nothing could be recorded.
    Unrecorded,
    /// A slot was closed after wrong passphrases.
    SlotClosed,
    /// Very many look-ups within a window.
    EnumerationRate,
    /// Nearly all of many look-ups within a window found nobody.
    EnumerationMisses,
    /// Many dates of birth for one NHS number or one name.
    EnumerationDates,
    /// Consecutive NHS numbers.
    EnumerationSequence,
    /// Look-ups were refused by the limit.
    RateLimited,
}

impl AlertKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::Fork,
        Self::BadSignature,
        Self::Unreadable,
        Self::SecondChain,
        Self::Crowded,
        Self::BreakGlass,
        Self::Unrecorded,
        Self::SlotClosed,
        Self::EnumerationRate,
        Self::EnumerationMisses,
        Self::EnumerationDates,
        Self::EnumerationSequence,
        Self::RateLimited,
    ];

    /// The stored name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::BadSignature => "bad-signature",
            Self::Unreadable => "unreadable",
            Self::SecondChain => "second-chain",
            Self::Crowded => "crowded",
            Self::BreakGlass => "break-glass",
            Self::Unrecorded => "unrecorded",
            Self::SlotClosed => "slot-closed",
            Self::EnumerationRate => "enumeration-rate",
            Self::EnumerationMisses => "enumeration-misses",
            Self::EnumerationDates => "enumeration-dates",
            Self::EnumerationSequence => "enumeration-sequence",
            Self::RateLimited => "rate-limited",
        }
    }
}

/// An alert as it is raised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAlert {
    /// What it is about.
    pub kind: AlertKind,
    /// The device; none where publishing raised it.
    pub device: Option<DeviceId>,
    /// Who; empty where nobody is.
    pub practitioner: PractitionerId,
    /// When it happened, by the device; of what never became an event, when it came.
    pub at_ms: UnixMs,
    /// The position of the event in its chain; zero where there is none.
    pub seq: u64,
    /// How many: look-ups, answers, dates of birth, people without a place.
    pub count: u64,
    /// Alerts of one key are one alert.
    pub once: Hash,
    /// Whether a further one of the same key adds its count, or the greater count stands.
    pub adds: bool,
}

/// A stored alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertRow {
    /// Its number.
    pub id: i64,
    /// What it is about.
    pub kind: AlertKind,
    /// The device; none where publishing raised it.
    pub device: Option<DeviceId>,
    /// Who; empty where nobody is.
    pub practitioner: PractitionerId,
    /// When it happened.
    pub at_ms: UnixMs,
    /// The position of the event in its chain.
    pub seq: u64,
    /// How many.
    pub count: u64,
    /// Who has seen it, and when.
    pub acknowledged: Option<(String, UnixMs)>,
}

/// A record that was removed from a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovalRow {
    /// Its number, which says nothing of the person.
    pub id: i64,
    /// Whose record.
    pub mark: Mark,
    /// From which feed.
    pub feed: FeedId,
    /// When it was published.
    pub at_ms: UnixMs,
    /// The register sequence of the publication.
    pub gseq: RegisterSeq,
    /// The number of the last head that may hold the record; every later one lacks it.
    pub last_head: i64,
    /// The person has a record there again.
    pub returned: bool,
}

/// What a device was granted of one feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldFeed {
    /// The feed.
    pub feed: FeedId,
    /// When it was first granted any key of it.
    pub since_ms: UnixMs,
    /// When a later grant left the feed out; `None` while the last grant holds it.
    pub left_ms: Option<UnixMs>,
}

/// Evidence, and where its derivation stands.
pub trait Evidence {
    /// Chains that have never been looked at.
    ///
    /// # Errors
    /// [`StoreError`].
    fn new_chains(&self) -> Result<Vec<ChainRow>, StoreError>;

    /// Chains with links after their cursor, and that cursor.
    ///
    /// # Errors
    /// [`StoreError`].
    fn undigested(&self) -> Result<Vec<(DeviceId, ChainId, u64)>, StoreError>;

    /// Up to where a chain was looked at.
    ///
    /// # Errors
    /// [`StoreError`].
    fn cursor(&self, device: DeviceId, chain: ChainId) -> Result<u64, StoreError>;

    /// Moves the cursor of a chain.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_cursor(&self, device: DeviceId, chain: ChainId, seq: u64) -> Result<(), StoreError>;

    /// Writes down that a link is passed over, since it is sealed to a recipient whose key is not here.
    ///
    /// # Errors
    /// [`StoreError`].
    fn wait_for_key(&self, device: DeviceId, chain: ChainId, seq: u64, recipient: [u8; 4]) -> Result<(), StoreError>;

    /// Up to `limit` links that were passed over and are sealed to this recipient, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    fn waiting(&self, recipient: [u8; 4], limit: usize) -> Result<Vec<(DeviceId, ChainId, u64)>, StoreError>;

    /// A passed-over link has been opened.
    ///
    /// # Errors
    /// [`StoreError`].
    fn waited(&self, device: DeviceId, chain: ChainId, seq: u64) -> Result<(), StoreError>;

    /// Of the `limit` links of a chain up to and with a position those that happened after `event_ms`; oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn links_before(
        &self,
        device: DeviceId,
        chain: ChainId,
        through: u64,
        event_ms: UnixMs,
        limit: usize,
    ) -> Result<Vec<LinkRow>, StoreError>;

    /// What was set aside after a number, with the numbers.
    ///
    /// # Errors
    /// [`StoreError`].
    fn suspicions_after(&self, id: i64) -> Result<Vec<(i64, SuspicionRow)>, StoreError>;

    /// Keeps an erasure receipt.
    ///
    /// # Errors
    /// [`StoreError::Constraint`] when it is there.
    fn add_proof(&self, proof: &ProofRow) -> Result<(), StoreError>;

    /// Of each chain of a device the newest receipt of an update and the newest of a whole erasure.
    ///
    /// # Errors
    /// [`StoreError`].
    fn newest_proofs(&self, device: DeviceId) -> Result<Vec<ProofRow>, StoreError>;

    /// Raises an alert, or adds to the one of the same key; says whether it is new.
    ///
    /// # Errors
    /// [`StoreError`].
    fn raise(&self, alert: &NewAlert) -> Result<bool, StoreError>;

    /// Alerts, oldest first; without `all` those that nobody has acknowledged.
    ///
    /// # Errors
    /// [`StoreError`].
    fn alerts(&self, all: bool) -> Result<Vec<AlertRow>, StoreError>;

    /// Writes down who has seen an alert; false when there is no such alert, or it was acknowledged before.
    ///
    /// # Errors
    /// [`StoreError`].
    fn acknowledge(&self, id: i64, by: &str, at_ms: UnixMs) -> Result<bool, StoreError>;

    /// Remembers the mark of a person who is placed in a feed.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_mark(&self, person: PersonId, mark: &Mark) -> Result<(), StoreError>;

    /// The mark of a person, who may have been taken out of the register since.
    ///
    /// # Errors
    /// [`StoreError`].
    fn mark(&self, person: PersonId) -> Result<Option<Mark>, StoreError>;

    /// Writes down that a record is in no head made from now on.
    ///
    /// # Errors
    /// [`StoreError`].
    fn add_removal(&self, mark: &Mark, feed: FeedId, at_ms: UnixMs, gseq: RegisterSeq) -> Result<(), StoreError>;

    /// The person has a record in the feed again.
    ///
    /// # Errors
    /// [`StoreError`].
    fn returned(&self, mark: &Mark, feed: FeedId) -> Result<(), StoreError>;

    /// Removed records, oldest first: of one feed and of one person where these are given.
    ///
    /// # Errors
    /// [`StoreError`].
    fn removals(&self, feed: Option<FeedId>, mark: Option<&Mark>) -> Result<Vec<RemovalRow>, StoreError>;

    /// The number and bytes of the head whose hash begins so.
    ///
    /// # Errors
    /// [`StoreError`].
    fn head_by_half(&self, half: &[u8; 16]) -> Result<Option<(i64, Vec<u8>)>, StoreError>;

    /// Writes down when a device was given a grant.
    ///
    /// # Errors
    /// [`StoreError`].
    fn granted(&self, device: DeviceId, at_ms: UnixMs) -> Result<(), StoreError>;

    /// When a device was last given a grant; zero before the first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn granted_ms(&self, device: DeviceId) -> Result<UnixMs, StoreError>;

    /// Every feed that a device was ever granted.
    ///
    /// # Errors
    /// [`StoreError`].
    fn held_feeds(&self, device: DeviceId) -> Result<Vec<HeldFeed>, StoreError>;
}
