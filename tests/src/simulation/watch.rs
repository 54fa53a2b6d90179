//! The invariants of the design's section 3, checked on a running agent after every step against what is true.
//! It must not trust the agent in anything that it can ask the server's database or the simulation instead.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use cpis_agent::agent::Agent;
use cpis_agent::port::Generation;
use cpis_protocol::answer::CannotAnswer;
use cpis_protocol::audit::ErasureCause;
use cpis_protocol::digest::Hash;
use cpis_protocol::id::{RegisterSeq, ScopeId, UnixMs};
use cpis_protocol::replica;
use cpis_server::port::{Inbox as _, Store as _, StoreError};

use super::device::Device;
use super::server::BEAT_EVERY_S;
use super::{World, presence};

/// What a signed time may be older than the question for it, and rounding.
const HONEST_MS: i64 = BEAT_EVERY_S as i64 * 1000 + 1000;
/// What a device's time may be ahead of the true time: signed time counts from the question, and the answer may take as
/// long as the client waits; before a question for a grant the device reports, which may take as long again. On that
/// side a copy looks older than it is.
const AHEAD_MS: i64 = 122_000;
/// What a lease may be short of its end when it is taken for over.
const LEASE_MS: i64 = 182_000;

/// What is known of one device from the steps before.
#[derive(Debug, Default)]
pub struct Watch {
    boot: u64,
    time_ms: Option<UnixMs>,
    /// Within this boot its time was once as true as an honest server makes it.
    within: bool,
    /// How old the oldest signed time is that a liar gave it within this boot.
    replayed_ms: i64,
    root: u32,
    grant: u64,
    /// For each scope the sequence of the copy, and the signed time that it is as at.
    newest: BTreeMap<ScopeId, (RegisterSeq, UnixMs)>,
    proved: bool,
    /// Of which scope the copy is.
    scope: Option<ScopeId>,
    /// Its storage was damaged, so that the copy may be gone.
    pub spoilt: bool,
    checked: Option<(Hash, Vec<u64>)>,
    /// Other copies so far.
    flips: usize,
    /// The chain as it was told to be on stable storage.
    pub chain: BTreeMap<u64, Hash>,
    acknowledged: u64,
    /// An audit batch was changed on the way: what came of it was set aside.
    pub tampered: bool,
    /// An operator suspended it, ever.
    pub suspended: bool,
    /// How often something was checked.
    pub checks: u64,
}

impl Watch {
    /// The agent starts again: what it learnt of the time and could not store it does not know any more.
    pub const fn started(&mut self) {
        (self.time_ms, self.within) = (None, false);
    }

    /// Its storage is lost, and with it what the copy was: how old the next one may be only its beat's validity bounds.
    pub fn lost_its_store(&mut self) {
        self.newest.clear();
    }

    /// A liar gave the device a signed time that was this old.
    pub fn was_replayed(&mut self, age_ms: i64) {
        self.replayed_ms = self.replayed_ms.max(age_ms);
    }

    /// A liar changed what the device uploaded.
    pub const fn was_tampered_with(&mut self) {
        self.tampered = true;
    }

    /// How far the device's time may be behind the true time.
    #[must_use]
    pub const fn behind_ms(&self) -> i64 {
        if self.within { HONEST_MS } else { HONEST_MS + self.replayed_ms }
    }

    /// Everything, once.
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn check(&mut self, world: &World, device: &Device, agent: &Agent) -> anyhow::Result<()> {
        self.checks += 1;
        let version = agent.trust().root().version;
        ensure!(version >= self.root, "the trusted root went back from {} to {version}", self.root);
        let new_root = version > self.root;
        self.root = version;
        self.time(world, device, agent, new_root)?;
        self.withdrawal(world, device, agent)?;
        self.copy(world, agent, new_root)?;
        self.audit(world, device, agent)
    }

    /// Invariant 10: time only moves forward, and age is never understated.
    fn time(&mut self, world: &World, device: &Device, agent: &Agent, new_root: bool) -> anyhow::Result<()> {
        let boot = device.machine.clock.boot_number();
        if boot != self.boot {
            (self.boot, self.time_ms, self.within, self.replayed_ms) = (boot, None, false, 0);
        }
        if new_root {
            // What a withdrawn key dated is let go of (R187).
            self.time_ms = None;
        }
        let Some(now_ms) = agent.now().time_ms else {
            ensure!(self.time_ms.is_none(), "the time was known in this boot and is not any more");
            return Ok(());
        };
        let true_ms = world.time.now_ms();
        ensure!(now_ms <= true_ms + AHEAD_MS, "its time is {} ms ahead", now_ms - true_ms);
        ensure!(self.time_ms.is_none_or(|before| now_ms >= before), "its time went back");
        self.time_ms = Some(now_ms);
        let behind_ms = true_ms - now_ms;
        self.within |= behind_ms <= HONEST_MS;
        let may_ms = self.behind_ms();
        ensure!(behind_ms <= may_ms, "its time is {behind_ms} ms behind, and may be {may_ms}: ages are understated");
        Ok(())
    }

