//! The journal in use: appending, groups, receipts, pruning, capacity, new chains, and all of it against a model.

use std::collections::BTreeSet;
use std::sync::Arc;

use cpis_protocol::Refusal;
use cpis_protocol::audit::{self, Act, AuditEvent, Moment, Tip};
use cpis_protocol::id::{ChainId, DeviceId};
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::sign::Signer;
use cpis_protocol::text::Text;
use proptest::prelude::*;

use super::format::{HEADER_BYTES, LINK_RECORD_BYTES};
use super::testing::{CHAIN, DEVICE, FaultDisk, SMALL, append, dir, link, never, receipt, receipt_for, tip_at};
use super::*;
use crate::random::OsRandom;

#[test]
fn signed_links_survive_reopening_and_verify_in_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("audit");
    let signer = Signer::from_seed([1; 32]);
    let device = DeviceId::of(&signer.public_key());
    let recipient = OpeningKey::from_seed([2; 32]);
    let event = AuditEvent {
        break_glass: false,
        practitioner: Text::lossy("555086689106"),
        role: Text::EMPTY,
        incident: Text::EMPTY,
        act: Act::Unlock,
    };
    let moment = Moment { event_ms: 1, anchor_ms: 1, gseq: 1, head: [0; 32] };
    let journal = Journal::create(&root, device, CHAIN, Options::default()).unwrap();
    for seq in 1..=3 {
        let (got, tip) = journal
            .append(Priority::Routine, |tip| {
                tip.append(&device, &signer, &recipient.sealing_key(), &moment, &event, &mut OsRandom)
            })
            .unwrap();
        assert_eq!((got, tip.seq), (seq, seq));
    }
    let tip = journal.tip();
    assert!(matches!(Journal::open(&root, device, Options::default()), Err(JournalError::InUse(_))));
    drop(journal);
    let (journal, recovery) = Journal::open(&root, device, Options::default()).unwrap();
    assert_eq!((recovery.links, recovery.unacknowledged, recovery.torn_bytes, recovery.segments), (3, 3, 0, 1));
    assert_eq!(journal.tip(), tip);
    let batch = journal.unacknowledged(2).unwrap().unwrap();
    assert_eq!((batch.links.len(), batch.after), (2, Tip::start(&device, CHAIN)));
    let mut at = batch.after;
    for link in &journal.unacknowledged(usize::MAX).unwrap().unwrap().links {
        at = at.verify(&device, &signer.public_key(), link).unwrap();
        assert_eq!(audit::open(link, &device, &CHAIN, at.seq, &recipient), Ok(event.clone()));
    }
    assert_eq!(at, tip);
    assert!(matches!(Journal::create(&root, device, CHAIN, SMALL), Err(JournalError::InUse(_))));
    drop(journal);
    assert!(matches!(Journal::create(&root, device, CHAIN, SMALL), Err(JournalError::Exists(_))));
    assert!(matches!(Journal::open(&root, DEVICE, SMALL), Err(JournalError::WrongDevice { found }) if found == device));
    assert!(matches!(Journal::open(dir.path(), device, SMALL), Err(JournalError::Missing(_))));
}

#[test]
fn eight_threads_share_syncs() {
    let dir = dir();
    drop(Journal::create(dir.path(), DEVICE, CHAIN, Options::default()).unwrap());
    let disk = FaultDisk::default();
    let (journal, _) = Journal::open_on(dir.path(), DEVICE, Options::default(), Box::new(disk.clone())).unwrap();
    let syncs_before = disk.plan().syncs;
    let journal = Arc::new(journal);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let journal = Arc::clone(&journal);
            std::thread::spawn(move || (0..50).map(|_| append(&journal).unwrap().seq).collect::<Vec<_>>())
        })
        .collect();
    let mut seen = BTreeSet::new();
    for thread in threads {
        let mine = thread.join().unwrap();
        assert!(mine.is_sorted());
        seen.extend(mine);
    }
    assert_eq!(seen, (1..=400).collect());
    let syncs = disk.plan().syncs - syncs_before;
    assert!(syncs < 200, "{syncs} syncs for 400 appends");
    assert_eq!(journal.tip(), tip_at(CHAIN, 400));
    drop(journal);
    let (journal, recovery) = Journal::open(dir.path(), DEVICE, Options::default()).unwrap();
    assert_eq!((recovery.links, journal.tip()), (400, tip_at(CHAIN, 400)));
}

#[test]
fn a_refused_or_false_or_panicking_maker_moves_nothing() {
    let dir = dir();
    let journal = Journal::create(dir.path(), DEVICE, CHAIN, SMALL).unwrap();
    let refused = journal.append(Priority::Routine, |_| Err(Refusal::TooLarge));
    assert!(matches!(refused, Err(JournalError::Refused(Refusal::TooLarge))));
    let skipped = journal.append(Priority::Routine, |tip| Ok(link(&link(tip).1)));
    assert!(matches!(skipped, Err(JournalError::NotNext)));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| journal.append(Priority::Routine, never)));
    assert!(panicked.is_err());
    assert_eq!(append(&journal).unwrap(), tip_at(CHAIN, 1));
}

