//! Randomness of the operating system: the only home of `getrandom`.
//! It must not return predictable bytes, whatever happens: it either fills the buffer or the process ends.

use std::convert::Infallible;

use rand_core::{TryCryptoRng, TryRng};

/// The operating system would not give random bytes.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the operating system gives no random bytes ({0}); allow the getrandom system call to this service")]
pub struct RandomError(getrandom::Error);

/// The operating system's generator, in the shape that the protocol wants: one that cannot fail.
///
/// On Linux `getrandom` fails only where the call itself is forbidden. Start-up finds that with [`OsRandom::probe`]
/// and refuses in words. A failure after that ends the process: a panic could be caught by a layer above, and the next
/// nonce or key be made from a buffer that nobody filled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OsRandom;

impl OsRandom {
    /// Proves that random bytes can be had; to be called once at start-up and by `doctor`.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn probe() -> Result<(), RandomError> {
        Self::bytes::<16>().map(|_| ())
    }

    /// `N` random bytes, where the caller can say what a failure means.
    ///
    /// # Errors
    /// [`RandomError`].
    pub fn bytes<const N: usize>() -> Result<[u8; N], RandomError> {
        let mut bytes = [0; N];
        fill(&mut bytes).map_err(RandomError)?;
        Ok(bytes)
    }
}

fn fill(bytes: &mut [u8]) -> Result<(), getrandom::Error> {
    #[cfg(debug_assertions)]
    if seeded::fill(bytes) {
        return Ok(());
    }
    getrandom::fill(bytes)
}

fn or_end<T>(result: Result<T, getrandom::Error>) -> T {
    result.unwrap_or_else(|error| {
        tracing::error!(%error, "no random bytes from the operating system: ending, so that no key is made without");
        std::process::abort()
    })
}

impl OsRandom {
    fn try_fill_into<const N: usize>(&mut self, mut bytes: [u8; N]) -> Result<[u8; N], Infallible> {
        self.try_fill_bytes(&mut bytes)?;
        Ok(bytes)
    }
}

impl TryRng for OsRandom {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_fill_into([0; 4]).map(u32::from_le_bytes)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.try_fill_into([0; 8]).map(u64::from_le_bytes)
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        or_end(fill(bytes));
        Ok(())
    }
}

// With `Error = Infallible` this makes it a `rand_core::CryptoRng`.
impl TryCryptoRng for OsRandom {}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_and_does_not_repeat() {
        fn is_crypto(_: &impl rand_core::CryptoRng) {}
        is_crypto(&OsRandom);
        OsRandom::probe().unwrap();
        assert_ne!(OsRandom::bytes::<32>().unwrap(), OsRandom::bytes::<32>().unwrap());
    }
}
