//! The four answers, and the one decision whether a copy may answer at all.
//! It must not hold a boolean: nothing here can say "no flag" without as of when, for which area, from which state.

use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::clock::{Reading, TrustedClock};
use crate::digest::Hash;
use crate::flag::FlagKind;
use crate::id::{RegisterSeq, UnixMs};
use crate::nhs::{NhsNumber, NumberRange};
use crate::policy::{Freshness, Policy};

/// Why the agent cannot answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CannotAnswer {
    /// Nothing has ever been received.
    NeverSynced,
    /// Too old for this answer by the site's policy.
    Stale,
    /// The lease has run out.
    LeaseExpired,
    /// The device was revoked.
    Revoked,
    /// The copy does not match what was signed.
    IntegrityFailure,
    /// The age of the copy cannot be known: the clock was lost or set back.
    AgeUnknown,
    /// Nobody has unlocked the vault.
    VaultLocked,
    /// The event could not be put on stable storage.
    AuditCannotBeWritten,
    /// Not an NHS number, or not a date of birth.
    InvalidNumber,
    /// A number that England did not issue, or a real one in a synthetic deployment.
    NumberOutsideRange,
    /// More look-ups than signed policy allows in this time.
    RateLimited,
    /// Not a name, a date of birth and, if any, a full postcode.
    InvalidName,
    /// The device was suspended.
    Suspended,
    /// The device was not given every key that the copy is sealed under.
    KeyMissing,
    /// So many people share these details that one of them may be filed by NHS number only.
    Crowded,
}

impl CannotAnswer {
    /// The frozen code, at most 24 characters.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NeverSynced => "never-synced",
            Self::Stale => "stale",
            Self::LeaseExpired => "lease-expired",
            Self::Revoked => "revoked",
            Self::IntegrityFailure => "integrity-failure",
            Self::AgeUnknown => "age-unknown",
            Self::VaultLocked => "vault-locked",
            Self::AuditCannotBeWritten => "audit-cannot-be-written",
            Self::InvalidNumber => "invalid-number",
            Self::NumberOutsideRange => "number-outside-range",
            Self::RateLimited => "rate-limited",
            Self::InvalidName => "invalid-name",
            Self::Suspended => "suspended",
            Self::KeyMissing => "key-missing",
            Self::Crowded => "crowded",
        }
    }

    /// What a clinician is told, and what to do next.
    #[must_use]
    pub const fn explain(self) -> &'static str {
        match self {
            Self::NeverSynced => {
                "This device has not received a copy yet. Connect it to the network, or check another way."
            }
            Self::Stale => {
                "The copy on this device is too old to say that somebody is not in it. Connect and update, or check another way."
            }
            Self::LeaseExpired => "This device may not be used any more until it has connected to its server.",
            Self::Revoked => "This device has been withdrawn from use. Use another device.",
            Self::IntegrityFailure => {
                "The copy on this device is damaged. It repairs itself when connected; until then check another way."
            }
            Self::AgeUnknown => {
                "This device does not know what time it is, so the age of its copy is unknown. Connect it to the network."
            }
            Self::VaultLocked => "Nobody has unlocked this device. Unlock it and ask again.",
            Self::AuditCannotBeWritten => {
                "The look-up could not be recorded, so nothing may be shown. Free some disk space, or check another way."
            }
            Self::InvalidNumber => "That is not an NHS number, or not a date of birth. Check every digit.",
            Self::NumberOutsideRange => {
                "That number was not issued in England, so this service does not cover it. Check another way."
            }
            Self::InvalidName => {
                "That is not a name in letters A to Z (accents are fine) with a date of birth and, if given, a full postcode; or too many people fit; or the given name is missing, without which nobody can be said not to be here. Check each, or look up by NHS number."
            }
            Self::RateLimited => {
                "Too many look-ups in a short time. Wait a little, break the glass where your site allows it, or check another way."
            }
            Self::Suspended => "This device has been suspended. Use another device, and ask the operator.",
            Self::KeyMissing => {
                "This device has not been given every key of its copy yet, so it cannot say that somebody is not in it. Connect and update, or check another way."
            }
            Self::Crowded => {
                "More people share these details than can be found by name, so this device cannot say by name that somebody is not in its copy. Look up by NHS number, or check another way."
            }
        }
    }
}

