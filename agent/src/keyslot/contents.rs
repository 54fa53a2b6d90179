//! What the keyslot file holds, and its body layout.
//! It must not let a secret pass through the codec, whose growing buffers would leave copies in freed memory.
//!
//! Body, padded with zeros to 124 KiB: length of the public part (u32, little endian); the public part, by the
//! protocol's codec; the device's signing seed (32); one key (32) for each entry of the public part's list.
//!
//! | public part | |
//! |---|---|
//! | certificate | the device's TLS certificate, DER |
//! | vault | the vault's public key |
//! | slots | for each practitioner: cost, salt, wrapped vault seed (empty once closed), failed attempts, time made, the TPM object of a PIN (empty for a passphrase) |
//! | grant | the signed grant as received, whose feed keys are sealed to the vault |
//! | previous grant | the one whose keys the present copy still needs; empty when the newest covers it |
//! | keys | feed and generation of each local key, in order |
//! | clock | the trusted clock |
//! | url | the server's address |
//! | root | the signed root in force |
//! | grant root | the signed root under which the grant was accepted, where the root in force withdraws its key |
//! | suspended | whether the server suspended this device |
//! | withdrawal | the newest signed withdrawal as received; empty when there was none |
//! | erasure | what was erased, and what its receipt must say |
//! | usage | for each practitioner: look-ups made, break-glass, answers that could not be recorded |
//! | counts | how often the glass was broken, and how many answers were not recorded at once, ever |

use std::collections::BTreeMap;

use cpis_protocol::audit::ErasureCause;
use cpis_protocol::clock::TrustedClock;
use cpis_protocol::digest::Hash;
use cpis_protocol::id::{FeedId, PractitionerId, RegisterSeq, ScopeId, SiteId, UnixMs};
use cpis_protocol::seal::{Key, MemoryHard, SealingKey};
use cpis_protocol::sign::Signer;
use cpis_protocol::{Refusal, codec, limits};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use super::KeyslotError;
use super::format::BODY_BYTES;
use super::usage::Usage;

/// Practitioners with a slot, at most.
pub const VAULT_SLOTS_MAX: usize = 16;
/// Local keys, at most: two generations of every feed that a scope may have.
pub const LOCAL_KEYS_MAX: usize = 2 * limits::FEEDS_MAX;

/// One practitioner's way into the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct VaultSlot {
    pub(super) practitioner: PractitionerId,
    pub(super) cost: MemoryHard,
    pub(super) salt: [u8; 16],
    /// The vault's seed, sealed; empty when the slot is closed.
    pub(super) wrapped: Vec<u8>,
    pub(super) attempts: u32,
    pub(super) created_ms: UnixMs,
    /// For a PIN, the object of the TPM that opens with it; empty for a passphrase and once closed.
    pub(super) counted: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Public {
    certificate: Vec<u8>,
    vault: SealingKey,
    slots: Vec<VaultSlot>,
    grant: Vec<u8>,
    previous_grant: Vec<u8>,
    keys: Vec<(FeedId, u64)>,
    clock: TrustedClock,
    url: String,
    root: Vec<u8>,
    grant_root: Vec<u8>,
    suspended: bool,
    withdrawal: Vec<u8>,
    erasure: Option<Erasure>,
    usage: Vec<Usage>,
    glasses: u32,
    unrecorded_total: u32,
}

/// What was erased, why, and what the receipt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// Why.
    pub cause: ErasureCause,
    /// How many records the copy held.
    pub records: u32,
    /// When.
    pub event_ms: UnixMs,
    /// The last signed time.
    pub anchor_ms: UnixMs,
    /// The register sequence of the copy.
    pub gseq: RegisterSeq,
    /// Its head.
    pub head: Hash,
    /// The site.
    pub site: SiteId,
    /// The scope.
    pub scope: ScopeId,
    /// The end of the lease.
    pub lease_until_ms: UnixMs,
    /// Which link of the audit chain the receipt is going to be: its position and hash, durable before the link is.
    pub announced: Option<(u64, Hash)>,
    /// Whether the receipt is in the audit chain.
    pub receipted: bool,
}

