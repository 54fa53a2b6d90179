//! Randomness from the operating system: the only place of the server that asks for it.
//! It must not fall back to anything weaker: without the system's generator the process ends.

use getrandom::SysRng;
use rand_core::{CryptoRng, UnwrapErr};

/// The system's generator.
#[must_use]
pub fn system() -> impl CryptoRng + Copy {
    UnwrapErr(SysRng)
}

/// Random bytes.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    use rand_core::Rng as _;
    let mut out = [0; N];
    system().fill_bytes(&mut out);
    out
}
