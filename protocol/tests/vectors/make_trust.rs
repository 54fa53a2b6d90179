//! The cases of frames, roots, beats, heads and grants.
//! It must not decide an expectation by running the code under test: each is written by hand.

use cpis_protocol::grant::Grant;
use cpis_protocol::head::{Beat, FeedState, Head};
use cpis_protocol::policy::Policy;
use cpis_protocol::seal::MemoryHard;
use cpis_protocol::sign::Kind;
use cpis_protocol::text::Text;
use cpis_protocol::trust::{RoleKeys, Root};
use cpis_protocol::{codec, digest, id, limits};

use crate::common::feed::FeedLog;
use crate::common::ok;
use crate::common::world::{self, AUTHORITY, BEAT, DAY_MS, PUBLISHER, SCOPE, STRANGER, T0, VAULT, framed, signed_root};
use crate::signed::Signed;
use crate::text::File;

fn public(seed: u8) -> String {
    id::hex(&world::signer(seed).public_key())
}

/// A number as a field.
pub(crate) fn num(n: impl core::fmt::Display) -> String {
    n.to_string()
}

pub(crate) fn signed() -> File {
    let mut file = File::new("signed", "The frame around signed objects (R10 to R17); the payload is a u32.");
    let payload = ok(codec::encode(&7u32));
    let keys = [1, 2, 3].map(public).join(" ");
    file.case("valid", "two of three keys, threshold two")
        .with("object", "signed")
        .with("kind", "2")
        .with("keys", &keys)
        .with("threshold", "2")
        .with("limit", "1024")
        .hex(&framed(Kind::Beat, &payload, &[1, 2]))
        .expect("ok");
    let common = Signed {
        base: "signed/valid",
        kind: Kind::Beat,
        payload: &payload,
        by: &[1, 2],
        limit: 1024,
        names_own_keys: false,
        prefix: "",
    };
    common.refusals(&mut file);
    let one = framed(Kind::Beat, &payload, &[1]);
    file.replaced("below-threshold", "signed/valid", &one, "below-threshold", "one of two");
    let with_stranger = framed(Kind::Beat, &payload, &[1, STRANGER]);
    file.replaced("stranger-does-not-count", "signed/valid", &with_stranger, "below-threshold", "one known, one not");
    file.moved("threshold-zero", "signed/no-signature", "unknown-key", "no threshold is below one")
        .with("threshold", "0");
    let other = framed(Kind::Receipt, &payload, &[1, 2]);
    file.replaced(
        "bound-to-kind",
        "signed/valid",
        &[&[2], &other[1..]].concat(),
        "bad-signature",
        "signed as a receipt",
    );
    file
}

