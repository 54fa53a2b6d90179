//! Requests between agent and server, their paths, and what a reply's status means.
//! It must not know a transport: the same requests are answered by a server, a cache, a bundle or a simulator.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::digest::Hash;
use serde::{Deserialize, Serialize};

use crate::id::{Epoch, FeedId, FeedSeq, ScopeId, UnixMs, hex, unhex};
use crate::limits;
use crate::text::Text;

/// Something that the agent asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// To be enrolled; the body is a signed [`crate::enrol::EnrolRequest`].
    Enrol(Vec<u8>),
    /// The device's own grant.
    Grant,
    /// The newest beat of a scope.
    Beat(ScopeId),
    /// A head, named by its hash. Immutable.
    Head(Hash),
    /// Reference data, named by its hash. Immutable.
    Reference(Hash),
    /// A root, by its version. Immutable.
    Root(u32),
    /// The cells after `from` up to `to`, at most [`limits::DELTA_CELLS_MAX`]. Immutable.
    Delta {
        /// The feed.
        feed: FeedId,
        /// The identity of its log.
        epoch: Epoch,
        /// Exclusive.
        from: FeedSeq,
        /// Inclusive.
        to: FeedSeq,
    },
    /// The chunk hashes of the live set at a position. Immutable.
    Manifest {
        /// The feed.
        feed: FeedId,
        /// The identity of its log.
        epoch: Epoch,
        /// The position.
        seq: FeedSeq,
    },
    /// The first blind id of each chunk of the live set at a position. Immutable.
    Bounds {
        /// The feed.
        feed: FeedId,
        /// The identity of its log.
        epoch: Epoch,
        /// The position.
        seq: FeedSeq,
    },
    /// One chunk of the live set at a position. Immutable.
    Chunk {
        /// The feed.
        feed: FeedId,
        /// The identity of its log.
        epoch: Epoch,
        /// The position.
        seq: FeedSeq,
        /// Which chunk.
        index: u32,
    },
    /// An audit batch; the reply is a signed receipt.
    Audit(Vec<u8>),
    /// The device's [`DeviceReport`]; the reply is a [`DeviceReply`].
    Report(Vec<u8>),
    /// Everything at once: a [`crate::catch_up::CatchUp`]; the reply is a [`crate::catch_up::CaughtUp`].
    CatchUp(Vec<u8>),
    /// Whether the newest head of the device's scope is another than this one. The server holds the answer back until it
    /// is, or for a time; the reply is [`NEWS`], or empty.
    News(Hash),
}

/// What answers [`Request::News`] when there is news. It proves nothing: the sync that follows asks for what is signed.
pub const NEWS: [u8; 1] = [1]; // R286

