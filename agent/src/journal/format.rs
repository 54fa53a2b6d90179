//! The journal's bytes on disk: segment header and record frame. Pure: no file is touched here.
//! It must not accept a header or record whose checksum is wrong, nor change a layout without a new format number.
//!
//! Segment header, [`HEADER_BYTES`] (integers little endian, as the protocol's codec writes them):
//!
//! | at | bytes | field |
//! |--:|--:|---|
//! | 0 | 8 | magic `CPISJRNL` |
//! | 8 | 1 | format version, 1 |
//! | 9 | 16 | device |
//! | 25 | 56 | tip before the first link of this segment: chain (16), seq (8), hash (32) |
//! | 81 | 56 | tip that the last receipt covered when this segment was begun |
//! | 137 | 4 | CRC-32 of the 137 bytes before |
//!
//! Record:
//!
//! | at | bytes | field |
//! |--:|--:|---|
//! | 0 | 4 | length of the body |
//! | 4 | 1 | kind: 1 link, 2 receipt, 3 note |
//! | 5 | 4 | where, in this file, the group begins that this record was written and synced with |
//! | 9 | 4 | CRC-32 of the 9 bytes before and the body |
//! | 13 | n | body |
//!
//! | kind | body |
//! |---|---|
//! | link | the link (316), the hash of the chain after it (32) |
//! | receipt | the tip that it covers (56), the signed receipt as received (at most 1,024) |
//! | note | the tip at which the chain was closed (56), the chain that follows it (16), 1 if it was forced (1) |
//!
//! After the last record there are zeros, reserved ahead. The group field is what tells a torn write from damage: a
//! group is written only after the one before it is on stable storage, so a bad record is a torn tail only as long as
//! every whole record behind it belongs to the same group.

use cpis_protocol::audit::{LINK_BYTES, Link, Tip};
use cpis_protocol::codec;
use cpis_protocol::digest::Hash;
use cpis_protocol::id::{ChainId, DeviceId};
use cpis_protocol::{Refusal, limits};
use serde::{Deserialize, Serialize};

use crate::durable;

/// The format version of this build.
pub(super) const FORMAT: u8 = 1;
const MAGIC: [u8; 8] = *b"CPISJRNL";
pub(super) const TIP_BYTES: usize = 16 + 8 + 32;
/// The size of a segment header.
pub(super) const HEADER_BYTES: usize = 8 + 1 + 16 + 2 * TIP_BYTES + 4;
/// The size of a record without its body.
pub(super) const FRAME_BYTES: usize = 4 + 1 + 4 + 4;
/// The size of the body of a link record.
pub(super) const LINK_BODY_BYTES: usize = LINK_BYTES + 32;
/// The size of a whole link record.
pub(super) const LINK_RECORD_BYTES: usize = FRAME_BYTES + LINK_BODY_BYTES;
const RECEIPT_BODY_MAX: usize = TIP_BYTES + limits::RECEIPT_BYTES_MAX;
const NOTE_BODY_BYTES: usize = TIP_BYTES + 16 + 1;

/// The first bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    magic: [u8; 8],
    format: u8,
    pub(super) device: DeviceId,
    /// The tip before the first link.
    pub(super) before: Tip,
    /// What the last receipt covered.
    pub(super) acknowledged: Tip,
}

/// Why a header is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// Not a header, or a changed one.
    Damaged,
    /// A header, of a format that this build does not read.
    Format(u8),
}

impl Header {
    pub(super) const fn new(device: DeviceId, before: Tip, acknowledged: Tip) -> Self {
        Self { magic: MAGIC, format: FORMAT, device, before, acknowledged }
    }

    pub(super) fn to_bytes(self) -> Result<Vec<u8>, Refusal> {
        let mut bytes = codec::encode(&self)?;
        bytes.extend_from_slice(&durable::checksum(&[&bytes]).to_le_bytes());
        Ok(bytes)
    }

