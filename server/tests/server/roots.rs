//! Keys replaced under a running server: planned and after theft, with devices that know only older authorities.

use cpis_protocol::Refusal;
use cpis_protocol::head::{Beat, Head};
use cpis_protocol::message::Request;
use cpis_protocol::sign::{Kind, PublicKey};
use cpis_protocol::trust::{Role, Root, Trust};
use cpis_protocol::{limits, sign};
use cpis_server::ceremony::{self, Plan};
use cpis_server::clock::Clock as _;
use cpis_server::home::Home;
use cpis_server::keys::file::{KeyError, Purpose};
use cpis_server::keys::{Standing, root_key};
use cpis_server::{audit_report, certificate, resign, review};

use crate::rig::{Device, NOW, Rig, authority, person, plan, text};

pub(crate) fn home(rig: &Rig) -> Home {
    Home::open(&rig.dir.path().join("server")).unwrap()
}

/// Drafts, signs with the rig's root key, and installs, as another process would while the server runs.
pub(crate) fn install(rig: &Rig, plan: Plan) -> Result<Trust, ceremony::CeremonyError> {
    let home = home(rig);
    home.trust().unwrap();
    let signer = root_key::open(&rig.dir.path().join("root/root-1.rootkey"), || unreachable!()).unwrap();
    let now = rig.clock.now_ms();
    let draft = ceremony::draft_as(&home, &Plan { days: 400, ..plan }, now)?;
    ceremony::install(&home, &ceremony::endorse(&draft, &signer).unwrap(), now)
}

fn head(device: &Device, rig: &Rig, trust: &Trust) -> (Beat, Head) {
    let bytes = device.ask(rig, Request::Beat(text("all"))).unwrap();
    let beat = Beat::verify(&bytes, &text("all"), trust, None, None).unwrap();
    let bytes = device.ask(rig, Request::Head(beat.head)).unwrap();
    ((*beat).clone(), (*Head::verify(&bytes, &beat.head, &text("all"), trust).unwrap()).clone())
}

#[test]
fn a_planned_change_goes_through_both_keys() {
    for (purpose, role) in [
        (Purpose::Publisher, Role::Publisher),
        (Purpose::Beat, Role::Beat),
        (Purpose::Authority, Role::DeviceAuthority),
        (Purpose::Receipt, Role::Receipt),
    ] {
        let rig = Rig::new();
        let device = rig.device(1);
        rig.apply(vec![person(1, vec![plan(authority(0))])]);
        rig.publish();
        let first = rig.service.keys().public_key(role);
        let before = head(&device, &rig, &rig.service.trust());
        home(&rig).keys.make_next(purpose, "test", NOW).unwrap();
        let root = rig.service.trust();
        let early = home(&rig).keys.promote(purpose, root.root());
        assert!(matches!(early, Err(KeyError::NextNotInRoot(_))), "no device would accept it: {early:?}");
        let trust = install(&rig, Plan::default()).unwrap();
        assert_eq!(trust.root().keys(role).len(), 2, "both are named");
        rig.service.refresh_trust().unwrap();
        assert_eq!(rig.service.keys().public_key(role), first, "and the present one goes on signing");
        home(&rig).keys.promote(purpose, trust.root()).unwrap();
        rig.service.refresh_trust().unwrap();
        resign::heads(rig.store(), rig.service.keys(), rig.clock.now_ms()).unwrap();
        let second = rig.service.keys().public_key(role);
        assert_ne!(second, first);
        assert!(matches!(home(&rig).keys.retire(purpose, None, trust.root()).as_deref(), Ok([])), "still named");
        let trust = install(&rig, Plan { withdraw: vec![purpose], ..Plan::default() }).unwrap();
        assert_eq!(trust.root().keys(role), [second]);
        rig.service.refresh_trust().unwrap();
        let after = head(&device, &rig, &trust);
        assert_eq!((after.1.feeds, after.1.gseq), (before.1.feeds, before.1.gseq), "the same content");
        assert_eq!(home(&rig).keys.retire(purpose, None, trust.root()).unwrap().len(), 1);
        device.grant(&rig);
        let start = device.chain(1);
        let (links, tip) = device.links(&rig, start, 1);
        assert_eq!(device.send(&rig, start, links).unwrap(), tip);
    }
}

