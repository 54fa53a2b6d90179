//! New keys: whoever may read finds the register with exactly the keys granted, and nobody gets a key from before its time.

use std::collections::{BTreeMap, BTreeSet};

use cpis_protocol::cell::{Cell, LookupPrf as _, Place, SHARED_TOKEN_MAX};
use cpis_protocol::grant::FeedKeys;
use cpis_protocol::head::{Beat, Head};
use cpis_protocol::id::ScopeId;
use cpis_protocol::message::Request;
use cpis_protocol::nhs::Date;
use cpis_protocol::query::Query;
use cpis_protocol::question::{self, Asked};
use cpis_protocol::replica;
use cpis_protocol::tree::Manifest;
use cpis_server::clock::Clock as _;
use cpis_server::port::{AlertKind, CellLog, DeviceRow, Evidence as _, Feeds as _, Fleet as _, Store as _, StoreError};
use cpis_server::register::{Change, PersonRow, PlanRow};
use cpis_server::rekey::{self, Rekey};
use proptest::prelude::*;

use crate::rig::{DAY, Device, Rig, authority, birth, number, person, plan, text};

fn scope_of(rig: &Rig, device: &Device) -> ScopeId {
    rig.store().read::<_, StoreError>(|tx| tx.device(device.id())).unwrap().unwrap().scope
}

fn head(rig: &Rig, device: &Device) -> Head {
    let (trust, scope) = (rig.service.trust(), scope_of(rig, device));
    let beat = device.ask(rig, Request::Beat(scope)).unwrap();
    let beat = Beat::verify(&beat, &scope, &trust, None, None).unwrap();
    let head = device.ask(rig, Request::Head(beat.head)).unwrap();
    (*Head::verify(&head, &beat.head, &scope, &trust).unwrap()).clone()
}

/// The live cells of a head by feed, proved against it.
fn live(rig: &Rig, device: &Device, head: &Head) -> BTreeMap<String, Vec<Cell>> {
    let of = |state: &cpis_protocol::head::FeedState| {
        let (feed, epoch, seq) = (state.feed, state.epoch, state.seq);
        let manifest = device.ask(rig, Request::Manifest { feed, epoch, seq }).unwrap();
        let manifest = Manifest::verify(&manifest, state.count, &state.state_root).unwrap();
        let chunks = (0..manifest.chunks()).flat_map(|index| {
            Cell::read_all(&device.ask(rig, Request::Chunk { feed, epoch, seq, index }).unwrap()).unwrap()
        });
        let cells: Vec<Cell> = chunks.collect();
        assert_eq!(replica::state_root(&cells), (state.count, state.state_root));
        (feed.to_string(), cells)
    };
    head.feeds.iter().map(of).collect()
}

/// In which feeds a real look-up with these keys finds a person.
fn found(head: &Head, live: &BTreeMap<String, Vec<Cell>>, keys: &FeedKeys, n: u64) -> BTreeSet<String> {
    let token = Query::nhs_number(number(n), birth(n)).token(&head.lookup).unwrap();
    let opens = |state: &&cpis_protocol::head::FeedState| {
        let place = Place { feed: state.feed, epoch: state.epoch };
        keys.of(state.feed, state.epoch).any(|key| {
            let secret = key.evaluate(&place, &token).unwrap();
            live[state.feed.as_str()].iter().any(|cell| {
                let slot = cell.locators().iter().position(|l| *l == secret.locator(0));
                slot.is_some_and(|slot| cell.open(&place, &secret, 0, slot).is_ok())
            })
        })
    };
    head.feeds.iter().filter(opens).map(|state| state.feed.to_string()).collect()
}

fn feeds(of: &[u8]) -> BTreeSet<cpis_protocol::id::FeedId> {
    of.iter().map(|index| authority(*index)).collect()
}

fn rekey(rig: &Rig, rotate: &[u8], reseal: &[u8]) {
    let plan = Rekey { rotate: feeds(rotate), reseal: feeds(reseal) };
    rekey::run(rig.store(), rig.service.keys(), &plan, rig.clock.now_ms(), &mut |_| ()).unwrap();
}

fn assign(rig: &Rig, device: &Device, scope: &str) {
    let write = |tx: &<cpis_server::store::SqliteStore as cpis_server::port::Store>::Tx<'_>| -> Result<(), StoreError> {
        let row = tx.device(device.id())?.unwrap();
        tx.put_device(&DeviceRow { scope: text(scope), ..row })
    };
    rig.store().write(write).unwrap();
}

