//! The audit chain: sealed events, linked by hash, signed one by one, acknowledged cumulatively.
//! It must not let the device read its own queue, nor let an event leave without a verified receipt.
//!
//! Link, 316 bytes: event time (8), signed-server-time anchor (8), register sequence of the replica (8), first half of
//! its head's hash (16), audit recipient key id (4), sealed event (32 + 160 + 16), Ed25519 signature (64).
//! `hash = SHA-256("cpis-edge/1/link" || 0 || device || chain || seq || previous || the 252 bytes before the signature)`;
//! the signature covers that hash, so device, chain, position and history are bound though they are not repeated.

mod event;

use alloc::vec::Vec;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::digest::{self, Hash};
use crate::id::{ChainId, DeviceId, RegisterSeq, UnixMs};
use crate::seal::{self, OpeningKey, SealingKey};
use crate::sign::{self, PublicKey, Signer};
use crate::{FORMAT, Refusal, codec, limits};

pub use event::{Act, AuditEvent, EVENT_BYTES, ErasureCause, LockCause, Outcome};

const SEALED_BYTES: usize = EVENT_BYTES + seal::SEAL_TO_BYTES;
const BODY_BYTES: usize = 8 + 8 + 8 + 16 + 4 + SEALED_BYTES;
/// The size of every link.
pub const LINK_BYTES: usize = BODY_BYTES + 64;
const SEALED_AT: usize = 44;
const INFO: &[u8] = b"cpis-edge/1/audit";

/// The state of the replica and the clock when an event happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// When it happened, by trusted time where known, else by the wall clock.
    pub event_ms: UnixMs,
    /// The last signed server time that the device knew; zero before the first sync.
    pub anchor_ms: UnixMs,
    /// The register sequence of the replica; zero before the first sync.
    pub gseq: RegisterSeq,
    /// The head of the replica; zeros before the first sync.
    pub head: Hash,
}

/// One link of the chain, signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Link([u8; LINK_BYTES]);

impl core::fmt::Debug for Link {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Link(at {}, gseq {})", self.event_ms(), self.gseq())
    }
}

impl Link {
    /// Reads a link; what it means depends on its place in a chain.
    ///
    /// # Errors
    /// [`Refusal::Truncated`], [`Refusal::TrailingBytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.len() > LINK_BYTES {
            // R102
            return Err(Refusal::TrailingBytes);
        }
        bytes.try_into().map(Self).map_err(|_| Refusal::Truncated)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; LINK_BYTES] {
        &self.0
    }

    fn number(&self, at: usize) -> i64 {
        let bytes = self.0.get(at..at + 8).and_then(|b| b.try_into().ok()).unwrap_or([0; 8]);
        i64::from_be_bytes(bytes)
    }

    /// When it happened.
    #[must_use]
    pub fn event_ms(&self) -> UnixMs {
        self.number(0)
    }

    /// The last signed server time that the device knew.
    #[must_use]
    pub fn anchor_ms(&self) -> UnixMs {
        self.number(8)
    }

    /// The register sequence of the replica.
    #[must_use]
    pub fn gseq(&self) -> RegisterSeq {
        self.number(16).cast_unsigned()
    }

    /// The first half of the hash of the replica's head.
    #[must_use]
    pub fn head_half(&self) -> [u8; 16] {
        self.0.get(24..40).and_then(|b| b.try_into().ok()).unwrap_or([0; 16])
    }

    /// Which audit recipient it is sealed to.
    #[must_use]
    pub fn recipient(&self) -> [u8; 4] {
        self.0.get(40..44).and_then(|b| b.try_into().ok()).unwrap_or([0; 4])
    }

    fn body(&self) -> &[u8] {
        self.0.get(..BODY_BYTES).unwrap_or_default()
    }

    fn hash(&self, device: &DeviceId, tip: &Tip) -> Hash {
        let seq = (tip.seq + 1).to_be_bytes(); // R100
        digest::hash("cpis-edge/1/link", &[&device.0, &tip.chain.0, &seq, &tip.hash, self.body()])
    }
}

/// The name of an audit recipient key in a link.
#[must_use]
pub fn recipient_id(key: &SealingKey) -> [u8; 4] {
    let [a, b, c, d, ..] = digest::hash("cpis-edge/1/recipient", &[key]);
    [a, b, c, d]
}

/// The end of a chain: the next link is exactly `seq + 1` and names `hash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tip {
    /// The chain.
    pub chain: ChainId,
    /// The position of the last link; zero before the first.
    pub seq: u64,
    /// The hash of the last link; before the first, one that names device and chain.
    pub hash: Hash,
}

impl Tip {
    /// The tip of an empty chain.
    #[must_use]
    pub fn start(device: &DeviceId, chain: ChainId) -> Self {
        Self { chain, seq: 0, hash: digest::hash("cpis-edge/1/chain", &[&device.0, &chain.0]) }
    }

    /// Seals, links and signs the next event; the tip moves only in the returned copy, so that a failed write loses
    /// nothing and repeats nothing.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when the event does not fit, [`Refusal::Malformed`] for a broken recipient key.
    pub fn append(
        &self,
        device: &DeviceId,
        signer: &Signer,
        recipient: &SealingKey,
        moment: &Moment,
        event: &AuditEvent,
        rng: &mut impl CryptoRng,
    ) -> Result<(Link, Self), Refusal> {
        let seq = self.seq + 1; // R103
        let sealed = seal::seal_to(recipient, INFO, &aad(device, &self.chain, seq), &event.pack()?, rng)?;
        let mut bytes = Vec::with_capacity(LINK_BYTES);
        bytes.extend_from_slice(&moment.event_ms.to_be_bytes());
        bytes.extend_from_slice(&moment.anchor_ms.to_be_bytes());
        bytes.extend_from_slice(&moment.gseq.to_be_bytes());
        bytes.extend_from_slice(&moment.head[..16]);
        bytes.extend_from_slice(&recipient_id(recipient));
        bytes.extend_from_slice(&sealed);
        bytes.resize(LINK_BYTES, 0);
        let mut link = Link::from_bytes(&bytes)?;
        let hash = link.hash(device, self);
        link.0[BODY_BYTES..].copy_from_slice(&signer.sign_hash(&hash));
        Ok((link, Self { chain: self.chain, seq, hash }))
    }