    /// Nobody erases or suspends a device but its own server, or the end of its lease.
    fn withdrawal(&mut self, world: &World, device: &Device, agent: &Agent) -> anyhow::Result<()> {
        if let Some(erasure) = agent.erasure() {
            match erasure.cause {
                ErasureCause::LeaseExpired => ensure!(
                    world.time.now_ms() + LEASE_MS >= erasure.lease_until_ms,
                    "it was erased before its lease was over"
                ),
                _ => ensure!(world.server.device(device.id)?.state.is_final(), "it was erased, and is not withdrawn"),
            }
            self.grant = 0;
            return Ok(());
        }
        let number = agent.grant().number;
        ensure!(number >= self.grant, "its grant went back from {} to {number}", self.grant);
        self.grant = number;
        let suspended = agent.barred() == Some(CannotAnswer::Suspended);
        ensure!(!suspended || self.suspended, "it is suspended, and nobody suspended it");
        Ok(())
    }

    /// Invariants 1, 5, 6, 7: what a look-up can see is the live set of one published head; it never goes back; and the
    /// last good copy keeps answering.
    fn copy(&mut self, world: &World, agent: &Agent, new_root: bool) -> anyhow::Result<()> {
        let view = agent.replica().view();
        let whole = view.is_proved() && view.head.is_some() && view.beat.is_some();
        // A grant that moves the device to another scope leaves it without a copy until the next sync.
        let moved = self.scope.is_some_and(|scope| scope != agent.grant().scope);
        let excused = self.spoilt || new_root || moved || agent.erasure().is_some();
        ensure!(
            whole || !self.proved || excused,
            "the copy was good and cannot answer any more: head {}, beat {}, unreadable {}, damaged {:?}",
            view.head.is_some(),
            view.beat.is_some(),
            view.unreadable,
            view.damaged
        );
        // Damage comes while the device is off, and every start proves all of the copy.
        self.spoilt &= !whole;
        // What a new root withdrew, or the disk lost, comes back with the next sync.
        self.proved = whole;
        let (Some(head), true) = (&view.head, whole) else { return Ok(()) };
        self.scope = Some(head.scope);
        let as_at_ms = view.beat.as_ref().map_or(0, |beat| beat.issued_ms);
        let (gseq, before_ms) = self.newest.entry(head.scope).or_default();
        ensure!(head.gseq >= *gseq, "the copy went back from {gseq} to {}", head.gseq);
        ensure!(as_at_ms >= *before_ms || new_root, "what the copy is as at went back");
        (*gseq, *before_ms) = (head.gseq, as_at_ms);
        let generations: Vec<Generation> = view.feeds.values().map(cpis_agent::replica::FeedCopy::generation).collect();
        let state = Some((head.hash(), generations));
        if self.checked == state {
            return Ok(());
        }
        let published = world.server.head(&head.hash())?.context("the copy is of a head that was never published")?;
        ensure!(published == **head, "the copy's head is not the published one");
        ensure!(published.feeds.len() == view.feeds.len(), "the copy has other feeds than its head");
        for state in &published.feeds {
            let copy = view.feeds.get(&state.feed).context("a feed of the head is not in the copy")?;
            let cells = copy.cells(agent.replica().store()).collect::<Result<Vec<_>, _>>();
            let Ok(cells) = cells else {
                ensure!(self.spoilt, "a feed of the copy cannot be read");
                continue;
            };
            let found = replica::state_root(&cells);
            ensure!(found == (state.count, state.state_root), "feed {} is not the live set of its head", state.feed);
        }
        self.checked = state;
        self.flips += 1;
        presence::check(world, &view, &published, self.flips)
    }

    /// Invariants 3 and 4: what is on stable storage stays, and goes only on a receipt for what the server has stored.
    fn audit(&mut self, world: &World, device: &Device, agent: &Agent) -> anyhow::Result<()> {
        let journal = agent.journal();
        let (tip, acknowledged) = (journal.tip(), journal.acknowledged());
        let last = self.chain.last_key_value().map_or(0, |(seq, _)| *seq);
        ensure!(tip.seq >= last, "the audit chain lost {} events that were on stable storage", last - tip.seq);
        for seq in last.max(acknowledged.seq.saturating_sub(1))..=tip.seq {
            let Some(hash) = journal.hash_at(seq).filter(|_| seq > 0) else { continue };
            let known = *self.chain.entry(seq).or_insert(hash);
            ensure!(known == hash, "event {seq} of the audit chain is another than before");
        }
        ensure!(acknowledged.seq >= self.acknowledged, "the receipts went back");
        if acknowledged.seq > self.acknowledged {
            let service = world.server.service();
            let stored = service
                .store()
                .read::<_, StoreError>(|tx| tx.link_hash(device.id, acknowledged.chain, acknowledged.seq))?;
            ensure!(
                stored == Some(acknowledged.hash),
                "a receipt covers event {}, which the server has not",
                acknowledged.seq
            );
            self.acknowledged = acknowledged.seq;
        }
        Ok(())
    }
}
