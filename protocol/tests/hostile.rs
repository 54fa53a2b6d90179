//! Every flipped byte and every truncation of valid objects, chains with links missing or turned, and arbitrary bytes.
//! A flip is refused, or it changes nothing that is believed; nothing panics.

mod common;

use common::feed::FeedLog;
use common::ok;
use common::world::{self, AUTHORITY, BEAT, DEVICE, PUBLISHER, RECEIPT, SCOPE, T0, framed};
use cpis_protocol::Refusal;
use cpis_protocol::audit::{self, Batch, Link, Receipt};
use cpis_protocol::bundle::{self, Index};
use cpis_protocol::cell::{Cell, CellKind};
use cpis_protocol::codec;
use cpis_protocol::digest::sha256;
use cpis_protocol::enrol::{EnrolReply, EnrolRequest, Invitation};
use cpis_protocol::flag::Record;
use cpis_protocol::grant::Grant;
use cpis_protocol::head::{Beat, FeedState, Head, Reference};
use cpis_protocol::id::ScopeId;
use cpis_protocol::limits;
use cpis_protocol::message::Request;
use cpis_protocol::replica;
use cpis_protocol::seal::OpeningKey;
use cpis_protocol::sign::{Kind, Verified};
use cpis_protocol::text::Text;
use cpis_protocol::tree::Manifest;
use cpis_protocol::trust::{Role, Root, Trust};
use proptest::prelude::*;

fn scope() -> ScopeId {
    Text::lossy(SCOPE)
}

fn encoded<T: serde::Serialize>(kind: Kind, payload: &T, by: &[u8]) -> Vec<u8> {
    framed(kind, &ok(codec::encode(payload)), by)
}

/// Flips every byte in two ways and cuts at every length; `believe` must refuse or believe the same as before.
#[track_caller]
fn torture<B: PartialEq + core::fmt::Debug>(
    name: &str,
    good: &[u8],
    strict: bool,
    believe: impl Fn(&[u8]) -> Result<B, Refusal>,
) {
    let before = ok(believe(good));
    for at in 0..good.len() {
        for mask in [0x01, 0x80] {
            let mut bad = good.to_vec();
            bad[at] ^= mask;
            match believe(&bad) {
                Ok(after) => assert!(!strict && after == before, "{name}: byte {at} ^ {mask:#x} was believed"),
                Err(_) => continue,
            }
        }
        assert!(believe(&good[..at]).is_err(), "{name}: cut to {at} bytes and accepted");
    }
}

#[test]
fn signed_objects() {
    let trust = world::trust();
    let root = world::signed_root(&world::root(1), &[1, 2]);
    let payload = |trust: Trust| -> Root { (**trust.root()).clone() };
    torture("root", &root, true, |b| Trust::pin(b).map(payload));
    // A signature beyond the threshold may be lost to a flip in its key id: the root that is believed stays the same.
    let spare = world::signed_root(&world::root(1), &[1, 2, 3]);
    torture("root with a spare signature", &spare, false, |b| Trust::pin(b).map(payload));
    let next = world::signed_root(&Root { deployment: trust.root().deployment, ..world::root(2) }, &[1, 2]);
    torture("rotation", &next, true, |b| trust.rotate(b).map(payload));

    let feeds = vec![FeedLog::new("E09000033", 1).state()];
    let head = encoded(Kind::Head, &world::head(9, feeds), &[PUBLISHER]);
    // By its own hash, as if whoever names it were deceived too: the signature alone must hold.
    torture("head", &head, true, |b| Head::verify(b, &sha256(b), &scope(), &trust).map(|h| (*h).clone()));
    torture("named head", &head, true, |b| Head::verify(b, &sha256(&head), &scope(), &trust).map(|h| (*h).clone()));
    let beat = encoded(Kind::Beat, &world::beat(9, &head, T0), &[BEAT]);
    torture("beat", &beat, true, |b| Beat::verify(b, &scope(), &trust, None, None).map(|b| (*b).clone()));
    let grant = encoded(Kind::Grant, &world::grant(1, &[("E09000033", 1)]), &[AUTHORITY]);
    torture("grant", &grant, true, |b| Grant::verify(b, &world::device(), &trust, None).map(|g| (*g).clone()));
    let (tips, _) = world::links(1);
    let receipt = encoded(Kind::Receipt, &world::receipt(tips[1]), &[RECEIPT]);
    let take = |b: &[u8]| -> Result<Receipt, Refusal> {
        let receipt: Verified<Receipt> = trust.verify(Role::Receipt, Kind::Receipt, b, limits::RECEIPT_BYTES_MAX)?;
        Ok((*receipt).clone())
    };
    torture("receipt", &receipt, true, take);
    let request = ok(world::enrol_request().sign(&world::signer(DEVICE)));
    torture("enrolment request", &request, true, |b| EnrolRequest::verify(b).map(|r| (*r).clone()));
}

