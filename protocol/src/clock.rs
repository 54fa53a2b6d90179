//! Time that only moves forward: signed server time plus elapsed boot time, never the wall clock alone.
//! It must not read a clock: readings are arguments, and unknown stays unknown.

use serde::{Deserialize, Serialize};

use crate::id::UnixMs;

/// What the device's clocks say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock, which anybody may set.
    pub wall_ms: UnixMs,
    /// Milliseconds since boot, suspend included (`CLOCK_BOOTTIME`).
    pub boot_ms: u64,
    /// Identity of this boot.
    pub boot_id: [u8; 16],
}

/// The device's belief about the present, kept on disk between starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrustedClock {
    /// The latest time ever proved: no estimate is below it.
    floor_ms: UnixMs,
    /// Server time at the anchor reading.
    anchor_ms: UnixMs,
    anchor_boot_ms: u64,
    anchor_boot_id: [u8; 16],
}

/// Whether signed time was just made by the server, or may have been kept by somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// Received from the server itself over its own authenticated connection.
    Live,
    /// From a cache, a mirror or a bundle: true when it was made, but perhaps long ago.
    Stored,
}

impl TrustedClock {
    /// The present, or `None` when it cannot be known.
    ///
    /// Within the boot of the anchor it is the anchor plus elapsed boot time, so setting the wall clock does nothing.
    /// After a reboot it is the wall clock, if that has not fallen below the floor.
    #[must_use]
    pub fn now(&self, reading: Reading) -> Option<UnixMs> {
        if self.floor_ms == 0 {
            return None;
        }
        if reading.boot_id == self.anchor_boot_id && reading.boot_ms >= self.anchor_boot_ms {
            // R47
            let elapsed = i64::try_from(reading.boot_ms - self.anchor_boot_ms).unwrap_or(i64::MAX);
            return Some(self.anchor_ms.saturating_add(elapsed).max(self.floor_ms));
        }
        (reading.wall_ms >= self.floor_ms).then_some(reading.wall_ms)
    }

    /// The latest time ever proved.
    #[must_use]
    pub const fn floor_ms(&self) -> UnixMs {
        self.floor_ms
    }

    /// Takes in a verified signed time.
    ///
    /// A stored object can raise the estimate but never lower it, else replaying an old one would make a copy look
    /// young. A live one may also correct a wall clock that was ahead after a reboot.
    pub fn observe(&mut self, signed_ms: UnixMs, carrier: Carrier, reading: Reading) {
        let known = self.now(reading);
        self.floor_ms = self.floor_ms.max(signed_ms);
        let anchored = reading.boot_id == self.anchor_boot_id && reading.boot_ms >= self.anchor_boot_ms;
        let estimate = match (known, anchored, carrier) {
            (Some(now), true, _) | (Some(now), false, Carrier::Stored) => now.max(signed_ms),
            (None, _, Carrier::Stored) => {
                // Nothing proves how old the object is, so the wall clock may only make it older.
                signed_ms.max(reading.wall_ms)
            }
            (_, _, Carrier::Live) => self.floor_ms,
        };
        // A stored object after a reboot does not anchor: the wall clock could still be told back within this boot.
        if anchored || carrier == Carrier::Live {
            self.anchor_ms = estimate.max(self.floor_ms);
            self.anchor_boot_ms = reading.boot_ms;
            self.anchor_boot_id = reading.boot_id;
        }
    }

    /// Raises the floor to the present estimate, so that a later reboot with a clock set back is noticed.
    /// Only an anchored estimate counts: a wall clock that is ahead must not lock the device for ever.
    pub fn raise_floor(&mut self, reading: Reading) {
        if reading.boot_id == self.anchor_boot_id
            && let Some(now) = self.now(reading)
        {
            self.floor_ms = self.floor_ms.max(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;
    const T0: i64 = 20_000 * DAY;

    fn at(wall_ms: i64, boot_ms: u64, boot: u8) -> Reading {
        Reading { wall_ms, boot_ms, boot_id: [boot; 16] }
    }

    #[test]
    fn unknown_until_something_signed_arrives() {
        assert_eq!(TrustedClock::default().now(at(T0, 5, 1)), None);
    }

    #[test]
    fn wall_clock_does_nothing_within_a_boot() {
        let mut clock = TrustedClock::default();
        clock.observe(T0, Carrier::Live, at(T0 + DAY, 1_000, 1));
        assert_eq!(clock.now(at(0, 61_000, 1)), Some(T0 + 60_000));
        assert_eq!(clock.now(at(T0 + 900 * DAY, 61_000, 1)), Some(T0 + 60_000));
    }

    #[test]
    fn after_a_reboot_a_clock_below_the_floor_is_unknown() {
        let mut clock = TrustedClock::default();
        clock.observe(T0, Carrier::Live, at(T0, 1_000, 1));
        clock.raise_floor(at(T0, 1_000 + 3_600_000, 1));
        assert_eq!(clock.now(at(T0 + 60_000, 5, 2)), None, "an hour had already passed");
        assert_eq!(clock.now(at(T0 + 2 * DAY, 5, 2)), Some(T0 + 2 * DAY));
    }

    #[test]
    fn a_replayed_stored_object_cannot_rejuvenate() {
        let mut clock = TrustedClock::default();
        clock.observe(T0, Carrier::Live, at(T0, 1_000, 1));
        let after_reboot = at(T0 + DAY, 5, 2);
        clock.observe(T0 + 60_000, Carrier::Stored, after_reboot);
        assert_eq!(clock.now(after_reboot), Some(T0 + DAY));
    }

    #[test]
    fn a_live_beat_corrects_a_wall_clock_that_is_ahead() {
        let mut clock = TrustedClock::default();
        clock.observe(T0, Carrier::Live, at(T0, 1_000, 1));
        let ahead = at(T0 + 900 * DAY, 5, 2);
        assert_eq!(clock.now(ahead), Some(T0 + 900 * DAY));
        clock.observe(T0 + DAY, Carrier::Live, ahead);
        assert_eq!(clock.now(ahead), Some(T0 + DAY));
    }

    proptest::proptest! {
        /// Within one boot no sequence of wall-clock settings and replays moves the estimate back.
        #[test]
        fn never_backwards(steps in proptest::collection::vec((0i64..2 * T0, 0u64..100_000, 0i64..DAY, 0u8..3), 1..60)) {
            let mut clock = TrustedClock::default();
            let mut boot_ms = 0;
            let mut highest = 0;
            clock.observe(T0, Carrier::Live, at(T0, 0, 1));
            for (wall, elapsed, signed, what) in steps {
                boot_ms += elapsed;
                let reading = at(wall, boot_ms, 1);
                match what {
                    0 => clock.observe(T0 - DAY + signed, Carrier::Stored, reading),
                    1 => clock.observe(T0 - DAY + signed, Carrier::Live, reading),
                    _ => clock.raise_floor(reading),
                }
                let now = clock.now(reading);
                proptest::prop_assert!(now >= Some(highest));
                highest = now.unwrap_or(highest);
            }
        }
    }
}
