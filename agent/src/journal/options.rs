//! How much the journal may hold, and what opening it found.
//! It must not let a capacity through at which not even one reservation fits.

use super::RESERVE_STEP;
use super::error::JournalError;
use super::recover::ClosedChain;

/// The largest capacity: offsets in a segment are 32 bits.
const CAPACITY_MAX: u64 = 1024 * 1024 * 1024;

/// How much the journal may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The most bytes of records, closed chains included; at most 1 GiB.
    pub capacity_bytes: u64,
    /// How many of these only [`Priority::Emergency`] may use.
    pub emergency_bytes: u64,
    /// A segment that is longer is followed by another.
    pub segment_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { capacity_bytes: 64 * 1024 * 1024, emergency_bytes: 1024 * 1024, segment_bytes: 1024 * 1024 }
    }
}

impl Options {
    pub(super) fn check(self) -> Result<Self, JournalError> {
        let least = self.emergency_bytes.saturating_add(RESERVE_STEP);
        if self.capacity_bytes < least || self.capacity_bytes > CAPACITY_MAX {
            return Err(JournalError::CapacityTooSmall(least));
        }
        Ok(self)
    }

    pub(super) const fn routine_bytes(&self) -> u64 {
        self.capacity_bytes - self.emergency_bytes
    }
}

/// Whether an event may use the last of the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// Refused when the journal is full.
    Routine,
    /// May use the emergency reserve.
    Emergency,
}

/// How full the journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fill {
    /// Below four fifths of what routine events may use.
    Normal,
    /// At or above four fifths: the device should be connected.
    Warning,
    /// Routine events are refused.
    Full,
}

/// What opening the journal found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// Links in the remaining files, acknowledged ones too.
    pub links: u64,
    /// Links that no receipt covers.
    pub unacknowledged: u64,
    /// Files of the chain in use, after pruning.
    pub segments: usize,
    /// Bytes of a group that was being written when the device stopped: cut off; nobody had been told of it.
    pub torn_bytes: u64,
    /// Files that were staged and never published: deleted.
    pub staged_removed: usize,
    /// Chains that were closed with links unsent; they are kept.
    pub closed: Vec<ClosedChain>,
}
