//! A device that carries out the effects of the pull machine in memory, over a network that fails on a seed.
//! It must not help the machine: it stores, builds and compares, as the real driver does.

use std::collections::{BTreeMap, BTreeSet};

use cpis_protocol::Refusal;
use cpis_protocol::catch_up::{CatchUp, CaughtUp};
use cpis_protocol::cell::Cell;
use cpis_protocol::grant::Grant;
use cpis_protocol::head::{Beat, FeedState, Head};
use cpis_protocol::id::FeedId;
use cpis_protocol::limits::CHUNK_CELLS;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sign::{Kind, Verified};
use cpis_protocol::sync::Now;
use cpis_protocol::sync::pull::{Comparison, Effect, Input, Outcome, Pinned, Plan, Pull, Source, StagedChunk, Start};
use cpis_protocol::tree::TreeHasher;
use cpis_protocol::trust::{Role, Trust};
use cpis_protocol::withdrawal::Withdrawal;
use cpis_protocol::{compare, replica};

use crate::common::world::{self, T0};
use crate::common::{SeedRng, ok};
use crate::publisher::Publisher;

/// How a feed's generation came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Kept,
    Merged,
    Whole,
}

/// The device.
pub(crate) struct Device {
    pub(crate) pull: Pull,
    pub(crate) trust: Trust,
    pub(crate) replica: BTreeMap<FeedId, (FeedState, Vec<Cell>)>,
    pub(crate) head: Option<Verified<Head>>,
    beat: Option<Verified<Beat>>,
    pub(crate) grant: Verified<Grant>,
    pub(crate) ways: BTreeSet<Way>,
    pub(crate) tick_ms: u64,
    pub(crate) requests: u64,
    pub(crate) knows_time: bool,
    /// Whether the server answers the combined question.
    pub(crate) combines: bool,
    pub(crate) suspended: Option<Verified<Withdrawal>>,
    pub(crate) pinned: Option<Pinned>,
    /// Cells of requests that were answered, and of those for snapshots among them.
    pub(crate) cells: u64,
    pub(crate) chunks: u64,
    staged: BTreeMap<FeedId, (FeedState, BTreeMap<u32, Vec<Cell>>)>,
    /// Records that the disk lost without a word.
    pub(crate) rotten: BTreeMap<FeedId, BTreeSet<usize>>,
}

/// The network and the disk between device and publisher: `chance` in 100 that something goes wrong.
pub(crate) struct Weather {
    pub(crate) chance: u32,
    pub(crate) rng: SeedRng,
    /// Of the next requests that go out together, the first is lost.
    pub(crate) lose_first: bool,
    /// So many replies come through, then the link is gone.
    pub(crate) left: Option<u32>,
    /// Somebody gives bounds that are not the live set's.
    pub(crate) lying_bounds: bool,
}

impl Weather {
    pub(crate) const fn fair() -> Self {
        Self { chance: 0, rng: SeedRng::new(0), lose_first: false, left: None, lying_bounds: false }
    }

    fn strikes(&mut self) -> bool {
        self.rng.below(100) < self.chance
    }

    fn carry(&mut self, publisher: &mut Publisher, request: &Request, now_ms: i64) -> Result<Vec<u8>, Failure> {
        if let Some(left) = self.left.as_mut() {
            *left = left.checked_sub(1).ok_or(Failure::Offline)?;
        }
        let mut honest = publisher.answer(request, now_ms);
        if let (true, Request::Bounds { .. }, Ok(bounds)) = (self.lying_bounds, request, honest.as_mut()) {
            let chunks = bounds.len() as u64 / 8;
            *bounds = (0..chunks).flat_map(|chunk| (chunk * 3 + 1).to_be_bytes()).collect();
        }
        if !self.strikes() {
            return honest;
        }
        let (kind, at) = (self.rng.below(9), self.rng.below(u32::MAX) as usize);
        match kind {
            0 => Err(Failure::NotFound),
            1 => Err(Failure::Retry(Some(self.rng.below(30)))),
            2 => Err([Failure::NotTheServer, Failure::Unauthorised, Failure::EndlessReply, Failure::Refused][at % 4]),
            3 | 4 => {
                let mut body = honest?;
                let length = body.len().max(1);
                if let Some(byte) = body.get_mut(at % length) {
                    *byte ^= 1 << (at % 8);
                }
                Ok(body)
            }
            5 => honest.map(|body| body[..at % body.len().max(1)].to_vec()),
            6 if matches!(request, Request::Beat(_)) => Ok(publisher.beats[at % publisher.beats.len()].clone()),
            7 if matches!(request, Request::Head(_)) => {
                let heads: Vec<_> = publisher.heads.values().collect();
                Ok(heads[at % heads.len()].clone())
            }
            _ => Err(Failure::Offline),
        }
    }
}

