//! What an audit event says before it is sealed: who, in which role, what happened.
//! It must not say more of a record than the access itself, nor let its length tell anything.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::id::{BlindId, FeedId, FeedSeq, PractitionerId, UnixMs};
use crate::nhs::{Date, NhsNumber};
use crate::policy::AccessMode;
use crate::text::Text;
use crate::{Refusal, codec};

/// The plaintext of every event is padded to this length, so that length tells nothing of kind or outcome.
pub const EVENT_BYTES: usize = 160;

/// What was answered, without saying anything of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// A record exists.
    Flagged,
    /// No record in this copy.
    NotInThisCopy,
    /// The agent could not answer.
    CannotAnswer,
    /// The area is not covered by this device.
    OutOfCoverage,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Act {
    /// Somebody asked by NHS number and date of birth.
    LookUp {
        /// The number as asked.
        number: NhsNumber,
        /// The date of birth as asked.
        birth: Date,
        /// The answer.
        outcome: Outcome,
        /// Why not, when it could not be answered; see [`crate::answer::CannotAnswer::code`].
        reason: Text<24>,
    },
    /// The details were shown: the access that the authority is told of.
    Reveal {
        /// The position of the look-up in this chain.
        look_up: u64,
        /// The feed of the record.
        feed: FeedId,
        /// The record.
        blind: BlindId,
        /// Its version.
        version: FeedSeq,
        /// The site's signed policy when it happened.
        access_mode: AccessMode,
    },
    /// The vault was unlocked.
    Unlock,
    /// An attempt to unlock failed.
    UnlockFailed,
    /// The vault was locked.
    Lock {
        /// By what.
        cause: LockCause,
    },
    /// A practitioner was given a slot, by whoever had the vault open.
    SlotAdded {
        /// Who can unlock now.
        practitioner: PractitionerId,
        /// There was a slot before.
        replaced: bool,
    },
    /// Somebody asked by name and date of birth.
    LookUpByName {
        /// The surname, normalised.
        surname: Text<32>,
        /// The given name, normalised.
        given: Text<32>,
        /// The date of birth as asked.
        birth: Date,
        /// The postcode, normalised, when it was given.
        postcode: Text<8>,
        /// How many candidates were shown; each has a [`Act::Candidate`] of its own.
        candidates: u8,
        /// The answer.
        outcome: Outcome,
        /// Why not, when it could not be answered.
        reason: Text<24>,
    },
    /// A candidate of a look-up by name was shown: its confirmers, not its details.
    Candidate {
        /// The position of the look-up in this chain.
        look_up: u64,
        /// The feed of the record.
        feed: FeedId,
        /// The record.
        blind: BlindId,
        /// Its version.
        version: FeedSeq,
    },
    /// Somebody broke the glass: the limit of look-ups is widened for a while, where signed policy allows it.
    BreakGlass {
        /// Why, in the practitioner's words.
        reason: Text<64>,
        /// How many look-ups it allows.
        look_ups: u16,
    },
    /// Answers were given under break-glass while nothing could be recorded; told as soon as it could be.
    Unrecorded {
        /// How many.
        count: u16,
        /// When the first of them was.
        first_ms: UnixMs,
        /// Why, in the practitioner's words.
        reason: Text<64>,
    },
    /// A slot was closed after too many wrong attempts.
    SlotClosed {
        /// Whose.
        practitioner: PractitionerId,
    },
    /// The erasure receipt: keys were destroyed, and with them what they opened. What the device holds from here on is
    /// what this link's moment names; after any cause but [`ErasureCause::Update`] it is nothing.
    Erased {
        /// Why.
        cause: ErasureCause,
        /// How many records went.
        records: u32,
    },
}

/// What locked the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockCause {
    /// The person.
    Touch,
    /// The idle timer.
    Idle,
    /// The device went to sleep.
    Sleep,
    /// Somebody else unlocked.
    Replaced,
    /// The badge, the lease or the device was withdrawn.
    Withdrawn,
}

/// What made the device erase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErasureCause {
    /// A newer copy without the records; the older generation's keys are destroyed.
    Update,
    /// The lease ran out.
    LeaseExpired,
    /// The server withdrew the device.
    Withdrawn,
}

impl core::fmt::Debug for Act {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl Act {
    /// A stable short name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::LookUp { .. } => "look-up",
            Self::Reveal { .. } => "reveal",
            Self::Unlock => "unlock",
            Self::UnlockFailed => "unlock-failed",
            Self::Lock { .. } => "lock",
            Self::SlotAdded { .. } => "slot-added",
            Self::LookUpByName { .. } => "look-up-by-name",
            Self::Candidate { .. } => "candidate",
            Self::BreakGlass { .. } => "break-glass",
            Self::Unrecorded { .. } => "unrecorded",
            Self::SlotClosed { .. } => "slot-closed",
            Self::Erased { .. } => "erased",
        }
    }
}

/// An audit event, as it is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Who, from the session opened at unlock.
    pub practitioner: PractitionerId,
    /// In which role.
    pub role: Text<8>,
    /// The incident or case the crew works on, if given.
    pub incident: Text<16>,
    /// Whether it happened under break-glass.
    pub break_glass: bool,
    /// What.
    pub act: Act,
}

impl AuditEvent {
    /// Length (u16, big endian), the frozen bytes, zeros up to [`EVENT_BYTES`].
    pub(super) fn pack(&self) -> Result<zeroize::Zeroizing<Vec<u8>>, Refusal> {
        let event = zeroize::Zeroizing::new(codec::encode(self)?);
        let length = u16::try_from(event.len()).map_err(|_| Refusal::TooLarge)?;
        let mut out = zeroize::Zeroizing::new(Vec::with_capacity(EVENT_BYTES));
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(&event);
        if out.len() > EVENT_BYTES {
            return Err(Refusal::TooLarge);
        }
        out.resize(EVENT_BYTES, 0);
        Ok(out)
    }

    pub(super) fn unpack(bytes: &[u8]) -> Result<Self, Refusal> {
        let (length, rest) = bytes.split_first_chunk::<2>().ok_or(Refusal::Truncated)?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (event, padding) = rest.split_at_checked(length).ok_or(Refusal::Truncated)?;
        if bytes.len() != EVENT_BYTES || padding.iter().any(|b| *b != 0) {
            // R104
            return Err(Refusal::Malformed);
        }
        codec::decode(event, EVENT_BYTES)
    }
}
