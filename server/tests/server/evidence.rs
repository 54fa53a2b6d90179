//! Alerts and erasure proofs, derived once from what devices sent, whenever the key to open it is there.

mod acts;

use cpis_protocol::audit::{Act, AuditEvent, ErasureCause, LockCause, Moment, Outcome, Tip};
use cpis_protocol::head::{Beat, Head};
use cpis_protocol::message::Request;
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::text::Text;
use cpis_server::clock::Clock as _;
use cpis_server::digest::{self, Digested};
use cpis_server::erasure_report::{self, DeviceLine, ErasureReport, FeedLine, RemovalLine, Wanted};
use cpis_server::keys::AuditKeys;
use cpis_server::port::{
    AlertKind, AlertRow, DeviceRow, DeviceState, Evidence as _, Fleet as _, Store as _, StoreError,
};
use cpis_server::register::Change;
use cpis_server::rekey::{self, Rekey};
use cpis_server::removal;
use cpis_server::store::SqliteStore;

use crate::rig::{DAY, Device, NOW, Rig, authority, birth, number, person, plan, text};

const HOUR: i64 = 3_600_000;

/// A device whose replica is at a head, and the end of its chain.
struct Crew {
    device: Device,
    tip: Tip,
    head: (u64, [u8; 32]),
}

impl Crew {
    fn new(rig: &Rig, seed: u8, scope: &str) -> Self {
        let device = Device::new(seed);
        device.enrol(rig, rig.invite_to(scope, 1).code).unwrap();
        let tip = device.chain(1);
        let mut crew = Self { device, tip, head: (0, [0; 32]) };
        crew.sync(rig);
        crew
    }

    /// Takes the newest head, as an honest device does; what it holds from then on is what that head lists.
    fn sync(&mut self, rig: &Rig) {
        self.device.grant(rig);
        let trust = rig.service.trust();
        let scope = rig.store().read::<_, StoreError>(|tx| tx.device(self.device.id())).unwrap().unwrap().scope;
        let beat = self.device.ask(rig, Request::Beat(scope)).unwrap();
        let beat = Beat::verify(&beat, &scope, &trust, None, None).unwrap();
        let head = self.device.ask(rig, Request::Head(beat.head)).unwrap();
        let head = Head::verify(&head, &beat.head, &scope, &trust).unwrap();
        self.head = (head.gseq, head.hash());
    }

    /// Records acts, each so many milliseconds after the present, and uploads them.
    fn send(&mut self, rig: &Rig, acts: Vec<(i64, Act)>) {
        let trust = rig.service.trust();
        let mut tip = self.tip;
        let mut links = Vec::new();
        for (after_ms, act) in acts {
            let who = if matches!(act, Act::Erased { .. }) { Text::EMPTY } else { self.device.practitioner };
            let (role, incident) = (text("R1070"), Text::EMPTY);
            let event = AuditEvent { break_glass: false, practitioner: who, role, incident, act };
            let event_ms = rig.clock.now_ms() + after_ms;
            let moment = Moment { event_ms, anchor_ms: NOW, gseq: self.head.0, head: self.head.1 };
            let (signer, to) = (&self.device.signer, trust.audit_recipient().unwrap());
            let mut rng = cpis_server::entropy::system();
            let (link, next) = tip.append(&self.device.id(), signer, to, &moment, &event, &mut rng).unwrap();
            tip = next;
            links.push(link);
        }
        for part in links.chunks(100) {
            self.tip = self.device.send(rig, self.tip, part.to_vec()).unwrap();
        }
        assert_eq!(self.tip, tip);
    }

    fn erased(&mut self, rig: &Rig, cause: ErasureCause) {
        self.send(rig, vec![(0, Act::Erased { cause, records: 1 })]);
    }
}

fn look_up(number: NhsNumber, birth: Date, outcome: Outcome) -> Act {
    Act::LookUp { number, birth, outcome, reason: Text::EMPTY }
}

/// A number far from every other that is asked about here.
fn apart(n: u64) -> NhsNumber {
    number(n * 7)
}

fn digest(rig: &Rig) -> Digested {
    digest_with(rig, &rig.service.keys().audit)
}

fn digest_with(rig: &Rig, keys: &AuditKeys) -> Digested {
    digest::run(rig.store(), keys, rig.service.config()).unwrap()
}

fn alerts(rig: &Rig) -> Vec<AlertRow> {
    rig.store().read::<_, StoreError>(|tx| tx.alerts(true)).unwrap()
}

fn kinds(rig: &Rig) -> Vec<(AlertKind, u64)> {
    alerts(rig).into_iter().map(|row| (row.kind, row.count)).collect()
}

