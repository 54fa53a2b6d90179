//! Bytes on the wire between the real programs: the first sync, 500 changes, and idle polls.
//! It must not leave anything out that a mobile operator would count.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use cpis_protocol::cell::CELL_BYTES;

use super::Scale;
use super::changes::{extract, ingest};
use super::fleet::{AUTHORITIES, Api, SITE, server};
use super::net::{Count, Line};
use super::report::{Report, grouped, ratio, time};
use crate::process::{Running, run};
use crate::site::{AgentSite, Site};

/// The header of an Ethernet frame, which the interface counts.
const ETHERNET: u64 = 14;
/// The longest first sync over a clean line.
const CLEAN_TIME: Duration = Duration::from_secs(1);

struct Wire<'a> {
    line: &'a Line,
    site: &'a Site,
    scale: Scale,
    report: &'a mut Report,
}

/// All measures of the wire.
///
/// # Errors
/// When a program fails.
pub fn wire(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let records = scale.of(20_000, 500);
    let line = Line::lay()?;
    report.section(&format!("Bytes on the wire, both ways, {} records", grouped(u64::from(records))));
    report.figure("counted at", line.describe());
    let site = server(directory, line.place()?, &AUTHORITIES, records, &[])?;
    // A poll comes soon enough to wait for it, and after the server's first keep-alive ping.
    let settings = site.directory().join("server.toml");
    let text = std::fs::read_to_string(&settings)?;
    let poll_s = format!("poll_s = {}", scale.of(75, 3));
    ensure!(text.contains("poll_s = 300"), "server.toml has no poll_s");
    std::fs::write(&settings, text.replace("poll_s = 300", &poll_s))?;
    let mut serving = line.at_server(|| site.serve())?;
    let mut wire = Wire { line: &line, site: &site, scale, report };
    line.at_agent(|| {
        let agent = wire.enrol(directory)?;
        wire.first_sync(&agent)?;
        let (mut running, api) = wire.changes(directory, &agent)?;
        wire.poll(&api, &mut running, "idle poll by the timer", true)?;
        serving.stop()?;
        serving = line.at_server(|| site.serve())?;
        wire.poll(&api, &mut running, "idle poll by the timer, after the server restarted", false)?;
        running.stop()?;
        wire.cold_start(&agent)?;
        serving.stop().map(|_| ())
    })
}