/// The contents of the keyslot file. Secrets in it are zeroised when dropped and never printed or cloned.
pub struct Contents {
    /// The device's signing key.
    pub signer: Signer,
    /// The device's TLS certificate, DER; empty before enrolment.
    pub certificate: Vec<u8>,
    /// The signed grant as received; empty when there is none.
    pub grant: Vec<u8>,
    /// The signed grant before, while the copy needs keys that only it holds; else empty.
    pub previous_grant: Vec<u8>,
    /// The trusted clock.
    pub clock: TrustedClock,
    /// The server's address, e.g. `https://cpis.example.nhs.uk:8443`.
    pub url: String,
    /// The signed root in force: trust survives the loss of the replica.
    pub root: Vec<u8>,
    /// The signed root under which the grant was accepted; empty unless the root in force withdraws the grant's key.
    pub grant_root: Vec<u8>,
    /// Whether the server suspended this device: nothing is answered, also after a restart.
    pub suspended: bool,
    /// The newest signed withdrawal as received: no grant up to its number counts. Empty when there was none.
    pub withdrawal: Vec<u8>,
    /// Set in the same write that destroys the keys.
    pub erasure: Option<Erasure>,
    /// What practitioners used of their limits.
    pub usage: Vec<Usage>,
    /// How often the glass was broken on this device, ever.
    pub glasses: u32,
    /// How many answers were not recorded when they were given, ever.
    pub unrecorded_total: u32,
    pub(super) vault: SealingKey,
    pub(super) slots: Vec<VaultSlot>,
    local_keys: BTreeMap<(FeedId, u64), Key>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Contents({} slots, {} local keys, [secret])", self.slots.len(), self.local_keys.len())
    }
}

impl Contents {
    /// The contents of a device that is being enrolled; `vault` is the public half of its new vault key.
    #[must_use]
    pub fn new(signer: Signer, vault: SealingKey) -> Self {
        Self {
            signer,
            certificate: Vec::new(),
            grant: Vec::new(),
            previous_grant: Vec::new(),
            clock: TrustedClock::default(),
            url: String::new(),
            root: Vec::new(),
            grant_root: Vec::new(),
            suspended: false,
            withdrawal: Vec::new(),
            erasure: None,
            usage: Vec::new(),
            glasses: 0,
            unrecorded_total: 0,
            vault,
            slots: Vec::new(),
            local_keys: BTreeMap::new(),
        }
    }

    /// The public half of the vault key: what grants are sealed to.
    #[must_use]
    pub const fn vault(&self) -> &SealingKey {
        &self.vault
    }

    /// The key under which a generation of a feed is stored.
    #[must_use]
    pub fn local_key(&self, feed: FeedId, generation: u64) -> Option<&Key> {
        self.local_keys.get(&(feed, generation))
    }

    /// The feeds and generations of which there is a key, in order.
    pub fn local_keys(&self) -> impl Iterator<Item = (FeedId, u64)> {
        self.local_keys.keys().copied()
    }

    /// Adds or replaces the key of a generation. To let go of one, use [`super::Keyslot::destroy`].
    ///
    /// # Errors
    /// [`KeyslotError::Full`].
    pub fn set_local_key(&mut self, feed: FeedId, generation: u64, key: Key) -> Result<(), KeyslotError> {
        if self.local_keys.len() >= LOCAL_KEYS_MAX && self.local_key(feed, generation).is_none() {
            return Err(KeyslotError::Full);
        }
        self.local_keys.insert((feed, generation), key);
        Ok(())
    }

    /// Removes the keys for which `keep` is false; says how many. Only [`super::Keyslot::destroy`] makes it final.
    pub fn retain_local_keys(&mut self, mut keep: impl FnMut(FeedId, u64) -> bool) -> usize {
        let before = self.local_keys.len();
        self.local_keys.retain(|(feed, generation), _| keep(*feed, *generation));
        before - self.local_keys.len()
    }

    /// Removes the slots of everybody for whom `keep` is false. Only [`super::Keyslot::destroy`] makes it final.
    pub fn retain_slots(&mut self, mut keep: impl FnMut(PractitionerId) -> bool) -> usize {
        let before = self.slots.len();
        self.slots.retain(|slot| keep(slot.practitioner));
        before - self.slots.len()
    }

