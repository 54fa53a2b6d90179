//! Checks and catch-ups of the benchmark's own device over a line with weather, often enough to see what loss does.
//! It must not keep a connection that the measure says is new.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use cpis_agent::transport::HttpTransport;
use cpis_protocol::cell::CELL_BYTES;
use cpis_server::register::Extract;
use tokio::runtime::Runtime;

use super::air::Weather;
use super::changes::{endings, ingest};
use super::device::{Device, Enrolled, Enroller, Shelf, runtime};
use super::fleet::{AUTHORITIES, Api, SITE, server};
use super::net::{Count, Line};
use super::report::{Report, grouped, time};
use super::{Scale, median, percentile};

/// The most that a check may cost.
const WARM_BYTES: u64 = 600;
const COLD_BYTES: u64 = 2560;
const COLD_PQ_BYTES: u64 = 5120;
const COLD_TIME: Duration = Duration::from_millis(1300);
const CATCH_UP_TIME: Duration = Duration::from_secs(5);

/// Our own device at the agent's end of a line.
pub struct Own<'a> {
    line: &'a Line,
    scale: Scale,
    enrolled: Enrolled,
    runtime: Runtime,
}

impl core::fmt::Debug for Own<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Own({:?})", self.enrolled)
    }
}

/// What one exchange took.
#[derive(Debug, Clone, Copy)]
struct Took {
    time: Duration,
    count: Count,
}

impl<'a> Own<'a> {
    /// Enrols it.
    ///
    /// # Errors
    /// When the server's directory does not open or the service refuses.
    pub fn new(line: &'a Line, scale: Scale, enroller: &Enroller) -> anyhow::Result<Self> {
        Ok(Self { line, scale, enrolled: enroller.enrol()?, runtime: runtime()? })
    }

    fn weather(&self, weather: Weather) -> anyhow::Result<()> {
        self.line.air().context("a cable has no weather")?.set(weather);
        Ok(())
    }

    fn quiet(&self) -> anyhow::Result<Count> {
        // The connection's own task reads what is left, e.g. window updates.
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
        self.line.wait_quiet(self.scale.of(Duration::from_millis(1500), Duration::from_millis(400)))
    }

    /// A first sync in clear air, which leaves a ticket in `tls`.
    fn fill(&self, tls: &rustls::ClientConfig) -> anyhow::Result<Device> {
        self.weather(Weather::CLEAR)?;
        let mut device = Device::new(&self.enrolled, &Shelf::new());
        self.runtime.block_on(device.sync(&self.enrolled.transport(tls)?, true))?;
        Ok(device)
    }

    fn sync(&self, device: &mut Device, transport: &HttpTransport, weather: Weather) -> anyhow::Result<Took> {
        self.exchange(device, transport, weather, false)
    }

    fn exchange(
        &self,
        device: &mut Device,
        transport: &HttpTransport,
        weather: Weather,
        grant: bool,
    ) -> anyhow::Result<Took> {
        self.weather(Weather::CLEAR)?;
        let before = self.quiet()?;
        self.weather(weather)?;
        self.runtime.block_on(device.sync(transport, grant))?;
        let first = self.line.air().and_then(|air| air.first()).context("no packet went over the line")?;
        Ok(Took { time: first.elapsed(), count: self.quiet()?.since(&before) })
    }
}

/// Checks with nothing new: over a new connection that resumes, and over a warm one.
///
/// # Errors
/// When a sync fails.
pub fn checks(own: &Own<'_>, report: &mut Report) -> anyhow::Result<()> {
    let ways = [
        (false, COLD_BYTES, "check, cold, resumed, without the post-quantum exchange"),
        (true, COLD_PQ_BYTES, "check, cold, resumed, with the post-quantum exchange"),
    ];
    for (post_quantum, limit, name) in ways {
        let tls = own.enrolled.tls(post_quantum)?;
        let mut device = own.fill(&tls)?;
        let mut cold = |weather| own.sync(&mut device, &own.enrolled.transport(&tls)?, weather);
        let clear = (0..own.scale.of(5, 1)).map(|_| cold(Weather::CLEAR)).collect::<anyhow::Result<Vec<_>>>()?;
        let clear = middle(clear)?;
        let target = format!("at most {} bytes", grouped(limit));
        report.target(name, clear.describe(), &target, clear.bytes() <= limit);
        let rounds = own.scale.of(15, 2);
        let bad = (0..rounds).map(|_| cold(Weather::BAD)).collect::<anyhow::Result<Vec<_>>>()?;
        report_times(&format!("the same on the bad link, {rounds} times"), &bad, COLD_TIME, "at most 1.3 s", report);
    }
    let tls = own.enrolled.tls(true)?;
    let mut device = own.fill(&tls)?;
    let transport = own.enrolled.transport(&tls)?;
    let first = own.sync(&mut device, &transport, Weather::CLEAR)?;
    report.figure("the check that opens the connection", first.count.describe());
    let warm = (0..own.scale.of(5, 1)).map(|_| own.sync(&mut device, &transport, Weather::CLEAR));
    let warm = middle(warm.collect::<anyhow::Result<Vec<_>>>()?)?;
    let met = warm.bytes() <= WARM_BYTES;
    report.target("check, warm connection", warm.describe(), "at most 600 bytes", met);
    let rounds = own.scale.of(9, 2);
    let bad = (0..rounds).map(|_| own.sync(&mut device, &transport, Weather::BAD));
    let bad = bad.collect::<anyhow::Result<Vec<_>>>()?;
    let what = format!("the same on the bad link, {rounds} times");
    report_times(&what, &bad, Duration::from_millis(600), "two round trips", report);
    Ok(())
}

