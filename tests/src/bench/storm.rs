//! Fleet load: thousands of devices with certificates of their own, over TLS, against one server on one core; beside it
//! the bare handshakes of that core. It must not count a sync that did not end with a proven copy.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use cpis_agent::transport::HttpTransport;
use cpis_server::register::Extract;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::bare::{Bare, handshake};
use super::changes::{endings, ingest};
use super::cores::{LOAD_CORE, SERVER_CORE, Usage, pin, pinned, raise_files};
use super::device::{Device, Enrolled, Enroller, Shelf};
use super::fleet::{AUTHORITIES, SITE, server};
use super::report::{Report, grouped, time};
use super::{Scale, median, percentile, resident_kib};
use crate::process::Running;
use crate::site::{Place, Site};

/// How often a device tries before it counts as lost. A real one goes on for ever.
const ATTEMPTS: u32 = 5;
/// Devices that begin at once.
const AT_ONCE: usize = 500;

/// What one round of all devices took.
#[derive(Debug, Clone)]
pub struct Round {
    /// Devices that ended with a proven copy.
    pub done: u32,
    /// From the first device's start to the last one's end.
    pub wall: Duration,
    /// The server's processor time.
    pub server: Duration,
    /// Attempts that failed on the way.
    pub failed: u32,
    /// Requests in all.
    pub requests: u32,
    /// How long each device took.
    pub times: Vec<Duration>,
}

impl Round {
    /// Processor time for each device.
    #[must_use]
    pub fn each(&self) -> Duration {
        self.server / self.done.max(1)
    }

    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let mut times = self.times.clone();
        let (half, most) = (median(&mut times), percentile(&mut times, 0.99));
        format!(
            "{} of the server's processor each, {:.0} a second of it; all {} in {} ({:.0} % of the core), p50 {}, p99 {}, \
             {} failed attempts",
            time(self.each()),
            1.0 / self.each().as_secs_f64(),
            grouped(self.done.into()),
            time(self.wall),
            100.0 * self.server.as_secs_f64() / self.wall.as_secs_f64(),
            time(half),
            time(most),
            self.failed
        )
    }
}

/// Devices, and the threads that they run on.
pub struct Load {
    runtime: Runtime,
    enrolled: Vec<Arc<Enrolled>>,
    tls: Vec<rustls::ClientConfig>,
    devices: Vec<Device>,
}

impl core::fmt::Debug for Load {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Load({} devices)", self.enrolled.len())
    }
}

/// A connection that is kept, with its device.
type Held = Vec<HttpTransport>;

impl Load {
    /// Enrols so many devices through the server's library.
    ///
    /// # Errors
    /// When the service refuses one.
    pub fn enrol(directory: &Path, count: usize) -> anyhow::Result<Self> {
        let enroller = Enroller::open(directory, "all", SITE)?;
        let enrolled: Vec<_> = (0..count).map(|_| enroller.enrol().map(Arc::new)).collect::<anyhow::Result<_>>()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(|| drop(pin(LOAD_CORE)))
            .enable_all()
            .build()?;
        let mut load = Self { runtime, enrolled, tls: Vec::new(), devices: Vec::new() };
        load.forget()?;
        Ok(load)
    }

    /// Devices lose what they would resume from, as after a restart.
    ///
    /// # Errors
    /// When rustls refuses.
    pub fn forget(&mut self) -> anyhow::Result<()> {
        self.tls = self.enrolled.iter().map(|enrolled| enrolled.tls(true)).collect::<anyhow::Result<_>>()?;
        Ok(())
    }

    /// The first device syncs from nothing, the others hold the same copy.
    ///
    /// # Errors
    /// When the sync fails.
    pub fn fill(&mut self) -> anyhow::Result<usize> {
        let (enrolled, tls) = self.enrolled.first().zip(self.tls.first()).context("no device")?;
        let mut first = Device::new(enrolled, &Shelf::new());
        self.runtime.block_on(first.sync(&enrolled.transport(tls)?, true))?;
        self.devices = self.enrolled.iter().map(|enrolled| Device::like(enrolled, &first)).collect();
        Ok(first.records())
    }

