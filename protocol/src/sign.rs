//! The frame around signed objects, and the only place that makes a [`Verified`] value.
//! It must not decode a payload before enough signatures over its received bytes have verified.
//!
//! Frame: kind (1 byte), format (1), number of signatures (1), for each: key id (8), Ed25519 signature (64, RFC 8032);
//! then the payload. Each signature covers `"cpis-edge/1/signed"`, zero, kind, format, payload.

use alloc::vec::Vec;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

use crate::digest::{self, Hash};
use crate::{FORMAT, Refusal, codec, limits};

const DOMAIN: &[u8] = b"cpis-edge/1/signed\0";
const SIGNATURE_AT: usize = 3;
const SIGNATURE_BYTES: usize = 72;

/// What a signed object is; the first byte of its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The trust root.
    Root = 1,
    /// The signed statement that a head is still the newest.
    Beat = 2,
    /// The signed statement of the feeds' state.
    Head = 3,
    /// What a device may hold.
    Grant = 4,
    /// The server's acknowledgement of audit links.
    Receipt = 5,
    /// A device's request to be enrolled.
    Enrol = 6,
    /// The word that a device is withdrawn.
    Withdrawal = 7,
}

/// An Ed25519 public key.
pub type PublicKey = [u8; 32];
/// The first eight bytes of a key's hash: names a key, proves nothing.
pub type KeyId = [u8; 8];

/// The key id of a public key.
#[must_use]
pub fn key_id(public_key: &PublicKey) -> KeyId {
    let hash = digest::hash("cpis-edge/1/key", &[public_key]); // R12
    let mut id = [0; 8];
    for (to, from) in id.iter_mut().zip(hash) {
        *to = from;
    }
    id
}

/// An Ed25519 signing key; zeroised when dropped, never printed, never cloned.
pub struct Signer(SigningKey);

impl core::fmt::Debug for Signer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Signer([secret])")
    }
}

impl Signer {
    /// From a 32-byte seed, which is zeroised.
    #[must_use]
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let signer = Self(SigningKey::from_bytes(&seed));
        seed.zeroize();
        signer
    }

    /// The seed, for sealed storage.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// PKCS#8 DER of the private key (RFC 8410), for TLS.
    #[must_use]
    pub fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        // PrivateKeyInfo { version 0, algorithm 1.3.101.112, OCTET STRING { OCTET STRING seed } }
        const PREFIX: [u8; 16] =
            [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        let mut der = Zeroizing::new(Vec::with_capacity(48));
        der.extend_from_slice(&PREFIX);
        der.extend_from_slice(self.seed().as_slice());
        der
    }

    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.0.verifying_key().to_bytes()
    }

    /// A bare signature over a hash that carries its own domain (audit links).
    #[must_use]
    pub fn sign_hash(&self, hash: &Hash) -> [u8; 64] {
        self.0.sign(hash).to_bytes()
    }

    /// Encodes and frames `payload` with one signature.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] when the payload does not encode.
    pub fn sign<T: Serialize>(&self, kind: Kind, payload: &T) -> Result<Vec<u8>, Refusal> {
        let frame = frame(kind, &codec::encode(payload)?);
        self.endorse(&frame)
    }

    /// Adds this key's signature to a frame, e.g. for a root that needs several. Signing twice changes nothing.
    ///
    /// # Errors
    /// A refusal when the frame is malformed or full.
    pub fn endorse(&self, frame: &[u8]) -> Result<Vec<u8>, Refusal> {
        let parts = Parts::read(frame)?;
        let id = key_id(&self.public_key());
        if parts.signatures().any(|(key, _)| key == id) {
            return Ok(frame.to_vec());
        }
        let count = u8::try_from(parts.count + 1).map_err(|_| Refusal::TooLarge)?;
        if usize::from(count) > limits::SIGNATURES_MAX {
            return Err(Refusal::TooLarge);
        }
        let signature = self.0.sign(&message(parts.kind, parts.format, parts.payload));
        let mut out = Vec::with_capacity(frame.len() + SIGNATURE_BYTES);
        out.extend_from_slice(&[parts.kind, parts.format, count]);
        out.extend_from_slice(parts.signatures);
        out.extend_from_slice(&id);
        out.extend_from_slice(&signature.to_bytes());
        out.extend_from_slice(parts.payload);
        Ok(out)
    }
}

