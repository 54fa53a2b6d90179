//! What a device holds that others of its scope may have: the same requests, answered from its present copy as the server
//! would. Works with the vault locked: everything here is sealed or signed for every device of the scope.
//! It must not give what is not proved, nor anything of this device alone: no grant, no key, no audit.

use cpis_protocol::cell::{CELL_BYTES, Cell};
use cpis_protocol::compare::Bounds;
use cpis_protocol::head::FeedState;
use cpis_protocol::id::{Epoch, FeedId, FeedSeq, RegisterSeq, ScopeId, UnixMs};
use cpis_protocol::limits::CHUNK_CELLS;
use cpis_protocol::message::Request;
use cpis_protocol::tree::{self, Manifest};

use crate::agent::Agent;
use crate::port::Generation;

/// What the present copy is.
#[derive(Debug, Clone)]
pub struct Holdings {
    /// Its scope.
    pub scope: ScopeId,
    /// The register sequence.
    pub gseq: RegisterSeq,
    /// The time of its newest beat.
    pub as_at_ms: UnixMs,
    /// Live cells in all feeds.
    pub cells: u64,
    head: [u8; 32],
    reference: [u8; 32],
    feeds: Vec<FeedState>,
}

/// Why there is nothing to hand on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NothingHeld {
    /// There is no whole copy.
    #[error("this device holds no whole copy yet: bring it up to date first (cpis-agent sync)")]
    NoCopy,
    /// The device was suspended or erased.
    #[error("this device was withdrawn from use, or its lease is over: it hands nothing on")]
    Withdrawn,
}

impl Holdings {
    /// The present copy.
    ///
    /// # Errors
    /// [`NothingHeld`].
    pub fn of(agent: &Agent) -> Result<Self, NothingHeld> {
        if agent.barred().is_some() {
            return Err(NothingHeld::Withdrawn);
        }
        let view = agent.replica().view();
        let (Some(beat), Some(head), true) = (&view.beat, &view.head, view.is_proved()) else {
            return Err(NothingHeld::NoCopy);
        };
        Ok(Self {
            scope: beat.scope,
            gseq: head.gseq,
            as_at_ms: beat.issued_ms,
            cells: head.feeds.iter().map(|state| u64::from(state.count)).sum(),
            head: head.hash(),
            reference: head.reference,
            feeds: head.feeds.clone(),
        })
    }

    /// Every request that the copy answers, oldest root first, in the order in which a device asks.
    #[must_use]
    pub fn requests(&self, agent: &Agent) -> Vec<Request> {
        let newest = agent.trust().root().version;
        let oldest = (1..newest).rev().take_while(|version| agent.replica().kept_root(*version).is_some()).last();
        let mut requests: Vec<_> = (oldest.unwrap_or(newest)..=newest).map(Request::Root).collect();
        requests.extend([Request::Beat(self.scope), Request::Head(self.head), Request::Reference(self.reference)]);
        for state in &self.feeds {
            let (feed, epoch, seq) = (state.feed, state.epoch, state.seq);
            requests.push(Request::Manifest { feed, epoch, seq });
            let chunks = 0..state.count.div_ceil(CHUNK_CELLS);
            requests.extend(chunks.map(|index| Request::Chunk { feed, epoch, seq, index }));
        }
        requests
    }
}

/// The answer to one request; `None` where the present copy does not hold it. Blocks for the disk.
#[must_use]
pub fn answer(agent: &Agent, request: &Request) -> Option<Vec<u8>> {
    if agent.barred().is_some() {
        return None;
    }
    match request {
        Request::Root(version) => {
            let trust = agent.trust();
            if trust.root().version == *version {
                return Some(trust.root().bytes().to_vec());
            }
            agent.replica().kept_root(*version)
        }
        Request::Manifest { feed, epoch, seq } => manifest(agent, *feed, *epoch, *seq),
        Request::Bounds { feed, epoch, seq } => bounds(agent, *feed, *epoch, *seq),
        Request::Chunk { feed, epoch, seq, index } => {
            let (_, generation) = held(agent, *feed, *epoch, *seq)?;
            chunk(agent, *feed, generation, *index)
        }
        request => signed(agent, request),
    }
}

/// Beat, head and reference data. Everything else there is, is not handed on.
fn signed(agent: &Agent, request: &Request) -> Option<Vec<u8>> {
    let view = agent.replica().view();
    let (Some(beat), Some(head), true) = (&view.beat, &view.head, view.is_proved()) else { return None };
    match request {
        Request::Beat(scope) if beat.scope == *scope => Some(beat.bytes().to_vec()),
        Request::Head(hash) if head.hash() == *hash => Some(head.bytes().to_vec()),
        Request::Reference(hash) if head.reference == *hash => view.reference.encode().ok(),
        _ => None,
    }
}

/// The feed's state and generation, where the present copy has it at this place.
fn held(agent: &Agent, feed: FeedId, epoch: Epoch, seq: FeedSeq) -> Option<(FeedState, Generation)> {
    let view = agent.replica().view();
    let copy = view.feeds.get(&feed).filter(|_| view.is_proved())?;
    let state = copy.state();
    (state.epoch == epoch && state.seq == seq).then(|| (state.clone(), copy.generation()))
}

/// The copy is held for one chunk at a time: a flip must not wait for whoever reads slowly.
fn chunk(agent: &Agent, feed: FeedId, generation: Generation, index: u32) -> Option<Vec<u8>> {
    let view = agent.replica().view();
    let copy = view.feeds.get(&feed).filter(|copy| copy.generation() == generation)?;
    copy.chunk(agent.replica().store(), index).ok()
}

/// Not proved: wrong ones cost bytes (R253).
fn bounds(agent: &Agent, feed: FeedId, epoch: Epoch, seq: FeedSeq) -> Option<Vec<u8>> {
    let (state, generation) = held(agent, feed, epoch, seq)?;
    let first = (0..state.count.div_ceil(CHUNK_CELLS)).map(|index| {
        let cells = chunk(agent, feed, generation, index)?;
        Some(Cell::read_all(cells.get(..CELL_BYTES)?).ok()?.first()?.blind())
    });
    Some(Bounds::from_first(first.collect::<Option<Vec<_>>>()?).to_bytes())
}

fn manifest(agent: &Agent, feed: FeedId, epoch: Epoch, seq: FeedSeq) -> Option<Vec<u8>> {
    let (state, generation) = held(agent, feed, epoch, seq)?;
    let mut bytes = Vec::new();
    for index in 0..state.count.div_ceil(CHUNK_CELLS) {
        let cells = chunk(agent, feed, generation, index)?;
        bytes.extend(tree::root(cells.chunks_exact(CELL_BYTES).map(tree::leaf)));
    }
    // R275: as the head has it, or not at all.
    Manifest::verify(&bytes, state.count, &state.state_root).ok()?;
    Some(bytes)
}
