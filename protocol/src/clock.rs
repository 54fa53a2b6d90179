//! Time that only moves forward: signed server time plus elapsed boot time, never the wall clock alone.
//! It must not read a clock: readings are arguments, and unknown stays unknown.

use serde::{Deserialize, Serialize};

use crate::id::UnixMs;

/// What a device may believe about the time after it was switched off and on without hearing from its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockRule {
    /// Nothing: the age of the copy is unknown until signed time arrives. The default where nothing else is signed.
    #[default]
    Refuse,
    /// The wall clock, where it has not fallen below the floor of signed time. For sites whose devices never have a
    /// network; whoever can set that clock while the device is off can make the copy look younger by that time.
    Believe,
}

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
    /// What signed policy lets it believe after a restart.
    rule: ClockRule,
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
    /// Sets what signed policy allows after a restart.
    pub const fn set_rule(&mut self, rule: ClockRule) {
        self.rule = rule;
    }

    /// The present, or `None` when it cannot be known.
    ///
    /// Within the boot of the anchor it is the anchor plus elapsed boot time, so setting the wall clock does nothing.
    /// After a restart nothing tells for how long the device was off: whoever sets its clock can choose. So the present
    /// is unknown until the server itself has spoken, unless signed policy lets the wall clock be believed.
    #[must_use]
    pub fn now(&self, reading: Reading) -> Option<UnixMs> {
        if self.floor_ms == 0 {
            return None;
        }
        if self.is_anchored(reading) {
            // R47
            let elapsed = i64::try_from(reading.boot_ms - self.anchor_boot_ms).unwrap_or(i64::MAX);
            return Some(self.anchor_ms.saturating_add(elapsed).max(self.floor_ms));
        }
        match self.rule {
            ClockRule::Refuse => None,
            ClockRule::Believe => (reading.wall_ms >= self.floor_ms).then_some(reading.wall_ms),
        }
    }

    /// The present by which what comes by this carrier is judged. A wall clock that is merely believed refuses nothing that
    /// the server itself says: one that is ahead would else refuse the very word that corrects it.
    #[must_use]
    pub fn now_for(&self, carrier: Carrier, reading: Reading) -> Option<UnixMs> {
        // R223
        self.now(reading).filter(|_| carrier == Carrier::Stored || self.is_anchored(reading))
    }

    /// Whether elapsed boot time leads from the anchor to this reading. A reading before the anchor is of a machine whose
    /// memory was put back to an earlier state: it proves nothing.
    fn is_anchored(&self, reading: Reading) -> bool {
        reading.boot_id == self.anchor_boot_id && reading.boot_ms >= self.anchor_boot_ms
    }

    /// The latest time ever proved.
    #[must_use]
    pub const fn floor_ms(&self) -> UnixMs {
        self.floor_ms
    }

    /// Takes in a verified signed time. For a live one `reading` is of the moment at which it was asked for, so that a
    /// reply that was held back on the way does not turn the clock back.
    ///
    /// A stored object can raise the estimate but never lower it, else replaying an old one would make a copy look
    /// young; and it does not anchor, since it may have been made long ago. A live one anchors, and may also correct a
    /// wall clock that was believed and was ahead.
    pub fn observe(&mut self, signed_ms: UnixMs, carrier: Carrier, reading: Reading) {
        let known = self.now(reading).filter(|_| self.is_anchored(reading));
        self.floor_ms = self.floor_ms.max(signed_ms);
        let estimate = match (known, carrier) {
            // Nothing new: the anchor stays where it proved something.
            (Some(now), _) if signed_ms <= now => return,
            (Some(_), _) => signed_ms,
            (None, Carrier::Stored) => return,
            (None, Carrier::Live) if reading.boot_id == self.anchor_boot_id => {
                // Asked for before the anchor's own question: it may move the anchor on, and never back.
                let later = i64::try_from(self.anchor_boot_ms.saturating_sub(reading.boot_ms)).unwrap_or(i64::MAX);
                self.anchor_ms = self.anchor_ms.max(signed_ms.saturating_add(later));
                return;
            }
            (None, Carrier::Live) => self.floor_ms,
        };
        self.anchor_ms = estimate.max(self.floor_ms);
        self.anchor_boot_ms = reading.boot_ms;
        self.anchor_boot_id = reading.boot_id;
    }

    /// Starts again from a time that keys prove which are still trusted: a key that a new root withdraws may have signed a
    /// time far ahead, which would hold for ever. Until the server itself speaks the present is unknown. Does nothing
    /// where the floor is not ahead of what is proved.
    pub const fn rebase(&mut self, proved_ms: UnixMs) {
        if proved_ms < self.floor_ms {
            // R187: no reading is of the boot that is written here, so nothing is anchored.
            let rule = self.rule;
            *self = Self { floor_ms: proved_ms, anchor_ms: 0, anchor_boot_ms: u64::MAX, anchor_boot_id: [0; 16], rule };
        }
    }

    /// The reading of boot time and the signed time that this reading is counted from; `None` where nothing anchors it.
    #[must_use]
    pub fn anchor(&self, reading: Reading) -> Option<(u64, UnixMs)> {
        self.is_anchored(reading).then_some((self.anchor_boot_ms, self.anchor_ms))
    }

    /// Raises the floor to the present estimate, so that a later reboot with a clock set back is noticed.
    /// Only an anchored estimate counts: a wall clock that is ahead must not lock the device for ever.
    pub fn raise_floor(&mut self, reading: Reading) {
        if self.is_anchored(reading)
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

    fn believing() -> TrustedClock {
        let mut clock = TrustedClock::default();
        clock.set_rule(ClockRule::Believe);
        clock.observe(T0, Carrier::Live, at(T0, 1_000, 1));
        clock
    }

    #[test]
    fn after_a_restart_nothing_is_known_until_the_server_speaks() {
        let mut clock = TrustedClock::default();
        clock.observe(T0, Carrier::Live, at(T0, 1_000, 1));
        for wall in [0, T0 - 1, T0, T0 + DAY, i64::MAX] {
            assert_eq!(clock.now(at(wall, 5, 2)), None);
        }
        clock.observe(T0 + DAY, Carrier::Stored, at(T0 + DAY, 5, 2));
        assert_eq!(clock.now(at(T0 + DAY, 6, 2)), None, "a stored object does not say when it was handed over");
        clock.observe(T0 + 2 * DAY, Carrier::Live, at(0, 7, 2));
        assert_eq!(clock.now(at(0, 60_007, 2)), Some(T0 + 2 * DAY + 60_000));
    }

    #[test]
    fn a_reply_that_was_held_back_does_not_turn_time_back() {
        let mut clock = TrustedClock::default();
        // Asked at boot time 1,000, stored three hours later.
        clock.observe(T0, Carrier::Live, at(0, 1_000, 1));
        assert_eq!(clock.now(at(0, 1_000 + 3 * 3_600_000, 1)), Some(T0 + 3 * 3_600_000));
        // A question asked before, whose answer comes after, moves the anchor on or not at all.
        clock.observe(T0 + 5_000, Carrier::Live, at(0, 900, 1));
        assert_eq!(clock.now(at(0, 1_000, 1)), Some(T0 + 5_100));
        clock.observe(T0 - 5_000, Carrier::Live, at(0, 900, 1));
        assert_eq!(clock.now(at(0, 1_000, 1)), Some(T0 + 5_100));
    }

    #[test]
    fn memory_put_back_to_an_earlier_state_knows_nothing() {
        let mut clock = TrustedClock::default();
        clock.observe(T0, Carrier::Live, at(T0, 1_000, 1));
        assert_eq!(clock.now(at(T0, 999, 1)), None);
    }

    #[test]
    fn after_a_reboot_a_clock_below_the_floor_is_unknown_whatever_the_policy() {
        let mut clock = believing();
        clock.raise_floor(at(T0, 1_000 + 3_600_000, 1));
        assert_eq!(clock.now(at(T0 + 60_000, 5, 2)), None, "an hour had already passed");
        assert_eq!(clock.now(at(T0 + 2 * DAY, 5, 2)), Some(T0 + 2 * DAY));
    }

    #[test]
    fn a_replayed_stored_object_cannot_rejuvenate() {
        let mut clock = believing();
        let after_reboot = at(T0 + DAY, 5, 2);
        clock.observe(T0 + 60_000, Carrier::Stored, after_reboot);
        assert_eq!(clock.now(after_reboot), Some(T0 + DAY));
    }

    #[test]
    fn a_live_beat_corrects_a_wall_clock_that_is_ahead() {
        let mut clock = believing();
        let ahead = at(T0 + 900 * DAY, 5, 2);
        assert_eq!(clock.now(ahead), Some(T0 + 900 * DAY));
        clock.observe(T0 + DAY, Carrier::Live, ahead);
        assert_eq!(clock.now(ahead), Some(T0 + DAY));
    }

    /// It locks what it must and decides nothing that cannot be undone: no anchor, no floor, no refusal of the server.
    #[test]
    fn a_believed_wall_clock_that_is_ahead_proves_nothing() {
        let mut clock = believing();
        let ahead = at(T0 + 900 * DAY, 5, 2);
        assert_eq!(clock.now(ahead), Some(T0 + 900 * DAY), "by this the lease is over and nothing is answered");
        assert_eq!(clock.now_for(Carrier::Stored, ahead), Some(T0 + 900 * DAY), "and a bundle is judged");
        assert_eq!(clock.now_for(Carrier::Live, ahead), None, "the server itself is not");
        assert_eq!(clock.anchor(ahead), None);
        clock.raise_floor(ahead);
        assert_eq!(clock.floor_ms(), T0, "a clock put right again is believed again");
        assert_eq!(clock.now(at(T0 + DAY, 6, 2)), Some(T0 + DAY));
        clock.observe(T0 + DAY, Carrier::Live, ahead);
        assert_eq!(clock.now_for(Carrier::Live, at(0, 65, 2)), Some(T0 + DAY + 60));
    }

    #[test]
    fn a_time_far_ahead_goes_with_the_key_that_signed_it() {
        let mut clock = believing();
        clock.observe(T0 + 4000 * DAY, Carrier::Live, at(T0, 2_000, 1));
        assert_eq!(clock.now(at(T0, 2_000, 1)), Some(T0 + 4000 * DAY));
        clock.rebase(T0 + DAY);
        assert_eq!(clock.floor_ms(), T0 + DAY);
        assert_eq!(clock.now(at(T0, 3_000, 1)), None, "nothing is anchored until the server speaks");
        assert_eq!(
            clock.now(at(T0 + 2 * DAY, 3_000, 1)),
            Some(T0 + 2 * DAY),
            "what policy believes it goes on believing"
        );
        clock.observe(T0 + 2 * DAY, Carrier::Live, at(0, 4_000, 1));
        assert_eq!(clock.now(at(0, 5_000, 1)), Some(T0 + 2 * DAY + 1_000));
        // A floor that is proved anyway stays, and so does the anchor.
        clock.rebase(T0 + 3 * DAY);
        assert_eq!(clock.now(at(0, 5_000, 1)), Some(T0 + 2 * DAY + 1_000));
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
