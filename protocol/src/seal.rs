//! Sealing: local data under a key, feed keys and audit events to a public key, a vault under a passphrase.
//! The only file that knows the AEAD, HPKE and Argon2id; it must not make a nonce, a salt or a key by itself.

use alloc::vec::Vec;
use argon2::{Algorithm, Argon2, AssociatedData, ParamsBuilder, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use hpke::{Deserializable, Kem as _, OpModeR, OpModeS, Serializable};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::Refusal;

type Kem = hpke::kem::X25519HkdfSha256;
type Kdf = hpke::kdf::HkdfSha256;
type Cipher = hpke::aead::ChaCha20Poly1305;

/// The extra length of [`Key::seal`]: a 24-byte nonce and a 16-byte tag.
pub const SEAL_BYTES: usize = 40;
/// The extra length of [`seal_to`]: an encapsulated key and a tag.
pub const SEAL_TO_BYTES: usize = 48;

/// A 256-bit symmetric key; zeroised when dropped, never printed, never cloned.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key([secret])")
    }
}

impl Key {
    /// A fresh random key.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut key = [0; 32];
        rng.fill_bytes(&mut key);
        Self(key)
    }

    /// A key from its bytes, which are zeroised here.
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let key = Self(bytes);
        bytes.zeroize();
        key
    }

    /// The key bytes, for wrapping.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// XChaCha20-Poly1305 with a random 24-byte nonce in front; `aad` binds the place.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] only beyond the cipher's own limit.
    pub fn seal(&self, aad: &[u8], plain: &[u8], rng: &mut impl CryptoRng) -> Result<Vec<u8>, Refusal> {
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let sealed = XChaCha20Poly1305::new(&self.0.into())
            .encrypt(&nonce.into(), Payload { msg: plain, aad })
            .map_err(|_| Refusal::TooLarge)?;
        let mut out = Vec::with_capacity(24 + sealed.len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`Refusal::Truncated`], [`Refusal::DoesNotOpen`].
    pub fn open(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let (nonce, sealed) = sealed.split_first_chunk::<24>().ok_or(Refusal::Truncated)?;
        XChaCha20Poly1305::new(&self.0.into())
            .decrypt(nonce.into(), Payload { msg: sealed, aad })
            .map(Zeroizing::new)
            .map_err(|_| Refusal::DoesNotOpen)
    }

    /// ChaCha20-Poly1305 (RFC 8439) under a key that seals exactly once, so that the nonce may be zero.
    pub(crate) fn seal_once(&self, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, Refusal> {
        ChaCha20Poly1305::new(&self.0.into())
            .encrypt(&[0; 12].into(), Payload { msg: plain, aad })
            .map_err(|_| Refusal::TooLarge)
    }

    /// Opens what [`Self::seal_once`] made.
    pub(crate) fn open_once(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        ChaCha20Poly1305::new(&self.0.into())
            .decrypt(&[0; 12].into(), Payload { msg: sealed, aad })
            .map(Zeroizing::new)
            .map_err(|_| Refusal::DoesNotOpen)
    }
}

/// An X25519 public key that things are sealed to: a device's vault, or the audit recipient.
pub type SealingKey = [u8; 32];

/// The private half of a [`SealingKey`]; zeroised when dropped, never printed, never cloned.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct OpeningKey([u8; 32]);

impl core::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("OpeningKey([secret])")
    }
}

impl OpeningKey {
    /// Derives the pair from 32 random bytes (RFC 9180 7.1.3 DeriveKeyPair), which are zeroised here.
    #[must_use]
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let key = Self(seed);
        seed.zeroize();
        key
    }

    /// The seed, for wrapping.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The public half.
    #[must_use]
    pub fn sealing_key(&self) -> SealingKey {
        let (_, public) = Kem::derive_keypair(&self.0);
        public.to_bytes().into()
    }

    /// Opens what was sealed to the public half.
    ///
    /// # Errors
    /// [`Refusal::Truncated`], [`Refusal::DoesNotOpen`].
    pub fn open(&self, info: &[u8], aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Refusal> {
        let (encapsulated, sealed) = sealed.split_first_chunk::<32>().ok_or(Refusal::Truncated)?;
        let encapsulated =
            <Kem as hpke::Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| Refusal::DoesNotOpen)?;
        let (private, _) = Kem::derive_keypair(&self.0); // R75
        let mut context = hpke::setup_receiver::<Cipher, Kdf, Kem>(&OpModeR::Base, &private, &encapsulated, info)
            .map_err(|_| Refusal::DoesNotOpen)?;
        context.open(sealed, aad).map(Zeroizing::new).map_err(|_| Refusal::DoesNotOpen)
    }
}

