//! When devices come: evenly over the poll's interval, evenly after an outage, and never in step.
//! Ten thousand devices, each with its own identity, by the very machine that paces the agent.

use std::collections::BTreeSet;

use cpis_protocol::digest;
use cpis_protocol::id::DeviceId;
use cpis_protocol::message::{Failure, NEWS};
use cpis_protocol::sync::Now;
use cpis_protocol::sync::backoff::Backoff;
use cpis_protocol::sync::news::News;
use proptest::prelude::*;

const FLEET: u64 = 10_000;
const POLL_S: u64 = 300;
const T0: i64 = 1_795_305_600_000;

/// As real identities are: the hash of a key.
fn device(n: u64) -> DeviceId {
    let hash = digest::hash("cpis-edge/test/fleet", &[&n.to_be_bytes()]);
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    DeviceId(id)
}

fn fleet(salt: u64) -> impl Iterator<Item = Backoff> {
    (0..FLEET).map(move |n| Backoff::new(device(n + salt * FLEET)))
}

/// The present of a device whose ticks are what passed since a moment of trusted time.
fn at(tick_ms: u64) -> Now {
    Now { tick_ms, time_ms: Some(T0 + tick_ms.cast_signed()) }
}

/// The most in one bin of so many seconds, as a multiple of the mean over all of them.
fn crowding(arrivals_ms: &[u64], from_ms: u64, seconds: u64, bin_s: u64) -> f64 {
    let mut bins = vec![0u32; usize::try_from(seconds / bin_s).unwrap_or_default()];
    let mut inside = 0u32;
    for arrival_ms in arrivals_ms.iter().filter(|ms| **ms >= from_ms) {
        let bin = usize::try_from((arrival_ms - from_ms) / (bin_s * 1000)).unwrap_or(usize::MAX);
        if let Some(bin) = bins.get_mut(bin) {
            *bin += 1;
            inside += 1;
        }
    }
    let most = bins.iter().copied().max().unwrap_or(0);
    f64::from(most) * f64::from(u32::try_from(bins.len()).unwrap_or(1)) / f64::from(inside.max(1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Everybody synced in the same second, e.g. because somebody told them to: from the next interval on they come evenly,
    /// and each once in it.
    #[test]
    fn no_second_of_the_interval_holds_more_than_twice_its_share(salt in 0u64..1000, poll_s in 120u64..900, rounds in 1usize..4) {
        let mut polls = Vec::new();
        for mut backoff in fleet(salt) {
            let mut tick_ms = 3_000;
            for round in 0..rounds {
                let next_ms = backoff.poll_at(at(tick_ms), poll_s * 1000);
                let (wait_ms, interval_ms) = (next_ms - tick_ms, poll_s * 1000);
                prop_assert!(wait_ms >= interval_ms / 2 && wait_ms <= interval_ms * 3 / 2 + interval_ms / 32);
                // From its place on, a device comes once in each interval.
                prop_assert!(round == 0 || wait_ms.abs_diff(interval_ms) <= interval_ms / 32, "{wait_ms}");
                tick_ms = next_ms;
            }
            polls.push(tick_ms);
        }
        let first_ms = polls.iter().copied().min().unwrap_or(0);
        // The jitter smears the first and last seconds: what is judged is the whole intervals between.
        let crowding = crowding(&polls, first_ms, poll_s + poll_s / 32, 1);
        // Ten thousand over 900 seconds are eleven in each: chance alone makes more than twice that of some second.
        let allowed = if poll_s <= 300 { 2.0 } else { 3.0 };
        prop_assert!(crowding <= allowed, "{crowding} times its share, {poll_s} s");
    }
}

/// A device of the fleet: polls, and backs off while the server is away. Gives the ticks of its requests.
fn requests(mut backoff: Backoff, away_ms: core::ops::Range<u64>, spread_s: u16, until_ms: u64) -> Vec<u64> {
    let mut requests = Vec::new();
    let mut tick_ms = backoff.poll_at(at(0), POLL_S * 1000);
    while tick_ms < until_ms {
        requests.push(tick_ms);
        tick_ms = if away_ms.contains(&tick_ms) {
            tick_ms + backoff.failed(Some(Failure::Offline), spread_s, tick_ms)
        } else {
            backoff.succeeded(tick_ms);
            backoff.poll_at(at(tick_ms), POLL_S * 1000)
        };
    }
    requests
}

#[test]
fn after_an_outage_the_fleet_comes_evenly() {
    let begin_ms = 1_000_000;
    let cases = [(30, 60), (150, 60), (400, 60), (3_600, 60), (86_400, 60), (150, 300), (1_000, 900), (7_200, 900)];
    for (outage_s, spread_s) in cases {
        let end_ms = begin_ms + outage_s * 1000;
        let mut all = Vec::new();
        for backoff in fleet(outage_s) {
            let requests = requests(backoff, begin_ms..end_ms, spread_s, end_ms + 4 * POLL_S * 1000);
            let back_ms = requests.iter().find(|ms| **ms >= end_ms).copied().unwrap_or(u64::MAX);
            assert!(back_ms - end_ms <= (u64::from(spread_s) * 1000).max(470_000), "{back_ms}");
            all.extend(requests.into_iter().filter(|ms| *ms >= end_ms));
        }
        // Requests in a second and in ten, over those of the spread that the server set and of the polls.
        let share = 10_000.0 / f64::from(spread_s) + 10_000.0 / 300.0;
        let mean = f64::from(u32::try_from(all.len()).unwrap_or(u32::MAX)) / 1_200.0;
        let [second, ten] = [1, 10].map(|bin_s| crowding(&all, end_ms, 1_200, bin_s) * mean / share);
        assert!(second <= 1.5 && ten <= 1.1, "{second}, {ten} after {outage_s} s with spread {spread_s}");
    }
}

/// The server is gone in one moment and all of the fleet notices at once: the first wait is even over the spread.
#[test]
fn who_lost_the_connection_in_one_moment_comes_back_over_the_spread() {
    let mut waits: Vec<u64> = fleet(7).map(|mut backoff| backoff.failed(Some(Failure::Offline), 120, 0)).collect();
    let first_ms = waits.iter().copied().min().unwrap_or(0);
    assert!((2_000..3_000).contains(&first_ms), "{first_ms}");
    assert!(waits.iter().all(|wait| *wait <= 2_000 + 120_000));
    assert!(crowding(&waits, first_ms, 120, 1) <= 2.0);
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 9_000, "they march in step");
}

#[test]
fn no_two_devices_march_in_step() {
    let interval_ms = POLL_S * 1000;
    let mut steps = BTreeSet::new();
    for mut backoff in fleet(3) {
        let mut tick_ms = 0;
        let polls: Vec<u64> = (0..4)
            .map(|_| {
                tick_ms = backoff.poll_at(at(tick_ms), interval_ms);
                tick_ms
            })
            .collect();
        let failures: Vec<u64> = (0..4).map(|_| backoff.failed(Some(Failure::Retry(Some(30))), 60, tick_ms)).collect();
        // Neither the polls nor the waits of any two are the same.
        assert!(steps.insert(polls) && steps.insert(failures));
    }
}

#[test]
fn a_place_is_kept_whatever_time_the_device_was_started() {
    let interval_ms = POLL_S * 1000;
    for n in 0..50 {
        let mut by_boot = Backoff::new(device(n));
        let mut other = Backoff::new(device(n));
        // Two boots: other ticks, the same trusted time.
        let now = at(50_000);
        let a = by_boot.poll_at(now, interval_ms) - now.tick_ms;
        let shifted = Now { tick_ms: 7_777_777, time_ms: now.time_ms };
        assert_eq!(a, other.poll_at(shifted, interval_ms) - shifted.tick_ms);
        // Without trusted time there is a place too.
        let unknown = other.poll_at(Now { tick_ms: 10, time_ms: None }, interval_ms);
        assert!((interval_ms / 2..interval_ms * 2).contains(&unknown));
    }
}

#[test]
fn the_ladder_climbs_is_capped_and_is_forgotten_only_after_a_stable_minute() {
    let mut backoff = Backoff::new(device(1));
    let mut tick_ms = 0;
    let mut longest = 0;
    for attempt in 0..60 {
        let wait_ms = backoff.failed(Some(Failure::Offline), 10, tick_ms);
        assert!((2_000..=300_000).contains(&wait_ms), "{attempt}: {wait_ms}");
        longest = longest.max(wait_ms);
        tick_ms += wait_ms;
    }
    assert!(longest > 250_000, "{longest}");
    // A link that works for half a minute at a time does not start from the bottom.
    for _ in 0..5 {
        backoff.succeeded(tick_ms);
        backoff.succeeded(tick_ms + 20_000);
        tick_ms += 30_000;
        assert!(backoff.failed(None, 10, tick_ms) >= 100_000);
        tick_ms += 300_000;
    }
    backoff.succeeded(tick_ms);
    assert!(backoff.failures() > 60);
    tick_ms += 60_000;
    assert!(backoff.failed(None, 10, tick_ms) <= 6_000);
    assert_eq!(backoff.failures(), 1);
}

#[test]
fn retry_after_is_obeyed_with_jitter_and_cannot_end_the_sync() {
    for after_s in [1u32, 30, 600, 3_600] {
        let waits: BTreeSet<u64> =
            fleet(1).take(200).map(|mut b| b.failed(Some(Failure::Retry(Some(after_s))), 60, 0)).collect();
        let after_ms = u64::from(after_s) * 1000;
        assert!(waits.iter().all(|wait| (after_ms..=after_ms * 5 / 4 + 6_000).contains(wait)), "{waits:?}");
        assert!(waits.len() > 150, "they come back in step");
    }
    let mut backoff = Backoff::new(device(1));
    assert!(backoff.failed(Some(Failure::Retry(Some(u32::MAX))), 60, 0) <= 4_500_000, "anybody can say such a number");
}

/// Whoever answers "news" each time gets one sync for each wait of the ladder, and no more.
#[test]
fn a_liar_who_always_says_news_gets_ever_fewer_syncs() {
    let mut news = News::new(device(1));
    let (mut tick_ms, mut syncs) = (0, 0);
    let day_ms = 86_400_000;
    while tick_ms < day_ms {
        tick_ms = tick_ms.max(news.ask_at());
        news.asked(tick_ms);
        let sync_ms = news.heard(&Ok(NEWS.to_vec()), 60, tick_ms + 40);
        let sync_ms = sync_ms.unwrap_or_else(|| panic!("a hint leads to a sync"));
        assert!((40..400).contains(&(sync_ms - tick_ms)));
        tick_ms = sync_ms + 100;
        syncs += 1;
        news.synced(false, tick_ms);
    }
    // A wait of the ladder at its cap is 150 to 300 seconds: about as many as there are polls.
    assert!((288..=600).contains(&syncs), "{syncs} in a day");
}

#[test]
fn an_honest_hint_is_followed_at_once_and_the_next_question_too() {
    let mut news = News::new(device(2));
    let mut waits = BTreeSet::new();
    for round in 0..20u64 {
        let tick_ms = 1_000_000 + round * 100_000;
        assert!(news.ask_at() <= tick_ms);
        news.asked(tick_ms);
        let sync_ms = news.heard(&Ok(NEWS.to_vec()), 60, tick_ms).unwrap_or(0);
        waits.insert(sync_ms - tick_ms);
        news.synced(true, sync_ms + 200);
        assert_eq!(news.ask_at(), sync_ms + 200);
    }
    assert!(waits.len() > 10 && waits.iter().all(|wait| *wait < 300), "{waits:?}");
    // The hold was over: the question is asked again.
    news.asked(9_000_000);
    assert_eq!(news.heard(&Ok(Vec::new()), 60, 9_240_000), None);
    assert_eq!(news.ask_at(), 9_240_000);
}

#[test]
fn who_does_not_know_the_question_is_left_in_peace() {
    let answers = [
        (Err(Failure::NotFound), 3_600_000..3_600_001),
        (Err(Failure::Refused), 3_600_000..3_600_001),
        (Err(Failure::EndlessReply), 3_600_000..3_600_001),
        (Ok(vec![7]), 3_600_000..3_600_001),
        // At once: whoever holds nothing back would be asked without end.
        (Ok(Vec::new()), 3_600_000..3_600_001),
        (Err(Failure::Retry(Some(40))), 40_000..60_000),
        (Err(Failure::Offline), 2_000..63_000),
        (Err(Failure::NotTheServer), 2_000..63_000),
    ];
    for (answer, expected) in answers {
        let mut news = News::new(device(3));
        news.asked(0);
        assert_eq!(news.heard(&answer, 60, 0), None, "{answer:?}");
        assert!(expected.contains(&news.ask_at()), "{answer:?}: {}", news.ask_at());
    }
    // What says that the device is withdrawn is asked about in the ordinary way.
    let mut news = News::new(device(3));
    assert!(news.heard(&Err(Failure::Revoked), 60, 5).is_some());
}