pub(crate) fn root() -> File {
    let mut file = File::new("root", "The trust root, pinned (R20 to R22) and rotated (R23 to R27); roles (R29).");
    let root = world::root(1);
    let payload = ok(codec::encode(&root));
    file.case("valid", "keys 1, 2, 3; threshold two; signed by 1 and 2")
        .with("object", "root")
        .hex(&signed_root(&root, &[1, 2]))
        .expect("ok");
    let common = Signed {
        base: "root/valid",
        kind: Kind::Root,
        payload: &payload,
        by: &[1, 2],
        limit: limits::ROOT_BYTES_MAX,
        names_own_keys: true,
        prefix: "",
    };
    common.refusals(&mut file);
    let mut variant = |name: &str, root: &Root, by: &[u8], expect: &str, note: &str| {
        file.replaced(name, "root/valid", &signed_root(root, by), expect, note);
    };
    variant("all-three", &root, &[1, 2, 3], "ok", "more than the threshold");
    variant("below-threshold", &root, &[1], "below-threshold", "one of two");
    variant("real", &Root { synthetic: false, ..root.clone() }, &[1, 2], "ok", "a deployment that is not synthetic");
    let malformed = "malformed";
    variant("version-zero", &world::root(0), &[1, 2], malformed, "versions begin at one");
    variant("threshold-zero", &Root { threshold: 0, ..root.clone() }, &[1, 2], malformed, "nobody need sign");
    variant("threshold-unmeetable", &Root { threshold: 4, ..root.clone() }, &[1, 2, 3], malformed, "four of three");
    let repeated = Root { root_keys: vec![root.root_keys[0], root.root_keys[0]], ..root.clone() };
    variant("repeated-key", &repeated, &[1], malformed, "one key named twice");
    variant("born-expired", &Root { expires_ms: T0, ..root.clone() }, &[1, 2], malformed, "expires when it is issued");
    variant("no-recipient", &Root { audit_recipients: Vec::new(), ..root.clone() }, &[1, 2], malformed, "no audit key");
    let large = Root { authority_certificates: vec![vec![0; limits::CERTIFICATE_BYTES_MAX + 1]], ..root.clone() };
    variant("large-certificate", &large, &[1, 2], malformed, "a certificate over its limit");
    let none = Root { authority_certificates: Vec::new(), ..root.clone() };
    variant("no-certificate", &none, &[1, 2], malformed, "no device authority");
    let role = |change: &dyn Fn(&mut Vec<RoleKeys>)| {
        let mut changed = root.clone();
        change(&mut changed.roles);
        changed
    };
    let twice = role(&|roles| roles.push(roles[1].clone()));
    variant("role-twice", &twice, &[1, 2], malformed, "the role beat twice");
    let over = role(&|roles| roles[1].expires_ms = T0);
    variant("role-born-expired", &over, &[1, 2], malformed, "a role that ends when the root is issued");
    let crowd = role(&|roles| roles[1].keys = vec![[1; 32]; limits::ROLE_KEYS_MAX + 1]);
    variant("role-crowded", &crowd, &[1, 2], malformed, "more keys than a role may have");
    let crowd = Root { audit_recipients: vec![[1; 32]; limits::ROLE_KEYS_MAX + 1], ..root.clone() };
    variant("recipients-crowded", &crowd, &[1, 2], malformed, "more audit recipients than there may be");
    let short = role(&|roles| roles[1].expires_ms = T0 + DAY_MS);
    variant("short-role", &short, &[1, 2], "ok", "the role beat ends after a day");
    let many = Root { authority_certificates: vec![vec![0x30, 0x00]; limits::AUTHORITY_CERTIFICATES_MAX + 1], ..root };
    variant("many-certificates", &many, &[1, 2], malformed, "more authorities than may be met");
    file.moved("expired", "root/valid", "expired", "expiry is not inclusive").with("now", &num(T0 + 365 * DAY_MS));
    file.moved("not-yet-expired", "root/valid", "ok", "one millisecond before")
        .with("now", &num(T0 + 365 * DAY_MS - 1));
    file.moved("role-expired", "root/short-role", "expired", "the keys of a role end before the root")
        .with("role", "beat")
        .with("now", &num(T0 + DAY_MS));
    file.moved("role-not-yet-expired", "root/short-role", "ok", "one millisecond before")
        .with("role", "beat")
        .with("now", &num(T0 + DAY_MS - 1));
    file.moved("other-role-not-expired", "root/short-role", "ok", "each role for itself")
        .with("role", "publisher")
        .with("now", &num(T0 + DAY_MS));
    file.moved("role-time-unknown", "root/short-role", "ok", "who does not know the time cannot refuse so")
        .with("role", "beat")
        .with("now", "-");
    rotation(&mut file);
    file
}

