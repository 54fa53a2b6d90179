//! Bundles as a carrier: the sync machine asks, a file answers. The same verification as for the server.
//! It must not accept anything because it came from a hand and not from the network.

use std::path::Path;
use std::sync::Arc;

use cpis_protocol::Refusal;
use cpis_protocol::bundle::Index;
use cpis_protocol::clock::Carrier;
use cpis_protocol::limits;
use cpis_protocol::message::{Failure, Request};
use cpis_protocol::sync::pull::Outcome;

use crate::agent::Agent;
use crate::driver;
use crate::port::Transport;

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
        let length = std::fs::metadata(path)?.len();
        if length > limits::BUNDLE_BYTES_MAX as u64 {
            return Err(BundleError::NotABundle(Refusal::TooLarge));
        }
        let bytes = std::fs::read(path)?;
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
pub async fn import(agent: &Arc<Agent>, path: &Path) -> Result<(), BundleError> {
    let transport = Arc::new(BundleTransport::open(path)?);
    let mut machine = agent.pull_machine(false);
    let (outcome, _) = driver::pull_once(agent, &mut machine, &transport, Carrier::Stored, false).await;
    agent.mark_moved();
    match outcome {
        Outcome::UpToDate => Ok(()),
        outcome @ (Outcome::Failed(_) | Outcome::Refused(_) | Outcome::StoreFailed) => {
            Err(BundleError::NotTakenIn(outcome))
        }
    }
}
