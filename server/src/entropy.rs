//! Randomness from the operating system: the only place of the server that asks for it.
//! It must not fall back to anything weaker: without the system's generator the process ends.

use std::convert::Infallible;

use getrandom::SysRng;
use rand_core::{CryptoRng, Rng as _, TryCryptoRng, TryRng, UnwrapErr};

#[derive(Clone, Copy)]
struct System;

impl TryRng for System {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::from_le_bytes(bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from_le_bytes(bytes()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        #[cfg(debug_assertions)]
        if seeded::fill(bytes) {
            return Ok(());
        }
        UnwrapErr(SysRng).fill_bytes(bytes);
        Ok(())
    }
}

// With `Error = Infallible` this makes it a `rand_core::CryptoRng`.
impl TryCryptoRng for System {}

/// The system's generator.
#[must_use]
pub fn system() -> impl CryptoRng + Copy {
    System
}

/// Random bytes.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    system().fill_bytes(&mut out);
    out
}

/// Bytes from a simulation in place of the system's, on one thread: what must repeat must not draw.
/// Only in builds with debug assertions, so in no release: there nothing can make a key predictable.
#[cfg(debug_assertions)]
pub mod seeded {
    use std::cell::RefCell;

    /// Fills a buffer.
    pub type Source = Box<dyn FnMut(&mut [u8])>;

    thread_local! {
        static SOURCE: RefCell<Option<Source>> = const { RefCell::new(None) };
    }

    /// From now on this thread's bytes come from here; `None`: from the system again.
    pub fn set(source: Option<Source>) {
        SOURCE.set(source);
    }

    pub(super) fn fill(bytes: &mut [u8]) -> bool {
        SOURCE.with_borrow_mut(|source| source.as_mut().map(|source| source(bytes)).is_some())
    }
}