fn rotation(file: &mut File) {
    let next = Root { root_keys: [4, 5, 6].map(|k| world::signer(k).public_key()).to_vec(), ..world::root(2) };
    file.case("rotation", "version 2, all keys new, signed by two old and two new")
        .with("object", "root-rotation")
        .with("trusted", "root/valid")
        .hex(&signed_root(&next, &[1, 2, 4, 5]))
        .expect("ok");
    let mut step = |name: &str, root: &Root, by: &[u8], expect: &str, note: &str| {
        file.replaced(name, "root/rotation", &signed_root(root, by), expect, note);
    };
    step("rotation-not-by-old", &next, &[4, 5], "unknown-key", "no old key signed");
    step("rotation-one-old", &next, &[1, 4, 5], "below-threshold", "one of two old keys");
    step("rotation-one-new", &next, &[1, 2, 4], "below-threshold", "one of two new keys");
    step("rotation-gap", &Root { version: 3, ..next.clone() }, &[1, 2, 4, 5], "gap", "version 3 after 1");
    step("rotation-replayed", &world::root(1), &[1, 2], "rollback", "the trusted root itself");
    let far = Root { version: u32::MAX, ..next.clone() };
    step("rotation-far", &far, &[1, 2, 4, 5], "gap", "the last version there is (fast forward)");
    let other = Root { deployment: Text::lossy("another"), ..next.clone() };
    step("rotation-other-deployment", &other, &[1, 2, 4, 5], "malformed", "another deployment's root");
    let real = Root { synthetic: false, ..next.clone() };
    step("rotation-to-real", &real, &[1, 2, 4, 5], "malformed", "synthetic never changes");
    file.mutated("rotation-wrong-kind", "root/rotation", "set 0 03", "wrong-kind", "a head's kind byte");
    file.mutated("rotation-format", "root/rotation", "set 1 02", "unsupported-format", "the next format version");
    file.mutated("rotation-bad-signature", "root/rotation", "flip 11", "bad-signature", "an old key's signature");
    file.mutated("rotation-bad-new-signature", "root/rotation", "flip 155", "bad-signature", "a new key's signature");
    let grow = format!("grow {}", limits::ROOT_BYTES_MAX + 1);
    file.mutated("rotation-too-large", "root/rotation", &grow, "too-large", "one byte over the limit");
    file.moved("rotation-expired", "root/rotation", "expired", "the last root of a walk must not have expired")
        .with("now", &num(T0 + 365 * DAY_MS));
    let lower = signed_root(&Root { version: 2, ..world::root(2) }, &[1, 2]);
    file.replaced("rotation-same-keys", "root/rotation", &lower, "ok", "version 2 with the keys of version 1");
    file.moved("rotation-back", "root/rotation-same-keys", "rollback", "version 1 after 2")
        .with("trusted", "root/rotation-same-keys")
        .hex(&signed_root(&world::root(1), &[1, 2]));
}

