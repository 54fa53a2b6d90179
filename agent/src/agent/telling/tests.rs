//! An answer under break-glass is told once, wherever a write fails, a process ends, or a receipt comes in between.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use cpis_protocol::audit::LINK_BYTES;
use cpis_protocol::sign::Signer;
use cpis_protocol::text::Text;
use tempfile::TempDir;

use super::*;
use crate::device_secret::DeviceSecret;
use crate::journal::testing::{CHAIN, DEVICE, SMALL, append, dir, journal_to_poison, receipt};
use crate::keyslot::Keyslot;
use crate::random::OsRandom;

/// The keyslot file of a device, of which only so many writes succeed.
struct File {
    keys: LocalKeys,
    writes: AtomicUsize,
}

impl UsageFile for File {
    fn change(&self, practitioner: PractitionerId, change: &dyn Fn(&mut Usage)) -> Result<(), KeyslotError> {
        let take = |left: usize| left.checked_sub(1);
        self.writes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .map_err(|_| KeyslotError::Io(std::io::Error::other("the keyslot fails")))?;
        self.keys.change(practitioner, change)
    }
}

struct Device {
    dir: TempDir,
    secret: DeviceSecret,
    file: File,
    journal: Option<Journal>,
    /// What each link that was made tells of, by its hash; most are in no chain.
    made: Mutex<BTreeMap<[u8; 32], u16>>,
    /// What the chain tells, by position.
    told: BTreeMap<u64, u16>,
}

fn who() -> PractitionerId {
    Text::lossy("P001")
}

impl Device {
    /// A device with so many answers that are not told.
    fn new(count: u16) -> Self {
        let dir = dir();
        let journal = Journal::create(&dir.path().join("journal"), DEVICE, CHAIN, SMALL).unwrap();
        Self::over(dir, journal, count)
    }

    fn over(dir: TempDir, journal: Journal, count: u16) -> Self {
        let secret = DeviceSecret::create_file(&dir.path().join("device.secret"), &mut OsRandom).unwrap();
        let mut contents = Contents::new(Signer::from_seed([0xd1; 32]), [0x22; 32]);
        let unrecorded = Unrecorded { count, first_ms: 1, reason: Text::EMPTY };
        contents.set_usage(Usage { unrecorded, ..Usage::of(who()) }, |_| false).unwrap();
        let keyslot = Keyslot::create(&dir.path().join("keyslot"), &secret, &contents).unwrap();
        let file = File { keys: LocalKeys::new(keyslot, &secret), writes: AtomicUsize::new(usize::MAX) };
        Self { dir, secret, file, journal: Some(journal), made: Mutex::default(), told: BTreeMap::new() }
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().unwrap()
    }

    fn usage(&self) -> Usage {
        self.file.keys.keyslot().contents().usage(who())
    }

    /// One attempt, of whose writes of the keyslot file so many succeed.
    fn attempt(&mut self, writes: usize, follows: bool) -> Result<bool, JournalError> {
        self.file.writes.store(writes, Ordering::Relaxed);
        let result = tell(self.journal(), &self.file, &self.usage(), |tip, left| {
            // Another one than anything else at this position.
            let link = Link::from_bytes(&[0xa5; LINK_BYTES])?;
            let next = tip.follow(&DEVICE, &link);
            self.made.lock().unwrap().insert(next.hash, left.count);
            // A link that does not follow is refused by the journal, which goes on.
            Ok((link, if follows { next } else { Tip { seq: next.seq + 1, ..next } }))
        });
        self.look();
        result
    }

    /// Takes down what the chain tells.
    fn look(&mut self) {
        let journal = self.journal.as_ref().unwrap();
        for seq in journal.acknowledged().seq + 1..=journal.tip().seq {
            if let Some(count) = journal.hash_at(seq).and_then(|hash| self.made.lock().unwrap().remove(&hash)) {
                self.told.insert(seq, count);
            }
        }
    }

    /// Something else is recorded, and the server acknowledges all of it.
    fn go_on(&self) {
        append(self.journal()).unwrap();
        self.journal().acknowledge(&receipt(self.journal().tip())).unwrap();
    }

