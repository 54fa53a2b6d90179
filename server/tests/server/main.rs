//! Integration tests of the server, in one binary so that it is linked once.
//! They must not reach into private parts: what they need, the library offers.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod catch_up;
mod enrolment;
mod evidence;
mod inbox;
mod mirror;
mod news;
mod pruning;
mod publishing;
mod rekeying;
mod renewal;
mod restart;
mod rig;
mod roots;
mod transport;
