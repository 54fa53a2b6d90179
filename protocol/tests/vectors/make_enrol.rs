//! The cases of enrolment, reference data, records and look-up tokens.
//! It must not decide an expectation by running the code under test: each is written by hand.

use cpis_protocol::enrol::{EnrolReply, Invitation};
use cpis_protocol::flag::{Flag, FlagKind, Record};
use cpis_protocol::head::Reference;
use cpis_protocol::nhs::Date;
use cpis_protocol::sign::Kind;
use cpis_protocol::{codec, digest, id, limits};

use crate::common::feed;
use crate::common::ok;
use crate::common::world::{self, DEVICE, STRANGER, framed, signed_root};
use crate::signed::Signed;
use crate::text::File;

pub(crate) fn enrol() -> File {
    let mut file = File::new("enrol", "Invitations (R80 to R83), requests (R84) and replies (R85).");
    let request = world::enrol_request();
    let payload = ok(codec::encode(&request));
    file.case("request", "signed by the device key that it names")
        .with("object", "enrol-request")
        .hex(&ok(request.sign(&world::signer(DEVICE))))
        .expect("ok");
    let common = Signed {
        base: "enrol/request",
        kind: Kind::Enrol,
        payload: &payload,
        by: &[DEVICE],
        limit: limits::BEAT_BYTES_MAX,
        names_own_keys: true,
        prefix: "request-",
    };
    common.refusals(&mut file);
    let stolen = cpis_protocol::enrol::EnrolRequest { device_key: world::signer(STRANGER).public_key(), ..request };
    let stolen = framed(Kind::Enrol, &ok(codec::encode(&stolen)), &[DEVICE]);
    file.replaced("request-other-key", "enrol/request", &stolen, "unknown-key", "names a key that did not sign");
    reply(&mut file);
    invitation(&mut file);
    file
}

fn reply(file: &mut File) {
    let reply =
        EnrolReply { certificate: vec![0x30, 0x00], roots: vec![vec![1, 2, 3]], grant: framed(Kind::Grant, &[1], &[]) };
    let bytes = ok(codec::encode(&reply));
    file.case("reply", "what is inside is verified as its own kind")
        .with("object", "enrol-reply")
        .hex(&bytes)
        .expect("ok");
    file.mutated(
        "reply-truncated",
        "enrol/reply",
        &format!("truncate {}", bytes.len() - 1),
        "truncated",
        "a byte short",
    );
    file.mutated("reply-trailing", "enrol/reply", "append 00", "trailing-bytes", "a byte more");
    let grow = format!("grow {}", limits::ENROL_BYTES_MAX + 1);
    file.mutated("reply-too-large", "enrol/reply", &grow, "too-large", "one byte over the limit");
    let note = "claims a certificate of 2^63 bytes";
    file.mutated("reply-hostile-length", "enrol/reply", "set 0 0000000000000080", "truncated", note);
}

fn invitation(file: &mut File) {
    let invitation = world::invitation();
    let text = ok(invitation.to_text());
    let bytes = ok(codec::encode(&invitation));
    assert_eq!(base32(&bytes), text);
    let mut case = |name: &str, text: &str, expect: &str, note: &str| {
        let case = file.case(name, note).with("object", "invitation").with("text", text);
        case.expect(expect);
    };
    case("invitation", &text, "ok", "the runner pins the root inside");
    case("invitation-spaces", &format!(" {} {}", &text[..30], &text[30..]), "ok", "white space is ignored");
    case("invitation-no-prefix", &text[1..], "wrong-kind", "the prefix is damaged");
    case("invitation-other-prefix", &text.replace("-1.", "-2."), "wrong-kind", "the prefix of another text form");
    case("invitation-bad-digit", &format!("{}0", &text[..text.len() - 1]), "malformed", "a digit not in the alphabet");
    case("invitation-cut", &text[..text.len() - 8], "truncated", "the end is missing");
    case("invitation-trailing", &base32(&[&bytes[..], &[0]].concat()), "trailing-bytes", "a byte more");
    let newer = Invitation { format: 2, ..invitation.clone() };
    case("invitation-newer", &ok(newer.to_text()), "unsupported-format", "the next format version");
    let forged = Invitation { root: signed_root(&world::root(1), &[STRANGER]), ..invitation.clone() };
    case("invitation-forged-root", &ok(forged.to_text()), "unknown-key", "a root that its own keys did not sign");
    let no_root = Invitation { root: Vec::new(), ..invitation };
    case("invitation-no-root", &ok(no_root.to_text()), "truncated", "no root inside");
    let grow = format!("grow {}", limits::INVITATION_BYTES_MAX * 2 + 19);
    let note = "more digits than any invitation has";
    file.mutated("invitation-too-large", "enrol/invitation", &grow, "too-large", note);
}

/// The text form of any bytes, bit by bit from R81: a second implementation of `Invitation::to_text`.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bit = |n: usize| bytes.get(n / 8).is_some_and(|b| b >> (7 - n % 8) & 1 == 1);
    let digits = (0..(bytes.len() * 8).div_ceil(5)).map(|d| {
        let value = (0..5).fold(0, |v, n| v << 1 | usize::from(bit(d * 5 + n)));
        char::from(ALPHABET[value])
    });
    "cpis-invitation-1.".chars().chain(digits).collect()
}