    /// The process ends, and another begins with what is on the disk.
    fn crash(self) -> Self {
        let Self { dir, secret, file, journal, made, told } = self;
        drop((file, journal));
        let keyslot = Keyslot::open(&dir.path().join("keyslot"), &secret).unwrap();
        let (journal, _) = Journal::open(&dir.path().join("journal"), DEVICE, SMALL).unwrap();
        let file = File { keys: LocalKeys::new(keyslot, &secret), writes: AtomicUsize::new(usize::MAX) };
        Self { dir, secret, file, journal: Some(journal), made, told }
    }

    /// Whatever happened: from here on all is told, once.
    fn assert_told_once(mut self, count: u16, what: &str) {
        self.attempt(usize::MAX, true).unwrap();
        assert!(!is_due(&self.usage()), "{what}");
        assert!(!self.attempt(usize::MAX, true).unwrap(), "{what}");
        assert_eq!(self.told.values().sum::<u16>(), count, "{what}: {:?}", self.told);
    }
}

#[test]
fn every_answer_is_told_once_whichever_write_fails_and_whatever_comes_then() {
    for writes in 0..=2 {
        for then in ["nothing", "crash", "receipt", "receipt, crash", "crash, receipt", "another answer, receipt"] {
            let mut device = Device::new(3);
            append(device.journal()).unwrap();
            assert_eq!(device.attempt(writes, true).is_ok(), writes == 2);
            let mut count = 3;
            if then.starts_with("another") {
                device.file.keys.change(who(), &|usage| usage.unrecorded.count += 1).unwrap();
                count += 1;
            }
            if then.starts_with("crash") {
                device = device.crash();
            }
            // As when the agent opens or a second later: it is tried again, and the file may still fail.
            if then == "crash, receipt" {
                let _ = device.attempt(0, true);
            }
            if then.contains("receipt") {
                device.go_on();
            }
            if then.ends_with(", crash") {
                device = device.crash();
            }
            device.assert_told_once(count, &format!("{writes} writes, then {then}"));
        }
    }
}

#[test]
fn an_append_that_failed_is_not_taken_for_told_when_a_receipt_covers_its_place() {
    for crash in [false, true] {
        let mut device = Device::new(2);
        assert!(device.attempt(usize::MAX, false).is_err(), "the journal refused the link");
        assert_eq!(device.usage().telling, None);
        // Another link takes the position, and is covered.
        device.go_on();
        device.go_on();
        if crash {
            device = device.crash();
        }
        device.assert_told_once(2, "after a refused append");
    }
}

#[test]
fn a_link_that_was_never_appended_is_told_anew_and_its_place_is_not_covered_before() {
    let mut device = Device::new(2);
    append(device.journal()).unwrap();
    // The one write is the telling; the journal refuses the link, and the telling cannot be cleared.
    assert!(device.attempt(1, false).is_err());
    let telling = device.usage().telling.unwrap();
    let waits = |device: &Device, through| holds_back(&device.usage(), through);
    assert!(waits(&device, telling.seq) && waits(&device, telling.seq + 1) && !waits(&device, telling.seq - 1));
    // Another link takes its place; the file still fails.
    append(device.journal()).unwrap();
    assert!(device.attempt(0, true).is_err() && waits(&device, telling.seq));
    let mut device = device.crash();
    assert!(waits(&device, telling.seq));
    assert!(device.attempt(usize::MAX, true).unwrap() && !waits(&device, u64::MAX));
    device.assert_told_once(2, "after a telling without its link");
}

#[test]
fn a_journal_that_failed_for_good_says_when_it_is_opened_whether_it_holds_the_link() {
    let dir = dir();
    let (journal, poison) = journal_to_poison(&dir.path().join("journal"));
    let mut device = Device::over(dir, journal, 2);
    append(device.journal()).unwrap();
    poison();
    assert!(device.attempt(usize::MAX, true).unwrap_err().is_poisoned());
    assert!(device.usage().telling.is_some(), "it may be on the disk");
    assert!(device.attempt(usize::MAX, true).unwrap_err().is_poisoned());
    assert!(device.usage().telling.is_some(), "it still may");
    device.crash().assert_told_once(2, "after a failed sync");
}
