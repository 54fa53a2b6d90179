//! When a lease is over so surely that what cannot be undone may be done.
//! It must not take a time that leapt for one that passed, nor read a clock.

use cpis_protocol::clock::{Reading, TrustedClock};
use cpis_protocol::id::UnixMs;

/// By how much, in all, honest beats may move the estimate on beside elapsed time: one may be a minute old.
const CORRECTION_MS: i64 = 60_000;
/// How long a device waits where time leapt over the end of its lease.
const GRACE_MS: u64 = 24 * 3_600_000;

/// What this process has seen of time since it began.
///
/// A lease's end is reached for sure by elapsed boot time, counted from the latest time that the *earliest* estimate
/// allows; or, where time leapt over it, after a day of elapsed time. A wall clock, a forged beat or a server whose clock
/// is ahead lock a device at once, and must not make it destroy its keys at once: neither by one leap beyond the end, nor
/// by one to just before it, nor by many small ones.
#[derive(Debug, Default)]
pub(super) struct LeaseWatch {
    /// Boot time and trusted time where trusted time was least ahead of boot time: later leaps forward do not count.
    slowest: Option<(u64, UnixMs)>,
    /// When, by boot time, the end was first seen to have been passed.
    passed_boot_ms: Option<u64>,
}

impl LeaseWatch {
    /// Whether keys may be destroyed for the end of the lease. To be called often: what it has not seen it cannot judge.
    pub(super) fn is_surely_over(&mut self, clock: &TrustedClock, reading: Reading, end_ms: UnixMs) -> bool {
        // Without an anchor the time is unknown, or a wall clock that is merely believed.
        let (Some(anchor), Some(now_ms)) = (clock.anchor(reading), clock.now(reading)) else { return false };
        for seen in [anchor, (reading.boot_ms, now_ms)] {
            if self.slowest.is_none_or(|slowest| ahead_ms(seen) < ahead_ms(slowest)) {
                self.slowest = Some(seen);
            }
        }
        if now_ms < end_ms {
            self.passed_boot_ms = None;
            return false;
        }
        let passed_boot_ms = *self.passed_boot_ms.get_or_insert(reading.boot_ms);
        let by_elapsed_time = self.slowest.is_some_and(|slowest| {
            // What was first seen beyond the end was not seen to reach it.
            let latest_ms = ahead_ms(slowest).saturating_add(signed(reading.boot_ms)).saturating_add(CORRECTION_MS);
            slowest.1 < end_ms && latest_ms >= end_ms
        });
        by_elapsed_time || reading.boot_ms.saturating_sub(passed_boot_ms) >= GRACE_MS
    }
}

/// By how much trusted time was ahead of boot time.
fn ahead_ms((boot_ms, at_ms): (u64, UnixMs)) -> i64 {
    at_ms.saturating_sub(signed(boot_ms))
}

