//! The combined exchange: where the device stands and what it has to say, against what it would ask for next.
//! It must not prove anything: each object of a reply is verified as if it had come by itself.
//!
//! Reply: format (1), then parts: kind (1); for kind 7 path length (1) and path; body length (u32, big endian); body.
//! A kind of zero ends it. A reply that stops before that was cut on the way: its whole parts are good.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::digest::{Hash, sha256};
use crate::message::Request;
use crate::{FORMAT, Refusal, codec, limits};

const END: u8 = 0;
const RECEIPT: u8 = 1;
const REPORT: u8 = 2;
const GRANT: u8 = 3;
const BEAT: u8 = 4;
const HEAD: u8 = 5;
const REFERENCE: u8 = 6;
const NAMED: u8 = 7;

/// What a device says when it asks for everything at once. Holds no identity of any person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatchUp {
    // R231
    /// The version of the trusted root: the reply holds those after it.
    pub root_version: u32,
    /// The hash of the head that the copy equals; the server knows every head, so this is the whole position.
    pub head: Option<Hash>,
    /// Whether a grant is wanted.
    pub grant: bool,
    /// Whether a newer head and its cells are wanted; not while an older one is still being completed.
    pub cells: bool,
    /// A [`crate::message::DeviceReport`], or nothing.
    pub report: Vec<u8>,
    /// An audit batch, or nothing.
    pub audit: Vec<u8>,
}

impl CatchUp {
    /// The body of the request.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when batch or report are larger than they may be.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Refusal> {
        let mut out = Vec::from([FORMAT]);
        out.extend_from_slice(&codec::encode(self)?);
        if out.len() > limits::CATCH_UP_ASK_BYTES_MAX { Err(Refusal::TooLarge) } else { Ok(out) }
    }

    /// Reads the body of the request.
    ///
    /// # Errors
    /// [`Refusal`]: `UnsupportedFormat`, and as the codec.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        // R230
        let (format, rest) = bytes.split_first().ok_or(Refusal::Truncated)?;
        if *format != FORMAT {
            return Err(Refusal::UnsupportedFormat);
        }
        codec::decode(rest, limits::CATCH_UP_ASK_BYTES_MAX)
    }
}

/// What a part of a reply is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part<'a> {
    /// The receipt for the batch that came with the question.
    Receipt,
    /// The reply to the report.
    Report,
    /// The grant, or the withdrawal in its place.
    Grant,
    /// The newest beat of the device's scope.
    Beat,
    /// The head that the beat names.
    Head,
    /// The reference data that the head names.
    Reference,
    /// Any other immutable object.
    Named(&'a Request),
}

/// Starts the bytes of a reply.
#[must_use]
pub fn begin() -> Vec<u8> {
    Vec::from([FORMAT])
}

/// Adds a part.
///
/// # Errors
/// [`Refusal::TooLarge`] when the body is longer than the reply to its request may be.
pub fn push(out: &mut Vec<u8>, part: &Part<'_>, body: &[u8]) -> Result<(), Refusal> {
    let (kind, limit) = match part {
        Part::Receipt => (RECEIPT, limits::RECEIPT_BYTES_MAX),
        Part::Report => (REPORT, limits::REPORT_BYTES_MAX),
        Part::Grant => (GRANT, limits::GRANT_BYTES_MAX),
        Part::Beat => (BEAT, limits::BEAT_BYTES_MAX),
        Part::Head => (HEAD, limits::HEAD_BYTES_MAX),
        Part::Reference => (REFERENCE, limits::REFERENCE_BYTES_MAX),
        Part::Named(request) => (NAMED, request.reply_bytes_max()),
    };
    let length = u32::try_from(body.len()).map_err(|_| Refusal::TooLarge)?;
    if body.len() > limit {
        return Err(Refusal::TooLarge);
    }
    out.push(kind);
    if let Part::Named(request) = part {
        let path = request.path();
        out.push(u8::try_from(path.len()).map_err(|_| Refusal::TooLarge)?);
        out.extend_from_slice(path.as_bytes());
    }
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(body);
    Ok(())
}

/// Ends the bytes of a reply.
pub fn end(out: &mut Vec<u8>) {
    out.push(END);
}