    /// The padded body.
    ///
    /// # Errors
    /// [`KeyslotError::Full`] when it does not fit.
    pub(super) fn to_body(&self) -> Result<Zeroizing<Vec<u8>>, KeyslotError> {
        if self.slots.len() > VAULT_SLOTS_MAX || self.local_keys.len() > LOCAL_KEYS_MAX {
            return Err(KeyslotError::Full);
        }
        let public = codec::encode(&Public {
            certificate: self.certificate.clone(),
            vault: self.vault,
            slots: self.slots.clone(),
            grant: self.grant.clone(),
            previous_grant: self.previous_grant.clone(),
            keys: self.local_keys.keys().copied().collect(),
            clock: self.clock,
            url: self.url.clone(),
            root: self.root.clone(),
            grant_root: self.grant_root.clone(),
            suspended: self.suspended,
            withdrawal: self.withdrawal.clone(),
            erasure: self.erasure.clone(),
            usage: self.usage.clone(),
            glasses: self.glasses,
            unrecorded_total: self.unrecorded_total,
        })?;
        let length = u32::try_from(public.len()).map_err(|_| KeyslotError::Full)?;
        if 4 + public.len() + 32 * (1 + self.local_keys.len()) > BODY_BYTES {
            return Err(KeyslotError::Full);
        }
        // Its capacity is final, so that it never moves and leaves a copy behind.
        let mut body = Zeroizing::new(Vec::with_capacity(BODY_BYTES));
        body.extend_from_slice(&length.to_le_bytes());
        body.extend_from_slice(&public);
        body.extend_from_slice(self.signer.seed().as_slice());
        for key in self.local_keys.values() {
            body.extend_from_slice(key.expose());
        }
        body.resize(BODY_BYTES, 0);
        Ok(body)
    }

    /// Reads a padded body.
    pub(super) fn from_body(body: &[u8]) -> Result<Self, Refusal> {
        let (length, rest) = body.split_first_chunk::<4>().ok_or(Refusal::Truncated)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| Refusal::TooLarge)?;
        let (public, secrets) = rest.split_at_checked(length).ok_or(Refusal::Truncated)?;
        let public: Public = codec::decode(public, BODY_BYTES)?;
        let (seed, mut rest) = secrets.split_first_chunk::<32>().ok_or(Refusal::Truncated)?;
        let mut local_keys = BTreeMap::new();
        for name in &public.keys {
            let (key, after) = rest.split_first_chunk::<32>().ok_or(Refusal::Truncated)?;
            local_keys.insert(*name, secret(key, Key::from_bytes));
            rest = after;
        }
        if local_keys.len() != public.keys.len() || rest.iter().any(|b| *b != 0) {
            return Err(Refusal::Malformed);
        }
        Ok(Self {
            signer: secret(seed, Signer::from_seed),
            certificate: public.certificate,
            grant: public.grant,
            previous_grant: public.previous_grant,
            clock: public.clock,
            url: public.url,
            root: public.root,
            grant_root: public.grant_root,
            suspended: public.suspended,
            withdrawal: public.withdrawal,
            erasure: public.erasure,
            usage: public.usage,
            glasses: public.glasses,
            unrecorded_total: public.unrecorded_total,
            vault: public.vault,
            slots: public.slots,
            local_keys,
        })
    }

    /// Lets go of every slot, the grant and all local keys. The device key stays, so that unsent audit can be sent.
    pub(super) fn erase_keys(&mut self) {
        self.slots.clear();
        self.grant.clear();
        self.previous_grant.clear();
        self.local_keys.clear();
    }

    pub(super) fn slot(&self, practitioner: PractitionerId) -> Option<&VaultSlot> {
        self.slots.iter().find(|slot| slot.practitioner == practitioner)
    }

    pub(super) fn slot_mut(&mut self, practitioner: PractitionerId) -> Option<&mut VaultSlot> {
        self.slots.iter_mut().find(|slot| slot.practitioner == practitioner)
    }
}

/// Makes a key type from bytes through a copy that is zeroised.
pub(crate) fn secret<T>(bytes: &[u8; 32], make: impl FnOnce([u8; 32]) -> T) -> T {
    let mut copy = *bytes;
    let made = make(copy);
    copy.zeroize();
    made
}

#[cfg(test)]
mod tests {
    use cpis_protocol::id::hex;
    use cpis_protocol::text::Text;

    use super::*;
    use crate::keyslot::usage::{Telling, Unrecorded};

