//! A seeded simulation of the agent's driver and the server's service over a network, disks, clocks and power that fail.
//! It must not depend on anything but its seed: the same seed is the same run, line by line.
//!
//! | file | what it owns |
//! |---|---|
//! | `dice.rs`, `trace.rs`, `time.rs`, `summary.rs` | chance, what happened, true time and devices' clocks, runs in numbers |
//! | `power.rs`, `files.rs`, `store.rs` | a device's disk: what a cut or a failed step leaves |
//! | `network.rs`, `liar.rs`, `misfortune.rs`, `courier.rs` | the way to the server, who lies on it, and when; bundles |
//! | `server.rs`, `register.rs`, `operator.rs` | the real service, the truth about the register, who changes it |
//! | `enrolment.rs`, `device.rs`, `crew.rs` | the real agent from start to start, and the people who ask it |
//! | `watch.rs`, `presence.rs`, `settled.rs` | the invariants after every step, who is found after every flip, and what must be so in the end |
//!
//! One thread runs everything in simulated time: blocking work of the agent is done where it is asked for, timers are the
//! runtime's paused clock, and random bytes come from the seed.

mod courier;
pub mod crew;
pub mod device;
pub mod dice;
mod enrolment;
pub mod files;
pub mod liar;
mod misfortune;
pub mod network;
mod operator;
pub mod power;
pub mod presence;
pub mod register;
pub mod server;
mod settled;
pub mod store;
mod summary;
pub mod time;
pub mod trace;
pub mod watch;

use std::any::Any;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use cpis_protocol::digest::Hash;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};

use self::device::Device;
use self::dice::Dice;
use self::liar::Liar;
use self::network::Weather;
use self::presence::Tokens;
use self::server::{SCOPES, Server};
pub use self::summary::Summary;
use self::time::TrueTime;
use self::trace::Trace;

const HOUR_MS: u64 = 3_600_000;
/// Within this time after the last fault everybody must have caught up.
pub const SETTLE_MS: u64 = 2 * HOUR_MS;

/// What the parts of one simulation share.
pub struct World {
    /// Its seed.
    pub seed: u64,
    /// The true time.
    pub time: TrueTime,
    /// The server.
    pub server: Server,
    /// Who lies on the way.
    pub liar: Liar,
    trace: Trace,
    directory: String,
    faulty: AtomicBool,
    down: AtomicBool,
    healed: Notify,
    broken: Mutex<Option<String>>,
    bell: Notify,
    stray: Mutex<JoinSet<()>>,
    /// Bundles that somebody may put in.
    drawer: Mutex<Vec<Vec<u8>>>,
    tokens: Tokens,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "World({})", self.seed)
    }
}

impl World {
    /// Adds a line to the trace.
    pub fn say(&self, who: &str, what: impl Display) {
        // Where the files lie is not part of the run.
        let text = what.to_string().replace(&self.directory, "");
        self.trace.say(self.time.elapsed_ms(), who, text);
    }

    /// An invariant does not hold. The first one counts.
    pub fn broken(&self, what: impl Display) {
        let text = what.to_string().replace(&self.directory, "");
        self.say("BROKEN", &text);
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
        self.bell.notify_one();
    }

