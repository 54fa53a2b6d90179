//! A small synthetic deployment: every key from a seed of one repeated byte, every time fixed.
//! It must not change without the frozen vectors changing with it.

use cpis_protocol::Refusal;
use cpis_protocol::audit::{Act, AuditEvent, LockCause, Moment, Outcome, Receipt, Tip};
use cpis_protocol::cell::FeedKey;
use cpis_protocol::codec;
use cpis_protocol::enrol::{EnrolRequest, Invitation};
use cpis_protocol::grant::{self, Badge, Grant, GrantedFeed, NamedFeedKey};
use cpis_protocol::head::{Authority, Beat, FeedState, Head, Reference};
use cpis_protocol::id::{ChainId, DeviceId, UnixMs};
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_protocol::policy::{AccessMode, Policy};
use cpis_protocol::query::LookupParameters;
use cpis_protocol::seal::{Key, MemoryHard, OpeningKey};
use cpis_protocol::sign::{self, Kind, Signer};
use cpis_protocol::text::Text;
use cpis_protocol::trust::{Role, RoleKeys, Root, Trust};

use super::feed::FEED_KEY;
use super::{SeedRng, ok};

/// The instant at which everything here was made.
pub(crate) const T0: UnixMs = 1_790_000_000_000;
pub(crate) const DAY_MS: i64 = 86_400_000;
pub(crate) const SCOPE: &str = "ambulance";

/// Seed bytes of the signing keys.
pub(crate) const PUBLISHER: u8 = 0x10;
pub(crate) const BEAT: u8 = 0x11;
pub(crate) const AUTHORITY: u8 = 0x12;
pub(crate) const RECEIPT: u8 = 0x13;
pub(crate) const DEVICE: u8 = 0x20;
pub(crate) const STRANGER: u8 = 0x7f;
/// Seed bytes of the opening keys.
pub(crate) const AUDITOR: u8 = 0x30;
pub(crate) const VAULT: u8 = 0x31;

pub(crate) fn signer(seed: u8) -> Signer {
    Signer::from_seed([seed; 32])
}

pub(crate) fn device() -> DeviceId {
    DeviceId::of(&signer(DEVICE).public_key())
}

pub(crate) fn chain() -> ChainId {
    ChainId([0xc4; 16])
}

/// A root with keys 1, 2, 3 and threshold 2.
pub(crate) fn root(version: u32) -> Root {
    let keys = |role, seed| RoleKeys { role, keys: vec![signer(seed).public_key()], expires_ms: T0 + 365 * DAY_MS };
    Root {
        version,
        deployment: Text::lossy("vectors"),
        synthetic: true,
        issued_ms: T0,
        expires_ms: T0 + 365 * DAY_MS,
        threshold: 2,
        root_keys: [1, 2, 3].map(|seed| signer(seed).public_key()).to_vec(),
        roles: vec![
            keys(Role::Publisher, PUBLISHER),
            keys(Role::Beat, BEAT),
            keys(Role::DeviceAuthority, AUTHORITY),
            keys(Role::Receipt, RECEIPT),
        ],
        audit_recipients: vec![OpeningKey::from_seed([AUDITOR; 32]).sealing_key()],
        authority_certificates: vec![vec![0x30, 0x00]],
    }
}

/// A payload in a frame, signed by each seed in turn.
pub(crate) fn framed(kind: Kind, payload: &[u8], by: &[u8]) -> Vec<u8> {
    by.iter().fold(sign::frame(kind, payload), |frame, seed| ok(signer(*seed).endorse(&frame)))
}

pub(crate) fn signed_root(root: &Root, by: &[u8]) -> Vec<u8> {
    framed(Kind::Root, &ok(codec::encode(root)), by)
}

pub(crate) fn trust() -> Trust {
    ok(Trust::pin(&signed_root(&root(1), &[1, 2])))
}

pub(crate) fn lookup() -> LookupParameters {
    LookupParameters { salt_epoch: 7, salt: [0x5a; 16], cost: MemoryHard::SYNTHETIC }
}

pub(crate) fn reference() -> Reference {
    let authority = |number, code: &str, name: &str| Authority {
        number,
        code: Text::lossy(code),
        name: name.into(),
        office_phone: "01632 960001".into(),
        duty_phone: "01632 960002".into(),
    };
    Reference {
        authorities: vec![authority(1, "E09000033", "Westminster"), authority(2, "E10000016", "Kent County Council")],
    }
}

