//! Nothing is fetched twice, and what is repaired is repaired by part: cuts, restarts, rot, and a log cut short.
//! It must not count what the device says: bytes are counted on the wire.

use std::collections::BTreeSet;

use cpis_protocol::cell::CellKind;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::pull::{Effect, Input, Outcome};
use proptest::prelude::*;

use crate::assert_equal;
use crate::common::SeedRng;
use crate::common::feed::FeedLog;
use crate::common::world::{self, DAY_MS, T0};
use crate::driver::{Device, Way, Weather};
use crate::publisher::Publisher;

/// Two feeds: one of many chunks, one of a single one.
fn publisher(many: u64) -> Publisher {
    let mut feeds = vec![FeedLog::new("E09000033", 1), FeedLog::new("E10000016", 2)];
    (0..many).for_each(|who| feeds[0].fill(CellKind::Put, who * 8));
    (0..100).for_each(|who| feeds[1].fill(CellKind::Put, who));
    Publisher::new(feeds)
}

/// A device whose server answers each question by itself: here objects are counted.
fn separate(publisher: &Publisher) -> Device {
    let mut device = Device::new(publisher, true);
    device.combines = false;
    device
}

fn cut_after(replies: u32) -> Weather {
    Weather { left: Some(replies), ..Weather::fair() }
}

/// The link goes after every few replies and the agent stops each time: every chunk comes once, and once only.
#[test]
fn no_chunk_is_fetched_twice_over_cuts_and_restarts() {
    for (replies, restarts) in [(7, true), (9, true), (14, true), (5, false), (9, false)] {
        let mut publisher = publisher(3000);
        let mut device = separate(&publisher);
        let mut cuts = 0;
        while device.attempt(&mut publisher, &mut cut_after(replies)) != Outcome::UpToDate {
            cuts += 1;
            assert!(cuts < 40, "{replies} replies at a time do not converge");
            if restarts {
                device.restart(BTreeSet::new());
            }
        }
        assert!(cuts > 0);
        assert_equal(&device, &publisher, u64::from(replies));
        assert_eq!((device.chunks, device.cells), (13, 3100), "{replies} replies at a time, restarts: {restarts}");
    }
}

/// The register moves on during each cut: what was begun is finished, then what came after it is fetched.
#[test]
fn cuts_converge_while_the_register_moves() {
    let mut publisher = publisher(2000);
    let mut device = separate(&publisher);
    for round in 0..12 {
        device.attempt(&mut publisher, &mut cut_after(9));
        device.restart(BTreeSet::new());
        publisher.feeds[0].fill(CellKind::Put, round * 1000 + 3);
        publisher.publish();
    }
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    assert_equal(&device, &publisher, 0);
    assert!(device.cells < 2100 + 40, "{} cells for 2,100 and some changes", device.cells);
    assert!(device.ways.contains(&Way::Merged), "what came after by delta");
}

/// A target that is gone at the server (its log was cut) leaves its chunks: the next one takes over what is equal.
#[test]
fn chunks_of_a_target_that_is_gone_are_taken_over() {
    let mut publisher = publisher(3000);
    let mut device = separate(&publisher);
    // Grant, root, beat, head, reference data, manifest: six; then eight chunks.
    device.attempt(&mut publisher, &mut cut_after(14));
    assert_eq!(device.chunks, 8);
    publisher.feeds[0].fill(CellKind::Put, 5);
    publisher.feeds[0].oldest = publisher.feeds[0].log.len() as u32;
    publisher.publish();
    device.restart(BTreeSet::new());
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::Failed(Failure::NotFound));
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    assert_equal(&device, &publisher, 0);
    assert!(device.chunks <= 14, "{} chunks for 13, one of which changed", device.chunks);
}

fn synced(many: u64) -> (Publisher, Device) {
    let mut publisher = publisher(many);
    let mut device = separate(&publisher);
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    (device.chunks, device.cells) = (0, 0);
    device.ways.clear();
    (publisher, device)
}

/// Rows that cannot be read cost the chunks that they lie in, also when the register has moved on meanwhile.
#[test]
fn rot_costs_the_chunks_that_it_lies_in() {
    for moved in [false, true] {
        let (mut publisher, mut device) = synced(3000);
        let feed = publisher.feeds[0].place.feed;
        device.rotten.insert(feed, (700..716).chain([2999]).collect());
        if moved {
            publisher.feeds[0].fill(CellKind::Put, 4 * 8 + 1);
            publisher.publish();
        }
        device.restart(BTreeSet::from([feed]));
        let before = device.requests;
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        assert_equal(&device, &publisher, 0);
        // Grant, next root, beat, manifest, the chunks; a newer head is asked for, and its bounds.
        assert_eq!(device.requests - before, if moved { 9 } else { 6 }, "moved on: {moved}");
        assert_eq!(device.chunks, if moved { 3 } else { 2 }, "moved on: {moved}");
    }
}

