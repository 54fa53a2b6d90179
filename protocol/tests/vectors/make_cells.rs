//! The cases of cells, manifests, chunks and deltas.
//! It must not decide an expectation by running the code under test: each is written by hand.

use cpis_protocol::cell::{Cell, CellKind, FeedKey, LookupPrf as _};
use cpis_protocol::id::{BlindId, hex};
use cpis_protocol::limits;
use cpis_protocol::query::{Path, Token};
use cpis_protocol::replica;
use cpis_protocol::seal::Key;
use cpis_protocol::tree::Manifest;

use crate::common::feed::{FEED_KEY, FeedLog, join, record, token_value};
use crate::common::{SeedRng, ok};
use crate::make_trust::num;
use crate::text::File;

const FEED: &str = "E09000033";

fn sealed() -> Cell {
    let place = FeedLog::new(FEED, 42).place;
    let secret = |who| {
        let token = Token::from_cache(Path::NhsNumber, token_value(who));
        ok(FeedKey(Key::from_bytes(FEED_KEY)).evaluate(&place, &token))
    };
    let slots = [(secret(1), 0), (secret(2), 1)];
    ok(Cell::put(&place, BlindId([9; 8]), 3, &record(1), &slots, &mut SeedRng::new(8)))
}

pub(crate) fn cell() -> File {
    let mut file =
        File::new("cell", "Cells (R50 to R55, R64 to R67). Without `slot` the runner finds the slot by its locator.");
    let cell = sealed();
    file.case("valid", "two people; the first asks")
        .with("object", "cell")
        .with("feed", FEED)
        .with("epoch", "42")
        .with("key", &hex(&FEED_KEY))
        .with("token", &hex(&token_value(1)))
        .with("index", "0")
        .with("record", "record/valid")
        .hex(cell.as_bytes())
        .expect("ok");
    file.moved("second-person", "cell/valid", "ok", "the second asks; index one")
        .with("token", &hex(&token_value(2)))
        .with("index", "1");
    for (kind, name) in [(CellKind::Remove, "remove"), (CellKind::Pad, "pad")] {
        let cell = Cell::filled(kind, BlindId([9; 8]), 4, &mut SeedRng::new(9));
        file.replaced(name, "cell/valid", cell.as_bytes(), "ok", "nothing to open").with("key", "-");
    }
    file.mutated("truncated", "cell/valid", "truncate 159", "truncated", "a byte short");
    file.mutated("trailing", "cell/valid", "append 00", "trailing-bytes", "a byte more");
    file.mutated("wrong-kind", "cell/valid", "set 0 21", "malformed", "a kind byte of another format");
    let slot = (0..4).find(|slot| {
        let token = Token::from_cache(Path::NhsNumber, token_value(1));
        let secret = FeedKey(Key::from_bytes(FEED_KEY)).evaluate(&FeedLog::new(FEED, 42).place, &token);
        secret.is_ok_and(|secret| cell.locators()[*slot] == secret.locator(0))
    });
    let slot = slot.unwrap_or_else(|| panic!("no slot"));
    file.moved("by-slot", "cell/valid", "ok", "the slot is named").with("slot", &num(slot));
    let base = "cell/by-slot";
    let closed = "does-not-open";
    file.moved("wrong-epoch", base, closed, "sealing is bound to the epoch").with("epoch", "43");
    file.moved("wrong-feed", base, closed, "sealing is bound to the feed").with("feed", "E10000016");
    file.moved("wrong-key", base, closed, "another feed key").with("key", &"12".repeat(32));
    file.moved("wrong-token", base, closed, "somebody else").with("token", &hex(&token_value(3)));
    file.moved("wrong-index", base, closed, "the pad is bound to the index").with("index", "1");
    file.moved("other-slot", base, closed, "a slot of somebody else").with("slot", &num((slot + 1) % 4));
    file.moved("no-slot", base, "malformed", "there are four slots").with("slot", "4");
    file.mutated("other-blind", base, "flip 1", closed, "bound to the blind id");
    file.mutated("other-version", base, "flip 12", closed, "bound to the sequence");
    file.mutated("put-as-remove", base, "set 0 12", closed, "bound to the kind");
    let wrapped = 13 + slot * 22 + 6;
    file.mutated("wrapped-key", base, &format!("flip {wrapped}"), closed, "a changed bit in the wrapped key");
    file.mutated("record", base, "flip 101", closed, "a changed bit in the sealed record");
    file.mutated("tag", base, "flip 159 80", closed, "a changed bit in the tag");
    let locator = 13 + slot * 22;
    let note = "opens by slot: a locator only names; that nobody changed it is what the state root proves";
    file.mutated("locator", base, &format!("flip {locator}"), "ok", note);
    cells(&mut file, &cell);
    file
}

