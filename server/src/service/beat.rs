//! Beats: signed when asked for, kept for a minute, and made anew at once when the head changes.
//! It must not sign a time that lies before one that it has signed already.

use std::collections::HashMap;
use std::sync::PoisonError;

use cpis_protocol::digest::Hash;
use cpis_protocol::head::Beat;
use cpis_protocol::id::{RegisterSeq, ScopeId, UnixMs};
use cpis_protocol::sign::{Kind, PublicKey};

use super::{Service, ServiceError, internal};
use crate::config::Config;
use crate::keys::ServerKeys;
use crate::port::{Feeds as _, HeadRow, Store};

/// The last beat of each scope.
#[derive(Debug, Default)]
pub(super) struct Beats(HashMap<ScopeId, Kept>);

#[derive(Debug)]
struct Kept {
    head: Hash,
    key: PublicKey,
    issued_ms: UnixMs,
    bytes: Vec<u8>,
}

/// Signs a beat over the newest head of a scope.
///
/// # Errors
/// [`ServiceError::Internal`] when the protocol refuses it.
pub(crate) fn sign(
    keys: &ServerKeys,
    config: &Config,
    newest: &HeadRow,
    issued_ms: UnixMs,
) -> Result<Vec<u8>, ServiceError> {
    let beat = Beat {
        scope: newest.scope,
        gseq: newest.gseq,
        head: newest.hash,
        issued_ms,
        valid_s: u32::from(config.beat_valid_hours) * 3600,
        next_poll_s: config.poll_s,
        spread_s: config.spread_s,
    };
    keys.beat.sign(Kind::Beat, &beat).map_err(internal)
}

impl<S: Store> Service<S> {
    pub(super) fn beat(&self, scope: ScopeId, now_ms: UnixMs) -> Result<(Vec<u8>, RegisterSeq), ServiceError> {
        let newest = self.store.read(|tx| tx.newest_head(scope))?.ok_or(ServiceError::NotFound)?;
        let mut beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let every_ms = i64::from(self.config.beat_every_s) * 1000;
        let before = beats.0.get(&scope);
        if let Some(kept) = before
            && kept.head == newest.hash
            // Not by a key that was replaced meanwhile.
            && kept.key == self.keys.beat.public_key()
            && (0..every_ms).contains(&(now_ms - kept.issued_ms))
        {
            return Ok((kept.bytes.clone(), newest.gseq));
        }
        // Strictly later than the head and the beat before, whatever the clock says: devices refuse the contrary.
        let floor_ms = before.map_or(newest.issued_ms, |kept| kept.issued_ms.saturating_add(1).max(newest.issued_ms));
        let issued_ms = now_ms.max(floor_ms);
        let bytes = sign(&self.keys, &self.config, &newest, issued_ms)?;
        beats.0.insert(
            scope,
            Kept { head: newest.hash, key: self.keys.beat.public_key(), issued_ms, bytes: bytes.clone() },
        );
        Ok((bytes, newest.gseq))
    }
}
