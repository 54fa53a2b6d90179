//! Inputs in any order, with bodies that are right, wrong, from another place or from another time.
//! No sequence may panic, go without an effect, or bring an unverified head to Apply.

use cpis_protocol::catch_up::CaughtUp;
use cpis_protocol::digest::sha256;
use cpis_protocol::message::Failure;
use cpis_protocol::sync::Now;
use cpis_protocol::sync::pull::{Effect, Input, Outcome};
use cpis_protocol::sync::push;
use cpis_protocol::trust::Trust;
use proptest::prelude::*;

use crate::common::SeedRng;
use crate::common::feed::FeedLog;
use crate::common::world::{self, STRANGER, T0, framed};
use crate::driver::{Device, check_plan};
use crate::publisher::Publisher;

const FAILURES: [Failure; 9] = [
    Failure::Offline,
    Failure::NotTheServer,
    Failure::Retry(Some(9)),
    Failure::NotFound,
    Failure::TooLarge,
    Failure::EndlessReply,
    Failure::Unauthorised,
    Failure::Revoked,
    Failure::Suspended,
];

/// Bodies that somebody on the network may have, honest ones among them.
fn bodies(publisher: &mut Publisher) -> Vec<Vec<u8>> {
    let place = publisher.feeds[0].place;
    let seq = publisher.feeds[0].log.len() as u32;
    let forged_head = framed(cpis_protocol::sign::Kind::Head, &publisher.current[75..], &[STRANGER]);
    let beat_of_forged = world::beat(1, &forged_head, T0 + 10);
    let beat = cpis_protocol::codec::encode(&beat_of_forged).unwrap_or_default();
    let requests = [
        cpis_protocol::message::Request::Grant,
        cpis_protocol::message::Request::Root(1),
        cpis_protocol::message::Request::Beat(cpis_protocol::text::Text::lossy(world::SCOPE)),
        cpis_protocol::message::Request::Head(sha256(&publisher.current)),
        cpis_protocol::message::Request::Reference([0; 32]),
        cpis_protocol::message::Request::Manifest { feed: place.feed, epoch: place.epoch, seq },
        cpis_protocol::message::Request::Chunk { feed: place.feed, epoch: place.epoch, seq, index: 0 },
        cpis_protocol::message::Request::Bounds { feed: place.feed, epoch: place.epoch, seq },
        cpis_protocol::message::Request::Delta { feed: place.feed, epoch: place.epoch, from: 0, to: seq },
    ];
    let mut bodies: Vec<_> = requests.iter().filter_map(|r| publisher.answer(r, T0 + 5).ok()).collect();
    // A real beat key that names a head of somebody else: the worst that a stolen beat key can do.
    bodies.push(framed(cpis_protocol::sign::Kind::Beat, &beat, &[world::BEAT]));
    bodies.push(forged_head);
    bodies.push(world::signed_root(&world::root(2), &[1, 2]));
    bodies.push(Vec::new());
    bodies
}

fn input(rng: &mut SeedRng, bodies: &[Vec<u8>]) -> Input {
    let reply = |rng: &mut SeedRng| match rng.below(6) {
        0 => Err(FAILURES[rng.below(8) as usize]),
        1 => {
            let mut body = bodies[rng.below(bodies.len() as u32) as usize].clone();
            if !body.is_empty() {
                let at = rng.below(body.len() as u32) as usize;
                body[at] ^= 1 << rng.below(8);
            }
            Ok(body)
        }
        _ => Ok(bodies[rng.below(bodies.len() as u32) as usize].clone()),
    };
    let caught_up = |rng: &mut SeedRng| {
        let mut some = |_| (rng.below(2) == 0).then(|| bodies[rng.below(bodies.len() as u32) as usize].clone());
        let (grant, beat, head) = (some(()), some(()), some(()));
        let objects =
            head.map(|head| (cpis_protocol::message::Request::Head(sha256(&head)), head)).into_iter().collect();
        CaughtUp { grant, beat, objects, is_whole: true, ..CaughtUp::default() }
    };
    match rng.below(15) {
        12 => Input::CaughtUp(Err(FAILURES[rng.below(9) as usize])),
        13 => Input::CaughtUp(Ok(caught_up(rng))),
        14 => Input::Compared(vec![(cpis_protocol::text::Text::lossy("E09000033"), vec![0, 7])]),
        0 => Input::Wake,
        1 => Input::WakeNow,
        2..=6 => Input::Fetched((0..rng.below(10)).map(|_| reply(rng)).collect()),
        7..=8 => Input::Stored,
        9 => Input::StoreFailed,
        10 => Input::Applied(Ok(())),
        _ => Input::Applied(Err(vec![cpis_protocol::text::Text::lossy("E09000033")])),
    }
}

