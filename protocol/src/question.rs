//! The questions under which the register files one person, and those that a device asks for what was typed.
//! It must not decide whom an answer is about: a name is never a match by itself.

use alloc::vec::Vec;
use serde::Serialize;

use crate::Refusal;
use crate::cell::SLOTS;
use crate::name::{Given, Surname};
use crate::nhs::{Date, NhsNumber};
use crate::postcode::Postcode;
use crate::query::Query;

/// Questions that one look-up by name asks at most: each costs one memory-hard step, on a hit and on a miss.
pub const QUESTIONS_MAX: usize = 7; // R218

/// One person as the register knows them. No `Debug`: these are the details themselves.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations)]
pub struct Person<'a> {
    /// The NHS number.
    pub number: NhsNumber,
    /// The date of birth.
    pub birth: Date,
    /// The surname; the whole name of somebody with a single one.
    pub surname: &'a str,
    /// Given names, or nothing.
    pub given: &'a str,
    /// The postcode, or nothing.
    pub postcode: &'a str,
    /// Found by NHS number only.
    pub restricted: bool,
}

/// What was typed, when there is no NHS number.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations)]
pub struct Asked<'a> {
    /// The surname.
    pub surname: &'a str,
    /// Given names.
    pub given: &'a str,
    /// The date of birth.
    pub birth: Date,
    /// The full postcode, when known.
    pub postcode: Option<&'a Postcode>,
}

/// In which way a question differs from what was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// It does not, but for case, accents, hyphens, apostrophes and short forms.
    AsTyped,
    /// By the sound of the surname, with the postcode; the given name is not looked at.
    SoundAndPostcode,
    /// Surname and given name exchanged.
    NamesSwapped,
    /// Day and month of birth exchanged.
    DayAndMonthSwapped,
    /// One part of the surname.
    PartOfSurname,
    /// Another of the given names, or all of them in one word.
    OtherGivenName,
}

struct Names {
    surname: Surname,
    given: Given,
}

impl Names {
    /// Somebody with a single name has it as the surname, whichever field (or both) it stands in.
    fn read(surname: &str, given: &str) -> Result<Self, Refusal> {
        let names = Self { surname: Surname::read(surname)?, given: Given::read(given)? };
        if names.given.is_empty() {
            return Ok(names);
        }
        let given_as_surname = Surname::read(given)?;
        if names.surname.is_empty() || names.surname.full() == given_as_surname.full() {
            return Ok(Self { surname: given_as_surname, given: Given::read("")? }); // R211
        }
        Ok(names)
    }
}

/// A list of questions, each once.
struct List<W>(Vec<(W, Query)>, usize);

impl<W> List<W> {
    fn add(&mut self, way: W, query: Query) {
        if self.0.len() < self.1 && !self.0.iter().any(|(_, other)| other.expose() == query.expose()) {
            self.0.push((way, query));
        }
    }
}

/// The questions under which a person is filed: at most [`SLOTS`], the first by NHS number. That one alone for a
/// restricted person, and for somebody whose name does not fold to A to Z.
#[must_use]
pub fn slots(person: &Person<'_>) -> Vec<Query> {
    let mut list = List(Vec::with_capacity(SLOTS), SLOTS);
    list.add((), Query::nhs_number(person.number, person.birth));
    if !person.restricted
        && let Ok(names) = Names::read(person.surname, person.given)
        && !names.surname.is_empty()
    {
        let (surname, given) = (names.surname.full(), names.given.first());
        list.add((), Query::name(&surname, &given, person.birth)); // R217
        if let Some(query) = person.postcode.parse().ok().and_then(|code| by_sound(&names.surname, person.birth, &code))
        {
            list.add((), query);
        }
        if let Some((first, last)) = names.surname.ends() {
            list.add((), Query::name(first, &given, person.birth));
            list.add((), Query::name(last, &given, person.birth));
        }
        if let Some(other) = names.given.other() {
            list.add((), Query::name(&surname, &other, person.birth));
        }
    }
    list.0.into_iter().map(|((), query)| query).collect()
}

/// The questions for what was typed, at most [`QUESTIONS_MAX`], the likeliest first. All are asked, whatever the first
/// ones find.
///
/// # Errors
/// [`Refusal::Malformed`] without a name, or with letters that do not fold to A to Z; [`Refusal::TooLarge`].
pub fn questions(asked: &Asked<'_>) -> Result<Vec<(Way, Query)>, Refusal> {
    let names = Names::read(asked.surname, asked.given)?;
    if names.surname.is_empty() {
        return Err(Refusal::Malformed);
    }
    let (surname, given) = (names.surname.full(), names.given.first());
    let mut list = List(Vec::with_capacity(QUESTIONS_MAX), QUESTIONS_MAX);
    list.add(Way::AsTyped, Query::name(&surname, &given, asked.birth));
    if let Some(query) = asked.postcode.and_then(|code| by_sound(&names.surname, asked.birth, code)) {
        list.add(Way::SoundAndPostcode, query);
    }
    if !names.given.is_empty() {
        let (surname, given) = (Surname::read(asked.given)?.full(), Given::read(asked.surname)?.first());
        list.add(Way::NamesSwapped, Query::name(&surname, &given, asked.birth));
    }
    if let Some(birth) = asked.birth.transposed() {
        list.add(Way::DayAndMonthSwapped, Query::name(&surname, &given, birth));
    }
    if let Some((first, last)) = names.surname.ends() {
        list.add(Way::PartOfSurname, Query::name(first, &given, asked.birth));
        list.add(Way::PartOfSurname, Query::name(last, &given, asked.birth));
    }
    if let Some(other) = names.given.other() {
        list.add(Way::OtherGivenName, Query::name(&surname, &other, asked.birth));
    }
    if !given.is_empty() {
        // A newborn may be filed before it has a given name: it must not be missed because one is known by now.
        list.add(Way::OtherGivenName, Query::name(&surname, "", asked.birth));
    }
    Ok(list.0)
}

/// Not where the postcode names no place: the space of sounds and birth dates alone is too small.
fn by_sound(surname: &Surname, birth: Date, postcode: &Postcode) -> Option<Query> {
    let sound = surname.sound();
    (!sound.is_empty() && postcode.is_place()).then(|| Query::phonetic(&sound, birth, postcode)) // R216
}

#[cfg(test)]
mod tests;
