//! The cases of audit links, batches, events, receipts and bundles.
//! It must not decide an expectation by running the code under test: each is written by hand.

use cpis_protocol::audit::{self, Batch, LINK_BYTES, Link, Receipt, Tip};
use cpis_protocol::bundle;
use cpis_protocol::id::{ChainId, DeviceId, hex};
use cpis_protocol::message::Request;
use cpis_protocol::seal::{OpeningKey, seal_to};
use cpis_protocol::sign::Kind;
use cpis_protocol::text::Text;
use cpis_protocol::{codec, limits};

use crate::common::world::{self, AUDITOR, DEVICE, RECEIPT, SCOPE, STRANGER, framed, links};
use crate::common::{SeedRng, ok};
use crate::make_trust::num;
use crate::signed::Signed;
use crate::text::File;

pub(crate) fn audit() -> File {
    let mut file = File::new("audit", "Audit links (R100 to R103), events (R104) and batches (R105 to R107).");
    let (tips, links) = links(3);
    link(&mut file, &tips, &links);
    event(&mut file, &links);
    batch(&mut file, &tips, &links);
    file
}

fn link(file: &mut File, tips: &[Tip], links: &[Link]) {
    file.case("link", "the second link")
        .with("object", "audit-link")
        .with("device", &num(world::device()))
        .with("key", &hex(&world::signer(DEVICE).public_key()))
        .with("chain", &num(world::chain()))
        .with("seq", "1")
        .with("previous", &hex(&tips[1].hash))
        .hex(links[1].as_bytes())
        .expect("ok");
    let base = "audit/link";
    let bad = "bad-signature";
    file.mutated("link-truncated", base, "truncate 315", "truncated", "a byte short");
    file.mutated("link-trailing", base, "append 00", "trailing-bytes", "a byte more");
    for (at, part) in [
        (7, "event time"),
        (15, "anchor"),
        (23, "register sequence"),
        (24, "head"),
        (40, "recipient"),
        (44, "encapsulated key"),
        (100, "sealed event"),
        (251, "tag"),
        (252, "signature"),
        (315, "end of the signature"),
    ] {
        file.mutated(&format!("link-flip-{at}"), base, &format!("flip {at}"), bad, part);
    }
    file.moved("link-other-device", base, bad, "bound to the device").with("device", &"00".repeat(16));
    file.moved("link-other-chain", base, bad, "bound to the chain").with("chain", &"00".repeat(16));
    file.moved("link-gap", base, bad, "one link is missing before")
        .with("seq", "0")
        .with("previous", &hex(&tips[0].hash));
    file.moved("link-replayed", base, bad, "after itself").with("seq", "2").with("previous", &hex(&tips[2].hash));
    file.moved("link-fork", base, bad, "after another history").with("previous", &"00".repeat(32));
    let stranger = hex(&world::signer(STRANGER).public_key());
    file.moved("link-other-key", base, bad, "another device's key").with("key", &stranger);
    let no_key = "a public key that is not a point";
    file.moved("link-no-key", base, bad, no_key).with("key", &format!("02{}", "00".repeat(31)));
    file.replaced("link-first", base, links[0].as_bytes(), "ok", "the first link")
        .with("seq", "0")
        .with("previous", &hex(&tips[0].hash));
}