    fn is_broken(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether things still go wrong.
    pub fn is_faulty(&self) -> bool {
        self.faulty.load(Ordering::Relaxed)
    }

    /// Whether the server's process is stopped.
    pub fn server_is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    fn set_server_down(&self, down: bool) {
        self.down.store(down && self.is_faulty(), Ordering::Relaxed);
    }

    /// Waits for the end of the faults; for ever where it has come.
    async fn healing(&self) {
        // Not a watch channel: that one wakes its receivers in an order of its own.
        let healed = self.healed.notified();
        if !self.is_faulty() {
            std::future::pending::<()>().await;
        }
        healed.await;
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.stray.lock().unwrap_or_else(PoisonError::into_inner).spawn(work);
    }
}

/// How one run went.
#[derive(Debug, Clone)]
pub struct Run {
    /// Its seed.
    pub seed: u64,
    /// The first invariant that did not hold.
    pub broken: Option<String>,
    /// The hash over its whole trace.
    pub hash: Hash,
    /// Lines of the trace, and those that were kept.
    pub lines: u64,
    /// The whole trace, or its end.
    pub trace: Vec<String>,
    /// Simulated time, summed over devices.
    pub device_ms: u64,
    /// How long it took to catch up after the last fault.
    pub settled_ms: u64,
    /// How often the invariants were checked.
    pub checks: u64,
    /// Audit events that were told of and are stored.
    pub events: u64,
}

/// Random bytes for keys that a simulation makes itself.
fn bytes<const N: usize>(dice: &mut Dice) -> [u8; N] {
    let mut out = [0; N];
    dice.fill(&mut out);
    out
}

fn panicked(ended: Option<Result<(), JoinError>>) -> String {
    let text = |panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
    };
    match ended {
        Some(Err(error)) if error.is_panic() => format!("panicked: {}", text(error.into_panic())),
        _ => "it returned".into(),
    }
}

/// Random bytes come from the seed for as long as this lives.
#[derive(Debug)]
struct Seeded;

impl Seeded {
    fn begin(seed: u64) -> Self {
        let source = |actor: &str| {
            let mut dice = Dice::of(seed, actor);
            Some(Box::new(move |bytes: &mut [u8]| dice.fill(bytes)) as Box<dyn FnMut(&mut [u8])>)
        };
        cpis_agent::random::seeded::set(source("agent.random"));
        cpis_server::entropy::seeded::set(source("server.random"));
        Self
    }
}

impl Drop for Seeded {
    fn drop(&mut self) {
        cpis_agent::random::seeded::set(None);
        cpis_server::entropy::seeded::set(None);
    }
}

/// Runs one seed; keeps the whole trace or only its end.
///
/// # Errors
/// When the simulation itself cannot be set up: no finding about the programs.
pub fn run(seed: u64, whole: bool) -> anyhow::Result<Run> {
    // In memory where there is such a file system: nothing here has to survive.
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let _seeded = Seeded::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(play(seed, whole, directory.path().to_path_buf()))
}

async fn play(seed: u64, whole: bool, directory: PathBuf) -> anyhow::Result<Run> {
    let mut dice = Dice::of(seed, "world");
    let time = TrueTime::begin();
    let server = Server::set_up(&directory.join("server"), time, &mut dice).context("set the server up")?;
    let tokens = Tokens::compute(&server)?;
    let world = Arc::new(World {
        seed,
        time,
        server,
        liar: Liar::new(&mut dice),
        trace: Trace::new(whole),
        directory: directory.display().to_string(),
        faulty: AtomicBool::new(true),
        down: AtomicBool::new(false),
        healed: Notify::new(),
        broken: Mutex::default(),
        bell: Notify::new(),
        stray: Mutex::default(),
        drawer: Mutex::default(),
        tokens,
    });
    let devices = enrol(&world, &mut dice, &directory)?;
    let mut tasks = JoinSet::new();
    for device in &devices {
        tasks.spawn(Arc::clone(device).live(Arc::clone(&world)));
        tasks.spawn(misfortune::weather(Arc::clone(&world), Arc::clone(device)));
        tasks.spawn(misfortune::hardware(Arc::clone(&world), Arc::clone(device)));
    }
    tasks.spawn(operator::clockwork(Arc::clone(&world)));
    tasks.spawn(operator::act(Arc::clone(&world), devices.clone()));
    pass(&world, &mut tasks, dice.between(8 * HOUR_MS, 60 * HOUR_MS)).await;
    let healed_ms = time.elapsed_ms();
    let mut events = 0;
    if world.is_broken().is_none() {
        heal(&world, &devices);
        settle(&world, &mut tasks, &devices).await;
        if world.is_broken().is_none() {
            events = audited(&world, &devices);
        }
    }
    tasks.shutdown().await;
    let (hash, lines, trace) = world.trace.read();
    let elapsed_ms = u64::try_from(time.elapsed_ms())?;
    Ok(Run {
        seed,
        broken: world.is_broken(),
        hash,
        lines,
        trace,
        device_ms: elapsed_ms * devices.len() as u64,
        settled_ms: u64::try_from(time.elapsed_ms() - healed_ms)?,
        checks: devices.iter().map(|device| device.watch().checks).sum(),
        events,
    })
}

