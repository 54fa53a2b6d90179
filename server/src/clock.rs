//! The server's clock: the only place that reads the wall clock.
//! It must not decide anything; what time means is decided where it is used.

use cpis_protocol::id::UnixMs;

/// Tells the time; tests and simulators bring their own.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    fn now_ms(&self) -> UnixMs;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock port of the server")]
    fn now_ms(&self) -> UnixMs {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

/// A clock that stands where it was put, for tests and simulators.
#[derive(Debug, Default)]
pub struct ManualClock(std::sync::atomic::AtomicI64);

impl ManualClock {
    /// Starts at `now_ms`.
    #[must_use]
    pub const fn at(now_ms: UnixMs) -> Self {
        Self(std::sync::atomic::AtomicI64::new(now_ms))
    }

    /// Moves on.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> UnixMs {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// `2026-11-22T03:14:15Z`, for people and JSON.
#[must_use]
pub fn iso(ms: UnixMs) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| format!("{ms} ms"), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_in_utc_to_the_second() {
        assert_eq!(iso(1_795_311_599_999), "2026-11-22T01:39:59Z");
    }
}
