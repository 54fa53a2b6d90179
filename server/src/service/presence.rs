//! When devices were last there: written down at once while few come, in one transaction a second while many do.
//! It must not make a fleet that comes back at once wait for a disk: presence is for people.

use std::collections::HashMap;
use std::sync::PoisonError;

use cpis_protocol::id::{DeviceId, RegisterSeq, UnixMs};

use super::Service;
use crate::port::{DeviceRow, Fleet as _, Store, StoreError};

/// How often at most a device's presence is written down when nothing else is.
const SEEN_EVERY_MS: i64 = 60_000;
/// Devices that are written down by themselves within a second; those after them wait for the next.
const AT_ONCE: u32 = 32;
const SECOND_MS: i64 = 1000;

type Waiting = HashMap<DeviceId, (UnixMs, Option<RegisterSeq>)>;

/// Who was there when, and who is not written down yet.
#[derive(Debug, Default)]
pub(super) struct Presence {
    seen: HashMap<DeviceId, UnixMs>,
    waiting: Waiting,
    second_ms: UnixMs,
    written: u32,
}

impl Presence {
    /// Takes note of a device; gives what is to be written now.
    fn note(&mut self, device: DeviceId, now_ms: UnixMs, gseq: Option<RegisterSeq>) -> Waiting {
        self.seen.insert(device, now_ms);
        let waits = self.waiting.entry(device).or_insert((now_ms, gseq));
        *waits = (now_ms, gseq.or(waits.1));
        if !(0..SECOND_MS).contains(&(now_ms - self.second_ms)) {
            (self.second_ms, self.written) = (now_ms, 0);
        }
        if self.written >= AT_ONCE {
            return Waiting::new();
        }
        self.written += 1;
        std::mem::take(&mut self.waiting)
    }
}

impl<S: Store> Service<S> {
    /// Writes down that a device was there, now or soon. Failing to note it fails nothing.
    pub(super) fn note(&self, device: &DeviceRow, now_ms: UnixMs, gseq: Option<RegisterSeq>) {
        let mut presence = self.presence.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = presence.waiting.get(&device.device).and_then(|(_, gseq)| *gseq);
        let gseq = gseq.filter(|gseq| *gseq != waits.unwrap_or(device.last_gseq));
        let last = presence.seen.get(&device.device).copied().or(device.last_seen_ms);
        if gseq.is_none() && last.is_some_and(|last| (0..SEEN_EVERY_MS).contains(&(now_ms - last))) {
            return;
        }
        let due = presence.note(device.device, now_ms, gseq);
        drop(presence);
        self.write_presence(&due);
    }

    /// Writes down who still waits for it. To be called every few seconds, and before the service ends.
    pub fn flush_presence(&self) {
        let due = std::mem::take(&mut self.presence.lock().unwrap_or_else(PoisonError::into_inner).waiting);
        self.write_presence(&due);
    }

    fn write_presence(&self, due: &Waiting) {
        if due.is_empty() {
            return;
        }
        let written = self.store.write::<_, StoreError>(|tx| {
            due.iter().try_for_each(|(device, (at_ms, gseq))| tx.seen(*device, *at_ms, *gseq))
        });
        if let Err(error) = written {
            tracing::warn!(devices = due.len(), %error, "presence was not noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_waits_for_one_transaction() {
        let mut presence = Presence::default();
        let device = |n: u8| DeviceId([n; 16]);
        for n in 0..32 {
            assert_eq!(presence.note(device(n), 5000, Some(1)).len(), 1, "few are written at once");
        }
        for n in 32..200 {
            assert!(presence.note(device(n), 5900, Some(2)).is_empty(), "{n}");
        }
        // What waits keeps the newest time and the newest sequence.
        assert!(presence.note(device(40), 5950, None).is_empty());
        let due = presence.note(device(1), 6000, None);
        assert_eq!(due.len(), 169);
        assert_eq!((due[&device(40)], due[&device(199)]), ((5950, Some(2)), (5900, Some(2))));
        // A clock that went back does not make them wait for ever.
        assert_eq!(presence.note(device(2), 10, None).len(), 1);
    }
}
