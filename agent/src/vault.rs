//! The open vault: who unlocked it, the feed keys while it is open, and the details that may still be revealed.
//! It must not outlive its idle time, and must not leave a key in memory after locking.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cpis_protocol::Refusal;
use cpis_protocol::digest::Hash;
use cpis_protocol::grant::{Badge, FeedKeys, Grant};
use cpis_protocol::seal::OpeningKey;

use crate::keyslot::secret;
use crate::replica::Found;

/// Details found by a look-up, until they are revealed or the time is over.
#[derive(Debug)]
pub struct Revealable {
    /// The records found, by candidate; all together where an NHS number found them.
    pub candidates: Vec<Vec<Found>>,
    /// Found by name: one has to be chosen, also where there is but one.
    pub by_name: bool,
    /// The head that they were found under: another copy's statement never goes with them.
    pub head: Hash,
    /// Milliseconds of boot time after which they may not be revealed.
    pub until_boot_ms: u64,
}

impl Revealable {
    /// The records of the candidate that was chosen, from 1; `None` when there is no such one, or none was chosen that
    /// had to be.
    #[must_use]
    pub fn chosen(&self, candidate: Option<usize>) -> Option<Vec<Found>> {
        match (self.by_name, candidate) {
            (true, Some(candidate)) => self.candidates.get(candidate.checked_sub(1)?).cloned(),
            (false, None) => Some(self.candidates.concat()),
            (true, None) | (false, Some(_)) => None,
        }
    }
}

/// An unlocked vault. Its drop zeroises every key.
#[derive(Debug)]
pub struct Session {
    /// Who unlocked it, from the signed badge.
    pub badge: Badge,
    /// The feed keys.
    pub keys: FeedKeys,
    /// Found details by the position of their look-up in the audit chain.
    pub revealable: BTreeMap<u64, Revealable>,
    opening: OpeningKey,
    idle_ms: u64,
    last_used_boot_ms: u64,
}

impl Session {
    /// A copy of the vault's private half, for wrapping it in another practitioner's slot; zeroised like the first.
    #[must_use]
    pub fn opening_copy(&self) -> OpeningKey {
        secret(self.opening.expose(), OpeningKey::from_seed)
    }
}

fn keys_of(grant: &Grant, previous: Option<&Grant>, opening: &OpeningKey) -> Result<FeedKeys, Refusal> {
    let keys = grant.open_keys(opening)?;
    // A previous grant that does not open takes nothing from the newest.
    Ok(match previous.and_then(|previous| previous.open_keys(opening).ok()) {
        Some(older) => keys.and(older),
        None => keys,
    })
}

/// The vault of the device: open or not. The session is boxed, because taking a value out of its place may leave the
/// bytes there: of a box, an address.
#[derive(Debug, Default)]
pub struct Vault(Mutex<Option<Box<Session>>>);

impl Vault {
    /// Opens the feed keys of a grant, and of the previous one while the copy needs it, for a practitioner. An earlier
    /// session ends, with all that it had found; its badge is returned.
    ///
    /// # Errors
    /// [`Refusal::DoesNotOpen`] when the grant was sealed to another vault.
    pub fn open(
        &self,
        badge: Badge,
        opening: OpeningKey,
        grant: &Grant,
        previous: Option<&Grant>,
        boot_ms: u64,
    ) -> Result<Option<Badge>, Refusal> {
        let keys = keys_of(grant, previous, &opening)?;
        let idle_ms = u64::from(grant.policy.idle_lock_s) * 1000;
        let session =
            Session { badge, keys, revealable: BTreeMap::new(), opening, idle_ms, last_used_boot_ms: boot_ms };
        Ok(self.lock_state().replace(Box::new(session)).map(|before| before.badge.clone()))
    }

    /// Ends the session; the badge tells whose it was.
    pub fn close(&self) -> Option<Badge> {
        self.lock_state().take().map(|session| session.badge.clone())
    }

    /// Ends the session if nobody has used it for too long.
    pub fn close_if_idle(&self, boot_ms: u64) -> Option<Badge> {
        let mut state = self.lock_state();
        if let Some(session) = state.as_mut() {
            session.revealable.retain(|_, details| boot_ms < details.until_boot_ms);
        }
        let idle = state.as_ref().is_some_and(|s| boot_ms.saturating_sub(s.last_used_boot_ms) >= s.idle_ms);
        if idle { state.take().map(|session| session.badge.clone()) } else { None }
    }

    /// Ends the session if its badge is not good any more.
    pub fn close_if_expired(&self, now_ms: i64) -> Option<Badge> {
        let mut state = self.lock_state();
        let over = state.as_ref().is_some_and(|session| now_ms >= session.badge.valid_until_ms);
        if over { state.take().map(|session| session.badge.clone()) } else { None }
    }

    /// Opens the keys of a newer grant while somebody works. A badge that is gone from it, or an unknown time, ends the
    /// session: then its badge is returned.
    pub fn renew(&self, grant: &Grant, previous: Option<&Grant>, now_ms: Option<i64>) -> Option<Badge> {
        let mut state = self.lock_state();
        let session = state.as_mut()?;
        let badge = now_ms.and_then(|now_ms| grant.badge(&session.badge.practitioner, now_ms));
        match (badge, keys_of(grant, previous, &session.opening)) {
            (Some(badge), Ok(keys)) => {
                session.badge = badge.clone();
                session.keys = keys;
                session.idle_ms = u64::from(grant.policy.idle_lock_s) * 1000;
                None
            }
            _ => state.take().map(|session| session.badge.clone()),
        }
    }

    /// Runs `work` on the open session and counts as use. `None` when locked, or idle for too long.
    pub fn with<R>(&self, boot_ms: u64, work: impl FnOnce(&mut Session) -> R) -> Option<R> {
        let mut state = self.lock_state();
        let session = state.as_mut()?;
        if boot_ms.saturating_sub(session.last_used_boot_ms) >= session.idle_ms {
            return None;
        }
        session.last_used_boot_ms = boot_ms;
        session.revealable.retain(|_, details| boot_ms < details.until_boot_ms);
        Some(work(session))
    }

    /// Who has it open, without counting as use.
    pub fn holder(&self) -> Option<Badge> {
        self.lock_state().as_ref().map(|session| session.badge.clone())
    }

    fn lock_state(&self) -> MutexGuard<'_, Option<Box<Session>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
