//! Chains of roots: a device that was away for months, and what a stolen key signed before it was withdrawn.
//! They must not help the machine: what it is given is what a server with these roots would give.

use cpis_protocol::Refusal;
use cpis_protocol::message::Failure;
use cpis_protocol::sync::pull::Outcome;
use cpis_protocol::trust::{Role, Root};

use crate::common::world::{self, AUTHORITY, BEAT, DAY_MS, PUBLISHER, T0};
use crate::driver::{Device, Weather};
use crate::publisher::Publisher;
use crate::{assert_equal, synced};

fn root(version: u32, threshold: u8, root_keys: &[u8], seeds: [u8; 3]) -> Root {
    let mut root = world::root(version);
    root.threshold = threshold;
    root.root_keys = root_keys.iter().map(|seed| world::signer(*seed).public_key()).collect();
    root.issued_ms = T0 + i64::from(version) * 60 * DAY_MS;
    root.expires_ms = root.issued_ms + 90 * DAY_MS;
    for role in &mut root.roles {
        role.expires_ms = root.expires_ms;
        let seed = match role.role {
            Role::Publisher => seeds[0],
            Role::Beat => seeds[1],
            Role::DeviceAuthority => seeds[2],
            Role::Receipt => continue,
        };
        role.keys = vec![world::signer(seed).public_key()];
    }
    root
}

/// Five roots while the device was away: other root keys, other thresholds, every online key replaced, and all roots but
/// the last one past their end.
fn five_roots(publisher: &mut Publisher) {
    publisher.install(&root(2, 2, &[1, 2, 3], [0x41, BEAT, AUTHORITY]), &[1, 3], [0x41, BEAT, AUTHORITY]);
    publisher.install(&root(3, 3, &[2, 3, 4, 5], [0x41, 0x42, AUTHORITY]), &[2, 3, 4], [0x41, 0x42, AUTHORITY]);
    publisher.install(&root(4, 1, &[6], [0x41, 0x42, 0x43]), &[3, 4, 5, 6], [0x41, 0x42, 0x43]);
    publisher.install(&root(5, 2, &[7, 8], [0x44, 0x42, 0x43]), &[6, 7, 8], [0x44, 0x42, 0x43]);
    publisher.install(&root(6, 2, &[7, 8, 9], [0x44, 0x45, 0x46]), &[7, 8], [0x44, 0x45, 0x46]);
}

#[test]
fn months_behind_a_device_follows_the_chain() {
    for with_grant in [true, false] {
        for knows_time in [true, false] {
            let (mut publisher, _) = synced(11);
            let mut device = Device::new(&publisher, with_grant);
            assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
            five_roots(&mut publisher);
            (device.tick_ms, device.knows_time) = (400 * DAY_MS.cast_unsigned(), knows_time);
            assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate, "{with_grant}");
            assert_eq!(device.trust.root().version, 6);
            assert_equal(&device, &publisher, 11);
        }
    }
}

#[test]
fn a_chain_with_one_step_below_the_old_threshold_ends_there() {
    let (mut publisher, mut device) = synced(12);
    five_roots(&mut publisher);
    // Version 4 wants three of the keys of version 3; two and the new one are not enough.
    let weak = world::signed_root(&root(4, 1, &[6], [0x41, 0x42, 0x43]), &[3, 4, 6]);
    publisher.roots.insert(4, weak);
    device.tick_ms = 400 * DAY_MS.cast_unsigned();
    let outcome = device.attempt(&mut publisher, &mut Weather::fair());
    assert_eq!(outcome, Outcome::Refused(Refusal::BelowThreshold));
    assert_eq!(device.trust.root().version, 3);
}

#[test]
fn what_a_withdrawn_key_signs_is_refused() {
    for (at, seeds) in
        [[0x77, BEAT, AUTHORITY], [PUBLISHER, 0x77, AUTHORITY], [PUBLISHER, BEAT, 0x77]].iter().enumerate()
    {
        let (mut publisher, mut device) = synced(13);
        let mut next = root(2, 2, &[1, 2, 3], *seeds);
        next.issued_ms = T0;
        publisher.install(&next, &[1, 2], *seeds);
        device.tick_ms += 3_700_000;
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        // The thief goes on with the old keys.
        [publisher.publisher_key, publisher.beat_key, publisher.authority_key] = [PUBLISHER, BEAT, AUTHORITY];
        publisher.publish();
        device.tick_ms += 3_700_000;
        let outcome = device.attempt(&mut publisher, &mut Weather::fair());
        assert_eq!(outcome, Outcome::Refused(Refusal::UnknownKey), "key {at}");
    }
}