/// Gives the number of plans seen.
fn any_sequence(seed: u64) -> u32 {
    let mut rng = SeedRng::new(seed);
    let mut log = FeedLog::new("E09000033", 1);
    for who in 0..rng.below(5) {
        log.fill(cpis_protocol::cell::CellKind::Put, u64::from(who));
    }
    let mut publisher = Publisher::new(vec![log]);
    let bodies = bodies(&mut publisher);
    let mut device = Device::new(&publisher, rng.below(2) == 0);
    let mut trust: Trust = device.trust.clone();
    let mut plans = 0;
    let mut honest: Option<Input> = None;
    let mut stored: Option<Trust> = None;
    for tick in 0..120u64 {
        let input = honest.take().filter(|_| rng.below(8) != 0).unwrap_or_else(|| input(&mut rng, &bodies));
        let now = Now { tick_ms: tick * 100, time_ms: Some(T0 + 1000) };
        if let (Some(next), Input::Stored) = (stored.take(), &input) {
            trust = next;
        }
        honest = match device.pull.step(input, now) {
            Effect::CatchUp(ask) => {
                assert!(ask.report.is_empty() && ask.audit.is_empty());
                let request = cpis_protocol::message::Request::CatchUp(ask.to_bytes().unwrap_or_default());
                let reply = publisher.answer(&request, T0 + tick as i64).unwrap_or_default();
                Some(Input::CaughtUp(CaughtUp::read(&reply).map_err(|_| Failure::Refused)))
            }
            Effect::Fetch(requests) => {
                assert!((1..=8).contains(&requests.len()));
                Some(Input::Fetched(requests.iter().map(|r| publisher.answer(r, T0 + tick as i64)).collect()))
            }
            Effect::StoreRoot(next) => {
                assert_eq!(next.root().version, trust.root().version + 1);
                stored = Some(next);
                Some(Input::Stored)
            }
            Effect::StoreGrant { grant, .. } => {
                assert_eq!(grant.device, world::device());
                Some(Input::Stored)
            }
            Effect::Confirm { .. } | Effect::Stage(_) | Effect::Pin(_) => Some(Input::Stored),
            Effect::Compare(comparisons) => {
                Some(Input::Compared(comparisons.iter().map(|c| (c.state.feed, vec![rng.below(3)])).collect()))
            }
            Effect::Apply(plan) => {
                check_plan(&plan, &trust);
                plans += 1;
                Some(Input::Applied(Ok(())))
            }
            Effect::Wait { until_ms, .. } => {
                assert!(until_ms > now.tick_ms);
                Some(Input::WakeNow)
            }
            Effect::Suspend(_) | Effect::Erase => panic!("nothing signed says so"),
        };
    }
    plans
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn pull_takes_any_input(seed in any::<u64>()) {
        any_sequence(seed);
    }

    #[test]
    fn push_takes_any_input(seed in any::<u64>()) {
        let mut rng = SeedRng::new(seed);
        let (tips, links) = world::links(2);
        let receipt = framed(
            cpis_protocol::sign::Kind::Receipt,
            &cpis_protocol::codec::encode(&world::receipt(tips[1])).unwrap_or_default(),
            &[world::RECEIPT],
        );
        let mut machine = push::Push::new(world::device(), world::trust());
        for tick in 0..60 {
            let batch = |n: usize| cpis_protocol::audit::Batch {
                device: world::device(),
                after: tips[0],
                links: links.iter().cycle().take(n).cloned().collect(),
            };
            let mut body = receipt.clone();
            let changed = rng.below(2) == 0;
            if changed {
                let at = rng.below(body.len() as u32) as usize;
                body[at] ^= 1 << rng.below(8);
            }
            let replied = rng.below(7);
            let input = match replied {
                0 => push::Input::Wake,
                1 => push::Input::Loaded(None),
                2 => push::Input::Loaded(Some(batch([1, 200, 201][rng.below(3) as usize]))),
                3 => push::Input::Replied(Ok(body)),
                4 => push::Input::Replied(Err(FAILURES[rng.below(8) as usize])),
                5 => push::Input::Acknowledged(Ok(u64::from(rng.below(2)))),
                _ => push::Input::Acknowledged(Err(cpis_protocol::Refusal::Fork)),
            };
            match machine.step(input, Now { tick_ms: tick, time_ms: None }) {
                push::Effect::Load(most) => prop_assert!((1..=cpis_protocol::limits::AUDIT_LINKS_MAX).contains(&most)),
                push::Effect::Send(request) => {
                    let body = request.body().unwrap_or_default();
                    prop_assert!(body.len() <= cpis_protocol::limits::AUDIT_BATCH_BYTES_MAX);
                }
                push::Effect::Acknowledge(_) => prop_assert!(replied == 3 && !changed, "an unverified receipt"),
                push::Effect::Wait { until_ms, .. } => prop_assert!(until_ms.is_none_or(|until| until > tick)),
            }
        }
    }
}

/// A driver that reports something as applied which it was not given does not move the machine's copy.
#[test]
fn applied_out_of_turn_is_refused() {
    let mut log = FeedLog::new("E09000033", 1);
    log.fill(cpis_protocol::cell::CellKind::Put, 1);
    let mut publisher = Publisher::new(vec![log]);
    let mut device = Device::new(&publisher, false);
    let now = Now { tick_ms: 0, time_ms: Some(T0) };
    let mut effect = device.pull.step(Input::Wake, now);
    // Beat, head, reference data; then the manifest is asked for, and the head is pinned.
    for _ in 0..3 {
        let Effect::Fetch(requests) = &effect else { panic!("{effect:?}") };
        let replies = requests.iter().map(|r| publisher.answer(r, T0)).collect();
        effect = device.pull.step(Input::Fetched(replies), now);
    }
    let refused = Outcome::Refused(cpis_protocol::Refusal::Malformed);
    match device.pull.step(Input::Applied(Ok(())), now) {
        Effect::Wait { outcome, .. } => assert_eq!(outcome, refused),
        effect => panic!("{effect:?}"),
    }
}

/// The sequences above do reach Apply, or the assertion there would prove nothing.
#[test]
fn any_sequence_reaches_apply() {
    let plans: u32 = (0..40).map(any_sequence).sum();
    assert!(plans > 40, "only {plans} plans in forty sequences");
}
