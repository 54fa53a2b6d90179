//! No decoder asks for more memory than its limit, whatever lengths the bytes claim.
//! Alone in its binary, because the counting allocator counts every thread.

mod common;

use std::alloc::System;

use common::SeedRng;
use common::world;
use cpis_protocol::audit::Batch;
use cpis_protocol::bundle::Index;
use cpis_protocol::cell::Cell;
use cpis_protocol::codec;
use cpis_protocol::enrol::{EnrolReply, EnrolRequest, Invitation};
use cpis_protocol::grant::Grant;
use cpis_protocol::head::{Head, Reference};
use cpis_protocol::limits;
use cpis_protocol::trust::{Root, Trust};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What one decoding may ask for in all, beyond twice the bytes that it was given: the codec's own ceiling for one claim
/// (4 MiB, for a string), and the mebibyte that serde takes in advance for each list on the way down (two levels).
const CEILING: usize = (4 + 2) * 1024 * 1024;

/// Bytes asked for, all added up: an upper bound of what was held at once.
fn asked(read: impl FnOnce()) -> usize {
    let region = Region::new(COUNTING);
    read();
    let change = region.change();
    change.bytes_allocated + usize::try_from(change.bytes_reallocated.max(0)).unwrap_or(0)
}

type Reader = fn(&[u8]);

const READERS: [(&str, Reader); 11] = [
    ("root", |b| drop(codec::decode::<Root>(b, limits::ROOT_BYTES_MAX))),
    ("pinned root", |b| drop(Trust::pin(b))),
    ("head", |b| drop(codec::decode::<Head>(b, limits::HEAD_BYTES_MAX))),
    ("grant", |b| drop(codec::decode::<Grant>(b, limits::GRANT_BYTES_MAX))),
    ("reference", |b| drop(codec::decode::<Reference>(b, limits::REFERENCE_BYTES_MAX))),
    ("enrolment reply", |b| drop(codec::decode::<EnrolReply>(b, limits::ENROL_BYTES_MAX))),
    ("enrolment request", |b| drop(EnrolRequest::verify(b))),
    ("invitation", |b| drop(codec::decode::<Invitation>(b, limits::INVITATION_BYTES_MAX))),
    ("batch", |b| drop(Batch::from_bytes(b))),
    ("cells", |b| drop(Cell::read_all(b))),
    ("bundle", |b| drop(Index::read(b))),
];

/// One test, so that no other thread is counted.
#[test]
fn decoders_stay_within_their_limits() {
    too_large_is_refused_unread();
    claims_do_not_allocate();
}

fn claims_do_not_allocate() {
    let ok = common::ok;
    let starts = [
        Vec::new(),
        ok(codec::encode(&world::root(1))),
        ok(codec::encode(&world::head(1, Vec::new()))),
        ok(codec::encode(&world::grant(1, &[]))),
        ok(codec::encode(&world::reference())),
        ok(codec::encode(&world::invitation())),
        world::signed_root(&world::root(1), &[1, 2]),
        ok(world::enrol_request().sign(&world::signer(world::DEVICE))),
        b"CPIS-BUNDLE\x01\0\x09/v1/grant\xff\xff\xff\xff".to_vec(),
    ];
    let claims = [u64::MAX, i64::MAX as u64, u64::from(u32::MAX), 4 << 20, (4 << 20) - 64, 1 << 20, 70_000];
    let mut most = 0;
    let mut rng = SeedRng::new(1);
    for start in &starts {
        for claim in claims {
            // A huge length at every place, and the rest of the object or noise behind it.
            for at in 0..start.len().max(1) {
                let mut bytes = start.clone();
                bytes.truncate(at);
                bytes.extend(claim.to_le_bytes());
                bytes.extend((0..rng.below(40)).map(|n| n as u8));
                for (name, read) in READERS {
                    let asked = asked(|| read(&bytes));
                    assert!(asked <= CEILING + 2 * bytes.len(), "{name}: {asked} bytes for {} at {at}", bytes.len());
                    most = most.max(asked);
                }
            }
        }
    }
    assert!(most > 64 * 1024, "the allocator counts nothing: {most}");
}

/// Over its limit an object is refused before a byte of it is copied.
fn too_large_is_refused_unread() {
    let large = vec![0u8; 2 * 1024 * 1024];
    let readers = READERS.iter().filter(|(name, _)| *name != "bundle");
    for (name, read) in readers {
        assert_eq!(asked(|| read(&large)), 0, "{name}");
    }
}
