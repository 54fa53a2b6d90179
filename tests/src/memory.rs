//! The memory of a running process, as a core dump would hold it.
//! It must not stop or change the process, and must not pass over a mapping in silence.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};

use crate::needles::{Search, Searched};

/// Searches every mapping that the process may write to, as [`mappings`] reads it.
///
/// # Errors
/// When the memory cannot be read.
pub fn search(pid: u32, search: &Search) -> anyhow::Result<Searched> {
    let mut searched = Searched::default();
    searched.files = mappings(pid, |line, bytes| search.bytes(&PathBuf::from(line), bytes, &mut searched))?;
    Ok(searched)
}

/// Shows every mapping that the process may write to, and says how many: heap, stacks of all threads, writable data.
/// Where the kernel refuses (another user's process, or one that may not be dumped), that is an
/// [`io::ErrorKind::PermissionDenied`].
///
/// # Errors
/// When the memory cannot be read.
pub fn mappings(pid: u32, mut show: impl FnMut(&str, &[u8])) -> anyhow::Result<usize> {
    let mut shown = 0;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').context("a mapping without a range")?;
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        let mut bytes = vec![0; usize::try_from(to - from)?];
        match memory.read_exact_at(&mut bytes, from) {
            Ok(()) => show(line, &bytes),
            // The kernel's own page of a mapping, or one that went away meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => continue,
            Err(error) => return Err(io::Error::new(error.kind(), format!("{line}: {error}")).into()),
        }
        shown += 1;
    }
    ensure!(shown > 10, "only {shown} mappings were read");
    Ok(shown)
}