pub(crate) fn beat() -> File {
    let mut file = File::new("beat", "Beats (R30 to R34). The valid one names head/valid.");
    let beat = world::beat(9, &head_bytes(), T0);
    let payload = ok(codec::encode(&beat));
    let sign = |beat: &Beat| framed(Kind::Beat, &ok(codec::encode(beat)), &[BEAT]);
    file.case("valid", "never seen a beat before")
        .with("object", "beat")
        .with("trusted", "root/valid")
        .with("scope", SCOPE)
        .with("now", &num(T0 + 1000))
        .hex(&sign(&beat))
        .expect("ok");
    let common = Signed {
        base: "beat/valid",
        kind: Kind::Beat,
        payload: &payload,
        by: &[BEAT],
        limit: limits::BEAT_BYTES_MAX,
        names_own_keys: false,
        prefix: "",
    };
    common.refusals(&mut file);
    let by_publisher = framed(Kind::Beat, &payload, &[PUBLISHER]);
    file.replaced("wrong-role", "beat/valid", &by_publisher, "unknown-key", "signed by the publisher's key");
    file.mutated("no-payload", "beat/valid", "truncate 75", "bad-signature", "the frame without its payload");
    let unprintable = framed(Kind::Beat, &[&[0xff], &payload[1..]].concat(), &[BEAT]);
    file.replaced("malformed", "beat/valid", &unprintable, "malformed", "a scope that is not printable ASCII");
    let padded = framed(Kind::Beat, &[&payload[..15], b"x", &payload[16..]].concat(), &[BEAT]);
    file.replaced("malformed-padding", "beat/valid", &padded, "malformed", "a scope with text after its padding");
    file.moved("wrong-scope", "beat/valid", "wrong-scope", "a device of another scope").with("scope", "custody");
    file.moved("again", "beat/valid", "ok", "the same beat again").with("last", "beat/valid");
    let mut after = |name: &str, beat: &Beat, expect: &str, note: &str| {
        file.replaced(name, "beat/valid", &sign(beat), expect, note).with("last", "beat/valid");
    };
    let later = T0 + 60_000;
    after("newer", &Beat { issued_ms: T0 + 500, gseq: 10, ..beat.clone() }, "ok", "later, of a later instant");
    after("re-signed", &Beat { issued_ms: T0 + 500, ..beat.clone() }, "ok", "later, the same head");
    after("older", &Beat { issued_ms: T0 - 1, ..beat.clone() }, "rollback", "made before the last one");
    after("lower", &Beat { issued_ms: later, gseq: 8, ..beat.clone() }, "rollback", "later, of an earlier instant");
    let forked = Beat { head: [1; 32], ..beat.clone() };
    after("fork", &forked, "fork", "same instant, same time, another head");
    let replaced = Beat { head: [1; 32], issued_ms: later, ..beat };
    after(
        "head-replaced",
        &replaced,
        "ok",
        "a later beat may name another head of the same instant, e.g. after a re-key",
    );
    file.moved("expired", "beat/valid", "expired", "valid_s later").with("now", &num(T0 + 7_200_000));
    file.moved("nearly-expired", "beat/valid", "ok", "a millisecond before").with("now", &num(T0 + 7_199_999));
    let ahead = Beat { issued_ms: T0 + 365 * DAY_MS, ..world::beat(9, &head_bytes(), T0) };
    file.replaced("beyond-root", "beat/valid", &sign(&ahead), "expired", "says that it was made at the root's end");
    let last = Beat { issued_ms: T0 + 365 * DAY_MS - 1, ..ahead };
    file.replaced("before-root-end", "beat/valid", &sign(&last), "ok", "one millisecond before");
    file.moved("role-expired", "beat/valid", "expired", "the role beat ends after a day, this beat a day later")
        .with("trusted", "root/short-role")
        .with("now", &num(T0 + DAY_MS))
        .hex(&sign(&Beat { valid_s: 4 * 86_400, ..world::beat(9, &head_bytes(), T0) }));
    file.moved("time-unknown", "beat/valid", "ok", "a device that does not know the time cannot refuse as expired")
        .with("now", "-");
    file
}

fn feeds() -> Vec<FeedState> {
    ["E09000033", "E10000016"]
        .iter()
        .zip(42..)
        .map(|(feed, epoch)| {
            let mut log = FeedLog::new(feed, epoch);
            for who in 1..=5 {
                log.fill(cpis_protocol::cell::CellKind::Put, who);
            }
            log.state()
        })
        .collect()
}

/// The bytes of head/valid.
pub(crate) fn head_bytes() -> Vec<u8> {
    framed(Kind::Head, &ok(codec::encode(&world::head(9, feeds()))), &[PUBLISHER])
}

