//! Every size limit of the wire and the disk in one place, each with the attack that it stops.
//! It must not hold policy: what a deployment may change lives in signed objects.

/// Cells in one delta object: 400 x 160 bytes stay below the 64 KiB object ceiling.
pub const DELTA_CELLS_MAX: u32 = 400; // R150
/// Cells in one snapshot chunk. A power of two, so that a chunk is a whole subtree of the state tree (RFC 6962 2.1).
pub const CHUNK_CELLS: u32 = 256;
/// Live cells in one feed: bounds memory while a manifest is read (endless-data attack).
pub const FEED_CELLS_MAX: u32 = 4_000_000;
/// Feeds in one scope; the whole nation has 153 authorities.
pub const FEEDS_MAX: usize = 512;
/// A signed beat, all included.
pub const BEAT_BYTES_MAX: usize = 1024;
/// A signed head, all included: 512 feeds of 72 bytes and the frame.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// A signed root, all included.
pub const ROOT_BYTES_MAX: usize = 64 * 1024;
/// Root versions followed in one update: a liar cannot keep the agent walking (TUF 5.3).
pub const ROOT_STEPS_MAX: u32 = 64;
/// A signed grant, all included.
pub const GRANT_BYTES_MAX: usize = 128 * 1024;
/// Reference data: names and telephone numbers of the authorities.
pub const REFERENCE_BYTES_MAX: usize = 128 * 1024;
/// A snapshot manifest: 32 bytes for each chunk.
pub const MANIFEST_BYTES_MAX: usize = (FEED_CELLS_MAX / CHUNK_CELLS) as usize * 32 + 64;
/// The bounds of a state's chunks: 8 bytes for each.
pub const BOUNDS_BYTES_MAX: usize = (FEED_CELLS_MAX / CHUNK_CELLS) as usize * 8 + 64;
/// A delta or a chunk.
pub const OBJECT_BYTES_MAX: usize = 64 * 1024;
/// Audit links in one batch (design section 5).
pub const AUDIT_LINKS_MAX: usize = 200;
/// An audit batch, all included.
pub const AUDIT_BATCH_BYTES_MAX: usize = 64 * 1024;
/// A signed receipt, all included.
pub const RECEIPT_BYTES_MAX: usize = 1024;
/// Enrolment request and response.
pub const ENROL_BYTES_MAX: usize = 512 * 1024;
/// A device's report of itself, and the reply to it, which may carry a certificate.
pub const REPORT_BYTES_MAX: usize = 8 * 1024;
/// The body of a combined question: an audit batch, a report and the position.
pub const CATCH_UP_ASK_BYTES_MAX: usize = 80 * 1024;
/// A combined reply, all included: bounds what a device holds in memory for it.
pub const CATCH_UP_BYTES_MAX: usize = 768 * 1024;
/// Bytes of cells in a combined reply: the rest comes by its own names, which a cut connection asks for again.
pub const CATCH_UP_CELLS_BYTES: usize = 192 * 1024;
/// Roots in a combined reply; fewer mean that there are no more.
pub const CATCH_UP_ROOTS: usize = 2;
/// An invitation, before its text form.
pub const INVITATION_BYTES_MAX: usize = ROOT_BYTES_MAX + 1024;
/// A bundle file: a national scope is about 45 MiB.
pub const BUNDLE_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// Signatures on one object: bounds the work of verification.
pub const SIGNATURES_MAX: usize = 16;
/// Keys of one role, and audit recipients: the current one, the next, and those before it.
pub const ROLE_KEYS_MAX: usize = 8;
/// Certificates of the device authority in one root: the current one and those before it that may still be met.
pub const AUTHORITY_CERTIFICATES_MAX: usize = 4;
/// A device certificate, DER.
pub const CERTIFICATE_BYTES_MAX: usize = 4096;
/// Characters of a surname or of given names: bounds the work of folding, and a question.
pub const NAME_CHARS_MAX: usize = 64;
