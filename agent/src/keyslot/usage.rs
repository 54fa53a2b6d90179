//! What a practitioner used of the limits on this device, and what could not be recorded yet.
//! It must not hold anything about a person who was looked up.

use cpis_protocol::digest::Hash;
use cpis_protocol::id::{PractitionerId, UnixMs};
use cpis_protocol::quota::{Bucket, Glass};
use cpis_protocol::text::Text;
use serde::{Deserialize, Serialize};

use super::{Contents, KeyslotError};

/// Practitioners whose use is remembered, at most.
pub const USAGE_MAX: usize = 32;

/// Answers that were given under break-glass while nothing could be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unrecorded {
    /// How many; zero: none.
    pub count: u16,
    /// When the first of them was given.
    pub first_ms: UnixMs,
    /// Why the glass was broken.
    pub reason: Text<64>,
}

/// An attempt to tell of them in the audit chain: stored before the link, so that a crash neither loses nor doubles it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telling {
    /// The position of the link.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// How many answers it tells of.
    pub count: u16,
}

/// One practitioner's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Who.
    pub practitioner: PractitionerId,
    /// Look-ups made.
    pub bucket: Bucket,
    /// The last break-glass.
    pub glass: Glass,
    /// When a refused look-up was last recorded.
    pub refusal_told_ms: UnixMs,
    /// What the audit chain does not tell yet.
    pub unrecorded: Unrecorded,
    /// The attempt to tell it.
    pub telling: Option<Telling>,
    /// Trusted time that was let go of since: times here may be ahead of the present. Zero: none was.
    pub let_go_ms: UnixMs,
}

impl Usage {
    /// Nothing used yet.
    #[must_use]
    pub fn of(practitioner: PractitionerId) -> Self {
        Self {
            practitioner,
            bucket: Bucket::default(),
            glass: Glass::default(),
            refusal_told_ms: 0,
            unrecorded: Unrecorded { count: 0, first_ms: 0, reason: Text::EMPTY },
            telling: None,
            let_go_ms: 0,
        }
    }

    /// The use by a clock that was rebased and knows the time again: no time in it is ahead. Whatever else the clock does
    /// changes nothing here; what is not below the time that was let go of cannot be by the rebased clock.
    #[must_use]
    pub fn settled(self, now_ms: UnixMs) -> Self {
        if now_ms >= self.let_go_ms {
            return self;
        }
        Self {
            bucket: self.bucket.rebased(now_ms),
            glass: self.glass.rebased(now_ms),
            refusal_told_ms: self.refusal_told_ms.min(now_ms),
            let_go_ms: 0,
            ..self
        }
    }
}

impl Contents {
    /// A practitioner's use.
    #[must_use]
    pub fn usage(&self, practitioner: PractitionerId) -> Usage {
        self.usage.iter().find(|usage| usage.practitioner == practitioner).copied().unwrap_or(Usage::of(practitioner))
    }

    /// Stores a practitioner's use. For a new one an entry that `forget` allows gives way where there is no room.
    ///
    /// # Errors
    /// [`KeyslotError::Full`].
    pub fn set_usage(&mut self, usage: Usage, forget: impl Fn(&Usage) -> bool) -> Result<(), KeyslotError> {
        if let Some(known) = self.usage.iter_mut().find(|known| known.practitioner == usage.practitioner) {
            *known = usage;
            return Ok(());
        }
        if self.usage.len() >= USAGE_MAX {
            let at = self.usage.iter().position(forget).ok_or(KeyslotError::Full)?;
            self.usage.swap_remove(at);
        }
        self.usage.push(usage);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cpis_protocol::policy::Policy;

    use super::*;

    const T0: i64 = 1_760_000_000_000;
    const AHEAD: i64 = T0 + 1_000_000_000;

    fn used_up() -> Usage {
        let policy = Policy { look_up_burst: 1, break_glass_look_ups: 1, break_glass_s: 60, ..Policy::default() };
        Usage {
            bucket: Bucket::default().take(&policy, AHEAD).unwrap(),
            glass: Glass::default().broken(&policy, Text::EMPTY, AHEAD).unwrap(),
            refusal_told_ms: AHEAD,
            ..Usage::of(Text::lossy("P1"))
        }
    }

    #[test]
    fn only_a_rebase_lets_a_time_ahead_give_way_and_once() {
        let used = used_up();
        for now_ms in [0, T0, AHEAD - 1, AHEAD, AHEAD + 1] {
            assert_eq!(used.settled(now_ms), used, "a clock that was merely set");
        }
        let rebased = Usage { let_go_ms: AHEAD, ..used };
        // Not before the clock is back: a look-up may come in between.
        assert_eq!(rebased.settled(AHEAD), rebased);
        let settled = rebased.settled(T0);
        assert_eq!((settled.bucket, settled.glass), (used.bucket.rebased(T0), used.glass.rebased(T0)));
        assert_eq!((settled.refusal_told_ms, settled.let_go_ms), (T0, 0));
        assert_eq!(settled.settled(T0 - 1), settled, "once");
        assert_eq!((settled.unrecorded, settled.telling), (used.unrecorded, used.telling));
    }
}
