//! The combined exchange says what the separate requests say, no more and no less, and takes in the same audit.

use cpis_protocol::Refusal;
use cpis_protocol::audit::{Batch, Receipt};
use cpis_protocol::catch_up::{CatchUp, CaughtUp};
use cpis_protocol::grant::Grant;
use cpis_protocol::head::Beat;
use cpis_protocol::limits;
use cpis_protocol::message::Request;
use cpis_protocol::sign::Kind;
use cpis_protocol::trust::Role;
use cpis_protocol::withdrawal::Withdrawal;
use cpis_server::clock::Clock as _;
use cpis_server::port::{DeviceState, Fleet as _, Store as _, StoreError};
use cpis_server::service::{Peer, ServiceError};

use crate::rig::{Device, Rig, authority, person, plan, text};

const IDLE: CatchUp =
    CatchUp { root_version: 1, head: None, grant: false, cells: true, report: Vec::new(), audit: Vec::new() };

fn ask(rig: &Rig, device: &Device, ask: &CatchUp) -> CaughtUp {
    let reply = device.ask(rig, Request::CatchUp(ask.to_bytes().unwrap())).unwrap();
    let reply = CaughtUp::read(&reply).unwrap();
    assert!(reply.is_whole);
    reply
}

fn beat(rig: &Rig, reply: &CaughtUp) -> Beat {
    let scope = text("all");
    let bytes = reply.beat.as_ref().unwrap();
    (*Beat::verify(bytes, &scope, &rig.service.trust(), None, Some(rig.clock.now_ms())).unwrap()).clone()
}

/// Every object is the one that its own request brings.
fn check_objects(rig: &Rig, device: &Device, reply: &CaughtUp) {
    for (request, body) in &reply.objects {
        assert_eq!(device.ask(rig, request.clone()).unwrap(), *body, "{}", request.path());
    }
}

#[test]
fn nothing_new_is_a_beat_and_no_more() {
    let rig = Rig::new();
    let device = rig.device(1);
    let first = ask(&rig, &device, &IDLE);
    check_objects(&rig, &device, &first);
    let again = ask(&rig, &device, &CatchUp { head: Some(beat(&rig, &first).head), ..IDLE });
    assert_eq!((again.objects.len(), again.grant.is_none(), again.receipt.is_none()), (0, true, true));
    let pinned = ask(&rig, &device, &CatchUp { cells: false, ..IDLE });
    assert!(pinned.objects.is_empty() && pinned.beat.is_some());
}

#[test]
fn some_steps_behind_brings_the_way() {
    let rig = Rig::new();
    let device = rig.device(1);
    rig.apply((0..5).map(|n| person(n, vec![plan(authority(0))])).collect());
    rig.publish();
    let held = beat(&rig, &ask(&rig, &device, &IDLE)).head;
    rig.apply((5..9).map(|n| person(n, vec![plan(authority(1))])).collect());
    rig.publish();
    let reply = ask(&rig, &device, &CatchUp { head: Some(held), ..IDLE });
    check_objects(&rig, &device, &reply);
    let requests: Vec<_> = reply.objects.iter().map(|(request, _)| request).collect();
    assert!(matches!(requests[..], [Request::Head(_), Request::Delta { .. }]), "{requests:?}");
    let whole = ask(&rig, &device, &CatchUp { head: Some([9; 32]), ..IDLE });
    check_objects(&rig, &device, &whole);
    let chunks = whole.objects.iter().filter(|(request, _)| matches!(request, Request::Chunk { .. })).count();
    assert!(chunks >= 2, "an unknown position gets the snapshot: {chunks} chunks");
}

/// Cells up to the budget; the rest comes by its own names.
#[test]
fn a_long_way_is_begun() {
    let rig = Rig::new();
    let device = rig.device(1);
    let held = beat(&rig, &ask(&rig, &device, &IDLE)).head;
    rig.apply((0..1400).map(|n| person(n, vec![plan(authority(0))])).collect());
    rig.publish();
    let reply = ask(&rig, &device, &CatchUp { head: Some(held), ..IDLE });
    check_objects(&rig, &device, &reply);
    let bytes: usize = reply.objects.iter().map(|(_, body)| body.len()).sum();
    assert!((100_000..limits::CATCH_UP_CELLS_BYTES + 4096).contains(&bytes), "{bytes}");
}

