//! Shortened logs: everything that a head of the last ninety days needs is as it was, and the rest is told, not guessed.

use std::collections::BTreeMap;

use cpis_protocol::cell::Cell;
use cpis_protocol::head::{Beat, FeedState, Head};
use cpis_protocol::message::Request;
use cpis_protocol::replica;
use cpis_protocol::sign::Verified;
use cpis_server::clock::Clock as _;
use cpis_server::config::Config;
use cpis_server::port::{CellLog, Feeds as _, Store as _, StoreError};
use cpis_server::prune::{self, Pruned};
use cpis_server::register::Change;
use cpis_server::rekey::{self, Rekey};
use cpis_server::service::ServiceError;
use proptest::prelude::*;

use crate::rig::{DAY, Device, Rig, authority, number, person, plan, text};

fn head(rig: &Rig, device: &Device) -> Verified<Head> {
    let (trust, scope) = (rig.service.trust(), text("all"));
    let beat = device.ask(rig, Request::Beat(scope)).unwrap();
    let beat = Beat::verify(&beat, &scope, &trust, None, None).unwrap();
    let head = device.ask(rig, Request::Head(beat.head)).unwrap();
    Head::verify(&head, &beat.head, &scope, &trust).unwrap()
}

fn prune(rig: &Rig) -> Pruned {
    prune::run(rig.store(), &Config::default(), rig.clock.now_ms()).unwrap()
}

