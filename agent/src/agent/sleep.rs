//! Notices that the device slept: boot time went on while the time awake did not.
//! It must not read a clock.

use std::sync::atomic::{AtomicU64, Ordering};

/// More than the two clocks can drift apart between two looks.
const SLEPT_MS: u64 = 2000;

/// How long the device had slept in all when it was last looked at.
#[derive(Debug)]
pub(super) struct Sleep(AtomicU64);

impl Sleep {
    pub(super) const fn new(boot_ms: u64, awake_ms: u64) -> Self {
        Self(AtomicU64::new(boot_ms.saturating_sub(awake_ms)))
    }

    /// Whether the device slept since the last time that this said so. Small differences add up.
    pub(super) fn happened(&self, boot_ms: u64, awake_ms: u64) -> bool {
        let slept = boot_ms.saturating_sub(awake_ms);
        let known = self.0.load(Ordering::Acquire);
        slept > known.saturating_add(SLEPT_MS)
            && self.0.compare_exchange(known, slept, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_once_for_each_sleep() {
        let sleep = Sleep::new(10_000, 9_000);
        assert!(!sleep.happened(70_000, 69_000));
        assert!(!sleep.happened(80_000, 77_000), "two seconds are no sleep");
        assert!(sleep.happened(80_001, 77_000));
        assert!(!sleep.happened(90_001, 87_000));
        assert!(sleep.happened(3_690_001, 87_001));
    }
}
