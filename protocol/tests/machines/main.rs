//! The sync machines against an honest publisher over a bad network, and against inputs that no driver should send.
//! Every failure is drawn from a seed, so that a red run can be repeated.

mod arbitrary;
mod combined;
#[path = "../common/mod.rs"]
mod common;
mod driver;
mod publisher;
mod resume;
mod roots;
mod upload;

use common::SeedRng;
use common::feed::FeedLog;
use common::world::{DAY_MS, T0};
use cpis_protocol::Refusal;
use cpis_protocol::cell::CellKind;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::pull::{Effect, Input, Outcome};
use driver::{Device, Way, Weather};
use publisher::Publisher;

fn publisher(rng: &mut SeedRng) -> Publisher {
    let mut feeds: Vec<_> = ["E09000033", "E10000016", "E92000001"]
        .iter()
        .zip(1..)
        .map(|(feed, epoch)| FeedLog::new(feed, epoch))
        .collect();
    for (feed, most) in feeds.iter_mut().zip([700, 40, 1]) {
        for who in 0..rng.below(most) {
            feed.fill(CellKind::Put, u64::from(who) * 7);
        }
    }
    Publisher::new(feeds)
}

/// The register moves on: puts, removals, pads; now and then a new epoch or a log cut short.
fn change(publisher: &mut Publisher, rng: &mut SeedRng) {
    let which = rng.below(publisher.feeds.len() as u32) as usize;
    let feed = &mut publisher.feeds[which];
    for _ in 0..rng.below(60) {
        let kind = [CellKind::Put, CellKind::Put, CellKind::Remove, CellKind::Pad][rng.below(4) as usize];
        feed.fill(kind, u64::from(rng.below(5000)));
    }
    match rng.below(12) {
        0 => {
            let mut renewed = FeedLog::new(feed.place.feed.as_str(), feed.place.epoch + 100);
            for who in 0..rng.below(300) {
                renewed.fill(CellKind::Put, u64::from(who));
            }
            *feed = renewed;
        }
        1 => feed.pruned = feed.log.len() as u32,
        _ => {}
    }
    publisher.publish();
}

#[track_caller]
fn assert_equal(device: &Device, publisher: &Publisher, seed: u64) {
    let head = device.head.as_ref().unwrap_or_else(|| panic!("seed {seed}: no copy"));
    assert_eq!(head.bytes(), publisher.current, "seed {seed}");
    for feed in &publisher.feeds {
        let (state, cells) = &device.replica[&feed.place.feed];
        assert_eq!((state, cells), (&feed.state(), &feed.live(feed.log.len() as u32)), "seed {seed}");
    }
}

/// Whatever fails on the way, once failures stop the copy becomes the register, in few attempts.
#[test]
fn converges_after_any_weather() {
    let mut ways = std::collections::BTreeSet::new();
    let mut refused = 0;
    for seed in 0..60 {
        let mut rng = SeedRng::new(seed);
        let mut publisher = publisher(&mut rng);
        let mut device = Device::new(&publisher, true);
        device.combines = seed % 4 != 0;
        let mut weather = Weather { chance: 5 + rng.below(40), rng: SeedRng::new(1000 + seed), ..Weather::fair() };
        for step in 0..25 {
            if rng.below(3) == 0 {
                change(&mut publisher, &mut rng);
            }
            if step == 12 && seed % 3 == 0 {
                publisher.rotate(0x51, 0x52, T0 + 365 * DAY_MS);
            }
            refused += u32::from(matches!(device.attempt(&mut publisher, &mut weather), Outcome::Refused(_)));
        }
        // The last failure may have damaged a target or a feed: one attempt to notice, one to mend, one to confirm.
        let outcomes: Vec<_> = (0..4).map(|_| device.attempt(&mut publisher, &mut Weather::fair())).collect();
        assert_eq!(outcomes.last(), Some(&Outcome::UpToDate), "seed {seed}: {outcomes:?}");
        assert_equal(&device, &publisher, seed);
        ways.extend(device.ways);
    }
    assert_eq!(ways.into_iter().collect::<Vec<_>>(), [Way::Kept, Way::Merged, Way::Whole], "every road was travelled");
    assert!(refused > 50, "the weather was too fair to prove anything: {refused} refusals");
}

