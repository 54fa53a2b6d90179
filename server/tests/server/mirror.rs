//! Mirrors get the immutable objects of their scopes and nothing else, and are no devices.

use cpis_protocol::head::{Beat, Head};
use cpis_protocol::message::Request;
use cpis_protocol::sign::{self, Kind};
use cpis_protocol::{codec, limits};
use cpis_server::clock::Clock as _;
use cpis_server::mirror::{self, Deployment, Given, MirrorError};
use cpis_server::port::{Store as _, StoreError};
use cpis_server::service::{Peer, ServiceError};

use crate::rig::{Device, NOW, Rig, authority, person, plan, text};

fn change(rig: &Rig, make: impl FnOnce(&Deployment<'_>) -> Result<Given, MirrorError>) -> Result<Given, MirrorError> {
    let (trust, keys) = (rig.service.trust(), rig.service.keys());
    make(&Deployment {
        keys,
        config: rig.service.config(),
        name: "test",
        authorities: &trust.root().authority_certificates,
        now_ms: rig.clock.now_ms(),
    })
}

fn add(rig: &Rig, name: &str, scope: &str) -> Given {
    change(rig, |with| rig.store().write(|tx| mirror::add(tx, with, name, "m.example", vec![text(scope)], 30))).unwrap()
}

#[test]
fn immutable_objects_of_its_scopes_and_nothing_else() {
    let rig = Rig::new();
    rig.apply((0..5).map(|n| person(n, vec![plan(authority(u8::try_from(n % 2).unwrap()))])).collect());
    rig.publish();
    let device = rig.device(1);
    let beat = device.ask(&rig, Request::Beat(text("all"))).unwrap();
    let beat: Beat = sign::peek_unverified(&beat, Kind::Beat, limits::BEAT_BYTES_MAX).unwrap();
    let head_bytes = device.ask(&rig, Request::Head(beat.head)).unwrap();
    let head: Head = sign::peek_unverified(&head_bytes, Kind::Head, limits::HEAD_BYTES_MAX).unwrap();
    let [all, only_a] = ["all", "only-a"].map(|scope| add(&rig, scope, scope).row.key);
    let ask = |peer, request: Request| rig.service.handle(Some(peer), request);
    let objects = |at: usize| {
        let state = &head.feeds[at];
        let (feed, epoch, seq) = (state.feed, state.epoch, state.seq);
        [
            Request::Delta { feed, epoch, from: 0, to: seq },
            Request::Manifest { feed, epoch, seq },
            Request::Bounds { feed, epoch, seq },
            Request::Chunk { feed, epoch, seq, index: 0 },
        ]
    };
    for request in
        [Request::Head(beat.head), Request::Reference(head.reference)].into_iter().chain(objects(0)).chain(objects(1))
    {
        assert_eq!(ask(all, request.clone()).unwrap(), device.ask(&rig, request).unwrap(), "the same as a device gets");
    }
    for request in objects(0) {
        assert!(ask(only_a, request).is_ok());
    }
    for request in [Request::Head(beat.head)].into_iter().chain(objects(1)) {
        assert!(matches!(ask(only_a, request), Err(ServiceError::Unauthorised)), "of another scope");
    }
    let never = [
        Request::Grant,
        Request::Beat(text("all")),
        Request::Root(1),
        Request::Audit(vec![1]),
        Request::Report(vec![1]),
        Request::CatchUp(vec![1]),
    ];
    for request in never {
        assert!(matches!(ask(all, request.clone()), Err(ServiceError::Unauthorised)), "{}", request.path());
    }
    let late = Peer { device: Some(all), expired: true };
    assert!(matches!(rig.service.handle(late, Request::Head(beat.head)), Err(ServiceError::Unauthorised)));
    // Renewed, the key before is worth nothing; taken out, neither is.
    let renewed = change(&rig, |with| rig.store().write(|tx| mirror::renew(tx, with, "all", 30))).unwrap().row.key;
    assert!(matches!(ask(all, Request::Head(beat.head)), Err(ServiceError::Unauthorised)));
    assert!(ask(renewed, Request::Head(beat.head)).is_ok());
    rig.store().write(|tx| mirror::remove(tx, "all")).unwrap();
    assert!(matches!(ask(renewed, Request::Head(beat.head)), Err(ServiceError::Unauthorised)));
    let left = rig.store().read::<_, StoreError>(|tx| mirror::list(tx)).unwrap();
    assert_eq!(left.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), ["only-a"]);
}

#[test]
fn as_many_as_can_be_looked_through_and_none_of_a_name_of_the_server() {
    let rig = Rig::new();
    for n in 0..mirror::MIRRORS_MAX {
        add(&rig, &format!("m{n}"), "all");
    }
    let one = |name: &str, host: &str| {
        change(&rig, |with| rig.store().write(|tx| mirror::add(tx, with, name, host, vec![text("all")], 30)))
    };
    assert!(matches!(one("more", "m.example"), Err(MirrorError::Full)));
    assert!(matches!(one("m3", "m.example"), Err(MirrorError::Taken(_))));
    rig.store().write(|tx| mirror::remove(tx, "m0")).unwrap();
    assert!(matches!(one("pretender", "LocalHost"), Err(MirrorError::ServersName(_))));
    let given = one("more", "10.0.0.7").unwrap();
    assert!(given.row.until_ms > NOW && given.certificate.starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert!(!Device::new(9).id().0.eq(&given.row.key.0));
    assert!(codec::encode(&given.row).unwrap().len() < 256);
}
