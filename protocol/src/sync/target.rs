//! A head on its way in: the plan that it will become, and the objects that are still missing.
//! It must not keep anything of an object that did not verify.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::step::Outcome;
use crate::Refusal;
use crate::cell::Cell;
use crate::head::{Beat, FeedState, Head};
use crate::id::{FeedId, FeedSeq};
use crate::message::{Failure, Request};
use crate::replica::{self, Road};
use crate::sign::Verified;
use crate::tree::Manifest;

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
    /// The tick at which the beat was asked for: its signed time is anchored there.
    pub asked_ms: u64,
    /// New reference data, when the head names another than before.
    pub reference: Option<Vec<u8>>,
    /// For each feed of the head, in its order, where it comes from.
    pub sources: Vec<Source>,
}

#[derive(Debug, Clone)]
pub(super) enum Work {
    Manifest(FeedState),
    Delta { state: FeedState, from: FeedSeq, to: FeedSeq },
    Chunk { state: FeedState, index: u32 },
}

impl Work {
    pub(super) fn request(&self) -> Request {
        match self {
            Self::Manifest(state) => Request::Manifest { feed: state.feed, epoch: state.epoch, seq: state.seq },
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
    pub(super) asked_ms: u64,
    pub(super) reference: Option<Vec<u8>>,
    pub(super) work: VecDeque<Work>,
    pub(super) under_way: Vec<Work>,
    pub(super) manifests: BTreeMap<FeedId, Manifest>,
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
    /// Feeds that no delta leads to.
    pub(super) unreachable: Vec<FeedId>,
}

impl Target {
    /// Lays out the way to a verified head: for each feed a road, and the objects on it. `have` gives the state that the
    /// replica holds, `None` for a feed that must be fetched whole.
    pub(super) fn new<'a>(
        beat: Verified<Beat>,
        head: Verified<Head>,
        asked_ms: u64,
        have: impl Fn(&FeedId) -> Option<&'a FeedState>,
    ) -> Result<Self, Refusal> {
        let mut target = Self {
            beat,
            head,
            asked_ms,
            reference: None,
            work: VecDeque::new(),
            under_way: Vec::new(),
            manifests: BTreeMap::new(),
            deltas: BTreeMap::new(),
            staged: BTreeSet::new(),
            cells_done: 0,
            cells_total: 0,
        };
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
                    target.staged.insert(state.feed);
                    target.cells_total += u64::from(state.count);
                    target.work.push_back(Work::Manifest(state.clone()));
                }
            }
        }
        Ok(target)
    }

    /// Takes in the replies to the requests under way, in their order; what failed is asked for again.
    pub(super) fn take_in_all(&mut self, replies: Vec<Result<Vec<u8>, Failure>>) -> Arrived {
        let mut arrived = Arrived { chunks: Vec::new(), trouble: None, unreachable: Vec::new() };
        let under_way = core::mem::take(&mut self.under_way);
        let missing = under_way.len().saturating_sub(replies.len());
        let replies = replies.into_iter().chain(core::iter::repeat_n(Err(Failure::Offline), missing));
        let mut again = Vec::new();
        for (work, reply) in under_way.into_iter().zip(replies) {
            let result = match reply {
                Ok(body) => self.take_in(&work, &body).map_err(Outcome::Refused),
                Err(failure) => Err(Outcome::Failed(failure)),
            };
            match result {
                Ok(chunk) => arrived.chunks.extend(chunk),
                Err(outcome) => {
                    let gone = matches!(outcome, Outcome::Failed(Failure::NotFound) | Outcome::Refused(_));
                    if let (true, Work::Delta { state, .. }) = (gone, &work) {
                        // R43: The log may have been cut before our position: the next attempt takes the other road.
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
            self.work.push_front(work);
        }
        arrived
    }

    /// Verifies one object and keeps what it brings; a chunk is handed back for staging.
    fn take_in(&mut self, work: &Work, body: &[u8]) -> Result<Option<StagedChunk>, Refusal> {
        match work {
            Work::Manifest(state) => {
                let manifest = Manifest::verify(body, state.count, &state.state_root)?;
                for index in 0..manifest.chunks() {
                    self.work.push_back(Work::Chunk { state: state.clone(), index });
                }
                self.manifests.insert(state.feed, manifest);
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
