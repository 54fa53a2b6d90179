//! Every event arrives exactly once, whatever the link does, and nothing false is acknowledged.

use cpis_protocol::audit::{Batch, Link, Tip};
use cpis_protocol::message::Request;
use cpis_server::audit_report;
use cpis_server::port::{Inbox as _, Store as _, StoreError};
use cpis_server::service::ServiceError;

use crate::rig::{Device, Rig};

fn counts(rig: &Rig) -> (u64, Vec<&'static str>) {
    let verification = audit_report::verify(rig.store(), &rig.service.keys().audit).unwrap();
    let links = verification.chains.iter().map(|chain| chain.links).sum();
    assert!(verification.chains.iter().all(|chain| chain.intact), "{verification:?}");
    (links, verification.aside.iter().map(|row| row.why).collect())
}

#[test]
fn a_thousand_repeats_store_each_event_once() {
    let rig = Rig::new();
    let device = rig.device(1);
    let start = device.chain(1);
    let (links, tip) = device.links(&rig, start, 3);
    for _ in 0..1000 {
        assert_eq!(device.send(&rig, start, links.clone()).unwrap(), tip);
    }
    // Overlapping batches too, and an empty one asks where the chain stands.
    let (more, end) = device.links(&rig, tip, 2);
    assert_eq!(device.send(&rig, start, [links.clone(), more].concat()).unwrap(), end);
    assert_eq!(device.send(&rig, start, Vec::new()).unwrap(), end);
    assert_eq!(counts(&rig), (5, vec![]));
}

#[test]
fn a_gap_stores_nothing_and_tells_where_the_chain_stands() {
    let rig = Rig::new();
    let device = rig.device(1);
    let start = device.chain(1);
    let (first, after_first) = device.links(&rig, start, 1);
    let (second, after_second) = device.links(&rig, after_first, 1);
    assert_eq!(device.send(&rig, after_first, second.clone()).unwrap(), start);
    assert_eq!(counts(&rig).0, 0);
    assert_eq!(device.send(&rig, start, first).unwrap(), after_first);
    assert_eq!(device.send(&rig, after_first, second).unwrap(), after_second);
}

#[test]
fn a_fork_is_kept_aside_once_and_never_acknowledged() {
    let rig = Rig::new();
    let device = rig.device(1);
    let start = device.chain(1);
    let (links, tip) = device.links(&rig, start, 2);
    assert_eq!(device.send(&rig, start, links).unwrap(), tip);
    // A device restored from an old copy goes on from the start with other events, past the end.
    let (other, other_tip) = device.links(&rig, start, 4);
    for _ in 0..3 {
        let told = device.send(&rig, start, other.clone()).unwrap();
        assert_eq!(told, tip);
        assert_ne!(told.hash, other_tip.hash);
    }
    assert_eq!(counts(&rig), (2, vec!["fork"; 4]));
    // From the middle of the other history.
    let (later, _) = device.links(&rig, other_tip, 1);
    assert_eq!(device.send(&rig, other_tip, later).unwrap(), tip, "beyond the end it is a gap");
    // A new chain goes on, and is noted as begun beside another.
    let fresh = device.chain(2);
    let (links, fresh_tip) = device.links(&rig, fresh, 1);
    assert_eq!(device.send(&rig, fresh, links).unwrap(), fresh_tip);
    let chains = rig.store().read::<_, StoreError>(|tx| tx.chains()).unwrap();
    assert_eq!(chains.iter().filter(|chain| chain.beside_another).count(), 1);
}

#[test]
fn a_bad_signature_stops_there_and_is_kept_aside() {
    let rig = Rig::new();
    let device = rig.device(1);
    let start = device.chain(1);
    let (links, _) = device.links(&rig, start, 3);
    let mut bytes = links[1].as_bytes().to_vec();
    bytes[60] ^= 1;
    let broken = vec![links[0].clone(), Link::from_bytes(&bytes).unwrap(), links[2].clone()];
    let told = device.send(&rig, start, broken.clone()).unwrap();
    assert_eq!(told.seq, 1);
    assert_eq!(device.send(&rig, start, broken).unwrap().seq, 1);
    assert_eq!(counts(&rig), (1, vec!["bad-signature"]));
    // The true link goes on from there.
    assert_eq!(device.send(&rig, start, links).unwrap().seq, 3);
    assert_eq!(counts(&rig).0, 3);
}

#[test]
fn another_devices_batch_and_no_batch_are_refused() {
    let rig = Rig::new();
    let (device, other) = (rig.device(1), rig.device(2));
    let start = device.chain(1);
    let (links, _) = device.links(&rig, start, 1);
    let batch = Batch { device: device.id(), after: start, links: links.clone() }.to_bytes().unwrap();
    assert!(matches!(other.ask(&rig, Request::Audit(batch.clone())), Err(ServiceError::Unauthorised)));
    // Its own name over the links of another: they do not verify.
    let renamed = Batch { device: other.id(), after: Tip::start(&other.id(), start.chain), links }.to_bytes().unwrap();
    let receipt = other.ask(&rig, Request::Audit(renamed));
    assert!(receipt.is_ok());
    assert_eq!(counts(&rig), (0, vec!["bad-signature"]));
    let torn = batch[..batch.len() - 1].to_vec();
    assert!(matches!(device.ask(&rig, Request::Audit(torn)), Err(ServiceError::Refused("truncated"))));
    let long = vec![1; 70_000];
    assert!(matches!(device.ask(&rig, Request::Audit(long)), Err(ServiceError::TooLarge)));
    assert_eq!(counts(&rig), (0, vec!["bad-signature", "unreadable"]));
}

#[test]
fn the_report_shows_persons_only_when_told_to() {
    let rig = Rig::new();
    let device: Device = rig.device(1);
    let start = device.chain(1);
    let (links, _) = device.links(&rig, start, 1);
    device.send(&rig, start, links).unwrap();
    let lines = |show| {
        let mut out = Vec::new();
        let key = &rig.service.keys().audit;
        audit_report::list(rig.store(), key, show, &mut |line| out.push(serde_json::to_string(&line).unwrap()))
            .unwrap();
        out.join("\n")
    };
    let digits = crate::rig::number(1).grouped();
    assert!(lines(false).contains("\"act\":\"look-up\"") && !lines(false).contains(&digits), "{}", lines(false));
    assert!(lines(true).contains(&digits));
    let mut sealed = Vec::new();
    audit_report::list(rig.store(), &cpis_server::keys::AuditKeys::default(), true, &mut |line| sealed.push(line.act))
        .unwrap();
    assert_eq!(sealed, ["sealed"]);
}
