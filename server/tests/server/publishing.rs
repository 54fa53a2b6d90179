//! What is published is what the register says, by every road, after any history.

use std::collections::BTreeMap;

use cpis_protocol::bundle::Index;
use cpis_protocol::cell::{Cell, LookupPrf as _, Place};
use cpis_protocol::head::{Beat, FeedState, Head, Reference};
use cpis_protocol::id::BlindId;
use cpis_protocol::message::Request;
use cpis_protocol::nhs::Date;
use cpis_protocol::query::Query;
use cpis_protocol::replica::{self, changes, check_delta, check_live};
use cpis_protocol::tree::Manifest;
use cpis_server::clock::Clock as _;
use cpis_server::port::{CellLog, Feeds as _, Register as _, Store as _, StoreError};
use cpis_server::publish::{expire, is_due};
use cpis_server::register::Change;
use cpis_server::service::ServiceError;
use proptest::prelude::*;

use crate::rig::{DAY, Device, NOW, Rig, authority, birth, number, person, plan, text};

fn head(rig: &Rig, device: &Device) -> (Head, Beat) {
    let trust = rig.service.trust();
    let scope = text("all");
    let beat = device.ask(rig, Request::Beat(scope)).unwrap();
    let beat = Beat::verify(&beat, &scope, &trust, None, Some(rig.clock.now_ms())).unwrap();
    let head = device.ask(rig, Request::Head(beat.head)).unwrap();
    let head = Head::verify(&head, &beat.head, &scope, &trust).unwrap();
    ((*head).clone(), (*beat).clone())
}

/// The live set by snapshot chunks, each verified as a device would.
fn by_snapshot(rig: &Rig, device: &Device, state: &FeedState) -> Vec<Cell> {
    let (feed, epoch, seq) = (state.feed, state.epoch, state.seq);
    let manifest = device.ask(rig, Request::Manifest { feed, epoch, seq }).unwrap();
    let manifest = Manifest::verify(&manifest, state.count, &state.state_root).unwrap();
    let mut live = Vec::new();
    for index in 0..manifest.chunks() {
        let chunk = Cell::read_all(&device.ask(rig, Request::Chunk { feed, epoch, seq, index }).unwrap()).unwrap();
        manifest.check_chunk(index, &replica::leaves(&chunk)).unwrap();
        live.extend(chunk);
    }
    check_live(&live, None, seq).unwrap();
    live
}

fn by_delta(rig: &Rig, device: &Device, old: &[Cell], from: u32, state: &FeedState) -> Vec<Cell> {
    if from == state.seq {
        return old.to_vec();
    }
    let request = Request::Delta { feed: state.feed, epoch: state.epoch, from, to: state.seq };
    let cells = Cell::read_all(&device.ask(rig, request).unwrap()).unwrap();
    check_delta(&cells, from, state.seq).unwrap();
    let old = old.iter().cloned().map(Ok::<_, ()>);
    replica::merge(old, changes(&cells)).collect::<Result<_, _>>().unwrap()
}

