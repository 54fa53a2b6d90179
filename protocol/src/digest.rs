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
#[must_use]
pub fn expand<const N: usize>(key: &[u8; 32], info: &[&[u8]]) -> [u8; N] {
    let mut out = [0; N];
    // A 32-byte key and an output of at most 8,160 bytes cannot fail; N is a small constant everywhere.
    if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(key) {
        let _ = hkdf.expand_multi_info(info, &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231 test case 2: the extract step is HMAC-SHA256.
    #[test]
    fn extract_is_hmac() {
        let mac = prf(b"Jefe", b"what do ya want for nothing?");
        assert_eq!(mac[..8], [0x5b, 0xdc, 0xc1, 0x46, 0xbf, 0x60, 0x75, 0x4e]);
    }

    /// RFC 5869 test case 1: expand.
    #[test]
    fn expand_is_rfc5869() {
        let prk: [u8; 32] = [
            0x07, 0x77, 0x09, 0x36, 0x2c, 0x2e, 0x32, 0xdf, 0x0d, 0xdc, 0x3f, 0x0d, 0xc4, 0x7b, 0xba, 0x63, 0x90, 0xb6,
            0xc7, 0x3b, 0xb5, 0x0f, 0x9c, 0x31, 0x22, 0xec, 0x84, 0x4a, 0xd7, 0xc2, 0xb3, 0xe5,
        ];
        let info: [u8; 10] = [0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9];
        let out: [u8; 42] = expand(&prk, &[&info]);
        assert_eq!(out[..8], [0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a]);
        assert_eq!(out[34..], [0x00, 0x72, 0x08, 0xd5, 0xb8, 0x87, 0x18, 0x58, 0x65][1..]);
    }
}
