//! Searches files for what must not be readable in them: identifiers in every encoding that a program would use.
//! It must not look for what chance makes: needles are long enough, and five-byte ones are counted apart.

use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use anyhow::Context as _;
use cpis_protocol::nhs::{Date, NhsNumber};

/// Letters that a name needs to be searched for: a shorter one occurs by chance, or in ordinary words.
pub const NAME_LETTERS_MIN: usize = 6;

/// One thing to look for.
#[derive(Debug, Clone)]
pub struct Needle {
    /// What it is, without saying whose.
    pub what: &'static str,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A number: ten digits, 3-3-4 with spaces and hyphens, 64 bits in both orders, packed decimal.
#[must_use]
pub fn of_number(number: NhsNumber) -> Vec<Needle> {
    let digits = number.digits();
    let packed = digits.as_bytes().chunks(2).map(|pair| (pair[0] - b'0') << 4 | (pair[1] - b'0')).collect();
    vec![
        needle("number, ten digits", digits.into_bytes()),
        needle("number, 3-3-4", number.grouped().into_bytes()),
        needle("number, 3-3-4 with hyphens", number.grouped().replace(' ', "-").into_bytes()),
        needle("number, little endian", number.as_u64().to_le_bytes().to_vec()),
        needle("number, big endian", number.as_u64().to_be_bytes().to_vec()),
        needle("number, packed decimal", packed),
    ]
}

/// A date: ISO, compact, clinical, with slashes. Its two-byte day number occurs everywhere and cannot be searched for.
#[must_use]
pub fn of_date(date: Date) -> Vec<Needle> {
    let iso = date.iso();
    let slashes = iso.split('-').rev().collect::<Vec<_>>().join("/");
    vec![
        needle("date, compact", date.compact().into_bytes()),
        needle("date, clinical", date.clinical().into_bytes()),
        needle("date, slashes", slashes.into_bytes()),
        needle("date, ISO", iso.into_bytes()),
    ]
}

/// A name, as written, in capitals and in small letters, in UTF-8 and UTF-16; nothing when it is short.
#[must_use]
pub fn of_name(name: &str) -> Vec<Needle> {
    if name.chars().count() < NAME_LETTERS_MIN {
        return Vec::new();
    }
    let wide = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut needles: Vec<_> = [name.to_owned(), name.to_uppercase(), name.to_lowercase()]
        .into_iter()
        .map(|form| needle("name", form.into_bytes()))
        .collect();
    needles.push(needle("name, UTF-16", wide));
    needles
}

/// A telephone number, as written and without spaces.
#[must_use]
pub fn of_phone(phone: &str) -> Vec<Needle> {
    vec![
        needle("telephone", phone.as_bytes().to_vec()),
        needle("telephone without spaces", phone.replace(' ', "").into_bytes()),
    ]
}

/// Any secret text.
#[must_use]
pub fn of_text(what: &'static str, text: &str) -> Needle {
    needle(what, text.as_bytes().to_vec())
}

const fn needle(what: &'static str, bytes: Vec<u8>) -> Needle {
    Needle { what, bytes }
}

/// What was searched and found.
#[derive(Debug, Default)]
pub struct Searched {
    /// Files looked at.
    pub files: usize,
    /// Bytes looked at.
    pub bytes: u64,
    /// What was found where: the needle's kind, the place, the position.
    pub found: Vec<(&'static str, PathBuf, usize)>,
    /// Five-byte needles found: in encrypted data one is chance, several are not.
    pub short: Vec<(&'static str, PathBuf, usize)>,
}

/// Many needles at once.
#[derive(Debug)]
pub struct Search {
    needles: Vec<Needle>,
    automaton: AhoCorasick,
}

impl Search {
    /// Prepares the search.
    ///
    /// # Errors
    /// When there are too many needles.
    pub fn new(needles: Vec<Needle>) -> anyhow::Result<Self> {
        let automaton = AhoCorasick::new(needles.iter().map(|needle| &needle.bytes))?;
        Ok(Self { needles, automaton })
    }

    /// Searches bytes from `place`.
    pub fn bytes(&self, place: &Path, bytes: &[u8], searched: &mut Searched) {
        searched.bytes += bytes.len() as u64;
        for hit in self.automaton.find_overlapping_iter(bytes) {
            let Some(needle) = self.needles.get(hit.pattern().as_usize()) else { continue };
            let list = if needle.bytes.len() <= 5 { &mut searched.short } else { &mut searched.found };
            list.push((needle.what, place.to_path_buf(), hit.start()));
        }
    }

    /// Searches every file below a directory, and every file's name.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn directory(&self, directory: &Path, searched: &mut Searched) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            self.bytes(&path, path.as_os_str().as_encoded_bytes(), searched);
            if path.is_dir() {
                self.directory(&path, searched)?;
            } else if let Ok(bytes) = std::fs::read(&path) {
                // A file that goes away between the listing and the reading is no longer at rest.
                searched.files += 1;
                self.bytes(&path, &bytes, searched);
            }
        }
        Ok(())
    }
}
