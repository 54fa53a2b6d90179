//! Names in the journal's directory, and the making of a new chain.
//! It must not delete anything but staged names, which nobody was ever told of, and chains that are covered whole.
//!
//! | name | what |
//! |---|---|
//! | `lock` | held by the one process that has the journal open |
//! | `chain-NNNNNNNNNN/` | one chain; the highest number is the one in use, lower ones were closed with links unsent |
//! | `chain-N/audit-SSSSSSSSSSSSSSSSSSSS.journal` | a segment; S is the position of its first link |
//! | `*.new` | not yet published; deleted when the journal is opened |

use std::io;
use std::path::{Path, PathBuf};

use cpis_protocol::Refusal;
use cpis_protocol::audit::Tip;
use cpis_protocol::id::DeviceId;

use super::RECEIPT_ROOM;
use super::format::{HEADER_BYTES, Header};
use crate::durable;

const CHAIN_PREFIX: &str = "chain-";
const SEGMENT_PREFIX: &str = "audit-";
const SEGMENT_ENDING: &str = ".journal";

/// The path of a segment.
pub(super) fn segment_path(dir: &Path, before: &Tip) -> PathBuf {
    dir.join(format!("{SEGMENT_PREFIX}{:020}{SEGMENT_ENDING}", before.seq.saturating_add(1)))
}

/// The path of the lock file.
pub(super) fn lock_path(root: &Path) -> PathBuf {
    root.join("lock")
}

fn numbered(dir: &Path, prefix: &str, ending: &str, digits: usize) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_suffix(ending)).map(str::as_bytes);
        if let Some(number) = number.filter(|n| n.len() == digits && n.iter().all(u8::is_ascii_digit)) {
            let number = number.iter().fold(0u64, |n, d| n.saturating_mul(10).saturating_add(u64::from(d - b'0')));
            found.push((number, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// The chains by number, the one in use last.
pub(super) fn chains(root: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    match numbered(root, CHAIN_PREFIX, "", 10) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}

/// The segments of a chain by the position of their first link.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    numbered(dir, SEGMENT_PREFIX, SEGMENT_ENDING, 20)
}

/// Deletes what was staged and never published; says how much there was.
pub(super) fn clear_staged(dir: &Path) -> io::Result<usize> {
    let mut cleared = 0;
    for entry in dir.read_dir()? {
        let path = entry?.path();
        let staged = path.as_os_str().as_encoded_bytes().ends_with(durable::STAGED_ENDING.as_bytes());
        if staged && path.is_dir() {
            durable::remove_dir(&path)?;
            cleared += 1;
        } else if staged {
            durable::remove(&path)?;
            cleared += 1;
        }
    }
    Ok(cleared)
}

/// Deletes a chain of which every link is covered. It is renamed first, so that a crash leaves it whole or staged.
pub(super) fn discard_chain(dir: &Path) -> io::Result<()> {
    let mut staged = dir.as_os_str().to_owned();
    staged.push(durable::STAGED_ENDING);
    std::fs::rename(dir, &staged)?;
    durable::remove_dir(Path::new(&staged))
}

/// A chain's directory with its first, empty segment, that nobody sees yet.
pub(super) struct StagedChain {
    staged: PathBuf,
    dir: PathBuf,
}

/// What a new segment begins with: its header, and room for receipts that is had before the segment is.
pub(super) fn first_bytes(header: &Header) -> Result<Vec<u8>, Refusal> {
    let mut bytes = header.to_bytes()?;
    bytes.resize(HEADER_BYTES + usize::try_from(RECEIPT_ROOM).unwrap_or(0), 0);
    Ok(bytes)
}

/// Makes the directory of the chain that begins at `start`, under a staged name.
pub(super) fn stage_chain(root: &Path, number: u64, device: DeviceId, start: Tip) -> io::Result<StagedChain> {
    let name = format!("{CHAIN_PREFIX}{number:010}");
    let staged = root.join(format!("{name}{}", durable::STAGED_ENDING));
    if staged.is_dir() {
        durable::remove_dir(&staged)?;
    }
    durable::create_dir(&staged)?;
    let header = first_bytes(&Header::new(device, start, start)).map_err(io::Error::other)?;
    // A crash here leaves the chain before in use, and a staged directory that the next start deletes.
    durable::create_new(&segment_path(&staged, &start), &header)?;
    Ok(StagedChain { staged, dir: root.join(name) })
}

impl StagedChain {
    /// Makes it the chain in use: the one rename that decides. After a failure it is not known which chain is.
    pub(super) fn publish(self, root: &Path) -> io::Result<PathBuf> {
        std::fs::rename(&self.staged, &self.dir)?;
        // A crash before this sync may bring the chain before back; nothing was linked into the new one yet.
        durable::sync_dir(root)?;
        Ok(self.dir)
    }
}
