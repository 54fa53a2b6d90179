//! What a passphrase must at least be, and where a PIN may stand in its place: only where hardware counts the attempts.
//! It must not keep, print or measure anything else of either.

use crate::device_secret::tpm::Uncounted;

/// The least number of characters.
pub const CHARACTERS_MIN: usize = 12;
/// The least number of digits when there is nothing else and nothing counts.
pub const DIGITS_MIN: usize = 16;
/// The least number of digits of a PIN.
pub const PIN_DIGITS_MIN: usize = 6;

/// What a practitioner chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// A passphrase: its cost is the memory-hard step.
    Passphrase,
    /// A PIN: its cost is that hardware counts.
    Pin,
}

/// Why a passphrase or a PIN is refused, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseProblem {
    /// Shorter than [`CHARACTERS_MIN`].
    #[error("too short: use at least {CHARACTERS_MIN} characters, e.g. four words that have nothing in common")]
    TooShort,
    /// Digits only, and fewer than [`DIGITS_MIN`]: all of them can be tried in days.
    #[error("a number of fewer than {DIGITS_MIN} digits is a PIN, and {0}")]
    DigitsOnly(Uncounted),
    /// A PIN of fewer than [`PIN_DIGITS_MIN`] digits.
    #[error("too short for a PIN: use at least {PIN_DIGITS_MIN} digits")]
    PinTooShort,
    /// A PIN that everybody tries first.
    #[error("the same digit again and again, or one after the other: use digits that have nothing in common")]
    PinTooEasy,
    /// One character again and again.
    #[error("the same character again and again: use four words that have nothing in common")]
    AllSame,
}

/// Checks a new passphrase where no hardware counts: a PIN is refused.
///
/// # Errors
/// [`PassphraseProblem`].
pub fn check_passphrase(passphrase: &str) -> Result<(), PassphraseProblem> {
    check_new(passphrase, || Err(Uncounted::NoHardware)).map(|_| ())
}

/// Checks a new passphrase or PIN. `counted` tells whether hardware counts the attempts at a PIN; it is asked only for
/// one.
///
/// # Errors
/// [`PassphraseProblem`].
pub fn check_new(
    passphrase: &str,
    counted: impl FnOnce() -> Result<(), Uncounted>,
) -> Result<Choice, PassphraseProblem> {
    let characters = passphrase.chars().count();
    // Digits of any script, and what people put between groups of them.
    let digits = passphrase.chars().filter(|c| c.is_numeric()).count();
    let separators = passphrase.chars().filter(|c| c.is_whitespace() || matches!(c, '-' | '.' | '/')).count();
    if digits > 0 && digits + separators == characters && digits < DIGITS_MIN {
        counted().map_err(PassphraseProblem::DigitsOnly)?;
        return check_pin(passphrase, digits);
    }
    if characters < CHARACTERS_MIN {
        return Err(PassphraseProblem::TooShort);
    }
    let mut all = passphrase.chars();
    let first = all.next();
    if all.all(|c| Some(c) == first) {
        return Err(PassphraseProblem::AllSame);
    }
    Ok(Choice::Passphrase)
}

fn check_pin(pin: &str, digits: usize) -> Result<Choice, PassphraseProblem> {
    if digits < PIN_DIGITS_MIN {
        return Err(PassphraseProblem::PinTooShort);
    }
    let values: Vec<u32> = pin.chars().filter_map(|c| c.to_digit(10)).collect();
    let steps = || values.iter().zip(values.iter().skip(1)).map(|(a, b)| (b + 10 - a) % 10);
    // Digits of another script, or one step all the way: 111111, 123456, 987654, 890123.
    if values.len() != digits || [0, 1, 9].iter().any(|step| steps().all(|found| found == *step)) {
        return Err(PassphraseProblem::PinTooEasy);
    }
    Ok(Choice::Pin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems() {
        let no_chip = PassphraseProblem::DigitsOnly(Uncounted::NoHardware);
        let cases = [
            ("", Some(PassphraseProblem::TooShort)),
            ("short words", Some(PassphraseProblem::TooShort)),
            ("1234", Some(no_chip)),
            ("123456789012345", Some(no_chip)),
            ("12-34-56 789.012", Some(no_chip)),
            ("1234567890123456", None),
            ("aaaaaaaaaaaaaaaa", Some(PassphraseProblem::AllSame)),
            ("0000000000000000", Some(PassphraseProblem::AllSame)),
            ("tractor pebble", None),
            ("\u{e9}\u{e8}\u{e9}\u{e8}\u{e9}\u{e8}\u{e9}\u{e8}\u{e9}\u{e8}\u{e9}\u{e8}", None),
        ];
        for (passphrase, expected) in cases {
            assert_eq!(check_passphrase(passphrase).err(), expected, "{passphrase}");
        }
        assert!(no_chip.to_string().contains("use four words, or at least 16 digits"));
    }

    #[test]
    fn pins_where_hardware_counts_and_nowhere_else() {
        let cases = [
            ("80412", Err(PassphraseProblem::PinTooShort)),
            ("1-2-3", Err(PassphraseProblem::PinTooShort)),
            ("804127", Ok(Choice::Pin)),
            ("804 127", Ok(Choice::Pin)),
            ("111111", Err(PassphraseProblem::PinTooEasy)),
            ("123456", Err(PassphraseProblem::PinTooEasy)),
            ("8765432", Err(PassphraseProblem::PinTooEasy)),
            ("890123", Err(PassphraseProblem::PinTooEasy)),
            ("\u{661}\u{665}\u{662}\u{669}\u{663}\u{660}", Err(PassphraseProblem::PinTooEasy)),
            ("1234567890123456", Ok(Choice::Passphrase)),
            ("tractor pebble", Ok(Choice::Passphrase)),
            ("short", Err(PassphraseProblem::TooShort)),
        ];
        for (secret, expected) in cases {
            assert_eq!(check_new(secret, || Ok(())), expected, "{secret}");
        }
        for why in [Uncounted::NoHardware, Uncounted::Off, Uncounted::NoLockoutPassword, Uncounted::TooQuick] {
            assert_eq!(check_new("804127", || Err(why)), Err(PassphraseProblem::DigitsOnly(why)));
            assert_eq!(check_new("tractor pebble", || Err(why)), Ok(Choice::Passphrase));
        }
    }
}
