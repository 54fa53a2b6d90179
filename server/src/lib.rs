//! The CP-IS Edge server: the register, the publisher of sealed feeds, enrolment and the audit inbox.
//! It must not send anything readable about a child to a device: only sealed cells and signed statements leave it.

pub mod audit_report;
pub mod ceremony;
pub mod certificate;
pub mod clock;
pub mod config;
pub mod digest;
pub mod dumps;
pub mod entropy;
pub mod erasure_report;
pub mod expiry;
pub mod export;
pub mod home;
pub mod http;
pub mod ingest;
pub mod keys;
pub mod mirror;
pub mod port;
pub mod price;
pub mod prune;
pub mod publish;
pub mod record;
pub mod register;
pub mod rekey;
pub mod removal;
pub mod resign;
pub mod review;
pub mod serve;
pub mod service;
pub mod slots;
pub mod store;
pub mod tls;
pub mod token;