/// Address and one-time code are not protected by anything but the hands that carry them; the root inside is.
#[test]
fn invitation() {
    let text = ok(world::invitation().to_text());
    torture("invitation", text.as_bytes(), false, |b| {
        let text = core::str::from_utf8(b).map_err(|_| Refusal::Malformed)?;
        let invitation = Invitation::from_text(text)?;
        let trust = Trust::pin(&invitation.root)?;
        Ok((**trust.root()).clone())
    });
}

#[test]
fn links_and_batches() {
    let (tips, links) = world::links(3);
    let key = world::signer(DEVICE).public_key();
    torture("link", links[1].as_bytes(), true, |b| tips[1].verify(&world::device(), &key, &Link::from_bytes(b)?));
    let batch = ok(Batch { device: world::device(), after: tips[0], links }.to_bytes());
    torture("batch", &batch, true, |b| {
        let batch = Batch::from_bytes(b)?;
        batch.links.iter().try_fold(batch.after, |tip, link| tip.verify(&batch.device, &key, link))
    });
}

/// What a device comes to hold from a bundle of one scope, verified as if it came from the server.
fn believe_bundle(bytes: &[u8]) -> Result<(Beat, Head, Reference, Vec<Cell>), Refusal> {
    let trust = world::trust();
    let index = Index::read(bytes)?;
    let get = |request: Request| index.find(&request).and_then(|r| bytes.get(r)).ok_or(Refusal::Gap);
    let beat = Beat::verify(get(Request::Beat(scope()))?, &scope(), &trust, None, None)?;
    let head = Head::verify(get(Request::Head(beat.head))?, &beat.head, &scope(), &trust)?;
    let reference = Reference::verify(get(Request::Reference(head.reference))?, &head.reference)?;
    let FeedState { feed, epoch, seq, count, state_root, .. } = head.feeds.first().ok_or(Refusal::Gap)?.clone();
    let manifest = Manifest::verify(get(Request::Manifest { feed, epoch, seq })?, count, &state_root)?;
    let cells = Cell::read_all(get(Request::Chunk { feed, epoch, seq, index: 0 })?)?;
    manifest.check_chunk(0, &replica::leaves(&cells))?;
    replica::check_live(&cells, None, seq)?;
    Ok(((*beat).clone(), (*head).clone(), reference, cells))
}

#[test]
fn bundle_of_a_scope() {
    let mut log = FeedLog::new("E09000033", 1);
    (1..=3).for_each(|who| log.fill(CellKind::Put, who));
    let (feed, epoch) = (log.place.feed, log.place.epoch);
    let head = encoded(Kind::Head, &world::head(9, vec![log.state()]), &[PUBLISHER]);
    let reference = ok(world::reference().encode());
    let entries = [
        (Request::Beat(scope()), encoded(Kind::Beat, &world::beat(9, &head, T0), &[BEAT])),
        (Request::Head(sha256(&head)), head),
        (Request::Reference(sha256(&reference)), reference),
        (Request::Manifest { feed, epoch, seq: 3 }, log.manifest(3).unwrap_or_default()),
        (Request::Chunk { feed, epoch, seq: 3, index: 0 }, log.chunk(3, 0).unwrap_or_default()),
    ];
    let mut bytes = bundle::begin();
    for (request, body) in &entries {
        ok(bundle::push(&mut bytes, request, body));
    }
    torture("bundle", &bytes, true, believe_bundle);
    // Something that nobody asks for may be changed without anybody noticing.
    ok(bundle::push(&mut bytes, &Request::Root(9), b"not looked at"));
    let whole = bytes.len();
    bytes[whole - 1] ^= 1;
    assert!(believe_bundle(&bytes).is_ok());
}

/// A head of more feeds than a scope may have is refused though it is signed and within its bytes.
#[test]
fn too_many_feeds() {
    let state = FeedLog::new("E", 1).state();
    let named = |n: usize| FeedState { feed: Text::lossy(&format!("E{n:08}")), ..state.clone() };
    for (count, expected) in [(limits::FEEDS_MAX, None), (limits::FEEDS_MAX + 1, Some(Refusal::TooLarge))] {
        let head = encoded(Kind::Head, &world::head(1, (0..count).map(named).collect()), &[PUBLISHER]);
        assert!(head.len() < limits::HEAD_BYTES_MAX);
        assert_eq!(Head::verify(&head, &sha256(&head), &scope(), &world::trust()).err(), expected);
    }
}

