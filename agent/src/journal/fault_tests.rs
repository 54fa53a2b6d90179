//! Failing writes, full disks, and the power cut between any two durable steps.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::testing::{CHAIN, DEVICE, FaultDisk, PowerDisk, SMALL, Step, append, dir, link, never, receipt, tip_at};
use super::*;

fn faulty(root: &Path, links: u64) -> (FaultDisk, Journal) {
    drop(Journal::create(root, DEVICE, CHAIN, SMALL).unwrap());
    let disk = FaultDisk::default();
    let (journal, _) = Journal::open_on(root, DEVICE, SMALL, Box::new(disk.clone())).unwrap();
    for _ in 0..links {
        append(&journal).unwrap();
    }
    (disk, journal)
}

#[test]
fn a_failed_write_or_sync_poisons_and_reopening_goes_on() {
    for step in [Step::Write, Step::Sync] {
        let dir = dir();
        let (disk, journal) = faulty(dir.path(), 2);
        disk.plan().fail = Some((step, ErrorKind::Other));
        assert!(append(&journal).unwrap_err().is_poisoned());
        disk.plan().fail = None;
        assert!(journal.append(Priority::Emergency, never).unwrap_err().is_poisoned());
        assert!(journal.acknowledge(&receipt(tip_at(CHAIN, 1))).unwrap_err().is_poisoned());
        assert!(journal.new_chain(ChainId([1; 16]), true).unwrap_err().is_poisoned());
        assert_eq!((journal.tip(), journal.outstanding()), (tip_at(CHAIN, 2), 2));
        assert_eq!(journal.unacknowledged(9).unwrap().map(|b| b.links.len()), Some(2));
        drop(journal);
        let (journal, recovery) = Journal::open(dir.path(), DEVICE, SMALL).unwrap();
        assert_eq!((journal.tip(), recovery.torn_bytes), (tip_at(CHAIN, 2), 0), "{step:?}");
        append(&journal).unwrap();
    }
}

#[test]
fn a_failed_group_fails_for_everybody_in_it() {
    let dir = dir();
    let (disk, journal) = faulty(dir.path(), 1);
    let (journal, stop) = (Arc::new(journal), Arc::new(AtomicBool::new(false)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (journal, stop) = (Arc::clone(&journal), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut kept = 0;
                while !stop.load(Ordering::Relaxed) {
                    match append(&journal) {
                        Ok(tip) => kept = tip.seq,
                        Err(error) => {
                            assert!(error.is_poisoned());
                            break;
                        }
                    }
                }
                kept
            })
        })
        .collect();
    std::thread::sleep(std::time::Duration::from_millis(20));
    disk.plan().fail = Some((Step::Sync, ErrorKind::Other));
    let kept = threads.into_iter().map(|t| t.join().unwrap()).max().unwrap();
    stop.store(true, Ordering::Relaxed);
    assert!(kept > 1);
    assert_eq!(journal.tip(), tip_at(CHAIN, kept), "exactly what callers were told");
}

#[test]
fn a_full_disk_refuses_and_goes_on_and_still_takes_receipts() {
    let dir = dir();
    let (disk, journal) = faulty(dir.path(), 1);
    // From here no new segment and no reservation.
    let mut refused = None;
    disk.plan().fail = Some((Step::Stage, ErrorKind::StorageFull));
    for _ in 0..10 {
        append(&journal).unwrap();
    }
    disk.plan().fail = Some((Step::Reserve, ErrorKind::StorageFull));
    drop(journal);
    // Opened on the full disk nothing can be reserved, so no link is taken, but the links can be sent.
    let (journal, recovery) = Journal::open_on(dir.path(), DEVICE, SMALL, Box::new(disk.clone())).unwrap();
    assert_eq!(recovery.unacknowledged, 11);
    for _ in 0..2 {
        if let Err(error) = append(&journal) {
            refused = Some(error);
        }
    }
    assert!(matches!(refused, Some(JournalError::NoSpace(_))));
    disk.plan().fail = None;
    assert_eq!(append(&journal).unwrap(), tip_at(CHAIN, 12));
    disk.plan().fail = Some((Step::Reserve, ErrorKind::StorageFull));
    let mut appended = 12;
    while append(&journal).is_ok() {
        appended += 1;
    }
    assert_eq!(journal.acknowledge(&receipt(tip_at(CHAIN, appended - 1))).unwrap(), appended - 1);
    assert_eq!(journal.acknowledge(&receipt(tip_at(CHAIN, appended))).unwrap(), 1);
    disk.plan().fail = None;
    append(&journal).unwrap();
}

