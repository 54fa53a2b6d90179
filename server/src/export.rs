//! Bundles: everything that a device of a scope needs, in one file, signed as if the server had answered.
//! It must not put in anything that is not sealed or signed for every device of the scope: no grant, no key.

use cpis_protocol::bundle;
use cpis_protocol::head::Head;
use cpis_protocol::id::{ScopeId, UnixMs};
use cpis_protocol::message::Request;
use cpis_protocol::sign::{self, Kind};
use cpis_protocol::{Refusal, limits};

use crate::config::Config;
use crate::keys::ServerKeys;
use crate::port::{CellLog, Store, StoreError, Tx};
use crate::service::{ServiceError, objects, sign_beat};

/// Why a bundle could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The protocol refuses it.
    #[error("the bundle is refused: {0}")]
    Refused(#[from] Refusal),
    /// The beat could not be signed.
    #[error(transparent)]
    Beat(#[from] ServiceError),
    /// The scope does not exist or has no head yet.
    #[error("the scope {0} has no head: add it, and publish")]
    NoHead(ScopeId),
}

/// The bytes of a bundle of a scope at its newest head.
///
/// # Errors
/// [`ExportError`].
pub fn bundle<S: Store>(
    store: &S,
    keys: &ServerKeys,
    config: &Config,
    scope: ScopeId,
    now_ms: UnixMs,
) -> Result<Vec<u8>, ExportError> {
    store.read(|tx| bundle_in(tx, keys, config, scope, now_ms))
}

fn bundle_in<T: Tx>(
    tx: &T,
    keys: &ServerKeys,
    config: &Config,
    scope: ScopeId,
    now_ms: UnixMs,
) -> Result<Vec<u8>, ExportError> {
    let newest = tx.newest_head(scope)?.ok_or(ExportError::NoHead(scope))?;
    let head: Head = sign::peek_unverified(&newest.bytes, Kind::Head, limits::HEAD_BYTES_MAX)?;
    let mut out = bundle::begin();
    for (root, version) in tx.roots_after(0)?.iter().zip(1..) {
        bundle::push(&mut out, &Request::Root(version), root)?;
    }
    let beat = sign_beat(keys, config, &newest, now_ms.max(newest.issued_ms))?;
    bundle::push(&mut out, &Request::Beat(scope), &beat)?;
    bundle::push(&mut out, &Request::Head(newest.hash), &newest.bytes)?;
    let reference = tx.reference(&head.reference)?.ok_or(StoreError::Corrupt("reference"))?;
    bundle::push(&mut out, &Request::Reference(head.reference), &reference)?;
    for state in &head.feeds {
        let (feed, epoch, seq) = (state.feed, state.epoch, state.seq);
        let snapshot = objects::snapshot(tx, CellLog { feed, epoch }, seq)?.ok_or(StoreError::Corrupt("a cell log"))?;
        bundle::push(&mut out, &Request::Manifest { feed, epoch, seq }, &objects::manifest(&snapshot))?;
        let mut index = 0;
        while let Some(chunk) = objects::chunk(&snapshot, index) {
            bundle::push(&mut out, &Request::Chunk { feed, epoch, seq, index }, chunk)?;
            index += 1;
        }
    }
    Ok(out)
}