/// A busy but honest day: thirty look-ups an hour with the usual hits, slips in a date, and twins.
fn quiet(rig: &Rig, crew: &mut Crew) {
    let mut acts = Vec::new();
    for n in 0..240u64 {
        let outcome = if n % 11 == 0 { Outcome::Flagged } else { Outcome::NotInThisCopy };
        acts.push((i64::try_from(n).unwrap() * HOUR / 30, look_up(apart(n), birth(n), outcome)));
    }
    let slips = [birth(3), birth(4), birth(3), birth(40)];
    acts.extend(slips.map(|birth| (9 * HOUR, look_up(apart(500), birth, Outcome::Flagged))));
    acts.extend([900, 901].map(|n| (10 * HOUR, look_up(number(9000 + n), birth(1), Outcome::Flagged))));
    crew.send(rig, acts);
}

#[test]
fn a_quiet_crew_raises_nothing() {
    let rig = Rig::new();
    let mut crew = Crew::new(&rig, 1, "all");
    quiet(&rig, &mut crew);
    assert_eq!(digest(&rig), Digested { links: 246, ..Digested::default() });
    assert!(kinds(&rig).is_empty());
}

#[test]
fn each_pattern_of_enumeration_raises_its_alert_once() {
    let hit = Outcome::Flagged;
    let spread = |count: u64, outcome: Outcome| -> Vec<(i64, Act)> {
        (0..count).map(|n| (i64::try_from(n).unwrap() * 60_000, look_up(apart(n), birth(n), outcome))).collect()
    };
    let births = (0..6).map(|n| (n * HOUR, look_up(apart(1), birth(n.unsigned_abs()), hit))).collect::<Vec<_>>();
    let names = (0..5u64).map(|n| {
        let (surname, given) = (text("SORENSON"), text("ADA"));
        let (postcode, reason) = (Text::EMPTY, Text::EMPTY);
        (0, Act::LookUpByName { surname, given, birth: birth(n), postcode, candidates: 1, outcome: hit, reason })
    });
    // In no order, and with other look-ups in between.
    let sequence = [4u64, 0, 3, 1, 2]
        .into_iter()
        .flat_map(|n| [(0, look_up(number(n), birth(n), hit)), (0, look_up(apart(100 + n), birth(n), hit))]);
    for (acts, kind, count) in [
        (spread(45, hit), AlertKind::EnumerationRate, 45),
        (spread(32, Outcome::NotInThisCopy), AlertKind::EnumerationMisses, 32),
        (births, AlertKind::EnumerationDates, 6),
        (names.collect(), AlertKind::EnumerationDates, 5),
        (sequence.collect(), AlertKind::EnumerationSequence, 5),
    ] {
        let rig = Rig::new();
        // The window starts with the present, so that one alert is one.
        rig.clock.advance(DAY - rig.clock.now_ms().rem_euclid(DAY));
        let mut crew = Crew::new(&rig, 1, "all");
        // In two uploads, with the server looking in between: the window reaches over both.
        let mut first = acts;
        let second = first.split_off(first.len() / 2);
        crew.send(&rig, first);
        digest(&rig);
        assert!(kinds(&rig).is_empty(), "{kind:?} too early");
        crew.send(&rig, second);
        assert_eq!(digest(&rig).alerts, 1, "{kind:?}");
        assert_eq!(kinds(&rig), [(kind, count)]);
        let row = alerts(&rig).remove(0);
        assert_eq!((row.device, row.practitioner), (Some(crew.device.id()), crew.device.practitioner));
    }
}

#[test]
fn the_same_look_ups_by_two_people_or_on_two_days_are_no_pattern() {
    let rig = Rig::new();
    let (mut one, mut two) = (Crew::new(&rig, 1, "all"), Crew::new(&rig, 2, "all"));
    two.device.practitioner = text("PARA002");
    for n in 0..4u64 {
        one.send(&rig, vec![(0, look_up(apart(1), birth(n), Outcome::Flagged))]);
        two.send(&rig, vec![(0, look_up(apart(1), birth(n + 10), Outcome::Flagged))]);
    }
    rig.clock.advance(DAY);
    one.send(&rig, vec![(0, look_up(apart(1), birth(20), Outcome::Flagged))]);
    // Another person takes the same device over.
    let mut acts = Vec::new();
    for n in 0..4u64 {
        acts.push((0, look_up(number(8000 + n), birth(n), Outcome::Flagged)));
    }
    one.send(&rig, acts);
    one.device.practitioner = text("PARA003");
    one.send(&rig, vec![(0, look_up(number(8004), birth(4), Outcome::Flagged))]);
    digest(&rig);
    assert!(kinds(&rig).is_empty(), "{:?}", kinds(&rig));
}

