//! Invented names and addresses for the synthetic register.
//! It must not hold a list of real people, nor make a postcode that anybody lives at.

use super::RegisterError;
use super::random::Random;

/// See the head of the file.
const FILE: &str = include_str!("../../data/names.txt");
const NAME: &str = "names.txt";

// The lists begin with the common names, and the earlier ones are taken more often, as in life: same-named people are
// a case that look-up by name must meet.

/// In a thousand: given name and surname from different groups; double surnames; people with a single name.
const MIXED_PER_MILLE: u32 = 120;
const DOUBLE_PER_MILLE: u32 = 45;
const SINGLE_PER_MILLE: u32 = 3;

/// Postcode areas that do not exist: of the areas beginning with Z only ZE (Shetland) does.
const AREAS: [(&str, char); 10] = [
    ("North East", 'A'),
    ("North West", 'B'),
    ("Yorkshire and The Humber", 'C'),
    ("East Midlands", 'D'),
    ("West Midlands", 'F'),
    ("East of England", 'G'),
    ("Inner London", 'H'),
    ("Outer London", 'K'),
    ("South East", 'L'),
    ("South West", 'M'),
];
/// The letters that the second half of a postcode uses.
const INWARD: [char; 20] =
    ['A', 'B', 'D', 'E', 'F', 'G', 'H', 'J', 'L', 'N', 'P', 'Q', 'R', 'S', 'T', 'U', 'W', 'X', 'Y', 'Z'];

struct Group {
    girls: Vec<&'static str>,
    boys: Vec<&'static str>,
    surnames: Vec<&'static str>,
}

/// The word lists.
pub(super) struct Names {
    weights: Vec<u32>,
    groups: Vec<Group>,
}

/// A family's name, and the group that its given names come from.
#[derive(Debug, Clone)]
pub(super) struct FamilyName {
    pub(super) surname: String,
    group: usize,
}

impl Names {
    pub(super) fn read() -> Result<Self, RegisterError> {
        let fault = || RegisterError::BuiltInData(NAME);
        let mut names = Self { weights: Vec::new(), groups: Vec::new() };
        for line in FILE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (word, rest) = line.split_once(' ').ok_or_else(fault)?;
            if word == "group" {
                let (_, weight) = rest.split_once(' ').ok_or_else(fault)?;
                names.weights.push(weight.parse().map_err(|_| fault())?);
                names.groups.push(Group { girls: Vec::new(), boys: Vec::new(), surnames: Vec::new() });
                continue;
            }
            let group = names.groups.last_mut().ok_or_else(fault)?;
            let list = match word {
                "girls" => &mut group.girls,
                "boys" => &mut group.boys,
                "surnames" => &mut group.surnames,
                _ => return Err(fault()),
            };
            list.extend(rest.split(", "));
        }
        Ok(names)
    }

    pub(super) fn family(&self, random: &mut Random) -> FamilyName {
        let group = random.weighted(&self.weights);
        let from = if random.chance(MIXED_PER_MILLE) { random.weighted(&self.weights) } else { group };
        let mut surname = self.surname(from, random);
        if random.chance(DOUBLE_PER_MILLE) {
            let other = random.weighted(&self.weights);
            let second = self.surname(other, random);
            if !surname.contains(['-', ' ']) && !second.contains(['-', ' ']) && surname != second {
                surname = format!("{surname}-{second}");
            }
        }
        FamilyName { surname, group }
    }

    /// A given name, empty for the few who have only one name.
    pub(super) fn given(&self, family: &FamilyName, girl: bool, random: &mut Random) -> String {
        if random.chance(SINGLE_PER_MILLE) {
            return String::new();
        }
        let group = self.groups.get(family.group);
        let list = group.map(|group| if girl { &group.girls } else { &group.boys });
        list.and_then(|list| random.pick_early(list, 2)).copied().unwrap_or("Alex").to_owned()
    }

    fn surname(&self, group: usize, random: &mut Random) -> String {
        let surname = self.groups.get(group).and_then(|group| random.pick_early(&group.surnames, 3));
        surname.copied().unwrap_or("Smith").to_owned()
    }
}

/// A postcode that is well formed and belongs to nobody.
pub(super) fn postcode(region: &str, district: usize, random: &mut Random) -> String {
    let area = AREAS.iter().find(|(name, _)| *name == region).map_or('N', |(_, letter)| *letter);
    let sector = random.below(10);
    let (a, b) = (random.pick(&INWARD).unwrap_or(&'A'), random.pick(&INWARD).unwrap_or(&'A'));
    format!("Z{area}{} {sector}{a}{b}", district % 99 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::register::{check, known_authorities};
    use std::collections::HashSet;

    #[test]
    fn lists_are_wide_and_well_formed() {
        let names = Names::read().unwrap();
        assert_eq!(names.weights.iter().sum::<u32>(), 1_000);
        let mut given: HashSet<&str> = HashSet::new();
        let mut surnames: HashSet<&str> = HashSet::new();
        for group in &names.groups {
            given.extend(group.girls.iter().chain(&group.boys));
            surnames.extend(&group.surnames);
        }
        assert!(given.len() > 400 && surnames.len() > 350);
        for name in given.iter().chain(&surnames) {
            assert_eq!(check::name("n", name, true).as_deref(), Ok(*name));
            assert_eq!(name.trim(), *name);
        }
        for shape in ['-', '\'', ' ', 'ł', 'é'] {
            assert!(given.iter().chain(&surnames).any(|name| name.contains(shape)), "{shape}");
        }
    }

    #[test]
    fn postcodes_belong_to_nobody() {
        let mut random = Random::new(3);
        for (place, known) in known_authorities().iter().enumerate() {
            let code = postcode(&known.region, place, &mut random);
            assert!(code.starts_with('Z') && !code.starts_with("ZN") && !code.starts_with("ZE"), "{code}");
            assert_eq!(check::postcode("p", &code, false), Ok(code.clone()));
        }
    }
}
