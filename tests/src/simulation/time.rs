//! True time, which only the simulation knows, and the clocks that devices have instead.
//! It must not let a device's clock show more of the true time than a real one would.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cpis_agent::port::Clock;
use cpis_protocol::clock::Reading;
use cpis_protocol::id::UnixMs;

/// When every simulation begins: 2026-11-25T00:00:00Z.
pub const BEGIN_MS: UnixMs = 1_795_564_800_000;

/// The true time: what the runtime's paused clock says. The server's clock is right.
#[derive(Debug, Clone, Copy)]
pub struct TrueTime(tokio::time::Instant);

impl TrueTime {
    /// Begins now; inside the runtime.
    #[must_use]
    pub fn begin() -> Self {
        Self(tokio::time::Instant::now())
    }

    /// Milliseconds since the beginning.
    #[must_use]
    pub fn elapsed_ms(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    /// The true time.
    #[must_use]
    pub fn now_ms(&self) -> UnixMs {
        BEGIN_MS + self.elapsed_ms()
    }
}

impl cpis_server::clock::Clock for TrueTime {
    fn now_ms(&self) -> UnixMs {
        Self::now_ms(self)
    }
}

#[derive(Debug, Clone, Copy)]
struct Boot {
    number: u64,
    since_ms: UnixMs,
    /// What the wall clock is ahead of the true time.
    ahead_ms: i64,
}

/// The clocks of one device.
#[derive(Debug, Clone)]
pub struct DeviceClock {
    time: TrueTime,
    boot: Arc<Mutex<Boot>>,
}

impl DeviceClock {
    /// Of a device that has just been switched on.
    #[must_use]
    pub fn new(time: TrueTime) -> Self {
        let boot = Boot { number: 1, since_ms: time.now_ms(), ahead_ms: 0 };
        Self { time, boot: Arc::new(Mutex::new(boot)) }
    }

    fn boot(&self) -> MutexGuard<'_, Boot> {
        self.boot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device was off and is on again.
    pub fn reboot(&self) {
        let mut boot = self.boot();
        (boot.number, boot.since_ms) = (boot.number + 1, self.time.now_ms());
    }

    /// Somebody, or an empty battery, sets the wall clock.
    pub fn set_wall(&self, ahead_ms: i64) {
        self.boot().ahead_ms = ahead_ms;
    }

    /// Which boot this is.
    #[must_use]
    pub fn boot_number(&self) -> u64 {
        self.boot().number
    }
}

impl Clock for DeviceClock {
    fn reading(&self) -> Reading {
        let boot = *self.boot();
        let now_ms = self.time.now_ms();
        let mut boot_id = [0; 16];
        boot_id[..8].copy_from_slice(&boot.number.to_be_bytes());
        Reading {
            wall_ms: now_ms.saturating_add(boot.ahead_ms),
            boot_ms: u64::try_from(now_ms - boot.since_ms).unwrap_or(0) + 1,
            boot_id,
        }
    }
}
