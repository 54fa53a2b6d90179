//! Grants: what a device may hold, until when, for whom, and the feed keys sealed to its vault.
//! It must not show a feed key to anybody but the vault: the courier carries grants and can open none.

use alloc::vec::Vec;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::cell::FeedKey;
use crate::head::{FeedState, Head};
use crate::id::{DeviceId, Epoch, FeedId, PractitionerId, ScopeId, SiteId, UnixMs};
use crate::policy::{AccessMode, Policy};
use crate::seal::{self, Key, OpeningKey, SealingKey};
use crate::sign::{Kind, Verified};
use crate::text::Text;
use crate::trust::{Role, Trust};
use crate::{Refusal, codec, limits};

const INFO: &[u8] = b"cpis-edge/1/grant-keys";

/// Who may unlock the vault on this device, and in which role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Badge {
    /// The practitioner's identity, e.g. an SDS user id.
    pub practitioner: PractitionerId,
    /// The name shown on screen.
    pub name: Text<40>,
    /// The job role, e.g. `R1070` paramedic (UKCore-SDSJobRoleName).
    pub role: Text<8>,
    /// The activity code: B0107 ([`AccessMode::Unscheduled`]) notifies, B0170 ([`AccessMode::Silent`]) does not.
    pub activity: AccessMode,
    /// Until when the badge is good.
    pub valid_until_ms: UnixMs,
}

/// A feed that the device may hold, and the key that seals its new cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedFeed {
    /// The feed.
    pub feed: FeedId,
    /// The identity of its log.
    pub epoch: Epoch,
    /// The number of the key; each key that is inside is listed.
    pub key_id: u32,
}

/// The payload of a signed grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Counts the grants of this device; a lower one is a rollback.
    pub number: u64,
    /// The device.
    pub device: DeviceId,
    /// Its site.
    pub site: SiteId,
    /// Its scope.
    pub scope: ScopeId,
    /// When it was made.
    pub issued_ms: UnixMs,
    /// The lease: beyond this the device answers nothing, with or without a network.
    pub lease_until_ms: UnixMs,
    /// The site's policy.
    pub policy: Policy,
    /// Who may unlock.
    pub badges: Vec<Badge>,
    /// The feeds whose keys are inside, so that the courier sees what it lacks without opening anything.
    pub feeds: Vec<GrantedFeed>,
    /// [`FeedKeys`], sealed by HPKE to the device's vault key.
    pub sealed_keys: Vec<u8>,
}

/// One feed key.
#[derive(Serialize, Deserialize)]
struct FeedKeyEntry {
    feed: FeedId,
    epoch: Epoch,
    key_id: u32,
    key: [u8; 32],
}

impl Drop for FeedKeyEntry {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

/// A feed's key and where it is good, on its way into a grant.
#[derive(Debug)]
pub struct NamedFeedKey {
    /// The feed.
    pub feed: FeedId,
    /// The epoch.
    pub epoch: Epoch,
    /// The number of the key.
    pub key_id: u32,
    /// The key.
    pub key: FeedKey,
}

/// Feed keys in an unlocked vault; zeroised when dropped.
#[derive(Debug)]
pub struct FeedKeys(Vec<NamedFeedKey>);

impl FeedKeys {
    /// The keys held for one feed and epoch.
    pub fn of(&self, feed: FeedId, epoch: Epoch) -> impl Iterator<Item = &FeedKey> {
        self.0.iter().filter(move |k| k.feed == feed && k.epoch == epoch).map(|k| &k.key)
    }

    /// Whether a key with this number is held.
    #[must_use]
    pub fn holds(&self, feed: FeedId, epoch: Epoch, key_id: u32) -> bool {
        self.0.iter().any(|k| k.feed == feed && k.epoch == epoch && k.key_id == key_id)
    }

    /// Whether every key is held under which a live cell of this state may be sealed: else a miss means nothing.
    #[must_use]
    pub fn cover(&self, state: &FeedState) -> bool {
        covers(self.0.iter().map(|k| (k.feed, k.epoch, k.key_id)), state)
    }

