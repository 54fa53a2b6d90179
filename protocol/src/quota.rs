//! How many look-ups a practitioner may make on a device: a bucket that only signed policy fills, and the break-glass.
//! It must not read a clock, nor give anything back for time that was counted before: neither a restart nor a clock that
//! was put back may give more than the bucket and its refill over the time that has really been proved. Only where the
//! trusted clock itself was rebased does a time ahead of it give way, and then nothing that was used comes back with it.

use serde::{Deserialize, Serialize};

use crate::id::UnixMs;
use crate::policy::Policy;
use crate::text::Text;

/// After a break-glass began, the next may begin only this many times its length later...
const REST: u32 = 8;
/// ...but never has to wait for more than a day, where it is shorter than that.
const REST_MAX_S: u32 = 86_400;

/// One practitioner's bucket. The default is a full one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bucket {
    /// Look-ups that have not been refilled yet.
    used: u32,
    /// Trusted time up to which the refill was counted; it only moves forward.
    counted_ms: UnixMs,
}

/// The bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Empty {
    /// Seconds until one look-up is allowed; rounded up, at least one.
    pub wait_s: u32,
}

fn refill_ms(policy: &Policy) -> i64 {
    i64::from(policy.look_up_refill_s.max(1)) * 1000
}

impl Bucket {
    /// The bucket after the refill up to `now_ms`. R160
    #[must_use]
    pub fn at(self, policy: &Policy, now_ms: UnixMs) -> Self {
        let earned = now_ms.saturating_sub(self.counted_ms).max(0) / refill_ms(policy);
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        match self.used.saturating_sub(earned) {
            0 => Self { used: 0, counted_ms: self.counted_ms.max(now_ms) },
            used => Self { used, counted_ms: self.counted_ms.saturating_add(i64::from(earned) * refill_ms(policy)) },
        }
    }

    /// Takes one look-up. The result must be on stable storage before the look-up is answered.
    ///
    /// # Errors
    /// [`Empty`] with the time to wait; nothing was taken.
    pub fn take(self, policy: &Policy, now_ms: UnixMs) -> Result<Self, Empty> {
        let now = self.at(policy, now_ms);
        if now.used < u32::from(policy.look_up_burst) {
            return Ok(Self { used: now.used + 1, ..now });
        }
        Err(Empty { wait_s: now.wait_s(policy, now_ms) })
    }

    fn wait_s(self, policy: &Policy, now_ms: UnixMs) -> u32 {
        let over = i64::from(self.used.saturating_sub(u32::from(policy.look_up_burst)) + 1);
        let due = self.counted_ms.saturating_add(over.saturating_mul(refill_ms(policy)));
        let wait = due.saturating_sub(now_ms).max(1).saturating_add(999) / 1000;
        u32::try_from(wait).unwrap_or(u32::MAX)
    }

    /// How many look-ups are left now.
    #[must_use]
    pub fn left(self, policy: &Policy, now_ms: UnixMs) -> u16 {
        let used = u16::try_from(self.at(policy, now_ms).used).unwrap_or(u16::MAX);
        policy.look_up_burst.saturating_sub(used)
    }

    /// The bucket under a trusted clock that was rebased: the refill is counted from `now_ms` where it had been counted
    /// further, by a time that is let go of. What was used stays used. R167
    #[must_use]
    pub fn rebased(self, now_ms: UnixMs) -> Self {
        Self { counted_ms: self.counted_ms.min(now_ms), ..self }
    }

    /// Whether nothing would be lost if the bucket were forgotten.
    #[must_use]
    pub fn is_full(self, policy: &Policy, now_ms: UnixMs) -> bool {
        self.counted_ms <= now_ms && self.at(policy, now_ms).used == 0
    }
}

/// One practitioner's break-glass: the last one, over or not. The default: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Glass {
    began_ms: UnixMs,
    until_ms: UnixMs,
    left: u16,
    reason: Text<64>,
}

impl Default for Glass {
    fn default() -> Self {
        Self { began_ms: 0, until_ms: 0, left: 0, reason: Text::EMPTY }
    }
}

/// Why the glass cannot be broken now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlassRefused {
    /// Signed policy has no break-glass at this site.
    NotAllowed,
    /// It is broken already, or was not long ago.
    TooSoon {
        /// Seconds until it can be broken again.
        wait_s: u32,
    },
}

impl Glass {
    /// Breaks the glass. What is left of an earlier one is not added. R163
    ///
    /// # Errors
    /// [`GlassRefused`].
    pub fn broken(self, policy: &Policy, reason: Text<64>, now_ms: UnixMs) -> Result<Self, GlassRefused> {
        if policy.break_glass_look_ups == 0 {
            return Err(GlassRefused::NotAllowed);
        }
        let length = policy.break_glass_s;
        let rest_s = length.saturating_mul(REST).min(REST_MAX_S).max(length);
        let again_ms = self.began_ms.saturating_add(i64::from(rest_s) * 1000).max(self.until_ms);
        if self.began_ms > 0 && now_ms < again_ms {
            let wait_s = u32::try_from(again_ms.saturating_sub(now_ms).saturating_add(999) / 1000).unwrap_or(u32::MAX);
            return Err(GlassRefused::TooSoon { wait_s });
        }
        let until_ms = now_ms.saturating_add(i64::from(length) * 1000);
        Ok(Self { began_ms: now_ms, until_ms, left: policy.break_glass_look_ups, reason })
    }

