//! When a report is answered with a certificate, and what a report that lies gains: nothing.

use cpis_protocol::message::{DeviceReply, DeviceReport, Request};
use cpis_protocol::{codec, limits};
use cpis_server::certificate::{public_key, until_ms};
use cpis_server::port::{DeviceRow, DeviceState, Fleet as _, Store as _, StoreError};

use crate::rig::{Device, NOW, Rig, text};

const DAY_MS: i64 = 86_400_000;

fn row(rig: &Rig, device: &Device) -> DeviceRow {
    rig.store().read::<_, StoreError>(|tx| tx.device(device.id())).unwrap().unwrap()
}

/// The end of the certificate that comes back; `None` when none does.
fn report(rig: &Rig, device: &Device, certificate_until_ms: i64) -> Option<i64> {
    let report = DeviceReport {
        version: text("0.1.0"),
        secret: text("tpm"),
        root_version: 1,
        certificate_until_ms,
        break_glass: 2,
        unrecorded: 3,
    };
    let body = codec::encode(&report).unwrap();
    let reply = device.ask(rig, Request::Report(body)).unwrap();
    let reply: DeviceReply = codec::decode(&reply, limits::REPORT_BYTES_MAX).unwrap();
    if reply.certificate.is_empty() {
        return None;
    }
    assert_eq!(public_key(&reply.certificate), Some(device.signer.public_key()));
    until_ms(&reply.certificate)
}

#[test]
fn a_certificate_comes_when_it_is_due_and_the_report_is_kept() {
    let rig = Rig::new();
    let device = rig.device(1);
    let first = row(&rig, &device).certificate_until_ms;
    assert!(row(&rig, &device).reported.is_none());
    assert_eq!(report(&rig, &device, first), None, "fresh");
    let kept = row(&rig, &device).reported.unwrap();
    assert_eq!((kept.at_ms, kept.secret.as_str(), kept.break_glass, kept.unrecorded), (NOW, "tpm", 2, 3));
    device.grant(&rig);
    assert_eq!(row(&rig, &device).reported, Some(kept), "a grant leaves it");
    rig.clock.advance(59 * DAY_MS);
    assert_eq!(report(&rig, &device, first), None, "more than a third is left");
    rig.clock.advance(3 * DAY_MS);
    let second = report(&rig, &device, first).unwrap();
    assert!(second > first);
    assert_eq!(report(&rig, &device, first), Some(second), "the reply was lost");
    assert_eq!(report(&rig, &device, second), None);
}

#[test]
fn a_lie_about_the_end_gains_nothing() {
    let rig = Rig::new();
    let device = rig.device(1);
    let first = row(&rig, &device).certificate_until_ms;
    for lie in [0, i64::MIN, first - 1, first - 1] {
        assert_eq!(report(&rig, &device, lie), Some(first), "no later than a new device's");
    }
    assert_eq!(report(&rig, &device, i64::MAX), None);
}

#[test]
fn one_by_another_authority_is_replaced_once_by_one_that_ends_later() {
    let rig = Rig::new();
    let device = rig.device(1);
    let first = row(&rig, &device).certificate_until_ms;
    let forget = |row: DeviceRow| DeviceRow { certificate_by: Some([7; 32]), ..row };
    rig.store().write::<_, StoreError>(|tx| tx.put_device(&forget(tx.device(device.id())?.unwrap()))).unwrap();
    let second = report(&rig, &device, first).unwrap();
    assert_eq!(second, first + DAY_MS, "the same day");
    assert_eq!(report(&rig, &device, first), Some(second), "the reply was lost");
    assert_eq!(report(&rig, &device, second), None);
}

#[test]
fn a_device_withdrawn_for_good_gets_none() {
    let rig = Rig::new();
    let device = rig.device(1);
    let lost = |row: DeviceRow| DeviceRow { state: DeviceState::Lost, ..row };
    rig.store().write::<_, StoreError>(|tx| tx.put_device(&lost(tx.device(device.id())?.unwrap()))).unwrap();
    assert_eq!(report(&rig, &device, 0), None);
    assert_eq!(row(&rig, &device).reported.unwrap().root_version, 1, "what it says is evidence");
}
