//! Identities of devices, feeds, scopes, sites and people, as fixed-width values.
//! It must not make any: random identities come from the edges.

use alloc::string::String;
use core::fmt;
use serde::{Deserialize, Serialize};

use crate::Refusal;
use crate::digest;
use crate::text::Text;

/// A named log of changes, e.g. one for each authority (its GSS code).
pub type FeedId = Text<16>;
/// The named list of feeds that a kind of site needs.
pub type ScopeId = Text<16>;
/// Where devices are used; carries the notification policy.
pub type SiteId = Text<16>;
/// A practitioner's identity, as the deployment's badge names it.
pub type PractitionerId = Text<16>;
/// A local authority's code (GSS).
pub type AuthorityCode = Text<16>;

/// A random identity of a feed's log; a new one after a re-key or a restored server.
pub type Epoch = u64;
/// The register sequence: every accepted change gets the next.
pub type RegisterSeq = u64;
/// The position in a feed's log, within one epoch; the first cell is 1.
pub type FeedSeq = u32;
/// Milliseconds since 1970-01-01T00:00:00Z.
pub type UnixMs = i64;

/// A device: the first 16 bytes of the SHA-256 of its public key, so that it cannot be chosen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceId(pub [u8; 16]);

impl DeviceId {
    /// The identity that belongs to an Ed25519 public key.
    #[must_use]
    pub fn of(public_key: &[u8; 32]) -> Self {
        let hash = digest::hash("cpis-edge/1/device", &[public_key]); // R6
        let mut id = [0; 16];
        for (to, from) in id.iter_mut().zip(hash) {
            *to = from;
        }
        Self(id)
    }
}

/// A hash chain of audit links; random, new at enrolment and after a fork.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChainId(pub [u8; 16]);

/// The blind identity of one record in one feed and epoch: random, says nothing about the child.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlindId(pub [u8; 8]);

/// Writes bytes as lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Reads exactly `N` bytes of hexadecimal.
///
/// # Errors
/// [`Refusal::Malformed`].
pub fn unhex<const N: usize>(text: &str) -> Result<[u8; N], Refusal> {
    let text = text.as_bytes();
    let mut out = [0; N];
    if text.len() != N * 2 {
        return Err(Refusal::Malformed);
    }
    for (to, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let pair = core::str::from_utf8(pair).map_err(|_| Refusal::Malformed)?;
        if pair.starts_with('+') {
            return Err(Refusal::Malformed);
        }
        *to = u8::from_str_radix(pair, 16).map_err(|_| Refusal::Malformed)?;
    }
    Ok(out)
}

macro_rules! hex_text {
    ($name:ident, $length:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&hex(&self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }
        impl core::str::FromStr for $name {
            type Err = Refusal;
            fn from_str(text: &str) -> Result<Self, Refusal> {
                unhex::<$length>(text).map(Self)
            }
        }
    };
}
hex_text!(DeviceId, 16);
hex_text!(ChainId, 16);
hex_text!(BlindId, 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_refusals() {
        assert_eq!(unhex::<2>(&hex(&[1, 0xfe])), Ok([1, 0xfe]));
        assert_eq!(unhex::<2>("+1ff"), Err(Refusal::Malformed));
        assert_eq!(unhex::<2>("01"), Err(Refusal::Malformed));
        assert_eq!("00".repeat(16).parse::<DeviceId>(), Ok(DeviceId([0; 16])));
    }
}
