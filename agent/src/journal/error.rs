//! What can go wrong with the journal, each with what to do about it.
//! It must not carry anything of an event: these texts are logged and shown.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use cpis_protocol::Refusal;
use cpis_protocol::id::{ChainId, DeviceId};

/// Why the journal does not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// There is no journal. It is not made silently, because that would hide the loss of one.
    #[error("there is no audit journal in {}: enrol this device, or restore the directory", .0.display())]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is an audit journal in {} already: it is not overwritten", .0.display())]
    Exists(PathBuf),
    /// Another process, or another handle in this one, has it open.
    #[error("the audit journal in {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// Written by another version of this program. Nothing was changed.
    #[error(
        "{} has format {found}, and this build reads format 1: install the version that wrote it",
        segment.display()
    )]
    Format {
        /// The file.
        segment: PathBuf,
        /// Its format version.
        found: u8,
    },
    /// Of another device, e.g. a copied disk. Nothing was changed.
    #[error("the audit journal belongs to device {found}, and this is another")]
    WrongDevice {
        /// Whose it is.
        found: DeviceId,
    },
    /// A bad record with good ones behind it, or a bad header. Nothing was changed.
    #[error(
        "the audit journal is damaged in {} at byte {offset}, before records that are whole: nothing was \
         changed; copy the directory, tell the operator, then begin a new chain with Journal::start_over",
        segment.display()
    )]
    Damaged {
        /// The file.
        segment: PathBuf,
        /// Where the first bad byte may be.
        offset: u64,
    },
    /// A segment between two others, or before the first receipt, is not there. Nothing was changed.
    #[error("audit links after {after} and before {before} are missing from {}: nothing was changed", dir.display())]
    Lost {
        /// The directory of the chain.
        dir: PathBuf,
        /// The last link known to be there or acknowledged.
        after: u64,
        /// The first link that is there.
        before: u64,
    },
    /// A write or sync failed. What the page cache holds cannot be believed until the journal is opened anew.
    #[error("the audit journal is closed after a failed {step}: {source}; it must be opened anew")]
    Poisoned {
        /// What failed.
        step: &'static str,
        /// Why.
        source: Arc<io::Error>,
    },
    /// No space could be reserved. Nothing was written, and the journal goes on.
    #[error("no space can be reserved for the audit journal: {0}; free some")]
    NoSpace(Arc<io::Error>),
    /// The journal holds as much as it may; only an upload makes room.
    #[error("the audit journal is full: connect this device so that its audit can be uploaded")]
    Full,
    /// The configured capacity cannot work.
    #[error("the audit journal needs a capacity of at least {0} bytes")]
    CapacityTooSmall(u64),
    /// The link that the caller made does not follow the tip that it was given.
    #[error("the link does not follow the chain")]
    NotNext,
    /// Making a link, or a receipt, was refused.
    #[error("audit journal: {0}")]
    Refused(#[from] Refusal),
    /// Links that no receipt covers would be left behind.
    #[error("{0} audit links are not acknowledged yet: upload them first, or force the new chain")]
    Unacknowledged(u64),
    /// The new chain is the chain that is open.
    #[error("{0} is the chain in use: a new chain needs a new random identity")]
    SameChain(ChainId),
    /// The file system said no while opening or reading; nothing was written.
    #[error("audit journal: {step}: {source}")]
    Io {
        /// What failed.
        step: &'static str,
        /// Why.
        source: Arc<io::Error>,
    },
}

impl JournalError {
    pub(super) fn io(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { step, source: Arc::new(error) }
    }

    pub(super) fn poisoned(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Poisoned { step, source: Arc::new(error) }
    }

    /// Whether the journal must be opened anew before anything more can be appended.
    #[must_use]
    pub const fn is_poisoned(&self) -> bool {
        matches!(self, Self::Poisoned { .. })
    }
}
