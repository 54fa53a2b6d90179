//! Bundles as a carrier: the sync machine asks, a file answers. The same verification as for the server.
//! It must not accept anything because it came from a hand and not from the network.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use cpis_protocol::Refusal;
use cpis_protocol::bundle::Index;
use cpis_protocol::clock::Carrier;
use cpis_protocol::limits;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::pull::Outcome;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::agent::Agent;
use crate::driver;
use crate::port::Transport;

/// The first attempt may be spent on a head that was on its way in from the server, and is given up where the bundle does
/// not have it.
const ATTEMPTS: usize = 3;

/// A bundle was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The file cannot be read.
    #[error("cannot read the bundle: {0}")]
    Read(#[from] std::io::Error),
    /// The file is not a bundle.
    #[error("not a bundle ({code}): {0}", code = .0.code())]
    NotABundle(Refusal),
    /// Its content was not accepted.
    #[error("the bundle was not taken in: {}", crate::status::describe(*.0))]
    NotTakenIn(Outcome),
}

impl BundleError {
    /// Whether the same file can never be taken in: it is no bundle, or its content is refused for what it is.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::NotABundle(_) | Self::NotTakenIn(Outcome::Refused(_)))
    }
}

/// What taking a bundle in did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Whether the register moved on: other records than before.
    pub moved: bool,
    /// Whether the same records are now known to be good as at a later time.
    pub confirmed: bool,
    /// The register sequence now.
    pub gseq: u64,
    /// As at when the copy is now.
    pub as_at_ms: i64,
}

impl Imported {
    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        let now = format!("register sequence {}", self.gseq);
        if self.moved {
            format!("The bundle was taken in: the copy is now at {now}.")
        } else if self.confirmed {
            format!("The bundle was taken in: the copy, at {now}, is confirmed as at a later time.")
        } else {
            format!("Nothing changed: the copy is at {now} already.")
        }
    }
}

/// Head and time of the copy.
fn position(agent: &Agent) -> (Option<[u8; 32]>, u64, i64) {
    let view = agent.replica().view();
    let head = view.head.as_ref();
    let as_at_ms = view.beat.as_ref().map_or(0, |beat| beat.issued_ms);
    (head.map(|head| head.hash()), head.map_or(0, |head| head.gseq), as_at_ms)
}

/// A bundle in memory.
#[derive(Debug)]
pub struct BundleTransport {
    bytes: Vec<u8>,
    index: Index,
}

impl BundleTransport {
    /// Reads a bundle file.
    ///
    /// # Errors
    /// [`BundleError`].
    pub fn open(path: &Path) -> Result<Self, BundleError> {
        // Opened once and without following a link: what is looked at is what is read, and a pipe never blocks.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let flags = i32::try_from(flags.bits()).map_err(std::io::Error::other)?;
        let file = std::fs::File::options().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("not a plain file").into());
        }
        let mut bytes = Vec::new();
        file.take(limits::BUNDLE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        let index = Index::read(&bytes).map_err(BundleError::NotABundle)?;
        Ok(Self { bytes, index })
    }
}

impl Transport for BundleTransport {
    async fn send(&self, request: Request) -> Result<Vec<u8>, Failure> {
        let range = self.index.find(&request).ok_or(Failure::NotFound)?;
        self.bytes.get(range).map(<[u8]>::to_vec).ok_or(Failure::NotFound)
    }
}

/// Takes a bundle in. What the copy already has is not written again; an older bundle is refused as a rollback.
///
/// # Errors
/// [`BundleError`]; the present copy keeps answering.
pub async fn import(agent: &Arc<Agent>, path: &Path) -> Result<Imported, BundleError> {
    let path = path.to_path_buf();
    let opened = tokio::task::spawn_blocking(move || BundleTransport::open(&path)).await;
    let transport = Arc::new(opened.map_err(std::io::Error::other)??);
    // One at a time moves the copy: a machine's beliefs are only good while nobody else does.
    let _turn = agent.turn().lock().await;
    // An erased device has nothing to bring up to date.
    let erased = BundleError::NotTakenIn(Outcome::Failed(Failure::Revoked));
    let mut machine = agent.pull_machine(false).ok_or(erased)?;
    let before = position(agent);
    let mut outcome = Outcome::Failed(Failure::NotFound);
    for _ in 0..ATTEMPTS {
        outcome = driver::pull_once(agent, &mut machine, &transport, Carrier::Stored, false).await.0;
        if outcome != Outcome::Failed(Failure::NotFound) {
            break;
        }
    }
    agent.mark_moved();
    match outcome {
        Outcome::UpToDate => {
            let (head, gseq, as_at_ms) = position(agent);
            Ok(Imported { moved: head != before.0, confirmed: as_at_ms > before.2, gseq, as_at_ms })
        }
        outcome @ (Outcome::Failed(_) | Outcome::Refused(_) | Outcome::StoreFailed | Outcome::KeyMissing) => {
            Err(BundleError::NotTakenIn(outcome))
        }
    }
}