/// How many of the feeds say something of a person, through the granted keys.
fn found(rig: &Rig, device: &Device, head: &Head, live: &BTreeMap<u8, Vec<Cell>>, n: u64) -> Vec<u8> {
    let keys = device.grant(rig).open_keys(&device.vault).unwrap();
    let token = Query::nhs_number(number(n), birth(n)).token(&head.lookup).unwrap();
    let opens = |index: &u8| {
        let state = head.feed(&authority(*index)).unwrap();
        let place = Place { feed: state.feed, epoch: state.epoch };
        keys.of(state.feed, state.epoch).any(|key| {
            let secret = key.evaluate(&place, &token).unwrap();
            let locator = secret.locator(0);
            live[index].iter().any(|cell| {
                let slot = cell.locators().iter().position(|l| *l == locator);
                slot.is_some_and(|slot| cell.open(&place, &secret, 0, slot).is_ok())
            })
        })
    };
    (0..3).filter(opens).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// For random histories: replayed log = live set in SQL = signed count and root = snapshot = delta from any earlier
    /// head, and everybody is found exactly in the feeds of the authorities responsible (never absent from both).
    #[test]
    fn every_road_ends_at_the_register(
        history in prop::collection::vec(prop::collection::vec((0u64..6, 0u8..8), 1..6), 1..6)
    ) {
        let rig = Rig::new();
        let device = rig.device(1);
        let mut model: BTreeMap<u64, u8> = BTreeMap::new();
        let mut heads: Vec<(Head, BTreeMap<u8, Vec<Cell>>)> = Vec::new();
        for step in history {
            let step: BTreeMap<u64, u8> = step.into_iter().collect();
            let changes = step.iter().map(|(n, where_to)| {
                let plans: Vec<_> = (0..3).filter(|bit| where_to & 1 << bit != 0).map(|i| plan(authority(i))).collect();
                if plans.is_empty() { Change::Delete(number(*n)) } else { person(*n, plans) }
            });
            rig.apply(changes.collect());
            rig.publish();
            for (n, where_to) in step {
                // A put speaks only for the authorities that it names; a delete takes everything.
                let known = model.entry(n).or_default();
                *known = if where_to == 0 { 0 } else { *known | where_to };
            }
            let (head, _) = head(&rig, &device);
            let mut lives = BTreeMap::new();
            for index in 0..3 {
                let state = head.feed(&authority(index)).unwrap();
                let live = by_snapshot(&rig, &device, state);
                let log = CellLog { feed: state.feed, epoch: state.epoch };
                let all = rig.store().read::<_, StoreError>(|tx| tx.cells(log, 0, state.seq)).unwrap();
                let all: Vec<Cell> = all.chunks(160).map(|cell| Cell::from_bytes(cell).unwrap()).collect();
                let replayed: Vec<Cell> = changes_of(&all);
                prop_assert_eq!(&replayed, &live);
                prop_assert_eq!(replica::state_root(&live), (state.count, state.state_root));
                for (earlier, old) in &heads {
                    let from = earlier.feed(&authority(index)).unwrap();
                    prop_assert_eq!(&by_delta(&rig, &device, &old[&index], from.seq, state), &live);
                    // An older head's live set can still be re-created.
                    prop_assert_eq!(&by_snapshot(&rig, &device, from), &old[&index]);
                }
                lives.insert(index, live);
            }
            for (n, where_to) in &model {
                let expected: Vec<u8> = (0..3).filter(|bit| where_to & 1 << bit != 0).collect();
                prop_assert_eq!(found(&rig, &device, &head, &lives, *n), expected);
            }
            heads.push((head, lives));
        }
    }
}

fn changes_of(log: &[Cell]) -> Vec<Cell> {
    changes(log).into_values().flatten().collect()
}

#[test]
fn the_same_file_twice_and_the_same_content_twice_change_nothing() {
    let rig = Rig::new();
    let device = rig.device(1);
    let rows = || vec![person(1, vec![plan(authority(0))]), person(2, vec![plan(authority(1))])];
    assert_eq!(rig.apply_as([7; 32], rows()).added, 2);
    assert_eq!(rig.publish().puts, 2);
    let before = head(&rig, &device);
    let again = rig.apply_as([7; 32], rows());
    assert_eq!((again.before, again.added), (Some(NOW), 0));
    assert_eq!(rig.apply_as([8; 32], rows()).unchanged, 2);
    rig.clock.advance(1000);
    let published = rig.publish();
    assert_eq!((published.puts, published.removes, published.heads.len()), (0, 0, 0));
    assert_eq!(head(&rig, &device), before, "the head and even the beat are the same");
}

#[test]
fn a_plan_that_has_outlived_its_time_is_removed() {
    let rig = Rig::new();
    let device = rig.device(1);
    let mut ended = plan(authority(0));
    ended.end = Some(Date::of_unix_ms(NOW).unwrap().plus_days(-364));
    rig.apply(vec![person(1, vec![ended]), person(2, vec![plan(authority(0))])]);
    assert_eq!(rig.publish().puts, 2);
    assert_eq!(expire(rig.store(), rig.clock.now_ms()).unwrap(), 0);
    rig.clock.advance(2 * DAY);
    assert_eq!(expire(rig.store(), rig.clock.now_ms()).unwrap(), 1);
    assert!(is_due(rig.store()).unwrap());
    let published = rig.publish();
    assert_eq!((published.puts, published.removes), (0, 1));
    assert_eq!(expire(rig.store(), rig.clock.now_ms()).unwrap(), 0, "once");
    assert_eq!(head(&rig, &device).0.feed(&authority(0)).unwrap().count, 1);
}

