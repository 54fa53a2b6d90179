//! The line between agent and server, where bytes are counted: two network namespaces joined by a veth pair or by the
//! air, without names, so that nothing is left of them when this process ends. Where they cannot be had, a relay on
//! loopback. It must not count what either end says to itself.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::air::{self, Air};
use super::relay::Relay;
use super::report::grouped;
use crate::process::run;
use crate::site::Place;

const SERVER: End = End { device: "cpis0", address: "10.213.77.1", hardware: "02:00:00:00:00:01" };
const AGENT: End = End { device: "cpis1", address: "10.213.77.2", hardware: "02:00:00:00:00:02" };
const PORT: u16 = 8443;

struct End {
    device: &'static str,
    address: &'static str,
    hardware: &'static str,
}

/// What went over the line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Bytes to the agent.
    pub down: u64,
    /// Bytes to the server.
    pub up: u64,
    /// Packets both ways; zero at a relay.
    pub packets: u64,
    /// TCP connections that the server accepted: each pays for a handshake.
    pub connections: u64,
}

impl Count {
    /// Both ways.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.down + self.up
    }

    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let Self { down, up, packets, connections } = *self;
        let ways = format!("{} down, {} up", grouped(down), grouped(up));
        format!("{} bytes ({ways}, {packets} packets, {connections} new connections)", grouped(self.bytes()))
    }

    /// What was added since an earlier count.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            down: self.down - earlier.down,
            up: self.up - earlier.up,
            packets: self.packets - earlier.packets,
            connections: self.connections - earlier.connections,
        }
    }
}

/// The line.
#[derive(Debug)]
pub enum Line {
    /// Namespaces of the server and of the agent, joined by a cable: everything is counted, Ethernet, IP, TCP and TLS.
    Namespaces(File, File),
    /// The same, joined by the air: IP packets are counted, those that the agent sends also when they are lost.
    Air(File, File, Arc<Air>),
    /// A relay, and why: only what TCP carries is counted, and nothing is lost.
    Relay(Relay, String),
}

/// Chooses which packets are lost.
pub const SEED: u64 = 20_261_125;

impl Line {
    /// Lays the line.
    ///
    /// # Errors
    /// When not even a relay can be had.
    pub fn lay() -> anyhow::Result<Self> {
        match namespaces(cable) {
            Ok((server, agent, ())) => Ok(Self::Namespaces(server, agent)),
            Err(error) => Ok(Self::Relay(Relay::start()?, format!("{error:#}"))),
        }
    }

    /// Lays the line with weather, clear at first.
    ///
    /// # Errors
    /// When not even a relay can be had.
    pub fn lay_in_air() -> anyhow::Result<Self> {
        match namespaces(through_air) {
            Ok((server, agent, air)) => Ok(Self::Air(server, agent, air)),
            Err(error) => Ok(Self::Relay(Relay::start()?, format!("{error:#}"))),
        }
    }

    /// What makes the weather; a cable has none.
    #[must_use]
    pub fn air(&self) -> Option<&Arc<Air>> {
        match self {
            Self::Namespaces(..) => None,
            Self::Air(_, _, air) => Some(air),
            Self::Relay(relay, _) => Some(&relay.air),
        }
    }

    /// Where bytes are counted, in words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Namespaces(..) => "veth between two namespaces, frames of at most 1,514 bytes".into(),
            Self::Air(..) => format!("TUN device of the agent's namespace, IP packets of at most {} bytes", air::MTU),
            Self::Relay(_, why) => format!("a relay, TCP payload only and without loss, because: {why}"),
        }
    }

    /// Where the server is to be found.
    ///
    /// # Errors
    /// When the address does not parse, which cannot be.
    pub fn place(&self) -> anyhow::Result<Place> {
        match self {
            Self::Namespaces(..) | Self::Air(..) => {
                let at = format!("{}:{PORT}", SERVER.address);
                Ok(Place { url: format!("https://{at}"), listen: at.parse()? })
            }
            Self::Relay(relay, _) => {
                let listen = format!("127.0.0.1:{}", relay.to).parse()?;
                Ok(Place { url: format!("https://localhost:{}", relay.port), listen })
            }
        }
    }

    /// Does something where the server is; programs that it starts stay there.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn at_server<R: Send>(&self, work: impl FnOnce() -> anyhow::Result<R> + Send) -> anyhow::Result<R> {
        match self {
            Self::Namespaces(server, _) | Self::Air(server, ..) => inside(server, work),
            Self::Relay(..) => work(),
        }
    }

    /// Does something where the agent is.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn at_agent<R: Send>(&self, work: impl FnOnce() -> anyhow::Result<R> + Send) -> anyhow::Result<R> {
        match self {
            Self::Namespaces(_, agent) | Self::Air(_, agent, _) => inside(agent, work),
            Self::Relay(..) => work(),
        }
    }

    /// What has gone over the line. To be called where the agent is.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn count(&self) -> anyhow::Result<Count> {
        if let Self::Relay(relay, _) = self {
            let counters = [&relay.down, &relay.up, &relay.connections];
            let [down, up, connections] = counters.map(|counter| counter.load(Ordering::Relaxed));
            return Ok(Count { down, up, packets: 0, connections });
        }
        let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(AGENT.device)?.strip_prefix(':'));
        let fields: Vec<u64> =
            line.context("no such device")?.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        let field = |at: usize| fields.get(at).copied().context("a counter is missing");
        // Received bytes and packets are the first two; sent ones begin at the ninth.
        Ok(Count {
            down: field(0)?,
            up: field(8)?,
            packets: field(1)? + field(9)?,
            connections: self.at_server(accepted)?,
        })
    }

    /// Waits until nothing has gone over the line for a while.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn wait_quiet(&self, quiet: Duration) -> anyhow::Result<Count> {
        let (mut last, mut since) = (self.count()?, Instant::now());
        while since.elapsed() < quiet {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.count()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }
}

