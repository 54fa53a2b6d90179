//! One device: the real agent on a machine that fails, from one start to the next.
//! It must not reach into the agent beyond what its daemon does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use cpis_agent::agent::{Agent, OpenError};
use cpis_agent::config::Config;
use cpis_agent::device_secret::Choice;
use cpis_agent::driver;
use cpis_agent::environment::Environment;
use cpis_agent::journal::Disk;
use cpis_agent::port::{Clock, Store, StoreError};
use cpis_agent::random::RandomError;
use cpis_agent::scrub;
use cpis_protocol::id::DeviceId;
use tokio::sync::watch::channel;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::dice::Dice;
use super::files::Files;
use super::network::{Link, SimulatedTransport};
use super::power::{Cut, Power};
use super::store::MemoryStore;
use super::time::DeviceClock;
use super::watch::Watch;
use super::{World, courier, crew, enrolment};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: i64 = 86_400_000;

/// What the agent has of the device it runs on.
#[derive(Debug)]
pub struct Machine {
    /// Its power and the state of its disk.
    pub power: Arc<Power>,
    /// Keyslot file and journal.
    pub files: Files,
    /// The replica's storage.
    pub store: MemoryStore,
    /// Its clocks.
    pub clock: DeviceClock,
}

/// Handed to the agent.
struct OnMachine(Arc<Machine>);

impl Environment for OnMachine {
    fn clock(&self) -> Result<Arc<dyn Clock>, RandomError> {
        Ok(Arc::new(self.0.clock.clone()))
    }

    fn open_store(&self, directory: &Path) -> Result<Box<dyn Store>, StoreError> {
        Ok(Box::new(self.0.store.open(directory)?))
    }

    fn disk(&self) -> Box<dyn Disk> {
        Box::new(self.0.files.clone())
    }

    fn is_single_threaded(&self) -> bool {
        true
    }
}

/// One device.
#[derive(Debug)]
pub struct Device {
    /// How the trace names it.
    pub name: String,
    /// Its identity.
    pub id: DeviceId,
    /// Its way to the server.
    pub link: Link,
    /// What it runs on.
    pub machine: Arc<Machine>,
    /// What its crew was told.
    pub told: Mutex<crew::Told>,
    seed: u64,
    directory: PathBuf,
    watch: Mutex<Watch>,
    draws: Mutex<BTreeMap<&'static str, u64>>,
    agent: Mutex<Option<Arc<Agent>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Enrols a device of a scope.
    ///
    /// # Errors
    /// When enrolment, which nothing disturbs, fails.
    pub fn enrol(world: &World, number: usize, scope: &str, directory: &Path) -> anyhow::Result<Arc<Self>> {
        let name = format!("d{number}");
        let power = Arc::new(Power::new(Dice::of(world.seed, &format!("{name}.power"))));
        let machine = Machine {
            files: Files::new(Arc::clone(&power)),
            store: MemoryStore::new(Arc::clone(&power)),
            power,
            clock: DeviceClock::new(world.time),
        };
        let id = enrolment::enrol(world, &machine.clock, scope, directory)?;
        machine.files.adopt(&directory.join(cpis_agent::agent::KEYSLOT))?;
        machine.files.adopt(&directory.join(cpis_agent::agent::JOURNAL))?;
        Ok(Arc::new(Self {
            link: Link::new(Dice::of(world.seed, &format!("{name}.link"))),
            seed: world.seed,
            id,
            machine: Arc::new(machine),
            directory: directory.to_owned(),
            watch: Mutex::default(),
            draws: Mutex::default(),
            agent: Mutex::default(),
            told: Mutex::default(),
            name,
        }))
    }

    /// A fresh stream for one use of chance.
    pub fn dice(&self, what: &'static str) -> Dice {
        let mut draws = lock(&self.draws);
        let count = draws.entry(what).or_default();
        *count += 1;
        Dice::of(self.seed, &format!("{}.{what}.{count}", self.name))
    }