impl Device {
    pub(crate) fn new(publisher: &Publisher, with_grant: bool) -> Self {
        let trust = world::trust();
        let grant = ok(Grant::verify(&publisher.grant_bytes(T0), &world::device(), &trust, None));
        let held = grant.clone();
        let start = Start {
            trust: trust.clone(),
            grant,
            beat: None,
            head: None,
            damaged: BTreeSet::new(),
            pinned: None,
            staged: BTreeMap::new(),
            with_grant,
            withdrawn: None,
        };
        Self {
            pull: Pull::new(start),
            trust,
            replica: BTreeMap::new(),
            head: None,
            beat: None,
            grant: held,
            ways: BTreeSet::new(),
            tick_ms: 0,
            requests: 0,
            knows_time: true,
            combines: true,
            suspended: None,
            pinned: None,
            cells: 0,
            chunks: 0,
            staged: BTreeMap::new(),
            rotten: BTreeMap::new(),
        }
    }

    pub(crate) fn now(&self) -> Now {
        let time_ms = T0 + self.tick_ms.cast_signed();
        Now { tick_ms: self.tick_ms, time_ms: self.knows_time.then_some(time_ms) }
    }

    /// One attempt, from waking up to the next wait.
    pub(crate) fn attempt(&mut self, publisher: &mut Publisher, weather: &mut Weather) -> Outcome {
        let mut input = Input::Wake;
        for _ in 0..10_000 {
            let now = self.now();
            let effect = self.pull.step(input, now);
            let disk_full = weather.strikes() && weather.strikes();
            input = match effect {
                Effect::CatchUp(ask) => Input::CaughtUp(self.catch_up(&ask, publisher, weather)),
                Effect::Fetch(requests) => Input::Fetched(self.fetch(&requests, publisher, weather)),
                Effect::Wait { until_ms, outcome } => {
                    assert!(until_ms > self.tick_ms, "a wait of no time would spin");
                    assert!(!self.pull.is_busy());
                    self.tick_ms = until_ms;
                    return outcome;
                }
                Effect::Erase => panic!("nobody withdrew this device"),
                _ if disk_full => Input::StoreFailed,
                Effect::StoreRoot(trust) => {
                    assert_eq!(trust.root().version, self.trust.root().version + 1);
                    self.trust = trust;
                    // R187, as the replica does: a head by a withdrawn key is no copy.
                    let stands = |head: &Verified<Head>| self.trust.stands(Role::Publisher, Kind::Head, head);
                    self.head = self.head.take().filter(stands);
                    Input::Stored
                }
                Effect::StoreGrant { grant, .. } => {
                    self.grant = grant;
                    self.suspended = None;
                    Input::Stored
                }
                Effect::Suspend(word) => {
                    assert_eq!(publisher.suspension, Some(word.number));
                    self.suspended = Some(word);
                    Input::Stored
                }
                Effect::Confirm { beat, .. } => {
                    assert_eq!(self.head.as_ref().map(Verified::hash), Some(beat.head));
                    self.beat = Some(beat);
                    Input::Stored
                }
                Effect::Pin(pinned) => {
                    self.pinned = Some(*pinned);
                    Input::Stored
                }
                Effect::Compare(comparisons) => self.compare(comparisons),
                Effect::Stage(chunks) => self.stage(chunks),
                Effect::Apply(plan) => Input::Applied(self.apply(&plan)),
            };
        }
        panic!("an attempt without an end")
    }

