//! When root and roles end, and what of it is near.
//! It must not decide anything: whoever reads it drafts the next root.

use std::collections::BTreeMap;

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

/// Which ends a running server has warned of, and when: once a day of each is read, once a minute is not.
#[derive(Debug, Default)]
pub struct Reminder {
    warned: BTreeMap<&'static str, (u32, UnixMs)>,
}

impl Reminder {
    /// Those ends that are near or over and were not warned of within a day; of another root than before, all of them.
    pub fn due(&mut self, root: &Root, now_ms: UnixMs) -> Vec<End> {
        let mut due = soon(root, now_ms);
        // A clock that was ahead and was put right must not keep it silent.
        due.retain(|end| {
            let rests = |(version, at_ms): &(u32, UnixMs)| {
                *version == root.version && (0..DAY_MS).contains(&now_ms.saturating_sub(*at_ms))
            };
            !self.warned.get(end.what).is_some_and(rests)
        });
        self.warned.extend(due.iter().map(|end| (end.what, (root.version, now_ms))));
        due
    }
}

#[cfg(test)]
mod tests {
    use cpis_protocol::text::Text;
    use cpis_protocol::trust::{Role, RoleKeys};

    use super::*;

    fn root(version: u32) -> Root {
        let keys = |role, days| RoleKeys { role, keys: Vec::new(), expires_ms: days * DAY_MS };
        Root {
            version,
            deployment: Text::lossy("test"),
            synthetic: true,
            issued_ms: 1,
            expires_ms: 100 * DAY_MS,
            threshold: 1,
            root_keys: Vec::new(),
            roles: vec![keys(Role::Publisher, 40), keys(Role::Beat, 41)],
            audit_recipients: Vec::new(),
            authority_certificates: Vec::new(),
        }
    }

    #[test]
    fn warned_of_once_a_day_and_each_by_itself() {
        let mut reminder = Reminder::default();
        let mut due =
            |version, at_ms| -> Vec<&str> { reminder.due(&root(version), at_ms).iter().map(|end| end.what).collect() };
        let start = 10 * DAY_MS;
        assert_eq!(due(1, start), Vec::<&str>::new(), "thirty days are left");
        assert_eq!(due(1, start + 1), ["publisher"]);
        for tick in 1..1440 {
            assert_eq!(due(1, start + tick * 60_000), Vec::<&str>::new(), "minute {tick}");
        }
        assert_eq!(due(1, start + DAY_MS + 1), ["publisher", "beat"], "the next day, and one that has come near");
        assert_eq!(due(1, start + 2 * DAY_MS), Vec::<&str>::new());
        assert_eq!(due(2, start + 2 * DAY_MS), ["publisher", "beat"], "the next root is as near to its end");
        assert_eq!(due(2, start + DAY_MS + 2), ["publisher", "beat"], "the clock was put back");
        let over: Vec<End> = reminder.due(&root(2), 50 * DAY_MS);
        assert!(over.iter().all(|end| end.days < 0) && over.len() == 2, "what is over goes on being told: {over:?}");
    }
}
