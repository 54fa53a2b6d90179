//! The audit recipient keys: the present one, the next, and those before, so that older events can be opened.
//! It must not let go of a key by itself: what only it opens would stay sealed for ever.

use std::sync::{Arc, PoisonError, RwLock};

use cpis_protocol::audit::{self, AuditEvent, Link};
use cpis_protocol::id::{ChainId, DeviceId};
use cpis_protocol::seal::{OpeningKey, SealingKey};

/// The keys that are here, the present one first; none where all were taken offline.
#[derive(Debug, Default)]
pub struct AuditKeys(RwLock<Vec<Arc<OpeningKey>>>);

impl AuditKeys {
    /// From the present key on.
    #[must_use]
    pub fn new(keys: Vec<OpeningKey>) -> Self {
        Self(RwLock::new(keys.into_iter().map(Arc::new).collect()))
    }

    /// Whether none is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The key that a recipient id names, if it is here.
    #[must_use]
    pub fn named(&self, recipient: [u8; 4]) -> Option<Arc<OpeningKey>> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().find(|key| audit::recipient_id(&key.sealing_key()) == recipient).map(Arc::clone)
    }

    /// Opens the event of link `seq` with the key that the link names; `None` where that key is not here, or it does
    /// not open.
    #[must_use]
    pub fn open(&self, link: &Link, device: &DeviceId, chain: &ChainId, seq: u64) -> Option<AuditEvent> {
        audit::open(link, device, chain, seq, &*self.named(link.recipient())?).ok()
    }

    /// The public keys, the present one first.
    #[must_use]
    pub fn sealing_keys(&self) -> Vec<SealingKey> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).iter().map(|key| key.sealing_key()).collect()
    }

    /// Takes over what was read from the files again.
    pub(super) fn replace(&self, read: Self) {
        let fresh = read.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }
}
