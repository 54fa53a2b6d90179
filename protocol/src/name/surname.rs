//! A surname: its parts, the form in which it is compared, and how it sounds.
//! It must not fold what are different families to people, beyond the tables here.

use alloc::vec::Vec;

use super::{Word, attach, head_of, joined, metaphone, new_word, words};
use crate::Refusal;

/// Words that belong to the word after them: they are no part by themselves.
const PARTICLES: [&str; 54] = [
    "A", "ABD", "ABU", "AL", "AP", "BEN", "BIN", "BINT", "BON", "D", "DA", "DAL", "DAS", "DE", "DEL", "DELA", "DELLA",
    "DEN", "DER", "DES", "DI", "DO", "DOS", "DU", "EL", "FITZ", "IBN", "L", "LA", "LAS", "LE", "LES", "LOS", "MAC",
    "MC", "N", "NI", "O", "OP", "SAINT", "SAN", "SANTA", "ST", "TE", "TEN", "TER", "UL", "UR", "VAN", "VANDEN",
    "VANDER", "VER", "VON", "ZU",
];

/// One name in several spellings of its way into Latin letters; the first stands for all.
pub(super) const TRANSLITERATED: [&str; 36] = [
    "MUHAMMAD MOHAMMED MOHAMMAD MUHAMMED MOHAMED MOHAMAD MUHAMAD MUHAMED MOHD MUHD MD MAHOMED MAHAMED",
    "AHMED AHMAD AHMET AHAMED AHMMED",
    "MAHMOOD MAHMUD MEHMOOD MAHMOUD MEHMUD",
    "HUSSAIN HUSSEIN HUSAIN HUSEIN HOSSAIN HUSEYIN HOSSEIN HUSSIEN",
    "HASSAN HASAN",
    "SHEIKH SHAIKH SHEKH SHEIK SHAIK SHAYKH",
    "CHAUDHRY CHAUDHARY CHOUDHRY CHOUDHURY CHOWDHURY CHAUDRY CHOUDHARY CHAUDHURI CHOWDHRY CHAUDHURY",
    "SIDDIQUI SIDDIQI SIDDIQUE SIDDIQ SIDDIQE",
    "QURESHI QURAISHI KURESHI QUERESHI",
    "RAHMAN REHMAN RAHAMAN RAHMEN",
    "IQBAL EQBAL IKBAL",
    "AKHTAR AKTAR AKHTER AKTER",
    "BEGUM BEGAM BAGUM",
    "KHATUN KHATOON KHATON",
    "MIAH MIA MIYAH MEAH",
    "HAQ HAQUE HOQUE HUQ HAK",
    "UDDIN UDIN OODDIN",
    "YUSUF YOUSUF YUSEF YOUSEF YOUSSEF YOUSAF YUSAF YUSSUF",
    "IBRAHIM EBRAHIM IBRAHEEM IBRAAHIM EBRAHEEM",
    "ISMAIL ISMAEL ISMAEEL ISMAAIL",
    "ABDULLAH ABDULLA ABDALLAH ABDALLA ABDULAH",
    "ABDULRAHMAN ABDURRAHMAN ABDULREHMAN ABDURAHMAN ABDIRAHMAN",
    "OMAR UMAR OMER UMER",
    "OTHMAN USMAN OSMAN UTHMAN",
    "YASIN YASEEN YASSIN",
    "SALEEM SALIM SELIM",
    "KAREEM KARIM",
    "RASHEED RASHID",
    "AZEEZ AZIZ",
    "NASEER NASIR NASSER NASSIR",
    "JAVED JAVAID JAWAID JAWED",
    "SAEED SAID SAYEED SAEID",
    "SYED SAYED SAYYID SAYYED SAIYED",
    "FAROOQ FARUQ FAROUK FARUK FAROOK",
    "ZAKARIYA ZAKARIA ZAKARIYYA ZACHARIA",
    "SHARIF SHAREEF SHERIF",
];

/// A surname. `Debug` shows nothing of it.
pub struct Surname {
    /// Each in the form in which it is compared.
    parts: Vec<Word>,
}