/// Away for longer than the log reaches: only the ranges that differ come, whatever a liar says of where they lie.
#[test]
fn a_log_cut_short_costs_the_ranges_that_differ() {
    for lying_bounds in [false, true] {
        let (mut publisher, mut device) = synced(3000);
        (0..300).for_each(|n| publisher.feeds[0].fill(CellKind::Put, 8000 + n * 2));
        publisher.feeds[0].fill(CellKind::Remove, 8);
        publisher.feeds[0].pruned = publisher.feeds[0].log.len() as u32;
        publisher.publish();
        let mut weather = Weather { lying_bounds, ..Weather::fair() };
        assert_eq!(device.attempt(&mut publisher, &mut weather), Outcome::UpToDate);
        assert_equal(&device, &publisher, 0);
        let all = publisher.feeds[0].state().count.div_ceil(256).into();
        assert!(device.chunks <= if lying_bounds { all } else { 6 }, "{} of {all} chunks", device.chunks);
        assert_eq!(device.ways.iter().copied().collect::<Vec<_>>(), [Way::Kept, Way::Whole]);
    }
}

/// R254: what a withdrawn key signed is let go of, also where it was pinned; its chunks count for what they are.
#[test]
fn a_pinned_target_by_a_withdrawn_key_is_let_go() {
    let mut publisher = publisher(3000);
    let mut device = separate(&publisher);
    device.attempt(&mut publisher, &mut cut_after(14));
    assert_eq!(device.chunks, 8);
    publisher.rotate(0x51, 0x52, T0 + 365 * DAY_MS);
    device.trust = device.trust.rotate(&publisher.roots[&2]).unwrap_or_else(|e| panic!("{e}"));
    device.restart(BTreeSet::new());
    assert_eq!(device.pull.progress(), None, "a target by a withdrawn key was restored");
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    assert_equal(&device, &publisher, 0);
    assert_eq!(device.chunks, 13, "what was staged is equal, and was proved so");
}

/// R255: a restored target is dated only by a beat that the server gave in this life.
#[test]
fn a_restored_target_dates_nothing_by_itself() {
    for moved in [false, true] {
        let mut publisher = publisher(3000);
        let mut device = separate(&publisher);
        device.attempt(&mut publisher, &mut cut_after(14));
        device.restart(BTreeSet::new());
        if moved {
            publisher.feeds[1].fill(CellKind::Put, 5000);
            publisher.publish();
        }
        let (mut input, mut first) = (Input::Wake, None);
        for _ in 0..50 {
            let now = device.now();
            input = match device.pull.step(input, now) {
                Effect::CatchUp(_) => Input::CaughtUp(Err(Failure::NotFound)),
                Effect::Fetch(requests) => Input::Fetched(requests.iter().map(|r| publisher.answer(r, T0)).collect()),
                Effect::Compare(comparisons) => {
                    Input::Compared(comparisons.iter().map(|c| (c.state.feed, vec![0, 1])).collect())
                }
                Effect::Apply(plan) => {
                    first = Some((plan.asked_ms, plan.head.gseq));
                    break;
                }
                _ => Input::Stored,
            };
        }
        let gseq = publisher.gseq - u64::from(moved);
        assert_eq!(first, Some(((!moved).then_some(device.tick_ms), gseq)), "moved on: {moved}");
    }
}

/// A device that has nothing staged is asked to compare, and asks for no bounds; one chunk needs no manifest.
#[test]
fn nothing_is_asked_for_that_is_known() {
    let mut publisher = publisher(0);
    publisher.feeds.remove(0);
    publisher.publish();
    let mut device = Device::new(&publisher, false);
    let mut asked = Vec::new();
    let mut input = Input::Wake;
    loop {
        let now = device.now();
        input = match device.pull.step(input, now) {
            Effect::Fetch(requests) => {
                asked.extend(requests.iter().cloned());
                Input::Fetched(requests.iter().map(|r| publisher.answer(r, T0)).collect())
            }
            Effect::Compare(_) => Input::Compared(Vec::new()),
            Effect::Pin(_) | Effect::Stage(_) => Input::Stored,
            Effect::Apply(_) => break,
            other => panic!("{other:?}"),
        };
    }
    let scope = cpis_protocol::text::Text::lossy(world::SCOPE);
    assert!(matches!(asked[0], Request::Beat(of) if of == scope));
    assert!(matches!(asked[1..], [Request::Head(_), Request::Reference(_), Request::Chunk { .. }]), "{asked:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    /// For any history, any cursor in it and any log cut short: deltas, ranges, and the whole end at the server's set.
    #[test]
    fn every_road_ends_at_the_servers_set(
        seed in any::<u64>(),
        start in 0u32..900,
        ops in 0u32..1200,
        cut in prop::option::of(0u32..1200),
        rot in prop::collection::vec(0usize..900, 0..6),
    ) {
        let mut rng = SeedRng::new(seed);
        let mut feed = FeedLog::new("E09000033", 1);
        (0..start).for_each(|who| feed.fill(CellKind::Put, u64::from(who) << 48));
        let mut publisher = Publisher::new(vec![feed]);
        let mut device = separate(&publisher);
        prop_assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        for _ in 0..ops {
            let kind = [CellKind::Put, CellKind::Remove, CellKind::Pad][rng.below(3) as usize];
            publisher.feeds[0].fill(kind, u64::from(rng.below(1000)) << 48);
        }
        publisher.publish();
        let feed = publisher.feeds[0].place.feed;
        publisher.feeds[0].pruned = cut.map_or(0, |cut| start + cut.min(ops));
        if !rot.is_empty() {
            device.rotten.insert(feed, rot.into_iter().collect());
            device.restart(BTreeSet::from([feed]));
        }
        let mut late = separate(&publisher);
        prop_assert_eq!(late.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        prop_assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        assert_equal(&device, &publisher, seed);
        prop_assert!(device.replica == late.replica);
    }
}
