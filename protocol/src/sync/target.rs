//! A head on its way in: the plan that it will become, and the objects that are still missing.
//! It must not keep anything of an object that did not verify.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::step::Outcome;
use crate::cell::Cell;
use crate::compare::Bounds;
use crate::head::{Beat, FeedState, Head};
use crate::id::{FeedId, FeedSeq};
use crate::message::{Failure, Request};
use crate::replica::{self, Road};
use crate::sign::Verified;
use crate::tree::Manifest;
use crate::{Refusal, limits};

/// A verified chunk of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedChunk {
    /// The feed's state in the target head.
    pub state: FeedState,
    /// Which chunk.
    pub index: u32,
    /// Its cells, sorted.
    pub cells: Vec<Cell>,
}

/// Where a feed's next generation comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The present generation stands.
    Unchanged,
    /// The present generation with these cells merged in.
    Delta(Vec<Cell>),
    /// The chunks staged for this state.
    Staged,
}

/// Everything that one flip needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The beat that names the head.
    pub beat: Verified<Beat>,
    /// The head.
    pub head: Verified<Head>,
    /// The tick at which the beat was asked for: its signed time is anchored there. `None` for a beat from the disk, whose
    /// time anchors nothing.
    pub asked_ms: Option<u64>,
    /// New reference data, when the head names another than before.
    pub reference: Option<Vec<u8>>,
    /// For each feed of the head, in its order, where it comes from.
    pub sources: Vec<Source>,
}

/// The chunks of a state that is to be fetched whole, for comparison with what the device holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The feed's state in the target head.
    pub state: FeedState,
    /// The tree hash of each chunk, proved against the state.
    pub manifest: Manifest,
    /// Where each chunk begins; without it, chunks are compared place by place.
    pub bounds: Option<Bounds>,
}

#[derive(Debug, Clone)]
pub(super) enum Work {
    Manifest(FeedState),
    Bounds(FeedState),
    Delta { state: FeedState, from: FeedSeq, to: FeedSeq },
    Chunk { state: FeedState, index: u32 },
}

impl Work {
    pub(super) fn request(&self) -> Request {
        match self {
            Self::Manifest(state) => Request::Manifest { feed: state.feed, epoch: state.epoch, seq: state.seq },
            Self::Bounds(state) => Request::Bounds { feed: state.feed, epoch: state.epoch, seq: state.seq },
            Self::Delta { state, from, to } => {
                Request::Delta { feed: state.feed, epoch: state.epoch, from: *from, to: *to }
            }
            Self::Chunk { state, index } => {
                Request::Chunk { feed: state.feed, epoch: state.epoch, seq: state.seq, index: *index }
            }
        }
    }
}

/// A head on its way in.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) beat: Verified<Beat>,
    pub(super) head: Verified<Head>,
    pub(super) asked_ms: Option<u64>,
    /// Whether it is remembered on the disk.
    pub(super) pinned: bool,
    /// Whether a newer head is known.
    pub(super) overtaken: bool,
    pub(super) reference: Option<Vec<u8>>,
    pub(super) work: VecDeque<Work>,
    pub(super) under_way: Vec<Work>,
    pub(super) manifests: BTreeMap<FeedId, Manifest>,
    pub(super) bounds: BTreeMap<FeedId, Bounds>,
    /// Feeds whose bounds are still to come.
    pub(super) bounds_due: BTreeSet<FeedId>,
    /// States whose chunks are known and not compared yet.
    pub(super) to_compare: Vec<FeedState>,
    pub(super) deltas: BTreeMap<FeedId, Vec<Cell>>,
    pub(super) staged: BTreeSet<FeedId>,
    pub(super) cells_done: u64,
    pub(super) cells_total: u64,
}

/// What a round of replies brought.
pub(super) struct Arrived {
    /// Verified chunks, for staging.
    pub(super) chunks: Vec<StagedChunk>,
    /// The gravest of what went wrong.
    pub(super) trouble: Option<Outcome>,
    /// Feeds whose delta was refused.
    pub(super) unreachable: Vec<FeedId>,
}

