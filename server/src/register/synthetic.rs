//! The synthetic register: invented people in the published numbers.
//! It must not give the same seed a second meaning: what a seed yields is frozen by a test.

use cpis_protocol::flag::FlagKind;
use cpis_protocol::id::AuthorityCode;
use cpis_protocol::nhs::{Date, NhsNumber};

use super::authorities::{KnownAuthority, authority_coded, authority_named};
use super::counts::{self, Counts, Stratum};
use super::names::{self, FamilyName, Names};
use super::random::Random;
use super::{AuthorityRow, Change, Extract, PersonRow, PlanRow, RegisterError, phones};

/// Records that can be made at most: the 999 range has 909,090 valid numbers.
pub const RECORDS_MAX: u32 = 900_000;

/// In a thousand people: siblings of the one before, twins of the one before, siblings in care who live elsewhere,
/// restricted people, and people whose postcode is not known.
const SIBLING_PER_MILLE: u32 = 380;
const TWIN_PER_MILLE: u32 = 30;
const APART_PER_MILLE: u32 = 500;
const RESTRICTED_PER_MILLE: u32 = 8;
const NO_POSTCODE_PER_MILLE: u32 = 20;
/// Days between births of one mother.
const BIRTHS_APART_DAYS: u16 = 280;

/// Ages in days (from, to) with weights: assumed shapes, since the counts here have no ages. The last day is always
/// before the 18th birthday.
const PLAN_AGES: [(i32, i32, u32); 5] =
    [(0, 364, 100), (365, 1_825, 260), (1_826, 3_651, 280), (3_652, 5_843, 310), (5_844, 6_569, 50)];
const CARE_AGES: [(i32, i32, u32); 5] =
    [(0, 364, 50), (365, 1_825, 140), (1_826, 3_651, 180), (3_652, 5_843, 370), (5_844, 6_569, 260)];
const LEAVING_CARE_AGES: [(i32, i32, u32); 5] =
    [(0, 364, 60), (365, 1_825, 170), (1_826, 3_651, 110), (3_652, 6_573, 260), (6_574, 6_574, 400)];
const MOTHER_AGES: [(i32, i32, u32); 4] =
    [(5_120, 6_574, 40), (6_575, 9_130, 340), (9_131, 12_780, 440), (12_781, 16_700, 180)];
/// Days that a plan has lasted: the bands of the counts, whose weights each authority has of its own.
const PLAN_DAYS: [(i32, i32); 5] = [(0, 91), (92, 182), (183, 364), (365, 729), (730, 1_460)];
/// Of a thousand plans that end, 159 do so within three months (DfE 2025); the rest is assumed.
const ENDED_PLAN_DAYS: [(i32, i32, u32); 4] = [(7, 91, 159), (92, 182, 220), (183, 364, 371), (365, 1_095, 250)];
/// Assumed.
const CARE_DAYS: [(i32, i32, u32); 5] =
    [(0, 182, 200), (183, 364, 160), (365, 729, 210), (730, 1_825, 280), (1_826, 5_000, 150)];

/// What to synthesise.
#[derive(Debug, Clone)]
pub struct SynthesiseOptions {
    /// Codes or names of the authorities; none means the nation.
    pub authorities: Vec<String>,
    /// Scale to this many records (people) in all, keeping proportions; `None` gives the published counts.
    pub records: Option<u32>,
    /// The same seed, options and program give the same register, byte for byte.
    pub seed: u64,
    /// The day on which the register is as it is: no plan starts after it.
    pub today: Date,
}

/// Makes the register of these authorities.
///
/// # Errors
/// [`RegisterError`].
pub fn synthesise(options: &SynthesiseOptions) -> Result<Extract, RegisterError> {
    let chosen = choose(&options.authorities)?;
    let strata: Vec<(usize, Stratum, u32)> = chosen
        .iter()
        .enumerate()
        .flat_map(|(place, area)| area.counts.strata().map(|(stratum, people)| (place, stratum, people)))
        .collect();
    let published: Vec<u32> = strata.iter().map(|(_, _, people)| *people).collect();
    let people = options.records.map_or_else(|| published.clone(), |total| counts::apportion(&published, total));
    if people.iter().map(|n| u64::from(*n)).sum::<u64>() > u64::from(RECORDS_MAX) {
        return Err(RegisterError::TooManyRecords);
    }
    let mut random = Random::new(options.seed);
    let mut maker = Maker {
        names: Names::read()?,
        numbers: Numbers::new(&mut random),
        random,
        today: options.today,
        areas: &chosen,
        family: None,
    };
    let mut extract = Extract::default();
    for (place, area) in chosen.iter().enumerate() {
        let mut order: Vec<Stratum> = Vec::new();
        for ((at, stratum, _), people) in strata.iter().zip(&people) {
            if *at == place {
                order.extend((0..*people).map(|_| *stratum));
            }
        }
        maker.random.shuffle(&mut order);
        maker.family = None;
        for stratum in order {
            let person = maker.person(place, stratum)?;
            extract.changes.push(Change::Put(person));
        }
        let (office_phone, duty_phone) = phones::invented(&area.known.region, area.place);
        let name = area.known.name.clone();
        extract.authorities.push(AuthorityRow { code: area.known.code, name, office_phone, duty_phone });
    }
    Ok(extract)
}

