//! The combined exchange: what it saves, and that it changes nothing but the number of round trips.
//! It must not be the only way: the same runs are made with a server that does not know the question.

use cpis_protocol::Refusal;
use cpis_protocol::catch_up::CaughtUp;
use cpis_protocol::cell::CellKind;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::Now;
use cpis_protocol::sync::pull::{Effect, Input, Outcome};

use crate::common::world::{PUBLISHER, T0};
use crate::driver::{Device, Weather};
use crate::publisher::Publisher;
use crate::{assert_equal, synced};

fn changed(publisher: &mut Publisher) {
    (0..60).for_each(|who| publisher.feeds[0].fill(CellKind::Put, who * 31));
    publisher.feeds[1].fill(CellKind::Put, 5);
    publisher.publish();
}

/// A device some steps behind converges in one exchange; without the combined question it takes one for each object.
#[test]
fn some_steps_behind_is_one_exchange() {
    for (combines, most) in [(true, 1), (false, 6)] {
        let (mut publisher, mut device) = synced(21);
        device.combines = combines;
        changed(&mut publisher);
        let before = device.requests;
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        assert!(device.requests - before <= most, "{} requests", device.requests - before);
        assert_equal(&device, &publisher, 21);
    }
}

/// The grant, a newer root and the cells, all in the same exchange.
#[test]
fn grant_and_root_ride_along() {
    let (mut publisher, mut device) = synced(22);
    publisher.rotate(0x51, PUBLISHER, T0 + 365 * 86_400_000);
    changed(&mut publisher);
    device.tick_ms += 3_700_000;
    let before = device.requests;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    assert_eq!((device.requests - before, device.trust.root().version), (1, 2));
    assert_equal(&device, &publisher, 22);
}

/// Wherever the reply is cut, what came whole is not fetched again, and the copy converges.
#[test]
fn cut_anywhere_nothing_whole_is_asked_for_again() {
    let (mut publisher, mut device) = synced(23);
    changed(&mut publisher);
    let now = device.now();
    let Effect::CatchUp(ask) = device.pull.step(Input::Wake, now) else { panic!("the combined question comes first") };
    let request = Request::CatchUp(ask.to_bytes().unwrap_or_default());
    let reply = publisher.answer(&request, T0 + 60_000).unwrap_or_default();
    for length in (1..reply.len()).step_by(97) {
        let (mut publisher, mut device) = synced(23);
        changed(&mut publisher);
        let cut = CaughtUp::read(&reply[..length]).unwrap_or_else(|e| panic!("{length}: {e}"));
        let had: Vec<_> = cut.objects.iter().map(|(request, _)| request.clone()).collect();
        let now = device.now();
        assert!(matches!(device.pull.step(Input::Wake, now), Effect::CatchUp(_)));
        let mut input = Input::CaughtUp(Ok(cut));
        loop {
            input = match device.pull.step(input, now) {
                Effect::Fetch(requests) => {
                    assert!(requests.iter().all(|request| !had.contains(request)), "{length}: {requests:?}");
                    Input::Fetched(requests.iter().map(|r| publisher.answer(r, T0 + 60_000)).collect())
                }
                Effect::Apply(_) => break,
                Effect::StoreGrant { .. } | Effect::Stage(_) => Input::Stored,
                other => panic!("{length}: {other:?}"),
            };
        }
    }
}

/// A first sync whose reply held all of one feed and nothing of the next: what came is not asked for again.
#[test]
fn what_came_of_a_first_sync_is_not_asked_for_again() {
    let (mut publisher, _) = synced(27);
    let mut device = Device::new(&publisher, true);
    let now = device.now();
    let Effect::CatchUp(ask) = device.pull.step(Input::Wake, now) else { panic!("the combined question comes first") };
    let reply = publisher.answer(&Request::CatchUp(ask.to_bytes().unwrap_or_default()), T0 + 60_000);
    let mut reply = CaughtUp::read(&reply.unwrap_or_default()).unwrap_or_default();
    let manifests = reply.objects.iter().filter(|(request, _)| matches!(request, Request::Manifest { .. })).count();
    assert!(manifests > 1, "{manifests} feeds are fetched whole");
    let mut whole = None;
    reply.objects.retain(|(request, _)| match request {
        Request::Manifest { feed, epoch, seq } => {
            let first = whole.is_none();
            whole.get_or_insert((*feed, *epoch, *seq));
            first
        }
        _ => true,
    });
    let Some((feed, epoch, seq)) = whole else { panic!("no feed is fetched whole") };
    for index in 0.. {
        let request = Request::Chunk { feed, epoch, seq, index };
        let Ok(body) = publisher.answer(&request, T0) else { break };
        reply.objects.push((request, body));
    }
    let had: Vec<_> = reply.objects.iter().map(|(request, _)| request.clone()).collect();
    let mut input = Input::CaughtUp(Ok(reply));
    let mut fetched = 0;
    loop {
        input = match device.pull.step(input, now) {
            Effect::Fetch(requests) => {
                assert!(requests.iter().all(|request| !had.contains(request)), "{requests:?}");
                fetched += requests.len();
                Input::Fetched(requests.iter().map(|r| publisher.answer(r, T0 + 60_000)).collect())
            }
            Effect::Apply(_) => break,
            Effect::Compare(_) => Input::Compared(Vec::new()),
            Effect::StoreGrant { .. } | Effect::Pin(_) | Effect::Stage(_) => Input::Stored,
            other => panic!("{other:?}"),
        };
    }
    assert!(fetched > 0);
}

