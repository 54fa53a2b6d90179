//! What a passphrase must at least be where no hardware counts the attempts.
//! It must not keep, print or measure anything else of the passphrase.

/// The least number of characters.
pub const CHARACTERS_MIN: usize = 12;
/// The least number of digits when there is nothing else.
pub const DIGITS_MIN: usize = 16;

/// Why a passphrase is refused, and what to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassphraseProblem {
    /// Shorter than [`CHARACTERS_MIN`].
    #[error("too short: use at least {CHARACTERS_MIN} characters, e.g. four words that have nothing in common")]
    TooShort,
    /// Digits only, and fewer than [`DIGITS_MIN`]: all of them can be tried in days.
    #[error(
        "a number of fewer than {DIGITS_MIN} digits is a PIN, and this device has no chip that counts attempts: \
         use four words, or at least {DIGITS_MIN} digits"
    )]
    DigitsOnly,
    /// One character again and again.
    #[error("the same character again and again: use four words that have nothing in common")]
    AllSame,
}

/// Checks a new passphrase.
///
/// # Errors
/// [`PassphraseProblem`].
pub fn check_passphrase(passphrase: &str) -> Result<(), PassphraseProblem> {
    let characters = passphrase.chars().count();
    // Digits of any script, and what people put between groups of them.
    let digits = passphrase.chars().filter(|c| c.is_numeric()).count();
    let separators = passphrase.chars().filter(|c| c.is_whitespace() || matches!(c, '-' | '.' | '/')).count();
    if digits > 0 && digits + separators == characters && digits < DIGITS_MIN {
        return Err(PassphraseProblem::DigitsOnly);
    }
    if characters < CHARACTERS_MIN {
        return Err(PassphraseProblem::TooShort);
    }
    let mut all = passphrase.chars();
    let first = all.next();
    if all.all(|c| Some(c) == first) {
        return Err(PassphraseProblem::AllSame);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems() {
        let cases = [
            ("", Some(PassphraseProblem::TooShort)),
            ("short words", Some(PassphraseProblem::TooShort)),
            ("1234", Some(PassphraseProblem::DigitsOnly)),
            ("123456789012345", Some(PassphraseProblem::DigitsOnly)),
            ("12-34-56 789.012", Some(PassphraseProblem::DigitsOnly)),
            ("1234567890123456", None),
            ("aaaaaaaaaaaaaaaa", Some(PassphraseProblem::AllSame)),
            ("0000000000000000", Some(PassphraseProblem::AllSame)),
            ("tractor pebble", None),
            ("\u{e9}\u{e8}\u{e9}\u{e8}\u{e9}\u{e8}\u{e9}\u{e8}\u{e9}\u{e8}\u{e9}\u{e8}", None),
        ];
        for (passphrase, expected) in cases {
            assert_eq!(check_passphrase(passphrase).err(), expected, "{passphrase}");
        }
        assert!(PassphraseProblem::DigitsOnly.to_string().contains("use four words, or at least 16 digits"));
    }
}