/// Keys of a role that has ended install nothing, each role for itself; the root goes on.
#[test]
fn an_expired_role_installs_nothing() {
    for role in [Role::Publisher, Role::Beat, Role::DeviceAuthority] {
        let (mut publisher, mut device) = synced(14);
        let seeds = [PUBLISHER, BEAT, AUTHORITY];
        let mut next = root(2, 2, &[1, 2, 3], seeds);
        next.issued_ms = T0;
        next.roles.iter_mut().filter(|keys| keys.role == role).for_each(|keys| keys.expires_ms = T0 + DAY_MS);
        publisher.install(&next, &[1, 2], seeds);
        device.tick_ms += 3_700_000;
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        device.tick_ms = DAY_MS.cast_unsigned();
        publisher.publish();
        let outcome = device.attempt(&mut publisher, &mut Weather::fair());
        assert_eq!(outcome, Outcome::Refused(Refusal::Expired), "{role:?}");
        assert!(device.head.is_some(), "the copy stays");
    }
}

/// A stolen beat key that signed a time far ahead blocks honest beats until a root withdraws it: no longer.
#[test]
fn a_beat_far_ahead_goes_with_its_key() {
    let (mut publisher, mut device) = synced(15);
    let honest = device.tick_ms;
    device.tick_ms = 300 * DAY_MS.cast_unsigned();
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    device.tick_ms = honest + 60_000;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::Refused(Refusal::Rollback));
    let seeds = [PUBLISHER, 0x77, AUTHORITY];
    let mut next = root(2, 2, &[1, 2, 3], seeds);
    next.issued_ms = T0;
    publisher.install(&next, &[1, 2], seeds);
    device.tick_ms += 3_700_000;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate, "in the same exchange");
    assert_equal(&device, &publisher, 15);
}

/// The same for register sequences and grant numbers that nothing honest would reach.
#[test]
fn sequences_far_ahead_go_with_their_keys() {
    let (mut publisher, mut device) = synced(16);
    (publisher.gseq, publisher.grant) = (u64::MAX - 1, u64::MAX);
    publisher.publish();
    device.tick_ms += 3_700_000;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    (publisher.gseq, publisher.grant) = (9, 2);
    publisher.publish();
    device.tick_ms += 3_700_000;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::Refused(Refusal::Rollback));
    let seeds = [0x71, 0x72, 0x73];
    let mut next = root(2, 2, &[1, 2, 3], seeds);
    next.issued_ms = T0;
    publisher.install(&next, &[1, 2], seeds);
    // A refused grant ends the attempt before the root is asked for: the grant by the new key leads to it.
    device.tick_ms += 3_700_000;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    assert_eq!(device.head.as_ref().map(|head| head.gseq), Some(11));
    assert_equal(&device, &publisher, 16);
}

/// A thief with the device authority key suspends with a number that no honest grant will reach. That holds over a
/// restart, and over a root that goes on naming the key; a root that withdraws the key ends it in the same exchange.
#[test]
fn a_suspension_far_ahead_goes_with_its_key() {
    for restarted in [false, true] {
        let (mut publisher, mut device) = synced(17);
        let attempt = |device: &mut Device, publisher: &mut Publisher| {
            device.tick_ms += 3_700_000;
            device.attempt(publisher, &mut Weather::fair())
        };
        publisher.suspension = Some(u64::MAX);
        assert_eq!(attempt(&mut device, &mut publisher), Outcome::Failed(Failure::Suspended));
        (publisher.suspension, publisher.grant) = (None, 2);
        assert_eq!(attempt(&mut device, &mut publisher), Outcome::Refused(Refusal::Rollback));
        let word = device.suspended.clone();
        if restarted {
            device.restart_told(word.clone());
        }
        let mut same = root(2, 2, &[1, 2, 3], [0x71, BEAT, AUTHORITY]);
        same.issued_ms = T0;
        publisher.install(&same, &[1, 2], [0x71, BEAT, AUTHORITY]);
        // The grant is refused before the next root is asked for: only a grant by an unknown key, or a beat, leads to it.
        assert_eq!(attempt(&mut device, &mut publisher), Outcome::Refused(Refusal::Rollback));
        let mut other = root(3, 2, &[1, 2, 3], [0x71, BEAT, 0x73]);
        other.issued_ms = T0;
        publisher.install(&other, &[1, 2], [0x71, BEAT, 0x73]);
        assert_eq!(attempt(&mut device, &mut publisher), Outcome::UpToDate, "restarted: {restarted}");
        assert!(device.suspended.is_none() && device.trust.root().version == 3);
        // Over a restart too the stored word says nothing any more.
        device.restart_told(word);
        assert_eq!(attempt(&mut device, &mut publisher), Outcome::UpToDate);
        // And the thief's key suspends nothing more.
        (publisher.suspension, publisher.authority_key) = (Some(u64::MAX), AUTHORITY);
        assert_eq!(attempt(&mut device, &mut publisher), Outcome::Refused(Refusal::UnknownKey));
    }
}

