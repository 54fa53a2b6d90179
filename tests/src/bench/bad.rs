//! The bad link: the real agent and the benchmark's own devices over 300 ms, 2 % loss and 256 kbit/s each way.
//! It must not leave out a retransmission, nor count a packet from before the signal came back.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cpis_agent::status::Status;
use cpis_protocol::cell::CELL_BYTES;
use cpis_server::register::Extract;

use super::Scale;
use super::air::Weather;
use super::changes::{endings, ingest};
use super::checks::{Own, catch_ups, checks};
use super::device::Enroller;
use super::fleet::{AUTHORITIES, Api, SITE, server};
use super::net::{Count, Line, SEED};
use super::report::{Report, grouped, ratio, time};
use crate::process::Running;
use crate::site::{AgentSite, Site};

/// How long a first sync over the bad link may take before the measure is given up.
const PATIENCE: Duration = Duration::from_secs(400);

/// A line with weather, and what stands at its ends.
pub struct Bad<'a> {
    /// The line.
    pub line: &'a Line,
    /// The server's site.
    pub site: &'a Site,
    /// Scratch.
    pub directory: &'a Path,
    /// How much of everything is done.
    pub scale: Scale,
    /// Where figures go.
    pub report: &'a mut Report,
    round: i32,
}

impl core::fmt::Debug for Bad<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bad({:?})", self.line)
    }
}

/// Sets how often devices poll, and that they do not wait long for each other after an outage.
///
/// # Errors
/// When the settings cannot be changed.
pub fn set_pace(site: &Site, poll_s: u16) -> anyhow::Result<()> {
    let path = site.directory().join("server.toml");
    let text = std::fs::read_to_string(&path)?;
    ensure!(text.contains("poll_s = 300") && text.contains("spread_s = 60"), "server.toml is not as expected");
    let text = text.replace("poll_s = 300", &format!("poll_s = {poll_s}")).replace("spread_s = 60", "spread_s = 1");
    Ok(std::fs::write(&path, text)?)
}

/// All measures of the bad link.
///
/// # Errors
/// When a program fails.
pub fn bad(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let records = scale.of(20_000, 500);
    let line = Line::lay_in_air()?;
    report
        .section(&format!("The bad link: 300 ms, 2 % loss, 256 kbit/s each way, {} records", grouped(records.into())));
    report.figure("counted at", line.describe());
    report.figure("seed of the loss", SEED);
    let congestion = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control")?;
    report.figure("congestion control of the kernel", congestion.trim());
    let site = server(directory, line.place()?, &AUTHORITIES, records, &[])?;
    set_pace(&site, scale.of(20, 3))?;
    let serving = line.at_server(|| site.serve())?;
    let mut bad = Bad { line: &line, site: &site, directory, scale, report, round: 0 };
    line.at_agent(|| {
        let agent = site.enrol(&directory.join("tablet"), SITE)?;
        let running = bad.first_sync(&agent)?;
        let running = bad.fresh(&agent, running)?;
        let running = bad.kept_running(&agent, running)?;
        running.stop()?;
        let own = Own::new(&line, scale, &Enroller::open(site.directory(), "all", SITE)?)?;
        checks(&own, bad.report)?;
        catch_ups(&own, scale.of(7, 1), || change(&site, directory, scale, bad.round + 1), bad.report)
    })?;
    serving.stop().map(|_| ())
}