    fn fetch(
        &mut self,
        requests: &[Request],
        publisher: &mut Publisher,
        weather: &mut Weather,
    ) -> Vec<Result<Vec<u8>, Failure>> {
        assert!((1..=8).contains(&requests.len()), "{} requests at once", requests.len());
        self.requests += requests.len() as u64;
        self.tick_ms += 50;
        let now_ms = T0 + self.tick_ms.cast_signed();
        let mut replies: Vec<_> = requests.iter().map(|r| weather.carry(publisher, r, now_ms)).collect();
        for (request, reply) in requests.iter().zip(&replies) {
            let cells = reply.as_ref().map_or(0, |body| body.len() as u64 / 160);
            match request {
                Request::Chunk { .. } if reply.is_ok() => {
                    (self.chunks, self.cells) = (self.chunks + 1, self.cells + cells);
                }
                Request::Delta { .. } => self.cells += cells,
                _ => {}
            }
        }
        if weather.lose_first && replies.len() > 1 {
            weather.lose_first = false;
            replies[0] = Err(Failure::Offline);
        }
        if weather.strikes() {
            replies.pop();
        }
        replies
    }

    fn catch_up(
        &mut self,
        ask: &CatchUp,
        publisher: &mut Publisher,
        weather: &mut Weather,
    ) -> Result<CaughtUp, Failure> {
        if !self.combines {
            return Err(Failure::NotFound);
        }
        self.requests += 1;
        self.tick_ms += 50;
        let request = Request::CatchUp(ok(ask.to_bytes()));
        let reply = weather.carry(publisher, &request, T0 + self.tick_ms.cast_signed())?;
        CaughtUp::read(&reply).map_err(|_| Failure::Refused)
    }

    fn stage(&mut self, chunks: Vec<StagedChunk>) -> Input {
        for chunk in chunks {
            let (state, staged) =
                self.staged.entry(chunk.state.feed).or_insert_with(|| (chunk.state.clone(), BTreeMap::new()));
            assert_eq!(*state, chunk.state, "chunks of two states mixed");
            staged.insert(chunk.index, chunk.cells);
        }
        Input::Stored
    }

    /// The cells of a copy that can still be read, each with its place.
    fn readable(&self, feed: &FeedId) -> Vec<(usize, Cell)> {
        let rotten = self.rotten.get(feed).cloned().unwrap_or_default();
        let cells = self.replica.get(feed).map(|(_, cells)| cells.iter().enumerate());
        cells
            .into_iter()
            .flatten()
            .filter(|(at, _)| !rotten.contains(at))
            .map(|(at, cell)| (at, cell.clone()))
            .collect()
    }

    fn compare(&mut self, comparisons: Vec<Comparison>) -> Input {
        let mut held = Vec::new();
        for Comparison { state, manifest, bounds } in comparisons {
            let old = self.staged.remove(&state.feed);
            let mut staged = BTreeMap::new();
            let own = self.replica.get(&state.feed).map(|(own, _)| own.epoch);
            let mut sources: Vec<Vec<(usize, Cell)>> = Vec::new();
            if own == Some(state.epoch) {
                sources.push(self.readable(&state.feed));
            }
            if let Some((old, chunks)) = old.filter(|(old, _)| old.epoch == state.epoch) {
                if old == state {
                    staged = chunks;
                } else {
                    sources.push(chunks.into_values().flatten().map(|cell| (usize::MAX, cell)).collect());
                }
            }
            for cells in sources {
                let mut keep = |index, cells| {
                    staged.entry(index).or_insert(cells);
                    Ok::<_, Refusal>(())
                };
                match &bounds {
                    Some(bounds) => {
                        ok(compare::by_range(cells.into_iter().map(|(_, cell)| cell), bounds, &manifest, &mut keep));
                    }
                    None => (0..manifest.chunks()).for_each(|index| {
                        let here = cells.iter().filter(|(at, _)| at / CHUNK_CELLS as usize == index as usize);
                        let here: Vec<Cell> = here.map(|(_, cell)| cell.clone()).collect();
                        if manifest.check_chunk(index, &replica::leaves(&here)).is_ok() {
                            ok(keep(index, here));
                        }
                    }),
                }
            }
            held.push((state.feed, staged.keys().copied().collect()));
            self.staged.insert(state.feed, (state, staged));
        }
        Input::Compared(held)
    }

