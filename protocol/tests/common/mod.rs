//! What the integration tests share: a deterministic generator and a small deployment from fixed seeds.
//! It must not be used outside tests: every secret here is public.
#![allow(dead_code, reason = "each test binary compiles this module and uses a part of it")]

pub(crate) mod feed;
pub(crate) mod world;

use core::convert::Infallible;
use cpis_protocol::{Refusal, digest};

/// A deterministic generator that another implementation can repeat: block `n` is
/// `SHA-256("cpis-edge/test/rng" || 0 || seed (8, big endian) || n (8, big endian))`, bytes taken in order.
pub(crate) struct SeedRng {
    seed: u64,
    block: u64,
    pool: Vec<u8>,
}

impl SeedRng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, block: 0, pool: Vec::new() }
    }

    fn byte(&mut self) -> u8 {
        if self.pool.is_empty() {
            let block = digest::hash("cpis-edge/test/rng", &[&self.seed.to_be_bytes(), &self.block.to_be_bytes()]);
            self.pool.extend(block.iter().rev());
            self.block += 1;
        }
        self.pool.pop().unwrap_or_default()
    }

    /// A number below `below`.
    pub(crate) fn below(&mut self, below: u32) -> u32 {
        rand_core::Rng::next_u32(self) % below.max(1)
    }
}

impl rand_core::TryRng for SeedRng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            *byte = self.byte();
        }
        Ok(())
    }
}
impl rand_core::TryCryptoRng for SeedRng {}

/// The value, or a test failure that names the refusal.
#[track_caller]
pub(crate) fn ok<T>(result: Result<T, Refusal>) -> T {
    match result {
        Ok(value) => value,
        Err(refusal) => panic!("refused: {}", refusal.code()),
    }
}

/// The bytes of hexadecimal text.
#[track_caller]
pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).unwrap_or_else(|| panic!("not hexadecimal"));
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    assert!(rest.is_empty(), "half a byte of hexadecimal");
    pairs.iter().map(|[a, b]| (digit(*a) * 16 + digit(*b)) as u8).collect()
}

/// Exactly `N` bytes of hexadecimal text.
#[track_caller]
pub(crate) fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap_or_else(|_| panic!("not {N} bytes"))
}
