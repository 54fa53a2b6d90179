//! Under which questions a person is filed in a feed, and at which place among those who share one.
//! It must not lose anybody silently: who finds no place is counted and told, and gets the next one that falls free.

use std::collections::BTreeSet;

use cpis_protocol::cell::SHARED_TOKEN_MAX;
use cpis_protocol::digest::{self, Hash};
use cpis_protocol::id::{FeedId, PractitionerId, RegisterSeq, UnixMs};
use cpis_protocol::query::{Path, Query};
use cpis_protocol::question;
use cpis_protocol::seal::Key;

use crate::port::{AlertKind, NewAlert, Person, PersonId, StoreError, Tx};

/// The place of a slot; none for a number that is a wait.
#[must_use]
pub fn place(seat: u32) -> Option<u8> {
    u8::try_from(seat).ok().filter(|seat| *seat < SHARED_TOKEN_MAX)
}

/// Who waits for a place, while a publication is under way.
#[derive(Debug, Default)]
pub struct Crowd {
    /// One has fallen free for them.
    pub moved: BTreeSet<PersonId>,
    waiting: BTreeSet<(PersonId, FeedId)>,
}

impl Crowd {
    /// A person has these places in a feed from now on.
    pub fn seated(&mut self, id: PersonId, feed: FeedId, seats: &[u32]) {
        if seats.iter().all(|seat| place(*seat).is_some()) {
            self.waiting.remove(&(id, feed));
        } else {
            self.waiting.insert((id, feed));
        }
    }

    /// Raises an alert where somebody who was sealed is not found by all that they should be found by; gives how many
    /// people these are. It is one alert for each publication, however often its cells are sealed anew.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tell<T: Tx>(&self, tx: &T, gseq: RegisterSeq, now_ms: UnixMs) -> Result<u64, StoreError> {
        let people = self.waiting.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>().len() as u64;
        if people > 0 {
            let kind = AlertKind::Crowded;
            let once = digest::hash("cpis-edge/1/alert", &[kind.code().as_bytes(), &gseq.to_be_bytes()]);
            let practitioner = PractitionerId::EMPTY;
            let (device, at_ms, seq, count, adds) = (None, now_ms, 0, people, false);
            tx.raise(&NewAlert { kind, device, practitioner, at_ms, seq, count, once, adds })?;
        }
        Ok(people)
    }
}

/// The questions under which a person is filed; the first is by NHS number.
#[must_use]
pub fn questions(person: &Person) -> Vec<Query> {
    question::slots(&question::Person {
        number: person.number,
        birth: person.birth,
        surname: &person.surname,
        given: &person.given,
        postcode: &person.postcode,
        restricted: person.restricted,
    })
}

/// A question in the database: a keyed hash, so that the file alone answers no guess.
fn keyed(storage: &Key, query: &Query) -> Hash {
    digest::prf(storage.expose(), &[b"cpis-edge/1/seat\0", query.expose()].concat())
}

/// Gives a person a place for each question, keeps the places that they have, and leaves those of questions that are
/// theirs no more. The place by NHS number is always the first: the register has each number once. A place of
/// [`SHARED_TOKEN_MAX`] or above is a wait: no slot of a cell has it. Whoever may move up goes into `moved`.
///
/// # Errors
/// [`StoreError`].
pub fn seats<T: Tx>(
    tx: &T,
    storage: &Key,
    id: PersonId,
    feed: FeedId,
    queries: &[Query],
    moved: &mut BTreeSet<PersonId>,
) -> Result<Vec<u32>, StoreError> {
    let names = |query: &Query| (query.path() != Path::NhsNumber).then(|| keyed(storage, query));
    let wanted: Vec<Option<Hash>> = queries.iter().map(names).collect();
    let had = tx.seats(id, feed)?;
    let full = u32::from(SHARED_TOKEN_MAX);
    for (question, _) in &had {
        if !wanted.contains(&Some(*question)) {
            tx.leave_seat(id, feed, question)?;
            // Also from a wait: perhaps this one was the next for a place that has fallen free.
            moved.extend(tx.seated_from(feed, question, full)?);
        }
    }
    let mut place = |question: &Option<Hash>| {
        let Some(question) = question else { return Ok(0) };
        match had.iter().find(|(other, _)| other == question) {
            Some((_, seat)) if *seat < full => Ok(*seat),
            // Waits: perhaps one has fallen free.
            Some(_) => {
                tx.leave_seat(id, feed, question)?;
                let seat = tx.take_seat(id, feed, question)?;
                if seat < full {
                    // Another may have fallen free at the same time: the next who waits tries as well.
                    moved.extend(tx.seated_from(feed, question, full)?);
                }
                Ok(seat)
            }
            None => tx.take_seat(id, feed, question),
        }
    };
    wanted.iter().map(&mut place).collect()
}

#[cfg(test)]
mod tests;
