//! How many guesses each way of asking leaves to somebody who wants to list a register, and on what assumptions.
//! It must not hold an assumption without its source, nor leave out a way that is cheaper than those it names.

/// Ten-digit NHS numbers with a valid check digit: of a thousand million beginnings, one in eleven has none
/// (NHS Data Dictionary, NHS NUMBER: a check digit of 10 is not used).
pub const NUMBERS_VALID: u64 = 909_090_909;
/// Those in the ranges from which England and Wales issue: nine-digit beginnings 400 to 499 and 600 to 799 million, ten in
/// eleven of them (Wikipedia, "NHS number", read 2026-08).
pub const NUMBERS_ISSUED: u64 = 272_727_272;
/// What would be left if numbers given at birth (since 29 October 2002, DSCN 61/2002) came from one block of thirty
/// million beginnings and followed the calendar. Nobody has said that they do, and nobody that they do not.
pub const NUMBERS_IN_BIRTH_BLOCK: u64 = 27_272_727;
/// Days around the date that such a number would tell.
pub const BIRTHS_AROUND_NUMBER: u64 = 31;
/// Dates of birth of children: 18 years of 365.25 days.
pub const BIRTHS_OF_CHILDREN: u64 = 6_575;
/// Dates of birth of mothers of unborn children on a plan: 40 years of 365.25 days.
pub const BIRTHS_OF_MOTHERS: u64 = 14_610;
/// Surnames worth trying, and given names worth trying with each: an estimate. Together they reach about 45 % of children.
pub const SURNAMES: u64 = 3_000;
/// See [`SURNAMES`].
pub const GIVEN_NAMES: u64 = 300;
/// What the common names and every date of birth of a child make together.
pub const NAMES_AND_BIRTHS: u64 = SURNAMES * GIVEN_NAMES * BIRTHS_OF_CHILDREN;
/// Phonetic codes of surnames worth trying: an estimate; they reach nearly every child.
pub const PHONETIC_SURNAMES: u64 = 4_000;
/// Postcodes of one town of about fifty thousand households: an estimate, fifteen households to a postcode.
pub const POSTCODES_OF_A_TOWN: u64 = 3_500;
/// Live postcodes of England, about (an estimate from the size of the ONS Postcode Directory).
pub const POSTCODES_OF_ENGLAND: u64 = 1_500_000;
/// Children on a plan or looked after in England on 31 March 2025 (Department for Education, see `data/SOURCES.md`):
/// 49,420 and 81,770.
pub const FLAGGED_IN_ENGLAND: u64 = 131_190;
/// Postcodes of the area that 20,000 records come from, by their share of England's flagged children.
pub const POSTCODES_OF_A_SCOPE: u64 = POSTCODES_OF_ENGLAND * super::DUMPED_RECORDS as u64 / FLAGGED_IN_ENGLAND;
/// Households in England, about (ONS, Families and households in the UK, 2023; an estimate). Address lists with a surname
/// and a postcode for each are sold.
pub const HOUSEHOLDS_OF_ENGLAND: u64 = 24_000_000;
/// Households of the area that 20,000 records come from, as for the postcodes.
pub const HOUSEHOLDS_OF_A_SCOPE: u64 = HOUSEHOLDS_OF_ENGLAND * super::DUMPED_RECORDS as u64 / FLAGGED_IN_ENGLAND;
/// Children in England: the sum over authorities in `data/la_children_2025.csv`.
pub const CHILDREN_IN_ENGLAND: u64 = 12_183_016;
/// Children of an authority of middling size: England's, over 153 authorities.
pub const CHILDREN_OF_AN_AUTHORITY: u64 = CHILDREN_IN_ENGLAND / 153;

/// A way to list a register, for somebody who has its feed keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// A short name that stays, for machines.
    pub code: &'static str,
    /// What the attacker tries.
    pub what: &'static str,
    /// How many guesses that is.
    pub guesses: u64,
    /// What it finds of 20,000 records.
    pub reaches: &'static str,
}

