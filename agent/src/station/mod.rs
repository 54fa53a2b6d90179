//! The station: a device that hands what it holds to others on the site's network, and devices that take it from there.
//!
//! What comes from a station is believed no more than a bundle: every object is verified as if the server had sent it, and
//! its time is stored, never live. What does not verify costs bytes, and the server is asked.
//! It must not keep a device from asking the server on schedule, nor hand on anything of one device alone.

mod beside;
mod follow;
mod serve;
pub(crate) mod tls;

pub use beside::Beside;
pub use follow::{follow, pull_from};
pub use serve::{Source, serve, serve_from};

/// The header of every reply of a station: what it carries is stored, and tells no live time.
pub(crate) const CARRIER_HEADER: &str = "cpis-carrier";
/// Its only value.
pub(crate) const STORED: &str = "stored";
