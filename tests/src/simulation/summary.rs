//! Runs in numbers: what a set of seeds amounts to.
//! It must not leave out a run that failed.

use std::fmt::Display;

use super::{HOUR_MS, Run};

/// Several runs in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    seeds: u64,
    broken: u64,
    device_ms: u64,
    checks: u64,
    events: u64,
    settled_ms: u64,
}

impl Summary {
    /// Adds runs up.
    #[must_use]
    pub fn of(runs: &[Run]) -> Self {
        runs.iter().fold(Self::default(), |sum, run| Self {
            seeds: sum.seeds + 1,
            broken: sum.broken + u64::from(run.broken.is_some()),
            device_ms: sum.device_ms + run.device_ms,
            checks: sum.checks + run.checks,
            events: sum.events + run.events,
            settled_ms: sum.settled_ms.max(run.settled_ms),
        })
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let days = self.device_ms / (24 * HOUR_MS);
        let (seeds, broken, checks, events) = (self.seeds, self.broken, self.checks, self.events);
        let settled = self.settled_ms / 60_000;
        write!(f, "{seeds} seeds, {broken} failed, {days} simulated device-days, {checks} checks of all invariants, ")?;
        write!(f, "{events} audit events each stored once, caught up within {settled} minutes after the last fault")
    }
}
