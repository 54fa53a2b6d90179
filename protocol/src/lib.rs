//! The pure core of CP-IS Edge: what the agent and the server must agree on, and nothing else.
//! It must not do I/O, read a clock or make randomness: time, bytes and a generator are arguments.
//!
//! Layers, lowest first; a file imports only from a lower layer:
//!
//! | layer | modules |
//! |--:|---|
//! | 0 | [`limits`], [`refusal`], [`text`], [`nhs`], [`postcode`] |
//! | 1 | [`codec`], [`digest`], [`id`], [`name`] |
//! | 2 | [`sign`], [`seal`], [`flag`], [`clock`] |
//! | 3 | [`trust`], [`tree`], [`query`], [`policy`] |
//! | 4 | [`question`], [`cell`], [`head`], [`grant`], [`audit`], [`enrol`], [`withdrawal`] |
//! | 5 | [`answer`], [`message`], [`replica`], [`compare`], [`bundle`], [`catch_up`] |
//! | 6 | [`sync`] |

#![cfg_attr(not(test), no_std)]
#![deny(missing_docs)]

extern crate alloc;

pub mod answer;
pub mod audit;
pub mod bundle;
pub mod catch_up;
pub mod cell;
pub mod clock;
pub mod codec;
pub mod compare;
pub mod digest;
pub mod enrol;
pub mod flag;
pub mod grant;
pub mod head;
pub mod id;
pub mod limits;
pub mod message;
pub mod name;
pub mod nhs;
pub mod policy;
pub mod postcode;
pub mod query;
pub mod question;
pub mod quota;
pub mod refusal;
pub mod replica;
pub mod seal;
pub mod sign;
pub mod sync;
pub mod text;
pub mod tree;
pub mod trust;
pub mod withdrawal;

pub use refusal::Refusal;

/// The version of every frozen object in this release; the first byte after the kind on the wire.
pub const FORMAT: u8 = 1;
