//! What was acknowledged is there after a restart, and roots follow one another.

use cpis_protocol::head::Beat;
use cpis_protocol::message::Request;
use cpis_server::ceremony;
use cpis_server::home::Home;
use cpis_server::keys::root_key;
use cpis_server::port::{Register as _, Store as _, StoreError};

use crate::rig::{Device, NOW, Rig, authority, person, plan, text};

#[test]
fn a_restart_keeps_everything() {
    let rig = Rig::new();
    let device = rig.device(1);
    rig.apply(vec![person(1, vec![plan(authority(0))])]);
    rig.publish();
    let start = device.chain(1);
    let (links, tip) = device.links(&rig, start, 2);
    device.send(&rig, start, links.clone()).unwrap();
    let grant = device.grant(&rig).number;
    let beat = |rig: &Rig| {
        let bytes = device.ask(rig, Request::Beat(text("all"))).unwrap();
        (*Beat::verify(&bytes, &text("all"), &rig.service.trust(), None, None).unwrap()).clone()
    };
    let before = beat(&rig);
    let rig = rig.restart();
    assert_eq!(beat(&rig).head, before.head);
    assert_eq!(device.grant(&rig).number, grant + 1);
    assert_eq!(device.send(&rig, start, links).unwrap(), tip);
    let counts = rig.store().read::<_, StoreError>(|tx| tx.register_counts()).unwrap();
    assert_eq!((counts.persons, counts.plans, counts.authorities), (1, 1, 3));
    assert_eq!(rig.publish().puts, 0);
}

#[test]
fn a_new_root_is_taken_up_and_an_old_invitation_still_works() {
    let rig = Rig::new();
    let invitation = rig.invite(1);
    let home = Home::open(&rig.dir.path().join("server")).unwrap();
    let signer = root_key::open(&rig.dir.path().join("root/root-1.rootkey"), || unreachable!()).unwrap();
    let draft = ceremony::draft(&home, None, 400, NOW + 1).unwrap();
    assert!(ceremony::install(&home, &draft, NOW).is_err(), "not signed");
    let signed = ceremony::endorse(&draft, &signer).unwrap();
    assert_eq!(ceremony::install(&home, &signed, NOW).unwrap().root().version, 2);
    assert!(ceremony::install(&home, &signed, NOW).is_err(), "not the successor any more");
    assert_eq!(rig.service.trust().root().version, 1);
    rig.service.refresh_trust().unwrap();
    assert_eq!(rig.service.trust().root().version, 2);
    let reply = Device::new(1).enrol(&rig, invitation.code).unwrap();
    assert_eq!(reply.roots, std::slice::from_ref(&signed));
    let reply = Device::new(2).enrol(&rig, rig.invite(1).code).unwrap();
    assert!(reply.roots.is_empty());
    assert_eq!(Device::new(2).ask(&rig, Request::Root(2)).unwrap(), signed);
}
