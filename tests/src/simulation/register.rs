//! The truth about the children: what the register says at each sequence, kept apart from the server's own database.
//! It must not ask the server what is right: that is what it is compared with.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use cpis_protocol::flag::FlagKind;
use cpis_protocol::id::{AuthorityCode, FeedId, RegisterSeq, UnixMs};
use cpis_protocol::nhs::{Date, NhsNumber};
use cpis_server::register::{AuthorityRow, Change, Extract, PersonRow, PlanRow, authority_named, visible_until_min};

use super::dice::Dice;

/// The authorities, each with a feed.
pub const AUTHORITIES: [&str; 3] = ["Leeds", "Bradford", "Wakefield"];
/// Children who may have plans.
pub const CHILDREN: usize = 36;
/// Children who have one at first.
const AT_FIRST: u64 = 20;
/// The first nine digits of the first number.
const FIRST_NUMBER: u64 = 999_000_100;

/// One plan, as a crew would be shown it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plan {
    /// Whose feed it is in.
    pub feed: FeedId,
    /// Its kind.
    pub kind: FlagKind,
    /// The minute from which it may not be shown any more.
    pub visible_until_min: Option<u32>,
    due: Option<Date>,
}

impl Plan {
    /// Whether it may be shown at that time.
    #[must_use]
    pub fn is_visible(&self, at_ms: UnixMs) -> bool {
        self.visible_until_min.is_none_or(|minute| at_ms < i64::from(minute) * 60_000)
    }
}

/// Who has which plans.
pub type Plans = BTreeMap<usize, Vec<Plan>>;

/// The register as it should be.
#[derive(Debug)]
pub struct Truth {
    /// The feeds, in the order of [`AUTHORITIES`].
    pub feeds: Vec<FeedId>,
    names: Vec<String>,
    now: Plans,
    history: BTreeMap<RegisterSeq, Plans>,
}

/// Who a child is.
///
/// # Errors
/// When there is no such number or date, which cannot be.
pub fn identity(child: usize) -> anyhow::Result<(NhsNumber, Date)> {
    // Every eleventh number has no check digit.
    let nine = (FIRST_NUMBER..).filter(|nine| NhsNumber::check_digit(*nine).is_some()).nth(child);
    let nine = nine.context("no number")?;
    let digit = NhsNumber::check_digit(nine).context("no check digit")?;
    let number = NhsNumber::new(nine * 10 + digit).ok().context("not a number")?;
    let (year, month, day) = (i16::try_from(child % 9)?, i8::try_from(child % 12)?, i8::try_from(child % 28)?);
    let birth = Date::new(2012 + year, 1 + month, 1 + day);
    Ok((number, birth.ok().context("not a date")?))
}

impl Truth {
    /// The authorities and nobody.
    ///
    /// # Errors
    /// When an authority is not known.
    pub fn new() -> anyhow::Result<Self> {
        let known = AUTHORITIES.map(|name| authority_named(name).map(|known| (known.code, known.name.clone())));
        let mut feeds = Vec::new();
        let mut names = Vec::new();
        for known in known {
            let (code, name) = known.context("an authority is not known")?;
            feeds.push(code);
            names.push(name);
        }
        Ok(Self { feeds, names, now: Plans::new(), history: BTreeMap::new() })
    }

    /// The name of a feed's authority.
    #[must_use]
    pub fn name(&self, feed: &FeedId) -> &str {
        let place = self.feeds.iter().position(|known| known == feed);
        place.and_then(|place| self.names.get(place)).map_or("", String::as_str)
    }

    /// The plans of now.
    #[must_use]
    pub const fn now(&self) -> &Plans {
        &self.now
    }

    /// The plans at a register sequence.
    #[must_use]
    pub fn at(&self, gseq: RegisterSeq) -> Option<&Plans> {
        self.history.range(..=gseq).next_back().map(|(_, plans)| plans)
    }

    /// The server took in everything up to now and is at this sequence.
    pub fn settle(&mut self, gseq: RegisterSeq) {
        self.history.insert(gseq, self.now.clone());
    }

