//! A code enrols one device, once, in time; everything else is refused.

use cpis_protocol::message::{DeviceReport, Request};
use cpis_protocol::trust::Trust;
use cpis_protocol::withdrawal::{Withdrawal, WithdrawalAction};
use cpis_server::port::{DeviceRow, DeviceState, Fleet as _, Store as _, StoreError};
use cpis_server::service::ServiceError;

use crate::rig::{Device, NOW, Rig, authority, text};

fn refused(result: &Result<cpis_protocol::enrol::EnrolReply, ServiceError>) -> &'static str {
    match result {
        Err(ServiceError::Refused(code)) => code,
        Err(ServiceError::Revoked) => "revoked",
        Ok(_) => "accepted",
        Err(_) => "other",
    }
}

#[test]
fn a_device_gets_certificate_grant_and_keys() {
    let rig = Rig::new();
    let invitation = rig.invite(1);
    assert_eq!(Trust::pin(&invitation.root).unwrap().root().version, 1);
    let device = Device::new(1);
    let reply = device.enrol(&rig, invitation.code).unwrap();
    assert_eq!(cpis_server::certificate::public_key(&reply.certificate), Some(device.signer.public_key()));
    assert!(reply.roots.is_empty());
    let grant = device.grant(&rig);
    assert_eq!((grant.number, grant.scope, grant.site), (2, text("all"), text("site")));
    assert_eq!(grant.lease_until_ms, NOW + 7 * 86_400_000);
    assert!(grant.badge(&text("PARA001"), NOW).is_some());
    let keys = grant.open_keys(&device.vault).unwrap();
    assert!(grant.feeds.iter().all(|feed| keys.holds(feed.feed, feed.epoch, feed.key_id)));
    assert_eq!(grant.feeds.len(), 3);
    assert!(grant.open_keys(&Device::new(9).vault).is_err(), "sealed to one vault");
    assert_eq!(grant.feeds[0].feed, authority(0));
    assert_eq!(device.grant(&rig).number, 3);
}

#[test]
fn codes_that_do_not_enrol() {
    let rig = Rig::new();
    let invitation = rig.invite(1);
    let device = Device::new(1);
    assert_eq!(refused(&device.enrol(&rig, [0; 16])), "code", "wrong");
    rig.clock.advance(3_600_000);
    assert_eq!(refused(&device.enrol(&rig, invitation.code)), "code", "expired");
    let invitation = rig.invite(1);
    assert!(device.enrol(&rig, invitation.code).is_ok());
    assert_eq!(refused(&Device::new(2).enrol(&rig, invitation.code)), "code", "used by another");
    assert!(device.enrol(&rig, invitation.code).is_ok(), "the same device again: its reply was lost");
}

/// R224: the reply was lost, and the device asks again: the same certificate, and the code is not used up by it.
#[test]
fn a_repeated_request_gets_the_same_certificate_and_uses_nothing_up() {
    let rig = Rig::new();
    let invitation = rig.invite(24);
    let device = Device::new(1);
    let first = device.enrol(&rig, invitation.code).unwrap();
    rig.clock.advance(3_600_000);
    for _ in 0..20 {
        let again = device.enrol(&rig, invitation.code).unwrap();
        assert_eq!(again.certificate, first.certificate, "byte for byte");
        assert_ne!(again.grant, first.grant, "the grant is of now");
    }
    let row = || rig.store().read::<_, StoreError>(|tx| Ok(tx.device(device.id())?.unwrap())).unwrap();
    assert_eq!(row().enrolled_at_ms, NOW);
    // One that was moved meanwhile is not moved back.
    let change = |row: DeviceRow| {
        rig.store().write(|tx| -> Result<(), StoreError> { tx.put_device(&row) }).unwrap();
    };
    change(DeviceRow { scope: text("only-a"), ..row() });
    device.enrol(&rig, invitation.code).unwrap();
    assert_eq!(row().scope, text("only-a"));
    // Another device does not get in by it, nor does the same one after the invitation's end or once it is revoked.
    assert_eq!(refused(&Device::new(2).enrol(&rig, invitation.code)), "code");
    // With another invitation it is certified anew.
    let other = device.enrol(&rig, rig.invite(1).code).unwrap();
    assert_ne!(other.certificate, first.certificate);
    change(DeviceRow { state: DeviceState::Revoked, ..row() });
    assert_eq!(refused(&device.enrol(&rig, invitation.code)), "revoked");
    change(DeviceRow { state: DeviceState::Active, ..row() });
    rig.clock.advance(24 * 3_600_000);
    assert_eq!(refused(&device.enrol(&rig, invitation.code)), "code", "expired");
}

/// What has come with its certificate has had its reply: its code is dead.
#[test]
fn a_device_that_has_come_does_not_enrol_again_by_its_code() {
    let rig = Rig::new();
    let invitation = rig.invite(24);
    let device = Device::new(1);
    device.enrol(&rig, invitation.code).unwrap();
    let report = DeviceReport {
        version: text("0.1.0"),
        secret: text("file"),
        root_version: 1,
        certificate_until_ms: NOW + 90 * 86_400_000,
        break_glass: 0,
        unrecorded: 0,
    };
    device.ask(&rig, Request::Report(cpis_protocol::codec::encode(&report).unwrap())).unwrap();
    assert_eq!(refused(&device.enrol(&rig, invitation.code)), "code");
}

#[test]
fn attempts_run_out() {
    let rig = Rig::new();
    let invitation = rig.invite(1);
    let stranger = Device { practitioner: text("NOBODY"), ..Device::new(1) };
    for _ in 0..5 {
        assert_eq!(refused(&stranger.enrol(&rig, invitation.code)), "practitioner");
    }
    assert_eq!(refused(&Device::new(1).enrol(&rig, invitation.code)), "code", "dead");
}

#[test]
fn a_request_that_another_key_signed_is_refused() {
    let rig = Rig::new();
    let mut body = Device::new(1).request(rig.invite(1).code);
    let last = body.len() - 1;
    body[last] ^= 1;
    assert!(matches!(rig.service.handle(None, Request::Enrol(body)), Err(ServiceError::Refused(_))));
    let long = vec![6; 5000];
    assert!(rig.service.handle(None, Request::Enrol(long)).is_err());
}

#[test]
fn strangers_and_revoked_devices_get_nothing() {
    let rig = Rig::new();
    let device = rig.device(1);
    let stranger = Device::new(2);
    assert!(matches!(stranger.ask(&rig, Request::Grant), Err(ServiceError::Unauthorised)));
    assert!(matches!(rig.service.handle(None, Request::Grant), Err(ServiceError::Unauthorised)));
    rig.store()
        .write(|tx| -> Result<(), StoreError> {
            let row = tx.device(device.id())?.unwrap();
            tx.put_device(&DeviceRow { state: DeviceState::Revoked, ..row })
        })
        .unwrap();
    assert!(matches!(device.ask(&rig, Request::Beat(text("all"))), Err(ServiceError::Revoked)));
    assert!(device.ask(&rig, Request::Root(1)).is_ok(), "what the withdrawal is verified with");
    let word = device.ask(&rig, Request::Grant).unwrap();
    let number = rig.store().read::<_, StoreError>(|tx| Ok(tx.device(device.id())?.unwrap().grant_number)).unwrap();
    let word = Withdrawal::verify(&word, &device.id(), &rig.service.trust(), number).unwrap();
    assert_eq!((word.action, word.number), (WithdrawalAction::Erase, number), "not an older number than its grants");
    assert_eq!(refused(&device.enrol(&rig, rig.invite(1).code)), "revoked");
}