/// A device that followed every step and one that came late hold the same cells.
#[test]
fn both_roads_end_at_the_same_state_root() {
    for seed in 0..15 {
        let mut rng = SeedRng::new(seed);
        let mut publisher = publisher(&mut rng);
        let mut early = Device::new(&publisher, true);
        assert_eq!(early.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        early.ways.clear();
        for _ in 0..6 {
            let grown: Vec<_> = (0..20).map(|_| u64::from(rng.below(900))).collect();
            grown.iter().for_each(|who| publisher.feeds[0].fill(CellKind::Put, *who));
            publisher.feeds[0].fill(CellKind::Remove, grown[0]);
            publisher.publish();
            assert_eq!(early.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        }
        let mut late = Device::new(&publisher, true);
        assert_eq!(late.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        assert_eq!(early.ways.iter().copied().collect::<Vec<_>>(), [Way::Kept, Way::Merged]);
        assert_eq!(late.ways.iter().copied().collect::<Vec<_>>(), [Way::Whole]);
        assert_equal(&early, &publisher, seed);
        assert!(early.replica == late.replica, "seed {seed}");
    }
}

fn synced(seed: u64) -> (Publisher, Device) {
    let mut publisher = publisher(&mut SeedRng::new(seed));
    let mut device = Device::new(&publisher, true);
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    (publisher, device)
}

/// Somebody on the way passes the grant on and says "revoked" to the rest: one question for the grant, then a wait.
#[test]
fn a_refusal_that_the_grant_belies_is_not_asked_about_again_and_again() {
    let (mut publisher, mut device) = synced(3);
    for wake in [Input::WakeNow, Input::Wake] {
        let (mut input, mut grants, mut waits) = (wake, 0, false);
        for _ in 0..20 {
            let now = device.now();
            input = match device.pull.step(input, now) {
                Effect::Fetch(requests) => Input::Fetched(
                    requests
                        .iter()
                        .map(|request| {
                            let granted = matches!(request, Request::Grant);
                            grants += u32::from(granted);
                            let now_ms = T0 + now.tick_ms.cast_signed();
                            if granted { publisher.answer(request, now_ms) } else { Err(Failure::Revoked) }
                        })
                        .collect(),
                ),
                Effect::CatchUp(_) => Input::CaughtUp(Err(Failure::Revoked)),
                Effect::StoreGrant { .. } => Input::Stored,
                Effect::Wait { outcome, until_ms } => {
                    assert_eq!((outcome, grants), (Outcome::Failed(Failure::Revoked), 1));
                    device.tick_ms = until_ms;
                    waits = true;
                    break;
                }
                other => panic!("nothing else follows from an unsigned word: {other:?}"),
            };
        }
        assert!(waits, "{grants} questions for the grant, and no wait");
    }
}

/// A delta that is not served any more must not hold a device up: the same attempt takes the other road.
#[test]
fn a_log_cut_short_is_gone_around() {
    let (mut publisher, mut device) = synced(3);
    publisher.feeds[0].fill(CellKind::Put, 1);
    publisher.feeds[0].pruned = publisher.feeds[0].log.len() as u32;
    publisher.publish();
    device.ways.clear();
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    assert!(device.ways.contains(&Way::Whole));
    assert_equal(&device, &publisher, 3);
}

/// The objects of one long delta may arrive out of turn; the last word on a record is still the last.
#[test]
fn a_long_delta_survives_a_lost_reply() {
    let mut log = FeedLog::new("E09000033", 1);
    (0..1000).for_each(|who| log.fill(CellKind::Put, who));
    let mut publisher = Publisher::new(vec![log]);
    let mut device = Device::new(&publisher, true);
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    device.ways.clear();
    (0..1000).for_each(|n| publisher.feeds[0].fill(CellKind::Put, n % 300));
    publisher.publish();
    let mut weather = Weather { lose_first: true, ..Weather::fair() };
    while device.attempt(&mut publisher, &mut weather) != Outcome::UpToDate {}
    assert!(!weather.lose_first, "nothing was lost");
    assert_eq!(device.ways.iter().copied().collect::<Vec<_>>(), [Way::Merged], "no road but the delta");
    assert_equal(&device, &publisher, 0);
}

/// Idle costs one beat; nothing else is asked for while nothing changes and the grant is not due.
#[test]
fn idle_costs_one_request() {
    let (mut publisher, mut device) = synced(4);
    let before = device.requests;
    for _ in 0..20 {
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    }
    assert_eq!(device.requests - before, 20);
}

/// Roots are followed past one that has expired meanwhile, and when the trusted one has (TUF 5.3.3, 5.3.10).
#[test]
fn an_expired_root_is_followed_by_its_successors() {
    for with_grant in [true, false] {
        let mut publisher = publisher(&mut SeedRng::new(5));
        let mut device = Device::new(&publisher, with_grant);
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        publisher.rotate(common::world::BEAT, common::world::PUBLISHER, T0 + 400 * DAY_MS);
        publisher.rotate(common::world::BEAT, common::world::PUBLISHER, T0 + 900 * DAY_MS);
        device.tick_ms += 500 * DAY_MS.cast_unsigned();
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate, "with grant: {with_grant}");
        assert_eq!(device.trust.root().version, 3);
        assert_equal(&device, &publisher, 5);
    }
}

/// A root that has expired without a successor stops installing, and says why.
#[test]
fn an_expired_root_without_successor_refuses() {
    let (mut publisher, mut device) = synced(6);
    device.tick_ms += 366 * DAY_MS.cast_unsigned();
    let outcome = device.attempt(&mut publisher, &mut Weather::fair());
    assert_eq!(outcome, Outcome::Refused(Refusal::Expired));
    assert!(device.head.is_some(), "the copy stays");
}

/// A root that only withdraws or adds keys reaches the device with the next grant, though nothing is signed by them.
#[test]
fn a_routine_rotation_reaches_the_device() {
    let (mut publisher, mut device) = synced(7);
    publisher.rotate(common::world::BEAT, common::world::PUBLISHER, T0 + 365 * DAY_MS);
    device.tick_ms += 3_700_000;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    assert_eq!(device.trust.root().version, 2);
}

/// A next root that the present keys did not sign is refused at once: no further copy of it is asked for.
#[test]
fn a_forged_root_costs_one_request() {
    for (combines, questions) in [(true, 1), (false, 2)] {
        forged_root(combines, questions);
    }
}

fn forged_root(combines: bool, questions: u64) {
    let (mut publisher, mut device) = synced(8);
    device.combines = combines;
    let forged = common::world::signed_root(&common::world::root(2), &[0x7f]);
    publisher.roots.insert(2, forged);
    publisher.beat_key = 0x7f;
    let before = device.requests;
    let outcome = device.attempt(&mut publisher, &mut Weather::fair());
    assert_eq!(outcome, Outcome::Refused(Refusal::UnknownKey));
    assert_eq!(device.requests - before, questions, "one question for all; or one beat, one root");
    assert_eq!(device.trust.root().version, 1);
}

/// R49: what a re-seal looks like to a device that is online, and to one that only gets sticks.
#[test]
fn keys_come_before_the_cells_they_open() {
    let mut rng = SeedRng::new(7);
    let mut publisher = publisher(&mut rng);
    let (mut online, mut by_stick) = (Device::new(&publisher, true), Device::new(&publisher, false));
    for device in [&mut online, &mut by_stick] {
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    }
    let first = publisher.current.clone();
    let mut renewed = FeedLog::new("E09000033", 99);
    renewed.fill(CellKind::Put, 1);
    publisher.feeds[0] = renewed;
    publisher.publish();
    // The routine grant is not due: the head itself is the reason to ask.
    assert_eq!(online.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    assert_equal(&online, &publisher, 7);
    assert_eq!(by_stick.attempt(&mut publisher, &mut Weather::fair()), Outcome::KeyMissing);
    assert_eq!(by_stick.head.as_ref().map(|head| head.bytes()), Some(&first[..]), "the last good copy stands");
}
