//! Processor time and cores: programs pinned to a core, and what of it they used.
//! It must not take wall time for processor time: the machine may be shared.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use rustix::thread::{CpuSet, sched_setaffinity};

/// The server's core, and the load's.
pub const SERVER_CORE: usize = 0;
/// Where the load is made.
pub const LOAD_CORE: usize = 1;

/// Pins the calling thread, and what it starts, to one core.
///
/// # Errors
/// When the machine has no such core.
pub fn pin(core: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).with_context(|| format!("pin to core {core}"))
}

/// Does something on a thread of its own that is pinned to a core; programs that it starts stay there.
///
/// # Errors
/// Those of `work`.
pub fn pinned<R: Send>(core: usize, work: impl FnOnce() -> anyhow::Result<R> + Send) -> anyhow::Result<R> {
    std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            pin(core)?;
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("the work on a core panicked"))?
    })
}

/// What a process has used of processors and how often its threads were woken, since it started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time.
    pub time: Duration,
    /// Voluntary context switches of all its present threads: each is a wake-up that came before.
    pub wakes: u64,
}

impl Usage {
    /// Of one process.
    ///
    /// # Errors
    /// When it is not there.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let mut usage = Self::default();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name may hold anything; after it come the state and numbers: user and system time are the 14th and 15th of
        // the line, in ticks of a hundredth of a second. Time of threads that ended is in them.
        let (_, rest) = stat.rsplit_once(") ").context("no name in stat")?;
        let ticks: u64 = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        usage.time = Duration::from_millis(ticks * 10);
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.filter_map(Result::ok) {
            usage.wakes += wakes(&task.path()).unwrap_or(0);
        }
        Ok(usage)
    }

    /// What was added since.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let wakes = self.wakes.saturating_sub(earlier.wakes);
        Self { time: self.time.saturating_sub(earlier.time), wakes }
    }
}

fn wakes(task: &Path) -> Option<u64> {
    let status = std::fs::read_to_string(task.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
    line.trim().parse().ok()
}

/// Processor time of the calling thread.
#[must_use]
pub fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}

/// Lets this process hold as many sockets as it may.
///
/// # Errors
/// When the limit cannot be set.
pub fn raise_files() -> anyhow::Result<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.maximum.unwrap_or(1 << 16);
    let raised = rustix::process::Rlimit { current: Some(most), maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    Ok(most)
}
