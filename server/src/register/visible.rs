//! Until when a plan may be shown.
//! It must not decide whether to show it now: that needs a clock, which the device has.

use cpis_protocol::flag::FlagKind;
use cpis_protocol::nhs::Date;

use super::PlanRow;

/// How long a plan stays visible. The defaults are those of the national viewer (research/domain.md, 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisiblePolicy {
    /// Whole days after the last day of a child's plan.
    pub ended_days: u16,
    /// Whole days after the mother's due date.
    pub unborn_days: u16,
}

impl Default for VisiblePolicy {
    fn default() -> Self {
        Self { ended_days: 365, unborn_days: 28 }
    }
}

impl VisiblePolicy {
    /// The first minute (since 1970, UTC) at which the plan must not be shown; `None` while nothing limits it.
    ///
    /// Days are counted in full: a plan that ended on 1 March is shown for the 365 days that follow, so it goes at
    /// the midnight that closes the last of them. An unborn child's plan goes by the due date, ended or not; where no
    /// due date is known (FHIR has no place for one) it goes by the end of the plan, or stays while it is active.
    #[must_use]
    pub fn visible_until_min(self, plan: &PlanRow) -> Option<u32> {
        let (day, kept) = match plan.kind {
            FlagKind::Ucpp => (plan.due.or(plan.end)?, self.unborn_days),
            FlagKind::Cpp | FlagKind::Lac => (plan.end?, self.ended_days),
        };
        Some(start_min(day.plus_days(i32::from(kept) + 1)))
    }
}

/// [`VisiblePolicy::visible_until_min`] by the default policy.
#[must_use]
pub fn visible_until_min(plan: &PlanRow) -> Option<u32> {
    VisiblePolicy::default().visible_until_min(plan)
}

/// The minute at which a date begins in UTC; dates before 1970 give zero, which is long past.
fn start_min(date: Date) -> u32 {
    u32::try_from(date.unix_ms().max(0) / 60_000).unwrap_or(u32::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpis_protocol::id::AuthorityCode;

    fn date(text: &str) -> Option<Date> {
        Some(text.parse().unwrap())
    }

    fn plan(kind: FlagKind, end: Option<Date>, due: Option<Date>) -> PlanRow {
        PlanRow { kind, authority: AuthorityCode::EMPTY, start: date("2025-01-01"), end, due }
    }

    fn until(text: &str) -> Option<u32> {
        date(text).map(start_min)
    }

    #[test]
    fn whole_days_after_the_end_or_the_due_date() {
        assert_eq!(visible_until_min(&plan(FlagKind::Cpp, None, None)), None);
        assert_eq!(visible_until_min(&plan(FlagKind::Lac, date("2025-03-01"), None)), until("2026-03-02"));
        assert_eq!(visible_until_min(&plan(FlagKind::Ucpp, None, date("2026-03-01"))), until("2026-03-30"));
        let ended = plan(FlagKind::Ucpp, date("2026-01-01"), date("2026-03-01"));
        assert_eq!(visible_until_min(&ended), until("2026-03-30"), "the due date counts, not the end");
        assert_eq!(visible_until_min(&plan(FlagKind::Ucpp, date("2026-01-01"), None)), until("2026-01-30"));
        assert_eq!(visible_until_min(&plan(FlagKind::Ucpp, None, None)), None);
        let short = VisiblePolicy { ended_days: 0, unborn_days: 0 };
        assert_eq!(short.visible_until_min(&plan(FlagKind::Cpp, date("1970-01-01"), None)), Some(1_440));
    }

    #[test]
    fn no_date_overflows() {
        for days in [0, 25_566, u16::MAX] {
            let end = Date::try_from(days).ok();
            assert!(visible_until_min(&plan(FlagKind::Cpp, end, None)).is_some_and(|m| m < u32::MAX));
        }
    }
}