fn row(rig: &Rig, index: u8) -> cpis_server::port::FeedRow {
    rig.store().read::<_, StoreError>(|tx| tx.feed(authority(index))).unwrap().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn who_may_read_finds_the_register_and_nobody_has_a_key_from_before(
        steps in prop::collection::vec((0u8..7, 0u64..5, 0u8..8, 0u8..3), 1..18)
    ) {
        let rig = Rig::new();
        let mut devices: Vec<Device> = vec![rig.device(1)];
        let mut model: BTreeMap<u64, u8> = BTreeMap::new();
        // For each device and feed, since when it has held the feed without a break.
        let mut since: BTreeMap<(u8, String), i64> = BTreeMap::new();
        for (step, n, bits, which) in steps {
            rig.clock.advance(60_000);
            match step {
                0..=1 => {
                    let plans: Vec<_> = (0..3).filter(|bit| bits & 1 << bit != 0).map(|i| plan(authority(i))).collect();
                    let known = model.entry(n).or_default();
                    *known = if plans.is_empty() { 0 } else { *known | bits };
                    rig.apply(vec![if plans.is_empty() { Change::Delete(number(n)) } else { person(n, plans) }]);
                    rig.publish();
                }
                2..=3 => rekey(&rig, &[which], &[]),
                4 => rekey(&rig, &[], &[which]),
                5 if devices.len() < 4 => devices.push(rig.device(devices.len() as u8 + 1)),
                _ => {
                    let device = &devices[usize::from(which) % devices.len()];
                    assign(&rig, device, if bits & 1 == 0 { "all" } else { "only-a" });
                }
            }
            for (at, device) in (0u8..).zip(&devices) {
                let grant = device.grant(&rig);
                let keys = grant.open_keys(&device.vault).unwrap();
                let now = head(&rig, device);
                prop_assert!(grant.covers(&now) && now.feeds.iter().all(|state| keys.cover(state)));
                let cells = live(&rig, device, &now);
                for (n, bits) in &model {
                    let mine = |bit: &u8| bits & 1 << bit != 0 && now.feed(&authority(*bit)).is_some();
                    let expected: BTreeSet<String> = (0..3).filter(mine).map(|i| authority(i).to_string()).collect();
                    prop_assert_eq!(found(&now, &cells, &keys, *n), expected);
                }
                let in_scope: BTreeSet<String> = now.feeds.iter().map(|state| state.feed.to_string()).collect();
                since.retain(|(who, feed), _| *who != at || in_scope.contains(feed));
                for granted in &grant.feeds {
                    let log = CellLog { feed: granted.feed, epoch: granted.epoch };
                    let state = now.feed(&granted.feed).unwrap();
                    let entered = since.entry((at, granted.feed.to_string())).or_insert_with(|| rig.clock.now_ms());
                    // A key that was replaced before the device came is never in a grant.
                    if granted.key_id < state.key_id {
                        let next = rig.store().read::<_, StoreError>(|tx| tx.feed_key_made(log, granted.key_id + 1));
                        prop_assert!(next.unwrap().unwrap() >= *entered, "a key from before its time");
                    }
                }
            }
        }
    }
}

#[test]
fn a_rotation_is_lazy_and_a_newcomer_gets_the_current_key_only() {
    let rig = Rig::new();
    let old = rig.device(1);
    rig.apply(vec![person(1, vec![plan(authority(0))])]);
    rig.publish();
    let before = row(&rig, 0);
    let first_head = head(&rig, &old);
    let first_keys = old.grant(&rig).open_keys(&old.vault).unwrap();
    rekey(&rig, &[0], &[]);
    let rotated = row(&rig, 0);
    assert_eq!((rotated.epoch, rotated.seq, rotated.state_root), (before.epoch, before.seq, before.state_root), "lazy");
    assert_eq!((rotated.key_id, rotated.oldest_key_id), (2, 1));
    rig.apply(vec![person(2, vec![plan(authority(0))])]);
    rig.publish();
    let (now, cells) = (head(&rig, &old), live(&rig, &old, &head(&rig, &old)));
    let a = BTreeSet::from([authority(0).to_string()]);
    assert!(found(&now, &cells, &first_keys, 2).is_empty(), "the old key opens nothing new");
    assert!(!first_keys.cover(now.feed(&authority(0)).unwrap()), "and whoever has only that must not say: not there");
    let keys = old.grant(&rig).open_keys(&old.vault).unwrap();
    assert_eq!([found(&now, &cells, &keys, 1), found(&now, &cells, &keys, 2)], [a.clone(), a.clone()]);
    // The newcomer: the feed is sealed anew, once, however many come.
    let newcomer = rig.device(2);
    let resealed = row(&rig, 0);
    assert!(resealed.epoch != rotated.epoch && (resealed.key_id, resealed.oldest_key_id) == (3, 3));
    (3..8).for_each(|seed| drop(rig.device(seed)));
    assert_eq!(row(&rig, 0), resealed, "a flood of enrolments seals nothing again");
    let grant = newcomer.grant(&rig);
    assert_eq!(grant.feeds.iter().filter(|feed| feed.feed == authority(0)).count(), 1);
    let new_keys = grant.open_keys(&newcomer.vault).unwrap();
    assert_eq!(new_keys.of(authority(0), before.epoch).count(), 0);
    let now = head(&rig, &newcomer);
    let cells = live(&rig, &newcomer, &now);
    assert_eq!([found(&now, &cells, &new_keys, 1), found(&now, &cells, &new_keys, 2)], [a.clone(), a.clone()]);
    // A head of before the re-seal is still served, for the device that has its keys.
    let cells = live(&rig, &old, &first_head);
    assert_eq!(found(&first_head, &cells, &first_keys, 1), a);
}

