//! When to try again and when to poll: a pure table over what happened so far, spread by the device's identity.
//! It must not synchronise a fleet: jitter is applied after the cap, and differs for each device and attempt.

use super::Now;
use crate::digest;
use crate::id::DeviceId;
use crate::message::Failure;

const BASE_MS: u64 = 2_000;
const CAP_MS: u64 = 300_000;
/// How long nothing may fail before the failures so far are forgotten: a link that comes and goes is not a good one.
const STABLE_MS: u64 = 60_000;
/// The longest `Retry-After` that is obeyed: anybody on the way can say one, and it must not end the sync.
const RETRY_AFTER_MAX_S: u32 = 3_600;

/// The attempts since the last stable time.
#[derive(Debug, Clone)]
pub struct Backoff {
    device: DeviceId,
    failures: u32,
    draws: u64,
    /// The last wait of the ladder.
    last_ms: u64,
    /// Since when everything has worked.
    good_since_ms: Option<u64>,
}

impl Backoff {
    /// For one device.
    #[must_use]
    pub const fn new(device: DeviceId) -> Self {
        Self { device, failures: 0, draws: 0, last_ms: BASE_MS, good_since_ms: None }
    }

    /// Something worked.
    pub const fn succeeded(&mut self, tick_ms: u64) {
        if self.good_since_ms.is_none() {
            self.good_since_ms = Some(tick_ms);
        }
    }

    /// How many attempts failed since the last stable time.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Milliseconds to wait after a failure. `Retry-After` is obeyed, plus jitter; the first wait after a lost
    /// connection is spread over `spread_s`, each later one over up to three times the one before, and not less than that.
    pub fn failed(&mut self, failure: Option<Failure>, spread_s: u16, tick_ms: u64) -> u64 {
        // R291
        if self.good_since_ms.take().is_some_and(|since_ms| tick_ms.saturating_sub(since_ms) >= STABLE_MS) {
            self.failures = 0;
            self.last_ms = BASE_MS;
        }
        self.failures = self.failures.saturating_add(1);
        // Everybody may have lost it: the waits are as wide as the server wants them, from the first on.
        let lost = matches!(failure, Some(Failure::Offline | Failure::NotTheServer | Failure::Retry(None)));
        let spread_ms = if lost { u64::from(spread_s) * 1000 } else { 0 };
        if lost && self.failures == 1 {
            return BASE_MS + self.draw(spread_ms + 1); // R46
        }
        let bound_ms = self.last_ms.saturating_mul(3).max(spread_ms).min(CAP_MS.max(spread_ms));
        // The upper half: were it the whole, everybody would come at once in the first seconds after a long outage.
        self.last_ms = bound_ms / 2 + self.draw(bound_ms / 2 + 1);
        let Some(Failure::Retry(Some(after_s))) = failure else { return self.last_ms };
        let after_ms = u64::from(after_s.min(RETRY_AFTER_MAX_S)) * 1000; // R292
        after_ms.saturating_add(self.draw(bound_ms.max(after_ms / 4)))
    }

    /// The tick of the next poll: the device's own place in the interval, which its identity gives, so that a fleet
    /// comes evenly whatever it did before. Not sooner than half an interval from now, nor later than one and a half.
    pub fn poll_at(&mut self, now: Now, interval_ms: u64) -> u64 {
        let interval_ms = interval_ms.max(1);
        let place_ms = self.number("cpis-edge/1/place", 0) % interval_ms; // R290
        // Trusted time where it is known: devices have that in common, and no two were started at once by it.
        let at_ms = now.time_ms.and_then(|time_ms| u64::try_from(time_ms).ok()).unwrap_or(now.tick_ms);
        let since_ms = (at_ms % interval_ms + interval_ms - place_ms) % interval_ms;
        let left_ms = interval_ms - since_ms;
        let wait_ms = if left_ms < interval_ms / 2 { left_ms + interval_ms } else { left_ms };
        // Two devices may share a place; they must not march in step.
        now.tick_ms.saturating_add(wait_ms).saturating_add(self.draw(interval_ms / 32 + 1))
    }

    /// A number below `below`, even over devices and attempts.
    pub fn draw(&mut self, below: u64) -> u64 {
        self.draws += 1;
        self.number("cpis-edge/1/jitter", self.draws) % below.max(1)
    }

    fn number(&self, domain: &str, count: u64) -> u64 {
        let hash = digest::hash(domain, &[&self.device.0, &count.to_be_bytes()]);
        let [a, b, c, d, e, f, g, h, ..] = hash;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}
