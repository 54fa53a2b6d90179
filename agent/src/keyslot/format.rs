//! The keyslot file's bytes: two slots of fixed size, each a whole generation of the contents, sealed. Pure.
//! It must not let a length, a number of entries or an old byte show: every write covers its whole slot.
//!
//! A slot, [`SLOT_BYTES`] (integers little endian):
//!
//! | at | bytes | field |
//! |--:|--:|---|
//! | 0 | 8 | magic `CPISKEYS` |
//! | 8 | 1 | format version, 1 |
//! | 9 | 1 | flags: 1 = the other slot still holds what was destroyed and must be overwritten |
//! | 10 | 8 | generation; the slot with the higher one counts |
//! | 18 | 4 | length of the sealed body: 127,016 |
//! | 22 | 127,016 | body, padded to [`BODY_BYTES`], XChaCha20-Poly1305 under the device key, bound to the 22 bytes before |
//! | 127,038 | 4,030 | zeros |
//! | 131,068 | 4 | CRC-32 of the 131,068 bytes before |

use cpis_protocol::Refusal;
use cpis_protocol::seal::{Key, SEAL_BYTES};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::durable;

/// The size of one slot.
pub(super) const SLOT_BYTES: usize = 128 * 1024;
/// The size of the file.
pub(super) const FILE_BYTES: usize = 2 * SLOT_BYTES;
/// The size of the padded body.
pub(super) const BODY_BYTES: usize = 124 * 1024;
/// The other slot still holds what was destroyed.
pub(super) const FLAG_SCRUB: u8 = 1;
pub(super) const FORMAT: u8 = 1;
const MAGIC: [u8; 8] = *b"CPISKEYS";
const HEADER_BYTES: usize = 8 + 1 + 1 + 8 + 4;
const SEALED_BYTES: usize = BODY_BYTES + SEAL_BYTES;
const CHECKED_BYTES: usize = SLOT_BYTES - 4;

/// Why a slot is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadSlot {
    /// Torn, or changed.
    Damaged,
    /// Whole, but sealed under another device's secret.
    DoesNotOpen,
    /// Whole, but of a format that this build does not read.
    Format(u8),
}

/// An opened slot.
pub(super) struct Opened {
    pub(super) generation: u64,
    pub(super) flags: u8,
    pub(super) body: Zeroizing<Vec<u8>>,
}

fn header(flags: u8, generation: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8] = FORMAT;
    header[9] = flags;
    header[10..18].copy_from_slice(&generation.to_le_bytes());
    // 127,016 fits.
    header[18..].copy_from_slice(&(SEALED_BYTES as u32).to_le_bytes());
    header
}

/// Seals a body of exactly [`BODY_BYTES`] into a slot.
///
/// # Errors
/// [`Refusal::TooLarge`] when the body has another length.
pub(super) fn seal(
    key: &Key,
    flags: u8,
    generation: u64,
    body: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, Refusal> {
    if body.len() != BODY_BYTES {
        return Err(Refusal::TooLarge);
    }
    let header = header(flags, generation);
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(&header);
    slot.extend_from_slice(&key.seal(&header, body, rng)?);
    slot.resize(CHECKED_BYTES, 0);
    let checksum = durable::checksum(&[&slot]);
    slot.extend_from_slice(&checksum.to_le_bytes());
    Ok(slot)
}

/// Opens a slot.
pub(super) fn open(key: &Key, slot: &[u8]) -> Result<Opened, BadSlot> {
    let (checked, checksum) = slot.split_last_chunk::<4>().ok_or(BadSlot::Damaged)?;
    if checked.len() != CHECKED_BYTES || durable::checksum(&[checked]) != u32::from_le_bytes(*checksum) {
        return Err(BadSlot::Damaged);
    }
    let (found, rest) = checked.split_first_chunk::<HEADER_BYTES>().ok_or(BadSlot::Damaged)?;
    match found {
        [b'C', b'P', b'I', b'S', b'K', b'E', b'Y', b'S', FORMAT, ..] => {}
        [b'C', b'P', b'I', b'S', b'K', b'E', b'Y', b'S', other, ..] => return Err(BadSlot::Format(*other)),
        _ => return Err(BadSlot::Damaged),
    }
    let &[_, _, _, _, _, _, _, _, _, flags, g0, g1, g2, g3, g4, g5, g6, g7, ..] = found;
    let generation = u64::from_le_bytes([g0, g1, g2, g3, g4, g5, g6, g7]);
    if *found != header(flags, generation) {
        return Err(BadSlot::Damaged);
    }
    let sealed = rest.get(..SEALED_BYTES).ok_or(BadSlot::Damaged)?;
    let body = key.open(found, sealed).map_err(|_| BadSlot::DoesNotOpen)?;
    Ok(Opened { generation, flags, body })
}

#[cfg(test)]
mod tests {
    use cpis_protocol::id::hex;

    use super::*;
    use crate::random::OsRandom;

    #[test]
    fn frozen_slot() {
        assert_eq!(hex(&header(1, 0x0102)), "435049534b4559530101020100000000000028f00100");
        let key = Key::from_bytes([1; 32]);
        let body = vec![7; BODY_BYTES];
        let slot = seal(&key, 0, 9, &body, &mut OsRandom).unwrap();
        assert_eq!((slot.len(), SEALED_BYTES, HEADER_BYTES), (131_072, 127_016, 22));
        assert_eq!(slot[..22], header(0, 9));
        assert_eq!(key.open(&slot[..22], &slot[22..127_038]).unwrap().as_slice(), body);
        assert!(slot[127_038..131_068].iter().all(|b| *b == 0));
        let opened = open(&key, &slot).unwrap();
        assert_eq!((opened.generation, opened.flags, opened.body.as_slice()), (9, 0, body.as_slice()));
        assert_eq!(open(&Key::from_bytes([2; 32]), &slot).err(), Some(BadSlot::DoesNotOpen));
        for at in (0..SLOT_BYTES).step_by(97).chain(0..22) {
            let mut bad = slot.clone();
            bad[at] ^= 1;
            assert_eq!(open(&key, &bad).err(), Some(BadSlot::Damaged), "byte {at}");
        }
        assert_eq!(open(&key, &slot[1..]).err(), Some(BadSlot::Damaged));
    }

    #[test]
    fn a_newer_format_is_named() {
        let key = Key::from_bytes([1; 32]);
        let mut slot = seal(&key, 0, 9, &[0; BODY_BYTES], &mut OsRandom).unwrap();
        slot[8] = 2;
        let checksum = durable::checksum(&[&slot[..CHECKED_BYTES]]);
        slot[CHECKED_BYTES..].copy_from_slice(&checksum.to_le_bytes());
        assert_eq!(open(&key, &slot).err(), Some(BadSlot::Format(2)));
    }
}
