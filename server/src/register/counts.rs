//! The published counts that the synthetic register follows, and what is made of the values that are not published.
//! It must not make a count up without saying so here.

use super::RegisterError;

/// See `data/SOURCES.md`.
const FILE: &str = include_str!("../../data/la_children_2025.csv");
const NAME: &str = "la_children_2025.csv";

/// A suppressed value (`c`) hides a count of 1 to 5: the middle is taken. With it the nation has 49,417 plans and
/// 81,769 looked-after children, which round to the published 49,420 and 81,770. `z` (not applicable) is none.
const SUPPRESSED: u32 = 3;

/// Protection plans that started and that ended in England in the year to 31 March 2025 (DfE). The end of plans is not
/// published for each authority in this file, so an authority's is its started plans in the nation's proportion.
const NATION_STARTED: u32 = 61_840;
const NATION_ENDED: u32 = 62_300;

/// Of a thousand protection plans, those for the unborn. The counts include them without a split, so this is an
/// assumption: such a plan lasts from about the 20th week of pregnancy to birth, 0.4 of a year, beside 18 years of
/// childhood: 0.4 / 18 = 22 in a thousand.
const UNBORN_PER_MILLE: u32 = 22;
/// Assumptions without a published figure, so that every case is met: of a thousand plans at 31 March, those of
/// children who are also looked after, who had a plan of the same authority in the year before, and who came from
/// another authority; and of a thousand looked-after children, those whose protection plan ended when care began.
const BOTH_PER_MILLE: u32 = 30;
const AGAIN_PER_MILLE: u32 = 50;
const MOVED_PER_MILLE: u32 = 30;
const STEPPED_UP_PER_MILLE: u32 = 40;

/// What kind of person a record is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stratum {
    /// On a protection plan.
    Plan,
    /// Looked after.
    Care,
    /// Both.
    Both,
    /// A mother whose unborn child is on a plan.
    Unborn,
    /// On a plan, and an earlier one of the same authority ended in the last year.
    Again,
    /// On a plan, and an earlier one of another authority ended in the last year.
    Moved,
    /// Looked after; the protection plan ended as care began.
    SteppedUp,
    /// The protection plan ended in the last year.
    PlanEnded,
    /// Care ended in the last year.
    CareEnded,
}

/// One authority's counts.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    pub(super) code: String,
    /// Protection plans at 31 March, the unborn among them.
    pub(super) plans: u32,
    /// Of these, how many for up to 3, 6, 12, 24 months, and longer. Weights only.
    pub(super) durations: [u32; 5],
    pub(super) plans_ended: u32,
    pub(super) looked_after: u32,
    pub(super) care_ended: u32,
}

impl Counts {
    /// How many people of each kind; their plans add up to the counts.
    pub(super) fn strata(&self) -> [(Stratum, u32); 9] {
        let share = |of: u32, per_mille: u32| (of * per_mille + 500) / 1_000;
        let unborn = share(self.plans, UNBORN_PER_MILLE);
        let both = share(self.plans, BOTH_PER_MILLE).min(self.looked_after);
        let again = share(self.plans, AGAIN_PER_MILLE).min(self.plans_ended);
        let moved = share(self.plans, MOVED_PER_MILLE).min(self.plans_ended - again);
        let stepped_up = share(self.looked_after - both, STEPPED_UP_PER_MILLE).min(self.plans_ended - again - moved);
        [
            (Stratum::Plan, self.plans.saturating_sub(unborn + both + again + moved)),
            (Stratum::Care, self.looked_after - both - stepped_up),
            (Stratum::Both, both),
            (Stratum::Unborn, unborn),
            (Stratum::Again, again),
            (Stratum::Moved, moved),
            (Stratum::SteppedUp, stepped_up),
            (Stratum::PlanEnded, self.plans_ended - again - moved - stepped_up),
            (Stratum::CareEnded, self.care_ended),
        ]
    }
}