/// R48: a beat from a combined reply is dated by that question, also when a later one goes out before it is used.
#[test]
fn a_held_beat_is_never_dated_by_a_later_question() {
    let (mut publisher, mut device) = synced(24);
    device.tick_ms += 3_700_000;
    let asked = device.now();
    let Effect::CatchUp(ask) = device.pull.step(Input::Wake, asked) else { panic!("no combined question") };
    assert!(ask.grant);
    let reply = publisher.answer(&Request::CatchUp(ask.to_bytes().unwrap_or_default()), T0).unwrap_or_default();
    let mut reply = CaughtUp::read(&reply).unwrap_or_default();
    // The server had no grant to give; the device asks for it by itself, and much later the answer comes.
    reply.grant = None;
    let later = Now { tick_ms: asked.tick_ms + 1_000, ..asked };
    let Effect::Fetch(requests) = device.pull.step(Input::CaughtUp(Ok(reply)), later) else { panic!("no question") };
    assert_eq!(requests, [Request::Grant]);
    let much_later = Now { tick_ms: asked.tick_ms + 50_000, ..asked };
    let grant = publisher.answer(&Request::Grant, T0);
    let Effect::StoreGrant { asked_ms, .. } = device.pull.step(Input::Fetched(vec![grant]), much_later) else {
        panic!("no grant")
    };
    assert_eq!(asked_ms, later.tick_ms);
    // The beat at hand is older than that question: another is asked for.
    match device.pull.step(Input::Stored, much_later) {
        Effect::Fetch(requests) => assert!(matches!(requests[..], [Request::Beat(_)]), "{requests:?}"),
        Effect::Confirm { asked_ms, .. } => assert_eq!(asked_ms, asked.tick_ms, "dated by another question"),
        other => panic!("{other:?}"),
    }
}

/// R235: what does not understand the question, or answers it wrong, costs one attempt; then each object has its name.
#[test]
fn a_refused_combination_is_done_without() {
    let (mut publisher, mut device) = synced(25);
    changed(&mut publisher);
    device.combines = false;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate, "in the same attempt");
    let before = device.requests;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    assert_eq!(device.requests - before, 1, "not tried again for an hour");

    let (mut publisher, mut device) = synced(26);
    let now = device.now();
    assert!(matches!(device.pull.step(Input::Wake, now), Effect::CatchUp(_)));
    let reply = CaughtUp { beat: Some(vec![0; 9]), is_whole: true, ..CaughtUp::default() };
    match device.pull.step(Input::CaughtUp(Ok(reply)), now) {
        Effect::Wait { outcome, until_ms } => {
            assert!(matches!(outcome, Outcome::Refused(Refusal::Truncated | Refusal::Malformed | Refusal::WrongKind)));
            device.tick_ms = until_ms;
        }
        other => panic!("{other:?}"),
    }
    let now = device.now();
    let Effect::Fetch(requests) = device.pull.step(Input::Wake, now) else { panic!("asked the same again") };
    assert!(matches!(requests[..], [Request::Beat(_)]));
    let replies = requests.iter().map(|request| publisher.answer(request, T0 + 60_000)).collect();
    assert!(matches!(device.pull.step(Input::Fetched(replies), now), Effect::Confirm { .. }));
}

/// A broken link is no reason to give the combined question up.
#[test]
fn a_broken_link_is_no_refusal() {
    let (publisher, mut device): (Publisher, Device) = synced(27);
    drop(publisher);
    for failure in [Failure::Offline, Failure::Retry(Some(1)), Failure::NotTheServer] {
        let now = device.now();
        assert!(matches!(device.pull.step(Input::Wake, now), Effect::CatchUp(_)));
        match device.pull.step(Input::CaughtUp(Err(failure)), now) {
            Effect::Wait { outcome, until_ms } => {
                assert_eq!(outcome, Outcome::Failed(failure));
                device.tick_ms = until_ms;
            }
            other => panic!("{other:?}"),
        }
    }
}