impl Bad<'_> {
    fn weather(&self, weather: Weather) -> anyhow::Result<()> {
        self.line.air().context("a cable has no weather")?.set(weather);
        Ok(())
    }

    /// Since the first packet after the weather changed.
    fn since_first(&self) -> anyhow::Result<Duration> {
        Ok(self.line.air().and_then(|air| air.first()).context("no packet went over the line")?.elapsed())
    }

    fn quiet(&self) -> anyhow::Result<Count> {
        self.line.wait_quiet(self.scale.of(Duration::from_secs(2), Duration::from_millis(700)))
    }

    fn change(&mut self) -> anyhow::Result<u64> {
        self.round += 1;
        change(self.site, self.directory, self.scale, self.round)
    }

    fn first_sync(&mut self, agent: &AgentSite) -> anyhow::Result<Running> {
        let before = self.quiet()?;
        self.weather(Weather::BAD)?;
        let mut running = agent.start()?;
        let api = Api::wait(agent.directory())?;
        let status =
            wait(&api, &mut running, "the first sync", |s| s.link.last_outcome.as_deref() == Some(UP_TO_DATE))?;
        let took = self.since_first()?;
        let count = self.quiet()?.since(&before);
        let cells = status.copy.records * CELL_BYTES as u64;
        let bare = Weather::BAD.transfer(cells);
        self.report.figure("first sync: cells x 160, and their bare transfer time", bytes_and_time(cells, bare));
        self.report.figure("first sync", count.describe());
        let over = took.as_secs_f64() / bare.as_secs_f64();
        let figure = format!("{} ({over:.3} of the bare transfer time)", time(took));
        self.report.target("first sync: from the first packet to the copy in use", figure, "at most 1.1", over <= 1.1);
        Ok(running)
    }

    /// An agent that was off while the register changed.
    fn fresh(&mut self, agent: &AgentSite, mut running: Running) -> anyhow::Result<Running> {
        for _ in 0..self.scale.of(3, 1) {
            self.weather(Weather::CLEAR)?;
            running.stop()?;
            let cells = self.change()?;
            let before = self.quiet()?;
            self.weather(Weather::BAD)?;
            running = agent.start()?;
            let api = Api::wait(agent.directory())?;
            wait(&api, &mut running, "the changes", |s| s.link.last_outcome.as_deref() == Some(UP_TO_DATE))?;
            let took = self.since_first()?;
            self.caught_up("freshly started", cells, took, self.quiet()?.since(&before));
        }
        Ok(running)
    }

    /// An agent that kept running, lost its signal, noticed, and has it again.
    fn kept_running(&mut self, agent: &AgentSite, mut running: Running) -> anyhow::Result<Running> {
        let api = Api::wait(agent.directory())?;
        let rounds = self.scale.of(3, 1);
        for changes in core::iter::repeat_n(true, rounds).chain(core::iter::repeat_n(false, rounds)) {
            self.weather(Weather::CLEAR)?;
            let attempts = api.status()?.link.attempts;
            wait(&api, &mut running, "a poll", |s| s.link.attempts > attempts && is_at_rest(s))?;
            self.weather(Weather::GONE)?;
            let cells = if changes { self.change()? } else { 0 };
            let gone = wait(&api, &mut running, "the lost signal", |s| {
                !s.link.syncing && s.link.last_outcome.as_deref() != Some(UP_TO_DATE)
            })?;
            let before = self.line.count()?;
            self.weather(Weather::BAD)?;
            let (gseq, attempts) = (gone.copy.gseq, gone.link.attempts);
            let back = |s: &Status| s.link.attempts > attempts && is_at_rest(s) && (!changes || s.copy.gseq > gseq);
            wait(&api, &mut running, "the signal", back)?;
            let took = self.since_first()?;
            let count = self.quiet()?.since(&before);
            if changes {
                self.caught_up("kept running, lost its link", cells, took, count);
            } else {
                self.report.figure("the agent's check with nothing new after a lost link", count.describe());
                let what = "the same: from the first packet to the answer";
                self.report.target(what, time(took), "at most 1.3 s", took <= Duration::from_millis(1300));
            }
        }
        Ok(running)
    }

    fn caught_up(&mut self, who: &str, cells: u64, took: Duration, count: Count) {
        let (bare, what) = (cells * CELL_BYTES as u64, format!("{cells} cells, {who}"));
        self.report.figure(&what, count.describe());
        let limit = bare + bare / 10 + 4096;
        let figure = format!("{:.3} of cells x 160; limit {}", ratio(count.bytes(), bare), grouped(limit));
        let met = count.bytes() <= limit;
        self.report.target(&format!("{what}: bytes"), figure, "at most 1.1 x cells x 160 + 4 KiB", met);
        self.timely(&what, bare, took);
    }

    fn timely(&mut self, what: &str, bare: u64, took: Duration) {
        let ideal = Weather::BAD.transfer(bare) + Weather::BAD.round_trip * 2;
        let over = took.as_secs_f64() / ideal.as_secs_f64();
        let figure = format!("{} ({over:.2} of transfer and two round trips)", time(took));
        let met = took <= Duration::from_secs(5) && over <= 1.5;
        self.report.target(&format!("{what}: first packet to copy"), figure, "at most 5 s and 1.5", met);
    }
}

/// Changes to the register, spread over all feeds, others in each round; gives the cells that came of them.
fn change(site: &Site, directory: &Path, scale: Scale, round: i32) -> anyhow::Result<u64> {
    let changes = endings(site, scale.of(500, 50), round)?;
    ingest(site, directory, &Extract { authorities: Vec::new(), changes })
}

/// How an attempt ends that found or made the copy equal to the newest head.
pub(super) const UP_TO_DATE: &str = "up to date";

/// Nothing is under way, and the copy is up to date.
pub(super) fn is_at_rest(status: &Status) -> bool {
    !status.link.syncing && status.link.last_outcome.as_deref() == Some(UP_TO_DATE)
}

fn bytes_and_time(bytes: u64, bare: Duration) -> String {
    format!("{} bytes, {}", grouped(bytes), time(bare))
}

/// Waits until the agent says so.
pub(super) fn wait(
    api: &Api,
    running: &mut Running,
    what: &str,
    ready: impl Fn(&Status) -> bool,
) -> anyhow::Result<Status> {
    let started = Instant::now();
    loop {
        match api.status() {
            Ok(status) if ready(&status) => return Ok(status),
            _ => {}
        }
        ensure!(running.is_alive()?, "the agent ended before {what}:\n{}", running.log());
        ensure!(started.elapsed() < PATIENCE, "no {what} in time:\n{}", running.log());
        std::thread::sleep(Duration::from_millis(5));
    }
}