fn cells(file: &mut File, cell: &Cell) {
    let run = [cell.as_bytes().as_slice(); 3].concat();
    file.case("run", "three cells").with("object", "cells").with("count", "3").hex(&run).expect("ok");
    file.mutated("run-empty", "cell/run", "truncate 0", "ok", "no cells").with("count", "0");
    file.mutated("run-truncated", "cell/run", "truncate 479", "truncated", "a byte short");
    file.mutated("run-trailing", "cell/run", "append 11", "truncated", "a byte more begins another cell");
    file.mutated("run-malformed", "cell/run", "set 160 00", "malformed", "the second is not a cell");
    let grow = format!("grow {}", limits::OBJECT_BYTES_MAX + 1);
    file.mutated("run-too-large", "cell/run", &grow, "too-large", "one byte over the limit");
}

/// A feed of `count` live cells.
fn feed(count: u64) -> FeedLog {
    let mut log = FeedLog::new(FEED, 42);
    for who in 1..=count {
        log.fill(CellKind::Put, who);
    }
    log
}

pub(crate) fn snapshot() -> File {
    let mut file = File::new("snapshot", "Manifests (R90 to R92) and chunks (R93 to R95) of a feed of 260 cells.");
    let log = feed(260);
    let manifest = log.manifest(260).unwrap_or_default();
    file.case("manifest", "two chunks: 256 cells and 4")
        .with("object", "manifest")
        .with("count", "260")
        .with("state-root", &hex(&log.root(260)))
        .hex(&manifest)
        .expect("ok");
    let base = "snapshot/manifest";
    file.mutated("manifest-trailing", base, "append 00", "malformed", "not a whole hash");
    file.mutated("manifest-cut", base, "truncate 32", "wrong-count", "a hash short");
    file.mutated("manifest-ragged", base, "truncate 63", "malformed", "half a hash");
    file.mutated("manifest-changed", base, "flip 40", "wrong-state-root", "a changed hash");
    let swapped = [&manifest[32..], &manifest[..32]].concat();
    file.replaced("manifest-swapped", base, &swapped, "wrong-state-root", "hashes in another order");
    file.moved("manifest-other-state", base, "wrong-state-root", "another feed's, epoch's or position's state")
        .with("state-root", &hex(&feed(261).root(261)));
    file.moved("manifest-other-count", base, "wrong-count", "a state with more chunks").with("count", "513");
    let vast = num(limits::FEED_CELLS_MAX + 1);
    file.moved("manifest-vast", base, "too-large", "more cells than a feed may have").with("count", &vast);
    let grow = format!("grow {}", limits::MANIFEST_BYTES_MAX + 1);
    file.mutated("manifest-too-large", base, &grow, "too-large", "one byte over the limit");
    file.replaced("manifest-empty", base, &[], "ok", "an empty feed: the hash of nothing (RFC 6962 2.1)")
        .with("count", "0")
        .with("state-root", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    chunk(&mut file, &log);
    file
}

pub(crate) fn bounds() -> File {
    let about = "Bounds (R250 to R253) of a feed of 260 cells, and the chunks that who has `own` without `lost` need not fetch.";
    let mut file = File::new("bounds", about);
    let log = feed(260);
    let own = join(&log.live(260));
    file.case("own", "the live set").with("object", "cells").with("count", "260").hex(&own).expect("ok");
    let before = Cell::filled(CellKind::Put, BlindId([0; 8]), 1, &mut SeedRng::new(5));
    file.case("own-before", "a record before the first bound, which was removed since")
        .with("object", "cells")
        .with("count", "1")
        .hex(before.as_bytes())
        .expect("ok");
    file.case("valid", "the first blind id of each chunk; the last cell of the first chunk is lost: its range differs")
        .with("object", "bounds")
        .with("manifest", "snapshot/manifest")
        .with("own", "bounds/own")
        .with("lost", "255")
        .with("held", "1")
        .hex(&log.bounds(260).unwrap_or_default())
        .expect("ok");
    let base = "bounds/valid";
    file.moved("whole", base, "ok", "nothing is lost").with("lost", "-").with("held", "0 1");
    file.moved("last-lost", base, "ok", "the second range differs").with("lost", "259").with("held", "0");
    file.moved("both-lost", base, "ok", "both ranges differ").with("lost", "0 256").with("held", "-");
    file.moved("removed-before", base, "ok", "what lies before the first bound is of no range")
        .with("own", "bounds/own-before bounds/own")
        .with("lost", "-")
        .with("held", "0 1");
    file.mutated("lie", base, "flip 15 03", "ok", "a bound too far right: two ranges differ that are equal")
        .with("lost", "-")
        .with("held", "-");
    file.mutated("ragged", base, "truncate 15", "malformed", "not a whole blind id");
    file.mutated("short", base, "truncate 8", "wrong-count", "a chunk without a bound");
    file.mutated("long", base, "append ffffffffffffffff", "wrong-count", "a bound without a chunk");
    file.mutated("repeated", base, "set 8 0000000000000001", "out-of-order", "one bound twice");
    file.mutated("turned", base, "set 0 ff", "out-of-order", "not by blind id");
    let grow = format!("grow {}", limits::BOUNDS_BYTES_MAX + 1);
    file.mutated("too-large", base, &grow, "too-large", "one byte over the limit");
    file
}

fn chunk(file: &mut File, log: &FeedLog) {
    let live = log.live(260);
    file.case("chunk", "the last four cells")
        .with("object", "chunk")
        .with("manifest", "snapshot/manifest")
        .with("index", "1")
        .with("seq", "260")
        .hex(&join(&live[256..]))
        .expect("ok");
    let base = "snapshot/chunk";
    file.mutated("chunk-short", base, "truncate 480", "wrong-count", "a cell is missing");
    file.mutated("chunk-truncated", base, "truncate 639", "truncated", "a byte short");
    file.mutated("chunk-trailing", base, "append 00", "truncated", "a byte more begins another cell");
    file.mutated("chunk-changed", base, "flip 20", "wrong-hash", "a changed bit, where no tag would tell");
    file.mutated("chunk-not-cells", base, "set 0 00", "malformed", "not a cell");
    file.moved("chunk-other", base, "wrong-count", "the other chunk's place").with("index", "0");
    file.moved("chunk-beyond", base, "wrong-count", "there is no third chunk").with("index", "2");
    let turned = [&live[257..258], &live[256..257], &live[258..]].concat();
    file.replaced("chunk-turned", base, &join(&turned), "wrong-hash", "cells in another order");
    let foreign: Vec<_> = FeedLog::new("E10000016", 43).chunk_of(4);
    file.replaced("chunk-other-feed", base, &join(&foreign), "wrong-hash", "cells of another feed");
    let grow = format!("grow {}", limits::OBJECT_BYTES_MAX + 1);
    file.mutated("chunk-too-large", base, &grow, "too-large", "one byte over the limit");
    file.moved("chunk-later", base, "malformed", "a cell from after the position").with("seq", "259");
    // A publisher that signs nonsense: the hashes are right, the live set is not one.
    let cells = |kinds: [(CellKind, u64); 2]| -> Vec<Cell> {
        let mut rng = SeedRng::new(77);
        let filled = |(kind, who): (CellKind, u64)| Cell::filled(kind, BlindId(who.to_be_bytes()), 1, &mut rng);
        kinds.into_iter().map(filled).collect()
    };
    let mut published = |name: &str, cells: &[Cell], expect: &str, note: &str| {
        let (count, root) = replica::state_root(cells);
        let manifest = Manifest::of(&replica::leaves(cells)).to_bytes();
        file.case(&format!("{name}-manifest"), "signed by a publisher that errs")
            .with("object", "manifest")
            .with("count", &num(count))
            .with("state-root", &hex(&root))
            .hex(&manifest)
            .expect("ok");
        file.case(name, note)
            .with("object", "chunk")
            .with("manifest", &format!("snapshot/{name}-manifest"))
            .with("index", "0")
            .with("seq", "9")
            .hex(&join(cells))
            .expect(expect);
    };
    let (put, remove) = (CellKind::Put, CellKind::Remove);
    published("live", &cells([(put, 1), (put, 2)]), "ok", "the same road, nothing wrong");
    published("live-remove", &cells([(put, 1), (remove, 2)]), "malformed", "a REMOVE is never in a live set");
    published("live-unsorted", &cells([(put, 2), (put, 1)]), "out-of-order", "not by blind id");
    published("live-repeated", &cells([(put, 1), (put, 1)]), "out-of-order", "one blind id twice");
}

pub(crate) fn delta() -> File {
    let mut file =
        File::new("delta", "Deltas (R96 to R99), applied to the live set `live` and compared with the state.");
    let mut log = feed(4);
    file.case("live", "positions 1 to 4: the live set before")
        .with("object", "cells")
        .with("count", "4")
        .hex(&join(&log.live(4)))
        .expect("ok");
    log.fill(CellKind::Put, 2);
    log.fill(CellKind::Remove, 3);
    log.fill(CellKind::Pad, 999);
    let bytes = log.delta(4, 7).unwrap_or_default();
    file.case("valid", "one replaced, one removed, one pad")
        .with("object", "delta")
        .with("from", "4")
        .with("to", "7")
        .with("live", "delta/live")
        .with("count", "3")
        .with("state-root", &hex(&log.root(7)))
        .hex(&bytes)
        .expect("ok");
    let base = "delta/valid";
    file.mutated("short", base, "truncate 320", "wrong-count", "the last cell is missing");
    file.mutated("long", base, "append 13", "truncated", "a byte more begins another cell");
    file.mutated("truncated", base, "truncate 479", "truncated", "a byte short");
    file.mutated("malformed", base, "set 0 00", "malformed", "not a cell");
    let grow = format!("grow {}", limits::OBJECT_BYTES_MAX + 1);
    file.mutated("too-large", base, &grow, "too-large", "one byte over the limit");
    file.moved("gap", base, "gap", "a device that is one step further back").with("from", "3").with("to", "6");
    file.moved("replayed", base, "gap", "a device that has this delta already").with("from", "7").with("to", "10");
    let turned = [&bytes[160..320], &bytes[..160], &bytes[320..]].concat();
    file.replaced("out-of-order", base, &turned, "gap", "not in log order");
    let repeated = [&bytes[..160], &bytes[..160], &bytes[320..]].concat();
    file.replaced("repeated", base, &repeated, "gap", "one position twice, another missing");
    file.mutated("changed", base, "flip 20", "wrong-state-root", "a changed bit, where no tag would tell");
    file.mutated("hidden", base, "set 0 13", "wrong-state-root", "a change disguised as a pad");
    file.mutated("removed", base, "set 0 12", "wrong-count", "a change disguised as a removal");
    let mut other = FeedLog::new(FEED, 43);
    for _ in 0..7 {
        other.fill(CellKind::Put, 2);
    }
    let other = other.delta(4, 7).unwrap_or_default();
    file.replaced("other-epoch", base, &other, "wrong-count", "the same positions of another epoch's log");
    file.moved("other-state", base, "wrong-state-root", "a head that says otherwise")
        .with("state-root", &"00".repeat(32));
    file.moved("other-count", base, "wrong-count", "a head that counts otherwise").with("count", "4");
    file
}