#[test]
fn audit_is_taken_in_once_whatever_it_came_with() {
    let rig = Rig::new();
    let device = rig.device(1);
    let (links, tip) = device.links(&rig, device.chain(1), 3);
    let audit = Batch { device: device.id(), after: device.chain(1), links: links.clone() }.to_bytes().unwrap();
    for _ in 0..2 {
        let reply = ask(&rig, &device, &CatchUp { audit: audit.clone(), ..IDLE });
        let receipt = rig.service.trust().verify::<Receipt>(
            Role::Receipt,
            Kind::Receipt,
            &reply.receipt.unwrap(),
            limits::RECEIPT_BYTES_MAX,
        );
        assert_eq!(receipt.unwrap().through, tip);
    }
    assert_eq!(device.send(&rig, device.chain(1), links).unwrap(), tip, "and by itself: nothing new");
    // What cannot be read is left out; the beat comes all the same, so that the download does not wait.
    let reply = ask(&rig, &device, &CatchUp { audit: vec![1, 2, 3], ..IDLE });
    assert!(reply.receipt.is_none() && reply.beat.is_some());
    // Nor is another device's.
    let other = rig.device(2);
    let reply = ask(&rig, &other, &CatchUp { audit, ..IDLE });
    assert!(reply.receipt.is_none());
}

#[test]
fn a_grant_comes_when_asked_for_or_when_the_device_moved() {
    let rig = Rig::new();
    let device = rig.device(1);
    let reply = ask(&rig, &device, &CatchUp { grant: true, ..IDLE });
    let trust = rig.service.trust();
    let first = Grant::verify(&reply.grant.unwrap(), &device.id(), &trust, None).unwrap();
    let head = Some(beat(&rig, &ask(&rig, &device, &IDLE)).head);
    let moved = rig.store().write::<_, StoreError>(|tx| {
        let row = tx.device(device.id())?.unwrap();
        tx.put_device(&cpis_server::port::DeviceRow { scope: text("only-a"), ..row })
    });
    moved.unwrap();
    let reply = ask(&rig, &device, &CatchUp { head, ..IDLE });
    let second = Grant::verify(&reply.grant.unwrap(), &device.id(), &trust, Some(&first)).unwrap();
    assert_eq!(second.scope, text("only-a"));
}

/// A withdrawn device hears so, and nothing that it could read or follow.
#[test]
fn a_withdrawn_device_gets_the_word_and_its_receipt() {
    let rig = Rig::new();
    let device = rig.device(1);
    let (links, _) = device.links(&rig, device.chain(1), 1);
    let audit = Batch { device: device.id(), after: device.chain(1), links }.to_bytes().unwrap();
    let revoked = rig.store().write::<_, StoreError>(|tx| {
        let row = tx.device(device.id())?.unwrap();
        tx.put_device(&cpis_server::port::DeviceRow { state: DeviceState::Revoked, ..row })
    });
    revoked.unwrap();
    let reply = ask(&rig, &device, &CatchUp { audit, grant: true, ..IDLE });
    assert!(reply.receipt.is_some() && reply.beat.is_none() && reply.objects.is_empty());
    Withdrawal::verify(&reply.grant.unwrap(), &device.id(), &rig.service.trust(), 0).unwrap();
}

/// With a certificate past its end: what leads to the next, and no cell.
#[test]
fn an_expired_certificate_gets_no_news() {
    let rig = Rig::new();
    let device = rig.device(1);
    let peer = Peer { device: Some(device.id()), expired: true };
    let body = CatchUp { grant: true, ..IDLE }.to_bytes().unwrap();
    let reply = CaughtUp::read(&rig.service.handle(peer, Request::CatchUp(body)).unwrap()).unwrap();
    assert!(reply.grant.is_some() && reply.beat.is_none() && reply.objects.is_empty());
}

#[test]
fn strangers_and_nonsense_get_nothing() {
    let rig = Rig::new();
    let device = rig.device(1);
    let body = IDLE.to_bytes().unwrap();
    let stranger = rig.service.handle(None, Request::CatchUp(body.clone()));
    assert!(matches!(stranger, Err(ServiceError::Unauthorised)));
    let nonsense = device.ask(&rig, Request::CatchUp(body[..9].to_vec()));
    assert!(matches!(nonsense, Err(ServiceError::Refused(code)) if code == Refusal::Truncated.code()));
}