#[test]
fn a_failed_rename_poisons_and_a_failed_removal_waits() {
    let dir = dir();
    let (disk, journal) = faulty(dir.path(), 1);
    disk.plan().fail = Some((Step::Publish, ErrorKind::Other));
    let failed = (0..40).find_map(|_| append(&journal).err()).unwrap();
    assert!(failed.is_poisoned());
    drop(journal);
    disk.plan().fail = None;
    let (journal, _) = Journal::open_on(dir.path(), DEVICE, SMALL, Box::new(disk.clone())).unwrap();
    for _ in 0..60 {
        append(&journal).unwrap();
    }
    disk.plan().fail = Some((Step::Remove, ErrorKind::Other));
    journal.acknowledge(&receipt(journal.tip())).unwrap();
    let chain = dir.path().join("chain-0000000001");
    let files = || layout::segments(&chain).unwrap().len();
    assert!(files() > 3);
    append(&journal).unwrap();
    drop(journal);
    let (_, recovery) = Journal::open(dir.path(), DEVICE, SMALL).unwrap();
    assert!(recovery.segments <= 2 && files() <= 2);
}

#[test]
fn staged_leftovers_are_deleted() {
    let dir = dir();
    drop(Journal::create(dir.path(), DEVICE, CHAIN, SMALL).unwrap());
    std::fs::create_dir(dir.path().join("chain-0000000002.new")).unwrap();
    std::fs::write(dir.path().join("chain-0000000001/audit-00000000000000000002.journal.new"), b"x").unwrap();
    let (journal, recovery) = Journal::open(dir.path(), DEVICE, SMALL).unwrap();
    assert_eq!((recovery.staged_removed, journal.tip()), (2, tip_at(CHAIN, 0)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, ..ProptestConfig::default() })]
    /// The power goes between any two durable steps, while three threads append and one acknowledges; of the write in
    /// flight any sectors reach the disk. Whatever a caller was told of is there, and nothing else is made up.
    #[test]
    fn power_cut(steps in 1usize..120, seed in any::<u64>()) {
        let (dir, after) = (dir(), dir());
        drop(Journal::create(dir.path(), DEVICE, CHAIN, SMALL).unwrap());
        let disk = PowerDisk::new(dir.path(), steps, seed);
        let power = Arc::clone(&disk.0);
        let mut appended = 0;
        let mut acknowledged = 0;
        if let Ok((journal, _)) = Journal::open_on(dir.path(), DEVICE, SMALL, Box::new(disk)) {
            let journal = &journal;
            std::thread::scope(|scope| {
                let writers: Vec<_> = (0..3).map(|_| scope.spawn(|| {
                    let mut told = 0;
                    while let Ok((seq, _)) = journal.append(Priority::Routine, |tip| Ok(link(tip))) {
                        told = seq;
                    }
                    told
                })).collect();
                loop {
                    let through = journal.tip();
                    match journal.acknowledge(&receipt(through)) {
                        Ok(_) => acknowledged = through.seq,
                        Err(_) => break,
                    }
                    std::thread::sleep(std::time::Duration::from_micros(300));
                }
                appended = writers.into_iter().map(|t| t.join().unwrap()).max().unwrap_or(0);
            });
        }
        power.lock().unwrap().restore(dir.path(), after.path());
        let (journal, _) = Journal::open(after.path(), DEVICE, SMALL).unwrap();
        prop_assert!(journal.tip().seq >= appended, "told of {appended}, found {}", journal.tip().seq);
        prop_assert_eq!(journal.tip(), tip_at(CHAIN, journal.tip().seq));
        prop_assert!(journal.acknowledged().seq >= acknowledged);
        let next = append(&journal).unwrap();
        drop(journal);
        let (journal, recovery) = Journal::open(after.path(), DEVICE, SMALL).unwrap();
        prop_assert_eq!((journal.tip(), recovery.torn_bytes), (next, 0));
    }
}