/// Which copy an answer comes from: part of every answer that says anything about a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyStatement {
    /// The signed instant that the copy is of.
    pub as_at_ms: UnixMs,
    /// Its age now.
    pub age_s: i64,
    /// In which band.
    pub freshness: Freshness,
    /// Register sequence.
    pub gseq: RegisterSeq,
    /// The verified head.
    pub head: Hash,
    /// The names of the authorities that the copy covers.
    pub covers: Vec<String>,
}

/// A flag as it is shown at reveal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShownFlag {
    /// The kind of plan.
    pub kind: FlagKind,
    /// Its preferred term.
    pub display: String,
    /// First day, `YYYY-MM-DD`.
    pub start: Option<String>,
    /// Last day, `YYYY-MM-DD`, when it has ended.
    pub end: Option<String>,
    /// The responsible authority.
    pub authority: String,
    /// Telephone in office hours.
    pub office_phone: String,
    /// Telephone of the emergency duty team.
    pub duty_phone: String,
}

/// One of the four answers. There is no fifth, and none is a boolean.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// A record exists for this person. The details need a reveal.
    Flagged {
        /// From which copy.
        copy: CopyStatement,
    },
    /// No record with these details in this fresh, verified copy.
    NotInThisCopy {
        /// From which copy.
        copy: CopyStatement,
    },
    /// The agent cannot answer.
    CannotAnswer {
        /// Why.
        reason: CannotAnswer,
    },
    /// The area asked for is not covered by this device.
    OutOfCoverage {
        /// From which copy.
        copy: CopyStatement,
        /// The area asked for.
        area: String,
    },
}

/// The fixed words of the negative answer: they cannot be configured away (design section 4).
pub const NOT_IN_THIS_COPY: &str = "No CP-IS record in this copy with these details.";
/// Goes with every negative answer.
pub const NOT_NO_CONCERNS: &str = "This does not mean that there are no concerns. Follow your safeguarding procedure.";
/// Goes with an unborn child's plan, first.
pub const UNBORN: &str = "This plan is for the unborn baby of this patient, not for the patient.";
/// The whole detail of a restricted record.
pub const RESTRICTED: &str = "Restricted record: ring the authority.";

/// What decides whether a copy may answer, apart from the question itself.
#[derive(Debug, Clone, Copy)]
pub struct CopyState<'a> {
    /// The signed time of the copy: the newest beat whose head the replica equals. `None` before the first sync.
    pub as_at_ms: Option<UnixMs>,
    /// Whether every feed's recomputed root equalled the signed one, since this process started.
    pub verified: bool,
    /// Why the device may answer nothing at all: withdrawn, suspended, erased.
    pub barred: Option<CannotAnswer>,
    /// The end of the lease.
    pub lease_until_ms: UnixMs,
    /// The site's policy.
    pub policy: &'a Policy,
}

/// Decides whether the copy may answer, and how old it is.
///
/// # Errors
/// [`CannotAnswer`], the gravest reason first.
pub fn admit(copy: &CopyState<'_>, clock: &TrustedClock, reading: Reading) -> Result<(i64, Freshness), CannotAnswer> {
    if let Some(reason) = copy.barred {
        return Err(reason);
    }
    let as_at_ms = copy.as_at_ms.ok_or(CannotAnswer::NeverSynced)?;
    if !copy.verified {
        return Err(CannotAnswer::IntegrityFailure);
    }
    let now_ms = clock.now(reading).ok_or(CannotAnswer::AgeUnknown)?;
    if now_ms >= copy.lease_until_ms {
        // R76
        return Err(CannotAnswer::LeaseExpired);
    }
    // A copy cannot be younger than nothing: signed time ahead of the estimate counts as no age at all.
    let age_s = now_ms.saturating_sub(as_at_ms).max(0) / 1000;
    match copy.policy.freshness(age_s) {
        Freshness::Locked => Err(CannotAnswer::Stale),
        freshness @ (Freshness::Fresh | Freshness::Ageing | Freshness::Stale) => Ok((age_s, freshness)),
    }
}