/// The live set of a state, proved; `None` where the server has it no more.
fn live(rig: &Rig, device: &Device, state: &FeedState) -> Option<Vec<Cell>> {
    let (feed, epoch, seq) = (state.feed, state.epoch, state.seq);
    let chunks =
        (0..state.count.div_ceil(256)).map(|index| device.ask(rig, Request::Chunk { feed, epoch, seq, index }));
    let mut cells = Vec::new();
    for chunk in chunks {
        match chunk {
            Ok(bytes) => cells.extend(Cell::read_all(&bytes).unwrap()),
            Err(ServiceError::NotFound) => return None,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(replica::state_root(&cells), (state.count, state.state_root), "a live set that is not the signed one");
    Some(cells)
}

fn delta(rig: &Rig, device: &Device, from: &FeedState, to: &FeedState) -> Option<Vec<Cell>> {
    let (feed, epoch, from, to) = (from.feed, from.epoch, from.seq, to.seq);
    match device.ask(rig, Request::Delta { feed, epoch, from, to }) {
        Ok(bytes) => Some(Cell::read_all(&bytes).unwrap()),
        Err(ServiceError::NotFound) => None,
        Err(other) => panic!("{other}"),
    }
}

fn cells(rig: &Rig, state: &FeedState) -> usize {
    let log = CellLog { feed: state.feed, epoch: state.epoch };
    rig.store().read::<_, StoreError>(|tx| tx.cells(log, 0, u32::MAX)).unwrap().len() / 160
}

#[test]
fn what_a_recent_head_needs_stays() {
    let rig = Rig::new();
    let device = rig.device(1);
    // One person comes or goes every ten days for two hundred days.
    let mut heads = Vec::new();
    for round in 0..20u64 {
        let both = vec![plan(authority(0)), plan(authority(1))];
        let change = if round % 2 == 0 { person(1, both) } else { Change::Delete(number(1)) };
        rig.apply(vec![change, person(100 + round, vec![plan(authority(0))])]);
        rig.publish();
        heads.push((rig.clock.now_ms(), head(&rig, &device)));
        rig.clock.advance(10 * DAY);
    }
    let now_ms = rig.clock.now_ms();
    let newest = heads.last().unwrap().1.clone();
    let before = cells(&rig, &newest.feeds[0]);
    // A restart: nothing is answered out of memory.
    let rig = rig.restart();
    let pruned = prune(&rig);
    assert!(pruned.cells > 3 && pruned.logs == 0, "{pruned:?}");
    assert!(cells(&rig, &newest.feeds[0]) < before);
    assert_eq!(prune(&rig), Pruned::default(), "once");
    let mut gone = 0;
    for (at_ms, head) in &heads {
        let in_force_until = heads.iter().map(|(other, _)| *other).find(|other| other > at_ms).unwrap_or(now_ms);
        for (state, last) in head.feeds.iter().zip(&newest.feeds).take(2) {
            let (set, rest) =
                (live(&rig, &device, state), (state.seq < last.seq).then(|| delta(&rig, &device, state, last)));
            if now_ms - in_force_until < 90 * DAY {
                let set = set.unwrap_or_else(|| panic!("the live set of {} days ago", (now_ms - at_ms) / DAY));
                if let Some(rest) = rest {
                    let rest = rest.unwrap_or_else(|| panic!("the delta since {} days ago", (now_ms - at_ms) / DAY));
                    let merged = replica::merge(set.into_iter().map(Ok::<_, ()>), replica::changes(&rest));
                    assert_eq!(merged.collect::<Result<Vec<_>, _>>(), Ok(live(&rig, &device, last).unwrap()));
                }
            } else {
                gone += usize::from(set.is_none());
            }
        }
    }
    assert!(gone > 5, "{gone} live sets of before are gone");
    // Heads are kept for ever.
    assert!(heads.iter().all(|(_, head)| device.ask(&rig, Request::Head(head.hash())).is_ok()));
}

#[test]
fn the_log_of_an_earlier_epoch_goes_as_a_whole() {
    let rig = Rig::new();
    let device = rig.device(1);
    rig.apply((0..5).map(|n| person(n, vec![plan(authority(0))])).collect());
    rig.publish();
    let old = head(&rig, &device);
    let plan_of = Rekey { reseal: [authority(0)].into(), ..Rekey::default() };
    rekey::run(rig.store(), rig.service.keys(), &plan_of, rig.clock.now_ms(), &mut |_| ()).unwrap();
    assert_eq!(prune(&rig), Pruned::default());
    rig.clock.advance(89 * DAY);
    assert_eq!(prune(&rig), Pruned::default());
    assert_eq!(live(&rig, &device, &old.feeds[0]).unwrap().len(), 5);
    let rig = rig.restart();
    rig.clock.advance(2 * DAY);
    assert_eq!(prune(&rig), Pruned { cells: 5, logs: 1 });
    assert_eq!(live(&rig, &device, &old.feeds[0]), None);
    assert_eq!(live(&rig, &device, &head(&rig, &device).feeds[0]).unwrap().len(), 5);
    assert_eq!(prune(&rig), Pruned::default());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever happened and whenever the logs were shortened: the server gives a live set or a delta that is exactly
    /// what was signed, or says that it has none; and what it owes it has.
    #[test]
    fn never_part_of_a_set(steps in prop::collection::vec((0u64..6, 0u8..8, 0i64..24, any::<bool>(), 0u8..8), 5..16)) {
        let mut rig = Rig::new();
        let device = rig.device(1);
        let mut heads: Vec<(i64, Verified<Head>)> = vec![(rig.clock.now_ms(), head(&rig, &device))];
        for (n, bits, days, pruned, special) in steps {
            let plans: Vec<_> = (0..3).filter(|bit| bits & 1 << bit != 0).map(|i| plan(authority(i))).collect();
            rig.apply(vec![if plans.is_empty() { Change::Delete(number(n)) } else { person(n, plans) }]);
            rig.publish();
            if special == 0 {
                let plan_of = Rekey { reseal: [authority(0)].into(), ..Rekey::default() };
                rekey::run(rig.store(), rig.service.keys(), &plan_of, rig.clock.now_ms(), &mut |_| ()).unwrap();
            }
            heads.push((rig.clock.now_ms(), head(&rig, &device)));
            rig.clock.advance(days * DAY + 1);
            if pruned {
                prune(&rig);
                rig = rig.restart();
            }
        }
        prune(&rig);
        let rig = rig.restart();
        let now_ms = rig.clock.now_ms();
        let newest: BTreeMap<_, FeedState> =
            heads.last().unwrap().1.feeds.iter().map(|state| (state.feed, state.clone())).collect();
        for (at, (_, head)) in heads.iter().enumerate() {
            let ended_ms = heads[at + 1..].iter().find(|(_, later)| later.hash() != head.hash()).map(|(ms, _)| *ms);
            let owed = ended_ms.is_none_or(|ended_ms| now_ms - ended_ms < 90 * DAY);
            for state in &head.feeds {
                let set = live(&rig, &device, state);
                prop_assert!(set.is_some() || !owed, "a live set that is owed");
                let last = &newest[&state.feed];
                if last.epoch != state.epoch || last.seq == state.seq {
                    continue;
                }
                let rest = delta(&rig, &device, state, last);
                prop_assert!(rest.is_some() || !owed, "a delta that is owed");
                if let (Some(set), Some(rest)) = (set, rest) {
                    let merged = replica::merge(set.into_iter().map(Ok::<_, ()>), replica::changes(&rest));
                    prop_assert_eq!(merged.collect::<Result<Vec<_>, _>>().ok(), live(&rig, &device, last));
                }
            }
        }
    }
}