    /// The process ends and begins again: what was in memory only is gone.
    pub(crate) fn restart(&mut self, damaged: BTreeSet<FeedId>) {
        self.begin_again(damaged, self.suspended.clone());
    }

    /// The same, with this as the last suspension that is stored.
    pub(crate) fn restart_told(&mut self, withdrawn: Option<Verified<Withdrawal>>) {
        self.begin_again(BTreeSet::new(), withdrawn);
    }

    fn begin_again(&mut self, damaged: BTreeSet<FeedId>, withdrawn: Option<Verified<Withdrawal>>) {
        self.pull = Pull::new(Start {
            trust: self.trust.clone(),
            grant: self.grant.clone(),
            beat: self.beat.clone(),
            head: self.head.clone(),
            damaged,
            pinned: self.pinned.clone(),
            staged: self.staged.iter().map(|(feed, (state, _))| (*feed, state.clone())).collect(),
            with_grant: true,
            withdrawn,
        });
    }

    /// Builds every feed aside, compares each root, and flips all or nothing.
    fn apply(&mut self, plan: &Plan) -> Result<(), Vec<FeedId>> {
        check_plan(plan, &self.trust);
        assert!(self.grant.covers(&plan.head), "R49: a flip to a copy that no granted key opens");
        assert!(self.head.as_ref().is_none_or(|old| plan.head.gseq >= old.gseq), "the copy went back");
        assert!(plan.reference.is_some() || self.head.as_ref().is_some_and(|old| old.reference == plan.head.reference));
        let mut next = BTreeMap::new();
        let mut wrong = Vec::new();
        for (state, source) in plan.head.feeds.iter().zip(&plan.sources) {
            match self.build(state, source) {
                Ok(cells) => drop(next.insert(state.feed, (state.clone(), cells))),
                Err(_) => wrong.push(state.feed),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        self.staged.clear();
        self.rotten.clear();
        self.pinned = None;
        self.beat = Some(plan.beat.clone());
        self.replica = next;
        self.head = Some(plan.head.clone());
        Ok(())
    }

    fn build(&mut self, state: &FeedState, source: &Source) -> Result<Vec<Cell>, Refusal> {
        let old = self.replica.get(&state.feed).map(|(_, cells)| cells.clone()).unwrap_or_default();
        let (way, cells) = match source {
            Source::Unchanged => (Way::Kept, old),
            Source::Delta(cells) => {
                let merged = replica::merge(old.into_iter().map(Ok::<_, Refusal>), replica::changes(cells));
                (Way::Merged, merged.collect::<Result<_, _>>()?)
            }
            Source::Staged => {
                let staged = self.staged.get(&state.feed).filter(|(staged, _)| staged == state);
                let chunks = staged.into_iter().flat_map(|(_, chunks)| chunks.values());
                (Way::Whole, chunks.flatten().cloned().collect())
            }
        };
        self.ways.insert(way);
        let mut tree = TreeHasher::default();
        cells.iter().for_each(|cell| tree.push(cell.leaf()));
        replica::check_state(&tree, state)?;
        Ok(cells)
    }
}

/// What no input may bring about: a plan whose beat or head is not signed under the root in force.
pub(crate) fn check_plan(plan: &Plan, trust: &Trust) {
    let scope = plan.beat.scope;
    let beat = ok(Beat::verify(plan.beat.bytes(), &scope, trust, None, None));
    let head = ok(Head::verify(plan.head.bytes(), &beat.head, &scope, trust));
    assert_eq!((&*head, head.gseq), (&*plan.head, beat.gseq));
    assert_eq!(plan.sources.len(), head.feeds.len());
}