    fn contents() -> Contents {
        let mut contents = Contents::new(Signer::from_seed([0x11; 32]), [0x22; 32]);
        contents.certificate = vec![0x33, 0x34];
        contents.grant = vec![0x44];
        contents.previous_grant = vec![0x45];
        contents.url = "u".into();
        contents.root = vec![0x72, 0x73];
        contents.grant_root = vec![0x74];
        contents.suspended = true;
        contents.withdrawal = vec![0x39];
        contents.slots.push(VaultSlot {
            practitioner: Text::lossy("P1"),
            cost: MemoryHard { memory_kib: 64, passes: 3 },
            salt: [0x55; 16],
            wrapped: vec![0x66; 3],
            attempts: 2,
            created_ms: 7,
            counted: vec![0x88; 2],
        });
        contents.usage.push(Usage {
            refusal_told_ms: 9,
            unrecorded: Unrecorded { count: 2, first_ms: 8, reason: Text::EMPTY },
            telling: Some(Telling { seq: 3, hash: [0xab; 32], count: 1 }),
            let_go_ms: 6,
            ..Usage::of(Text::lossy("P1"))
        });
        (contents.glasses, contents.unrecorded_total) = (5, 4);
        contents.set_local_key(Text::lossy("E2"), 5, Key::from_bytes([0x77; 32])).unwrap();
        contents
    }

    #[test]
    fn frozen_body() {
        let body = contents().to_body().unwrap();
        assert_eq!(body.len(), BODY_BYTES);
        let public = [
            "0200000000000000",
            "3334",                             // certificate
            &"22".repeat(32),                   // vault
            "0100000000000000",                 // one slot
            "50310000000000000000000000000000", // practitioner
            "4000000003000000",
            &"55".repeat(16),         // cost, salt
            "0300000000000000666666", // wrapped
            "02000000",
            "0700000000000000",     // attempts, created
            "02000000000000008888", // the TPM object of a PIN
            "0100000000000000",
            "44", // grant
            "0100000000000000",
            "45",               // previous grant
            "0100000000000000", // one key
            "45320000000000000000000000000000",
            "0500000000000000",
            "0000000000000000",
            "0000000000000000",
            "0000000000000000",
            &"00".repeat(16),
            "00000000", // clock, its rule last
            "0100000000000000",
            "75", // url
            "0200000000000000",
            "7273", // root
            "0100000000000000",
            "74", // grant root
            "01", // suspended
            "0100000000000000",
            "39",               // withdrawal
            "00",               // no erasure
            "0100000000000000", // one practitioner's usage
            "50310000000000000000000000000000",
            "00000000",
            "0000000000000000", // bucket: used, counted to
            "0000000000000000",
            "0000000000000000",
            "0000",
            &"00".repeat(64),   // break-glass: began, until, left, reason
            "0900000000000000", // refusal last recorded
            "0200",
            "0800000000000000",
            &"00".repeat(64), // not recorded: how many, since when, why
            "01",
            "0300000000000000",
            &"ab".repeat(32),
            "0100",             // being told: as which link, its hash, how many
            "0600000000000000", // time that was let go of
            "05000000",         // times the glass was broken
            "04000000",         // not recorded in all
        ]
        .concat();
        let length = public.len() / 2;
        let used = format!("{}{public}{}{}", hex(&(length as u32).to_le_bytes()), "11".repeat(32), "77".repeat(32));
        assert_eq!(hex(&body[..used.len() / 2]), used);
        assert!(body[used.len() / 2..].iter().all(|b| *b == 0));
        let read = Contents::from_body(&body).unwrap();
        assert_eq!(read.to_body().unwrap(), body);
        assert!(!format!("{read:?}").contains("77"));
    }

    #[test]
    fn ceilings() {
        let mut contents = contents();
        contents.grant = vec![0; BODY_BYTES];
        assert!(matches!(contents.to_body(), Err(KeyslotError::Full)));
        contents.grant.clear();
        for generation in 0..LOCAL_KEYS_MAX as u64 - 1 {
            contents.set_local_key(Text::lossy("F"), generation, Key::from_bytes([1; 32])).unwrap();
        }
        assert!(contents.to_body().is_ok(), "1,024 local keys fit beside a small grant");
        let more = contents.set_local_key(Text::lossy("F"), 5_000, Key::from_bytes([1; 32]));
        assert!(matches!(more, Err(KeyslotError::Full)));
        assert_eq!(contents.retain_local_keys(|_, generation| generation < 10), LOCAL_KEYS_MAX - 11);
    }
}