/// Connections that programs of this thread's namespace accepted, ever.
fn accepted() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "PassiveOpens");
    Ok(found.context("no PassiveOpens")?.1.parse()?)
}

/// Runs something on a thread of its own inside a namespace.
fn inside<R: Send>(namespace: &File, work: impl FnOnce() -> anyhow::Result<R> + Send) -> anyhow::Result<R> {
    std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        });
        thread.join().map_err(|_| anyhow!("the work in a namespace panicked"))?
    })
}

/// A process that does nothing in a new namespace, until it is dropped or its input ends with this process.
struct Holder(Child);

impl Holder {
    fn start() -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut holder = Self(command.spawn().context("start unshare")?);
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let started = Instant::now();
        while std::fs::read_link(holder.path()).is_ok_and(|link| link == own) {
            ensure!(started.elapsed() < Duration::from_secs(5), "no new network namespace");
            if let Some(status) = holder.0.try_wait()? {
                return Err(anyhow!("a network namespace may not be made here ({status})"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(holder)
    }

    fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    run(Command::new("ip").args(arguments.split_whitespace())).map(|_| ())
}

/// Makes the two namespaces; `join` joins them.
fn namespaces<T>(
    join: impl FnOnce(&Holder, &File, &Holder, &File) -> anyhow::Result<T>,
) -> anyhow::Result<(File, File, T)> {
    let (server, agent) = (Holder::start()?, Holder::start()?);
    let (at_server, at_agent) = (File::open(server.path())?, File::open(agent.path())?);
    let joined = join(&server, &at_server, &agent, &at_agent)?;
    Ok((at_server, at_agent, joined))
}

fn cable(server: &Holder, at_server: &File, agent: &Holder, at_agent: &File) -> anyhow::Result<()> {
    ip(&format!(
        "link add {} netns {} address {} type veth peer name {} netns {} address {}",
        SERVER.device,
        server.0.id(),
        SERVER.hardware,
        AGENT.device,
        agent.0.id(),
        AGENT.hardware
    ))?;
    for (namespace, own, other) in [(at_server, &SERVER, &AGENT), (at_agent, &AGENT, &SERVER)] {
        inside(namespace, || {
            ip("link set lo up")?;
            ip(&format!("address add {}/24 dev {}", own.address, own.device))?;
            // Packets are counted as they would be on a cable: none is larger than a frame, and nothing but TCP talks.
            ip(&format!("link set {} gso_max_segs 1 addrgenmode none up", own.device))?;
            ip(&format!("neighbour add {} lladdr {} dev {} nud permanent", other.address, other.hardware, own.device))
        })?;
    }
    Ok(())
}

fn through_air(_: &Holder, at_server: &File, _: &Holder, at_agent: &File) -> anyhow::Result<Arc<Air>> {
    let mut devices = Vec::new();
    for (namespace, own, other) in [(at_server, &SERVER, &AGENT), (at_agent, &AGENT, &SERVER)] {
        devices.push(inside(namespace, || {
            let device = air::device(own.device).context("make a TUN device")?;
            ip("link set lo up")?;
            ip(&format!("address add {} peer {} dev {}", own.address, other.address, own.device))?;
            ip(&format!("link set {} addrgenmode none txqueuelen 1000 up", own.device))?;
            Ok(device)
        })?);
    }
    let air = Air::new();
    if let [server, agent] = devices.as_slice() {
        air::carry(server, agent, &air, SEED);
    }
    Ok(air)
}