/// A reply, taken apart. Nothing in it is verified.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct CaughtUp {
    /// The receipt.
    pub receipt: Option<Vec<u8>>,
    /// The reply to the report.
    pub report: Option<Vec<u8>>,
    /// The grant or withdrawal.
    pub grant: Option<Vec<u8>>,
    /// The beat.
    pub beat: Option<Vec<u8>>,
    /// Immutable objects under the requests that they answer.
    pub objects: Vec<(Request, Vec<u8>)>,
    /// The object in the middle of which the reply was cut, and what came of it: its rest can be asked for.
    pub begun: Option<(Request, Vec<u8>)>,
    /// Whether the reply came to its end.
    pub is_whole: bool,
}

impl CaughtUp {
    /// Takes a reply apart.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Truncated`] when empty, [`Refusal::UnsupportedFormat`],
    /// [`Refusal::Malformed`] for a part that is none, [`Refusal::OutOfOrder`] for one that comes twice,
    /// [`Refusal::TrailingBytes`].
    pub fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > limits::CATCH_UP_BYTES_MAX {
            return Err(Refusal::TooLarge); // R232
        }
        let (format, mut rest) = bytes.split_first().ok_or(Refusal::Truncated)?;
        if *format != FORMAT {
            return Err(Refusal::UnsupportedFormat);
        }
        let mut reply = Self::default();
        while let Some((kind, after)) = rest.split_first() {
            if *kind == END {
                reply.is_whole = true;
                return if after.is_empty() { Ok(reply) } else { Err(Refusal::TrailingBytes) };
            }
            match Self::part(*kind, after)? {
                None => return Ok(reply),
                Some((name, body, length, after)) => {
                    if body.len() < length {
                        // R233: Cut on the way, as any reply may be.
                        if let Name::Named(request) = name {
                            reply.begun = Some((request, body.to_vec()));
                        }
                        return Ok(reply);
                    }
                    reply.keep(name, body.to_vec())?;
                    rest = after;
                }
            }
        }
        Ok(reply)
    }

    /// One part: what it is, what there is of its body, how long that ought to be, and the rest. `None` when the reply
    /// was cut before the body began.
    #[expect(clippy::type_complexity, reason = "four values that only `read` takes apart")]
    fn part(kind: u8, bytes: &[u8]) -> Result<Option<(Name, &[u8], usize, &[u8])>, Refusal> {
        let (name, limit, rest) = match kind {
            RECEIPT => (Name::Receipt, limits::RECEIPT_BYTES_MAX, bytes),
            REPORT => (Name::Report, limits::REPORT_BYTES_MAX, bytes),
            GRANT => (Name::Grant, limits::GRANT_BYTES_MAX, bytes),
            BEAT => (Name::Beat, limits::BEAT_BYTES_MAX, bytes),
            HEAD => (Name::Head, limits::HEAD_BYTES_MAX, bytes),
            REFERENCE => (Name::Reference, limits::REFERENCE_BYTES_MAX, bytes),
            NAMED => {
                let Some((length, rest)) = bytes.split_first() else { return Ok(None) };
                let Some((path, rest)) = rest.split_at_checked(usize::from(*length)) else { return Ok(None) };
                let path = core::str::from_utf8(path).map_err(|_| Refusal::Malformed)?;
                // R234: What may change is not named, or a stale one would pass for the answer to a later question.
                let request = Request::from_path(path).filter(Request::is_immutable).ok_or(Refusal::Malformed)?;
                let limit = request.reply_bytes_max();
                (Name::Named(request), limit, rest)
            }
            _ => return Err(Refusal::Malformed),
        };
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| Refusal::TooLarge)?;
        if length > limit {
            return Err(Refusal::TooLarge);
        }
        let (body, rest) = rest.split_at(length.min(rest.len()));
        Ok(Some((name, body, length, rest)))
    }

    fn keep(&mut self, name: Name, body: Vec<u8>) -> Result<(), Refusal> {
        let once = |slot: &mut Option<Vec<u8>>, body| {
            if slot.replace(body).is_some() { Err(Refusal::OutOfOrder) } else { Ok(()) }
        };
        let request = match name {
            Name::Receipt => return once(&mut self.receipt, body),
            Name::Report => return once(&mut self.report, body),
            Name::Grant => return once(&mut self.grant, body),
            Name::Beat => return once(&mut self.beat, body),
            Name::Head => Request::Head(sha256(&body)),
            Name::Reference => Request::Reference(sha256(&body)),
            Name::Named(request) => request,
        };
        if self.objects.iter().any(|(known, _)| *known == request) {
            return Err(Refusal::OutOfOrder);
        }
        self.objects.push((request, body));
        Ok(())
    }
}