#[test]
fn loss_rotates_what_the_device_held_and_the_calendar_does_the_rest() {
    let rig = Rig::new();
    let lost = Device::new(1);
    lost.enrol(&rig, rig.invite_to("only-a", 1).code).unwrap();
    let done = rekey::rotate_for_loss(rig.store(), rig.service.keys(), lost.id(), rig.clock.now_ms()).unwrap();
    assert_eq!(done, feeds(&[0]));
    assert_eq!([row(&rig, 0).key_id, row(&rig, 1).key_id], [2, 1]);
    let again = rekey::rotate_for_loss(rig.store(), rig.service.keys(), lost.id(), rig.clock.now_ms()).unwrap();
    assert!(again.is_empty() && row(&rig, 0).key_id == 2, "reported twice");
    let due = |rig: &Rig| rekey::due(rig.store(), rig.service.config(), rig.clock.now_ms()).unwrap();
    assert!(due(&rig).is_empty());
    rig.clock.advance(DAY - 1);
    assert!(due(&rig).is_empty());
    rig.clock.advance(1);
    assert_eq!(due(&rig), Rekey { reseal: feeds(&[0]), ..Rekey::default() });
    cpis_server::serve::rekey_due(&rig.service, rig.clock.now_ms()).unwrap();
    assert_eq!((row(&rig, 0).key_id, row(&rig, 0).oldest_key_id), (3, 3));
    rig.clock.advance(29 * DAY);
    assert_eq!(due(&rig), Rekey { rotate: feeds(&[1, 2]), ..Rekey::default() }, "monthly, from each key's own day");
}

/// A person of this surname whose plan ended on a day, if it did.
fn khan(n: u64, surname: &str, end: Option<Date>) -> Change {
    let plans = vec![PlanRow { end, ..plan(authority(0)) }];
    let (surname, given, postcode) = (surname.into(), "Mohammed".into(), String::new());
    Change::Put(PersonRow { number: number(n), birth: birth(0), surname, given, postcode, restricted: false, plans })
}

/// The last three digits of whom a device finds by that name.
fn by_name(rig: &Rig, device: &Device) -> BTreeSet<u16> {
    let keys = device.grant(rig).open_keys(&device.vault).unwrap();
    let head = head(rig, device);
    let cells = live(rig, device, &head);
    let asked = Asked { surname: "Khan", given: "Mohammed", birth: birth(0), postcode: None };
    let token = question::questions(&asked).unwrap()[0].1.token(&head.lookup).unwrap();
    let state = head.feed(&authority(0)).unwrap();
    let place = Place { feed: state.feed, epoch: state.epoch };
    let mut found = BTreeSet::new();
    for key in keys.of(state.feed, state.epoch) {
        let secret = key.evaluate(&place, &token).unwrap();
        for index in 0..SHARED_TOKEN_MAX {
            for cell in &cells[state.feed.as_str()] {
                if let Some(slot) = cell.locators().iter().position(|l| *l == secret.locator(index)) {
                    found.insert(cell.open(&place, &secret, index, slot).unwrap().last_three);
                }
            }
        }
    }
    found
}

#[test]
fn whoever_waits_for_a_place_gets_it_at_a_re_seal_that_carries_others_over_no_more() {
    let rig = Rig::new();
    let device = rig.device(1);
    let ended = Date::new(2026, 1, 10).ok();
    // The first in the register is the last who comes to that name.
    rig.apply(vec![khan(0, "Ahmed", None)]);
    rig.apply((1..9).map(|n| khan(n, "Khan", ended)).collect());
    assert_eq!(rig.publish().crowded, 0);
    rig.apply(vec![khan(0, "Khan", None)]);
    assert_eq!(rig.publish().crowded, 1);
    let three = |n| u16::try_from(number(n).as_u64() % 1000).unwrap();
    assert_eq!(by_name(&rig, &device), (1..9).map(three).collect());
    let alerts = || rig.store().read::<_, StoreError>(|tx| tx.alerts(true)).unwrap();
    let alert = alerts().remove(0);
    assert_eq!((alert.kind, alert.device, alert.count, alerts().len()), (AlertKind::Crowded, None, 1, 1));
    // Sealed again at the same register: the same alert.
    rekey(&rig, &[], &[0]);
    assert_eq!((by_name(&rig, &device), alerts().len()), ((1..9).map(three).collect(), 1));
    // The eight may not be shown any more, and nothing was published since.
    rig.clock.advance(60 * DAY);
    rekey(&rig, &[], &[0]);
    assert_eq!(by_name(&rig, &device), BTreeSet::from([three(0)]));
    assert_eq!((row(&rig, 0).count, alerts().len()), (1, 1));
}