pub(crate) fn head() -> File {
    let mut file =
        File::new("head", "Heads (R35 to R39). `named: presented` stands for the hash of the bytes at hand.");
    let head = world::head(9, feeds());
    let payload = ok(codec::encode(&head));
    let sign = |head: &Head| framed(Kind::Head, &ok(codec::encode(head)), &[PUBLISHER]);
    file.case("valid", "two feeds of five cells")
        .with("object", "head")
        .with("trusted", "root/valid")
        .with("scope", SCOPE)
        .with("named", "presented")
        .hex(&head_bytes())
        .expect("ok");
    let common = Signed {
        base: "head/valid",
        kind: Kind::Head,
        payload: &payload,
        by: &[PUBLISHER],
        limit: limits::HEAD_BYTES_MAX,
        names_own_keys: false,
        prefix: "",
    };
    common.refusals(&mut file);
    file.moved("named", "head/valid", "ok", "named by its hash")
        .with("named", &id::hex(&digest::sha256(&head_bytes())));
    file.moved("wrong-hash", "head/valid", "wrong-hash", "the beat names another").with("named", &"00".repeat(32));
    file.moved("wrong-scope", "head/valid", "wrong-scope", "a device of another scope").with("scope", "custody");
    let by_beat = framed(Kind::Head, &payload, &[BEAT]);
    file.replaced("wrong-role", "head/valid", &by_beat, "unknown-key", "signed by the beat key");
    file.moved("below-floor", "head/valid", "below-floor", "a cheap look-up outside a synthetic deployment")
        .with("trusted", "root/real");
    let mut variant = |name: &str, head: &Head, expect: &str, note: &str| {
        file.replaced(name, "head/valid", &sign(head), expect, note);
    };
    let mut lookup = world::lookup();
    lookup.cost = MemoryHard { memory_kib: u32::MAX, passes: 1 };
    variant("greedy", &Head { lookup, ..head.clone() }, "too-large", "asks a tablet for four tebibytes");
    lookup.cost = MemoryHard { memory_kib: 8, passes: 0 };
    variant("no-passes", &Head { lookup, ..head.clone() }, "below-floor", "below what even a synthetic one may have");
    let [a, b] = [head.feeds[0].clone(), head.feeds[1].clone()];
    variant("unsorted", &world::head(9, vec![b, a.clone()]), "out-of-order", "feeds in the wrong order");
    variant("repeated", &world::head(9, vec![a.clone(), a.clone()]), "out-of-order", "one feed twice");
    variant("no-feeds", &world::head(9, Vec::new()), "ok", "a scope without feeds");
    let vast = FeedState { count: limits::FEED_CELLS_MAX + 1, ..a.clone() };
    variant("vast-feed", &world::head(9, vec![vast]), "too-large", "more live cells than a feed may have");
    let back = FeedState { seq: a.seq - 1, ..a.clone() };
    file.replaced("feed-rolled-back", "head/valid", &sign(&world::head(10, vec![back])), "rollback", "behind the copy")
        .with("have", "head/valid");
    let renewed = FeedState { seq: 1, epoch: 99, ..a };
    file.replaced(
        "feed-new-epoch",
        "head/valid",
        &sign(&world::head(10, vec![renewed])),
        "ok",
        "a new log begins again",
    )
    .with("have", "head/valid");
    file
}

/// R222: when a grant may be taken in.
fn grant_times(file: &mut File, grant: &Grant, sign: impl Fn(&Grant) -> Vec<u8>) {
    let until = grant.lease_until_ms;
    let mut timed = |name: &str, now: i64, expect: &str, note: &str| {
        file.moved(name, "grant/valid", expect, note).with("now", &num(now));
    };
    timed("last-of-the-lease", until - 1, "ok", "the last millisecond of its lease");
    timed("lease-over", until, "expired", "from that millisecond on");
    let end = world::root(1).expires_ms;
    let mut made = |name: &str, issued_ms: i64, lease_until_ms: i64, expect: &str, note: &str| {
        let grant = Grant { issued_ms, lease_until_ms, ..grant.clone() };
        file.replaced(name, "grant/valid", &sign(&grant), expect, note);
    };
    made("role-ends", T0, end + DAY_MS, "ok", "a lease beyond the end of the role; no time is known");
    made("lease-of-nothing", T0, T0, "expired", "over when it was made; no time is known");
    made("made-before-the-end", end - 1, end + DAY_MS, "ok", "made in the last millisecond of the role");
    made("made-beyond-the-end", end, end + DAY_MS, "expired", "made at the end of the role: a stolen key");
    file.moved("role-last", "grant/role-ends", "ok", "the last millisecond of the role").with("now", &num(end - 1));
    file.moved("role-over", "grant/role-ends", "expired", "from that millisecond on").with("now", &num(end));
}

