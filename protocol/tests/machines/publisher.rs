//! A small honest publisher in memory: register, cells, manifests, signed heads and beats, receipts.
//! It must not misbehave by itself: failures are the network's, which is the driver's.

use std::collections::BTreeMap;

use cpis_protocol::audit::{Batch, Receipt, Tip};
use cpis_protocol::catch_up::{self, CatchUp, Part};
use cpis_protocol::codec;
use cpis_protocol::digest::{Hash, sha256};
use cpis_protocol::head::Head;
use cpis_protocol::id::UnixMs;
use cpis_protocol::limits;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::replica::{self, Road};
use cpis_protocol::sign::{self, Kind, PublicKey};
use cpis_protocol::trust::Root;
use cpis_protocol::withdrawal::{Withdrawal, WithdrawalAction};

use crate::common::feed::FeedLog;
use crate::common::ok;
use crate::common::world::{self, AUTHORITY, BEAT, DEVICE, PUBLISHER, RECEIPT, framed};

/// The register's outward side.
pub(crate) struct Publisher {
    pub(crate) feeds: Vec<FeedLog>,
    pub(crate) roots: BTreeMap<u32, Vec<u8>>,
    pub(crate) heads: BTreeMap<Hash, Vec<u8>>,
    pub(crate) beats: Vec<Vec<u8>>,
    pub(crate) current: Vec<u8>,
    pub(crate) beat_key: u8,
    pub(crate) publisher_key: u8,
    pub(crate) authority_key: u8,
    pub(crate) gseq: u64,
    pub(crate) grant: u64,
    pub(crate) lease_ms: i64,
    /// A grant from another time, in place of the present one.
    pub(crate) replayed: Option<Vec<u8>>,
    /// The number of a suspension that goes out in place of the grant.
    pub(crate) suspension: Option<u64>,
}

impl Publisher {
    pub(crate) fn new(feeds: Vec<FeedLog>) -> Self {
        let mut publisher = Self {
            feeds,
            roots: BTreeMap::from([(1, world::signed_root(&world::root(1), &[1, 2]))]),
            heads: BTreeMap::new(),
            beats: Vec::new(),
            current: Vec::new(),
            beat_key: BEAT,
            publisher_key: PUBLISHER,
            authority_key: AUTHORITY,
            gseq: 0,
            grant: 1,
            lease_ms: 30 * world::DAY_MS,
            replayed: None,
            suspension: None,
        };
        publisher.publish();
        publisher
    }

    /// Signs a head over every feed as it is now.
    pub(crate) fn publish(&mut self) {
        self.gseq += 1;
        let states = self.feeds.iter().map(FeedLog::state).collect();
        let head = world::head(self.gseq, states);
        self.current = framed(Kind::Head, &ok(codec::encode(&head)), &[self.publisher_key]);
        self.heads.insert(sha256(&self.current), self.current.clone());
    }

    /// A new root that replaces the keys of heads and beats, and the present head signed again.
    pub(crate) fn rotate(&mut self, beat: u8, publisher: u8, expires_ms: UnixMs) {
        let version = self.roots.len() as u32 + 1;
        let mut root = world::root(version);
        root.expires_ms = expires_ms;
        root.roles.iter_mut().for_each(|role| role.expires_ms = expires_ms);
        root.roles[0].keys = vec![world::signer(publisher).public_key()];
        root.roles[1].keys = vec![world::signer(beat).public_key()];
        self.roots.insert(version, world::signed_root(&root, &[1, 2]));
        (self.beat_key, self.publisher_key) = (beat, publisher);
        self.publish();
    }

    /// A new root as it is given, its other keys in force at once, and the present head signed again.
    pub(crate) fn install(&mut self, root: &Root, by: &[u8], seeds: [u8; 3]) {
        self.roots.insert(root.version, world::signed_root(root, by));
        [self.publisher_key, self.beat_key, self.authority_key] = seeds;
        self.publish();
    }

    /// A grant of the same feeds, made now.
    pub(crate) fn grant_bytes(&self, now_ms: UnixMs) -> Vec<u8> {
        let feeds: Vec<_> = self.feeds.iter().map(|f| (f.place.feed.as_str(), f.place.epoch)).collect();
        let mut grant = world::grant(self.grant, &feeds);
        (grant.issued_ms, grant.lease_until_ms) = (now_ms, now_ms.saturating_add(self.lease_ms));
        framed(Kind::Grant, &ok(codec::encode(&grant)), &[self.authority_key])
    }

    fn suspension_bytes(&self, number: u64) -> Vec<u8> {
        let action = WithdrawalAction::Suspend;
        let word = Withdrawal { device: world::device(), number, action, issued_ms: world::T0 };
        framed(Kind::Withdrawal, &ok(codec::encode(&word)), &[self.authority_key])
    }