impl Request {
    /// The HTTP path. Holds no identity of any person.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Self::Enrol(_) => "/v1/enrol".into(),
            Self::Grant => "/v1/grant".into(),
            Self::Beat(scope) => format!("/v1/scope/{scope}/beat"),
            Self::Head(hash) => format!("/v1/head/{}", hex(hash)),
            Self::Reference(hash) => format!("/v1/reference/{}", hex(hash)),
            Self::Root(version) => format!("/v1/root/{version}"),
            Self::Delta { feed, epoch, from, to } => format!("/v1/feed/{feed}/{epoch:016x}/delta/{from}..{to}"),
            Self::Manifest { feed, epoch, seq } => format!("/v1/feed/{feed}/{epoch:016x}/snapshot/{seq}"),
            Self::Bounds { feed, epoch, seq } => format!("/v1/feed/{feed}/{epoch:016x}/snapshot/{seq}/bounds"),
            Self::Chunk { feed, epoch, seq, index } => format!("/v1/feed/{feed}/{epoch:016x}/snapshot/{seq}/{index}"),
            Self::Audit(_) => "/v1/audit".into(),
            Self::Report(_) => "/v1/device".into(),
            Self::CatchUp(_) => "/v1/sync".into(),
            Self::News(head) => format!("/v1/news/{}", hex(head)), // R285
        }
    }

    /// The body, for the requests that have one; the others are GET.
    #[must_use]
    pub fn body(&self) -> Option<&[u8]> {
        match self {
            Self::Enrol(body) | Self::Audit(body) | Self::Report(body) | Self::CatchUp(body) => Some(body),
            Self::Grant
            | Self::Beat(_)
            | Self::Head(_)
            | Self::Reference(_)
            | Self::Root(_)
            | Self::Delta { .. }
            | Self::Manifest { .. }
            | Self::Bounds { .. }
            | Self::Chunk { .. }
            | Self::News(_) => None,
        }
    }

    /// Reads the path of a GET request.
    #[must_use]
    pub fn from_path(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix("/v1/")?.split('/');
        let request = match parts.next()? {
            "grant" => Self::Grant,
            "scope" => {
                let scope = parts.next()?.parse().ok()?;
                (parts.next()? == "beat").then_some(Self::Beat(scope))?
            }
            "head" => Self::Head(unhex(parts.next()?).ok()?),
            "news" => Self::News(unhex(parts.next()?).ok()?),
            "reference" => Self::Reference(unhex(parts.next()?).ok()?),
            "root" => Self::Root(number(parts.next()?)?),
            "feed" => {
                let feed = parts.next()?.parse().ok()?;
                let epoch = Epoch::from_be_bytes(unhex(parts.next()?).ok()?);
                match parts.next()? {
                    "delta" => {
                        let (from, to) = parts.next()?.split_once("..")?;
                        Self::Delta { feed, epoch, from: number(from)?, to: number(to)? }
                    }
                    "snapshot" => {
                        let seq = number(parts.next()?)?;
                        match parts.next() {
                            None => Self::Manifest { feed, epoch, seq },
                            Some("bounds") => Self::Bounds { feed, epoch, seq },
                            Some(index) => Self::Chunk { feed, epoch, seq, index: number(index)? },
                        }
                    }
                    _ => return None,
                }
            }
            _ => return None,
        };
        // R130: Nothing but the form that `path` writes: upper-case hexadecimal would give one object two names.
        (parts.next().is_none() && request.path() == path).then_some(request)
    }

    /// The most bytes that an honest reply has; a longer one is cut off unread (endless-data attack).
    #[must_use]
    pub const fn reply_bytes_max(&self) -> usize {
        // R131
        match self {
            Self::Enrol(_) => limits::ENROL_BYTES_MAX,
            Self::Grant => limits::GRANT_BYTES_MAX,
            Self::Beat(_) => limits::BEAT_BYTES_MAX,
            Self::Head(_) => limits::HEAD_BYTES_MAX,
            Self::Reference(_) => limits::REFERENCE_BYTES_MAX,
            Self::Root(_) => limits::ROOT_BYTES_MAX,
            Self::Delta { .. } | Self::Chunk { .. } => limits::OBJECT_BYTES_MAX,
            Self::Manifest { .. } => limits::MANIFEST_BYTES_MAX,
            Self::Bounds { .. } => limits::BOUNDS_BYTES_MAX,
            Self::Audit(_) => limits::RECEIPT_BYTES_MAX,
            Self::Report(_) => limits::REPORT_BYTES_MAX,
            Self::CatchUp(_) => limits::CATCH_UP_BYTES_MAX,
            Self::News(_) => NEWS.len(),
        }
    }

    /// Whether any cache may keep the reply for ever.
    #[must_use]
    pub const fn is_immutable(&self) -> bool {
        // R133
        match self {
            Self::Head(_)
            | Self::Reference(_)
            | Self::Root(_)
            | Self::Delta { .. }
            | Self::Manifest { .. }
            | Self::Bounds { .. }
            | Self::Chunk { .. } => true,
            Self::Enrol(_)
            | Self::Grant
            | Self::Beat(_)
            | Self::Audit(_)
            | Self::Report(_)
            | Self::CatchUp(_)
            | Self::News(_) => false,
        }
    }
}

/// What a device says of itself before it asks for its grant. Holds no identity of any person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    // R184
    /// The program's version.
    pub version: Text<24>,
    /// What keeps the device secret, e.g. `file`, `tpm`.
    pub secret: Text<24>,
    /// The version of the trusted root.
    pub root_version: u32,
    /// The end of the TLS certificate in use.
    pub certificate_until_ms: UnixMs,
    /// How often the glass was broken since enrolment.
    pub break_glass: u32,
    /// Look-ups that could not be recorded when they were answered, since enrolment.
    pub unrecorded: u32,
}

