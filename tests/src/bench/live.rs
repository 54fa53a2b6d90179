//! The real agent program: resident memory when idle, and the time from its start to the first answer.
//! It must not count the memory-hard step as the agent's own time, nor hide it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use cpis_protocol::query::{LookupParameters, Query};
use cpis_protocol::seal::MemoryHard;
use cpis_server::register::Extract;

use super::changes::{endings, ingest};
use super::fleet::{Api, Fleet, SITE, server};
use super::report::{Report, mib, time};
use super::{Scale, directory_bytes, median, memory_kib, resident_kib};
use crate::process::Running;
use crate::site::{AgentSite, Place, Site};

const TARGET_KIB: u64 = 24 * 1024;
const TARGET_START: Duration = Duration::from_millis(300);

/// The median of some samples of the resident memory, after a rest.
fn settled_kib(running: &Running, scale: Scale) -> anyhow::Result<u64> {
    std::thread::sleep(scale.of(Duration::from_secs(10), Duration::from_millis(500)));
    let mut samples = Vec::new();
    for _ in 0..5 {
        samples.push(resident_kib(running.id()).context("the agent ended")?);
        std::thread::sleep(Duration::from_millis(200));
    }
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().context("no sample")
}

fn parts(running: &Running) -> String {
    let kib = |name| mib(memory_kib(running.id(), name).unwrap_or(0));
    format!("own {}, program file {}, peak {}", kib("RssAnon"), kib("RssFile"), kib("VmHWM"))
}

/// Memory of an idle agent.
///
/// # Errors
/// When a program fails.
pub fn memory(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let records = scale.of(20_000, 500);
    report.section(&format!("Resident memory of the idle agent, {records} records"));
    let site = server(directory, Place::loopback()?, &super::fleet::AUTHORITIES, records, &[])?;
    let serving = site.serve()?;
    let agent = site.enrol(&directory.join("tablet"), SITE)?;
    let mut show = |what: &str, running: &Running| -> anyhow::Result<()> {
        let kib = settled_kib(running, scale)?;
        let value = format!("{} ({})", mib(kib), parts(running));
        report.target(what, value, "at most 24 MiB", kib <= TARGET_KIB);
        Ok(())
    };
    let mut running = agent.start()?;
    Api::wait(agent.directory())?.wait_synced(&mut running, 0)?;
    show("after the first sync, in the same process", &running)?;
    running.stop()?;
    let mut running = agent.start()?;
    let api = Api::wait(agent.directory())?;
    api.wait_synced(&mut running, 0)?;
    show("after a restart", &running)?;
    api.unlock()?;
    for person in site.people().iter().take(20) {
        api.look_up(person.number, person.birth)?;
    }
    show("after 20 look-ups at synthetic cost", &running)?;
    let (rounds, changes) = scale.of((36, 500), (2, 20));
    for round in 0..rounds {
        let attempts = api.status()?.link.attempts;
        publish_changes(&site, directory, changes, round)?;
        agent.sync()?;
        api.wait_synced(&mut running, attempts)?;
    }
    show(&format!("after {rounds} updates of {changes} changes each, in the same process"), &running)?;
    running.stop()?;
    serving.stop()?;
    report.figure("the agent's directory on disk", mib(directory_bytes(agent.directory()) / 1024));
    for cost in [MemoryHard::FLOOR, MemoryHard::DEFAULT] {
        after_hard_look_ups(&directory.join(cost.memory_kib.to_string()), cost, scale, report)?;
    }
    Ok(())
}

fn publish_changes(site: &Site, directory: &Path, changes: usize, round: i32) -> anyhow::Result<()> {
    let extract = Extract { authorities: Vec::new(), changes: endings(site, changes, round)? };
    ingest(site, directory, &extract).map(|_| ())
}