/// An honest suspension stands while the root names its key: no grant made before it counts.
#[test]
fn a_suspension_by_a_key_that_stands_is_not_undone_by_an_older_grant() {
    let (mut publisher, mut device) = synced(18);
    (publisher.suspension, publisher.grant) = (Some(4), 3);
    device.tick_ms += 3_700_000;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::Failed(Failure::Suspended));
    publisher.suspension = None;
    device.restart_told(device.suspended.clone());
    for (number, outcome) in
        [(3, Outcome::Refused(Refusal::Rollback)), (4, Outcome::Refused(Refusal::Rollback)), (5, Outcome::UpToDate)]
    {
        publisher.grant = number;
        device.tick_ms += 3_700_000;
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), outcome, "grant {number}");
    }
}

/// Keys whose time is over suspend nobody, as they grant nothing.
#[test]
fn a_suspension_by_a_role_that_ended_is_not_taken() {
    let (mut publisher, mut device) = synced(28);
    let seeds = [PUBLISHER, BEAT, AUTHORITY];
    let mut next = root(2, 2, &[1, 2, 3], seeds);
    next.issued_ms = T0;
    let authority = next.roles.iter_mut().find(|keys| keys.role == Role::DeviceAuthority);
    authority.into_iter().for_each(|keys| keys.expires_ms = T0 + DAY_MS);
    publisher.install(&next, &[1, 2], seeds);
    device.tick_ms += 3_700_000;
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
    publisher.suspension = Some(9);
    device.tick_ms = DAY_MS.cast_unsigned();
    assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::Refused(Refusal::Expired));
    assert!(device.suspended.is_none());
}

/// A grant that is over when it comes, or was over when it was made, does not take the place of one that is good; the
/// beat behind it is not asked for, and the next honest grant is taken.
#[test]
fn a_grant_whose_lease_is_over_is_not_taken() {
    for (knows_time, back_ms, lease_ms) in [(true, 2 * DAY_MS, DAY_MS), (true, 0, 0), (false, 0, 0), (false, 0, -1)] {
        let (mut publisher, mut device) = synced(19);
        let good = device.grant.lease_until_ms;
        device.tick_ms += (3 * DAY_MS).cast_unsigned();
        device.knows_time = knows_time;
        (publisher.grant, publisher.lease_ms) = (2, lease_ms);
        publisher.replayed = Some(publisher.grant_bytes(T0 + device.tick_ms.cast_signed() - back_ms));
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::Refused(Refusal::Expired));
        assert_eq!((device.grant.number, device.grant.lease_until_ms), (1, good));
        (publisher.replayed, publisher.lease_ms) = (None, 30 * DAY_MS);
        device.tick_ms += 1_000;
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        assert_eq!(device.grant.number, 2);
    }
}

/// A stolen key moves time forward by a grant no further than to the end of its role.
#[test]
fn a_grant_made_beyond_the_end_of_its_role_is_not_taken() {
    for knows_time in [true, false] {
        let (mut publisher, mut device) = synced(20);
        let seeds = [PUBLISHER, BEAT, AUTHORITY];
        let mut next = root(2, 2, &[1, 2, 3], seeds);
        next.issued_ms = T0;
        next.roles.iter_mut().for_each(|keys| {
            keys.expires_ms = T0 + if keys.role == Role::DeviceAuthority { 20 } else { 60 } * DAY_MS;
        });
        publisher.install(&next, &[1, 2], seeds);
        device.tick_ms += 3_700_000;
        assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), Outcome::UpToDate);
        device.knows_time = knows_time;
        for (issued_ms, outcome) in [
            (T0 + 300 * DAY_MS, Outcome::Refused(Refusal::Expired)),
            (T0 + 20 * DAY_MS, Outcome::Refused(Refusal::Expired)),
            (T0 + 20 * DAY_MS - 1, Outcome::UpToDate),
        ] {
            publisher.replayed = Some(publisher.grant_bytes(issued_ms));
            device.tick_ms += 3_700_000;
            assert_eq!(device.attempt(&mut publisher, &mut Weather::fair()), outcome, "{knows_time} {issued_ms}");
            assert_eq!(device.grant.issued_ms == issued_ms, outcome == Outcome::UpToDate);
        }
    }
}
