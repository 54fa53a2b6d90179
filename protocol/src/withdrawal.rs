//! Withdrawals: the signed word of the device authority that a device may not answer for now, or must erase.
//! It must not be replaced by a status code: whatever sits between a device and its server could send that.

use serde::{Deserialize, Serialize};

use crate::id::{DeviceId, UnixMs};
use crate::sign::{Kind, Verified};
use crate::trust::{Role, Trust};
use crate::{Refusal, limits};

/// What a withdrawn device must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WithdrawalAction {
    /// Lock and answer nothing until the next grant; keep everything.
    Suspend,
    /// Destroy every key and prove it with an erasure receipt.
    Erase,
}

/// The payload of a signed withdrawal: sent in place of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// The device.
    pub device: DeviceId,
    /// Counts together with the grants of this device, so that neither can be replayed after the other.
    pub number: u64,
    /// What the device must do.
    pub action: WithdrawalAction,
    /// When it was made.
    pub issued_ms: UnixMs,
}

impl Withdrawal {
    /// Whether a reply to the question for a grant claims to be a withdrawal. Proves nothing.
    #[must_use]
    pub fn is_claimed_by(bytes: &[u8]) -> bool {
        bytes.first() == Some(&(Kind::Withdrawal as u8)) // R183
    }

    /// Verifies a withdrawal of this device; `last` is the highest number of a grant or withdrawal accepted before.
    ///
    /// # Errors
    /// [`Refusal`]: `WrongDevice`, `Rollback` for a number not above a later grant's.
    pub fn verify(bytes: &[u8], device: &DeviceId, trust: &Trust, last: u64) -> Result<Verified<Self>, Refusal> {
        // R180
        let withdrawal: Verified<Self> =
            trust.verify(Role::DeviceAuthority, Kind::Withdrawal, bytes, limits::BEAT_BYTES_MAX)?;
        if withdrawal.device != *device {
            return Err(Refusal::WrongDevice); // R181
        }
        if withdrawal.number < last {
            return Err(Refusal::Rollback); // R182
        }
        Ok(withdrawal)
    }
}