/// A frame without signatures.
#[must_use]
pub fn frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SIGNATURE_AT + payload.len());
    out.extend_from_slice(&[kind as u8, FORMAT, 0]);
    out.extend_from_slice(payload);
    out
}

fn message(kind: u8, format: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(DOMAIN.len() + 2 + payload.len());
    out.extend_from_slice(DOMAIN); // R10
    out.extend_from_slice(&[kind, format]);
    out.extend_from_slice(payload);
    out
}

struct Parts<'a> {
    kind: u8,
    format: u8,
    count: usize,
    signatures: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let (&[kind, format, count], rest) = bytes.split_first_chunk().ok_or(Refusal::Truncated)?;
        let count = usize::from(count);
        if count > limits::SIGNATURES_MAX {
            // R16
            return Err(Refusal::TooLarge);
        }
        let (signatures, payload) = rest.split_at_checked(count * SIGNATURE_BYTES).ok_or(Refusal::Truncated)?;
        Ok(Self { kind, format, count, signatures, payload })
    }

    fn signatures(&self) -> impl Iterator<Item = (KeyId, [u8; 64])> + use<'a> {
        self.signatures.chunks_exact(SIGNATURE_BYTES).filter_map(|chunk| {
            let (id, signature) = chunk.split_first_chunk::<8>()?;
            Some((*id, signature.try_into().ok()?))
        })
    }
}

/// A payload whose signatures have verified. Only [`verify`] makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    payload: T,
    bytes: Vec<u8>,
}

impl<T> Verified<T> {
    /// The received bytes, for storage and for passing on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// SHA-256 of the received bytes: the name of the object.
    #[must_use]
    pub fn hash(&self) -> Hash {
        digest::sha256(&self.bytes) // R17
    }
}

impl<T> core::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.payload
    }
}

/// Checks frame, kind, format and signatures over the received bytes, and only then decodes.
///
/// At least `threshold` *distinct* keys out of `trusted` must have signed. This is the only place where signers are
/// counted; a key that signs twice counts once (RUSTSEC-2020-0024, CVE-2026-6966). A signature by a trusted key that
/// does not verify refuses the object whole; signatures by unknown keys are ignored.
///
/// # Errors
/// [`Refusal`].
pub fn verify<T: DeserializeOwned>(
    bytes: &[u8],
    kind: Kind,
    trusted: &[PublicKey],
    threshold: usize,
    limit: usize,
) -> Result<Verified<T>, Refusal> {
    if bytes.len() > limit {
        return Err(Refusal::TooLarge);
    }
    let parts = Parts::read(bytes)?;
    if parts.kind != kind as u8 {
        // R11, R140
        return Err(Refusal::WrongKind);
    }
    if parts.format != FORMAT {
        return Err(Refusal::UnsupportedFormat);
    }
    let message = message(parts.kind, parts.format, parts.payload);
    let mut signers: Vec<PublicKey> = Vec::new();
    for (id, signature) in parts.signatures() {
        let Some(public_key) = trusted.iter().find(|key| key_id(key) == id) else { continue }; // R14
        check(public_key, &message, &signature)?; // R13
        if !signers.contains(public_key) {
            // R15
            signers.push(*public_key);
        }
    }
    if signers.is_empty() {
        return Err(Refusal::UnknownKey);
    }
    if signers.len() < threshold.max(1) {
        return Err(Refusal::BelowThreshold);
    }
    Ok(Verified { payload: codec::decode(parts.payload, limit)?, bytes: bytes.to_vec() })
}

