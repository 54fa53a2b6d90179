//! What the benchmark measures, and small measures that its parts share: percentiles, memory of a process, sizes.
//! It must not judge: a figure is printed beside its target, never asserted.
//!
//! | file | what it measures |
//! |---|---|
//! | `live.rs` | the real agent program: memory, start to first answer |
//! | `library.rs` | look-up and apply through the library |
//! | `disk.rs` | the audit journal against the bare disk |
//! | `wire.rs` | bytes on the wire between the real programs, counted at `net.rs` |
//! | `air.rs`, `relay.rs` | a link with delay, rate and loss |
//! | `bad.rs`, `checks.rs` | sync over the bad link: the agent, and the devices of `device.rs` |
//! | `floor.rs` | what that link gives to plain TCP |
//! | `day.rs` | a day in an ambulance, beside the peers |
//! | `storm.rs`, `bare.rs`, `cores.rs` | a fleet against one server on one core, beside bare handshakes |
//! | `model.rs`, `caches.rs` | one million devices, from costs measured in the run |
//! | `idle.rs` | what an idle agent takes of the processor |
//! | `enumeration.rs` | the price of a guess, and of listing a copy |
//! | `names.rs` | recall and false candidates of look-up by name |
//! | `register.rs` | sizes of the programs, a national register, the memory-hard step |
//! | `fleet.rs` | the deployment that these share |
//! | `report.rs` | how figures are printed |

pub mod air;
pub mod bad;
pub mod bare;
pub mod caches;
pub mod changes;
pub mod checks;
pub mod cores;
pub mod day;
pub mod device;
pub mod disk;
pub mod enumeration;
pub mod fleet;
pub mod floor;
pub mod idle;
pub mod library;
pub mod live;
pub mod model;
pub mod names;
pub mod net;
pub mod register;
pub mod relay;
pub mod report;
pub mod storm;
pub mod wire;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::ensure;

/// How much of everything is done.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Only to see that every measure still runs.
    pub quick: bool,
}

impl Scale {
    /// The number for a real run, or the one for a quick run.
    #[must_use]
    pub const fn of<T: Copy>(self, real: T, quick: T) -> T {
        if self.quick { quick } else { real }
    }
}

/// The value below which `share` (0 to 1) of the sorted samples lie.
#[must_use]
pub fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let last = samples.len().saturating_sub(1);
    // The share is between 0 and 1, so the product lies within the slice.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let at = (last as f64 * share).round() as usize;
    samples.get(at).copied().unwrap_or_default()
}

/// The median.
#[must_use]
pub fn median(samples: &mut [Duration]) -> Duration {
    percentile(samples, 0.5)
}

/// SplitMix64: a chain of chances that one seed gives on every machine.
pub fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Resident memory of a process in KiB.
#[must_use]
pub fn resident_kib(pid: u32) -> Option<u64> {
    memory_kib(pid, "VmRSS")
}

/// A line of `/proc/<pid>/status` that is in KiB: `VmRSS`, `VmHWM` (the peak), `RssAnon`, `RssFile`.
#[must_use]
pub fn memory_kib(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Runs a command to its end and says how long it took and how much memory it had at most, in KiB.
///
/// # Errors
/// When it cannot be started or fails.
pub fn run_measured(command: &mut Command) -> anyhow::Result<(Duration, u64)> {
    let started = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut peak_kib = 0;
    let status = loop {
        // The peak only grows, so what is missed is at most the growth of the last few milliseconds.
        peak_kib = memory_kib(child.id(), "VmHWM").map_or(peak_kib, |now| peak_kib.max(now));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok((started.elapsed(), peak_kib))
}

/// Bytes of all files below a directory.
#[must_use]
pub fn directory_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => directory_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