    /// The honest answer.
    pub(crate) fn answer(&mut self, request: &Request, now_ms: UnixMs) -> Result<Vec<u8>, Failure> {
        let found = match request {
            Request::Grant if self.replayed.is_some() => self.replayed.clone(),
            Request::Grant => {
                Some(self.suspension.map_or_else(|| self.grant_bytes(now_ms), |n| self.suspension_bytes(n)))
            }
            Request::Beat(_) => {
                let beat = world::beat(self.gseq, &self.current, now_ms);
                let bytes = framed(Kind::Beat, &ok(codec::encode(&beat)), &[self.beat_key]);
                self.beats.push(bytes.clone());
                Some(bytes)
            }
            Request::Head(hash) => self.heads.get(hash).cloned(),
            Request::Reference(_) => Some(ok(world::reference().encode())),
            Request::Root(version) => self.roots.get(version).cloned(),
            Request::Delta { feed, epoch, from, to } => self.feed(feed.as_str(), *epoch)?.delta(*from, *to),
            Request::Manifest { feed, epoch, seq } => self.feed(feed.as_str(), *epoch)?.manifest(*seq),
            Request::Bounds { feed, epoch, seq } => self.feed(feed.as_str(), *epoch)?.bounds(*seq),
            Request::Chunk { feed, epoch, seq, index } => self.feed(feed.as_str(), *epoch)?.chunk(*seq, *index),
            Request::CatchUp(body) => Some(self.catch_up(&ok(CatchUp::from_bytes(body)), now_ms)),
            Request::Enrol(_) | Request::Audit(_) | Request::Report(_) | Request::News(_) => {
                return Err(Failure::Refused);
            }
        };
        found.ok_or(Failure::NotFound)
    }

    /// Everything that a device at this position would ask for, as far as the first objects.
    fn catch_up(&mut self, ask: &CatchUp, now_ms: UnixMs) -> Vec<u8> {
        let mut out = catch_up::begin();
        let after = ask.root_version + 1;
        for (version, root) in self.roots.range(after..).take(limits::CATCH_UP_ROOTS) {
            ok(catch_up::push(&mut out, &Part::Named(&Request::Root(*version)), root));
        }
        if (ask.grant || self.suspension.is_some())
            && let Ok(grant) = self.answer(&Request::Grant, now_ms)
        {
            ok(catch_up::push(&mut out, &Part::Grant, &grant));
        }
        if let Ok(beat) = self.answer(&Request::Beat(cpis_protocol::text::Text::lossy(world::SCOPE)), now_ms) {
            ok(catch_up::push(&mut out, &Part::Beat, &beat));
        }
        let held = ask.head.and_then(|hash| self.heads.get(&hash)).cloned();
        if ask.cells && ask.head != Some(sha256(&self.current)) {
            ok(catch_up::push(&mut out, &Part::Head, &self.current));
            ok(catch_up::push(&mut out, &Part::Reference, &ok(world::reference().encode())));
            let read = |bytes: &[u8]| ok(sign::peek_unverified::<Head>(bytes, Kind::Head, limits::HEAD_BYTES_MAX));
            let (held, head) = (held.map(|bytes| read(&bytes)), read(&self.current));
            for state in &head.feeds {
                let request = match ok(replica::road(held.as_ref().and_then(|held| held.feed(&state.feed)), state)) {
                    Road::Unchanged => continue,
                    Road::Delta { from, to } => {
                        let to = to.min(from + limits::DELTA_CELLS_MAX);
                        Request::Delta { feed: state.feed, epoch: state.epoch, from, to }
                    }
                    Road::Snapshot => Request::Manifest { feed: state.feed, epoch: state.epoch, seq: state.seq },
                };
                if let Ok(body) = self.answer(&request, now_ms) {
                    ok(catch_up::push(&mut out, &Part::Named(&request), &body));
                }
            }
        }
        catch_up::end(&mut out);
        out
    }

    fn feed(&self, feed: &str, epoch: u64) -> Result<&FeedLog, Failure> {
        let found = self.feeds.iter().find(|f| f.place.feed.as_str() == feed && f.place.epoch == epoch);
        found.ok_or(Failure::NotFound)
    }
}

/// The server's side of the audit upload: one row, moved only by links that verify.
pub(crate) struct Ledger {
    pub(crate) tip: Tip,
    /// How often each position was inserted.
    pub(crate) inserted: Vec<u64>,
    key: PublicKey,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        let tip = Tip::start(&world::device(), world::chain());
        Self { tip, inserted: Vec::new(), key: world::signer(DEVICE).public_key() }
    }

    /// Takes what is exactly next, ignores what it has, and says how far it got.
    pub(crate) fn take(&mut self, body: &[u8]) -> Vec<u8> {
        let batch = ok(Batch::from_bytes(body));
        let known = self.tip.seq.saturating_sub(batch.after.seq);
        if batch.after.seq <= self.tip.seq {
            for link in batch.links.iter().skip(known as usize) {
                self.tip = ok(self.tip.verify(&batch.device, &self.key, link));
                self.inserted.push(self.tip.seq);
            }
        }
        let receipt = Receipt { device: batch.device, through: self.tip, issued_ms: world::T0 };
        framed(Kind::Receipt, &ok(codec::encode(&receipt)), &[RECEIPT])
    }
}
