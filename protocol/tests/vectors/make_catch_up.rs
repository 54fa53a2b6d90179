//! The cases of the combined exchange: question and reply.
//! It must not decide an expectation by running the code under test: each is written by hand.

use cpis_protocol::catch_up::{self, CatchUp, Part};
use cpis_protocol::limits;
use cpis_protocol::message::Request;

use crate::common::ok;
use crate::text::File;

pub(crate) fn question() -> File {
    let mut file = File::new("catch-up", "The combined question (R230, R231).");
    let ask = CatchUp {
        root_version: 7,
        head: Some([0xab; 32]),
        grant: true,
        cells: true,
        report: vec![1, 2],
        audit: vec![3, 4, 5],
    };
    file.case("valid", "with everything").with("object", "catch-up").hex(&ok(ask.to_bytes())).expect("ok");
    let base = "catch-up/valid";
    let first = CatchUp { root_version: 1, head: None, grant: false, report: vec![], audit: vec![], ..ask };
    file.replaced("first", base, &ok(first.to_bytes()), "ok", "a device without a copy, and nothing to say");
    file.mutated("empty", base, "truncate 0", "truncated", "no format");
    file.mutated("format-2", base, "set 0 02", "unsupported-format", "a later format");
    file.mutated("truncated", base, "truncate 50", "truncated", "ends in the report");
    file.mutated("trailing", base, "append 00", "trailing-bytes", "a byte more");
    file.mutated("no-boolean", base, "set 38 02", "malformed", "whether a grant is wanted is 0 or 1");
    file.mutated("no-option", base, "set 5 02", "malformed", "a head is there or not");
    let grow = format!("grow {}", limits::CATCH_UP_ASK_BYTES_MAX + 2);
    file.mutated("too-large", base, &grow, "too-large", "over the limit");
    file
}

pub(crate) fn reply() -> File {
    let mut file = File::new("caught-up", "The combined reply (R232 to R234). `paths` are those of its whole objects.");
    let mut bytes = catch_up::begin();
    let root = Request::Root(8);
    for (part, body) in [
        (Part::Receipt, &b"receipt"[..]),
        (Part::Report, b"report"),
        (Part::Named(&root), b"root"),
        (Part::Grant, b"grant"),
        (Part::Beat, b"beat"),
        (Part::Head, b"head"),
        (Part::Reference, b"reference"),
    ] {
        ok(catch_up::push(&mut bytes, &part, body));
    }
    let feed = "E09000033".parse().unwrap_or(cpis_protocol::id::FeedId::EMPTY);
    let delta = Request::Delta { feed, epoch: 42, from: 0, to: 1 };
    ok(catch_up::push(&mut bytes, &Part::Named(&delta), &[9; 8]));
    catch_up::end(&mut bytes);
    let paths = format!(
        "/v1/root/8 {} {} {}",
        Request::Head(cpis_protocol::digest::sha256(b"head")).path(),
        Request::Reference(cpis_protocol::digest::sha256(b"reference")).path(),
        delta.path()
    );
    file.case("valid", "every kind of part")
        .with("object", "caught-up")
        .with("paths", &paths)
        .with("whole", "true")
        .hex(&bytes)
        .expect("ok");
    let base = "caught-up/valid";
    let end = bytes.len();
    let cut = format!("truncate {}", end - 3);
    let without = paths.rsplit_once(' ').map_or("", |(rest, _)| rest).to_owned();
    file.mutated("cut", base, &cut, "ok", "R233: in the middle of the delta, whose beginning counts")
        .with("paths", &without)
        .with("whole", "false")
        .with("begun", &delta.path());
    file.mutated("cut-in-a-length", base, "truncate 3", "ok", "R233: before any body")
        .with("paths", "")
        .with("whole", "false");
    file.mutated("no-end", base, &format!("truncate {}", end - 1), "ok", "R233: only the end is missing")
        .with("whole", "false");
    file.mutated("empty", base, "truncate 0", "truncated", "no format");
    file.mutated("format-2", base, "set 0 02", "unsupported-format", "a later format");
    file.mutated("unknown-kind", base, "set 1 08", "malformed", "no such part");
    file.mutated("trailing", base, "append 00", "trailing-bytes", "a byte after the end");
    file.mutated("endless", base, "set 2 00000401", "too-large", "a receipt longer than one can be, before it is read");
    let twice = [&bytes[..end - 1], &bytes[1..]].concat();
    file.replaced("twice", base, &twice, "out-of-order", "each part once");
    let named = |path: &str| {
        let mut out = catch_up::begin();
        out.extend([7, path.len() as u8]);
        out.extend(path.as_bytes());
        out.extend([0, 0, 0, 0, 0]);
        out
    };
    file.replaced("named-grant", base, &named("/v1/grant"), "malformed", "R234: a grant may change");
    file.replaced("named-beat", base, &named("/v1/scope/ambulance/beat"), "malformed", "R234: so may a beat");
    file.replaced("no-path", base, &named("/v1/root/07"), "malformed", "R130");
    let grow = format!("grow {}", limits::CATCH_UP_BYTES_MAX + 1);
    file.mutated("too-large", base, &grow, "too-large", "over the limit");
    file
}