    pub(super) fn read(file: &[u8]) -> Result<Self, BadHeader> {
        let header = file.get(..HEADER_BYTES).ok_or(BadHeader::Damaged)?;
        let (fields, checksum) = header.split_last_chunk::<4>().ok_or(BadHeader::Damaged)?;
        match fields.split_first_chunk::<8>() {
            Some((&MAGIC, [FORMAT, ..])) => {}
            Some((&MAGIC, [other, ..])) => return Err(BadHeader::Format(*other)),
            _ => return Err(BadHeader::Damaged),
        }
        if durable::checksum(&[fields]) != u32::from_le_bytes(*checksum) {
            return Err(BadHeader::Damaged);
        }
        codec::decode(fields, HEADER_BYTES).map_err(|_| BadHeader::Damaged)
    }
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    /// An audit link and the hash of the chain after it.
    Link(Box<Link>, Hash),
    /// The server's acknowledgement up to a tip, with the signed bytes as evidence.
    Receipt(Tip, Vec<u8>),
    /// The chain was closed here and another begun.
    Note {
        /// The end of the closed chain.
        closed: Tip,
        /// The chain that follows.
        next: ChainId,
        /// Closed although not all was acknowledged.
        forced: bool,
    },
}

impl Record {
    const fn kind(&self) -> u8 {
        match self {
            Self::Link(..) => 1,
            Self::Receipt(..) => 2,
            Self::Note { .. } => 3,
        }
    }

    fn body(&self) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Link(link, hash) => Ok([&link.as_bytes()[..], &hash[..]].concat()),
            Self::Receipt(through, signed) => Ok([codec::encode(through)?, signed.clone()].concat()),
            Self::Note { closed, next, forced } => codec::encode(&(closed, next, forced)),
        }
    }

    fn from_body(kind: u8, body: &[u8]) -> Result<Self, Refusal> {
        match kind {
            1 => {
                let (link, hash) = body.split_last_chunk::<32>().ok_or(Refusal::Truncated)?;
                Ok(Self::Link(Box::new(Link::from_bytes(link)?), *hash))
            }
            2 => {
                let (through, signed) = body.split_at_checked(TIP_BYTES).ok_or(Refusal::Truncated)?;
                Ok(Self::Receipt(codec::decode(through, TIP_BYTES)?, signed.to_vec()))
            }
            3 => {
                let (closed, next, forced) = codec::decode(body, NOTE_BODY_BYTES)?;
                Ok(Self::Note { closed, next, forced })
            }
            _ => Err(Refusal::WrongKind),
        }
    }

    /// Appends the framed record to `out`.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`].
    pub(super) fn write(&self, group: u32, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let body = self.body()?;
        if !plausible(self.kind(), body.len()) {
            return Err(Refusal::TooLarge);
        }
        let mut frame = [0; 9];
        frame[..4].copy_from_slice(&u32::try_from(body.len()).map_err(|_| Refusal::TooLarge)?.to_le_bytes());
        frame[4] = self.kind();
        frame[5..].copy_from_slice(&group.to_le_bytes());
        out.extend_from_slice(&frame);
        out.extend_from_slice(&durable::checksum(&[&frame, &body]).to_le_bytes());
        out.extend_from_slice(&body);
        Ok(())
    }
}

const fn plausible(kind: u8, length: usize) -> bool {
    match kind {
        1 => length == LINK_BODY_BYTES,
        2 => length > TIP_BYTES && length <= RECEIPT_BODY_MAX,
        3 => length == NOTE_BODY_BYTES,
        _ => false,
    }
}

/// A whole record, where it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Framed<'a> {
    kind: u8,
    body: &'a [u8],
    /// Where its group begins.
    pub(super) group: u32,
    /// The length of frame and body.
    pub(super) length: usize,
}

