//! Small measures for the benchmarks: percentiles, memory of a process, sizes.
//! It must not judge: a figure is printed, never asserted.

use std::path::Path;
use std::time::Duration;

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

/// Resident memory of a process in KiB.
#[must_use]
pub fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
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
