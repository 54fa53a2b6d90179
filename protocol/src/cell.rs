//! Blind cells: one fixed-size entry of a feed, which opens only for who holds the feed key *and* knows whom to ask for.
//! It must not let length, order or an unused slot tell anything about the record inside.
//!
//! Layout, 160 bytes: kind (1), blind id (8), sequence (4, big endian), four slots of locator (6) and wrapped record
//! key (16), sealed record (43), tag (16). A REMOVE or PAD has random bytes after the sequence.
//!
//! Why one tag is enough: the record key is random for each version, the wrap is a one-time pad from HKDF bound to
//! blind id and sequence, so no pad is ever used twice; any changed bit of locator, wrap or record ends in a failing
//! tag or a changed state root, which is signed.

use alloc::vec::Vec;
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::Refusal;
use crate::digest::{self, Hash};
use crate::flag::{RECORD_BYTES, Record};
use crate::id::{BlindId, Epoch, FeedId, FeedSeq};
use crate::query::Token;
use crate::seal::Key;
use crate::tree;

/// The size of every cell.
pub const CELL_BYTES: usize = 160;
/// Slots in a cell.
pub const SLOTS: usize = 4;
/// People who may share one token in one feed (twins with one name); the index is part of the locator.
pub const SHARED_TOKEN_MAX: u8 = 8; // R67

const BLIND_AT: usize = 1;
const SEQ_AT: usize = 9;
const SLOTS_AT: usize = 13;
const LOCATOR_BYTES: usize = 6;
const SLOT_BYTES: usize = LOCATOR_BYTES + 16;
const SEALED_AT: usize = SLOTS_AT + SLOTS * SLOT_BYTES;
const _: () = assert!(SEALED_AT + RECORD_BYTES + 16 == CELL_BYTES);

/// A short name of a slot; a false match meets a failing tag.
pub type Locator = [u8; LOCATOR_BYTES];

/// What an entry does to the live set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellKind {
    /// Adds the record, or replaces the one with this blind id.
    Put,
    /// Takes the record with this blind id out.
    Remove,
    /// Does nothing: hides how many real changes there were.
    Pad,
}

impl CellKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Put => 0x11,
            Self::Remove => 0x12,
            Self::Pad => 0x13,
        }
    }
}

/// Where a cell belongs: its sealing is bound to this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The feed.
    pub feed: FeedId,
    /// The epoch of the feed's log.
    pub epoch: Epoch,
}

/// The pseudo-random function behind look-ups. The software profile keys it with the feed key; a hardware profile puts
/// it behind a counted quota (research/security.md 3.6) without touching anything else.
pub trait LookupPrf {
    /// `V = prf(feed key, path || epoch || feed || T)`.
    ///
    /// # Errors
    /// [`Refusal::DoesNotOpen`] when the function refuses to work (locked, or quota used up).
    fn evaluate(&self, place: &Place, token: &Token) -> Result<SlotSecret, Refusal>;
}

/// `V`: everything that one person, path, feed and epoch need to find and open a slot.
pub struct SlotSecret(Zeroizing<Hash>);

impl core::fmt::Debug for SlotSecret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("SlotSecret([secret])")
    }
}

/// A feed's key in the software profile.
#[derive(Debug)]
pub struct FeedKey(pub Key);

impl LookupPrf for FeedKey {
    fn evaluate(&self, place: &Place, token: &Token) -> Result<SlotSecret, Refusal> {
        let (path, value) = token.parts();
        let mut input = Zeroizing::new(Vec::with_capacity(96));
        input.extend_from_slice(b"cpis-edge/1/prf\0"); // R64
        input.extend_from_slice(&path);
        input.extend_from_slice(&place.epoch.to_be_bytes());
        input.extend_from_slice(place.feed.as_bytes());
        input.extend_from_slice(value);
        Ok(SlotSecret(Zeroizing::new(digest::prf(self.0.expose(), &input))))
    }
}

impl SlotSecret {
    /// The locator of the `index`th person who shares the token.
    #[must_use]
    pub fn locator(&self, index: u8) -> Locator {
        digest::expand(&self.0, &[b"cpis-edge/1/locator", &[index]]) // R65
    }

    fn pad(&self, index: u8, cell: &Cell) -> Zeroizing<[u8; 16]> {
        let place = &cell.0[..SLOTS_AT];
        Zeroizing::new(digest::expand(&self.0, &[b"cpis-edge/1/wrap", &[index], place])) // R66
    }
}

/// One entry of a feed.
#[derive(Clone, PartialEq, Eq)]
pub struct Cell([u8; CELL_BYTES]);

impl core::fmt::Debug for Cell {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Cell({:?} {} at {})", self.kind(), self.blind(), self.seq())
    }
}