impl<'a> Framed<'a> {
    /// The record that begins `bytes`, if it is whole and its checksum right.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (frame, rest) = bytes.split_first_chunk::<FRAME_BYTES>()?;
        let &[l0, l1, l2, l3, kind, g0, g1, g2, g3, c0, c1, c2, c3] = frame;
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
        let group = u32::from_le_bytes([g0, g1, g2, g3]);
        if !plausible(kind, length) {
            return None;
        }
        let body = rest.get(..length)?;
        let checksum = durable::checksum(&[frame.get(..9)?, body]);
        (checksum == u32::from_le_bytes([c0, c1, c2, c3])).then_some(Self {
            kind,
            body,
            group,
            length: FRAME_BYTES + length,
        })
    }

    /// What it says; `None` when whole bytes of the right checksum mean nothing, which is damage.
    pub(super) fn record(&self) -> Option<Record> {
        Record::from_body(self.kind, self.body).ok()
    }
}

#[cfg(test)]
mod tests {
    use cpis_protocol::id::hex;

    use super::*;

    fn tip(seq: u64) -> Tip {
        Tip { chain: ChainId([2; 16]), seq, hash: [3; 32] }
    }

    #[test]
    fn frozen_header() {
        let bytes = Header::new(DeviceId([1; 16]), tip(5), tip(4)).to_bytes().unwrap();
        assert_eq!(bytes.len(), HEADER_BYTES);
        let t = |seq: &str| format!("{}{seq}00000000000000{}", "02".repeat(16), "03".repeat(32));
        assert_eq!(hex(&bytes), format!("435049534a524e4c01{}{}{}{HEADER_CRC}", "01".repeat(16), t("05"), t("04")));
        assert_eq!(Header::read(&bytes), Ok(Header::new(DeviceId([1; 16]), tip(5), tip(4))));
        let mut newer = bytes.clone();
        newer[8] = 2;
        assert_eq!(Header::read(&newer), Err(BadHeader::Format(2)));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert!(Header::read(&bad).is_err(), "byte {at}");
        }
    }
    const HEADER_CRC: &str = "6a86c255";

    fn frozen(record: &Record, expected: &str) {
        let mut bytes = vec![0xee; HEADER_BYTES];
        record.write(HEADER_BYTES as u32, &mut bytes).unwrap();
        assert_eq!(hex(&bytes[HEADER_BYTES..]), expected);
        let framed = Framed::read(&bytes[HEADER_BYTES..]).unwrap();
        assert_eq!(framed.record().as_ref(), Some(record));
        assert_eq!((framed.length, framed.group), (bytes.len() - HEADER_BYTES, HEADER_BYTES as u32));
        for at in HEADER_BYTES..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert_eq!(Framed::read(&bad[HEADER_BYTES..]), None, "byte {at}");
        }
    }

    #[test]
    fn frozen_records() {
        let link = Link::from_bytes(&[7; LINK_BYTES]).unwrap();
        frozen(
            &Record::Link(Box::new(link), [8; 32]),
            &format!("5c010000018d00000090415ed9{}{}", "07".repeat(LINK_BYTES), "08".repeat(32)),
        );
        let tip_hex = format!("{}0900000000000000{}", "02".repeat(16), "03".repeat(32));
        frozen(&Record::Receipt(tip(9), vec![0xaa, 0xbb]), &format!("3a000000028d0000000d5485b5{tip_hex}aabb"));
        frozen(
            &Record::Note { closed: tip(9), next: ChainId([4; 16]), forced: true },
            &format!("49000000038d0000001d8ab81e{tip_hex}{}01", "04".repeat(16)),
        );
    }

    #[test]
    fn sizes_that_no_record_has_are_refused() {
        let mut out = Vec::new();
        assert_eq!(Record::Receipt(tip(1), vec![0; 1025]).write(141, &mut out), Err(Refusal::TooLarge));
        assert!(out.is_empty());
        assert_eq!(Framed::read(&[0; 64]), None);
    }
}