fn signed(boot_ms: u64) -> i64 {
    i64::try_from(boot_ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use cpis_protocol::clock::{Carrier, ClockRule};

    use super::*;

    const HOUR: u64 = 3_600_000;
    const T0: i64 = 20_000 * 86_400_000;

    /// A device that heard from its server at T0, an hour after it was switched on.
    struct Device {
        clock: TrustedClock,
        watch: LeaseWatch,
    }

    /// The end of the lease, three days from then.
    const END: i64 = T0 + 72 * HOUR as i64;

    fn at(boot_ms: u64) -> Reading {
        Reading { wall_ms: 0, boot_ms: HOUR + boot_ms, boot_id: [1; 16] }
    }

    impl Device {
        fn new() -> Self {
            let mut clock = TrustedClock::default();
            clock.observe(T0, Carrier::Live, at(0));
            Self { clock, watch: LeaseWatch::default() }
        }

        fn hears(&mut self, signed_ms: i64, carrier: Carrier, boot_ms: u64) {
            self.clock.observe(signed_ms, carrier, at(boot_ms));
        }

        fn sure(&mut self, boot_ms: u64) -> bool {
            self.watch.is_surely_over(&self.clock, at(boot_ms), END)
        }

        fn is_over(&self, boot_ms: u64) -> bool {
            self.clock.now(at(boot_ms)).is_some_and(|now_ms| now_ms >= END)
        }
    }

    #[test]
    fn reached_by_elapsed_boot_time() {
        let mut device = Device::new();
        assert!(!device.sure(0) && !device.sure(72 * HOUR - 1));
        assert!(device.sure(72 * HOUR));
        // Also by a process that began after the end: the anchor on the disk is from before it.
        assert!(Device::new().sure(72 * HOUR));
        assert!(Device::new().sure(900 * HOUR));
    }

    #[test]
    fn a_leap_beyond_the_end_destroys_after_a_day_only() {
        let mut device = Device::new();
        assert!(!device.sure(HOUR));
        device.hears(END + 1, Carrier::Live, 2 * HOUR);
        assert!(device.is_over(2 * HOUR), "it locks at once");
        assert!(!device.sure(2 * HOUR) && !device.sure(26 * HOUR - 1));
        assert!(device.sure(26 * HOUR), "a day of it");
        // A process that finds the leap done.
        let mut device = Device::new();
        device.hears(END + 1, Carrier::Live, 2 * HOUR);
        assert!(!device.sure(2 * HOUR) && !device.sure(26 * HOUR - 1) && device.sure(26 * HOUR));
    }

    /// A forged beat, live or in a bundle, dated to just before the end, then a moment of waiting.
    #[test]
    fn a_leap_to_just_before_the_end_destroys_after_a_day_only() {
        for carrier in [Carrier::Live, Carrier::Stored] {
            let mut device = Device::new();
            assert!(!device.sure(HOUR));
            device.hears(END - 1_000, carrier, 2 * HOUR);
            assert!(!device.sure(2 * HOUR) && !device.sure(2 * HOUR + 999));
            assert!(device.is_over(2 * HOUR + 1_000));
            assert!(!device.sure(2 * HOUR + 1_000) && !device.sure(26 * HOUR), "{carrier:?}");
            assert!(device.sure(26 * HOUR + 1_000));
        }
    }

    #[test]
    fn many_small_leaps_are_a_leap() {
        let mut device = Device::new();
        let mut boot_ms = 0;
        while !device.is_over(boot_ms) {
            assert!(!device.sure(boot_ms));
            boot_ms += 1_000;
            device.hears(T0 + 60 * signed(boot_ms), Carrier::Live, boot_ms);
        }
        assert!(boot_ms < 2 * HOUR, "three days in {boot_ms} ms");
        assert!(!device.sure(boot_ms) && !device.sure(boot_ms + 24 * HOUR - 1));
        assert!(device.sure(boot_ms + 24 * HOUR));
    }

    /// Where the grace is longer than what is left of the lease, the lease's own end counts.
    #[test]
    fn a_leap_prolongs_nothing() {
        let mut device = Device::new();
        assert!(!device.sure(0));
        device.hears(END, Carrier::Live, 60 * HOUR);
        assert!(!device.sure(60 * HOUR) && !device.sure(72 * HOUR - 60_001));
        assert!(device.sure(72 * HOUR - 60_000), "within what honest beats may move it");
    }

    #[test]
    fn an_honest_beat_that_was_a_minute_old_delays_nothing() {
        let mut device = Device::new();
        assert!(!device.sure(0));
        device.hears(T0 + 59_000, Carrier::Live, 1_000);
        assert!(!device.sure(72 * HOUR - 58_001) && device.sure(72 * HOUR - 58_000));
    }

    #[test]
    fn a_time_that_goes_back_begins_the_day_anew() {
        let mut device = Device::new();
        device.hears(END + 1, Carrier::Live, HOUR);
        assert!(!device.sure(HOUR));
        // A root withdrew the key (R187), and the server spoke again.
        device.clock.rebase(T0);
        assert!(!device.sure(30 * HOUR), "unknown time destroys nothing");
        device.hears(T0 + signed(30 * HOUR), Carrier::Live, 30 * HOUR);
        assert!(!device.sure(30 * HOUR));
        device.hears(END + 1, Carrier::Live, 31 * HOUR);
        assert!(!device.sure(31 * HOUR) && !device.sure(55 * HOUR - 1), "the day before does not count");
        assert!(device.sure(55 * HOUR));
    }

    #[test]
    fn unknown_and_believed_time_destroy_nothing() {
        for rule in [ClockRule::Refuse, ClockRule::Believe] {
            let mut device = Device::new();
            device.clock.set_rule(rule);
            let restarted = |boot_ms| Reading { wall_ms: END + 1, boot_ms, boot_id: [2; 16] };
            for boot_ms in [0, HOUR, 1_000 * HOUR] {
                let reading = restarted(boot_ms);
                assert_eq!(device.clock.now(reading), (rule == ClockRule::Believe).then_some(END + 1));
                assert!(!device.watch.is_surely_over(&device.clock, reading, END), "{rule:?}");
            }
            // The server itself says that the end has passed while the device was off: a day is left to fetch a grant.
            device.clock.observe(END + 1, Carrier::Live, restarted(HOUR));
            assert!(!device.watch.is_surely_over(&device.clock, restarted(2 * HOUR), END));
            assert!(device.watch.is_surely_over(&device.clock, restarted(26 * HOUR), END));
        }
    }
}
