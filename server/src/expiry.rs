//! When root and roles end, and what of it is near.
//! It must not decide anything: whoever reads it drafts the next root.

use cpis_protocol::id::UnixMs;
use cpis_protocol::trust::Root;
use serde::Serialize;

use crate::clock::iso;
use crate::keys::ROLES;

const DAY_MS: i64 = 86_400_000;
/// From so many days before the end on people are warned.
pub const WARN_DAYS: i64 = 30;

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct End {
    /// `root`, or the role.
    pub what: &'static str,
    /// When.
    pub at: String,
    /// Whole days until then; negative when it is over.
    pub days: i64,
}

/// Every end, the root's first.
#[must_use]
pub fn ends(root: &Root, now_ms: UnixMs) -> Vec<End> {
    let end = |what, at_ms: UnixMs| End { what, at: iso(at_ms), days: at_ms.saturating_sub(now_ms).div_euclid(DAY_MS) };
    let mut ends = vec![end("root", root.expires_ms)];
    ends.extend(ROLES.map(|(role, what)| end(what, root.role_until_ms(role))));
    ends
}

/// Those that are near or over.
#[must_use]
pub fn soon(root: &Root, now_ms: UnixMs) -> Vec<End> {
    ends(root, now_ms).into_iter().filter(|end| end.days < WARN_DAYS).collect()
}