impl Cell {
    /// Seals a record for the given slots: at most [`SLOTS`], each the secret of a path and the index among those who
    /// share its token. The order of slots is shuffled.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] with too many slots or a record that does not pack.
    pub fn put(
        place: &Place,
        blind: BlindId,
        seq: FeedSeq,
        record: &Record,
        slots: &[(SlotSecret, u8)],
        rng: &mut impl CryptoRng,
    ) -> Result<Self, Refusal> {
        if slots.len() > SLOTS {
            return Err(Refusal::Malformed);
        }
        let mut cell = Self::filled(CellKind::Put, blind, seq, rng);
        let mut record_key = Zeroizing::new([0u8; 16]);
        rng.fill_bytes(record_key.as_mut_slice());
        let mut order = [0u8, 1, 2, 3]; // R52
        for i in (1..order.len()).rev() {
            // 32 random bits against four places: the bias is below one in a thousand million.
            let j = rng.next_u32() as usize % (i + 1);
            order.swap(i, j);
        }
        for ((secret, index), at) in slots.iter().zip(order) {
            let pad = secret.pad(*index, &cell);
            let (locator, wrapped) = cell.slot_mut(usize::from(at)).split_at_mut(LOCATOR_BYTES);
            locator.copy_from_slice(&secret.locator(*index));
            for ((to, key), pad) in wrapped.iter_mut().zip(record_key.iter()).zip(pad.iter()) {
                *to = key ^ pad;
            }
        }
        let plain = Zeroizing::new(record.pack()?);
        let sealed = seal_key(&record_key).seal_once(&cell.aad(place), plain.as_slice())?;
        cell.0[SEALED_AT..].copy_from_slice(&sealed);
        Ok(cell)
    }

    /// An entry whose body is random: REMOVE, PAD, and the ground that PUT writes on.
    #[must_use]
    pub fn filled(kind: CellKind, blind: BlindId, seq: FeedSeq, rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; CELL_BYTES];
        rng.fill_bytes(&mut bytes[SLOTS_AT..]); // R51
        bytes[0] = kind.byte();
        bytes[BLIND_AT..SEQ_AT].copy_from_slice(&blind.0);
        bytes[SEQ_AT..SLOTS_AT].copy_from_slice(&seq.to_be_bytes());
        Self(bytes)
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// [`Refusal::Truncated`], [`Refusal::TrailingBytes`], [`Refusal::Malformed`] for an unknown kind.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > CELL_BYTES {
            return Err(Refusal::TrailingBytes);
        }
        let bytes: [u8; CELL_BYTES] = bytes.try_into().map_err(|_| Refusal::Truncated)?; // R50
        let known = [CellKind::Put, CellKind::Remove, CellKind::Pad].iter().any(|kind| kind.byte() == bytes[0]);
        if known { Ok(Self(bytes)) } else { Err(Refusal::Malformed) }
    }

    /// Reads a run of entries.
    ///
    /// # Errors
    /// As [`Self::from_bytes`]; [`Refusal::TooLarge`] beyond the object ceiling.
    pub fn read_all(bytes: &[u8]) -> Result<Vec<Self>, Refusal> {
        if bytes.len() > crate::limits::OBJECT_BYTES_MAX {
            // R97
            return Err(Refusal::TooLarge);
        }
        bytes.chunks(CELL_BYTES).map(Self::from_bytes).collect()
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; CELL_BYTES] {
        &self.0
    }

    /// What it does.
    #[must_use]
    pub fn kind(&self) -> CellKind {
        match self.0[0] {
            0x11 => CellKind::Put,
            0x12 => CellKind::Remove,
            _ => CellKind::Pad,
        }
    }

    /// Which record it speaks of.
    #[must_use]
    pub fn blind(&self) -> BlindId {
        let mut id = [0; 8];
        id.copy_from_slice(&self.0[BLIND_AT..SEQ_AT]);
        BlindId(id)
    }

    /// Its position in the feed's log: the version of the record.
    #[must_use]
    pub fn seq(&self) -> FeedSeq {
        let mut seq = [0; 4];
        seq.copy_from_slice(&self.0[SEQ_AT..SLOTS_AT]);
        FeedSeq::from_be_bytes(seq)
    }

    /// The locators of its slots.
    #[must_use]
    pub fn locators(&self) -> [Locator; SLOTS] {
        let mut out = [[0; LOCATOR_BYTES]; SLOTS];
        for (to, slot) in out.iter_mut().zip(self.0[SLOTS_AT..SEALED_AT].chunks_exact(SLOT_BYTES)) {
            to.copy_from_slice(&slot[..LOCATOR_BYTES]);
        }
        out
    }

    /// The leaf of the state tree.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        tree::leaf(&self.0)
    }

    /// Opens the record through slot number `slot`.
    ///
    /// # Errors
    /// [`Refusal::DoesNotOpen`] for a false locator or changed bytes; [`Refusal::Malformed`].
    pub fn open(&self, place: &Place, secret: &SlotSecret, index: u8, slot: usize) -> Result<Record, Refusal> {
        let wrapped = self.0[SLOTS_AT..SEALED_AT].chunks_exact(SLOT_BYTES).nth(slot).ok_or(Refusal::Malformed)?;
        let pad = secret.pad(index, self);
        let mut record_key = Zeroizing::new([0u8; 16]);
        for ((to, wrapped), pad) in record_key.iter_mut().zip(&wrapped[LOCATOR_BYTES..]).zip(pad.iter()) {
            *to = wrapped ^ pad;
        }
        let plain = seal_key(&record_key).open_once(&self.aad(place), &self.0[SEALED_AT..])?; // R55
        let plain = plain.as_slice().try_into().map_err(|_| Refusal::Malformed)?;
        Record::unpack(plain)
    }

    fn slot_mut(&mut self, slot: usize) -> &mut [u8] {
        let at = SLOTS_AT + slot * SLOT_BYTES;
        &mut self.0[at..at + SLOT_BYTES]
    }

    /// Binds the record to feed, epoch, kind and format, blind id and version.
    fn aad(&self, place: &Place) -> Vec<u8> {
        let mut aad = Vec::with_capacity(64);
        aad.extend_from_slice(b"cpis-edge/1/cell\0"); // R54, R99
        aad.extend_from_slice(place.feed.as_bytes());
        aad.extend_from_slice(&place.epoch.to_be_bytes());
        aad.extend_from_slice(&self.0[..SLOTS_AT]);
        aad
    }
}

