//! SHA-256 with a domain in front, and HKDF-SHA256: every hash and derived key of the protocol is made here.
//! It must not be given a domain that another object uses.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// SHA-256 over the bytes as they are: the name of an immutable object.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// SHA-256 over `domain`, a zero byte and the parts in order. Every part must have a fixed length or be the last.
#[must_use]
pub fn hash(domain: &str, parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update(domain.as_bytes());
    hasher.update([0]); // R5
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// HMAC-SHA256 of `input` under `key`, through HKDF-Extract, which is the same function (RFC 5869 2.2).
#[must_use]
pub fn prf(key: &[u8], input: &[u8]) -> Hash {
    Hkdf::<Sha256>::extract(Some(key), input).0.into()
}

/// HKDF-Expand (RFC 5869 2.3) of a uniformly random 32-byte key; `info` is the concatenation of the parts.
///
/// More than 255 blocks (8,160 bytes) do not compile, so that no caller is ever handed zeros for a key:
///
/// ```compile_fail
/// let _: [u8; 8161] = cpis_protocol::digest::expand(&[1; 32], &[b"info"]);
/// ```
#[must_use]
pub fn expand<const N: usize>(key: &[u8; 32], info: &[&[u8]]) -> [u8; N] {
    const { assert!(N <= 255 * 32, "HKDF-SHA256 gives at most 8,160 bytes") };
    let mut out = [0; N];
    // A 32-byte key and an output of at most 8,160 bytes cannot fail.
    if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(key) {
        let _ = hkdf.expand_multi_info(info, &mut out);
    }
    out
}
