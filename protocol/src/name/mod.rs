//! Names of people in the one form that the register and a device compare, so that case, accents, hyphens, apostrophes
//! and short forms do not hide a child. It must not guess: what the rules do not bring to A to Z is no name here.
//!
//! These rules are part of format 1 and frozen by vectors (R210 to R215). A change of any of them, or of a table, is
//! another question for the same person, so it takes a new path number. New versions of Unicode cannot change them:
//! its stability policy keeps the decomposition of every assigned character.

mod given;
mod metaphone;
mod surname;

use alloc::string::String;
use alloc::vec::Vec;
use unicode_normalization::char::{decompose_compatible, is_combining_mark};
use zeroize::Zeroizing;

use crate::{Refusal, limits};

pub use given::Given;
pub use surname::Surname;

/// A word in capitals A to Z, never empty.
type Word = Zeroizing<String>;

/// Characters that are written inside a name and say nothing: apostrophes in all their forms.
const APOSTROPHES: [char; 13] = [
    '\'', '`', '\u{b4}', '\u{2b9}', '\u{2bb}', '\u{2bc}', '\u{2bd}', '\u{2bf}', '\u{2018}', '\u{2019}', '\u{201b}',
    '\u{2032}', '\u{ff07}',
];

/// The words of a name: apostrophes and marks dropped, letters folded to A to Z; whatever else stands between letters
/// (hyphens, spaces, full stops, digits) divides words.
///
/// # Errors
/// [`Refusal::TooLarge`] over [`limits::NAME_CHARS_MAX`] characters; [`Refusal::Malformed`] with a letter that does not
/// fold (another script): half a name would be somebody else's.
fn words(text: &str) -> Result<Vec<Word>, Refusal> {
    if text.chars().count() > limits::NAME_CHARS_MAX {
        return Err(Refusal::TooLarge);
    }
    let mut words: Vec<Word> = Vec::new();
    let mut word = new_word();
    let mut foreign = false;
    for c in text.chars().filter(|c| !APOSTROPHES.contains(c)) {
        decompose_compatible(c, |c| {
            if is_combining_mark(c) {
                return;
            }
            for c in c.to_uppercase() {
                match folded(c) {
                    Some(letters) => word.push_str(letters),
                    None if c.is_ascii_uppercase() => word.push(c),
                    None if c.is_alphabetic() => foreign = true,
                    None if !word.is_empty() => words.push(core::mem::replace(&mut word, new_word())),
                    None => {}
                }
            }
        });
    }
    if foreign {
        return Err(Refusal::Malformed); // R210
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// A name as the audit keeps it: its words in capitals A to Z, with a space between two.
///
/// # Errors
/// [`Refusal::TooLarge`], [`Refusal::Malformed`]: too long, or with letters that do not fold to A to Z.
pub fn plain(text: &str) -> Result<Zeroizing<String>, Refusal> {
    let mut out = new_word();
    for word in words(text)? {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&word);
    }
    Ok(out)
}

/// With room for any name that is taken, so that no half-written copy is left behind by growing.
fn new_word() -> Word {
    Zeroizing::new(String::with_capacity(limits::NAME_CHARS_MAX * 4))
}

/// Capital letters that no decomposition brings to A to Z.
const fn folded(c: char) -> Option<&'static str> {
    Some(match c {
        'Æ' => "AE",
        'Œ' => "OE",
        'Ø' => "O",
        'Đ' | 'Ð' => "D",
        'Ł' => "L",
        'Þ' => "TH",
        'ẞ' => "SS",
        'Ħ' => "H",
        'Ŧ' => "T",
        'Ŋ' => "N",
        'Ə' => "E",
        _ => return None,
    })
}

/// All words in one.
fn joined<'a>(words: impl IntoIterator<Item = &'a str>) -> Word {
    let mut out = new_word();
    words.into_iter().for_each(|word| out.push_str(word));
    out
}

/// Joins each particle to the word after it, so that `van der Berg` is one part and `Smith-Jones` two.
fn attach(words: &[Word], particles: &[&str]) -> Vec<Word> {
    let mut parts = Vec::with_capacity(words.len());
    let mut part = new_word();
    for (at, word) in words.iter().enumerate() {
        part.push_str(word);
        if at + 1 == words.len() || !particles.contains(&word.as_str()) {
            parts.push(core::mem::replace(&mut part, new_word()));
        }
    }
    parts
}

/// The head of the line of variants in which a word stands.
fn head_of(lines: &[&'static str], word: &str) -> Option<&'static str> {
    let stands = |line: &&&str| line.split(' ').any(|variant| variant == word);
    lines.iter().find(stands).and_then(|line| line.split(' ').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, Refusal> {
        words(text).map(|words| words.iter().map(|word| word.as_str().into()).collect())
    }

    #[test]
    fn letters_fold_and_the_rest_divides() {
        for (text, want) in [
            ("Zoë", "ZOE"),
            ("zoe\u{308}", "ZOE"),
            ("Łukasz", "LUKASZ"),
            ("Sørensen", "SORENSEN"),
            ("Guðmundsdóttir", "GUDMUNDSDOTTIR"),
            ("Þór", "THOR"),
            ("Weiß", "WEISS"),
            ("Æsa Œuvre", "AESA OEUVRE"),
            ("Yılmaz", "YILMAZ"),
            ("İpek", "IPEK"),
            ("Nguyễn", "NGUYEN"),
            ("O\u{2019}Brien", "OBRIEN"),
            ("O'Brien", "OBRIEN"),
            ("  smith \u{2010} JONES ", "SMITH JONES"),
            ("St. John", "ST JOHN"),
            ("\u{ff33}mith 2", "SMITH"),
            ("", ""),
            ("'-'", ""),
        ] {
            assert_eq!(read(text), Ok(want.split(' ').filter(|w| !w.is_empty()).map(Into::into).collect()), "{text}");
        }
        assert_eq!(read("Иванов"), Err(Refusal::Malformed));
        // Looks like Latin and is not: it must not turn into the half that folds.
        assert_eq!(read("Smit\u{4bb}"), Err(Refusal::Malformed));
        assert_eq!(read(&"x".repeat(65)), Err(Refusal::TooLarge));
    }

    proptest::proptest! {
        #[test]
        fn any_text_reads_to_capitals_or_not_at_all(text in ".{0,64}") {
            if let Ok(words) = words(&text) {
                for word in words {
                    proptest::prop_assert!(!word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase()));
                    proptest::prop_assert!(word.capacity() >= limits::NAME_CHARS_MAX * 4);
                }
            }
        }
    }
}