impl Target {
    /// Lays out the way to a verified head: for each feed a road, and the objects on it. `have` gives the state that the
    /// replica holds, `None` for a feed that must be fetched whole; `near` says whether anything of another state of the
    /// same epoch is there to compare with.
    pub(super) fn new<'a>(
        beat: Verified<Beat>,
        head: Verified<Head>,
        asked_ms: Option<u64>,
        have: impl Fn(&FeedId) -> Option<&'a FeedState>,
        near: impl Fn(&FeedState) -> bool,
    ) -> Result<Self, Refusal> {
        let mut target = Self {
            beat,
            head,
            asked_ms,
            pinned: false,
            overtaken: false,
            reference: None,
            work: VecDeque::new(),
            under_way: Vec::new(),
            manifests: BTreeMap::new(),
            bounds: BTreeMap::new(),
            bounds_due: BTreeSet::new(),
            to_compare: Vec::new(),
            deltas: BTreeMap::new(),
            staged: BTreeSet::new(),
            cells_done: 0,
            cells_total: 0,
        };
        let mut whole = Vec::new();
        for state in &target.head.feeds {
            match replica::road(have(&state.feed), state)? {
                Road::Unchanged => {}
                Road::Delta { from, to } => {
                    target.deltas.insert(state.feed, Vec::new());
                    target.cells_total += u64::from(to - from);
                    for (from, to) in replica::stretches(from, to) {
                        target.work.push_back(Work::Delta { state: state.clone(), from, to });
                    }
                }
                Road::Snapshot => {
                    whole.push((state.clone(), near(state)));
                }
            }
        }
        for (state, near) in whole {
            target.fetch_whole(state, near);
        }
        Ok(target)
    }

    /// Lays out the way to a feed's whole live set; `near` says whether bounds may help.
    fn fetch_whole(&mut self, state: FeedState, near: bool) {
        self.staged.insert(state.feed);
        self.cells_total += u64::from(state.count);
        if let Some(manifest) = Manifest::of_one(state.count, state.state_root) {
            // R251: One chunk: there is nothing to ask for first.
            self.manifests.insert(state.feed, manifest);
            self.to_compare.push(state);
            return;
        }
        self.work.push_back(Work::Manifest(state.clone()));
        if near {
            self.bounds_due.insert(state.feed);
            self.work.push_back(Work::Bounds(state));
        }
    }

    /// The log does not reach back to the copy any more: what differs is fetched instead, in this attempt.
    fn leave_log(&mut self, state: &FeedState) {
        let cells_total = &mut self.cells_total;
        self.work.retain(|work| match work {
            Work::Delta { state: of, from, to } if of.feed == state.feed => {
                *cells_total = cells_total.saturating_sub(u64::from(to - from));
                false
            }
            _ => true,
        });
        self.deltas.remove(&state.feed);
        self.fetch_whole(state.clone(), true);
    }

    /// Puts work under way, at most so much: what is at hand, or where there is none of that what comes first.
    pub(super) fn begin_work(&mut self, most: usize, is_at_hand: impl Fn(&Work) -> bool) {
        let (held, rest): (VecDeque<_>, VecDeque<_>) = self.work.drain(..).partition(is_at_hand);
        let (mut first, second) = if held.is_empty() { (rest, held) } else { (held, rest) };
        self.under_way = first.drain(..most.min(first.len())).collect();
        first.extend(second);
        self.work = first;
    }

    /// Takes in the replies to the requests under way, in their order; what failed is asked for again.
    pub(super) fn take_in_all(&mut self, replies: Vec<Result<Vec<u8>, Failure>>) -> Arrived {
        let mut arrived = Arrived { chunks: Vec::new(), trouble: None, unreachable: Vec::new() };
        let under_way = core::mem::take(&mut self.under_way);
        let missing = under_way.len().saturating_sub(replies.len());
        let replies = replies.into_iter().chain(core::iter::repeat_n(Err(Failure::Offline), missing));
        let mut again = Vec::new();
        for (work, reply) in under_way.into_iter().zip(replies) {
            if let (Work::Bounds(state), Err(Failure::NotFound | Failure::Refused)) = (&work, &reply) {
                // R253: A server without bounds costs bytes: chunks are compared place by place.
                self.settle_bounds(state, None);
                continue;
            }
            if let (Work::Delta { state, from, to }, Err(Failure::NotFound)) = (&work, &reply) {
                // R43
                self.cells_total = self.cells_total.saturating_sub(u64::from(to - from));
                if !self.staged.contains(&state.feed) {
                    self.leave_log(state);
                }
                continue;
            }
            let result = match reply {
                Ok(body) => self.take_in(&work, &body).map_err(Outcome::Refused),
                Err(failure) => Err(Outcome::Failed(failure)),
            };
            match result {
                Ok(chunk) => arrived.chunks.extend(chunk),
                Err(outcome) => {
                    if let (Outcome::Refused(_), Work::Delta { state, .. }) = (outcome, &work) {
                        // R43: The next attempt takes the other road.
                        arrived.unreachable.push(state.feed);
                    }
                    // A withdrawal is not to be hidden by what else failed.
                    if !matches!(arrived.trouble, Some(Outcome::Failed(Failure::Revoked | Failure::Suspended))) {
                        arrived.trouble = Some(outcome);
                    }
                    again.push(work);
                }
            }
        }
        for work in again.into_iter().rev() {
            if !matches!(&work, Work::Delta { state, .. } if self.staged.contains(&state.feed)) {
                self.work.push_front(work);
            }
        }
        arrived
    }

    /// Verifies one object and keeps what it brings; a chunk is handed back for staging.
    fn take_in(&mut self, work: &Work, body: &[u8]) -> Result<Option<StagedChunk>, Refusal> {
        match work {
            Work::Manifest(state) => {
                let manifest = Manifest::verify(body, state.count, &state.state_root)?;
                self.manifests.insert(state.feed, manifest);
                if !self.bounds_due.contains(&state.feed) {
                    self.to_compare.push(state.clone());
                }
                Ok(None)
            }
            Work::Bounds(state) => {
                let bounds = Bounds::read(body, state.count.div_ceil(limits::CHUNK_CELLS)).ok(); // R253
                self.settle_bounds(state, bounds);
                Ok(None)
            }
            Work::Delta { state, from, to } => {
                let cells = Cell::read_all(body)?;
                replica::check_delta(&cells, *from, *to)?;
                self.cells_done += cells.len() as u64;
                let delta = self.deltas.entry(state.feed).or_default();
                delta.extend(cells);
                // Replies of one feed may be retried out of turn.
                delta.sort_by_key(Cell::seq);
                Ok(None)
            }
            Work::Chunk { state, index } => {
                let cells = Cell::read_all(body)?;
                let manifest = self.manifests.get(&state.feed).ok_or(Refusal::Malformed)?;
                manifest.check_chunk(*index, &replica::leaves(&cells))?;
                replica::check_live(&cells, None, state.seq)?;
                self.cells_done += cells.len() as u64;
                Ok(Some(StagedChunk { state: state.clone(), index: *index, cells }))
            }
        }
    }

    fn settle_bounds(&mut self, state: &FeedState, bounds: Option<Bounds>) {
        self.bounds_due.remove(&state.feed);
        if let Some(bounds) = bounds {
            self.bounds.insert(state.feed, bounds);
        }
        if self.manifests.contains_key(&state.feed) {
            self.to_compare.push(state.clone());
        }
    }

    /// What is to be compared now, once.
    pub(super) fn comparisons(&mut self) -> Vec<Comparison> {
        let states = core::mem::take(&mut self.to_compare);
        let with = |state: FeedState| {
            let (manifest, bounds) = (self.manifests.get(&state.feed)?.clone(), self.bounds.remove(&state.feed));
            Some(Comparison { state, manifest, bounds })
        };
        states.into_iter().filter_map(with).collect()
    }

    /// Asks for the chunks of a feed that the device does not hold.
    pub(super) fn compared(&mut self, feed: FeedId, held: &BTreeSet<u32>) {
        let (Some(state), Some(manifest)) = (self.head.feed(&feed), self.manifests.get(&feed)) else { return };
        for index in 0..manifest.chunks() {
            if held.contains(&index) {
                self.cells_done += u64::from(manifest.chunk_cells(index));
            } else {
                self.work.push_back(Work::Chunk { state: state.clone(), index });
            }
        }
    }

    pub(super) fn plan(&mut self) -> Plan {
        let sources = self.head.feeds.iter().map(|state| {
            if self.staged.contains(&state.feed) {
                Source::Staged
            } else {
                self.deltas.remove(&state.feed).map_or(Source::Unchanged, Source::Delta)
            }
        });
        let sources = sources.collect();
        let (beat, head) = (self.beat.clone(), self.head.clone());
        Plan { beat, head, asked_ms: self.asked_ms, reference: self.reference.take(), sources }
    }
}