fn enrol(world: &World, dice: &mut Dice, directory: &Path) -> anyhow::Result<Vec<Arc<Device>>> {
    let mut devices = Vec::new();
    for number in 1..=dice.place(3) + 1 {
        let scope = dice.pick(&SCOPES).copied().unwrap_or("all");
        devices.push(Device::enrol(world, number, scope, &directory.join(format!("d{number}")))?);
    }
    Ok(devices)
}

/// Lets time pass; sooner when something is broken.
async fn pass(world: &World, tasks: &mut JoinSet<()>, for_ms: u64) {
    let end = tokio::time::Instant::now() + Duration::from_millis(for_ms);
    loop {
        tokio::select! {
            biased;
            () = world.bell.notified() => return,
            ended = tasks.join_next(), if !tasks.is_empty() => {
                if ended.as_ref().is_some_and(|ended| ended.as_ref().is_err_and(JoinError::is_panic)) {
                    world.broken(panicked(ended));
                    return;
                }
            }
            () = tokio::time::sleep_until(end) => return,
        }
    }
}

/// The faults are over.
fn heal(world: &World, devices: &[Arc<Device>]) {
    world.say("world", "heals");
    world.faulty.store(false, Ordering::Relaxed);
    world.set_server_down(false);
    for device in devices {
        device.link.set(Weather::Clear);
        device.machine.power.calm();
    }
    if let Err(error) = operator::resume(world, devices) {
        world.broken(format!("{error:#}"));
    }
    world.healed.notify_waiters();
}

/// Everybody catches up in time, or something is broken.
async fn settle(world: &World, tasks: &mut JoinSet<()>, devices: &[Arc<Device>]) {
    let begin_ms = world.time.elapsed_ms();
    loop {
        pass(world, tasks, 60_000).await;
        if world.is_broken().is_some() {
            return;
        }
        let behind = devices.iter().find_map(|device| Some((device, settled::device(world, device).err()?)));
        let Some((device, why)) = behind else { break };
        if world.time.elapsed_ms() - begin_ms > i64::try_from(SETTLE_MS).unwrap_or(i64::MAX) {
            return world.broken(format!("{} did not catch up: {why:#}", device.name));
        }
    }
    world.say("world", "everybody has caught up");
    for device in devices {
        if let Err(error) = settled::answers(world, device) {
            world.broken(format!("{} in the end: {error:#}", device.name));
        }
    }
    // What that added goes up as well.
    for _ in 0..60 {
        pass(world, tasks, 60_000).await;
        if devices.iter().all(|device| settled::device(world, device).is_ok()) {
            return;
        }
    }
    world.broken("the last events were not uploaded");
}

fn audited(world: &World, devices: &[Arc<Device>]) -> u64 {
    // What other processes did is taken up, such as a new audit key.
    if let Err(error) = world.server.tick() {
        world.broken(format!("the server's clockwork: {error:#}"));
    }
    let mut events = 0;
    for device in devices {
        let checked = device.agent().context("it does not run").and_then(|agent| settled::audit(world, device, &agent));
        match checked {
            Ok(count) => events += count,
            Err(error) => world.broken(format!("{}'s audit: {error:#}", device.name)),
        }
    }
    let mut stray = world.stray.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(ended) = stray.try_join_next() {
        if ended.as_ref().is_err_and(JoinError::is_panic) {
            world.broken(panicked(Some(ended)));
        }
    }
    events
}

/// The command that replays a seed with everything that happens in it.
#[must_use]
pub fn replay(seed: u64) -> String {
    format!("cargo sim --seed {seed} --trace")
}
