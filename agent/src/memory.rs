//! What keeps secrets from staying in this process's memory, or leaving it as a core dump.
//! It must not know what a secret is: it wipes stacks, and tells the kernel to make no dump.
//!
//! Three measures work together. The program's allocator wipes what is freed (`main.rs`). Keys are zeroised when they are
//! dropped. What neither reaches, the frames of functions that worked with secrets, is overwritten by [`wiping`].

use std::hint::black_box;
use std::io;

use rustix::process::{
    DumpableBehavior, Resource, Rlimit, dumpable_behavior, getrlimit, set_dumpable_behavior, setrlimit,
};

/// How deep the stack below a caller of [`wiping`] is overwritten. What works with secrets (parsing, ciphers, curves,
/// the memory-hard step, whose blocks are on the heap) stays well above that in an optimised build.
const DEPTH_BYTES: usize = 256 * 1024;

/// No core dump holds this process, and no other process of the same user may read its memory.
///
/// # Errors
/// When the kernel refuses.
pub fn forbid_dumps() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// Whether this process leaves no core dump.
#[must_use]
pub fn dumps_are_forbidden() -> bool {
    let limit = getrlimit(Resource::Core);
    limit.current == Some(0) && dumpable_behavior().is_ok_and(|now| now == DumpableBehavior::NotDumpable)
}

/// Runs `work`, then overwrites the stack that it used. What it returns is the caller's: no secret, or a boxed one.
pub fn wiping<R>(work: impl FnOnce() -> R) -> R {
    let result = below(work);
    overwrite();
    result
}

/// A frame of its own, so that nothing of `work` becomes part of a frame that stays.
#[inline(never)]
fn below<R>(work: impl FnOnce() -> R) -> R {
    work()
}

#[inline(never)]
fn overwrite() {
    let mut stack = [0u8; DEPTH_BYTES];
    // The bytes are used as far as the compiler can know, so it writes them.
    black_box(&mut stack);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_and_its_result_kept() {
        assert_eq!(wiping(|| [7u8; 4096].iter().map(|byte| u32::from(*byte)).sum::<u32>()), 7 * 4096);
    }
}