    /// Follows one link that this program itself wrote and stored: hash only, no signature (recovery of the journal).
    #[must_use]
    pub fn follow(&self, device: &DeviceId, link: &Link) -> Self {
        Self { chain: self.chain, seq: self.seq + 1, hash: link.hash(device, self) }
    }

    /// Verifies the next link and follows it.
    ///
    /// # Errors
    /// [`Refusal::BadSignature`]: the link is not by this device, or not for this place in this chain.
    pub fn verify(&self, device: &DeviceId, public_key: &PublicKey, link: &Link) -> Result<Self, Refusal> {
        let next = self.follow(device, link);
        let signature = link.0.get(BODY_BYTES..).and_then(|s| s.try_into().ok()).ok_or(Refusal::Truncated)?;
        sign::verify_hash(public_key, &next.hash, &signature)?; // R101
        Ok(next)
    }
}

fn aad(device: &DeviceId, chain: &ChainId, seq: u64) -> Vec<u8> {
    [&device.0[..], &chain.0[..], &seq.to_be_bytes()[..]].concat()
}

/// Opens the event of link `seq`, with the audit recipient's private key.
///
/// # Errors
/// [`Refusal::DoesNotOpen`], [`Refusal::Malformed`].
pub fn open(
    link: &Link,
    device: &DeviceId,
    chain: &ChainId,
    seq: u64,
    key: &OpeningKey,
) -> Result<AuditEvent, Refusal> {
    let sealed = link.0.get(SEALED_AT..BODY_BYTES).ok_or(Refusal::Truncated)?;
    AuditEvent::unpack(&key.open(INFO, &aad(device, chain, seq), sealed)?)
}

/// Links on their way to the server, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The device.
    pub device: DeviceId,
    /// The tip before the first link.
    pub after: Tip,
    /// At most [`limits::AUDIT_LINKS_MAX`].
    pub links: Vec<Link>,
}

#[derive(Serialize, Deserialize)]
struct BatchHeader {
    format: u8,
    device: DeviceId,
    after: Tip,
    count: u16,
}

impl Batch {
    /// The wire form: header, then the links.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Refusal> {
        if self.links.len() > limits::AUDIT_LINKS_MAX {
            return Err(Refusal::TooLarge);
        }
        let count = u16::try_from(self.links.len()).map_err(|_| Refusal::TooLarge)?;
        let mut out = codec::encode(&BatchHeader { format: FORMAT, device: self.device, after: self.after, count })?;
        for link in &self.links {
            out.extend_from_slice(&link.0);
        }
        Ok(out)
    }

    /// Reads the wire form.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Truncated`], [`Refusal::TrailingBytes`], [`Refusal::UnsupportedFormat`],
    /// [`Refusal::Malformed`] for a position that its links would overflow.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        const HEADER: usize = 1 + 16 + 16 + 8 + 32 + 2;
        if bytes.len() > limits::AUDIT_BATCH_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        let (header, links) = bytes.split_at_checked(HEADER).ok_or(Refusal::Truncated)?;
        let header: BatchHeader = codec::decode(header, HEADER)?;
        if header.format != FORMAT {
            return Err(Refusal::UnsupportedFormat);
        }
        let expected = usize::from(header.count) * LINK_BYTES;
        if usize::from(header.count) > limits::AUDIT_LINKS_MAX {
            return Err(Refusal::TooLarge);
        }
        // R106: A position from outside must leave room for its links, or following them would overflow.
        header.after.seq.checked_add(u64::from(header.count)).ok_or(Refusal::Malformed)?;
        match links.len().cmp(&expected) {
            // R105
            core::cmp::Ordering::Less => return Err(Refusal::Truncated),
            core::cmp::Ordering::Greater => return Err(Refusal::TrailingBytes),
            core::cmp::Ordering::Equal => {}
        }
        let links = links.chunks_exact(LINK_BYTES).map(Link::from_bytes).collect::<Result<_, _>>()?;
        Ok(Self { device: header.device, after: header.after, links })
    }
}

/// The server's cumulative acknowledgement, signed: everything up to `through` is stored for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    // R108
    /// The device.
    pub device: DeviceId,
    /// The end of the chain that the server holds.
    pub through: Tip,
    /// When it was made.
    pub issued_ms: UnixMs,
}

impl Receipt {
    /// Checks a verified receipt against the device's own chain: only an event that the device wrote, at exactly that
    /// place, may be pruned.
    ///
    /// # Errors
    /// [`Refusal::WrongDevice`], [`Refusal::WrongEpoch`] for another chain, [`Refusal::Gap`] beyond the own tip,
    /// [`Refusal::Fork`] when the hash at that place is another.
    pub fn check(
        &self,
        device: &DeviceId,
        chain: ChainId,
        own_hash: impl FnOnce(u64) -> Option<Hash>,
    ) -> Result<(), Refusal> {
        if self.device != *device {
            // R109
            return Err(Refusal::WrongDevice);
        }
        if self.through.chain != chain {
            return Err(Refusal::WrongEpoch);
        }
        match own_hash(self.through.seq) {
            None => Err(Refusal::Gap),
            Some(hash) if hash == self.through.hash => Ok(()),
            Some(_) => Err(Refusal::Fork),
        }
    }
}