enum Name {
    Receipt,
    Report,
    Grant,
    Beat,
    Head,
    Reference,
    Named(Request),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> Vec<u8> {
        let mut out = begin();
        let delta = Request::Delta { feed: "E1".parse().unwrap_or(crate::id::FeedId::EMPTY), epoch: 1, from: 0, to: 1 };
        push(&mut out, &Part::Receipt, b"receipt").unwrap_or_else(|e| panic!("{e}"));
        push(&mut out, &Part::Beat, b"beat").unwrap_or_else(|e| panic!("{e}"));
        push(&mut out, &Part::Head, b"head").unwrap_or_else(|e| panic!("{e}"));
        push(&mut out, &Part::Named(&delta), &[7; 160]).unwrap_or_else(|e| panic!("{e}"));
        end(&mut out);
        out
    }

    #[test]
    fn whole_and_cut_at_every_byte() {
        let bytes = reply();
        let whole = CaughtUp::read(&bytes).unwrap_or_else(|e| panic!("{e}"));
        assert!(whole.is_whole);
        assert_eq!(whole.objects.len(), 2);
        assert_eq!(whole.objects[0].0, Request::Head(sha256(b"head")));
        for length in 1..bytes.len() {
            let cut = CaughtUp::read(&bytes[..length]).unwrap_or_else(|e| panic!("{length}: {e}"));
            assert!(!cut.is_whole);
            assert!(cut.objects.iter().all(|object| whole.objects.contains(object)), "{length}");
            if let Some((request, body)) = cut.begun {
                let (_, all) = whole.objects.iter().find(|(r, _)| *r == request).unwrap_or_else(|| panic!("{length}"));
                assert!(body.len() < all.len() && all.starts_with(&body));
            }
        }
    }

    #[test]
    fn refusals() {
        let bytes = reply();
        assert_eq!(CaughtUp::read(&[]), Err(Refusal::Truncated));
        assert_eq!(CaughtUp::read(&[2]), Err(Refusal::UnsupportedFormat));
        assert_eq!(CaughtUp::read(&[1, 8]), Err(Refusal::Malformed));
        assert_eq!(CaughtUp::read(&[&bytes[..], &[0]].concat()), Err(Refusal::TrailingBytes));
        let twice = [&bytes[..bytes.len() - 1], &bytes[1..]].concat();
        assert_eq!(CaughtUp::read(&twice), Err(Refusal::OutOfOrder));
        assert_eq!(CaughtUp::read(&[1, BEAT, 0xff, 0xff, 0xff, 0xff]), Err(Refusal::TooLarge));
        let path = b"/v1/grant";
        let named = [&[1, NAMED, path.len() as u8][..], path, &[0, 0, 0, 0]].concat();
        assert_eq!(CaughtUp::read(&named), Err(Refusal::Malformed), "R234");
        let mut out = begin();
        assert_eq!(push(&mut out, &Part::Beat, &[0; 2000]), Err(Refusal::TooLarge));
    }

    #[test]
    fn question() {
        let ask = CatchUp {
            root_version: 3,
            head: Some([9; 32]),
            grant: false,
            cells: true,
            report: Vec::new(),
            audit: Vec::from([1, 2]),
        };
        let bytes = ask.to_bytes().unwrap_or_default();
        assert_eq!(bytes.len(), 1 + 4 + 33 + 2 + 8 + 10);
        assert_eq!(CatchUp::from_bytes(&bytes), Ok(ask.clone()));
        assert_eq!(CatchUp::from_bytes(&bytes[..20]), Err(Refusal::Truncated));
        assert_eq!(CatchUp::from_bytes(&[&[2], &bytes[1..]].concat()), Err(Refusal::UnsupportedFormat));
        let large = CatchUp { audit: Vec::from_iter(core::iter::repeat_n(0, limits::CATCH_UP_ASK_BYTES_MAX)), ..ask };
        assert_eq!(large.to_bytes(), Err(Refusal::TooLarge));
    }
}
