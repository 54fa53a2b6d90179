//! The upload of the audit outbox: load, send, verify the receipt, and only then acknowledge.
//! It must not drop anything: no window, no expiry, no status makes an event go away but a verified receipt.

use alloc::vec::Vec;

use super::Now;
use super::backoff::Backoff;
use crate::audit::{Batch, Receipt};
use crate::id::DeviceId;
use crate::message::{Failure, Request};
use crate::sign::{Kind, Verified};
use crate::trust::{Role, Trust};
use crate::{Refusal, limits};

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// An event was queued, the link came back, or the wait is over.
    Wake,
    /// The oldest unacknowledged links, or nothing.
    Loaded(Option<Batch>),
    /// The reply to the last request.
    Replied(Result<Vec<u8>, Failure>),
    /// How many links the receipt newly covered, or why the journal refuses it.
    Acknowledged(Result<u64, Refusal>),
}

/// What the driver must do next.
#[derive(Debug)]
pub enum Effect {
    /// Load at most this many of the oldest unacknowledged links.
    Load(usize),
    /// Send a request.
    Send(Request),
    /// Check the receipt against the chain, store it, and prune what it covers.
    Acknowledge(Verified<Receipt>),
    /// Do nothing until the tick, or until woken.
    Wait {
        /// `None`: until woken.
        until_ms: Option<u64>,
        /// Why the last attempt ended, if it failed.
        problem: Option<Problem>,
    },
}

/// Why an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// No reply.
    Failed(Failure),
    /// A reply that is not accepted.
    Refused(Refusal),
}

/// Verifies a receipt, whatever it came with.
///
/// # Errors
/// [`Refusal`]: by another key, or by one whose time is over.
pub fn verify(trust: &Trust, bytes: &[u8], now: Now) -> Result<Verified<Receipt>, Refusal> {
    let receipt = trust.verify(Role::Receipt, Kind::Receipt, bytes, limits::RECEIPT_BYTES_MAX)?;
    trust.check_role(Role::Receipt, now.time_ms)?;
    Ok(receipt)
}

/// The machine. One request at a time, in order.
#[derive(Debug)]
pub struct Push {
    trust: Trust,
    backoff: Backoff,
    batch_max: usize,
}

impl Push {
    /// For a device.
    #[must_use]
    pub const fn new(device: DeviceId, trust: Trust) -> Self {
        Self { trust, backoff: Backoff::new(device), batch_max: limits::AUDIT_LINKS_MAX }
    }

    /// A newer root came in by the other machine.
    pub fn set_trust(&mut self, trust: Trust) {
        self.trust = trust;
    }

    /// One step.
    pub fn step(&mut self, input: Input, now: Now) -> Effect {
        match input {
            Input::Wake => Effect::Load(self.batch_max),
            Input::Loaded(None) => Effect::Wait { until_ms: None, problem: None },
            Input::Loaded(Some(batch)) => match batch.to_bytes() {
                Ok(body) => Effect::Send(Request::Audit(body)),
                Err(refusal) => self.fail(Problem::Refused(refusal), now),
            },
            Input::Replied(Ok(body)) => match verify(&self.trust, &body, now) {
                Ok(receipt) => Effect::Acknowledge(receipt),
                Err(refusal) => self.fail(Problem::Refused(refusal), now),
            },
            Input::Replied(Err(Failure::TooLarge)) if self.batch_max > 1 => {
                // 413 halves the batch; the links stay where they are.
                self.batch_max /= 2;
                Effect::Load(self.batch_max)
            }
            Input::Replied(Err(failure)) => self.fail(Problem::Failed(failure), now),
            // A receipt that covers nothing new means that the server misses something before the batch; asking again
            // at once would loop.
            Input::Acknowledged(Ok(0)) => self.fail(Problem::Refused(Refusal::Gap), now), // R114
            Input::Acknowledged(Ok(_)) => {
                self.backoff.succeeded(now.tick_ms);
                self.batch_max = (self.batch_max * 2).min(limits::AUDIT_LINKS_MAX);
                Effect::Load(self.batch_max)
            }
            Input::Acknowledged(Err(refusal)) => self.fail(Problem::Refused(refusal), now),
        }
    }

    fn fail(&mut self, problem: Problem, now: Now) -> Effect {
        let failure = match problem {
            Problem::Failed(failure) => Some(failure),
            Problem::Refused(_) => None,
        };
        let wait_ms = self.backoff.failed(failure, 5, now.tick_ms);
        Effect::Wait { until_ms: Some(now.tick_ms.saturating_add(wait_ms)), problem: Some(problem) }
    }
}