/// Decides whether a number may be asked for at all.
///
/// # Errors
/// [`CannotAnswer::NumberOutsideRange`].
pub fn admit_number(number: NhsNumber, synthetic: bool) -> Result<(), CannotAnswer> {
    let expected = if synthetic { NumberRange::Synthetic } else { NumberRange::EnglandWales };
    if number.range() == expected { Ok(()) } else { Err(CannotAnswer::NumberOutsideRange) }
}

/// Whether a miss may be answered from a copy of this band.
///
/// # Errors
/// [`CannotAnswer::Stale`]: a stale copy never says that somebody is not in it.
pub const fn admit_miss(freshness: Freshness) -> Result<(), CannotAnswer> {
    match freshness {
        Freshness::Fresh | Freshness::Ageing => Ok(()),
        Freshness::Stale | Freshness::Locked => Err(CannotAnswer::Stale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Carrier;

    const T0: i64 = 1_760_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn reading(boot_ms: i64) -> Reading {
        Reading { wall_ms: 0, boot_ms: boot_ms.cast_unsigned(), boot_id: [1; 16] }
    }

    fn clock() -> TrustedClock {
        let mut clock = TrustedClock::default();
        clock.observe(T0, Carrier::Live, reading(0));
        clock
    }

    fn state(policy: &Policy) -> CopyState<'_> {
        CopyState { as_at_ms: Some(T0), verified: true, barred: None, lease_until_ms: T0 + 1000 * HOUR, policy }
    }

    #[test]
    fn bands_decide() {
        let policy = Policy::default();
        let at = |hours: i64| admit(&state(&policy), &clock(), reading(hours * HOUR)).map(|(_, band)| band);
        assert_eq!(at(0), Ok(Freshness::Fresh));
        assert_eq!(at(5), Ok(Freshness::Ageing));
        assert_eq!(at(25), Ok(Freshness::Stale));
        assert_eq!(at(73), Err(CannotAnswer::Stale));
        assert_eq!(admit_miss(Freshness::Ageing), Ok(()));
        assert_eq!(admit_miss(Freshness::Stale), Err(CannotAnswer::Stale));
    }

    #[test]
    fn every_doubt_wins_over_an_answer() {
        let policy = Policy::default();
        let good = state(&policy);
        let ask = |state: CopyState<'_>| admit(&state, &clock(), reading(0)).err();
        assert_eq!(ask(good), None);
        assert_eq!(ask(CopyState { barred: Some(CannotAnswer::Revoked), ..good }), Some(CannotAnswer::Revoked));
        assert_eq!(ask(CopyState { as_at_ms: None, ..good }), Some(CannotAnswer::NeverSynced));
        assert_eq!(ask(CopyState { verified: false, ..good }), Some(CannotAnswer::IntegrityFailure));
        assert_eq!(ask(CopyState { lease_until_ms: T0, ..good }), Some(CannotAnswer::LeaseExpired));
        let rebooted = Reading { wall_ms: 5, boot_ms: 0, boot_id: [2; 16] };
        assert_eq!(admit(&good, &clock(), rebooted).err(), Some(CannotAnswer::AgeUnknown));
    }

    #[test]
    fn codes_fit_their_field() {
        for reason in [CannotAnswer::AuditCannotBeWritten, CannotAnswer::NumberOutsideRange] {
            assert!(crate::text::Text::<24>::new(reason.code()).is_ok());
        }
    }
}
