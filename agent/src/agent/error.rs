//! Why an agent does not open, and why a vault stays locked.
//! It must not carry a passphrase or anything of a person.

use cpis_protocol::Refusal;

use super::REASON_MIN;
use crate::device_secret::DeviceSecretError;
use crate::journal::JournalError;
use crate::keyslot::{KeyslotError, PassphraseProblem, VaultError};
use crate::port::StoreError;
use crate::random::RandomError;

/// The agent does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No enrolled agent lives in the directory.
    #[error("no enrolled agent in this directory")]
    NotEnrolled,
    /// Another process has it.
    #[error("another process is using this agent's directory")]
    InUse,
    /// The device secret does not open.
    #[error(transparent)]
    DeviceSecret(#[from] DeviceSecretError),
    /// The keyslot file does not open.
    #[error("the keyslot file does not open: {0}")]
    Keyslot(#[from] KeyslotError),
    /// The audit journal does not open.
    #[error("the audit journal does not open: {0}")]
    Journal(#[from] JournalError),
    /// The replica does not open, and could not be set aside.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the keyslot file holds does not verify.
    #[error("the stored trust does not verify ({code}): {0}", code = .0.code())]
    Refused(Refusal),
    /// The operating system gives no randomness.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The file system.
    #[error("the agent's directory: {0}")]
    Io(#[from] std::io::Error),
}

/// The vault was not unlocked, or no slot was added.
#[derive(Debug, thiserror::Error)]
pub enum UnlockError {
    /// The slot does not open.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The badge and the lease cannot be judged.
    #[error(
        "this device does not know what time it is, so it cannot tell whether a badge is good: connect it to the network"
    )]
    AgeUnknown,
    /// The grant has no valid badge for the practitioner.
    #[error("there is no valid badge for this practitioner on this device: the operator adds one, then sync")]
    NoBadge,
    /// The event could not be recorded, so the vault stays locked.
    #[error("the unlocking could not be recorded, so the vault stays locked: free some disk space")]
    AuditCannotBeWritten,
    /// Adding a slot needs an open vault.
    #[error("somebody who can already unlock this device must do so first")]
    Locked,
    /// The passphrase is too weak.
    #[error(transparent)]
    Passphrase(#[from] PassphraseProblem),
    /// The device was withdrawn, or its lease has run out.
    #[error("this device may not be used until it has connected to its server")]
    Withdrawn,
    /// The practitioner has an open slot: only they may make it anew.
    #[error("this practitioner already has a slot here: only they can change its passphrase")]
    SlotInUse,
    /// The grant was sealed to another vault.
    #[error("the feed keys do not open: sync, then unlock again")]
    KeysDoNotOpen,
}

impl UnlockError {
    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Vault(VaultError::WrongPassphrase { .. }) => "wrong-passphrase",
            Self::Vault(VaultError::Wait { .. }) => "wait",
            Self::Vault(VaultError::Closed | VaultError::JustClosed) => "slot-closed",
            Self::Vault(VaultError::LockedOut) => "tpm-locked-out",
            Self::Vault(VaultError::NoSlot) => "no-slot",
            Self::Vault(_) => "vault-failed",
            Self::AgeUnknown => "age-unknown",
            Self::NoBadge => "no-badge",
            Self::AuditCannotBeWritten => "audit-cannot-be-written",
            Self::Locked => "vault-locked",
            Self::Passphrase(_) => "weak-passphrase",
            Self::Withdrawn => "withdrawn",
            Self::SlotInUse => "slot-in-use",
            Self::KeysDoNotOpen => "keys-do-not-open",
        }
    }
}

/// The glass was not broken.
#[derive(Debug, thiserror::Error)]
pub enum GlassError {
    /// It needs an open vault.
    #[error("nobody has unlocked this device: unlock it first")]
    Locked,
    /// No reason, or hardly one.
    #[error("the reason is too short: say in at least {REASON_MIN} characters why")]
    ReasonTooShort,
    /// It does not fit the audit event, or has control characters.
    #[error("the reason cannot be recorded: at most 64 bytes, on one line")]
    ReasonTooLong,
    /// It was not confirmed.
    #[error("breaking the glass is recorded and reported: confirm it (--yes)")]
    NotConfirmed,
    /// Signed policy has none.
    #[error("there is no break-glass at this site: its signed policy does not allow it")]
    NotAllowed,
    /// It is in force, or was not long ago.
    #[error("the glass was broken not long ago, and look-ups do not add up: wait {wait_s} s")]
    TooSoon {
        /// Seconds to wait.
        wait_s: u32,
    },
    /// The present is not known.
    #[error("this device does not know what time it is: connect it to the network")]
    AgeUnknown,
    /// It could not be recorded, or not be stored.
    #[error("the break-glass could not be recorded, so it is not in force: free some disk space")]
    NotRecorded,
}

impl GlassError {
    /// A stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Locked => "vault-locked",
            Self::ReasonTooShort => "reason-too-short",
            Self::ReasonTooLong => "reason-too-long",
            Self::NotConfirmed => "not-confirmed",
            Self::NotAllowed => "break-glass-not-allowed",
            Self::TooSoon { .. } => "break-glass-too-soon",
            Self::AgeUnknown => "age-unknown",
            Self::NotRecorded => "audit-cannot-be-written",
        }
    }
}
