//! Away for a day, a month, or longer than the log: the real server service, the real machine and the real replica end at
//! the server's state root, by whatever road there still is.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    dead_code,
    reason = "a test stops where something is not as it must be; the rig is shared with the server's own tests"
)]

#[path = "../../server/tests/server/rig.rs"]
mod rig;

use cpis_agent::replica::Replica;
use cpis_agent::store::SledStore;
use cpis_protocol::cell::Cell;
use cpis_protocol::clock::{Carrier, Reading};
use cpis_protocol::grant::Grant;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sign::Verified;
use cpis_protocol::sync::Now;
use cpis_protocol::sync::pull::{Effect, Input, Outcome, Pull, Start};
use cpis_protocol::trust::Trust;
use cpis_server::ceremony::{self, Plan};
use cpis_server::clock::Clock as _;
use cpis_server::config::Config;
use cpis_server::home::Home;
use cpis_server::keys::root_key;
use cpis_server::register::Change;
use cpis_server::rekey::{self, Rekey};
use cpis_server::service::ServiceError;
use cpis_server::{prune, resign};
use cpis_tests::publisher::MemoryKeys;
use rig::{DAY, Rig, authority, number, person, plan};

/// A device in memory, but for its replica.
struct Held {
    device: rig::Device,
    trust: Trust,
    grant: Verified<Grant>,
    dir: tempfile::TempDir,
    keys: MemoryKeys,
    /// Requests for deltas, for chunks, and bytes of bodies.
    deltas: u32,
    chunks: u32,
    bytes: usize,
}

fn failure(error: &ServiceError) -> Failure {
    match error {
        ServiceError::NotFound => Failure::NotFound,
        ServiceError::Refused(_) => Failure::Refused,
        other => panic!("{other}"),
    }
}

impl Held {
    fn enrol(rig: &Rig, seed: u8) -> Self {
        let device = rig.device(seed);
        let trust = (*rig.service.trust()).clone();
        let bytes = device.ask(rig, Request::Grant).unwrap();
        let grant = Grant::verify(&bytes, &device.id(), &trust, None).unwrap();
        let (dir, keys) = (tempfile::tempdir().unwrap(), MemoryKeys::default());
        Self { device, trust, grant, dir, keys, deltas: 0, chunks: 0, bytes: 0 }
    }

    fn open(&self) -> Replica<SledStore, MemoryKeys> {
        let store = SledStore::open(&self.dir.path().join("replica")).unwrap();
        Replica::open(store, self.keys.clone(), &self.trust, &self.grant.scope).unwrap()
    }

    fn ask(&mut self, rig: &Rig, request: &Request) -> Result<Vec<u8>, Failure> {
        match request {
            Request::Delta { .. } => self.deltas += 1,
            Request::Chunk { .. } => self.chunks += 1,
            _ => {}
        }
        let reply = self.device.ask(rig, request.clone()).map_err(|error| failure(&error));
        self.bytes += reply.as_ref().map_or(0, Vec::len);
        reply
    }

    /// Opened anew, as after a long sleep; one attempt brings the copy up to date.
    fn sync(&mut self, rig: &Rig) {
        (self.deltas, self.chunks, self.bytes) = (0, 0, 0);
        let replica = self.open();
        let mut machine = {
            let (pinned, staged) = (replica.pinned(&self.trust, &self.grant.scope), replica.staged());
            let view = replica.view();
            Pull::new(Start {
                trust: self.trust.clone(),
                grant: self.grant.clone(),
                beat: view.beat.clone(),
                head: view.head.clone(),
                damaged: view.damaged.clone(),
                pinned,
                staged,
                with_grant: true,
                withdrawn: None,
            })
        };
        let reading = Reading { wall_ms: rig.clock.now_ms(), boot_ms: 1000, boot_id: [1; 16] };
        let now = Now { tick_ms: 1000, time_ms: Some(rig.clock.now_ms()) };
        let mut input = Input::WakeNow;
        let outcome = loop {
            input = match machine.step(input, now) {
                // Here each object is counted by its name.
                Effect::CatchUp(_) => Input::CaughtUp(Err(Failure::NotFound)),
                Effect::Fetch(requests) => Input::Fetched(requests.iter().map(|r| self.ask(rig, r)).collect()),
                Effect::StoreRoot(trust) => {
                    self.trust = trust;
                    Input::Stored
                }
                Effect::StoreGrant { grant, .. } => {
                    self.grant = grant;
                    Input::Stored
                }
                Effect::Confirm { beat, .. } => {
                    replica.confirm(&beat, Carrier::Live, reading).unwrap();
                    Input::Stored
                }
                Effect::Pin(pinned) => {
                    replica.pin(&pinned).unwrap();
                    Input::Stored
                }
                Effect::Compare(wanted) => Input::Compared(replica.take_over(&wanted).unwrap()),
                Effect::Stage(chunks) => {
                    replica.stage(chunks).unwrap();
                    Input::Stored
                }
                Effect::Apply(plan) => Input::Applied(replica.apply(*plan, Carrier::Live, reading).unwrap()),
                Effect::Wait { outcome, .. } => break outcome,
                Effect::Suspend { .. } | Effect::Erase => panic!("nobody withdrew this device"),
            };
        };
        assert_eq!(outcome, Outcome::UpToDate, "one attempt");
        assert!(replica.view().is_proved());
    }