/// One of each act that is an alert by itself, and two refusals by the limit.
fn incidents() -> Vec<(i64, Act)> {
    let reason = || text("no network");
    let limited = |n| Act::LookUp {
        number: apart(n),
        birth: birth(n),
        outcome: Outcome::CannotAnswer,
        reason: text("rate-limited"),
    };
    vec![
        (0, Act::Unlock),
        (0, Act::BreakGlass { reason: reason(), look_ups: 20 }),
        (0, Act::Unrecorded { count: 3, first_ms: NOW, reason: reason() }),
        (0, Act::SlotClosed { practitioner: text("PARA009") }),
        (0, limited(1)),
        (0, limited(2)),
        (0, Act::Lock { cause: LockCause::Idle }),
        (0, Act::Erased { cause: ErasureCause::Update, records: 2 }),
    ]
}

const INCIDENTS: [(AlertKind, u64); 4] =
    [(AlertKind::BreakGlass, 20), (AlertKind::Unrecorded, 3), (AlertKind::SlotClosed, 1), (AlertKind::RateLimited, 2)];

#[test]
fn looked_at_again_nothing_is_derived_twice() {
    let rig = Rig::new();
    let mut crew = Crew::new(&rig, 1, "all");
    crew.send(&rig, incidents());
    assert_eq!(digest(&rig), Digested { links: 8, proofs: 1, alerts: 4 });
    assert_eq!(kinds(&rig), INCIDENTS);
    assert_eq!(alerts(&rig)[2].practitioner, text("PARA009"), "whose slot");
    for _ in 0..3 {
        assert_eq!(digest(&rig), Digested::default());
    }
    let rig = rig.restart();
    assert_eq!(digest(&rig), Digested::default());
    assert_eq!(kinds(&rig), INCIDENTS);
    // Acknowledged once, by name; the row stays.
    let id = alerts(&rig)[0].id;
    let acknowledge = |by| rig.store().write::<_, StoreError>(|tx| tx.acknowledge(id, by, NOW)).unwrap();
    assert!(acknowledge("S. Example") && !acknowledge("Another"));
    assert_eq!(alerts(&rig)[0].acknowledged, Some(("S. Example".into(), NOW)));
    assert_eq!(rig.store().read::<_, StoreError>(|tx| tx.alerts(false)).unwrap().len(), 3);
}

#[test]
fn without_the_key_everything_waits_and_is_caught_up_with() {
    let rig = Rig::new();
    let mut crew = Crew::new(&rig, 1, "all");
    crew.send(&rig, incidents());
    assert_eq!(digest_with(&rig, &AuditKeys::default()), Digested::default());
    assert!(kinds(&rig).is_empty());
    assert_eq!(digest(&rig), Digested { links: 8, proofs: 1, alerts: 4 });
    // With the key of another recipient the links are passed over, and found again when theirs is here.
    crew.send(&rig, incidents());
    let other = AuditKeys::new(vec![OpeningKey::from_seed([77; 32])]);
    assert_eq!(digest_with(&rig, &other), Digested::default());
    assert_eq!(kinds(&rig), INCIDENTS);
    assert_eq!(digest(&rig), Digested { links: 8, proofs: 1, alerts: 3 }, "the refusals are in the same hour");
    assert_eq!(digest(&rig), Digested::default());
}

#[test]
fn what_the_inbox_set_aside_raises_an_alert_without_any_key() {
    let rig = Rig::new();
    let mut crew = Crew::new(&rig, 1, "all");
    let (device, start) = (Device::new(1), crew.tip);
    crew.send(&rig, vec![(0, Act::Unlock)]);
    // The same place again with another link: a fork. Another chain. A body that is no batch. A broken signature.
    let (fork, _) = device.links(&rig, start, 1);
    device.send(&rig, start, fork).unwrap();
    let (beside, next) = device.links(&rig, device.chain(2), 1);
    device.send(&rig, device.chain(2), beside).unwrap();
    device.ask(&rig, Request::Audit(vec![1, 2, 3])).unwrap_err();
    let (stranger, _) = Device { signer: Device::new(9).signer, ..Device::new(1) }.links(&rig, next, 1);
    device.send(&rig, next, stranger).unwrap();
    digest_with(&rig, &AuditKeys::default());
    let mut found: Vec<_> = kinds(&rig);
    found.sort_unstable();
    let expected = [AlertKind::Fork, AlertKind::BadSignature, AlertKind::Unreadable, AlertKind::SecondChain];
    assert_eq!(found, expected.map(|kind| (kind, 1)));
    digest_with(&rig, &AuditKeys::default());
    assert_eq!(alerts(&rig).len(), 4);
}