    /// These keys, and those of `older` that are not among them.
    #[must_use]
    pub fn and(mut self, older: Self) -> Self {
        for key in older.0 {
            if !self.holds(key.feed, key.epoch, key.key_id) {
                self.0.push(key);
            }
        }
        self
    }
}

/// Whether the named keys are all from the oldest in use to the current one. Counts the keys that are there and not the
/// numbers that a head names: those may be any.
fn covers(keys: impl Iterator<Item = (FeedId, Epoch, u32)>, state: &FeedState) -> bool {
    // R79
    let mut held: Vec<u32> = keys
        .filter(|(feed, epoch, _)| *feed == state.feed && *epoch == state.epoch)
        .map(|(_, _, key_id)| key_id)
        .filter(|key_id| (state.oldest_key_id..=state.key_id).contains(key_id))
        .collect();
    held.sort_unstable();
    held.dedup();
    held.len() as u64 == u64::from(state.key_id.saturating_sub(state.oldest_key_id)) + 1
}

/// Seals feed keys to a device's vault. The device and its scope are bound in.
///
/// # Errors
/// [`Refusal`] when the vault key is not one.
pub fn seal_keys(
    keys: &[NamedFeedKey],
    device: &DeviceId,
    scope: &ScopeId,
    vault: &SealingKey,
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, Refusal> {
    let entries: Vec<_> = keys
        .iter()
        .map(|k| FeedKeyEntry { feed: k.feed, epoch: k.epoch, key_id: k.key_id, key: *k.key.0.expose() })
        .collect();
    let plain = zeroize::Zeroizing::new(codec::encode(&entries)?);
    seal::seal_to(vault, INFO, &aad(device, scope), &plain, rng)
}

fn aad(device: &DeviceId, scope: &ScopeId) -> Vec<u8> {
    [&device.0[..], &scope.as_bytes()[..]].concat() // R74
}

impl Grant {
    /// Verifies a grant for this device.
    ///
    /// # Errors
    /// [`Refusal`]: `WrongDevice`, `Rollback` for a lower number, `Malformed` or `BelowFloor` for a policy that may not be.
    pub fn verify(
        bytes: &[u8],
        device: &DeviceId,
        trust: &Trust,
        last: Option<&Self>,
    ) -> Result<Verified<Self>, Refusal> {
        // R70
        let grant: Verified<Self> = trust.verify(Role::DeviceAuthority, Kind::Grant, bytes, limits::GRANT_BYTES_MAX)?;
        if grant.device != *device {
            // R71
            return Err(Refusal::WrongDevice);
        }
        if last.is_some_and(|last| grant.number < last.number) {
            // R72
            return Err(Refusal::Rollback);
        }
        grant.policy.check(trust.root().synthetic)?;
        Ok(grant)
    }

    /// Checks what only a grant that is about to be taken in is held to; one that is in force goes on to its lease's end.
    /// A lease that is over would bar the device in place of a better one, and a stolen key moves time forward by no more
    /// than what is left of its role.
    ///
    /// # Errors
    /// [`Refusal::Expired`]; where the time is not known, only by what the grant says of itself.
    pub fn check_new(&self, trust: &Trust, now_ms: Option<UnixMs>) -> Result<(), Refusal> {
        trust.check_role(Role::DeviceAuthority, now_ms)?;
        // R222
        let over = self.lease_until_ms <= now_ms.unwrap_or(self.issued_ms).max(self.issued_ms);
        if over || self.issued_ms >= trust.root().role_until_ms(Role::DeviceAuthority) {
            return Err(Refusal::Expired);
        }
        Ok(())
    }

    /// Opens the feed keys with the vault's private half.
    ///
    /// # Errors
    /// [`Refusal::DoesNotOpen`] with another device's vault.
    pub fn open_keys(&self, vault: &OpeningKey) -> Result<FeedKeys, Refusal> {
        let plain = vault.open(INFO, &aad(&self.device, &self.scope), &self.sealed_keys)?;
        let entries: Vec<FeedKeyEntry> = codec::decode(&plain, limits::GRANT_BYTES_MAX)?;
        let keys = entries.into_iter().map(|e| NamedFeedKey {
            feed: e.feed,
            epoch: e.epoch,
            key_id: e.key_id,
            key: FeedKey(Key::from_bytes(e.key)),
        });
        Ok(FeedKeys(keys.collect()))
    }

    /// Whether the sealed keys hold the one that seals new cells of this feed.
    #[must_use]
    pub fn grants(&self, feed: FeedId, epoch: Epoch, key_id: u32) -> bool {
        self.feeds.contains(&GrantedFeed { feed, epoch, key_id })
    }

    /// Whether the sealed keys hold all that the cells of this head may be sealed under: what the courier can see of it.
    #[must_use]
    pub fn covers(&self, head: &Head) -> bool {
        let keys = |feed: &GrantedFeed| (feed.feed, feed.epoch, feed.key_id);
        head.feeds.iter().all(|state| covers(self.feeds.iter().map(keys), state))
    }

    /// The badge of a practitioner, if it is good now.
    #[must_use]
    pub fn badge(&self, practitioner: &PractitionerId, now_ms: UnixMs) -> Option<&Badge> {
        self.badges.iter().find(|b| b.practitioner == *practitioner && now_ms < b.valid_until_ms)
    }
}