/// Theft: the next root names the new keys only, and nothing signed by the old ones is left to be served.
#[test]
fn after_a_theft_one_root_is_enough() {
    let rig = Rig::new();
    let device = rig.device(1);
    rig.apply(vec![person(1, vec![plan(authority(0))])]);
    rig.publish();
    let old = rig.service.trust();
    let (stale, _) = head(&device, &rig, &old);
    let all = [Purpose::Publisher, Purpose::Beat, Purpose::Authority, Purpose::Receipt, Purpose::Audit];
    for purpose in all {
        home(&rig).keys.make_next(purpose, "test", NOW).unwrap();
    }
    let trust = install(&rig, Plan { withdraw: all.to_vec(), ..Plan::default() }).unwrap();
    rig.service.refresh_trust().unwrap();
    let (beat, head) = head(&device, &rig, &trust);
    assert!(beat.head != stale.head && beat.issued_ms > stale.issued_ms && head.issued_ms > NOW);
    for (role, kind, bytes) in [
        (Role::Beat, Kind::Beat, device.ask(&rig, Request::Beat(text("all"))).unwrap()),
        (Role::Publisher, Kind::Head, device.ask(&rig, Request::Head(beat.head)).unwrap()),
        (Role::DeviceAuthority, Kind::Grant, device.ask(&rig, Request::Grant).unwrap()),
    ] {
        let by = |keys: &[PublicKey]| sign::verify::<Root>(&bytes, kind, keys, 1, limits::GRANT_BYTES_MAX).err();
        assert_eq!(by(old.root().keys(role)), Some(Refusal::UnknownKey), "{role:?}");
        assert_ne!(by(trust.root().keys(role)), Some(Refusal::UnknownKey), "{role:?}");
    }
    let rows = home(&rig).keys.list(Some(trust.root())).unwrap();
    assert!(rows.iter().all(|row| (row.standing == Standing::Present) == row.in_use));
    assert_eq!(rows.iter().filter(|row| row.standing == Standing::Before).count(), 5);
}

/// Events sealed to the recipient before are opened as long as its key is kept.
#[test]
fn older_events_open_after_the_recipient_changed() {
    let rig = Rig::new();
    let device = rig.device(1);
    let start = device.chain(1);
    let (links, tip) = device.links(&rig, start, 1);
    device.send(&rig, start, links).unwrap();
    home(&rig).keys.make_next(Purpose::Audit, "test", NOW).unwrap();
    install(&rig, Plan::default()).unwrap();
    rig.service.refresh_trust().unwrap();
    let (links, _) = device.links(&rig, tip, 1);
    device.send(&rig, tip, links).unwrap();
    let acts = || {
        let mut acts = Vec::new();
        let keys = &rig.service.keys().audit;
        audit_report::list(rig.store(), keys, false, &mut |line| acts.push(line.act)).unwrap();
        acts
    };
    assert_eq!(acts(), ["look-up", "look-up"]);
    let trust = install(&rig, Plan { withdraw: vec![Purpose::Audit], ..Plan::default() }).unwrap();
    let rows = home(&rig).keys.list(Some(trust.root())).unwrap();
    let old = rows.iter().find(|row| row.role == "audit-recipient" && row.standing == Standing::Before).unwrap();
    home(&rig).keys.retire(Purpose::Audit, Some(&old.id), trust.root()).unwrap();
    rig.service.refresh_trust().unwrap();
    assert_eq!(acts(), ["sealed", "look-up"], "and not without it");
}

#[test]
fn an_install_wants_the_old_threshold_and_a_role_ends_by_itself() {
    let rig = Rig::new();
    let home = home(&rig);
    home.trust().unwrap();
    let stranger = sign::Signer::from_seed([9; 32]);
    let keys = Some((vec![stranger.public_key()], 1));
    let role_days = vec![(Role::Publisher, 90)];
    let draft = ceremony::draft_as(&home, &Plan { root_keys: keys, days: 400, role_days, ..Plan::default() }, NOW);
    let draft = ceremony::endorse(&draft.unwrap(), &stranger).unwrap();
    let refused = ceremony::install(&home, &draft, NOW);
    assert!(matches!(refused, Err(ceremony::CeremonyError::Refused(Refusal::UnknownKey))), "{refused:?}");
    let root = ceremony::show(&draft).unwrap();
    assert_eq!(root.role_until_ms(Role::Publisher), NOW + 90 * 86_400_000);
    let lines = review::changes(rig.service.trust().root(), &root);
    assert!(lines.iter().any(|line| line.starts_with("root key ADDED")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("root key WITHDRAWN")), "{lines:?}");
    assert!(lines.iter().any(|line| line.starts_with("publisher keys end before the root")), "{lines:?}");
    let ends = cpis_server::expiry::soon(&root, NOW + 61 * 86_400_000);
    assert_eq!(ends.iter().map(|end| end.what).collect::<Vec<_>>(), ["publisher"]);
}

/// A certificate by the authority before: the first of the way back for devices that know only that one.
#[test]
fn the_present_authority_certifies_the_next() {
    let rig = Rig::new();
    let first = rig.service.keys().authority.signer();
    home(&rig).keys.make_next(Purpose::Authority, "test", NOW).unwrap();
    install(&rig, Plan { withdraw: vec![Purpose::Authority], ..Plan::default() }).unwrap();
    rig.service.refresh_trust().unwrap();
    let crossed = rig.service.keys().crossed();
    assert_eq!(crossed.len(), 1);
    assert_eq!(certificate::public_key(&crossed[0]), Some(rig.service.keys().authority.public_key()));
    assert_ne!(first.public_key(), rig.service.keys().authority.public_key());
}
