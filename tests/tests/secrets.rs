//! Types that hold a secret can be neither cloned nor serialised, which the compiler checks, and their `Debug` is mute.
//! It must not pass where a derive was added: then this file does not compile.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test stops where something is not as it must be")]

use cpis_agent::device_secret::DeviceSecret;
use cpis_agent::keyslot::{Contents, Keyslot};
use cpis_agent::random::OsRandom;
use cpis_agent::transport::HttpTransport;
use cpis_agent::vault::{Session, Vault};
use cpis_protocol::cell::{FeedKey, LookupPrf as _, Place, SlotSecret};
use cpis_protocol::digest;
use cpis_protocol::grant::{Badge, FeedKeys, Grant, NamedFeedKey, seal_keys};
use cpis_protocol::id::{DeviceId, FeedId};
use cpis_protocol::policy::{AccessMode, Policy};
use cpis_protocol::query::{Path, Query, Token};
use cpis_protocol::seal::{Key, OpeningKey};
use cpis_protocol::sign::Signer;
use cpis_protocol::text::Text;
use cpis_server::keys::{AuditKeys, OnlineSigner, ServerKeys};

/// Which implementation is meant is ambiguous, and does not compile, as soon as the type is one of both.
macro_rules! neither_clone_nor_serialize {
    ($($secret:ty),+ $(,)?) => {
        $(const _: fn() = || {
            trait Ambiguous<Which> {
                fn meant() {}
            }
            struct Cloned;
            struct Serialized;
            impl<T: ?Sized> Ambiguous<()> for T {}
            impl<T: ?Sized + Clone> Ambiguous<Cloned> for T {}
            impl<T: ?Sized + serde::Serialize> Ambiguous<Serialized> for T {}
            let _ = <$secret as Ambiguous<_>>::meant;
        };)+
    };
}

neither_clone_nor_serialize!(
    Key,
    OpeningKey,
    Signer,
    FeedKey,
    NamedFeedKey,
    FeedKeys,
    SlotSecret,
    Token,
    Query,
    DeviceSecret,
    Session,
    Vault,
    Contents,
    Keyslot,
    HttpTransport,
    ServerKeys,
    OnlineSigner,
    AuditKeys,
);

const PLACE_EPOCH: u64 = 42;

/// Whether a text shows eight bytes in a row of a secret, as hex or as a list of numbers, however it is laid out.
fn shows(text: &str, secret: &[u8]) -> bool {
    let text: String = text.to_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
    secret.windows(8).any(|bytes| {
        let list = |form: fn(&u8) -> String| bytes.iter().map(form).collect::<Vec<_>>().join(",");
        let raw = std::str::from_utf8(bytes).is_ok_and(|bytes| text.contains(&bytes.to_lowercase()));
        raw || text.contains(&bytes.iter().map(|b| format!("{b:02x}")).collect::<String>())
            || text.contains(&list(u8::to_string))
            || text.contains(&list(|b| format!("{b:02x}")))
            || text.contains(&list(|b| format!("0x{b:02x}")))
    })
}

#[track_caller]
fn mute(value: &impl core::fmt::Debug, secret: &[u8]) {
    assert!(secret.len() >= 8);
    for text in [format!("{value:?}"), format!("{value:#?}"), format!("{value:x?}"), format!("{value:#X?}")] {
        assert!(!text.is_empty() && !shows(&text, secret), "{text}");
    }
}

fn bytes(from: u8) -> [u8; 32] {
    core::array::from_fn(|at| from.wrapping_add((at as u8).wrapping_mul(7)))
}

#[test]
fn the_search_sees_what_it_looks_for() {
    let secret = bytes(3);
    let hex: String = secret.iter().map(|b| format!("{b:02X}")).collect();
    for text in [format!("{secret:?}"), format!("{secret:#?}"), format!("{secret:x?}"), format!("{secret:#X?}"), hex] {
        assert!(shows(&text, &secret), "{text}");
    }
    assert!(shows("Query(\"9991234567\")", b"9991234567"));
    assert!(!shows("Key([secret])", &secret));
}