/// An authority with its counts and its place in the nation's list.
struct Area {
    known: &'static KnownAuthority,
    counts: Counts,
    place: usize,
}

fn choose(wanted: &[String]) -> Result<Vec<Area>, RegisterError> {
    let mut codes = Vec::new();
    for name in wanted {
        codes.push(authority_named(name).ok_or_else(|| RegisterError::UnknownAuthority(name.clone()))?.code);
    }
    let mut areas = Vec::new();
    for (place, counts) in counts::read()?.into_iter().enumerate() {
        let known = authority_coded(&counts.code).ok_or(RegisterError::BuiltInData("england_upper_tier_la_153.csv"))?;
        if codes.is_empty() || codes.contains(&known.code) {
            areas.push(Area { known, counts, place });
        }
    }
    Ok(areas)
}

/// The valid numbers of the 999 range in an order of the seed, each once.
struct Numbers {
    next: u64,
    step: u64,
    left: u32,
}

impl Numbers {
    const BODIES: u32 = 1_000_000;

    fn new(random: &mut Random) -> Self {
        // Odd and not a multiple of five, so that the steps meet all of the million bodies before any comes again.
        let odd = u64::from(random.below(Self::BODIES / 2)) * 2 + 1;
        let step = if odd % 5 == 0 { odd + 2 } else { odd };
        Self { next: u64::from(random.below(Self::BODIES)), step, left: Self::BODIES }
    }

    fn take(&mut self) -> Result<NhsNumber, RegisterError> {
        while self.left > 0 {
            self.left -= 1;
            let body = 999_000_000 + self.next;
            self.next = (self.next + self.step) % u64::from(Self::BODIES);
            if let Some(Ok(number)) = NhsNumber::check_digit(body).map(|digit| NhsNumber::new(body * 10 + digit)) {
                return Ok(number);
            }
        }
        Err(RegisterError::TooManyRecords)
    }
}

/// The family of the person made before, whose sibling or twin the next may be.
struct Family {
    births: Vec<Date>,
    name: FamilyName,
    postcode: String,
    stratum: Stratum,
    person: PersonRow,
}

struct Maker<'a> {
    names: Names,
    numbers: Numbers,
    random: Random,
    today: Date,
    areas: &'a [Area],
    family: Option<Family>,
}