    /// Everything that the copy holds.
    fn cells(&self) -> (Vec<u8>, Vec<Cell>) {
        let replica = self.open();
        let view = replica.view();
        let cells = view.feeds.values().flat_map(|copy| copy.cells(replica.store()).map(Result::unwrap)).collect();
        (view.head.as_ref().unwrap().bytes().to_vec(), cells)
    }
}

/// Another root: the present one lasts four hundred days.
fn next_root(rig: &Rig) {
    let home = Home::open(&rig.dir.path().join("server")).unwrap();
    let signer = root_key::open(&rig.dir.path().join("root/root-1.rootkey"), || unreachable!()).unwrap();
    let now_ms = rig.clock.now_ms();
    let draft = ceremony::draft_as(&home, &Plan { days: 800, ..Plan::default() }, now_ms).unwrap();
    ceremony::install(&home, &ceremony::endorse(&draft, &signer).unwrap(), now_ms).unwrap();
    rig.service.refresh_trust().unwrap();
    resign::heads(rig.store(), rig.service.keys(), now_ms).unwrap();
}

/// So many days go by, with a change every so often; the records that change lie close to each other.
fn days(rig: &Rig, days: i64) {
    let step = (days / 25).max(1);
    for day in (0..days).step_by(usize::try_from(step).unwrap()) {
        let who = 2000 + u64::try_from(day).unwrap();
        rig.apply(vec![person(who, vec![plan(authority(0))]), Change::Delete(number(who % 7))]);
        rig.publish();
        rig.clock.advance(step * DAY);
        if day < 200 && 200 <= day + step {
            next_root(rig);
        }
    }
}

#[test]
fn every_absence_ends_at_the_servers_state() {
    for (away, pruned, resealed) in [
        (1, false, false),
        (30, true, false),
        (30, true, true),
        (400, false, false),
        (400, true, false),
        (400, true, true),
    ] {
        let case = format!("{away} days, pruned {pruned}, re-sealed {resealed}");
        let rig = Rig::new();
        rig.apply((0..700).map(|n| person(n, vec![plan(authority(u8::from(n % 10 == 0)))])).collect());
        rig.publish();
        let mut device = Held::enrol(&rig, 1);
        device.sync(&rig);
        let whole = device.bytes;
        days(&rig, away);
        if resealed {
            let plan = Rekey { reseal: [authority(0)].into(), ..Rekey::default() };
            rekey::run(rig.store(), rig.service.keys(), &plan, rig.clock.now_ms(), &mut |_| ()).unwrap();
        }
        if pruned {
            let gone = prune::run(rig.store(), &Config::default(), rig.clock.now_ms()).unwrap();
            assert_eq!(gone.cells > 0, away > 90, "{case}: {gone:?}");
        }
        let rig = rig.restart();
        device.sync(&rig);
        assert!(device.bytes < whole + whole / 8, "{case}: {} bytes, {whole} for everything", device.bytes);
        assert!(away > 30 || resealed || device.bytes < whole / 10, "{case}: {} bytes for some changes", device.bytes);
        let mut fresh = Held::enrol(&rig, 2);
        fresh.sync(&rig);
        assert!(device.cells() == fresh.cells(), "{case}: another copy than a new device has");
        device.sync(&rig);
        assert_eq!((device.deltas, device.chunks), (0, 0), "{case}: nothing is left to fetch");
    }
}
