//! What must be so once the faults are over: every device at the newest head, every outbox empty, every event stored once.
//! It must not wait: whoever calls it does.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use cpis_agent::agent::Agent;
use cpis_protocol::audit::Act;
use cpis_server::port::{Inbox as _, Store as _, StoreError, Suspicion};

use super::World;
use super::crew;
use super::device::Device;
use super::enrolment::PASSPHRASE;
use super::register::CHILDREN;
use super::server::PRACTITIONER;

/// Children asked about on each device at the end.
const ASKED: usize = 6;
/// Links read from the server at once.
const LINKS: usize = 1000;

/// Whether a device has caught up.
///
/// # Errors
/// What it still lacks.
pub(super) fn device(world: &World, device: &Device) -> anyhow::Result<()> {
    let agent = device.agent().context("it does not run")?;
    let row = world.server.device(device.id)?;
    ensure!(agent.journal().outstanding() == 0, "{} events are in its outbox", agent.journal().outstanding());
    if let Some(erasure) = agent.erasure() {
        ensure!(erasure.receipted, "its erasure has no receipt");
        return Ok(());
    }
    ensure!(!row.state.is_final(), "it is {} and not erased", row.state.name());
    let view = agent.replica().view();
    let head = view.head.as_ref().context("it has no head")?;
    ensure!(head.scope == row.scope, "its copy is of another scope");
    ensure!(head.hash() == world.server.newest(row.scope)?, "its copy is of an older head, at {}", head.gseq);
    ensure!(view.is_proved() && view.beat.is_some(), "its copy cannot answer");
    Ok(())
}

/// Everybody is asked about on a device that has caught up.
///
/// # Errors
/// What is not as it must be.
pub(super) fn answers(world: &World, device: &Device) -> anyhow::Result<()> {
    let agent = device.agent().context("it does not run")?;
    if agent.erasure().is_some() {
        return Ok(());
    }
    agent.attend();
    let slot = agent.replica().view().head.is_some() && agent.unlock(PRACTITIONER, PASSPHRASE).is_ok();
    ensure!(slot, "nobody can unlock it");
    let mut dice = device.dice("end");
    for _ in 0..ASKED {
        crew::ask(world, device, &agent, dice.place(CHILDREN), true)?;
    }
    device.watch().check(world, device, &agent)
}

/// The server's audit against what the device was told is kept, and its crew was shown.
///
/// # Errors
/// What is lost, doubled or changed.
pub(super) fn audit(world: &World, device: &Device, agent: &Agent) -> anyhow::Result<u64> {
    let (service, tip) = (world.server.service(), agent.journal().tip());
    let links = service.store().read::<_, StoreError>(|tx| {
        let mut all = Vec::new();
        loop {
            let more = tx.links(device.id, tip.chain, all.len() as u64, LINKS)?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend(more);
        }
    })?;
    ensure!(links.len() as u64 == tip.seq, "the server has {} of {} events", links.len(), tip.seq);
    let watch = device.watch();
    let mut incidents: BTreeMap<String, usize> = BTreeMap::new();
    let mut unrecorded = 0;
    for (link, seq) in links.iter().zip(1..) {
        ensure!(link.seq == seq, "the server's event {seq} is numbered {}", link.seq);
        let known = watch.chain.get(&seq).is_none_or(|hash| *hash == link.hash);
        ensure!(known, "the server's event {seq} is another than the device's");
        let event = service.keys().audit.open(&link.link, &device.id, &tip.chain, seq);
        let event = event.with_context(|| format!("event {seq} does not open"))?;
        if !event.incident.is_empty() {
            *incidents.entry(event.incident.to_string()).or_default() += 1;
        }
        if let Act::Unrecorded { count, .. } = event.act {
            unrecorded += u64::from(count);
        }
    }
    let told = device.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (incident, least) in &told.recorded {
        let found = incidents.get(incident).copied().unwrap_or(0);
        ensure!(found >= *least, "{incident} was answered {least} times, and the server knows of {found}");
        let once = !incident.starts_with('d') || found == 1;
        ensure!(once, "{incident} was answered once, and the server knows of {found}");
    }
    let (_, counted) = agent.exception_counts();
    ensure!(
        u64::from(counted) >= told.unrecorded,
        "{} answers were not recorded, and {counted} counted",
        told.unrecorded
    );
    ensure!(unrecorded == u64::from(counted), "{counted} answers were counted, and {unrecorded} told");
    for suspicion in world.server.suspicions()?.iter().filter(|suspicion| suspicion.device == device.id) {
        let made_up = suspicion.why != Suspicion::Fork && watch.tampered;
        ensure!(made_up, "the server set something aside: {}", suspicion.why.code());
    }
    Ok(tip.seq)
}