impl core::fmt::Debug for Surname {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Surname([redacted])")
    }
}

impl Surname {
    /// Reads a surname as written; it may be empty.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`], [`Refusal::Malformed`]: too long, or with letters that do not fold to A to Z.
    pub fn read(text: &str) -> Result<Self, Refusal> {
        let parts = attach(&words(text)?, &PARTICLES);
        Ok(Self { parts: parts.iter().map(|part| form(part)).collect() })
    }

    /// Whether there is no letter in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// All parts in one word: `Smith-Jones`, `Smith Jones` and `SmithJones` are one surname.
    pub(crate) fn full(&self) -> Word {
        joined(self.parts.iter().map(|part| part.as_str())) // R212
    }

    /// The first and the last part of a double surname.
    pub(crate) fn ends(&self) -> Option<(&str, &str)> {
        match self.parts.as_slice() {
            [first, .., last] => Some((first, last)),
            [] | [_] => None,
        }
    }

    /// How the last part sounds, by Double Metaphone; empty where that gives nothing.
    pub(crate) fn sound(&self) -> Word {
        self.parts.last().map_or_else(new_word, |part| metaphone::primary(part)) // R215
    }
}

/// One part in the form that stands for its spellings (R213).
fn form(part: &str) -> Word {
    if let Some(head) = head_of(&TRANSLITERATED, part) {
        return joined([head]);
    }
    // Mac and Mc: MacDonald, McDonald.
    if let Some(rest) = part.strip_prefix("MAC").filter(|rest| rest.len() >= 3) {
        return joined(["MC", rest]);
    }
    // Brother and sister of one Slavic family: Kowalski, Kowalska; Petrov, Petrova.
    for (feminine, common) in [("SKA", "SKI"), ("CKA", "CKI"), ("DZKA", "DZKI"), ("OVA", "OV"), ("EVA", "EV")] {
        if let Some(stem) = part.strip_suffix(feminine).filter(|stem| stem.len() >= 3) {
            return joined([stem, common]);
        }
    }
    joined([part])
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn full(text: &str) -> String {
        Surname::read(text).unwrap_or_else(|e| panic!("{text}: {e}")).full().as_str().into()
    }

    #[test]
    fn spellings_of_one_surname() {
        for same in [
            &["Smith-Jones", "smith jones", "SmithJones", "SMITH \u{2013} JONES"][..],
            &["O'Brien", "O\u{2019}Brien", "OBrien", "O Brien", "Ó Brien"],
            &["MacDonald", "McDonald", "Mac Donald", "Mc Donald", "M\u{2019}cDonald"],
            &["van der Berg", "Van Der Berg", "Vanderberg", "van-der-berg"],
            &["Hussain", "Hussein", "HUSAIN"],
            &["Wiśniewski", "Wisniewska"],
            &["St. John", "St John", "St-John"],
        ] {
            for one in same {
                assert_eq!(full(one), full(same[0]), "{one}");
            }
        }
        for (one, other) in [("Mack", "Mck"), ("Ska", "Ski"), ("Smith", "Smyth"), ("Khan", "Kahn")] {
            assert_ne!(full(one), full(other));
        }
    }

    #[test]
    fn parts_and_particles() {
        let ends = |text: &str| {
            let name = Surname::read(text).unwrap_or_else(|e| panic!("{e}"));
            name.ends().map(|(first, last)| (String::from(first), String::from(last)))
        };
        assert_eq!(ends("Smith-Jones"), Some(("SMITH".into(), "JONES".into())));
        assert_eq!(ends("de la Cruz Santos"), Some(("DELACRUZ".into(), "SANTOS".into())));
        for one in ["van der Berg", "Al-Hassan", "O'Neill", "St. Hilaire", "Smith", "Le", ""] {
            assert_eq!(ends(one), None, "{one}");
        }
    }

    #[test]
    fn no_spelling_stands_twice() {
        let mut all: Vec<&str> = TRANSLITERATED.iter().flat_map(|line| line.split(' ')).collect();
        let before = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), before);
    }
}
