//! The people on a device: they unlock, ask, reveal and lock, and every answer is held against the truth.
//! It must not excuse an answer that a reason would have to be given for.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use cpis_agent::agent::Agent;
use cpis_agent::lookup::{self, Question, Reply, Revealed};
use cpis_protocol::answer::{Answer, CannotAnswer, CopyStatement};
use cpis_protocol::id::PractitionerId;
use cpis_protocol::policy::Freshness;
use tokio::time::sleep;

use super::World;
use super::device::Device;
use super::dice::Dice;
use super::enrolment::PASSPHRASE;
use super::register::{self, CHILDREN, Plan};
use super::server::PRACTITIONER;

const MINUTE_MS: u64 = 60_000;
/// Look-ups that are in no chain are numbered from here.
const UNRECORDED_FROM: u64 = 1 << 52;

/// What a crew was told, and must be in the audit.
#[derive(Debug, Default)]
pub struct Told {
    /// For each incident that was given an answer, how many events must name it at least.
    pub recorded: BTreeMap<String, usize>,
    /// Answers under break-glass that were counted instead.
    pub unrecorded: u64,
    /// Questions asked.
    pub asked: u64,
}

impl Device {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the daemon's timers do.
pub async fn timers(world: Arc<World>, device: Arc<Device>, agent: Arc<Agent>) {
    let mut last = None;
    for tick in 1u64.. {
        sleep(Duration::from_millis(5 * MINUTE_MS)).await;
        agent.attend();
        agent.tell_unrecorded();
        if let Err(error) = agent.erase_if_expired() {
            world.say(&device.name, format!("erasure: {error}"));
        }
        if tick % 6 == 0
            && let Err(error) = agent.replica().raise_floor(agent.clock().reading())
        {
            world.say(&device.name, format!("floor: {error}"));
        }
        let now = agent.sync_status().get().last_outcome;
        if now != last {
            world.say(&device.name, format!("sync: {}", now.as_deref().unwrap_or("-")));
            last = now;
        }
        device.examine(&world, "ticks");
    }
}

/// Works until the device ends.
pub async fn work(world: Arc<World>, device: Arc<Device>, agent: Arc<Agent>) {
    let mut dice = device.dice("crew");
    loop {
        sleep(Duration::from_millis(dice.between(2 * MINUTE_MS, 240 * MINUTE_MS))).await;
        if !unlock(&world, &device, &agent, &mut dice) {
            continue;
        }
        if dice.chance(80) {
            let broken = agent.break_glass("a simulated reason", true);
            world.say(&device.name, format!("breaks the glass: {}", broken.map_or_else(|e| e.code(), |_| "yes")));
        }
        for _ in 0..dice.between(1, 3) {
            let child = dice.place(CHILDREN);
            if let Err(error) = ask(&world, &device, &agent, child, dice.chance(500)) {
                world.broken(format!("{}: about child {child}: {error:#}", device.name));
            }
            device.examine(&world, "answers");
            sleep(Duration::from_millis(dice.between(1, 30_000))).await;
        }
        if dice.chance(300) {
            agent.lock();
        }
    }
}

/// Unlocks; false when the device is not for use.
fn unlock(world: &World, device: &Device, agent: &Agent, dice: &mut Dice) -> bool {
    agent.attend();
    if agent.vault().holder().is_some() {
        return true;
    }
    if dice.chance(30) {
        let wrong = agent.unlock(PRACTITIONER, "not the passphrase of anybody");
        world.say(&device.name, format!("a wrong passphrase: {}", wrong.map_or_else(|e| e.code(), |_| "opens")));
        return false;
    }
    match agent.unlock(PRACTITIONER, PASSPHRASE) {
        Ok(_) => true,
        Err(error) => {
            world.say(&device.name, format!("stays locked: {}", error.code()));
            false
        }
    }
}

/// Asks about a child, and holds the answer against the truth.
///
/// # Errors
/// What is not as it must be.
pub fn ask(world: &World, device: &Device, agent: &Agent, child: usize, reveal: bool) -> anyhow::Result<()> {
    let (number, birth) = register::identity(child)?;
    let incident = {
        let mut told = device.told();
        told.asked += 1;
        format!("{}-{}", device.name, told.asked)
    };
    let question =
        Question { number: number.digits(), birth: birth.iso(), area: None, incident: Some(incident.clone()) };
    let reply = lookup::look_up(agent, &question);
    if device.machine.power.is_off().is_some() {
        // Nobody saw it.
        return Ok(());
    }
    world.say(&device.name, format!("child {child}: {}", word(&reply.answer)));
    match reply.look_up {
        Some(seq) if seq >= UNRECORDED_FROM => device.told().unrecorded += 1,
        Some(_) => *device.told().recorded.entry(incident).or_default() += 1,
        None => {}
    }
    judge(world, device, agent, child, &reply)?;
    let (Answer::Flagged { .. }, Some(look_up), true) = (&reply.answer, reply.look_up, reveal) else { return Ok(()) };
    let incident = format!("r{look_up}-{}", device.name);
    match lookup::reveal(agent, look_up, None, Some(&incident)) {
        Ok(_) if device.machine.power.is_off().is_some() => Ok(()),
        Ok(revealed) => {
            if look_up < UNRECORDED_FROM
                && !agent.glass_is_broken(PRACTITIONER.parse().unwrap_or(PractitionerId::EMPTY))
            {
                *device.told().recorded.entry(incident.chars().take(16).collect()).or_default() += 1;
            }
            judge_reveal(world, agent, child, &revealed)
        }
        Err(error) => {
            world.say(&device.name, format!("reveals nothing: {error}"));
            Ok(())
        }
    }
}

fn word(answer: &Answer) -> String {
    match answer {
        Answer::Flagged { copy } => format!("flagged, as at {} ({} s old)", copy.gseq, copy.age_s),
        Answer::NotInThisCopy { copy } => format!("not in this copy, as at {} ({} s old)", copy.gseq, copy.age_s),
        Answer::CannotAnswer { reason } => format!("cannot answer: {}", reason.code()),
        Answer::OutOfCoverage { .. } => "out of coverage".into(),
    }
}

/// The plans that a copy must show of a child: all that there are, if one of them is in a feed of the copy. `None` where
/// it is not sure: the device's time and the true time disagree about one, or one that is over is not taken out yet.
fn expected(world: &World, agent: &Agent, child: usize, copy: &CopyStatement) -> anyhow::Result<Option<Vec<Plan>>> {
    let head = world.server.head(&copy.head)?.context("an answer from a head that was never published")?;
    ensure!(head.gseq == copy.gseq, "an answer names another sequence than its head");
    let device_ms = agent.now().time_ms.context("an answer without a time")?;
    let truth = world.server.truth();
    let plans = truth.at(head.gseq).and_then(|plans| plans.get(&child)).cloned().unwrap_or_default();
    let (mut shown, mut covered, true_ms) = (Vec::new(), false, world.time.now_ms());
    let several = plans.len() > 1;
    for plan in plans {
        match (plan.is_visible(device_ms), plan.is_visible(true_ms)) {
            (true, true) => {
                covered |= head.feed(&plan.feed).is_some();
                shown.push(plan);
            }
            (false, false) if !several => {}
            _ => return Ok(None),
        }
    }
    Ok(Some(if covered { shown } else { Vec::new() }))
}

fn judge(world: &World, device: &Device, agent: &Agent, child: usize, reply: &Reply) -> anyhow::Result<()> {
    let copy = match &reply.answer {
        Answer::CannotAnswer { reason } => return judge_refusal(world, device, agent, *reason),
        Answer::OutOfCoverage { .. } => return Err(anyhow::anyhow!("out of coverage, and nobody asked for an area")),
        Answer::Flagged { copy } | Answer::NotInThisCopy { copy } => copy,
    };
    ensure!(reply.look_up.is_some(), "an answer that is not in the audit");
    // Invariant 10: never younger than it is.
    let true_age_ms = world.time.now_ms() - copy.as_at_ms;
    let behind_ms = device.watch().behind_ms();
    ensure!(
        copy.age_s * 1000 + 999 + behind_ms >= true_age_ms,
        "a copy {true_age_ms} ms old is said to be {} s old",
        copy.age_s
    );
    let flagged = matches!(reply.answer, Answer::Flagged { .. });
    ensure!(flagged || copy.freshness < Freshness::Stale, "a stale copy said that somebody is not in it");
    if let Some(plans) = expected(world, agent, child, copy)? {
        // Invariant 7 among others: whoever has a plan anywhere in the copy's feeds is found.
        ensure!(flagged != plans.is_empty(), "flagged is {flagged}, and there are {} plans", plans.len());
    }
    Ok(())
}

/// Whether there was a reason for the reason.
fn judge_refusal(world: &World, device: &Device, agent: &Agent, reason: CannotAnswer) -> anyhow::Result<()> {
    let now_ms = agent.now().time_ms;
    let view = agent.replica().view();
    let has = match reason {
        CannotAnswer::NeverSynced => {
            view.head.as_ref().is_none_or(|head| head.scope != agent.grant().scope) || view.beat.is_none()
        }
        CannotAnswer::Stale => {
            let age_s = now_ms.zip(view.beat.as_ref()).map(|(now_ms, beat)| (now_ms - beat.issued_ms) / 1000);
            age_s.is_some_and(|age_s| agent.grant().policy.freshness(age_s) >= Freshness::Stale)
        }
        CannotAnswer::LeaseExpired => {
            agent.erasure().is_some() || now_ms.is_some_and(|now_ms| now_ms >= agent.grant().lease_until_ms)
        }
        CannotAnswer::Revoked => world.server.device(device.id)?.state.is_final(),
        CannotAnswer::IntegrityFailure => !view.is_proved() || device.watch().spoilt,
        CannotAnswer::AgeUnknown => now_ms.is_none(),
        CannotAnswer::VaultLocked | CannotAnswer::Suspended => true,
        CannotAnswer::AuditCannotBeWritten => world.is_faulty(),
        CannotAnswer::InvalidNumber
        | CannotAnswer::NumberOutsideRange
        | CannotAnswer::RateLimited
        | CannotAnswer::InvalidName
        | CannotAnswer::Crowded
        | CannotAnswer::KeyMissing => false,
    };
    ensure!(has, "cannot answer: {}, and there is no reason to", reason.code());
    Ok(())
}

fn judge_reveal(world: &World, agent: &Agent, child: usize, revealed: &Revealed) -> anyhow::Result<()> {
    let Some(plans) = expected(world, agent, child, &revealed.copy)? else { return Ok(()) };
    let truth = world.server.truth();
    let mut wanted: Vec<_> = plans.iter().map(|plan| (plan.kind, truth.name(&plan.feed).to_owned())).collect();
    let mut shown: Vec<_> = revealed.flags.iter().map(|flag| (flag.kind, flag.authority.clone())).collect();
    wanted.sort();
    shown.sort();
    ensure!(wanted == shown, "{shown:?} was revealed, and there is {wanted:?}");
    Ok(())
}
