//! The agent's sync as two pure machines, input to effect with time as an argument: `pull` and `push`.
//! It must not let one wait for the other, and must not do anything itself: the driver carries effects out.

pub mod backoff;
pub mod news;
pub mod pull;
pub mod push;
mod step;
mod target;

use crate::id::UnixMs;

/// The present, as far as the driver knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Monotonic milliseconds, for waiting.
    pub tick_ms: u64,
    /// Trusted time, for expiry; `None` while unknown.
    pub time_ms: Option<UnixMs>,
}
