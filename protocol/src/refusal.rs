//! Why an object from outside was refused: one stable code for each reason.
//! It must not carry any content of the object: a refusal is logged and shown.

/// A reason to refuse input. `code()` is frozen: vectors, reports and alerts cite it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The object is larger than its ceiling in [`crate::limits`].
    #[error("the object is larger than its limit")]
    TooLarge,
    /// The bytes end before the object does.
    #[error("the object ends too early")]
    Truncated,
    /// There are bytes after the end of the object.
    #[error("there are bytes after the end of the object")]
    TrailingBytes,
    /// The bytes do not decode, or a field holds a value that it may not hold.
    #[error("the object is malformed")]
    Malformed,
    /// The kind byte names another object.
    #[error("the object is of another kind")]
    WrongKind,
    /// The format version is not one that this build reads.
    #[error("the object has a format version that this build does not read")]
    UnsupportedFormat,
    /// No signature is by a key that the trusted root names for this role.
    #[error("no signature is by a key that the trusted root names for this role")]
    UnknownKey,
    /// A signature does not verify over the received bytes.
    #[error("a signature does not verify")]
    BadSignature,
    /// Fewer distinct trusted signers than the threshold.
    #[error("fewer distinct signers than the threshold")]
    BelowThreshold,
    /// Older than what was already accepted (TUF 5.4.3, 5.5.5).
    #[error("older than what was already accepted")]
    Rollback,
    /// Something already accepted arrives again where only something new may.
    #[error("already seen")]
    Replayed,
    /// Not the exact successor: something is missing between.
    #[error("not the exact successor; something is missing between")]
    Gap,
    /// Two different objects claim the same position.
    #[error("two different objects claim the same position")]
    Fork,
    /// Past its expiry by trusted time.
    #[error("past its expiry")]
    Expired,
    /// Issued for another scope.
    #[error("issued for another scope")]
    WrongScope,
    /// Belongs to another feed.
    #[error("belongs to another feed")]
    WrongFeed,
    /// Belongs to another epoch of the feed.
    #[error("belongs to another epoch of the feed")]
    WrongEpoch,
    /// Issued for another device.
    #[error("issued for another device")]
    WrongDevice,
    /// The hash is not the one that a signed object names.
    #[error("the hash is not the one that the signed object names")]
    WrongHash,
    /// The recomputed state root is not the one in the signed head.
    #[error("the recomputed state root is not the one in the signed head")]
    WrongStateRoot,
    /// The number of live cells is not the one in the signed head.
    #[error("the number of live cells is not the one in the signed head")]
    WrongCount,
    /// Cells are not in the order that the format demands.
    #[error("entries are out of order or repeated")]
    OutOfOrder,
    /// The memory-hard parameters are below the floor and the deployment is not synthetic.
    #[error("memory-hard parameters below the floor")]
    BelowFloor,
    /// An authentication tag does not verify: wrong key, or changed bytes.
    #[error("sealed content does not open")]
    DoesNotOpen,
}

impl Refusal {
    /// The frozen code of this reason.
    #[must_use]
    pub const fn code(self) -> &'static str {
        // R142
        match self {
            Self::TooLarge => "too-large",
            Self::Truncated => "truncated",
            Self::TrailingBytes => "trailing-bytes",
            Self::Malformed => "malformed",
            Self::WrongKind => "wrong-kind",
            Self::UnsupportedFormat => "unsupported-format",
            Self::UnknownKey => "unknown-key",
            Self::BadSignature => "bad-signature",
            Self::BelowThreshold => "below-threshold",
            Self::Rollback => "rollback",
            Self::Replayed => "replayed",
            Self::Gap => "gap",
            Self::Fork => "fork",
            Self::Expired => "expired",
            Self::WrongScope => "wrong-scope",
            Self::WrongFeed => "wrong-feed",
            Self::WrongEpoch => "wrong-epoch",
            Self::WrongDevice => "wrong-device",
            Self::WrongHash => "wrong-hash",
            Self::WrongStateRoot => "wrong-state-root",
            Self::WrongCount => "wrong-count",
            Self::OutOfOrder => "out-of-order",
            Self::BelowFloor => "below-floor",
            Self::DoesNotOpen => "does-not-open",
        }
    }
}