/// The counts of every authority, sorted by code.
pub(super) fn read() -> Result<Vec<Counts>, RegisterError> {
    let mut reader = csv::Reader::from_reader(FILE.as_bytes());
    let fault = || RegisterError::BuiltInData(NAME);
    let headers = reader.headers().map_err(|_| fault())?.clone();
    let mut all = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|_| fault())?;
        let text = |column: &str| {
            let place = headers.iter().position(|header| header == column);
            place.and_then(|place| record.get(place)).ok_or_else(fault)
        };
        let count = |column: &str| match text(column)? {
            "c" => Ok(SUPPRESSED),
            "z" => Ok(0),
            digits => digits.parse().map_err(|_| fault()),
        };
        let plans = count("CPP_At31")?;
        let bands = [
            text("3_months_or_less")?,
            text("more_than_3_months_6_months")?,
            text("more_than_6_months_less_than_1_year")?,
            text("1_year_less_than_2_years")?,
            text("2_years_or_more")?,
        ];
        all.push(Counts {
            code: text("gss_code")?.to_owned(),
            plans,
            durations: durations(plans, bands),
            plans_ended: (count("CPP_start")? * NATION_ENDED + NATION_STARTED / 2) / NATION_STARTED,
            looked_after: count("CLA_At31")?,
            care_ended: count("CLA_ceased_in_year")?,
        });
    }
    Ok(all)
}

/// Suppressed bands share evenly what the known ones leave of the total, at least one each.
fn durations(plans: u32, bands: [&str; 5]) -> [u32; 5] {
    let known: u32 = bands.iter().filter_map(|band| band.parse::<u32>().ok()).sum();
    let hidden = u32::try_from(bands.iter().filter(|band| **band == "c").count()).unwrap_or(0);
    let each = plans.saturating_sub(known).checked_div(hidden).unwrap_or(0).max(1);
    bands.map(|band| if band == "c" { each } else { band.parse().unwrap_or(0) })
}

/// Shares `total` among the weights as exactly as whole numbers allow (largest remainder; ties to the first).
pub(super) fn apportion(weights: &[u32], total: u32) -> Vec<u32> {
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let product = |weight: u32| u64::from(weight) * u64::from(total);
    let mut shares: Vec<u32> = weights.iter().map(|w| u32::try_from(product(*w) / sum).unwrap_or(u32::MAX)).collect();
    let mut order: Vec<(u64, usize)> =
        weights.iter().enumerate().map(|(place, w)| (product(*w) % sum, place)).collect();
    order.sort_unstable_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
    let rest = total.saturating_sub(shares.iter().sum());
    for (_, place) in order.into_iter().take(rest as usize) {
        if let Some(share) = shares.get_mut(place) {
            *share += 1;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nation_adds_up_to_the_published_totals() {
        let all = read().unwrap();
        assert_eq!(all.len(), 153);
        let sum = |of: fn(&Counts) -> u32| all.iter().map(of).sum::<u32>();
        assert_eq!((sum(|c| c.plans), sum(|c| c.looked_after)), (49_417, 81_769));
        assert_eq!((sum(|c| c.plans) + 5) / 10 * 10, 49_420);
        assert_eq!((sum(|c| c.looked_after) + 5) / 10 * 10, 81_770);
        assert!(sum(|c| c.plans_ended).abs_diff(62_300) < 100);
        assert_eq!(sum(|c| c.care_ended), 34_450);
    }

    #[test]
    fn strata_keep_the_counts() {
        for counts in read().unwrap() {
            let of = |wanted: &[Stratum]| {
                counts.strata().iter().filter(|(s, _)| wanted.contains(s)).map(|(_, n)| *n).sum::<u32>()
            };
            use Stratum::{Again, Both, Care, CareEnded, Moved, Plan, PlanEnded, SteppedUp, Unborn};
            assert_eq!(of(&[Plan, Both, Unborn, Again, Moved]), counts.plans, "{}", counts.code);
            assert_eq!(of(&[Care, Both, SteppedUp]), counts.looked_after);
            assert_eq!(of(&[PlanEnded, Again, Moved, SteppedUp]), counts.plans_ended);
            assert_eq!(of(&[CareEnded]), counts.care_ended);
        }
    }

    #[test]
    fn apportioning_is_exact() {
        assert_eq!(apportion(&[1, 1, 1], 10), [4, 3, 3]);
        assert_eq!(apportion(&[0, 5, 0], 7), [0, 7, 0]);
        assert_eq!(apportion(&[0], 7), [0]);
        assert_eq!(apportion(&[u32::MAX, u32::MAX], u32::MAX), [u32::MAX / 2 + 1, u32::MAX / 2]);
    }

    #[test]
    fn suppressed_bands_share_the_rest() {
        assert_eq!(durations(173, ["53", "38", "62", "c", "c"]), [53, 38, 62, 10, 10]);
        assert_eq!(durations(3, ["0", "0", "0", "c", "0"]), [0, 0, 0, 3, 0]);
    }
}