    /// What is known of it.
    pub fn watch(&self) -> MutexGuard<'_, Watch> {
        lock(&self.watch)
    }

    /// The agent, while it runs.
    pub fn agent(&self) -> Option<Arc<Agent>> {
        lock(&self.agent).clone()
    }

    /// Checks everything that can be checked now.
    pub fn examine(&self, world: &World, when: &str) {
        let Some(agent) = self.agent() else { return };
        if self.machine.power.is_off().is_some() {
            return;
        }
        if let Err(error) = self.watch().check(world, self, &agent) {
            world.broken(format!("{} {when}: {error:#}", self.name));
        }
    }

    /// A file beside the agent's directory.
    #[must_use]
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.directory.with_extension(name)
    }

    fn open(&self) -> Result<Agent, OpenError> {
        let config = Config { device_secret: Choice::File, journal_mib: 2, ..Config::default() };
        Agent::open_in(&self.directory, &config, Arc::new(OnMachine(Arc::clone(&self.machine))))
    }

    /// Starts the agent; tries again while the disk does not let it.
    async fn start(&self, world: &World) -> Option<Arc<Agent>> {
        loop {
            match self.open() {
                Ok(agent) => {
                    let agent = Arc::new(agent);
                    *lock(&self.agent) = Some(Arc::clone(&agent));
                    self.watch().started();
                    world.say(&self.name, "starts");
                    self.examine(world, "starts");
                    return Some(agent);
                }
                Err(error) if self.machine.power.is_spoilt() => {
                    world.say(&self.name, format!("does not start: {error}"))
                }
                Err(error) => world.broken(format!("{} does not start: {error}", self.name)),
            }
            if self.machine.power.is_off().is_some() {
                return None;
            }
            sleep(Duration::from_secs(30)).await;
        }
    }

    /// Runs until something ends it; `None` when it was the plan.
    async fn run(self: &Arc<Self>, world: &Arc<World>, agent: Arc<Agent>, until_ms: u64) -> Option<Cut> {
        let transport = Arc::new(SimulatedTransport::new(Arc::clone(world), Arc::clone(self), &agent));
        let (stop, shutdown) = channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(driver::pull(Arc::clone(&agent), Arc::clone(&transport), shutdown.clone()));
        tasks.spawn(driver::push(Arc::clone(&agent), Arc::clone(&transport), shutdown.clone()));
        tasks.spawn(scrub::run(Arc::clone(&agent), shutdown));
        tasks.spawn(crew::work(Arc::clone(world), Arc::clone(self), Arc::clone(&agent)));
        tasks.spawn(courier::carry(Arc::clone(world), Arc::clone(self), Arc::clone(&agent)));
        tasks.spawn(crew::timers(Arc::clone(world), Arc::clone(self), Arc::clone(&agent)));
        let cut = tokio::select! {
            biased;
            cut = self.machine.power.lost() => Some(cut),
            ended = tasks.join_next() => {
                world.broken(format!("{}: a task ended: {}", self.name, super::panicked(ended)));
                None
            }
            () = world.healing() => None,
            () = sleep(Duration::from_millis(until_ms)) => None,
        };
        tasks.abort_all();
        while let Some(ended) = tasks.join_next().await {
            if ended.as_ref().is_err_and(tokio::task::JoinError::is_panic) {
                world.broken(format!("{}: {}", self.name, super::panicked(Some(ended))));
            }
        }
        drop((transport, stop));
        if cut.is_none() {
            agent.close();
            self.examine(world, "stops");
        }
        *lock(&self.agent) = None;
        // Requests that were under way hold on to it until the runtime has dropped them.
        for _ in 0..10_000 {
            if Arc::strong_count(&agent) == 1 {
                return cut;
            }
            tokio::task::yield_now().await;
        }
        world.broken(format!("{}: something holds on to the agent", self.name));
        cut
    }

    /// What is left on the disk, and for how long the device is off.
    fn end(&self, world: &World, dice: &mut Dice, cut: Option<Cut>) -> anyhow::Result<u64> {
        let machine = &self.machine;
        world.say(
            &self.name,
            cut.map_or("stops".into(), |cut| format!("ends: {cut:?} after {} steps", machine.power.steps())),
        );
        machine.store.lose();
        let off_ms = match cut {
            Some(Cut::Power) => {
                machine.files.lose_power().context("the simulated disk")?;
                let off_ms = dice.weighed(&[(50, 5), (30, 120), (15, 600), (5, 3000)]).unwrap_or(5) * MINUTE_MS;
                dice.between(1000, off_ms)
            }
            Some(Cut::Kill) | None => dice.between(1000, 20_000),
        };
        if world.is_faulty() && dice.chance(40) {
            self.watch().spoilt = true;
            if dice.chance(500) {
                machine.store.damage();
                self.watch().lost_its_store();
                world.say(&self.name, "the store is damaged");
            } else if machine.store.rot(dice) {
                world.say(&self.name, "a bit of the store turns");
            }
        }
        Ok(off_ms)
    }

    fn boot(&self, world: &World, dice: &mut Dice) {
        self.machine.clock.reboot();
        if world.is_faulty() && dice.chance(300) {
            let ahead = [-60_000, 3_600_000, -3_600_000, 400 * DAY_MS, -400 * DAY_MS, -20_000 * DAY_MS, 0];
            let ahead_ms = dice.pick(&ahead).copied().unwrap_or(0);
            self.machine.clock.set_wall(ahead_ms);
            world.say(&self.name, format!("boots with its clock {ahead_ms} ms ahead"));
        }
    }

    /// Lives: starts, runs, ends, again and again.
    pub async fn live(self: Arc<Self>, world: Arc<World>) {
        let mut dice = self.dice("life");
        loop {
            let mut until_ms = u64::MAX >> 20;
            if world.is_faulty() {
                let cut = if dice.chance(600) { Cut::Power } else { Cut::Kill };
                match dice.below(3) {
                    0 => self.machine.power.cut_after(dice.between(1, 60), cut),
                    1 => self.machine.power.cut_after(dice.between(1, 600), cut),
                    _ => {}
                }
                until_ms = dice.between(5 * MINUTE_MS, 18 * 60 * MINUTE_MS);
            }
            let Some(cut) = (match self.start(&world).await {
                Some(agent) => Some(self.run(&world, agent, until_ms).await),
                None => Some(self.machine.power.is_off()),
            }) else {
                return;
            };
            // What was planned for may come in the form of an end without warning.
            let cut = cut.or_else(|| (world.is_faulty() && dice.chance(500)).then_some(Cut::Power));
            match self.end(&world, &mut dice, cut) {
                Ok(off_ms) => {
                    let off_ms = if world.is_faulty() { off_ms } else { 1000 };
                    tokio::select! {
                        biased;
                        () = sleep(Duration::from_millis(off_ms)) => {}
                        () = world.healing(), if world.is_faulty() => {}
                    }
                }
                Err(error) => world.broken(format!("{}: {error:#}", self.name)),
            }
            self.machine.power.on();
            if cut == Some(Cut::Power) {
                self.boot(&world, &mut dice);
            }
        }
    }
}
