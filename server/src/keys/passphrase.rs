//! What the passphrase of a root key must at least be: the file may be copied, and nothing counts the attempts.
//! It must not keep or print anything of the passphrase.

/// The least number of characters (NIST SP 800-63B-4, 3.1.1.2, where a passphrase stands alone).
pub const CHARACTERS_MIN: usize = 15;
/// The least number of different characters.
pub const DIFFERENT_MIN: usize = 6;

/// Why a passphrase is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakPassphrase {
    /// Too short.
    #[error("the passphrase of a root key has at least {CHARACTERS_MIN} characters: use five words drawn by lot")]
    TooShort,
    /// Few characters again and again, or a number.
    #[error("the passphrase is too easy to guess: use five words drawn by lot, not a number or a pattern")]
    TooPlain,
}

/// Checks a new passphrase.
///
/// # Errors
/// [`WeakPassphrase`].
pub fn check(passphrase: &str) -> Result<(), WeakPassphrase> {
    if passphrase.chars().count() < CHARACTERS_MIN {
        return Err(WeakPassphrase::TooShort);
    }
    let mut different: Vec<char> = passphrase.chars().filter(|c| !c.is_whitespace()).collect();
    different.sort_unstable();
    different.dedup();
    let number = different.iter().all(|c| c.is_numeric() || c.is_ascii_punctuation());
    if number || different.len() < DIFFERENT_MIN { Err(WeakPassphrase::TooPlain) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_ones_are_refused() {
        let cases = [
            ("", Some(WeakPassphrase::TooShort)),
            ("correct horse", Some(WeakPassphrase::TooShort)),
            ("aaaaaaaaaaaaaaaa", Some(WeakPassphrase::TooPlain)),
            ("abcabcabcabcabcabc", Some(WeakPassphrase::TooPlain)),
            ("1234-5678-9012-3456", Some(WeakPassphrase::TooPlain)),
            ("tractor pebble onion lamp sky", None),
        ];
        for (passphrase, expected) in cases {
            assert_eq!(check(passphrase).err(), expected, "{passphrase}");
        }
    }
}