pub(crate) fn head(gseq: u64, feeds: Vec<FeedState>) -> Head {
    let reference = cpis_protocol::digest::sha256(&ok(reference().encode()));
    Head { scope: Text::lossy(SCOPE), gseq, issued_ms: T0, lookup: lookup(), reference, feeds }
}

pub(crate) fn beat(gseq: u64, head: &[u8], issued_ms: UnixMs) -> Beat {
    Beat {
        scope: Text::lossy(SCOPE),
        gseq,
        head: cpis_protocol::digest::sha256(head),
        issued_ms,
        valid_s: 7200,
        next_poll_s: 60,
        spread_s: 30,
    }
}

pub(crate) fn grant(number: u64, feeds: &[(&str, u64)]) -> Grant {
    let scope = Text::lossy(SCOPE);
    let keys: Vec<_> = feeds
        .iter()
        .map(|(feed, epoch)| NamedFeedKey {
            feed: Text::lossy(feed),
            epoch: *epoch,
            key_id: 1,
            key: FeedKey(Key::from_bytes(FEED_KEY)),
        })
        .collect();
    let vault = OpeningKey::from_seed([VAULT; 32]).sealing_key();
    let badge = Badge {
        practitioner: Text::lossy("555000000001"),
        name: Text::lossy("A Paramedic"),
        role: Text::lossy("R1070"),
        activity: AccessMode::Unscheduled,
        valid_until_ms: T0 + 30 * DAY_MS,
    };
    Grant {
        number,
        device: device(),
        site: Text::lossy("RRU01"),
        scope,
        issued_ms: T0,
        lease_until_ms: T0 + 30 * DAY_MS,
        policy: Policy { passphrase_cost: MemoryHard::SYNTHETIC, ..Policy::default() },
        badges: vec![badge],
        feeds: keys.iter().map(|k| GrantedFeed { feed: k.feed, epoch: k.epoch, key_id: k.key_id }).collect(),
        sealed_keys: ok(grant::seal_keys(&keys, &device(), &scope, &vault, &mut SeedRng::new(number))),
    }
}

pub(crate) fn enrol_request() -> EnrolRequest {
    EnrolRequest {
        code: [0x0c; 16],
        device_key: signer(DEVICE).public_key(),
        vault_key: OpeningKey::from_seed([VAULT; 32]).sealing_key(),
        practitioner: Text::lossy("555000000001"),
    }
}

pub(crate) fn invitation() -> Invitation {
    Invitation {
        format: cpis_protocol::FORMAT,
        url: "https://cpis.example:8443".into(),
        code: [0x0c; 16],
        root: signed_root(&root(1), &[1, 2]),
    }
}

/// The `n`th event of the test chain.
pub(crate) fn event(n: u64) -> AuditEvent {
    let number = NhsNumber::new(9_990_000_018).unwrap_or_else(|e| panic!("{e}"));
    let birth = Date::new(2015, 3, 4).unwrap_or_else(|e| panic!("{e}"));
    let act = match n {
        1 => Act::Unlock,
        2 => Act::LookUp { number, birth, outcome: Outcome::Flagged, reason: Text::EMPTY },
        _ => Act::Lock { cause: if n.is_multiple_of(2) { LockCause::Idle } else { LockCause::Touch } },
    };
    AuditEvent {
        practitioner: Text::lossy("555000000001"),
        role: Text::lossy("R1070"),
        incident: Text::EMPTY,
        break_glass: false,
        act,
    }
}

pub(crate) fn moment() -> Moment {
    Moment { event_ms: T0 + 1000, anchor_ms: T0, gseq: 9, head: [0x4e; 32] }
}

/// The tips of the test chain from the empty one on, and its links.
pub(crate) fn links(count: u64) -> (Vec<Tip>, Vec<cpis_protocol::audit::Link>) {
    let recipient = OpeningKey::from_seed([AUDITOR; 32]).sealing_key();
    let mut tips = vec![Tip::start(&device(), chain())];
    let mut links = Vec::new();
    for n in 1..=count {
        let tip = tips[tips.len() - 1];
        let mut rng = SeedRng::new(1000 + n);
        let step: Result<_, Refusal> =
            tip.append(&device(), &signer(DEVICE), &recipient, &moment(), &event(n), &mut rng);
        let (link, next) = ok(step);
        links.push(link);
        tips.push(next);
    }
    (tips, links)
}

pub(crate) fn receipt(through: Tip) -> Receipt {
    Receipt { device: device(), through, issued_ms: T0 + 2000 }
}
