//! System tests of CP-IS Edge: a harness over the real programs, a file system that forgets unsynced writes, and the
//! demonstration. It must not reach into the products for anything that a user could not do.

pub mod bench;
pub mod between;
pub mod cutting;
pub mod loopback;
pub mod lossyfs;
pub mod memory;
pub mod needles;
pub mod nginx;
pub mod process;
pub mod publisher;
pub mod relay;
pub mod scene;
#[cfg(debug_assertions)]
pub mod simulation;
pub mod site;
pub mod swtpm;