impl Maker<'_> {
    fn person(&mut self, place: usize, stratum: Stratum) -> Result<PersonRow, RegisterError> {
        let number = self.numbers.take()?;
        let girl = stratum == Stratum::Unborn || self.random.chance(490);
        let before = self.family.take().filter(|_| stratum != Stratum::Unborn);
        if let Some(before) = &before
            && before.stratum == stratum
            && self.random.chance(TWIN_PER_MILLE)
        {
            let given = self.names.given(&before.name, girl, &mut self.random);
            if !given.is_empty() && given != before.person.given {
                return Ok(PersonRow { number, given, ..before.person.clone() });
            }
        }
        let (birth, plans) = self.plans(place, stratum);
        let apart = |before: &Family| {
            before.births.iter().all(|other| other.days().abs_diff(birth.days()) >= BIRTHS_APART_DAYS)
        };
        let sibling = before.filter(apart).filter(|_| self.random.chance(SIBLING_PER_MILLE));
        let (name, home, mut births) = match sibling {
            Some(before) => (before.name, before.postcode, before.births),
            None => (self.names.family(&mut self.random), self.postcode(place), Vec::new()),
        };
        let in_care = plans.iter().any(|plan| plan.kind == FlagKind::Lac);
        let elsewhere = in_care && self.random.chance(APART_PER_MILLE);
        let restricted = self.random.chance(RESTRICTED_PER_MILLE);
        let unknown = self.random.chance(NO_POSTCODE_PER_MILLE);
        let postcode = match (restricted || unknown, elsewhere) {
            (true, _) => String::new(),
            (false, true) => self.postcode(place),
            (false, false) => home.clone(),
        };
        let given = self.names.given(&name, girl, &mut self.random);
        let person = PersonRow { number, birth, surname: name.surname.clone(), given, postcode, restricted, plans };
        if stratum != Stratum::Unborn {
            births.push(birth);
            self.family = Some(Family { births, name, postcode: home, stratum, person: person.clone() });
        }
        Ok(person)
    }

    fn postcode(&mut self, place: usize) -> String {
        match self.areas.get(place) {
            Some(area) => names::postcode(&area.known.region, area.place, &mut self.random),
            None => String::new(),
        }
    }

    /// Date of birth and plans of one person.
    fn plans(&mut self, place: usize, stratum: Stratum) -> (Date, Vec<PlanRow>) {
        let here = self.code(place);
        match stratum {
            Stratum::Plan => {
                let age = self.days(&PLAN_AGES);
                let lasted = self.lasted(place).min(age);
                (self.ago(age), vec![self.active(FlagKind::Cpp, here, lasted)])
            }
            Stratum::Care => {
                let age = self.days(&CARE_AGES);
                let lasted = self.days(&CARE_DAYS).min(age);
                (self.ago(age), vec![self.active(FlagKind::Lac, here, lasted)])
            }
            Stratum::Both => {
                let age = self.days(&CARE_AGES);
                let (plan, care) = (self.lasted(place).min(age), self.days(&CARE_DAYS).min(age));
                (self.ago(age), vec![self.active(FlagKind::Cpp, here, plan), self.active(FlagKind::Lac, here, care)])
            }
            Stratum::Unborn => self.unborn(here),
            Stratum::Again => self.after_another(FlagKind::Cpp, here, here, 1),
            Stratum::Moved => {
                let other = self.elsewhere(place);
                self.after_another(FlagKind::Cpp, here, other, 1)
            }
            Stratum::SteppedUp => self.after_another(FlagKind::Lac, here, here, 0),
            Stratum::PlanEnded => self.ended(FlagKind::Cpp, here, &PLAN_AGES, &ENDED_PLAN_DAYS),
            Stratum::CareEnded => self.ended(FlagKind::Lac, here, &LEAVING_CARE_AGES, &CARE_DAYS),
        }
    }

    /// A plan, and a protection plan that ended at least `gap` days before it began, within the last year.
    fn after_another(
        &mut self,
        kind: FlagKind,
        here: AuthorityCode,
        earlier: AuthorityCode,
        gap: i32,
    ) -> (Date, Vec<PlanRow>) {
        let lasted = self.random.between(0, 250);
        let end = lasted + self.random.between(gap, 90);
        let age = self.days(if kind == FlagKind::Lac { &CARE_AGES } else { &PLAN_AGES }).max(end + 30);
        let start = (end + self.days(&ENDED_PLAN_DAYS)).min(age);
        let ended = PlanRow {
            kind: FlagKind::Cpp,
            authority: earlier,
            start: Some(self.ago(start)),
            end: Some(self.ago(end)),
            due: None,
        };
        (self.ago(age), vec![self.active(kind, here, lasted), ended])
    }

    /// A plan that ended in the last 364 days, so that it is still visible today.
    fn ended(
        &mut self,
        kind: FlagKind,
        authority: AuthorityCode,
        ages: &[(i32, i32, u32)],
        lengths: &[(i32, i32, u32)],
    ) -> (Date, Vec<PlanRow>) {
        let ended = self.random.between(1, 364);
        let age = self.days(ages);
        let length = self.days(lengths).min(age);
        let plan =
            PlanRow { kind, authority, start: Some(self.ago(ended + length)), end: Some(self.ago(ended)), due: None };
        (self.ago(ended + age), vec![plan])
    }

    /// A mother: the due date lies from 20 days ago to five months ahead, the plan began in the second half.
    fn unborn(&mut self, authority: AuthorityCode) -> (Date, Vec<PlanRow>) {
        let age = self.days(&MOTHER_AGES);
        let ahead = self.random.between(-20, 150);
        let before_due = self.random.between(30, 160);
        let started = (before_due - ahead).max(self.random.between(0, 6));
        let plan = PlanRow {
            kind: FlagKind::Ucpp,
            authority,
            start: Some(self.ago(started)),
            end: None,
            due: Some(self.ago(-ahead)),
        };
        (self.ago(age), vec![plan])
    }

    fn active(&self, kind: FlagKind, authority: AuthorityCode, lasted: i32) -> PlanRow {
        PlanRow { kind, authority, start: Some(self.ago(lasted)), end: None, due: None }
    }

    /// How long a plan of this authority has lasted.
    fn lasted(&mut self, place: usize) -> i32 {
        let weights = self.areas.get(place).map_or([1; 5], |area| area.counts.durations);
        let (low, high) = PLAN_DAYS.get(self.random.weighted(&weights)).copied().unwrap_or((0, 91));
        self.random.between(low, high)
    }

    fn days(&mut self, bands: &[(i32, i32, u32)]) -> i32 {
        let weights: Vec<u32> = bands.iter().map(|(_, _, weight)| *weight).collect();
        let (low, high, _) = bands.get(self.random.weighted(&weights)).copied().unwrap_or((0, 0, 0));
        self.random.between(low, high)
    }

    fn code(&self, place: usize) -> AuthorityCode {
        self.areas.get(place).map_or(AuthorityCode::EMPTY, |area| area.known.code)
    }

    /// Another of the chosen authorities, of the same region where there is one; the same where it is alone.
    fn elsewhere(&mut self, place: usize) -> AuthorityCode {
        let Some(here) = self.areas.get(place) else { return AuthorityCode::EMPTY };
        let others = || self.areas.iter().filter(|area| area.place != here.place);
        let near: Vec<&Area> = others().filter(|area| area.known.region == here.known.region).collect();
        let from = if near.is_empty() { others().collect() } else { near };
        self.random.pick(&from).map_or(here.known.code, |area| area.known.code)
    }

    fn ago(&self, days: i32) -> Date {
        self.today.plus_days(-days)
    }
}

#[cfg(test)]
#[path = "synthetic_tests.rs"]
mod tests;
