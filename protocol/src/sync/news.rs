//! The question whether there is news: when to ask it, and what an answer is worth.
//! It must not believe an answer: a hint leads to an ordinary sync, or to nothing, and proves nothing.

use alloc::vec::Vec;

use super::backoff::Backoff;
use crate::id::DeviceId;
use crate::message::{Failure, NEWS};

/// Devices act on a hint within this time of it, not all in one moment.
const ACT_WITHIN_MS: u64 = 300;
/// An answer that there is nothing is held back longer than this by every honest server.
const HELD_AT_LEAST_MS: u64 = 5_000;
/// How long nobody is asked after an answer that shows that the question is not known.
const UNKNOWN_MS: u64 = 3_600_000;

/// The machine.
#[derive(Debug)]
pub struct News {
    backoff: Backoff,
    ask_at_ms: u64,
    asked_ms: u64,
    /// The sync that comes next is because of a hint.
    hinted: bool,
}

impl News {
    /// For a device.
    #[must_use]
    pub const fn new(device: DeviceId) -> Self {
        Self { backoff: Backoff::new(device), ask_at_ms: 0, asked_ms: 0, hinted: false }
    }

    /// The tick before which the question is not asked.
    #[must_use]
    pub const fn ask_at(&self) -> u64 {
        self.ask_at_ms
    }

    /// The question goes out.
    pub const fn asked(&mut self, tick_ms: u64) {
        self.asked_ms = tick_ms;
    }

    /// The answer: the tick of the sync that it leads to, or nothing.
    pub fn heard(&mut self, reply: &Result<Vec<u8>, Failure>, spread_s: u16, tick_ms: u64) -> Option<u64> {
        match reply {
            Ok(body) if *body == NEWS => return Some(self.hint(tick_ms)),
            // Only a signed word proves it, and an ordinary sync asks for that.
            Err(Failure::Revoked | Failure::Suspended) => return Some(self.hint(tick_ms)),
            Ok(body) if body.is_empty() && tick_ms.saturating_sub(self.asked_ms) >= HELD_AT_LEAST_MS => {
                self.backoff.succeeded(tick_ms);
                self.ask_at_ms = tick_ms;
            }
            // R289: An older server, or somebody on the way who knows no such question. Polls go on.
            Ok(_) | Err(Failure::NotFound | Failure::Refused | Failure::TooLarge | Failure::EndlessReply) => {
                self.ask_at_ms = tick_ms.saturating_add(UNKNOWN_MS);
            }
            Err(failure @ (Failure::Offline | Failure::NotTheServer | Failure::Retry(_) | Failure::Unauthorised)) => {
                self.back_off(Some(*failure), spread_s, tick_ms);
            }
        }
        None
    }

    fn hint(&mut self, tick_ms: u64) -> u64 {
        self.hinted = true;
        tick_ms.saturating_add(self.backoff.draw(ACT_WITHIN_MS))
    }

    fn back_off(&mut self, failure: Option<Failure>, spread_s: u16, tick_ms: u64) {
        self.ask_at_ms = tick_ms.saturating_add(self.backoff.failed(failure, spread_s, tick_ms));
    }

    /// A sync has ended, and whether it brought anything. A hint that brought nothing counts as a failure: whoever
    /// invents news gets one sync for each wait of the ladder.
    pub fn synced(&mut self, moved: bool, tick_ms: u64) {
        if !core::mem::take(&mut self.hinted) {
            return;
        }
        if moved {
            self.backoff.succeeded(tick_ms);
            self.ask_at_ms = tick_ms;
        } else {
            self.back_off(None, 0, tick_ms); // R288
        }
    }
}
