//! A device's power and disk as one thing that can fail: each durable step asks whether it comes to pass.
//! It must not decide what a failed step leaves behind: that is the disk's and the store's.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::dice::Dice;

/// What ended a device's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The power went: what was not synced may be lost.
    Power,
    /// The process was killed: files keep what was written to them.
    Kill,
}

/// What becomes of one durable step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is done.
    Done,
    /// It fails. It may have reached the disk all the same.
    Fails {
        /// Whether it did.
        reached: bool,
        /// There is no room, as opposed to an error of the disk.
        full: bool,
    },
}

#[derive(Debug)]
struct State {
    dice: Dice,
    off: Option<Cut>,
    /// Steps until it goes, and how.
    until: Option<(u64, Cut)>,
    /// Of a thousand steps so many fail.
    failing: u64,
    /// Only steps that need room fail.
    full: bool,
    steps: u64,
}

/// The power of one device.
#[derive(Debug)]
pub struct Power {
    state: Mutex<State>,
    bell: Notify,
}

impl Power {
    /// On, with a disk in order.
    #[must_use]
    pub fn new(dice: Dice) -> Self {
        let state = State { dice, off: None, until: None, failing: 0, full: false, steps: 0 };
        Self { state: Mutex::new(state), bell: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for one durable step; `grows` says that it needs room.
    pub fn step(&self, grows: bool) -> Verdict {
        let mut state = self.state();
        if state.off.is_some() {
            return Verdict::Fails { reached: false, full: false };
        }
        state.steps += 1;
        if let Some((left, cut)) = state.until {
            state.until = Some((left.saturating_sub(1), cut));
            if left <= 1 {
                (state.off, state.until) = (Some(cut), None);
                self.bell.notify_one();
                return Verdict::Fails { reached: state.dice.chance(500), full: false };
            }
        }
        if state.full && grows {
            return Verdict::Fails { reached: false, full: true };
        }
        let failing = state.failing;
        if failing > 0 && state.dice.chance(failing) {
            return Verdict::Fails { reached: state.dice.chance(500), full: false };
        }
        Verdict::Done
    }

    /// A number for what only chance decides about the disk.
    pub fn coin(&self) -> bool {
        self.state().dice.chance(500)
    }

    /// The end comes with one of the next steps.
    pub fn cut_after(&self, steps: u64, cut: Cut) {
        self.state().until = Some((steps.max(1), cut));
    }

    /// The end comes now.
    pub fn cut(&self, cut: Cut) {
        let mut state = self.state();
        if state.off.is_none() {
            state.off = Some(cut);
            self.bell.notify_one();
        }
    }

    /// What ended the run, if it has ended.
    pub fn is_off(&self) -> Option<Cut> {
        self.state().off
    }

    /// Waits for the end.
    pub async fn lost(&self) -> Cut {
        loop {
            if let Some(cut) = self.is_off() {
                return cut;
            }
            self.bell.notified().await;
        }
    }

    /// The disk fails so many of a thousand steps, or has no room.
    pub fn spoil(&self, failing: u64, full: bool) {
        let mut state = self.state();
        (state.failing, state.full) = (failing, full);
    }

    /// Whether the disk is out of order.
    pub fn is_spoilt(&self) -> bool {
        let state = self.state();
        state.failing > 0 || state.full || state.until.is_some() || state.off.is_some()
    }

    /// On again; whatever was to fail was decided before.
    pub fn on(&self) {
        let mut state = self.state();
        (state.off, state.until) = (None, None);
    }

    /// The disk is in order, and nothing is to end any more.
    pub fn calm(&self) {
        let mut state = self.state();
        (state.failing, state.full, state.until) = (0, false, None);
    }

    /// Durable steps so far.
    pub fn steps(&self) -> u64 {
        self.state().steps
    }
}