impl Wire<'_> {
    fn quiet(&self) -> anyhow::Result<Count> {
        self.line.wait_quiet(self.scale.of(Duration::from_secs(2), Duration::from_millis(300)))
    }

    fn show(&self, what: &str, count: Count) {
        self.report.figure(what, count.describe());
    }

    /// A target held against frames, and against the IP packets in them, which is what the peers' bytes are.
    fn both(&mut self, what: &str, count: Count, target: &str, limit: u64, bare: u64) {
        let packets = count.bytes() - count.packets * ETHERNET;
        for (bytes, kind) in [(count.bytes(), "frames"), (packets, "IP packets")] {
            let figure =
                format!("{} bytes, {:.3} of cells x 160; limit {}", grouped(bytes), ratio(bytes, bare), grouped(limit));
            self.report.target(&format!("{what}: {kind}"), figure, target, bytes <= limit);
        }
    }

    fn enrol(&self, directory: &Path) -> anyhow::Result<AgentSite> {
        let before = self.quiet()?;
        let agent = self.site.enrol(&directory.join("tablet"), SITE)?;
        self.show("enrolment", self.quiet()?.since(&before));
        Ok(agent)
    }

    fn first_sync(&mut self, agent: &AgentSite) -> anyhow::Result<()> {
        let before = self.quiet()?;
        let started = Instant::now();
        let mut running = agent.start()?;
        let status = Api::wait(agent.directory())?.wait_synced(&mut running, 0)?;
        let took = started.elapsed();
        let count = self.quiet()?.since(&before);
        running.stop()?;
        let cells = status.copy.records;
        let bare = cells * CELL_BYTES as u64;
        self.report.figure("first sync: cells, and cells x 160", format!("{cells}, {} bytes", grouped(bare)));
        self.report.figure("first sync: from the agent's start to the copy in use", time(took));
        self.show("first sync", count);
        self.report.target(
            "first sync: at most 3.9 MB",
            grouped(count.bytes()),
            "3,900,000",
            count.bytes() <= 3_900_000,
        );
        self.both("first sync", count, "within 5 % of cells x 160", bare + bare / 20, bare);
        self.report.target("first sync: clean line, start and storage included", time(took), "1 s", took <= CLEAN_TIME);
        Ok(())
    }

    fn changes(&mut self, directory: &Path, agent: &AgentSite) -> anyhow::Result<(Running, Api)> {
        let extract = extract(self.site, self.scale.of(500, 50))?;
        let cells = ingest(self.site, directory, &extract)?;
        let before = self.quiet()?;
        let started = Instant::now();
        let mut running = agent.start()?;
        let api = Api::wait(agent.directory())?;
        api.wait_synced(&mut running, 0)?;
        let took = started.elapsed();
        let count = self.quiet()?.since(&before);
        let bare = cells * CELL_BYTES as u64;
        let what = format!("{} changes made while away", extract.changes.len());
        self.report.figure(&format!("{what}: cells, and cells x 160"), format!("{cells}, {} bytes", grouped(bare)));
        self.report.figure(&format!("{what}: from the agent's start to the copy in use"), time(took));
        self.show(&format!("{what}: grant and head included"), count);
        self.both(&what, count, "at most 1.1 x cells x 160 + 4 KiB", bare + bare / 10 + 4096, bare);
        Ok((running, api))
    }

    /// Waits for a poll of the timer's own, and tells it apart from what went before it.
    fn poll(&mut self, api: &Api, running: &mut Running, what: &str, idle: bool) -> anyhow::Result<()> {
        let attempts = api.status()?.link.attempts;
        let start = self.quiet()?;
        let started = Instant::now();
        let (mut mark, mut last, mut since) = (start, start, Instant::now());
        let still = self.scale.of(Duration::from_secs(1), Duration::from_millis(200));
        let mut failed = None;
        let mut mark_at = started;
        running.wait_until("a poll", || {
            match self.line.count() {
                Ok(now) if now != last => (last, since) = (now, Instant::now()),
                Ok(now) if since.elapsed() >= still => (mark, mark_at) = (now, Instant::now()),
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
            let status = api.status();
            failed.is_some() || status.is_ok_and(|s| s.link.attempts > attempts)
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let status = api.wait_synced(running, attempts)?;
        ensure!(status.link.attempts == attempts + 1, "more than one poll was counted");
        let waited = mark_at - started;
        if idle {
            let name = format!("idle connection, {} s", waited.as_secs());
            self.show(&name, mark.since(&start));
        }
        let count = self.quiet()?.since(&mark);
        if idle {
            let packets = count.bytes() - count.packets * ETHERNET;
            let figure = format!("{}; IP packets {packets}", count.describe());
            self.report.target(what, figure, "at most 600 bytes of IP packets", packets <= 600);
        } else {
            self.show(what, count);
        }
        Ok(())
    }

    fn cold_start(&self, agent: &AgentSite) -> anyhow::Result<()> {
        let before = self.quiet()?;
        let mut running = agent.start()?;
        Api::wait(agent.directory())?.wait_synced(&mut running, 0)?;
        self.show("nothing new at the agent's start (grant and beat)", self.quiet()?.since(&before));
        running.stop()?;
        Ok(())
    }
}

/// What the machine has that figures depend on: processor, kernel, file system of the work directory.
///
/// # Errors
/// When it cannot be found out.
pub fn machine(directory: &Path) -> anyhow::Result<String> {
    let processors = std::fs::read_to_string("/proc/cpuinfo")?;
    let names = || processors.lines().filter_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let system = run(Command::new("df").arg("--output=fstype").arg(directory))?;
    let system = system.lines().nth(1).unwrap_or("unknown");
    Ok(format!("{} x {}, Linux {}, {system}", names().count(), names().next().unwrap_or("unknown"), kernel.trim()))
}
