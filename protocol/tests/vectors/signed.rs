//! The refusals that every signed object has in common: frame, kind, format, signatures, length.
//! It must not know any payload.

use cpis_protocol::sign::{self, Kind};

use crate::common::world::{STRANGER, framed};
use crate::text::File;

/// How the valid case of a signed object was made.
pub(crate) struct Signed<'a> {
    pub(crate) base: &'a str,
    pub(crate) kind: Kind,
    pub(crate) payload: &'a [u8],
    pub(crate) by: &'a [u8],
    pub(crate) limit: usize,
    /// The keys are inside, so that the payload is decoded once before the signatures are checked.
    pub(crate) names_own_keys: bool,
    /// A prefix of the case names.
    pub(crate) prefix: &'a str,
}

impl Signed<'_> {
    /// Adds the common refusals.
    pub(crate) fn refusals(&self, file: &mut File) {
        self.frames(file);
        self.signatures(file);
    }

    fn mutated(&self, file: &mut File, name: &str, mutation: &str, expect: &str, note: &str) {
        file.mutated(&format!("{}{name}", self.prefix), self.base, mutation, expect, note);
    }

    fn replaced(&self, file: &mut File, name: &str, bytes: &[u8], expect: &str, note: &str) {
        file.replaced(&format!("{}{name}", self.prefix), self.base, bytes, expect, note);
    }

    fn frames(&self, file: &mut File) {
        let length = 3 + 72 * self.by.len() + self.payload.len();
        let other = if self.kind == Kind::Beat { "set 0 03" } else { "set 0 02" };
        let early = |code: &'static str| if self.names_own_keys { code } else { "bad-signature" };
        self.mutated(file, "empty", "truncate 0", "truncated", "no bytes at all");
        self.mutated(file, "wrong-kind", other, "wrong-kind", "the kind byte of another object");
        self.mutated(file, "unknown-kind", "set 0 7f", "wrong-kind", "a kind byte that nothing has");
        self.mutated(file, "unsupported-format", "set 1 02", "unsupported-format", "the next format version");
        let later = format!("set 1 02; truncate {}", length - 1);
        let note = "the next format version, whose payload this one could not read";
        self.mutated(file, "unreadable-format", &later, "unsupported-format", note);
        self.mutated(file, "truncated-frame", "truncate 2", "truncated", "ends before the number of signatures");
        self.mutated(file, "truncated-signature", "truncate 40", "truncated", "ends inside the first signature");
        let cut = format!("truncate {}", length - 1);
        self.mutated(file, "truncated-payload", &cut, early("truncated"), "the last byte is missing");
        self.mutated(file, "trailing-byte", "append 00", early("trailing-bytes"), "one byte more than was signed");
        let grow = format!("grow {}", self.limit + 1);
        self.mutated(file, "too-large", &grow, "too-large", "one byte over the limit of this object");
        self.mutated(file, "too-many-signatures", "set 2 11", "too-large", "claims seventeen signatures");
        let (_, short) = self.payload.split_last().unwrap_or_else(|| panic!("an empty payload"));
        let short = framed(self.kind, short, self.by);
        self.replaced(file, "signed-truncated", &short, "truncated", "rightly signed, but the payload is cut short");
        let long = framed(self.kind, &[self.payload, &[0]].concat(), self.by);
        self.replaced(
            file,
            "signed-trailing",
            &long,
            "trailing-bytes",
            "rightly signed, but the payload has a byte more",
        );
    }

    fn signatures(&self, file: &mut File) {
        let payload_at = 3 + 72 * self.by.len();
        let alone = if self.by.len() > 1 { "below-threshold" } else { "unknown-key" };
        let doubled = if self.by.len() > 1 { "below-threshold" } else { "ok" };
        let flip = format!("flip {payload_at} 02");
        self.mutated(file, "bad-payload", &flip, "bad-signature", "a changed bit in the payload");
        self.mutated(
            file,
            "bad-signature",
            "flip 11",
            "bad-signature",
            "a changed bit in the first half of a signature",
        );
        self.mutated(
            file,
            "bad-signature-end",
            "flip 74 80",
            "bad-signature",
            "the highest bit of a signature's scalar",
        );
        self.mutated(file, "unknown-key-id", "flip 3", alone, "the first signature's key id names nobody");
        let bare = sign::frame(self.kind, self.payload);
        self.replaced(file, "no-signature", &bare, "unknown-key", "a frame without signatures");
        let stranger = framed(self.kind, self.payload, &[STRANGER]);
        self.replaced(file, "stranger", &stranger, "unknown-key", "signed by a key that nobody named");
        let both = framed(self.kind, self.payload, &[self.by, &[STRANGER]].concat());
        self.replaced(file, "stranger-beside", &both, "ok", "a further signature by a stranger is ignored");
        let one = framed(self.kind, self.payload, &self.by[..1]);
        let pair = &one[3..75];
        let twice = [&[one[0], one[1], 2], pair, pair, self.payload].concat();
        self.replaced(file, "one-key-twice", &twice, doubled, "the same signature twice counts once");
    }
}
