//! One feed's log as an honest register keeps it: cells appended, the live set derived, objects cut from both.
//! It must not know a head: that is the publisher's.

use cpis_protocol::cell::{Cell, CellKind, FeedKey, LookupPrf as _, Place};
use cpis_protocol::compare::Bounds;
use cpis_protocol::digest::Hash;
use cpis_protocol::flag::{Flag, FlagKind, Record};
use cpis_protocol::head::FeedState;
use cpis_protocol::id::{BlindId, Epoch, FeedSeq};
use cpis_protocol::limits::CHUNK_CELLS;
use cpis_protocol::nhs::Date;
use cpis_protocol::query::{Path, Token};
use cpis_protocol::replica;
use cpis_protocol::seal::Key;
use cpis_protocol::text::Text;
use cpis_protocol::tree::Manifest;

use super::{SeedRng, ok};

/// The seed byte of every feed key here.
pub(crate) const FEED_KEY: [u8; 32] = [0x11; 32];

/// A feed's log.
pub(crate) struct FeedLog {
    pub(crate) place: Place,
    pub(crate) log: Vec<Cell>,
    /// Positions up to this one are not served any more.
    pub(crate) pruned: FeedSeq,
    /// Live sets of before this position cannot be made any more.
    pub(crate) oldest: FeedSeq,
    rng: SeedRng,
}

/// A record with one plan.
pub(crate) fn record(authority: u16) -> Record {
    let flag =
        Flag { kind: FlagKind::Cpp, authority, start: Date::new(2026, 3, 1).ok(), end: None, visible_until_min: None };
    Record { flags: vec![flag], more: false, restricted: false, initials: *b"AM", last_three: 18 }
}

/// A token that is not worth a memory-hard step in a test.
pub(crate) const fn token_value(who: u64) -> [u8; 32] {
    let mut value = [0x77; 32];
    let who = who.to_be_bytes();
    let mut at = 0;
    while at < 8 {
        value[at] = who[at];
        at += 1;
    }
    value
}

impl FeedLog {
    pub(crate) fn new(feed: &str, epoch: Epoch) -> Self {
        let place = Place { feed: Text::lossy(feed), epoch };
        Self { place, log: Vec::new(), pruned: 0, oldest: 0, rng: SeedRng::new(epoch) }
    }

    fn seq(&self) -> FeedSeq {
        self.log.len() as FeedSeq
    }

    /// Adds or replaces the record of `who`, sealed for that person's token.
    pub(crate) fn put(&mut self, who: u64) {
        let token = Token::from_cache(Path::NhsNumber, token_value(who));
        let secret = ok(FeedKey(Key::from_bytes(FEED_KEY)).evaluate(&self.place, &token));
        let blind = BlindId(who.to_be_bytes());
        let seq = self.seq() + 1;
        let cell = Cell::put(&self.place, blind, seq, &record(1), &[(secret, 0)], &mut self.rng);
        self.log.push(ok(cell));
    }

    /// An entry with a random body: quicker than [`Self::put`], the same to whoever holds no key.
    pub(crate) fn fill(&mut self, kind: CellKind, who: u64) {
        let seq = self.seq() + 1;
        self.log.push(Cell::filled(kind, BlindId(who.to_be_bytes()), seq, &mut self.rng));
    }

    /// The live set at a position.
    pub(crate) fn live(&self, seq: FeedSeq) -> Vec<Cell> {
        replica::changes(&self.log[..seq as usize]).into_values().flatten().collect()
    }

    /// The state at the newest position.
    pub(crate) fn state(&self) -> FeedState {
        let (count, state_root) = replica::state_root(&self.live(self.seq()));
        FeedState {
            feed: self.place.feed,
            epoch: self.place.epoch,
            seq: self.seq(),
            count,
            state_root,
            key_id: 1,
            oldest_key_id: 1,
        }
    }

    /// A delta object, while the log goes back far enough.
    pub(crate) fn delta(&self, from: FeedSeq, to: FeedSeq) -> Option<Vec<u8>> {
        if from < self.pruned {
            return None;
        }
        Some(join(self.log.get(from as usize..to as usize)?))
    }

    const fn has(&self, seq: FeedSeq) -> bool {
        self.oldest <= seq && seq <= self.log.len() as FeedSeq
    }

    /// A manifest object.
    pub(crate) fn manifest(&self, seq: FeedSeq) -> Option<Vec<u8>> {
        self.has(seq).then(|| Manifest::of(&replica::leaves(&self.live(seq))).to_bytes())
    }

    /// A bounds object.
    pub(crate) fn bounds(&self, seq: FeedSeq) -> Option<Vec<u8>> {
        self.has(seq).then(|| Bounds::of(self.live(seq).iter().map(Cell::blind)).to_bytes())
    }

    /// A chunk object.
    pub(crate) fn chunk(&self, seq: FeedSeq, index: u32) -> Option<Vec<u8>> {
        self.has(seq).then(|| self.live(seq).chunks(CHUNK_CELLS as usize).nth(index as usize).map(join))?
    }

    /// `count` cells with random bodies, outside the log.
    pub(crate) fn chunk_of(mut self, count: u64) -> Vec<Cell> {
        for who in 257..257 + count {
            self.fill(CellKind::Put, who);
        }
        self.log
    }

    /// The state root at a position.
    pub(crate) fn root(&self, seq: FeedSeq) -> Hash {
        replica::state_root(&self.live(seq)).1
    }
}

/// The wire form of cells.
pub(crate) fn join(cells: &[Cell]) -> Vec<u8> {
    cells.iter().flat_map(Cell::as_bytes).copied().collect()
}