/// The median count: a late acknowledgement or the end of another connection may fall into one of them.
fn middle(mut took: Vec<Took>) -> anyhow::Result<Count> {
    took.sort_unstable_by_key(|took| took.count.bytes());
    took.get(took.len() / 2).map(|took| took.count).context("nothing was measured")
}

fn report_times(what: &str, took: &[Took], limit: Duration, words: &str, report: &mut Report) {
    let mut times: Vec<_> = took.iter().map(|took| took.time).collect();
    let within = times.iter().filter(|time| **time <= limit).count();
    let (half, worst) = (median(&mut times), percentile(&mut times, 1.0));
    let most = took.iter().map(|took| took.count.bytes()).max().unwrap_or_default();
    let figure = format!(
        "median {}, worst {}; {within} of {} within; at most {} bytes",
        time(half),
        time(worst),
        times.len(),
        grouped(most)
    );
    report.target(what, figure, &format!("{words}, the median"), half <= limit);
}

/// Catch-ups after changes, over a new connection that resumes, and over one with a full handshake.
///
/// # Errors
/// When a change or a sync fails.
pub fn catch_ups(
    own: &Own<'_>,
    rounds: u32,
    change: impl Fn() -> anyhow::Result<u64>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let tls = own.enrolled.tls(true)?;
    let away = own.fill(&tls)?;
    let cells = change()?;
    let bare = cells * CELL_BYTES as u64;
    let ideal = Weather::BAD.transfer(bare) + Weather::BAD.round_trip * 2;
    for resumed in [true, false] {
        let once = |_| {
            let tls = if resumed { tls.clone() } else { own.enrolled.tls(true)? };
            let mut device = Device::like(&own.enrolled, &away);
            own.sync(&mut device, &own.enrolled.transport(&tls)?, Weather::BAD)
        };
        let took = (0..rounds).map(once).collect::<anyhow::Result<Vec<_>>>()?;
        let handshake = if resumed { "resumed" } else { "full handshake" };
        let what = format!("{cells} changed cells, own device, {handshake}, {rounds} times");
        report_times(&what, &took, CATCH_UP_TIME, "at most 5 s", report);
        let mut times: Vec<_> = took.iter().map(|took| took.time).collect();
        let over = median(&mut times).as_secs_f64() / ideal.as_secs_f64();
        let what = format!("the same to transfer and two round trips ({})", time(ideal));
        report.target(&what, format!("{over:.2}"), "at most 1.5, the median", over <= 1.5);
    }
    Ok(())
}

/// Bytes on the wire for each kind of exchange, in clear air.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// A check over a connection.
    pub warm: u64,
    /// A check over a new connection that resumes.
    pub resumed: u64,
    /// A full handshake with a grant.
    pub started: u64,
    /// What a grant adds to a check over a connection.
    pub grant: u64,
    /// What a changed cell adds.
    pub cell: u64,
    /// An audit event that goes up by itself.
    pub event: u64,
}

/// Measures them.
///
/// # Errors
/// When a program fails.
pub fn exchanges(directory: &Path, scale: Scale) -> anyhow::Result<Exchange> {
    std::fs::create_dir_all(directory)?;
    let line = Line::lay_in_air()?;
    let site = server(directory, line.place()?, &AUTHORITIES, scale.of(2_000, 500), &[])?;
    let serving = line.at_server(|| site.serve())?;
    let measured = line.at_agent(|| {
        let own = Own::new(&line, scale, &Enroller::open(site.directory(), "all", SITE)?)?;
        let tls = own.enrolled.tls(true)?;
        let mut device = own.fill(&tls)?;
        let fresh = own.enrolled.transport(&own.enrolled.tls(true)?)?;
        let mut take = |transport: &HttpTransport, grant| own.exchange(&mut device, transport, Weather::CLEAR, grant);
        let started = take(&fresh, true)?.count.bytes();
        let transport = own.enrolled.transport(&tls)?;
        let resumed = take(&transport, false)?.count.bytes();
        let warm = (0..5).map(|_| take(&transport, false)).collect::<anyhow::Result<Vec<_>>>()?;
        let warm = middle(warm)?.bytes();
        let grant = take(&transport, true)?.count.bytes().saturating_sub(warm);
        let changes = endings(&site, scale.of(500, 50), 1)?;
        let cells = ingest(&site, directory, &Extract { authorities: Vec::new(), changes })?;
        let cell = take(&transport, false)?.count.bytes().saturating_sub(warm) / cells;
        let agent = site.enrol(&directory.join("tablet"), SITE)?;
        let mut running = agent.start()?;
        let api = Api::wait(agent.directory())?;
        api.wait_synced(&mut running, 0)?;
        api.unlock()?;
        let before = own.quiet()?;
        let person = site.flagged()?;
        api.look_up(person.number, person.birth)?;
        let event = own.quiet()?.since(&before).bytes();
        running.stop()?;
        Ok(Exchange { warm, resumed, started, grant, cell, event })
    })?;
    serving.stop()?;
    Ok(measured)
}
