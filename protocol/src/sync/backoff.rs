//! When to try again: a pure table over the failures so far, with jitter from the device's identity.
//! It must not synchronise a fleet: jitter is applied after the cap, and differs for each device and attempt.

use crate::digest;
use crate::id::DeviceId;
use crate::message::Failure;

const BASE_MS: u64 = 2_000;
const CAP_MS: u64 = 300_000;

/// The attempts since the last success.
#[derive(Debug, Clone)]
pub struct Backoff {
    device: DeviceId,
    failures: u32,
    draws: u64,
}

impl Backoff {
    /// For one device.
    #[must_use]
    pub const fn new(device: DeviceId) -> Self {
        Self { device, failures: 0, draws: 0 }
    }

    /// Something worked.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// How many attempts failed since something worked.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Milliseconds to wait after a failure. `Retry-After` is obeyed, plus jitter; the first wait after a lost
    /// connection is spread over `spread_s`.
    pub fn failed(&mut self, failure: Option<Failure>, spread_s: u16) -> u64 {
        self.failures = self.failures.saturating_add(1);
        let doubled = BASE_MS.saturating_mul(1 << self.failures.min(16)).min(CAP_MS); // R46
        match failure {
            Some(Failure::Retry(Some(after_s))) => {
                let after_ms = u64::from(after_s).saturating_mul(1000);
                after_ms.saturating_add(self.draw(after_ms / 4 + 1000))
            }
            Some(Failure::Offline) if self.failures == 1 => BASE_MS + self.draw(u64::from(spread_s) * 1000),
            _ => BASE_MS + self.draw(doubled),
        }
    }

    /// A number below `below`, even over devices and attempts.
    pub fn draw(&mut self, below: u64) -> u64 {
        self.draws += 1;
        let hash = digest::hash("cpis-edge/1/jitter", &[&self.device.0, &self.draws.to_be_bytes()]);
        let [a, b, c, d, e, f, g, h, ..] = hash;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) % below.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounded_spread_and_obedient() {
        let mut backoff = Backoff::new(DeviceId([1; 16]));
        assert!(backoff.failed(Some(Failure::Offline), 0) <= BASE_MS + 1);
        for _ in 0..40 {
            assert!(backoff.failed(Some(Failure::Offline), 10) <= BASE_MS + CAP_MS);
        }
        assert!(backoff.failed(Some(Failure::Retry(Some(600))), 10) >= 600_000);
        backoff.succeeded();
        assert_eq!(backoff.failures(), 0);
        let first = |id| Backoff::new(DeviceId([id; 16])).failed(Some(Failure::Offline), 600);
        let mut waits: Vec<_> = (0..50).map(first).collect();
        waits.sort_unstable();
        waits.dedup();
        assert!(waits.len() > 45, "devices must not march in step");
    }
}
