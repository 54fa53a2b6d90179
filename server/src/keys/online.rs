//! One online signing key with its successor: which of the two signs is what the trust root names.
//! It must not sign with a key that the root in force does not name while it names the other.

use std::sync::{Arc, PoisonError, RwLock};

use cpis_protocol::Refusal;
use cpis_protocol::sign::{Kind, PublicKey, Signer};
use serde::Serialize;

#[derive(Debug)]
struct Pair {
    present: Arc<Signer>,
    next: Option<Arc<Signer>>,
    /// The root names the next key and no longer the present one.
    next_signs: bool,
}

/// A signing key that is replaced while the server runs.
#[derive(Debug)]
pub struct OnlineSigner(RwLock<Pair>);

impl OnlineSigner {
    /// A key, and its successor where there is one.
    #[must_use]
    pub fn new(present: Signer, next: Option<Signer>) -> Self {
        Self(RwLock::new(Pair { present: Arc::new(present), next: next.map(Arc::new), next_signs: false }))
    }

    /// The key that signs now.
    #[must_use]
    pub fn signer(&self) -> Arc<Signer> {
        let pair = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pair.next.as_ref().filter(|_| pair.next_signs).unwrap_or(&pair.present))
    }

    /// The public key of what signs now.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.signer().public_key()
    }

    /// The public keys of the present key and the next.
    #[must_use]
    pub fn public_keys(&self) -> (PublicKey, Option<PublicKey>) {
        let pair = self.0.read().unwrap_or_else(PoisonError::into_inner);
        (pair.present.public_key(), pair.next.as_ref().map(|next| next.public_key()))
    }

    /// The key whose public half this is, present or next.
    #[must_use]
    pub fn find(&self, public: &PublicKey) -> Option<Arc<Signer>> {
        let pair = self.0.read().unwrap_or_else(PoisonError::into_inner);
        [Some(&pair.present), pair.next.as_ref()].into_iter().flatten().find(|s| s.public_key() == *public).cloned()
    }

    /// Encodes, frames and signs.
    ///
    /// # Errors
    /// As [`Signer::sign`].
    pub fn sign<T: Serialize>(&self, kind: Kind, payload: &T) -> Result<Vec<u8>, Refusal> {
        self.signer().sign(kind, payload)
    }

    /// The keys that a root names for this role: says whether one of the two is among them, and from now on signs with
    /// the present key if it is, else with the next.
    pub(super) fn follow(&self, named: &[PublicKey]) -> bool {
        let mut pair = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let present = named.contains(&pair.present.public_key());
        let next = pair.next.as_ref().is_some_and(|next| named.contains(&next.public_key()));
        pair.next_signs = !present && next;
        present || next
    }

    /// Takes over what was read from the files again.
    pub(super) fn replace(&self, read: Self) {
        let mut pair = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let fresh = read.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let signs = if pair.next_signs { pair.next.as_ref() } else { Some(&pair.present) };
        let signs = signs.map(|signer| signer.public_key());
        let next_signs = fresh.next.as_ref().map(|next| next.public_key()) == signs;
        *pair = Pair { next_signs, ..fresh };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer::from_seed([seed; 32])
    }

    #[test]
    fn the_root_says_which_key_signs() {
        let key = |seed| signer(seed).public_key();
        let online = OnlineSigner::new(signer(1), Some(signer(2)));
        assert!(online.follow(&[key(1), key(2)]));
        assert_eq!(online.public_key(), key(1));
        assert!(online.follow(&[key(2)]));
        assert_eq!(online.public_key(), key(2), "the present key was withdrawn");
        assert!(!online.follow(&[key(3)]));
        assert!(online.follow(&[key(2)]));
        // Promoted by another process: the same key goes on signing.
        online.replace(OnlineSigner::new(signer(2), None));
        assert_eq!((online.public_key(), online.public_keys()), (key(2), (key(2), None)));
    }
}