    fn row(&self, child: usize) -> anyhow::Result<PersonRow> {
        let (number, birth) = identity(child)?;
        let plan =
            |plan: &Plan| PlanRow { kind: plan.kind, authority: plan.feed, start: None, end: None, due: plan.due };
        let plans = self.now.get(&child).into_iter().flatten().map(plan).collect();
        let surname = format!("Sim{}", char::from(b'a' + u8::try_from(child % 26)?));
        Ok(PersonRow {
            number,
            birth,
            surname,
            given: "Ada".into(),
            postcode: "LS1 4AP".into(),
            restricted: false,
            plans,
        })
    }

    fn authorities(&self) -> Vec<AuthorityRow> {
        let row = |(code, name): (&AuthorityCode, &String)| AuthorityRow {
            code: *code,
            name: name.clone(),
            office_phone: "01632 960001".into(),
            duty_phone: "01632 960002".into(),
        };
        self.feeds.iter().zip(&self.names).map(row).collect()
    }

    fn plan(&self, dice: &mut Dice, feed: FeedId, today_ms: UnixMs) -> Plan {
        let kind = *dice.pick(&[FlagKind::Cpp, FlagKind::Lac, FlagKind::Cpp, FlagKind::Ucpp]).unwrap_or(&FlagKind::Cpp);
        // A due date about four weeks ago: its time to be shown ends within the simulation.
        let days = 28 - i64::try_from(dice.below(4)).unwrap_or(0);
        let due = Date::of_unix_ms(today_ms - days * 86_400_000).ok().filter(|_| kind == FlagKind::Ucpp);
        let row = PlanRow { kind, authority: feed, start: None, end: None, due };
        Plan { feed, kind, visible_until_min: visible_until_min(&row), due }
    }

    /// The extract that a new deployment begins with.
    ///
    /// # Errors
    /// As [`identity`].
    pub fn begin(&mut self, dice: &mut Dice, today_ms: UnixMs) -> anyhow::Result<Extract> {
        for child in 0..CHILDREN {
            if dice.chance(AT_FIRST * 1000 / CHILDREN as u64) {
                let feed = *dice.pick(&self.feeds).context("no feeds")?;
                let plan = self.plan(dice, feed, today_ms);
                self.now.insert(child, vec![plan]);
            }
        }
        let children: Vec<usize> = self.now.keys().copied().collect();
        let changes = children.into_iter().map(|child| self.row(child).map(Change::Put));
        Ok(Extract { authorities: self.authorities(), changes: changes.collect::<anyhow::Result<_>>()? })
    }

    /// Some children change: plans begin, end, or move to another authority. Whoever moves is taken out and put in again
    /// by two extracts, which must be published as one.
    ///
    /// # Errors
    /// As [`identity`].
    pub fn change(&mut self, dice: &mut Dice, today_ms: UnixMs) -> anyhow::Result<Vec<Extract>> {
        let (mut out, mut put) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..dice.between(1, 6) {
            let child = dice.place(CHILDREN);
            let feed = *dice.pick(&self.feeds).context("no feeds")?;
            let plan = self.plan(dice, feed, today_ms);
            let known = self.now.contains_key(&child);
            match dice.below(4) {
                0 if known => {
                    self.now.remove(&child);
                    put.remove(&child);
                    out.insert(child);
                }
                1 if known && !put.contains(&child) => {
                    // Somewhere else, and nowhere else.
                    self.now.insert(child, vec![plan]);
                    out.insert(child);
                    put.insert(child);
                }
                2 if known => {
                    let plans = self.now.entry(child).or_default();
                    if plans.len() < 2 && plans.iter().all(|other| other.feed != plan.feed) {
                        plans.push(plan);
                        put.insert(child);
                    }
                }
                _ if !known => {
                    self.now.insert(child, vec![plan]);
                    put.insert(child);
                }
                _ => {}
            }
        }
        let mut extracts = Vec::new();
        if !out.is_empty() {
            let gone = out.iter().map(|child| identity(*child).map(|(number, _)| Change::Delete(number)));
            extracts.push(Extract { authorities: Vec::new(), changes: gone.collect::<anyhow::Result<_>>()? });
        }
        if !put.is_empty() {
            let rows = put.iter().map(|child| self.row(*child).map(Change::Put));
            extracts.push(Extract { authorities: Vec::new(), changes: rows.collect::<anyhow::Result<_>>()? });
        }
        Ok(extracts)
    }
}