/// The reply to a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReply {
    /// A new certificate for the same key (DER); empty when the present one is good for long enough.
    pub certificate: Vec<u8>, // R185
}

/// Decimal digits without sign or leading zero, so that one object has one path.
fn number(text: &str) -> Option<u32> {
    let canonical = text == "0" || (!text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()));
    if canonical { text.parse().ok() } else { None }
}

/// Why a request brought no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection, or it broke.
    Offline,
    /// Something answered that is not the server: a captive portal or a proxy that opens TLS.
    NotTheServer,
    /// The server asks to come back later, in seconds if it says so.
    Retry(Option<u32>),
    /// The object is not there (yet): never a deletion.
    NotFound,
    /// The request is too large for the server.
    TooLarge,
    /// The reply is longer than an honest one can be.
    EndlessReply,
    /// The device is not known, or may not ask this.
    Unauthorised,
    /// Something says that the device was revoked: only a signed [`crate::withdrawal::Withdrawal`] proves it.
    Revoked,
    /// Something says that the device is suspended: only a signed withdrawal proves it.
    Suspended,
    /// The server refuses the request itself.
    Refused,
}

/// The header that carries a combined question in hexadecimal when it is short and there is no body: one packet instead of
/// two, and while nothing changes HTTP/2 sends it as one byte.
pub const ASK_HEADER: &str = "cpis-ask";
/// The longest combined question that goes into [`ASK_HEADER`], in bytes before hexadecimal: one without batch or report.
pub const ASK_HEADER_BYTES_MAX: usize = 96; // R238

/// The header that names the reason of a refusal, so that a proxy's own 403 is not taken for a revocation.
pub const REASON_HEADER: &str = "cpis-reason";
/// The value of [`REASON_HEADER`] for a revoked device.
pub const REASON_REVOKED: &str = "revoked";
/// The value of [`REASON_HEADER`] for a suspended device.
pub const REASON_SUSPENDED: &str = "suspended";

/// What an HTTP status other than 200 means. A pure table.
#[must_use]
pub fn classify(status: u16, reason: Option<&str>, retry_after_s: Option<u32>) -> Failure {
    match status {
        403 if reason == Some(REASON_REVOKED) => Failure::Revoked, // R132
        403 if reason == Some(REASON_SUSPENDED) => Failure::Suspended,
        401 | 403 => Failure::Unauthorised,
        404 | 410 => Failure::NotFound,
        413 => Failure::TooLarge,
        408 | 425 | 429 | 500..=599 => Failure::Retry(retry_after_s),
        300..=399 => Failure::NotTheServer,
        _ => Failure::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_round_trip_and_have_one_form() {
        let feed: FeedId = "E09000033".parse().unwrap_or(FeedId::EMPTY);
        let requests = [
            Request::Grant,
            Request::Beat("london".parse().unwrap_or(ScopeId::EMPTY)),
            Request::Head([1; 32]),
            Request::Reference([2; 32]),
            Request::Root(7),
            Request::Delta { feed, epoch: 0xfe, from: 0, to: 12 },
            Request::Manifest { feed, epoch: 1, seq: 3 },
            Request::Bounds { feed, epoch: 1, seq: 3 },
            Request::Chunk { feed, epoch: 1, seq: 3, index: 0 },
            Request::News([3; 32]),
        ];
        for request in requests {
            assert_eq!(Request::from_path(&request.path()), Some(request.clone()));
            assert_eq!(Request::from_path(&(request.path() + "/x")), None, "{request:?}");
        }
        for wrong in ["/v1/root/07", "/v1/root/+7", "/v1/root/", "/v2/grant", "/v1/feed/E1/1/delta/1..2", "/v1/"] {
            assert_eq!(Request::from_path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn statuses() {
        assert_eq!(classify(403, Some("revoked"), None), Failure::Revoked);
        assert_eq!(classify(403, Some("suspended"), None), Failure::Suspended);
        assert_eq!(classify(403, None, None), Failure::Unauthorised);
        assert_eq!(classify(503, None, Some(9)), Failure::Retry(Some(9)));
        assert_eq!(classify(404, None, None), Failure::NotFound);
        assert_eq!(classify(413, None, None), Failure::TooLarge);
        assert_eq!(classify(302, None, None), Failure::NotTheServer);
        assert_eq!(classify(400, None, None), Failure::Refused);
    }
}