    /// Bare handshakes of all devices; gives the processor time of each, and how many were resumed.
    ///
    /// # Errors
    /// When one fails.
    pub fn bare(&self, bare: &Bare) -> anyhow::Result<(Duration, u32)> {
        let before = bare.used();
        let port = bare.port;
        let resumed = self.runtime.block_on(async {
            let (mut tasks, mut resumed) = (JoinSet::new(), 0);
            for tls in &self.tls {
                if tasks.len() >= 64
                    && let Some(done) = tasks.join_next().await
                {
                    resumed += u32::from(done??);
                }
                let tls = tls.clone();
                tasks.spawn(async move { handshake(port, &tls).await });
            }
            while let Some(done) = tasks.join_next().await {
                resumed += u32::from(done??);
            }
            anyhow::Ok(resumed)
        })?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(((bare.used() - before) / u32::try_from(self.tls.len())?, resumed))
    }

    /// All devices sync over new connections, which are kept.
    ///
    /// # Errors
    /// When a device gives up.
    pub fn storm(&mut self, server: &Running, with_grant: bool) -> anyhow::Result<(Round, Held)> {
        let connections = self.enrolled.iter().zip(&self.tls);
        let held = connections.map(|(enrolled, tls)| enrolled.transport(tls)).collect::<anyhow::Result<Held>>()?;
        self.round(server, held, with_grant)
    }

    /// All devices sync over the connections that they hold.
    ///
    /// # Errors
    /// When a device gives up.
    pub fn round(&mut self, server: &Running, held: Held, with_grant: bool) -> anyhow::Result<(Round, Held)> {
        let before = Usage::of(server.id())?;
        let started = Instant::now();
        let failed = Arc::new(AtomicU32::new(0));
        let devices: Vec<_> = std::mem::take(&mut self.devices).into_iter().zip(held).collect();
        let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        let mut ended = self.runtime.block_on(async {
            let mut tasks = JoinSet::new();
            for (at, (device, transport)) in devices.into_iter().enumerate() {
                let (room, failed) = (Arc::clone(&room), Arc::clone(&failed));
                tasks.spawn(async move {
                    let _permit = room.acquire_owned().await;
                    (at, one(device, transport, with_grant, &failed).await)
                });
            }
            tasks.join_all().await
        });
        let wall = started.elapsed();
        std::thread::sleep(Duration::from_millis(300));
        let used = Usage::of(server.id())?.since(&before);
        let mut round =
            Round { done: 0, wall, server: used.time, failed: 0, requests: 0, times: Vec::with_capacity(ended.len()) };
        let mut held = Held::new();
        // They end in any order; each stays with its own identity.
        ended.sort_unstable_by_key(|(at, _)| *at);
        for (_, one) in ended {
            let (device, transport, requests, took) = one?;
            round.done += 1;
            round.requests += requests;
            round.times.push(took);
            self.devices.push(device);
            held.push(transport);
        }
        round.failed = failed.load(Ordering::Relaxed);
        Ok((round, held))
    }
}