#[test]
fn a_pattern_is_seen_over_pages_restarts_and_an_event_by_a_wrong_clock() {
    let rig = Rig::new();
    let mut crew = Crew::new(&rig, 1, "all");
    let tried = |n| (0, look_up(apart(1), birth(n), Outcome::Flagged));
    let others = |count| (0..count).map(|n: i64| (n, Act::Unlock)).collect::<Vec<_>>();
    for n in 0..2 {
        crew.send(&rig, vec![tried(n)]);
    }
    // More than one page, in one run.
    crew.send(&rig, others(250));
    crew.send(&rig, vec![tried(2), (-40 * DAY, Act::Unlock)]);
    digest(&rig);
    let rig = rig.restart();
    crew.send(&rig, vec![tried(3)]);
    digest(&rig);
    assert!(kinds(&rig).is_empty());
    crew.send(&rig, vec![(0, Act::Unlock), tried(4)]);
    digest(&rig);
    assert_eq!(kinds(&rig), [(AlertKind::EnumerationDates, 5)]);
}

fn report(rig: &Rig, wanted: &Wanted) -> ErasureReport {
    digest(rig);
    erasure_report::report(rig.store(), wanted, rig.clock.now_ms()).unwrap()
}

fn removal(rig: &Rig, n: u64) -> RemovalLine {
    let mark = Some(removal::mark(&rig.service.keys().storage, number(n)));
    let mut lines = report(rig, &Wanted { mark, ..Wanted::default() }).removals;
    assert_eq!(lines.len(), 1);
    lines.remove(0)
}

fn feed(rig: &Rig, index: u8) -> FeedLine {
    report(rig, &Wanted { feed: Some(authority(index)), ..Wanted::default() }).feeds.remove(0)
}

fn whose(lines: &[DeviceLine]) -> Vec<String> {
    lines.iter().map(|line| line.device.clone()).collect()
}

fn ids(crews: &[&Crew]) -> Vec<String> {
    let mut ids: Vec<_> = crews.iter().map(|crew| crew.device.id().to_string()).collect();
    ids.sort_unstable();
    ids
}

fn change(rig: &Rig, crew: &Crew, row: impl FnOnce(DeviceRow) -> DeviceRow) {
    let write = |tx: &<SqliteStore as cpis_server::port::Store>::Tx<'_>| -> Result<(), StoreError> {
        tx.put_device(&row(tx.device(crew.device.id())?.unwrap()))
    };
    rig.store().write(write).unwrap();
}

fn place(rig: &Rig, n: u64, feeds: &[u8]) {
    rig.apply(vec![person(n, feeds.iter().map(|index| plan(authority(*index))).collect())]);
    rig.publish();
}

fn remove(rig: &Rig, n: u64) {
    rig.clock.advance(60_000);
    rig.apply(vec![Change::Delete(number(n))]);
    rig.publish();
    rig.clock.advance(60_000);
}