    /// Whether it is in force: within its time, and policy still knows it. A clock before its beginning counts as over.
    #[must_use]
    pub const fn is_in_force(&self, policy: &Policy, now_ms: UnixMs) -> bool {
        policy.break_glass_look_ups > 0 && self.began_ms <= now_ms && now_ms < self.until_ms
    }

    /// Takes one of its look-ups; `None` when it is not in force or none is left.
    #[must_use]
    pub const fn take(self, policy: &Policy, now_ms: UnixMs) -> Option<Self> {
        // R164
        if self.is_in_force(policy, now_ms) && self.left > 0 {
            Some(Self { left: self.left - 1, ..self })
        } else {
            None
        }
    }

    /// The same under a trusted clock that was rebased: one that began ahead of `now_ms`, by a time that is let go of, is
    /// over, and the rest until the next is counted from now. R167
    #[must_use]
    pub fn rebased(self, now_ms: UnixMs) -> Self {
        let ahead = self.began_ms > now_ms;
        if ahead { Self { began_ms: now_ms, until_ms: now_ms, ..self } } else { self }
    }

    /// Whether nothing would be lost if it were forgotten.
    #[must_use]
    pub const fn is_forgotten(&self, now_ms: UnixMs) -> bool {
        let rest_ms = REST_MAX_S as i64 * 1000;
        self.began_ms == 0 || (now_ms >= self.until_ms && now_ms >= self.began_ms.saturating_add(rest_ms))
    }

    /// Look-ups left of it.
    #[must_use]
    pub const fn left(&self) -> u16 {
        self.left
    }

    /// Its end.
    #[must_use]
    pub const fn until_ms(&self) -> UnixMs {
        self.until_ms
    }

