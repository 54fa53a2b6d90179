//! What an idle agent takes of the processor: locked and up to date, between two polls, and over several of them.
//! It must not ask the agent anything meanwhile: that would be what it measures.

use std::path::Path;
use std::time::Duration;

use super::cores::Usage;
use super::fleet::{AUTHORITIES, Api, SITE, server};
use super::report::Report;
use super::{Scale, bad};
use crate::process::Running;
use crate::site::Place;

/// Share of one processor.
const TARGET: f64 = 0.001;

/// Processor time and wake-ups of an idle agent.
///
/// # Errors
/// When a program fails.
pub fn idle(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let records = scale.of(20_000, 500);
    report.section(&format!("The idle agent's share of a processor, {records} records"));
    let site = server(directory, Place::loopback()?, &AUTHORITIES, records, &[])?;
    // The first watch falls between two polls, the second holds several.
    bad::set_pace(&site, scale.of(120, 5))?;
    let serving = site.serve()?;
    let agent = site.enrol(&directory.join("tablet"), SITE)?;
    let mut running = agent.start()?;
    Api::wait(agent.directory())?.wait_synced(&mut running, 0)?;
    std::thread::sleep(scale.of(Duration::from_secs(20), Duration::from_secs(1)));
    watch(&running, "between two polls", scale.of(Duration::from_secs(80), Duration::from_secs(2)), report)?;
    watch(&running, "with polls every 120 s", scale.of(Duration::from_secs(400), Duration::from_secs(6)), report)?;
    running.stop()?;
    serving.stop().map(|_| ())
}

fn watch(running: &Running, what: &str, length: Duration, report: &mut Report) -> anyhow::Result<()> {
    let before = Usage::of(running.id())?;
    std::thread::sleep(length);
    let used = Usage::of(running.id())?.since(&before);
    let seconds = length.as_secs_f64();
    let share = used.time.as_secs_f64() / seconds;
    let figure = format!("{:.3} % ({} ms in {seconds:.0} s)", share * 100.0, used.time.as_millis());
    report.target(what, figure, "below 0.1 %", share < TARGET);
    // Some thousands at most.
    #[allow(clippy::cast_precision_loss)]
    let wakes = used.wakes as f64 / seconds;
    let figure = format!("{wakes:.2} a second ({} in all threads)", used.wakes);
    report.figure(&format!("{what}: wake-ups"), figure);
    Ok(())
}
