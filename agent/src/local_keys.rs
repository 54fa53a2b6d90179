//! The generations' keys in the keyslot file, as the replica's port wants them.
//! It must not keep a key anywhere else once the file has let go of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cpis_protocol::id::FeedId;
use cpis_protocol::seal::Key;

use crate::device_secret::DeviceSecret;
use crate::keyslot::{Keyslot, KeyslotError, secret};
use crate::port::{Generation, GenerationKeys, StoreError};

/// The keyslot file, shared by the agent and its replica.
#[derive(Debug, Clone)]
pub struct LocalKeys(Arc<Mutex<Keyslot>>, Arc<Key>);

impl LocalKeys {
    /// Over an open keyslot file; the key for names is derived from the device secret.
    #[must_use]
    pub fn new(keyslot: Keyslot, secret: &DeviceSecret) -> Self {
        Self(Arc::new(Mutex::new(keyslot)), Arc::new(secret.derive("cpis-edge/1/names")))
    }

    /// The keyslot file.
    pub fn keyslot(&self) -> MutexGuard<'_, Keyslot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failed(error: &KeyslotError) -> StoreError {
    StoreError::Io(error.to_string())
}

/// A second copy of a key, for the one place that works with it; zeroised like the first.
fn copy(key: &Key) -> Key {
    secret(key.expose(), Key::from_bytes)
}

impl GenerationKeys for LocalKeys {
    fn get(&self, generation: Generation) -> Option<Key> {
        let keyslot = self.keyslot();
        let (feed, generation) = keyslot.contents().local_keys().find(|(_, number)| *number == generation)?;
        keyslot.contents().local_key(feed, generation).map(copy)
    }

    fn names(&self) -> Key {
        copy(&self.1)
    }

    fn generations(&self) -> Vec<Generation> {
        self.keyslot().contents().local_keys().map(|(_, generation)| generation).collect()
    }

    fn add(&self, keys: &[(FeedId, Generation, &Key)]) -> Result<(), StoreError> {
        let result = self.keyslot().update(|contents| {
            if contents.erasure.is_some() {
                return Err(KeyslotError::Erased);
            }
            keys.iter().try_for_each(|(feed, generation, key)| contents.set_local_key(*feed, *generation, copy(key)))
        });
        result.map_err(|error| failed(&error))
    }

    fn retain(&self, keep: &[Generation]) -> Result<(), StoreError> {
        let result = self.keyslot().destroy(|contents| {
            contents.retain_local_keys(|_, generation| keep.contains(&generation));
            Ok(())
        });
        result.map_err(|error| failed(&error))
    }
}