fn event(file: &mut File, links: &[Link]) {
    file.case("event", "the event of the second link, opened by the audit recipient")
        .with("object", "event")
        .with("device", &num(world::device()))
        .with("chain", &num(world::chain()))
        .with("seq", "2")
        .with("opening", &hex(&[AUDITOR; 32]))
        .with("act", "look-up")
        .hex(links[1].as_bytes())
        .expect("ok");
    let base = "audit/event";
    let closed = "does-not-open";
    file.moved("event-other-seq", base, closed, "bound to its place").with("seq", "3");
    file.moved("event-other-chain", base, closed, "bound to its chain").with("chain", &"00".repeat(16));
    file.moved("event-other-device", base, closed, "bound to its device").with("device", &"00".repeat(16));
    file.moved("event-other-key", base, closed, "another recipient").with("opening", &"31".repeat(32));
    file.mutated("event-flip", base, "flip 100", closed, "a changed bit");
    // A device that seals what it should not: the padded plaintext is wrong.
    let encoded = ok(codec::encode(&world::event(2)));
    let length = encoded.len() as u16;
    let mut sealed = |name: &str, length: u16, body: &[u8], fill: u8, expect: &str, note: &str| {
        let mut plain = [&length.to_be_bytes()[..], body].concat();
        plain.resize(audit::EVENT_BYTES, fill);
        let aad = [&world::device().0[..], &world::chain().0, &2u64.to_be_bytes()].concat();
        let recipient = OpeningKey::from_seed([AUDITOR; 32]).sealing_key();
        let sealed = ok(seal_to(&recipient, b"cpis-edge/1/audit", &aad, &plain, &mut SeedRng::new(5)));
        let mut link = links[1].as_bytes().to_vec();
        link[44..44 + sealed.len()].copy_from_slice(&sealed);
        file.replaced(name, base, &link, expect, note);
    };
    sealed("event-sealed", length, &encoded, 0, "ok", "sealed by hand");
    sealed("event-padding", length, &encoded, 1, "malformed", "padding that is not zeros");
    sealed("event-length", 159, &encoded, 0, "truncated", "says that it is longer than the padding");
    sealed("event-short", length - 1, &encoded[..encoded.len() - 1], 0, "truncated", "the event ends too early");
    sealed("event-long", length + 1, &encoded, 0, "trailing-bytes", "a zero too much counts as event");
    let mut wrong = encoded;
    wrong[0] = 0x07;
    sealed("event-not-text", length, &wrong, 0, "malformed", "a practitioner that is not printable ASCII");
}

fn batch(file: &mut File, tips: &[Tip], links: &[Link]) {
    let device = world::device();
    let pack =
        |device: DeviceId, after: Tip, links: &[Link]| ok(Batch { device, after, links: links.to_vec() }.to_bytes());
    file.case("batch", "three links from the start of the chain")
        .with("object", "audit-batch")
        .with("key", &hex(&world::signer(DEVICE).public_key()))
        .with("count", "3")
        .hex(&pack(device, tips[0], links))
        .expect("ok");
    let base = "audit/batch";
    let bad = "bad-signature";
    file.replaced("batch-empty", base, &pack(device, tips[3], &[]), "ok", "nothing new").with("count", "0");
    file.replaced("batch-middle", base, &pack(device, tips[1], &links[1..]), "ok", "from the second")
        .with("count", "2");
    file.mutated("batch-format", base, "set 0 02", "unsupported-format", "the next format version");
    file.mutated("batch-header-cut", base, "truncate 74", "truncated", "ends inside the header");
    let whole = 75 + 3 * LINK_BYTES;
    file.mutated("batch-cut", base, &format!("truncate {}", whole - 1), "truncated", "a byte short");
    file.mutated("batch-trailing", base, "append 00", "trailing-bytes", "a byte more");
    file.mutated("batch-count-less", base, "set 73 0200", "trailing-bytes", "says two, brings three");
    file.mutated("batch-count-more", base, "set 73 0400", "truncated", "says four, brings three");
    file.mutated("batch-count-large", base, "set 73 c900", "too-large", "201 links");
    let grow = format!("grow {}", limits::AUDIT_BATCH_BYTES_MAX + 1);
    file.mutated("batch-too-large", base, &grow, "too-large", "one byte over the limit");
    let note = "a position that its own links would overflow";
    file.mutated("batch-last-position", base, "set 33 fdffffffffffffff", "malformed", note);
    file.mutated("batch-other-position", base, "set 33 01", bad, "not where it was signed for");
    file.mutated("batch-other-history", base, "flip 41", bad, "after another history");
    file.mutated("batch-other-device", base, "flip 1", bad, "another device's name");
    file.mutated("batch-link-flip", base, "flip 500", bad, "a changed bit in the second link");
    let turned = [links[1].clone(), links[0].clone(), links[2].clone()];
    file.replaced("batch-out-of-order", base, &pack(device, tips[0], &turned), bad, "two links in another order");
    let missing = [links[0].clone(), links[2].clone()];
    file.replaced("batch-gap", base, &pack(device, tips[0], &missing), bad, "a link was taken out");
    let again = [links[0].clone(), links[0].clone()];
    file.replaced("batch-replayed", base, &pack(device, tips[0], &again), bad, "a link comes twice");
}