fn seal_key(record_key: &[u8; 16]) -> Key {
    let mut padded = Zeroizing::new([0u8; 32]);
    padded[..16].copy_from_slice(record_key);
    Key::from_bytes(digest::expand(&padded, &[b"cpis-edge/1/record"])) // R53
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flag::{Flag, FlagKind};
    use crate::query::Path;
    use crate::seal::testing::TestRng;
    use crate::text::Text;

    fn place() -> Place {
        Place { feed: Text::lossy("E09000033"), epoch: 42 }
    }

    fn secret(token: u8) -> SlotSecret {
        FeedKey(Key::from_bytes([0x11; 32]))
            .evaluate(&place(), &Token::from_cache(Path::NhsNumber, [token; 32]))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    fn record() -> Record {
        let flag = Flag { kind: FlagKind::Cpp, authority: 1, start: None, end: None, visible_until_min: None };
        Record { flags: alloc::vec![flag], more: false, restricted: false, initials: [0; 2], last_three: 0 }
    }

    fn sealed() -> Cell {
        Cell::put(&place(), BlindId([9; 8]), 3, &record(), &[(secret(1), 0), (secret(2), 1)], &mut TestRng(1))
            .unwrap_or_else(|e| panic!("{e}"))
    }

    fn find(cell: &Cell, secret: &SlotSecret, index: u8) -> Option<usize> {
        cell.locators().iter().position(|l| *l == secret.locator(index))
    }

    #[test]
    fn opens_through_each_slot_and_no_other() {
        let cell = sealed();
        for (token, index) in [(1, 0), (2, 1)] {
            let secret = secret(token);
            let slot = find(&cell, &secret, index).unwrap_or(usize::MAX);
            assert_eq!(cell.open(&place(), &secret, index, slot), Ok(record()));
            assert_eq!(cell.open(&place(), &secret, index + 1, slot), Err(Refusal::DoesNotOpen));
        }
        assert_eq!(find(&cell, &secret(3), 0), None);
    }

    #[test]
    fn bound_to_its_place_and_every_bit() {
        let cell = sealed();
        let secret = secret(1);
        let slot = find(&cell, &secret, 0).unwrap_or(usize::MAX);
        let other = Place { epoch: 43, ..place() };
        assert_eq!(cell.open(&other, &secret, 0, slot), Err(Refusal::DoesNotOpen));
        let own = SLOTS_AT + slot * SLOT_BYTES + LOCATOR_BYTES;
        for at in (0..SLOTS_AT).chain(own..own + 16).chain(SEALED_AT..CELL_BYTES) {
            let mut bytes = *cell.as_bytes();
            bytes[at] ^= 0x80;
            assert_ne!(Cell(bytes).open(&place(), &secret, 0, slot), Ok(record()), "byte {at}");
        }
    }

    #[test]
    fn reading_refuses_what_is_not_a_cell() {
        let bytes = sealed().0;
        assert_eq!(Cell::from_bytes(&bytes[1..]), Err(Refusal::Truncated));
        let mut wrong = bytes;
        wrong[0] = 0x21;
        assert_eq!(Cell::from_bytes(&wrong), Err(Refusal::Malformed));
        let mut two = bytes.to_vec();
        two.extend_from_slice(&bytes);
        assert_eq!(Cell::from_bytes(&two), Err(Refusal::TrailingBytes));
        assert_eq!(Cell::read_all(&two).map(|cells| cells.len()), Ok(2));
        assert_eq!(Cell::read_all(&two[..200]), Err(Refusal::Truncated));
    }
}
