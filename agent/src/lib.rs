//! The CP-IS Edge agent: a library first (the daemon and the command line are thin shells over it).
//! It must not answer from anything unverified, nor reveal before the event is on stable storage.
//!
//! Ports ([`port`]) know only the protocol; adapters ([`store`], [`transport`], [`clock`], [`local_keys`]) implement
//! them; use cases ([`lookup`], [`driver`] and its `exchange`, [`bundle`], [`enrol`]) see ports; [`agent`] puts them together; [`api`],
//! [`cli`] and [`command`] are the faces.

pub mod agent;
pub mod api;
mod builder;
pub mod bundle;
pub mod certificate;
pub mod cli;
pub mod client;
pub mod clock;
pub mod command;
pub mod config;
pub mod daemon;
pub mod device_secret;
pub mod doctor;
pub mod driver;
pub mod durable;
pub mod enrol;
pub mod environment;
mod exchange;
pub mod export;
pub mod holdings;
mod hurry;
pub mod journal;
pub mod keyslot;
pub mod local_keys;
pub mod lookup;
pub mod memory;
mod news;
pub mod output;
pub mod phone;
pub mod port;
pub mod random;
pub mod replica;
pub mod scrub;
pub mod show;
pub mod station;
pub mod status;
pub mod store;
pub mod transport;
pub mod trouble;
pub mod vault;
pub mod watch;
