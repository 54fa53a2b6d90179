//! What a site's signed policy may set, and the freshness bands that follow from it.
//! It must not be changed by the person who holds the device: it travels only inside a signed grant.

use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::clock::ClockRule;
use crate::seal::MemoryHard;

/// Whether showing the details notifies the child's authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccessMode {
    /// B0107: unscheduled care; the authority is told. The default where nothing else is signed.
    Unscheduled,
    /// B0170: scheduled care; recorded, nobody is told.
    Silent,
}

impl AccessMode {
    /// What holds where site and badge differ: silent only if both say so.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            // R78
            (Self::Silent, Self::Silent) => Self::Silent,
            (Self::Unscheduled, _) | (_, Self::Unscheduled) => Self::Unscheduled,
        }
    }

    /// The national activity code.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unscheduled => "B0107",
            Self::Silent => "B0170",
        }
    }
}

/// The site's policy. All times in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Whether a reveal notifies.
    pub access_mode: AccessMode,
    /// Below this age a copy is fresh.
    pub fresh_s: u32,
    /// Below this age a copy is ageing.
    pub ageing_s: u32,
    /// Below this age a copy is stale: it still shows a flag, and cannot answer "not in this copy". Beyond it is locked.
    pub stale_s: u32,
    /// The vault locks itself after this long without use.
    pub idle_lock_s: u32,
    /// How long after a look-up its details may be revealed.
    pub reveal_s: u32,
    /// How often the agent asks for a new grant.
    pub grant_refresh_s: u32,
    /// The price of one guess at a practitioner's passphrase.
    pub passphrase_cost: MemoryHard,
    /// How many look-ups a practitioner may make at once on one device.
    pub look_up_burst: u16,
    /// Seconds until one more may be made.
    pub look_up_refill_s: u32,
    /// How many look-ups a break-glass allows beyond the limit; zero: there is no break-glass at this site.
    pub break_glass_look_ups: u16,
    /// For how long a break-glass is good.
    pub break_glass_s: u32,
    /// What the device may believe about the time after a restart without a link.
    pub clock_after_restart: ClockRule,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            access_mode: AccessMode::Unscheduled,
            fresh_s: 4 * 3600,
            ageing_s: 24 * 3600,
            stale_s: 72 * 3600,
            idle_lock_s: 15 * 60,
            reveal_s: 10 * 60,
            grant_refresh_s: 3600,
            passphrase_cost: MemoryHard::DEFAULT,
            look_up_burst: 30,
            look_up_refill_s: 60,
            break_glass_look_ups: 0,
            break_glass_s: 15 * 60,
            clock_after_restart: ClockRule::Refuse,
        }
    }
}

/// How old a copy is, in the bands of the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    /// Positive and negative answers.
    Fresh,
    /// Positive and negative answers, with a warning.
    Ageing,
    /// Positive answers with their age; negatives cannot be answered.
    Stale,
    /// No answer.
    Locked,
}

impl Policy {
    /// Checks that the bands are in order and the passphrase price is between floor and ceiling.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::BelowFloor`], [`Refusal::TooLarge`].
    pub fn check(&self, synthetic: bool) -> Result<(), Refusal> {
        self.passphrase_cost.check(synthetic)?;
        let ordered = self.fresh_s <= self.ageing_s && self.ageing_s <= self.stale_s; // R73
        let limited = self.look_up_burst > 0 && self.look_up_refill_s > 0; // R77
        let glass = self.break_glass_look_ups == 0 || self.break_glass_s > 0;
        let sane = ordered && limited && glass && self.idle_lock_s > 0 && self.reveal_s > 0;
        if sane { Ok(()) } else { Err(Refusal::Malformed) }
    }

    /// The band of a copy of this age.
    #[must_use]
    pub fn freshness(&self, age_s: i64) -> Freshness {
        if age_s < i64::from(self.fresh_s) {
            Freshness::Fresh
        } else if age_s < i64::from(self.ageing_s) {
            Freshness::Ageing
        } else if age_s < i64::from(self.stale_s) {
            Freshness::Stale
        } else {
            Freshness::Locked
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bands_are_half_open() {
        let policy = Policy::default();
        let hour = 3600;
        assert_eq!(policy.freshness(4 * hour - 1), Freshness::Fresh);
        assert_eq!(policy.freshness(4 * hour), Freshness::Ageing);
        assert_eq!(policy.freshness(24 * hour), Freshness::Stale);
        assert_eq!(policy.freshness(72 * hour), Freshness::Locked);
        assert_eq!(policy.check(false), Ok(()));
        assert_eq!(Policy { fresh_s: 90_000, ..policy }.check(false), Err(Refusal::Malformed));
        let cheap = Policy { passphrase_cost: MemoryHard::SYNTHETIC, ..policy };
        assert_eq!((cheap.check(false), cheap.check(true)), (Err(Refusal::BelowFloor), Ok(())));
    }
}