/// The ways, the dearest of each path first. One guess tries all feeds of a device at once: the memory-hard step does
/// not depend on the feed.
pub const SPACES: [Space; 11] = [
    Space {
        code: "number-birth-all",
        what: "NHS number and date of birth, every valid number",
        guesses: NUMBERS_VALID * BIRTHS_OF_CHILDREN,
        reaches: "every child's",
    },
    Space {
        code: "number-birth-mothers",
        what: "the same for mothers of unborn children",
        guesses: NUMBERS_VALID * BIRTHS_OF_MOTHERS,
        reaches: "every unborn child's",
    },
    Space {
        code: "number-birth-issued",
        what: "NHS number and date of birth, issued ranges only",
        guesses: NUMBERS_ISSUED * BIRTHS_OF_CHILDREN,
        reaches: "every child's",
    },
    Space {
        code: "number-tells-birth",
        what: "the same, **if** birth numbers follow the calendar to 15 days (unknown)",
        guesses: NUMBERS_IN_BIRTH_BLOCK * BIRTHS_AROUND_NUMBER,
        reaches: "most, if so",
    },
    Space {
        code: "names-birth",
        what: "surname, given name and date of birth: 3,000 surnames, 300 given names",
        guesses: NAMES_AND_BIRTHS,
        reaches: "about 45 %",
    },
    Space {
        code: "phonetic-birth-postcode-scope",
        what: "phonetic surname, date of birth and full postcode, everywhere in the scope",
        guesses: PHONETIC_SURNAMES * BIRTHS_OF_CHILDREN * POSTCODES_OF_A_SCOPE,
        reaches: "nearly all",
    },
    Space {
        code: "phonetic-birth-postcode-town",
        what: "the same in one town",
        guesses: PHONETIC_SURNAMES * BIRTHS_OF_CHILDREN * POSTCODES_OF_A_TOWN,
        reaches: "nearly all of that town's",
    },
    Space {
        code: "address-list-birth",
        what: "the same with an address list: surname and postcode of every household in the scope",
        guesses: HOUSEHOLDS_OF_A_SCOPE * BIRTHS_OF_CHILDREN,
        reaches: "most: those who live where the list says, under its surname",
    },
    Space {
        code: "list-of-england",
        what: "a leaked list of all children in England, by any path",
        guesses: CHILDREN_IN_ENGLAND,
        reaches: "every child's",
    },
    Space {
        code: "list-of-an-authority",
        what: "a list of one authority's children, by any path",
        guesses: CHILDREN_OF_AN_AUTHORITY,
        reaches: "every child's of that authority",
    },
    Space { code: "one-child", what: "one known child", guesses: 1, reaches: "that child's" },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_those_of_the_shipped_file() {
        let file = include_str!("../../data/la_children_2025.csv");
        let mut rows = csv::Reader::from_reader(file.as_bytes());
        let last = rows.headers().unwrap().iter().position(|name| name == "under18_population").unwrap();
        let rows: Vec<_> = rows.records().map(Result::unwrap).collect();
        let children: u64 = rows.iter().map(|row| row[last].parse::<u64>().unwrap()).sum();
        assert_eq!((children, rows.len()), (CHILDREN_IN_ENGLAND, 153));
    }

    #[test]
    fn valid_numbers_are_counted_right() {
        // A beginning is refused when its weighted sum leaves 1 modulo 11. Counted digit by digit.
        let mut left = [0u64; 11];
        left[0] = 1;
        for weight in (2..=10).rev() {
            let mut next = [0u64; 11];
            for (sum, count) in left.iter().enumerate() {
                for digit in 0..10 {
                    next[(sum + weight * digit) % 11] += count;
                }
            }
            left = next;
        }
        let valid = left.iter().sum::<u64>() - left[1];
        assert_eq!(left.iter().sum::<u64>(), 1_000_000_000);
        assert!(valid.abs_diff(NUMBERS_VALID) <= 2, "{valid}");
    }

    #[test]
    fn no_code_twice() {
        let codes: std::collections::BTreeSet<_> = SPACES.iter().map(|space| space.code).collect();
        assert_eq!(codes.len(), SPACES.len());
    }
}