#[test]
fn no_secret_of_the_protocol_shows() {
    mute(&Key::from_bytes(bytes(1)), &bytes(1));
    mute(&OpeningKey::from_seed(bytes(2)), &bytes(2));
    mute(&Signer::from_seed(bytes(3)), &bytes(3));
    let key = || FeedKey(Key::from_bytes(bytes(4)));
    mute(&key(), &bytes(4));
    let feed: FeedId = Text::lossy("E08000035");
    mute(&NamedFeedKey { feed, epoch: PLACE_EPOCH, key_id: 1, key: key() }, &bytes(4));
    let token = Token::from_cache(Path::NhsNumber, bytes(5));
    mute(&token, &bytes(5));
    let place = Place { feed, epoch: PLACE_EPOCH };
    let input = [&b"cpis-edge/1/prf\0\x01"[..], &place.epoch.to_be_bytes(), place.feed.as_bytes(), &bytes(5)].concat();
    let secret = key().evaluate(&place, &token).unwrap();
    let known = digest::prf(&bytes(4), &input);
    assert_eq!(secret.locator(0), digest::expand::<6>(&known, &[b"cpis-edge/1/locator", &[0]]), "the secret is known");
    mute(&secret, &known);
    let number = "9990000018".parse().or_else(|_| cpis_tests::scene::number_from(999_000_001)).unwrap();
    let query = Query::nhs_number(number, "2016-05-06".parse().unwrap());
    mute(&query, query.expose());
}

/// A grant to this vault with one feed key.
fn grant(opening: &OpeningKey, key: [u8; 32]) -> Grant {
    let (device, scope) = (DeviceId([7; 16]), Text::lossy("all"));
    let feed: FeedId = Text::lossy("E08000035");
    let keys = [NamedFeedKey { feed, epoch: PLACE_EPOCH, key_id: 1, key: FeedKey(Key::from_bytes(key)) }];
    let sealed_keys = seal_keys(&keys, &device, &scope, &opening.sealing_key(), &mut OsRandom).unwrap();
    Grant {
        number: 1,
        device,
        site: Text::lossy("crew"),
        scope,
        issued_ms: 0,
        lease_until_ms: 1,
        policy: Policy::default(),
        badges: Vec::new(),
        feeds: Vec::new(),
        sealed_keys,
    }
}

#[test]
fn no_secret_of_the_agent_shows() {
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("device.secret");
    let secret = DeviceSecret::create_file(&file, &mut OsRandom).unwrap();
    let known = std::fs::read(&file).unwrap();
    assert_eq!(known.len(), 32);
    mute(&secret, &known);
    let opening = OpeningKey::from_seed(bytes(6));
    let mut contents = Contents::new(Signer::from_seed(bytes(7)), opening.sealing_key());
    contents.set_local_key(Text::lossy("E08000035"), 1, Key::from_bytes(bytes(8))).unwrap();
    let keyslot = Keyslot::create(&work.path().join("keyslot"), &secret, &contents).unwrap();
    for secret in [&bytes(7), &bytes(8), &known.try_into().unwrap()] {
        mute(&contents, secret);
        mute(&keyslot, secret);
    }
    let grant = grant(&opening, bytes(9));
    mute(&grant.open_keys(&opening).unwrap(), &bytes(9));
    let badge = Badge {
        practitioner: Text::lossy("P001"),
        name: Text::lossy("Sam Example"),
        role: Text::lossy("R1070"),
        activity: AccessMode::Unscheduled,
        valid_until_ms: i64::MAX,
    };
    let vault = Vault::default();
    vault.open(badge, opening, &grant, None, 0).unwrap();
    for secret in [bytes(6), bytes(9)] {
        mute(&vault, &secret);
        vault.with(0, |session| mute(session, &secret)).expect("it is open");
    }
}

#[test]
fn no_secret_of_the_server_shows() {
    let work = tempfile::tempdir().unwrap();
    let keys = ServerKeys::create(&work.path().join("keys")).unwrap();
    for signer in [&keys.publisher, &keys.beat, &keys.authority, &keys.receipt] {
        let seed = signer.signer().seed();
        mute(signer, seed.as_slice());
        mute(&keys, seed.as_slice());
    }
    mute(&keys, keys.storage.expose());
    let audit = AuditKeys::new(vec![OpeningKey::from_seed(bytes(10))]);
    mute(&audit, &bytes(10));
}