    /// Why, in the practitioner's words.
    #[must_use]
    pub const fn reason(&self) -> Text<64> {
        self.reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: i64 = 1_760_000_000_000;

    fn policy(burst: u16, refill_s: u32) -> Policy {
        Policy { look_up_burst: burst, look_up_refill_s: refill_s, ..Policy::default() }
    }

    #[test]
    fn a_burst_then_one_for_each_refill() {
        let policy = policy(3, 60);
        let mut bucket = Bucket::default();
        for left in [2, 1, 0] {
            bucket = bucket.take(&policy, T0).unwrap();
            assert_eq!(bucket.left(&policy, T0), left);
        }
        assert_eq!(bucket.take(&policy, T0), Err(Empty { wait_s: 60 }));
        assert_eq!(bucket.take(&policy, T0 + 59_001), Err(Empty { wait_s: 1 }));
        let bucket = bucket.take(&policy, T0 + 60_000).unwrap();
        assert_eq!(bucket.take(&policy, T0 + 119_000), Err(Empty { wait_s: 1 }));
        assert!(!bucket.is_full(&policy, T0 + 239_999) && bucket.is_full(&policy, T0 + 240_000));
        // A policy that allows less counts what was used before.
        let less = Policy { look_up_burst: 1, ..policy };
        assert_eq!(bucket.take(&less, T0 + 60_000), Err(Empty { wait_s: 180 }));
    }

    #[test]
    fn time_put_back_gives_nothing() {
        let policy = policy(1, 60);
        let bucket = Bucket::default().take(&policy, T0).unwrap();
        assert!(bucket.take(&policy, T0 - 1_000_000).is_err());
        assert!(bucket.at(&policy, T0 - 1_000_000).take(&policy, T0 + 59_999).is_err());
    }

    const YEAR: i64 = 365 * 86_400_000;

    #[test]
    fn a_rebased_clock_gives_nothing_back_and_locks_nobody_out() {
        let policy = policy(2, 60);
        let ahead = T0 + 10 * YEAR;
        let bucket = Bucket::default().take(&policy, ahead).and_then(|bucket| bucket.take(&policy, ahead)).unwrap();
        assert!(bucket.take(&policy, T0 + YEAR).is_err(), "for ten years");
        let bucket = bucket.rebased(T0);
        assert_eq!((bucket.left(&policy, T0), bucket.take(&policy, T0)), (0, Err(Empty { wait_s: 60 })));
        assert_eq!((bucket.left(&policy, T0 + 60_000), bucket.left(&policy, T0 + 120_000)), (1, 2));
        // A time that is not ahead stays: what has come back since is not lost.
        assert_eq!(bucket.rebased(T0 + 60_000), bucket);
        assert_eq!(Bucket::default().rebased(T0), Bucket::default());
    }

    #[test]
    fn a_glass_broken_ahead_of_a_rebased_clock_is_over_and_rests_from_now() {
        let open = Policy { break_glass_look_ups: 2, break_glass_s: 900, ..Policy::default() };
        let glass = Glass::default().broken(&open, Text::lossy("why"), T0 + 10 * YEAR).unwrap();
        let again = |glass: Glass, at: i64| glass.broken(&open, Text::lossy("again"), at).map(|glass| glass.left());
        assert!(again(glass, T0 + YEAR).is_err(), "for ten years");
        let rebased = glass.rebased(T0);
        assert!(!rebased.is_in_force(&open, T0) && rebased.take(&open, T0).is_none());
        assert_eq!(again(rebased, T0), Err(GlassRefused::TooSoon { wait_s: 7200 }));
        assert_eq!(again(rebased, T0 + 7_200_000), Ok(2));
        // One that began before stays in force to its end.
        let glass = Glass::default().broken(&open, Text::lossy("why"), T0).unwrap();
        assert_eq!(glass.rebased(T0 + 1), glass);
        assert!(glass.rebased(T0 + 1).is_in_force(&open, T0 + 899_999));
        assert_eq!(Glass::default().rebased(T0), Glass::default());
    }

    #[test]
    fn the_glass_does_not_stack() {
        let closed = Policy::default();
        assert_eq!(Glass::default().broken(&closed, Text::lossy("why"), T0), Err(GlassRefused::NotAllowed));
        let open = Policy { break_glass_look_ups: 2, break_glass_s: 900, ..closed };
        let glass = Glass::default().broken(&open, Text::lossy("why"), T0).unwrap();
        assert!(glass.take(&closed, T0).is_none(), "a policy that forbids it ends it");
        assert!(glass.take(&open, T0 - 1).is_none());
        let again = |at: i64| glass.broken(&open, Text::lossy("again"), at);
        assert_eq!(again(T0 + 1000), Err(GlassRefused::TooSoon { wait_s: 7199 }));
        assert_eq!(again(T0 + 7_200_000 - 1), Err(GlassRefused::TooSoon { wait_s: 1 }));
        assert_eq!(again(T0 + 7_200_000).map(|glass| glass.left()), Ok(2));
        let glass = glass.take(&open, T0).and_then(|glass| glass.take(&open, T0)).unwrap();
        assert!(glass.take(&open, T0).is_none() && glass.is_in_force(&open, T0 + 899_999));
        assert!(!glass.is_in_force(&open, T0 + 900_000));
    }

    proptest::proptest! {
        /// Whatever times are claimed, in whatever order: never more than the burst and the refill over the time that
        /// lies between the first and the latest.
        #[test]
        fn never_more_than_burst_and_refill(
            burst in 1u16..20,
            refill_s in 1u32..120,
            times in proptest::collection::vec(0i64..3_600_000, 1..300),
        ) {
            let policy = policy(burst, refill_s);
            let mut bucket = Bucket::default();
            let mut taken = 0i64;
            let (first, mut latest) = (times[0], times[0]);
            for time in times {
                latest = latest.max(time);
                if let Ok(next) = bucket.take(&policy, T0 + time) {
                    bucket = next;
                    taken += 1;
                }
                let earned = (latest - first) / refill_ms(&policy);
                proptest::prop_assert!(taken <= i64::from(burst) + earned, "{taken} of {burst} and {earned}");
            }
        }

        /// A clock that was pushed ahead and is rebased gives the refill of the time up to which it was pushed, once, and
        /// nothing for having been rebased, however often.
        #[test]
        fn a_rebase_gives_nothing(
            burst in 1u16..20,
            pushed in proptest::collection::vec(0i64..3_600_000, 1..40),
            after in proptest::collection::vec((0i64..3_600_000, proptest::bool::ANY), 1..100),
        ) {
            let policy = policy(burst, 60);
            let take = |bucket: &mut Bucket, time: i64| {
                let next = bucket.take(&policy, T0 + time);
                next.map_or(0, |next| { *bucket = next; 1i64 })
            };
            let mut bucket = Bucket::default();
            let used = |bucket: Bucket| i64::from(bucket.used);
            for time in pushed {
                take(&mut bucket, time);
            }
            let before = used(bucket);
            bucket = bucket.rebased(T0);
            proptest::prop_assert_eq!(used(bucket), before);
            let (mut taken, mut latest) = (0, 0);
            for (time, rebase) in after {
                latest = latest.max(time);
                if rebase {
                    // At the time it has by then: a rebase needs a time that is known.
                    bucket = bucket.rebased(T0 + latest);
                }
                taken += take(&mut bucket, time);
                let earned = latest / refill_ms(&policy);
                proptest::prop_assert!(taken <= i64::from(burst) - before + earned);
            }
        }
    }
}