async fn one(
    mut device: Device,
    transport: HttpTransport,
    with_grant: bool,
    failed: &AtomicU32,
) -> anyhow::Result<(Device, HttpTransport, u32, Duration)> {
    let started = Instant::now();
    let mut attempt = 0;
    let requests = loop {
        match device.sync(&transport, with_grant).await {
            Ok(requests) => break requests,
            Err(error) => {
                attempt += 1;
                failed.fetch_add(1, Ordering::Relaxed);
                ensure!(attempt < ATTEMPTS, "a device gave up: {error:#}");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    };
    Ok((device, transport, requests, started.elapsed()))
}

/// A server on its core, with a register.
///
/// # Errors
/// When a command fails.
pub fn stand(directory: &Path, records: u32) -> anyhow::Result<Site> {
    let site = server(directory, Place::loopback()?, &AUTHORITIES, records, &[])?;
    let path = site.directory().join("server.toml");
    let text = std::fs::read_to_string(&path)?;
    std::fs::write(&path, text.replace("connections_max = 4096", "connections_max = 20000"))?;
    Ok(site)
}

/// Starts the server pinned to its core.
///
/// # Errors
/// When it does not start.
pub fn serve(site: &Site) -> anyhow::Result<Running> {
    pinned(SERVER_CORE, || site.serve_logging("warn"))
}

/// Storm and steady state.
///
/// # Errors
/// When a program fails, or a device does not end with a proven copy.
pub fn storm(directory: &Path, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let count = scale.of(2_000, 40);
    report.section(&format!("A fleet of {} devices against one server on one core", grouped(count as u64)));
    raise_files()?;
    let site = stand(directory, scale.of(5_000, 500))?;
    let started = Instant::now();
    let mut load = Load::enrol(site.directory(), count)?;
    report.figure("enrolled through the server's library", time(started.elapsed()));
    let bare = Bare::start(site.directory())?;
    let full = bare_of(&load, &bare, false)?;
    let resumed = bare_of(&load, &bare, true)?;
    drop(bare);
    let rate = |each: Duration| format!("{} each, {:.0} a second of it", time(each), 1.0 / each.as_secs_f64());
    report.figure("bare TLS handshake, full, processor time of the core", rate(full));
    report.figure("bare TLS handshake, resumed", rate(resumed));
    let server = serve(&site)?;
    load.forget()?;
    report.figure("records that each device holds", load.fill()?);
    let rest = resident_kib(server.id()).context("the server ended")?;
    let (round, held) = load.storm(&server, true)?;
    report.figure("all started at once: full handshakes, a grant for each", round.describe());
    let (idle, peak) =
        (resident_kib(server.id()).unwrap_or(rest), super::memory_kib(server.id(), "VmHWM").unwrap_or(0));
    let each = (idle.saturating_sub(rest)) as usize * 1024 / count;
    let figure =
        format!("{} bytes ({rest} KiB before, {idle} KiB with all waiting, peak {peak} KiB)", grouped(each as u64));
    report.figure("the server's memory for each waiting device", figure);
    // Presence is written down once a minute: a round that comes sooner would not pay for it.
    let minute = || std::thread::sleep(scale.of(Duration::from_secs(61), Duration::from_millis(200)));
    minute();
    let (round, held) = load.round(&server, held, false)?;
    report.figure("steady state: a poll of each over its connection", round.describe());
    drop(held);
    minute();
    let (round, held) = load.storm(&server, false)?;
    against(report, "storm, nothing new, resumed", &round, resumed);
    drop(held);
    minute();
    let changes = endings(&site, scale.of(500, 50), 1)?;
    let cells = ingest(&site, directory, &Extract { authorities: Vec::new(), changes })?;
    let (round, held) = load.storm(&server, false)?;
    against(report, &format!("storm, {cells} changed cells each, resumed"), &round, resumed);
    report.figure("the same: requests for each device", f64::from(round.requests) / f64::from(round.done.max(1)));
    drop(held);
    load.forget()?;
    minute();
    let (round, held) = load.storm(&server, false)?;
    against(report, "storm, nothing new, full handshakes", &round, full);
    drop(held);
    server.stop().map(|_| ())
}

fn bare_of(load: &Load, bare: &Bare, wants_resumed: bool) -> anyhow::Result<Duration> {
    let (each, resumed) = load.bare(bare)?;
    let all = u32::try_from(load.tls.len())?;
    ensure!(resumed == if wants_resumed { all } else { 0 }, "{resumed} of {all} handshakes were resumed");
    Ok(each)
}

fn against(report: &mut Report, what: &str, round: &Round, bare: Duration) {
    report.figure(what, round.describe());
    let share = bare.as_secs_f64() / round.each().as_secs_f64();
    let figure = format!("{share:.2}");
    report.target(&format!("{what}: syncs to bare handshakes"), figure, "at least 0.80", share >= 0.8);
}
