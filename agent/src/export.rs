//! `export`: the present copy in a bundle, for another device of the scope. The courier does it, with the vault locked.
//! It must not leave half a file, replace what is no bundle, or hold up the copy or a look-up while a slow disk writes.

use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use cpis_protocol::{Refusal, bundle};
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::durable::{self, Staged};
use crate::holdings::{self, Holdings, NothingHeld};

/// How often it is begun anew because the copy moved on meanwhile.
const ATTEMPTS: usize = 5;

/// One at a time: two that write to one name would mix.
static TURN: Mutex<()> = Mutex::new(());

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// The scope.
    pub scope: String,
    /// The register sequence.
    pub gseq: u64,
    /// As at when: whoever takes it in has a copy of this age.
    pub as_at_ms: i64,
    /// Sealed cells.
    pub cells: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why no bundle was written. What was there before is still there.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is nothing to hand on.
    #[error(transparent)]
    Nothing(#[from] NothingHeld),
    /// The file cannot be written.
    #[error("cannot write the bundle: {0}; the agent writes it, so its user must be allowed to")]
    Write(#[from] std::io::Error),
    /// Another kind of file has the name.
    #[error("there is a file of that name that is no bundle: it is left as it is; choose another name")]
    NotABundle,
    /// An object is not as it may be in a bundle.
    #[error("the copy cannot be put in a bundle: {0}")]
    Refused(#[from] Refusal),
    /// The copy moved on each time.
    #[error("the copy was renewed each time while it was written: try again")]
    Moving,
}

/// Writes the present copy to `path`, whole or not at all. Blocks for the disk.
///
/// # Errors
/// [`ExportError`].
pub fn write(agent: &Agent, path: &Path) -> Result<Exported, ExportError> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    check_target(path)?;
    for _ in 0..ATTEMPTS {
        let holdings = Holdings::of(agent)?;
        if let Some(bytes) = write_once(agent, &holdings, path)? {
            return Ok(Exported {
                scope: holdings.scope.to_string(),
                gseq: holdings.gseq,
                as_at_ms: holdings.as_at_ms,
                cells: holdings.cells,
                bytes,
            });
        }
    }
    Err(ExportError::Moving)
}

/// A mistyped name must not cost the keyslot.
fn check_target(path: &Path) -> Result<(), ExportError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.is_file() => return Err(ExportError::NotABundle),
        Ok(_) => {}
    }
    let mut begun = Vec::new();
    let begin = bundle::begin();
    std::fs::File::open(path)?.take(begin.len() as u64).read_to_end(&mut begun)?;
    if begun == begin { Ok(()) } else { Err(ExportError::NotABundle) }
}

/// The bytes written; `None` when the copy moved on under way: then nothing was.
fn write_once(agent: &Agent, holdings: &Holdings, path: &Path) -> Result<Option<u64>, ExportError> {
    let (staged, file) = Staged::begin(path, durable::SHARED)?;
    let mut out = BufWriter::with_capacity(128 * 1024, file);
    let mut object = bundle::begin();
    let mut bytes = 0;
    for request in holdings.requests(agent) {
        let Some(body) = holdings::answer(agent, &request) else { return Ok(None) };
        bundle::push(&mut object, &request, &body)?;
        out.write_all(&object)?;
        bytes += object.len() as u64;
        object.clear();
    }
    // R276
    staged.publish_written(&out.into_inner().map_err(std::io::IntoInnerError::into_error)?)?;
    Ok(Some(bytes))
}