/// The memory-hard step allocates tens of MiB; a few records are enough to see that they are given back.
fn after_hard_look_ups(directory: &Path, cost: MemoryHard, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let (memory, passes) = (cost.memory_kib.to_string(), cost.passes.to_string());
    let init = ["--lookup-memory-kib", &memory, "--lookup-passes", &passes];
    let site = server(directory, Place::loopback()?, &["Rutland"], 10, &init)?;
    let serving = site.serve()?;
    let agent = site.enrol(&directory.join("tablet"), SITE)?;
    agent.sync()?;
    let mut running = agent.start()?;
    let api = Api::wait(agent.directory())?;
    api.wait_synced(&mut running, 0)?;
    api.unlock()?;
    let before = settled_kib(&running, scale)?;
    for person in site.people().iter().cycle().take(scale.of(20, 3)) {
        api.look_up(person.number, person.birth)?;
    }
    let after = settled_kib(&running, scale)?;
    let value = format!("{} before, {} after", mib(before), mib(after));
    let what = format!("10 records, look-ups that take {} each", mib(u64::from(cost.memory_kib)));
    report.target(&what, value, "at most 24 MiB", after <= TARGET_KIB);
    running.stop()?;
    serving.stop()?;
    Ok(())
}

/// The time that one memory-hard step takes in this process.
///
/// # Errors
/// When the memory cannot be had.
pub fn memory_hard(cost: MemoryHard, times: usize) -> anyhow::Result<Duration> {
    let mut samples = Vec::new();
    for _ in 0..times {
        let started = Instant::now();
        cost.derive(b"9990000018", b"0123456789abcdef", b"bench")?;
        samples.push(started.elapsed());
    }
    Ok(median(&mut samples))
}

/// From the start of the program to the first answer, with the server out of reach.
///
/// # Errors
/// When a program fails.
pub fn start(fleet: &Fleet, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    report.section(&format!("From the agent's start to its first answer, {} records, no server", fleet.records));
    let person = fleet.site.flagged()?;
    let mut times: [Vec<Duration>; 4] = Default::default();
    for _ in 0..scale.of(15, 2) {
        let marks = one_start(&fleet.agent, |api| {
            api.unlock()?;
            let unlocked = Instant::now();
            api.look_up(person.number, person.birth)?;
            Ok(unlocked)
        })?;
        for (samples, mark) in times.iter_mut().zip(marks) {
            samples.push(mark);
        }
    }
    let [api, unlock, look_up, all] = times.each_mut().map(|samples| median(samples));
    let hard = memory_hard(MemoryHard::SYNTHETIC, scale.of(200, 20))?;
    let rest = all.saturating_sub(hard * 2);
    report.figure("start until the API answers, median", time(api));
    report.figure("unlock, median", time(unlock));
    report.figure("look-up, median", time(look_up));
    report.figure("of which memory-hard steps (two, synthetic cost)", time(hard * 2));
    let worst = times.last().and_then(|all| all.iter().max().copied()).unwrap_or_default();
    report.figure("start to first answer, worst", time(worst));
    report.target(
        "start to first answer beside the memory-hard steps, median",
        time(rest),
        "300 ms",
        rest <= TARGET_START,
    );
    Ok(())
}

fn one_start(agent: &AgentSite, ask: impl FnOnce(&Api) -> anyhow::Result<Instant>) -> anyhow::Result<[Duration; 4]> {
    let _ = std::fs::remove_file(agent.directory().join("api.json"));
    // Everything of the caller's own is ready before the clock starts.
    let mut command = agent.command()?;
    command.args(["run", "--api", "127.0.0.1:0"]);
    let started = Instant::now();
    let running = Running::start(&mut command)?;
    let api = Api::wait(agent.directory())?;
    api.status()?;
    let answering = Instant::now();
    let unlocked = ask(&api)?;
    let answered = Instant::now();
    running.stop()?;
    Ok([answering - started, unlocked - answering, answered - unlocked, answered - started])
}

/// The token of a person, as a look-up makes it.
///
/// # Errors
/// When the memory-hard step cannot be done.
pub fn token(
    number: cpis_protocol::nhs::NhsNumber,
    birth: cpis_protocol::nhs::Date,
    parameters: &LookupParameters,
) -> anyhow::Result<cpis_protocol::query::Token> {
    Ok(Query::nhs_number(number, birth).token(parameters)?)
}
