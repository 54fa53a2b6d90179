//! Opening what a crash, rot or a clumsy hand left behind: byte by byte.

use super::format::HEADER_BYTES;
use super::recover::{Found, read_chain};
use super::testing::{CHAIN, DEVICE, SMALL, append, dir, place, segment, tip_at};
use super::*;

fn start() -> Tip {
    Tip::start(&DEVICE, CHAIN)
}

fn read(root: &Path) -> Result<Found, JournalError> {
    read_chain(&root.join("chain-0000000001"), &DEVICE)
}

#[test]
fn truncation_at_every_byte_of_the_last_group_keeps_its_whole_records() {
    let (bytes, begins, _) = segment(start(), start(), &[2, 1, 3]);
    let last = begins[2];
    for length in last..=bytes.len() {
        let dir = dir();
        let mut cut = bytes[..length].to_vec();
        if length % 2 == 0 {
            cut.resize(length + 700, 0);
        }
        place(dir.path(), &start(), &cut);
        let (journal, recovery) = Journal::open(dir.path(), DEVICE, SMALL).unwrap();
        let whole = (length - last) / LINK_RECORD_BYTES;
        assert_eq!(journal.tip(), tip_at(CHAIN, 3 + whole as u64), "cut at {length}");
        let torn = (length - last) % LINK_RECORD_BYTES;
        assert!(recovery.torn_bytes <= torn as u64 && (recovery.torn_bytes > 0) == (torn > 0), "cut at {length}");
        assert_eq!(append(&journal).unwrap(), tip_at(CHAIN, 4 + whole as u64));
        drop(journal);
        let (journal, recovery) = Journal::open(dir.path(), DEVICE, SMALL).unwrap();
        assert_eq!((journal.tip(), recovery.torn_bytes), (tip_at(CHAIN, 4 + whole as u64), 0));
    }
}

/// A flipped byte is refused, or cuts off a part of the last group and says so, or lies in the reserved zeros.
#[test]
fn every_flipped_byte_is_detected_or_harmless() {
    let (mut bytes, begins, tip) = segment(start(), start(), &[2, 1, 3]);
    let end = bytes.len();
    bytes.resize(end + 100, 0);
    let dir = dir();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = bytes.clone();
            bad[at] ^= flip;
            place(dir.path(), &start(), &bad);
            match read(dir.path()) {
                Ok(found) => {
                    let got = found.index.tip();
                    assert!(at >= begins[2] && got.seq >= 3, "byte {at} was accepted");
                    assert_eq!(got, tip_at(CHAIN, got.seq), "byte {at} made a wrong chain");
                    assert!(found.torn_bytes > 0 && (at < end || got == tip), "byte {at} was not told of");
                }
                Err(JournalError::Damaged { offset, .. }) => assert!(offset <= at as u64 && at < begins[2]),
                Err(JournalError::Format { .. }) => assert_eq!(at, 8),
                Err(other) => panic!("byte {at}: {other}"),
            }
        }
    }
}

#[test]
fn a_damaged_journal_is_not_touched_and_can_be_left_for_another() {
    let (mut bytes, begins, _) = segment(start(), start(), &[1, 1, 1]);
    bytes[begins[1] + 40] ^= 4;
    let dir = dir();
    let path = place(dir.path(), &start(), &bytes);
    let error = Journal::open(dir.path(), DEVICE, SMALL).unwrap_err();
    assert!(matches!(&error, JournalError::Damaged { offset, .. } if *offset == begins[1] as u64), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let chain = ChainId([5; 16]);
    let (journal, recovery) = Journal::start_over(dir.path(), DEVICE, chain, SMALL).unwrap();
    assert_eq!(recovery.closed.iter().map(|c| c.unsent).collect::<Vec<_>>(), [None]);
    append(&journal).unwrap();
    drop(journal);
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(Journal::open(dir.path(), DEVICE, SMALL).unwrap().0.tip(), tip_at(chain, 1));
}

#[test]
fn another_format_is_refused_in_words() {
    let (mut bytes, _, _) = segment(start(), start(), &[1]);
    bytes[8] = 2;
    let dir = dir();
    place(dir.path(), &start(), &bytes);
    let error = Journal::open(dir.path(), DEVICE, SMALL).unwrap_err();
    assert!(error.to_string().contains("has format 2, and this build reads format 1: install"), "{error}");
}

#[test]
fn whole_records_that_do_not_follow_are_damage() {
    let (bytes, begins, _) = segment(start(), start(), &[1, 1, 1]);
    let dir = dir();
    // Two whole records that changed places.
    let swapped = [&bytes[..begins[1]], &bytes[begins[2]..], &bytes[begins[1]..begins[2]]].concat();
    place(dir.path(), &start(), &swapped);
    assert!(matches!(read(dir.path()), Err(JournalError::Damaged { .. })));
    // The same link twice, framed anew: the hash does not follow.
    let (first, _, _) = segment(start(), start(), &[1]);
    let record = Framed::read(&first[HEADER_BYTES..]).unwrap().record().unwrap();
    let mut twice = first.clone();
    record.write(first.len() as u32, &mut twice).unwrap();
    place(dir.path(), &start(), &twice);
    assert!(matches!(read(dir.path()), Err(JournalError::Damaged { offset, .. }) if offset == first.len() as u64));
}

#[test]
fn missing_segments_are_told() {
    let dir = dir();
    let (one, _, after_one) = segment(start(), start(), &[2]);
    let (two, _, after_two) = segment(after_one, start(), &[2]);
    let (three, _, _) = segment(after_two, start(), &[2]);
    let first = place(dir.path(), &start(), &one);
    let second = place(dir.path(), &after_one, &two);
    place(dir.path(), &after_two, &three);
    assert_eq!(read(dir.path()).unwrap().index.tip(), tip_at(CHAIN, 6));
    std::fs::remove_file(second).unwrap();
    assert!(matches!(read(dir.path()), Err(JournalError::Lost { after: 2, before: 5, .. })));
    std::fs::remove_file(first).unwrap();
    assert!(matches!(read(dir.path()), Err(JournalError::Lost { after: 0, before: 5, .. })));
}

/// A later segment proves that the one before it was whole, so a short one is not a torn tail.
#[test]
fn a_short_segment_before_another_is_damage() {
    let dir = dir();
    let (one, begins, after_one) = segment(start(), start(), &[1, 1]);
    let (two, _, _) = segment(after_one, start(), &[1]);
    place(dir.path(), &after_one, &two);
    place(dir.path(), &start(), &one[..one.len() - 1]);
    assert!(matches!(read(dir.path()), Err(JournalError::Damaged { offset, .. }) if offset == begins[1] as u64));
    place(dir.path(), &start(), &one[..begins[1]]);
    assert!(matches!(read(dir.path()), Err(JournalError::Lost { after: 1, before: 3, .. })));
}