#[test]
fn a_removed_record_is_proved_gone_device_by_device() {
    let rig = Rig::new();
    place(&rig, 1, &[0]);
    place(&rig, 2, &[0]);
    let mut crews: Vec<Crew> = (1..=5).map(|seed| Crew::new(&rig, seed, "all")).collect();
    // Each has a receipt from before: of another removal, to a head that still has the record.
    remove(&rig, 2);
    for crew in &mut crews {
        crew.sync(&rig);
        crew.erased(&rig, ErasureCause::Update);
    }
    remove(&rig, 1);
    let newcomer = Crew::new(&rig, 9, "all");
    let line = removal(&rig, 1);
    assert_eq!(whose(&line.proved), Vec::<String>::new(), "a receipt from before the removal proves nothing");
    assert_eq!(whose(&line.unproved), ids(&crews.iter().collect::<Vec<_>>()));
    assert!(whose(&removal(&rig, 2).unproved).is_empty());
    let [updated, expired, withdrawn, silent, untold] = &mut crews[..] else { unreachable!() };
    updated.sync(&rig);
    updated.erased(&rig, ErasureCause::Update);
    expired.erased(&rig, ErasureCause::LeaseExpired);
    change(&rig, withdrawn, |row| DeviceRow { state: DeviceState::Revoked, ..row });
    withdrawn.erased(&rig, ErasureCause::Withdrawn);
    // One takes the new head and says so, but sends no receipt: a word is no proof.
    untold.sync(&rig);
    untold.send(&rig, vec![(0, Act::Unlock)]);
    // A re-seal removes every blind identity and no record.
    let plan = Rekey { reseal: [authority(0)].into(), ..Rekey::default() };
    rekey::run(rig.store(), rig.service.keys(), &plan, rig.clock.now_ms(), &mut |_| ()).unwrap();
    let line = removal(&rig, 1);
    assert_eq!(whose(&line.proved), ids(&[updated, expired, withdrawn]));
    assert_eq!(whose(&line.unproved), ids(&[silent, untold]));
    assert!(!whose(&line.proved).contains(&newcomer.device.id().to_string()), "who came later never held it");
    let mut causes: Vec<_> = line.proved.iter().filter_map(|line| line.proof).collect();
    causes.sort_unstable();
    assert_eq!(causes, ["lease-expired", "update", "withdrawn"]);
    let lease_ms =
        rig.store().read::<_, StoreError>(|tx| tx.device(silent.device.id())).unwrap().unwrap().lease_until_ms;
    let of = |lines: &[DeviceLine], crew: &Crew| {
        lines.iter().find(|line| line.device == crew.device.id().to_string()).unwrap().clone()
    };
    let entry = of(&line.unproved, silent);
    assert_eq!((entry.lease_end, entry.lease_over), (cpis_server::clock::iso(lease_ms), false));
    // Once every lease is over nobody can read it, and it is listed only on demand.
    rig.clock.advance(8 * DAY);
    assert!(of(&removal(&rig, 1).unproved, silent).lease_over);
    assert!(report(&rig, &Wanted::default()).removals.is_empty());
    assert_eq!(report(&rig, &Wanted { settled: true, ..Wanted::default() }).removals.len(), 2);
}

#[test]
fn a_feed_is_held_left_with_proof_or_left_without() {
    let rig = Rig::new();
    place(&rig, 1, &[0, 1]);
    let mut crews: Vec<Crew> = (1..=4).map(|seed| Crew::new(&rig, seed, "all")).collect();
    let only = Crew::new(&rig, 7, "only-a");
    assert_eq!(whose(&feed(&rig, 1).holding), ids(&crews.iter().collect::<Vec<_>>()), "one was never granted it");
    assert_eq!(feed(&rig, 0).holding.len(), 5);
    let [holds, moved, away, lost] = &mut crews[..] else { unreachable!() };
    rig.clock.advance(60_000);
    for crew in [&*moved, &*away] {
        change(&rig, crew, |row| DeviceRow { scope: text("only-a"), ..row });
    }
    // Not told yet: both still hold it.
    assert!(feed(&rig, 1).unproved.is_empty());
    moved.sync(&rig);
    moved.erased(&rig, ErasureCause::Update);
    away.sync(&rig);
    change(&rig, lost, |row| DeviceRow { state: DeviceState::Lost, ..row });
    let line = feed(&rig, 1);
    assert_eq!(whose(&line.holding), ids(&[holds]));
    assert_eq!(whose(&line.proved), ids(&[moved]));
    assert_eq!(whose(&line.unproved), ids(&[away, lost]));
    assert_eq!(whose(&feed(&rig, 0).unproved), ids(&[lost]), "the others still have that one rightly");
    // Granted it again, and out again: the receipt from the first time proves nothing of the second.
    for scope in ["all", "only-a"] {
        rig.clock.advance(60_000);
        change(&rig, moved, |row| DeviceRow { scope: text(scope), ..row });
        moved.sync(&rig);
    }
    assert!(whose(&feed(&rig, 1).unproved).contains(&moved.device.id().to_string()));
    // A whole erasure counts until something is granted after it.
    holds.erased(&rig, ErasureCause::LeaseExpired);
    assert!(whose(&feed(&rig, 1).proved).contains(&holds.device.id().to_string()));
    rig.clock.advance(60_000);
    holds.sync(&rig);
    assert_eq!(whose(&feed(&rig, 1).holding), ids(&[holds]));
    let one = report(&rig, &Wanted { device: Some(only.device.id()), ..Wanted::default() });
    assert_eq!(one.feeds.iter().map(|line| line.holding.len()).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn a_record_that_comes_back_is_said_to_be_back() {
    let rig = Rig::new();
    place(&rig, 1, &[0]);
    let crew = Crew::new(&rig, 1, "all");
    remove(&rig, 1);
    assert!(!removal(&rig, 1).returned);
    place(&rig, 1, &[0]);
    let line = removal(&rig, 1);
    assert!(line.returned);
    assert_eq!(whose(&line.unproved), ids(&[&crew]), "the device has not said that the first one went");
}
