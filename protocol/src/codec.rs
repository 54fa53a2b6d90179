//! The only file that knows bincode: bytes of frozen structs, with a size limit and no trailing bytes.
//! It must not decode anything whose signature has still to be checked, except the frame that carries the signature.
//!
//! `config::legacy()` writes the bytes of bincode 1.3 (little endian, fixed width, `u64` lengths), which the maintained
//! `wincode` writes too, so this crate can be left without a change on the wire.

use alloc::vec::Vec;
use bincode::config::{self, Config};
use bincode::error::DecodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Refusal;

/// The largest claim that a decoder believes; every object has its own, lower ceiling, checked first.
const DECODE_LIMIT: usize = 4 * 1024 * 1024; // R3

fn configuration() -> impl Config {
    config::legacy().with_limit::<DECODE_LIMIT>() // R141
}

/// The frozen bytes of `value`.
///
/// # Errors
/// [`Refusal::Malformed`] when the value holds something that the format cannot (it never does for our own types).
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, Refusal> {
    bincode::serde::encode_to_vec(value, config::legacy()).map_err(|_| Refusal::Malformed) // R1
}

/// Reads exactly one value from `bytes`, which may be at most `limit` bytes long.
///
/// # Errors
/// [`Refusal::TooLarge`], [`Refusal::Truncated`], [`Refusal::TrailingBytes`] or [`Refusal::Malformed`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, Refusal> {
    if bytes.len() > limit {
        // R2
        return Err(Refusal::TooLarge);
    }
    let (value, used) = bincode::serde::decode_from_slice(bytes, configuration()).map_err(|error| {
        if matches!(error, DecodeError::UnexpectedEnd { .. }) {
            Refusal::Truncated
        } else if matches!(error, DecodeError::LimitExceeded) {
            Refusal::TooLarge
        } else {
            Refusal::Malformed
        }
    })?;
    if used == bytes.len() { Ok(value) } else { Err(Refusal::TrailingBytes) } // R3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_bytes_and_refusals() {
        let bytes = encode(&(7u16, alloc::vec![1u8, 2])).unwrap_or_default();
        assert_eq!(bytes, [7, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(decode::<(u16, Vec<u8>)>(&bytes, 64), Ok((7, alloc::vec![1, 2])));
        assert_eq!(decode::<(u16, Vec<u8>)>(&bytes, 11), Err(Refusal::TooLarge));
        assert_eq!(decode::<(u16, Vec<u8>)>(&bytes[..11], 64), Err(Refusal::Truncated));
        let mut long = bytes.clone();
        long.push(0);
        assert_eq!(decode::<(u16, Vec<u8>)>(&long, 64), Err(Refusal::TrailingBytes));
        let hostile = [7, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(decode::<(u16, Vec<u8>)>(&hostile, 64).is_err());
        assert_eq!(decode::<bool>(&[2], 64), Err(Refusal::Malformed));
    }
}