/// Feeds everything that reads bytes from outside, so that a panic anywhere is found.
fn read_as_everything(bytes: &[u8], trust: &Trust) {
    let hash = sha256(bytes);
    let _ = Trust::pin(bytes);
    let _ = trust.rotate(bytes);
    let _ = Beat::verify(bytes, &scope(), trust, None, Some(T0));
    let _ = Head::verify(bytes, &hash, &scope(), trust);
    let _ = Grant::verify(bytes, &world::device(), trust, None);
    let _ = EnrolRequest::verify(bytes);
    let _ = trust.verify::<Receipt>(Role::Receipt, Kind::Receipt, bytes, limits::RECEIPT_BYTES_MAX);
    let _ = codec::decode::<EnrolReply>(bytes, limits::ENROL_BYTES_MAX);
    let _ = codec::decode::<Root>(bytes, limits::ROOT_BYTES_MAX);
    let _ = codec::decode::<Head>(bytes, limits::HEAD_BYTES_MAX);
    let _ = codec::decode::<Grant>(bytes, limits::GRANT_BYTES_MAX);
    let _ = codec::decode::<Invitation>(bytes, limits::INVITATION_BYTES_MAX);
    let _ = Invitation::from_text(&String::from_utf8_lossy(bytes));
    let _ = Reference::verify(bytes, &hash);
    let _ = Index::read(bytes).map(|index| index.requests().len());
    let _ = Request::from_path(&String::from_utf8_lossy(bytes));
    let _ = Manifest::verify(bytes, bytes.len() as u32, &hash);
    if let Ok(fixed) = bytes.try_into() {
        let _ = Record::unpack(fixed);
    }
    if let Ok(cells) = Cell::read_all(bytes) {
        let _ = replica::check_delta(&cells, u32::MAX, 0);
        let _ = replica::check_live(&cells, None, 7);
        let _ = replica::state_root(&cells);
    }
    if let Ok(batch) = Batch::from_bytes(bytes) {
        batch.links.iter().fold(batch.after, |tip, link| tip.follow(&batch.device, link));
    }
    if let Ok(link) = Link::from_bytes(bytes) {
        let _ = audit::open(&link, &world::device(), &world::chain(), 1, &OpeningKey::from_seed([9; 32]));
    }
}

/// Beginnings that lead a decoder further in than chance would.
fn beginnings() -> Vec<Vec<u8>> {
    let (tips, links) = world::links(2);
    let batch = Batch { device: world::device(), after: tips[0], links };
    let mut log = FeedLog::new("E09000033", 1);
    log.fill(CellKind::Put, 1);
    let mut bundled = bundle::begin();
    ok(bundle::push(&mut bundled, &Request::Root(1), b"root"));
    vec![
        Vec::new(),
        world::signed_root(&world::root(1), &[1, 2]),
        encoded(Kind::Head, &world::head(9, vec![log.state()]), &[PUBLISHER]),
        encoded(Kind::Beat, &world::beat(9, b"", T0), &[BEAT]),
        encoded(Kind::Grant, &world::grant(1, &[("E09000033", 1)]), &[AUTHORITY]),
        ok(world::enrol_request().sign(&world::signer(DEVICE))),
        ok(codec::encode(&world::root(1))),
        ok(codec::encode(&world::grant(1, &[]))),
        ok(codec::encode(&world::invitation())),
        ok(world::invitation().to_text()).into_bytes(),
        ok(world::reference().encode()),
        ok(batch.to_bytes()),
        common::feed::join(&log.log),
        bundled,
        b"/v1/feed/E09000033/0000000000000001/snapshot/3/0".to_vec(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_bytes_never_panic(
        start in 0usize..15,
        keep in 0.0f64..1.2,
        tail in prop::collection::vec(any::<u8>(), 0..200),
        overwrite in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
    ) {
        let mut bytes = beginnings().swap_remove(start);
        bytes.truncate((bytes.len() as f64 * keep) as usize);
        bytes.extend(tail);
        for (at, value) in overwrite {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
        }
        read_as_everything(&bytes, &world::trust());
    }

    /// Of any choice and order of links, exactly those verify that continue the chain from its start without a gap.
    #[test]
    fn only_a_prefix_of_the_chain_verifies(order in prop::collection::vec(0usize..6, 0..9)) {
        let (tips, links) = world::links(6);
        let key = world::signer(DEVICE).public_key();
        let mut tip = tips[0];
        let mut taken = 0;
        for which in &order {
            match tip.verify(&world::device(), &key, &links[*which]) {
                Ok(next) => {
                    tip = next;
                    taken += 1;
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal, Refusal::BadSignature);
                    break;
                }
            }
        }
        let prefix = order.iter().zip(0..).take_while(|(which, at)| **which == *at).count();
        prop_assert_eq!(taken, prefix);
        prop_assert_eq!(tip, tips[prefix]);
    }
}
