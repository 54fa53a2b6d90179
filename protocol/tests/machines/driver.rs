//! A device that carries out the effects of the pull machine in memory, over a network that fails on a seed.
//! It must not help the machine: it stores, builds and compares, as the real driver does.

use std::collections::{BTreeMap, BTreeSet};

use cpis_protocol::Refusal;
use cpis_protocol::catch_up::{CatchUp, CaughtUp};
use cpis_protocol::cell::Cell;
use cpis_protocol::grant::Grant;
use cpis_protocol::head::{Beat, FeedState, Head};
use cpis_protocol::id::FeedId;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::replica;
use cpis_protocol::sign::{Kind, Verified};
use cpis_protocol::sync::Now;
use cpis_protocol::sync::pull::{Effect, Input, Outcome, Plan, Pull, Source, StagedChunk, Start};
use cpis_protocol::tree::TreeHasher;
use cpis_protocol::trust::{Role, Trust};
use cpis_protocol::withdrawal::Withdrawal;

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
    pub(crate) grant: Verified<Grant>,
    pub(crate) ways: BTreeSet<Way>,
    pub(crate) tick_ms: u64,
    pub(crate) requests: u64,
    pub(crate) knows_time: bool,
    /// Whether the server answers the combined question.
    pub(crate) combines: bool,
    pub(crate) suspended: Option<Verified<Withdrawal>>,
    staged: BTreeMap<(FeedId, u32, u32), Vec<Cell>>,
}

/// The network and the disk between device and publisher: `chance` in 100 that something goes wrong.
pub(crate) struct Weather {
    pub(crate) chance: u32,
    pub(crate) rng: SeedRng,
    /// Of the next requests that go out together, the first is lost.
    pub(crate) lose_first: bool,
}

impl Weather {
    pub(crate) const fn fair() -> Self {
        Self { chance: 0, rng: SeedRng::new(0), lose_first: false }
    }

    fn strikes(&mut self) -> bool {
        self.rng.below(100) < self.chance
    }

    fn carry(&mut self, publisher: &mut Publisher, request: &Request, now_ms: i64) -> Result<Vec<u8>, Failure> {
        let honest = publisher.answer(request, now_ms);
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
            with_grant,
            withdrawn: None,
        };
        Self {
            pull: Pull::new(start),
            trust,
            replica: BTreeMap::new(),
            head: None,
            grant: held,
            ways: BTreeSet::new(),
            tick_ms: 0,
            requests: 0,
            knows_time: true,
            combines: true,
            suspended: None,
            staged: BTreeMap::new(),
        }
    }

    /// As after a restart: another machine over what is stored, the last suspension among it.
    pub(crate) fn restart(&mut self, withdrawn: Option<Verified<Withdrawal>>) {
        self.pull = Pull::new(Start {
            trust: self.trust.clone(),
            grant: self.grant.clone(),
            beat: None,
            head: self.head.clone(),
            damaged: BTreeSet::new(),
            with_grant: true,
            withdrawn,
        });
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
                    Input::Stored
                }
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
            self.staged.insert((chunk.state.feed, chunk.state.seq, chunk.index), chunk.cells);
        }
        Input::Stored
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
        self.staged.clear();
        if !wrong.is_empty() {
            return Err(wrong);
        }
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
                let chunks = self.staged.range((state.feed, state.seq, 0)..=(state.feed, state.seq, u32::MAX));
                (Way::Whole, chunks.flat_map(|(_, cells)| cells.clone()).collect())
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
