//! The device's clocks, read in one place: wall clock, time since boot with suspend, and the identity of this boot.
//! It must not decide what time it is: that is `protocol::clock`.

use cpis_protocol::clock::Reading;
use rustix::time::{ClockId, clock_gettime};

use crate::port::Clock;

/// The operating system's clocks.
#[derive(Debug, Clone)]
pub struct SystemClock {
    boot_id: [u8; 16],
}

impl SystemClock {
    /// Reads the identity of this boot.
    ///
    /// Where the kernel does not tell one, every start counts as a boot of its own: the safe side, because then the
    /// wall clock must prove itself against the floor.
    #[must_use]
    pub fn new(fallback: [u8; 16]) -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        Self { boot_id: cpis_protocol::id::unhex(&digits).unwrap_or(fallback) }
    }
}

fn ms(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1000).saturating_add(nanoseconds / 1_000_000)
}

impl Clock for SystemClock {
    fn reading(&self) -> Reading {
        let wall = clock_gettime(ClockId::Realtime);
        let boot = clock_gettime(ClockId::Boottime);
        Reading {
            wall_ms: ms(wall.tv_sec, wall.tv_nsec),
            boot_ms: u64::try_from(ms(boot.tv_sec, boot.tv_nsec)).unwrap_or(0),
            boot_id: self.boot_id,
        }
    }

    fn awake_ms(&self) -> u64 {
        let awake = clock_gettime(ClockId::Monotonic);
        u64::try_from(ms(awake.tv_sec, awake.tv_nsec)).unwrap_or(0)
    }
}