pub(crate) fn reference() -> File {
    let mut file =
        File::new("reference", "Reference data (R40, R41). `named: presented` is the hash of the bytes at hand.");
    let reference = world::reference();
    let bytes = ok(reference.encode());
    file.case("valid", "two authorities")
        .with("object", "reference")
        .with("named", "presented")
        .hex(&bytes)
        .expect("ok");
    file.moved("named", "reference/valid", "ok", "named by its hash").with("named", &id::hex(&digest::sha256(&bytes)));
    file.moved("wrong-hash", "reference/valid", "wrong-hash", "the head names another").with("named", &"00".repeat(32));
    file.mutated("truncated", "reference/valid", &format!("truncate {}", bytes.len() - 1), "truncated", "a byte short");
    file.mutated("trailing", "reference/valid", "append 00", "trailing-bytes", "a byte more");
    let grow = format!("grow {}", limits::REFERENCE_BYTES_MAX + 1);
    file.mutated("too-large", "reference/valid", &grow, "too-large", "one byte over the limit");
    let mut variant = |name: &str, change: fn(&mut Reference), expect: &str, note: &str| {
        let mut reference = reference.clone();
        change(&mut reference);
        file.replaced(name, "reference/valid", &ok(codec::encode(&reference)), expect, note);
    };
    variant("unsorted", |r| r.authorities.reverse(), "out-of-order", "not by number");
    variant("repeated", |r| r.authorities[1].number = 1, "out-of-order", "one number twice");
    variant("control", |r| r.authorities[0].name.push('\n'), "malformed", "a line break in a name");
    variant("long-name", |r| r.authorities[0].name = "x".repeat(81), "malformed", "a name over 80 bytes");
    variant("long-phone", |r| r.authorities[0].duty_phone = "1".repeat(25), "malformed", "a telephone over 24 bytes");
    variant("empty", |r| r.authorities.clear(), "ok", "no authorities");
    // The length of the first name lies behind the count (8), the number (2) and the code (16).
    file.mutated("not-utf8", "reference/valid", "set 34 ff", "malformed", "a name that is not UTF-8");
    file
}

pub(crate) fn record() -> File {
    let mut file = File::new("record", "The fixed-size record inside a cell (R56 to R58).");
    let one = feed::record(1);
    let packed = ok(one.pack());
    file.case("valid", "one child protection plan").with("object", "record").hex(&packed).expect("ok");
    let flag = |kind| Flag {
        kind,
        authority: 0xfffe,
        start: Date::new(1900, 1, 1).ok(),
        end: Date::new(2078, 1, 1).ok(),
        visible_until_min: Some(29_900_000),
    };
    let three =
        Record { flags: FlagKind::ALL.map(flag).to_vec(), more: true, initials: [0; 2], last_three: 999, ..one };
    file.replaced("three", "record/valid", &ok(three.pack()), "ok", "three plans and more");
    let restricted = Record { restricted: true, ..feed::record(2) };
    file.replaced("restricted", "record/valid", &ok(restricted.pack()), "ok", "only the authority to ring");
    for (name, mutation, note) in [
        ("no-flag", "flip 0", "a record without a plan"),
        ("unknown-bits", "flip 0 80", "a bit that has no meaning yet"),
        ("count-and-padding", "flip 0 03", "says two plans; the second is padding"),
        ("lower-case-initial", "flip 1 20", "initials are upper case"),
        ("last-three", "set 3 03e8", "1000 does not have three digits"),
        ("unknown-plan", "set 5 04", "a kind of plan that is not known"),
        ("padding", "flip 42", "padding is zeros"),
    ] {
        file.mutated(name, "record/valid", mutation, "malformed", note);
    }
    file
}

pub(crate) fn token() -> File {
    let mut file = File::new("token", "Look-up tokens (R60 to R63): question in, token out.");
    // Obtained from the reference code of Argon2 (see tests/published/memory_hard.rs), not from this crate.
    let token: [u8; 32] = crate::common::array("5467e5fb4a9291eb190923c37709dd2550add3f0a1b722dec8178969bc0ac58c");
    file.case("valid", "64 KiB, one pass: a synthetic deployment; value from the reference code of Argon2")
        .with("object", "lookup-token")
        .with("number", "9990000018")
        .with("birth", "2015-03-04")
        .with("salt", &"5a".repeat(16))
        .with("salt-epoch", "7")
        .with("memory-kib", "64")
        .with("passes", "1")
        .with("synthetic", "true")
        .hex(&token)
        .expect("ok");
    file.moved("below-floor", "token/valid", "below-floor", "the same price for real people")
        .with("synthetic", "false");
    file.moved("greedy", "token/valid", "too-large", "over the ceiling").with("memory-kib", "1048577");
    file.moved("tedious", "token/valid", "too-large", "seventeen passes").with("passes", "17");
    file.moved("too-little", "token/valid", "below-floor", "less than Argon2id needs").with("memory-kib", "7");
    file
}