/// Checks a bare signature over a hash that carries its own domain (audit links).
///
/// # Errors
/// [`Refusal::BadSignature`].
pub fn verify_hash(public_key: &PublicKey, hash: &Hash, signature: &[u8; 64]) -> Result<(), Refusal> {
    check(public_key, hash, signature)
}

fn check(public_key: &PublicKey, message: &[u8], signature: &[u8; 64]) -> Result<(), Refusal> {
    let key = VerifyingKey::from_bytes(public_key).map_err(|_| Refusal::BadSignature)?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| Refusal::BadSignature)
}

/// The payload of a frame *without* checking anything: for showing a draft to the people who are about to sign it.
///
/// # Errors
/// [`Refusal`].
pub fn peek_unverified<T: DeserializeOwned>(bytes: &[u8], kind: Kind, limit: usize) -> Result<T, Refusal> {
    if bytes.len() > limit {
        return Err(Refusal::TooLarge);
    }
    let parts = Parts::read(bytes)?;
    if parts.kind != kind as u8 {
        return Err(Refusal::WrongKind);
    }
    if parts.format != FORMAT {
        return Err(Refusal::UnsupportedFormat);
    }
    codec::decode(parts.payload, limit)
}

#[cfg(test)]
#[path = "sign_published_tests.rs"]
mod published_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(seed: u8) -> Signer {
        Signer::from_seed([seed; 32])
    }

    fn signed(signers: &[u8]) -> Vec<u8> {
        signers
            .iter()
            .fold(frame(Kind::Beat, &[9, 0, 0, 0]), |frame, seed| signer(*seed).endorse(&frame).unwrap_or_default())
    }

    fn check_signed(bytes: &[u8], trusted: &[u8], threshold: usize) -> Result<u32, Refusal> {
        let trusted: Vec<_> = trusted.iter().map(|seed| signer(*seed).public_key()).collect();
        verify::<u32>(bytes, Kind::Beat, &trusted, threshold, 1024).map(|v| *v)
    }

    #[test]
    fn threshold_counts_distinct_trusted_signers() {
        assert_eq!(check_signed(&signed(&[1, 2]), &[1, 2, 3], 2), Ok(9));
        assert_eq!(check_signed(&signed(&[1]), &[1, 2, 3], 2), Err(Refusal::BelowThreshold));
        assert_eq!(check_signed(&signed(&[4, 5]), &[1, 2, 3], 2), Err(Refusal::UnknownKey));
        assert_eq!(check_signed(&signed(&[]), &[1], 1), Err(Refusal::UnknownKey));
        // The same signature pasted twice counts once.
        let one = signed(&[1]);
        let mut twice = alloc::vec![one[0], one[1], 2];
        twice.extend_from_slice(&one[3..3 + SIGNATURE_BYTES]);
        twice.extend_from_slice(&one[3..]);
        assert_eq!(check_signed(&twice, &[1, 2, 3], 2), Err(Refusal::BelowThreshold));
        // A threshold of zero in a careless root still wants one.
        assert_eq!(check_signed(&signed(&[]), &[1], 0), Err(Refusal::UnknownKey));
    }

    #[test]
    fn every_changed_byte_is_refused() {
        let good = signed(&[1]);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(check_signed(&bad, &[1], 1).is_err(), "byte {at}");
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(check_signed(&long, &[1], 1), Err(Refusal::BadSignature));
        assert_eq!(check_signed(&good[..20], &[1], 1), Err(Refusal::Truncated));
    }

    #[test]
    fn a_signature_is_bound_to_its_kind() {
        let mut other = signed(&[1]);
        other[0] = Kind::Receipt as u8;
        let trusted = [signer(1).public_key()];
        assert_eq!(verify::<u32>(&other, Kind::Receipt, &trusted, 1, 1024).map(|v| *v), Err(Refusal::BadSignature));
        assert_eq!(verify::<u32>(&other, Kind::Beat, &trusted, 1, 1024).map(|v| *v), Err(Refusal::WrongKind));
    }
}