#[test]
fn a_corrected_date_of_birth_is_found_by_the_new_one_only() {
    let rig = Rig::new();
    let device = rig.device(1);
    let wrong = person(1, vec![plan(authority(0))]);
    rig.apply(vec![match wrong.clone() {
        Change::Put(mut row) => {
            row.birth = birth(99);
            Change::Put(row)
        }
        Change::Delete(_) => unreachable!(),
    }]);
    rig.publish();
    rig.apply(vec![wrong]);
    assert_eq!(rig.publish().puts, 1, "the same blind identity, sealed anew");
    let (head, _) = head(&rig, &device);
    let lives: BTreeMap<u8, Vec<Cell>> =
        (0..3).map(|i| (i, by_snapshot(&rig, &device, head.feed(&authority(i)).unwrap()))).collect();
    assert_eq!(found(&rig, &device, &head, &lives, 1), [0]);
    assert_eq!(head.feed(&authority(0)).unwrap().count, 1);
}

#[test]
fn a_beat_is_kept_for_a_minute_and_never_goes_back() {
    let rig = Rig::new();
    let device = rig.device(1);
    let (_, first) = head(&rig, &device);
    rig.clock.advance(59_000);
    assert_eq!(head(&rig, &device).1, first);
    rig.clock.advance(2_000);
    let (_, second) = head(&rig, &device);
    assert!(second.issued_ms > first.issued_ms && second.head == first.head);
    rig.clock.advance(-DAY);
    let (_, third) = head(&rig, &device);
    assert!(third.issued_ms > second.issued_ms, "a clock set back");
    rig.apply(vec![person(1, vec![plan(authority(0))])]);
    rig.publish();
    let (_, fourth) = head(&rig, &device);
    assert!(fourth.head != third.head && fourth.issued_ms > third.issued_ms, "a new head shows at once");
}

#[test]
fn only_exact_ranges_of_own_feeds_are_served() {
    let rig = Rig::new();
    let device = rig.device(1);
    rig.apply((0..3).map(|n| person(n, vec![plan(authority(1))])).collect());
    rig.publish();
    let (head, beat) = head(&rig, &device);
    let state = head.feed(&authority(1)).unwrap();
    let (feed, epoch) = (state.feed, state.epoch);
    let delta = |device: &Device, epoch, from, to| device.ask(&rig, Request::Delta { feed, epoch, from, to });
    assert_eq!(delta(&device, epoch, 1, 3).unwrap().len(), 320);
    assert!(matches!(delta(&device, epoch, 1, 4), Err(ServiceError::NotFound)));
    assert!(matches!(delta(&device, epoch ^ 1, 1, 3), Err(ServiceError::NotFound)));
    assert!(matches!(delta(&device, epoch, 3, 3), Err(ServiceError::Refused(_))));
    assert!(matches!(delta(&device, epoch, 0, 401), Err(ServiceError::Refused(_))));
    let ahead = device.ask(&rig, Request::Manifest { feed, epoch, seq: 4 });
    assert!(matches!(ahead, Err(ServiceError::NotFound)));
    let no_chunk = device.ask(&rig, Request::Chunk { feed, epoch, seq: 3, index: 1 });
    assert!(matches!(no_chunk, Err(ServiceError::NotFound)));
    let reference = device.ask(&rig, Request::Reference(head.reference)).unwrap();
    assert!(Reference::verify(&reference, &head.reference).unwrap().find("authority 1").is_some());
    // A device of another scope gets neither the beat nor the head nor the cells.
    let other = Device::new(2);
    other.enrol(&rig, rig.invite_to("only-a", 1).code).unwrap();
    assert!(matches!(delta(&other, epoch, 1, 3), Err(ServiceError::Unauthorised)));
    assert!(matches!(other.ask(&rig, Request::Beat(text("all"))), Err(ServiceError::Unauthorised)));
    assert!(matches!(other.ask(&rig, Request::Head(beat.head)), Err(ServiceError::Unauthorised)));
}