/// HPKE base mode (RFC 9180 5.1.1): X25519-HKDF-SHA256, HKDF-SHA256, ChaCha20-Poly1305. Encapsulated key first.
///
/// # Errors
/// [`Refusal::Malformed`] when the public key is not one.
pub fn seal_to(
    to: &SealingKey,
    info: &[u8],
    aad: &[u8],
    plain: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, Refusal> {
    let to = <Kem as hpke::Kem>::PublicKey::from_bytes(to).map_err(|_| Refusal::Malformed)?;
    let (encapsulated, mut context) = hpke::setup_sender_with_rng::<Cipher, Kdf, Kem>(&OpModeS::Base, &to, info, rng)
        .map_err(|_| Refusal::Malformed)?;
    let sealed = context.seal(plain, aad).map_err(|_| Refusal::Malformed)?;
    let mut out = Vec::with_capacity(32 + sealed.len());
    out.extend_from_slice(&encapsulated.to_bytes());
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// Argon2id parameters (RFC 9106); always one lane, so that cores serve several paths at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryHard {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
}

impl MemoryHard {
    /// The default: 64 MiB, three passes (RFC 9106 second choice, with one lane).
    pub const DEFAULT: Self = Self { memory_kib: 64 * 1024, passes: 3 };
    /// The floor outside synthetic deployments: 19 MiB, two passes (OWASP).
    pub const FLOOR: Self = Self { memory_kib: 19 * 1024, passes: 2 };
    /// For synthetic deployments only: quick tests and demonstrations.
    pub const SYNTHETIC: Self = Self { memory_kib: 64, passes: 1 };
    /// The ceiling: a hostile signer cannot ask a tablet for more.
    pub const CEILING: Self = Self { memory_kib: 1024 * 1024, passes: 16 };

    /// Checks floor and ceiling.
    ///
    /// # Errors
    /// [`Refusal::BelowFloor`], [`Refusal::TooLarge`].
    pub const fn check(self, synthetic: bool) -> Result<Self, Refusal> {
        let lowest = if synthetic { Self { memory_kib: 8, passes: 1 } } else { Self::FLOOR }; // R63
        if self.memory_kib < lowest.memory_kib || self.passes < lowest.passes {
            return Err(Refusal::BelowFloor);
        }
        if self.memory_kib > Self::CEILING.memory_kib || self.passes > Self::CEILING.passes {
            return Err(Refusal::TooLarge);
        }
        Ok(self)
    }

    /// Argon2id version 0x13, 32 bytes out. `associated` (at most 32 bytes) separates uses of one salt.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] when the memory cannot be had or a parameter is out of range.
    pub fn derive(self, secret: &[u8], salt: &[u8; 16], associated: &[u8]) -> Result<Zeroizing<[u8; 32]>, Refusal> {
        let data = AssociatedData::new(associated).map_err(|_| Refusal::TooLarge)?;
        let params = ParamsBuilder::new()
            .m_cost(self.memory_kib)
            .t_cost(self.passes)
            .p_cost(1)
            .data(data)
            .build()
            .map_err(|_| Refusal::TooLarge)?;
        let mut out = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(secret, salt, out.as_mut_slice())
            .map_err(|_| Refusal::TooLarge)?;
        Ok(out)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    /// A deterministic generator, for vectors and tests only.
    pub(crate) struct TestRng(pub u64);
    impl rand_core::TryRng for TestRng {
        type Error = core::convert::Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
            self.try_next_u64().map(|n| (n >> 32) as u32)
        }
        fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Ok(self.0 ^ (self.0 >> 29))
        }
        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
            for byte in bytes {
                *byte = (self.try_next_u64()? >> 40) as u8;
            }
            Ok(())
        }
    }
    impl rand_core::TryCryptoRng for TestRng {}
}

#[cfg(test)]
mod tests {
    use super::testing::TestRng;
    use super::*;

    #[test]
    fn seal_open_and_bind() {
        let key = Key::from_bytes([3; 32]);
        let sealed = key.seal(b"here", b"plain", &mut TestRng(1)).unwrap_or_default();
        assert_eq!(sealed.len(), 5 + SEAL_BYTES);
        assert_eq!(key.open(b"here", &sealed).as_deref().map(Vec::as_slice), Ok(&b"plain"[..]));
        assert_eq!(key.open(b"there", &sealed).err(), Some(Refusal::DoesNotOpen));
        assert_eq!(Key::from_bytes([4; 32]).open(b"here", &sealed).err(), Some(Refusal::DoesNotOpen));
        assert_eq!(key.open(b"here", &sealed[..10]).err(), Some(Refusal::Truncated));
    }

    #[test]
    fn hpke_round_trip_and_binding() {
        let opening = OpeningKey::from_seed([5; 32]);
        let sealed = seal_to(&opening.sealing_key(), b"info", b"aad", b"plain", &mut TestRng(2)).unwrap_or_default();
        assert_eq!(sealed.len(), 5 + SEAL_TO_BYTES);
        assert_eq!(opening.open(b"info", b"aad", &sealed).as_deref().map(Vec::as_slice), Ok(&b"plain"[..]));
        assert_eq!(opening.open(b"other", b"aad", &sealed).err(), Some(Refusal::DoesNotOpen));
        assert_eq!(opening.open(b"info", b"other", &sealed).err(), Some(Refusal::DoesNotOpen));
    }

    #[test]
    fn floor_holds_unless_synthetic() {
        assert_eq!(MemoryHard::SYNTHETIC.check(false), Err(Refusal::BelowFloor));
        assert_eq!(MemoryHard::SYNTHETIC.check(true), Ok(MemoryHard::SYNTHETIC));
        assert_eq!(MemoryHard::DEFAULT.check(false), Ok(MemoryHard::DEFAULT));
        let greedy = MemoryHard { memory_kib: u32::MAX, passes: 1 };
        assert_eq!(greedy.check(true), Err(Refusal::TooLarge));
    }
}