pub(crate) fn grant() -> File {
    let mut file = File::new("grant", "Grants (R70 to R76, R222).");
    let grant = world::grant(3, &[("E09000033", 42)]);
    let payload = ok(codec::encode(&grant));
    let sign = |grant: &Grant| framed(Kind::Grant, &ok(codec::encode(grant)), &[AUTHORITY]);
    file.case("valid", "one feed key, sealed to the vault; the runner opens it")
        .with("object", "grant")
        .with("trusted", "root/valid")
        .with("device", &num(world::device()))
        .with("vault", &id::hex(&[VAULT; 32]))
        .with("holds", "E09000033 42 1")
        .hex(&sign(&grant))
        .expect("ok");
    let common = Signed {
        base: "grant/valid",
        kind: Kind::Grant,
        payload: &payload,
        by: &[AUTHORITY],
        limit: limits::GRANT_BYTES_MAX,
        names_own_keys: false,
        prefix: "",
    };
    common.refusals(&mut file);
    file.moved("wrong-device", "grant/valid", "wrong-device", "another device's grant")
        .with("device", &"00".repeat(16));
    file.moved("again", "grant/valid", "ok", "the same number again").with("last", "grant/valid");
    let older = world::grant(2, &[("E09000033", 42)]);
    file.replaced("rollback", "grant/valid", &sign(&older), "rollback", "a lower number than the last")
        .with("last", "grant/valid");
    grant_times(&mut file, &grant, sign);
    file.moved("below-floor", "grant/valid", "below-floor", "a cheap passphrase outside a synthetic deployment")
        .with("trusted", "root/real");
    let mut policy = |name: &str, policy: Policy, expect: &str, note: &str| {
        let grant = Grant { policy, ..grant.clone() };
        file.replaced(name, "grant/valid", &sign(&grant), expect, note);
    };
    policy("bands-out-of-order", Policy { fresh_s: u32::MAX, ..grant.policy }, "malformed", "fresh after ageing");
    policy("never-locks", Policy { idle_lock_s: 0, ..grant.policy }, "malformed", "no idle time");
    policy("no-limit", Policy { look_up_burst: 0, ..grant.policy }, "malformed", "a limit that lets nothing through");
    policy("no-refill", Policy { look_up_refill_s: 0, ..grant.policy }, "malformed", "a limit without end");
    let glass = Policy { break_glass_look_ups: 5, break_glass_s: 0, ..grant.policy };
    policy("glass-without-time", glass, "malformed", "a break-glass that is over at once");
    policy("never-reveals", Policy { reveal_s: 0, ..grant.policy }, "malformed", "no time to reveal");
    let greedy = MemoryHard { memory_kib: u32::MAX, passes: 1 };
    policy("greedy", Policy { passphrase_cost: greedy, ..grant.policy }, "too-large", "four tebibytes to unlock");
    file.moved("other-vault", "grant/valid", "does-not-open", "the keys are sealed to another vault")
        .with("vault", &"55".repeat(32));
    let elsewhere = Grant { scope: Text::lossy("custody"), ..grant.clone() };
    let note = "sealed keys of one scope in a grant of another";
    file.replaced("other-scope", "grant/valid", &sign(&elsewhere), "does-not-open", note);
    let cut = Grant { sealed_keys: grant.sealed_keys[..31].to_vec(), ..grant };
    file.replaced("sealed-cut", "grant/valid", &sign(&cut), "truncated", "less than an encapsulated key");
    file
}
