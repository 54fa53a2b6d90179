//! Single acts as evidence: whose slot was closed, and who is told of a reveal.

use cpis_protocol::id::BlindId;
use cpis_protocol::policy::{AccessMode, Policy};
use cpis_server::audit_report;
use cpis_server::port::SiteRow;

use super::*;

#[test]
fn a_closed_slot_is_an_alert_of_its_own_that_says_whose_it_was() {
    let rig = Rig::new();
    let (mut one, mut two) = (Crew::new(&rig, 1, "all"), Crew::new(&rig, 2, "all"));
    let closed = |who: &str| (0, Act::SlotClosed { practitioner: text(who) });
    // Nine attempts are no alert; the tenth closes the slot.
    one.send(&rig, (0..9).map(|n| (n, Act::UnlockFailed)).collect());
    digest(&rig);
    assert!(kinds(&rig).is_empty());
    one.send(&rig, vec![closed("PARA008"), (0, Act::Unlock), closed("PARA009")]);
    two.send(&rig, vec![closed("PARA008")]);
    assert_eq!(digest(&rig).alerts, 3, "one for each slot and device, also within the hour");
    let mut rows: Vec<_> = alerts(&rig)
        .into_iter()
        .map(|row| (row.device, row.practitioner.to_string(), row.seq, row.kind, row.count))
        .collect();
    rows.sort_unstable_by_key(|row| (row.0 != Some(one.device.id()), row.2));
    let expected =
        |crew: &Crew, who: &str, seq| (Some(crew.device.id()), who.to_owned(), seq, AlertKind::SlotClosed, 1);
    assert_eq!(rows, [expected(&one, "PARA008", 10), expected(&one, "PARA009", 12), expected(&two, "PARA008", 1)]);
    // In the event it is who used the device, in the alert whose slot was closed.
    assert!(rows.iter().all(|row| row.1 != one.device.practitioner.to_string()));
    let rig = rig.restart();
    assert_eq!((digest(&rig), alerts(&rig).len()), (Digested::default(), 3));
}

/// Site silent or not, badge silent or not: a reveal is silent only where both say so, from the signed grant to the
/// evidence.
#[test]
fn a_badge_that_notifies_does_so_at_a_silent_site_too() {
    use AccessMode::{Silent, Unscheduled};
    for (site, badge, expected) in [
        (Silent, Unscheduled, "unscheduled"),
        (Silent, Silent, "silent"),
        (Unscheduled, Silent, "unscheduled"),
        (Unscheduled, Unscheduled, "unscheduled"),
    ] {
        let rig = Rig::new();
        rig.store()
            .write::<_, StoreError>(|tx| {
                let row = tx.sites()?.remove(0);
                tx.change_site(&SiteRow { policy: Policy { access_mode: site, ..row.policy }, ..row })?;
                let mut row = tx.practitioners()?.remove(0);
                row.badge.activity = badge;
                tx.put_practitioner(&row)
            })
            .unwrap();
        let mut crew = Crew::new(&rig, 1, "all");
        // What the device makes of what was signed for it.
        let grant = crew.device.grant(&rig);
        let badge = grant.badge(&crew.device.practitioner, rig.clock.now_ms()).unwrap();
        let access_mode = grant.policy.access_mode.and(badge.activity);
        let (blind, version) = (BlindId([7; 8]), 1);
        crew.send(&rig, vec![(0, Act::Reveal { look_up: 1, feed: authority(0), blind, version, access_mode })]);
        let (mut lines, keys) = (Vec::new(), &rig.service.keys().audit);
        audit_report::list(rig.store(), keys, false, &mut |line| lines.push((line.act, line.notification))).unwrap();
        assert_eq!(lines, [("reveal", Some(expected))], "{site:?} {badge:?}");
        let chain = audit_report::verify(rig.store(), keys).unwrap().chains.remove(0);
        let notified = u64::from(expected == "unscheduled");
        assert_eq!((chain.reveals_unscheduled, chain.reveals_silent), (notified, 1 - notified));
    }
}
