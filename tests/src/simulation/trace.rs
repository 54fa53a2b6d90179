//! What happened in a run, line by line, and one hash over all of it.
//! It must not hold anything that two runs of one seed do not share: no address, no thread, no time of the machine.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use cpis_protocol::digest::{self, Hash};

/// Lines that are kept of a run that is not traced.
const LAST: usize = 60;

/// The trace of one run.
#[derive(Debug, Default)]
pub struct Trace(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    hash: Hash,
    lines: u64,
    whole: bool,
    kept: VecDeque<String>,
}

impl Trace {
    /// Keeps every line, or the last ones.
    #[must_use]
    pub fn new(whole: bool) -> Self {
        Self(Mutex::new(State { whole, ..State::default() }))
    }

    /// Adds a line: when, in simulated milliseconds since the beginning, who, and what.
    pub fn say(&self, at_ms: i64, who: &str, what: impl Display) {
        let seconds = at_ms / 1000;
        let (hours, minutes, seconds, ms) = (seconds / 3600, seconds / 60 % 60, seconds % 60, at_ms % 1000);
        let line = format!("{hours:>3}:{minutes:02}:{seconds:02}.{ms:03} {who:<8} {what}");
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.hash = digest::hash("cpis-edge/1/simulation", &[&state.hash, line.as_bytes()]);
        state.lines += 1;
        if !state.whole && state.kept.len() == LAST {
            state.kept.pop_front();
        }
        state.kept.push_back(line);
    }

    /// The hash over every line, how many there were, and those that were kept.
    #[must_use]
    pub fn read(&self) -> (Hash, u64, Vec<String>) {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (state.hash, state.lines, state.kept.iter().cloned().collect())
    }
}