#[test]
fn receipts_are_checked_and_cumulative() {
    let dir = dir();
    let journal = Journal::create(dir.path(), DEVICE, CHAIN, SMALL).unwrap();
    for _ in 0..5 {
        append(&journal).unwrap();
    }
    let at = |seq| tip_at(CHAIN, seq);
    let refusal = |receipt| match journal.acknowledge(&receipt) {
        Err(JournalError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(receipt_for(DeviceId([8; 16]), at(2))), Refusal::WrongDevice);
    assert_eq!(refusal(receipt(tip_at(ChainId([1; 16]), 2))), Refusal::WrongEpoch);
    assert_eq!(refusal(receipt(at(6))), Refusal::Gap);
    assert_eq!(refusal(receipt(Tip { hash: [0; 32], ..at(3) })), Refusal::Fork);
    assert_eq!(journal.acknowledge(&receipt(at(0))).unwrap(), 0);
    assert_eq!(journal.acknowledge(&receipt(at(3))).unwrap(), 3);
    assert_eq!(journal.acknowledge(&receipt(at(3))).unwrap(), 0);
    assert_eq!(journal.acknowledge(&receipt(at(1))).unwrap(), 0);
    assert_eq!(refusal(receipt(Tip { hash: [0; 32], ..at(3) })), Refusal::Fork);
    assert_eq!((journal.acknowledged(), journal.outstanding()), (at(3), 2));
    assert_eq!((journal.hash_at(2), journal.hash_at(3)), (None, Some(at(3).hash)));
    assert_eq!((journal.hash_at(5), journal.hash_at(6)), (Some(at(5).hash), None));
    drop(journal);
    let (journal, recovery) = Journal::open(dir.path(), DEVICE, SMALL).unwrap();
    assert_eq!((journal.acknowledged(), recovery.unacknowledged, recovery.links), (at(3), 2, 5));
    let batch = journal.unacknowledged(9).unwrap().unwrap();
    assert_eq!((batch.after, batch.links.len()), (at(3), 2));
    assert_eq!(journal.acknowledge(&receipt(at(5))).unwrap(), 2);
    assert_eq!(journal.unacknowledged(9).unwrap(), None);
}

#[test]
fn covered_segments_go_and_a_long_covered_one_is_left_for_another() {
    let dir = dir();
    let options = Options { segment_bytes: 100 * 1024, ..SMALL };
    let journal = Journal::create(dir.path(), DEVICE, CHAIN, options).unwrap();
    for _ in 0..500 {
        append(&journal).unwrap();
    }
    let files = || layout::segments(&dir.path().join("chain-0000000001")).unwrap();
    assert_eq!(files().len(), 2);
    let before = journal.used_bytes();
    assert_eq!(journal.acknowledge(&receipt(tip_at(CHAIN, 100))).unwrap(), 100);
    assert_eq!(files().len(), 2);
    assert_eq!(journal.acknowledge(&receipt(tip_at(CHAIN, 300))).unwrap(), 200);
    assert_eq!(files().len(), 1);
    assert!(journal.used_bytes() < before / 2);
    assert_eq!(journal.acknowledge(&receipt(journal.tip())).unwrap(), 200);
    assert_eq!(files().iter().map(|(first, _)| *first).collect::<Vec<_>>(), [501]);
    assert_eq!(journal.used_bytes(), HEADER_BYTES as u64);
    drop(journal);
    let (journal, _) = Journal::open(dir.path(), DEVICE, options).unwrap();
    assert_eq!((journal.tip(), journal.acknowledged()), (tip_at(CHAIN, 500), tip_at(CHAIN, 500)));
    assert_eq!(append(&journal).unwrap().seq, 501);
}

#[test]
fn capacity_has_a_reserve_for_emergencies() {
    let dir = dir();
    let options = Options {
        capacity_bytes: RESERVE_STEP + 2 * LINK_RECORD_BYTES as u64,
        emergency_bytes: 2 * LINK_RECORD_BYTES as u64,
        segment_bytes: 1024 * 1024,
    };
    let journal = Journal::create(dir.path(), DEVICE, CHAIN, options).unwrap();
    assert_eq!(journal.fill(), Fill::Normal);
    let mut warned = false;
    loop {
        match append(&journal) {
            Ok(_) => warned |= journal.fill() == Fill::Warning,
            Err(JournalError::Full) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(warned);
    assert_eq!(journal.fill(), Fill::Full);
    assert!(matches!(journal.append(Priority::Routine, never), Err(JournalError::Full)));
    let mut emergencies = 0;
    while journal.append(Priority::Emergency, |tip| Ok(link(tip))).is_ok() {
        emergencies += 1;
    }
    assert!((2..=3).contains(&emergencies));
    journal.acknowledge(&receipt(journal.tip())).unwrap();
    assert_eq!(journal.fill(), Fill::Normal);
    append(&journal).unwrap();
    let tiny = Options { capacity_bytes: 10, ..SMALL };
    assert!(matches!(Journal::open(dir.path(), DEVICE, tiny), Err(JournalError::CapacityTooSmall(_))));
}

#[test]
fn a_new_chain_waits_for_receipts_unless_forced() {
    let dir = dir();
    let (second, third) = (ChainId([2; 16]), ChainId([3; 16]));
    let journal = Journal::create(dir.path(), DEVICE, CHAIN, SMALL).unwrap();
    append(&journal).unwrap();
    assert!(matches!(journal.new_chain(second, false), Err(JournalError::Unacknowledged(1))));
    assert!(matches!(journal.new_chain(CHAIN, true), Err(JournalError::SameChain(_))));
    journal.acknowledge(&receipt(journal.tip())).unwrap();
    journal.new_chain(second, false).unwrap();
    assert_eq!(journal.tip(), Tip::start(&DEVICE, second));
    assert!(!dir.path().join("chain-0000000001").exists(), "covered whole");
    append(&journal).unwrap();
    journal.new_chain(third, true).unwrap();
    assert!(dir.path().join("chain-0000000002").exists(), "unsent links are kept");
    assert_eq!(append(&journal).unwrap(), tip_at(third, 1));
    let used = journal.used_bytes();
    drop(journal);
    let (journal, recovery) = Journal::open(dir.path(), DEVICE, SMALL).unwrap();
    assert_eq!((journal.tip(), journal.used_bytes()), (tip_at(third, 1), used));
    assert_eq!(recovery.closed, [ClosedChain { dir: dir.path().join("chain-0000000002"), unsent: Some((second, 1)) }]);
}

#[derive(Debug, Clone)]
enum Do {
    Append(u8),
    /// Acknowledge so many 256ths of what is outstanding.
    Acknowledge(u8),
    Reopen,
    NewChain,
}

fn steps() -> impl Strategy<Value = Vec<Do>> {
    let step = prop_oneof![
        4 => (1u8..60).prop_map(Do::Append),
        3 => any::<u8>().prop_map(Do::Acknowledge),
        2 => Just(Do::Reopen),
        1 => Just(Do::NewChain),
    ];
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// Whatever is done in whatever order, the journal holds what a list with one index would.
    #[test]
    fn model(steps in steps(), segment_bytes in prop_oneof![Just(2_000u64), Just(100_000)]) {
        let dir = dir();
        let options = Options { segment_bytes, ..SMALL };
        let mut journal = Journal::create(dir.path(), DEVICE, CHAIN, options).unwrap();
        let (mut tips, mut acknowledged, mut chains) = (vec![Tip::start(&DEVICE, CHAIN)], 0usize, 1u8);
        for step in steps {
            match step {
                Do::Append(count) => for _ in 0..count {
                    let tip = append(&journal).unwrap();
                    prop_assert_eq!(tip.seq, tips.len() as u64);
                    tips.push(tip);
                },
                Do::Acknowledge(part) => {
                    let more = (tips.len() - 1 - acknowledged) * usize::from(part) / 255;
                    let covered = journal.acknowledge(&receipt(tips[acknowledged + more])).unwrap();
                    prop_assert_eq!(covered, more as u64);
                    acknowledged += more;
                }
                Do::Reopen => {
                    drop(journal);
                    let (again, recovery) = Journal::open(dir.path(), DEVICE, options).unwrap();
                    prop_assert_eq!(recovery.torn_bytes, 0);
                    prop_assert_eq!(recovery.closed.len(), 0);
                    journal = again;
                }
                Do::NewChain => {
                    let unsent = tips.len() - 1 != acknowledged;
                    chains += 1;
                    let made = journal.new_chain(ChainId([chains; 16]), false);
                    prop_assert_eq!(made.is_err(), unsent);
                    if !unsent {
                        (tips, acknowledged) = (vec![Tip::start(&DEVICE, ChainId([chains; 16]))], 0);
                    }
                }
            }
            prop_assert_eq!(Some(&journal.tip()), tips.last());
            prop_assert_eq!(journal.acknowledged(), tips[acknowledged]);
            let batch = journal.unacknowledged(200).unwrap();
            prop_assert_eq!(batch.as_ref().map_or(0, |b| b.links.len()), (tips.len() - 1 - acknowledged).min(200));
            prop_assert!(batch.is_none_or(|b| b.after == tips[acknowledged]));
        }
    }
}