#[test]
fn a_bundle_holds_everything_that_a_head_names() {
    let rig = Rig::new();
    rig.apply((0..5).map(|n| person(n, vec![plan(authority(0))])).collect());
    rig.publish();
    let scope = text("all");
    let (keys, config) = (rig.service.keys(), rig.service.config());
    let bytes = cpis_server::export::bundle(rig.store(), keys, config, scope, rig.clock.now_ms()).unwrap();
    let index = Index::read(&bytes).unwrap();
    let get = |request: &Request| index.find(request).map(|range| bytes[range].to_vec()).unwrap();
    let trust = rig.service.trust();
    assert_eq!(get(&Request::Root(1)), trust.root().bytes());
    let beat = Beat::verify(&get(&Request::Beat(scope)), &scope, &trust, None, None).unwrap();
    let head = Head::verify(&get(&Request::Head(beat.head)), &beat.head, &scope, &trust).unwrap();
    assert!(Reference::verify(&get(&Request::Reference(head.reference)), &head.reference).is_ok());
    for state in &head.feeds {
        let (feed, epoch, seq) = (state.feed, state.epoch, state.seq);
        let manifest = get(&Request::Manifest { feed, epoch, seq });
        let manifest = Manifest::verify(&manifest, state.count, &state.state_root).unwrap();
        for chunk in 0..manifest.chunks() {
            let cells = Cell::read_all(&get(&Request::Chunk { feed, epoch, seq, index: chunk })).unwrap();
            manifest.check_chunk(chunk, &replica::leaves(&cells)).unwrap();
        }
    }
}

#[test]
fn two_publishers_at_once_leave_one_consistent_log() {
    let rig = Rig::new();
    let device = rig.device(1);
    let other = crate::rig::open(&rig.dir.path().join("server"), std::sync::Arc::clone(&rig.clock));
    rig.apply((0..40).map(|n| person(n, vec![plan(authority(0))])).collect());
    let (rig, other) = (&rig, &other);
    std::thread::scope(|scope| {
        let publish = move |service: &cpis_server::service::Service<cpis_server::store::SqliteStore>| {
            cpis_server::publish::publish(&**service.store(), service.keys(), NOW, &mut |_| ()).unwrap().puts
        };
        let (a, b) = (scope.spawn(move || publish(&rig.service)), scope.spawn(move || publish(other)));
        assert_eq!(a.join().unwrap() + b.join().unwrap(), 40);
    });
    let (head, _) = head(rig, &device);
    let state = head.feed(&authority(0)).unwrap();
    assert_eq!((state.seq, by_snapshot(rig, &device, state).len()), (40, 40));
}

#[test]
fn blind_identities_are_not_reused_after_a_removal() {
    let rig = Rig::new();
    let blind = || -> Vec<BlindId> {
        rig.publish();
        let id = rig.store().read::<_, StoreError>(|tx| tx.person_id(number(1))).unwrap();
        let rows = id.map(|id| rig.store().read::<_, StoreError>(|tx| tx.placements(id)).unwrap());
        rows.unwrap_or_default().into_iter().map(|row| row.blind).collect()
    };
    rig.apply(vec![person(1, vec![plan(authority(0))])]);
    let first = blind();
    rig.apply(vec![Change::Delete(number(1))]);
    assert!(blind().is_empty());
    rig.apply(vec![person(1, vec![plan(authority(0))])]);
    assert_ne!(blind(), first);
}

/// One authority's extract says nothing about another's plans: else a child would vanish from a copy by somebody's file.
#[test]
fn an_extract_never_takes_another_authoritys_plan_away() {
    let rig = Rig::new();
    rig.apply(vec![person(1, vec![plan(authority(0))])]);
    rig.publish();
    rig.apply(vec![person(1, vec![plan(authority(1))])]);
    let published = rig.publish();
    assert_eq!(published.removes, 0);
    assert!(published.puts >= 1);
    // The first authority ends its plan: only that one goes, once its time to be shown is over.
    let mut ended = plan(authority(0));
    ended.end = ended.start;
    let applied = rig.apply(vec![person(1, vec![ended])]);
    assert_eq!((applied.changed, applied.unchanged), (1, 0));
}