pub(crate) fn receipt() -> File {
    let mut file =
        File::new("receipt", "Receipts (R108, R109). `own`: the hashes of the device's chain, from position 0.");
    let (tips, _) = links(3);
    let receipt = world::receipt(tips[2]);
    let sign = |receipt: &Receipt| framed(Kind::Receipt, &ok(codec::encode(receipt)), &[RECEIPT]);
    let own = tips.iter().map(|tip| hex(&tip.hash)).collect::<Vec<_>>().join(" ");
    file.case("valid", "through the second of three links")
        .with("object", "receipt")
        .with("trusted", "root/valid")
        .with("device", &num(world::device()))
        .with("chain", &num(world::chain()))
        .with("own", &own)
        .hex(&sign(&receipt))
        .expect("ok");
    let payload = ok(codec::encode(&receipt));
    let common = Signed {
        base: "receipt/valid",
        kind: Kind::Receipt,
        payload: &payload,
        by: &[RECEIPT],
        limit: limits::RECEIPT_BYTES_MAX,
        names_own_keys: false,
        prefix: "",
    };
    common.refusals(&mut file);
    let mut variant = |name: &str, through: Tip, expect: &str, note: &str| {
        file.replaced(name, "receipt/valid", &sign(&Receipt { through, ..receipt.clone() }), expect, note);
    };
    variant("everything", tips[3], "ok", "through the last link");
    variant("nothing", tips[0], "ok", "the server holds nothing of this chain");
    variant("gap", Tip { seq: 4, ..tips[3] }, "gap", "beyond what the device wrote");
    variant("fork", Tip { hash: [0; 32], ..tips[2] }, "fork", "another event at that place");
    variant("fork-by-position", Tip { seq: 1, ..tips[2] }, "fork", "the right hash at the wrong place");
    variant("wrong-chain", Tip { chain: ChainId([0; 16]), ..tips[2] }, "wrong-epoch", "another chain of this device");
    variant("last-position", Tip { seq: u64::MAX, ..tips[2] }, "gap", "the last position there is");
    file.moved("wrong-device", "receipt/valid", "wrong-device", "another device's receipt")
        .with("device", &"00".repeat(16));
    let grant = framed(Kind::Receipt, &payload, &[world::AUTHORITY]);
    file.replaced("wrong-role", "receipt/valid", &grant, "unknown-key", "signed by the device authority");
    file
}

pub(crate) fn bundle() -> File {
    let mut file =
        File::new("bundle", "The frame of bundle files (R110 to R113); what is inside is verified as its own kind.");
    let requests = [Request::Beat(Text::lossy(SCOPE)), Request::Root(1), Request::Grant];
    let mut bytes = bundle::begin();
    for (request, body) in requests.iter().zip([&b"beat"[..], b"root", b""]) {
        ok(bundle::push(&mut bytes, request, body));
    }
    file.case("valid", "three entries, one of them empty")
        .with("object", "bundle")
        .with("paths", "/v1/grant /v1/root/1 /v1/scope/ambulance/beat")
        .hex(&bytes)
        .expect("ok");
    let base = "bundle/valid";
    file.mutated("no-entries", base, "truncate 12", "ok", "a bundle of nothing").with("paths", "");
    file.mutated("wrong-kind", base, "flip 0", "wrong-kind", "another file");
    file.mutated("no-format", base, "truncate 11", "truncated", "ends before the format");
    file.mutated("unsupported-format", base, "set 11 02", "unsupported-format", "the next format version");
    for (name, length) in [("cut-length", 13), ("cut-path", 20), ("cut-body-length", 40), ("cut-body", 43)] {
        file.mutated(name, base, &format!("truncate {length}"), "truncated", "ends inside an entry");
    }
    file.mutated("trailing", base, "append 00", "truncated", "a byte more begins another entry");
    file.mutated("not-a-path", base, "flip 15", "malformed", "a path that is no request");
    file.mutated("not-utf8", base, "set 15 ff", "malformed", "a path that is not text");
    file.mutated("huge-entry", base, "set 38 ffffffff", "too-large", "an entry longer than its object may be");
    let note = "one byte over the limit of a beat";
    file.mutated("large-entry", base, "set 38 00000401", "too-large", note);
    let grow = format!("grow {}", limits::BUNDLE_BYTES_MAX + 1);
    file.mutated("too-large", base, &grow, "too-large", "one byte over the limit of a bundle");
    let mut twice = bytes;
    ok(bundle::push(&mut twice, &requests[1], b"another root"));
    file.replaced("repeated", base, &twice, "out-of-order", "two answers to one request");
    let upper = [&bundle::begin()[..], b"\x00\x49/v1/head/", "AB".repeat(32).as_bytes(), b"\0\0\0\0"].concat();
    file.replaced("second-name", base, &upper, "malformed", "upper-case hexadecimal would be a second name");
    file
}
