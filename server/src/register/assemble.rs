//! Puts the rows of one person together.
//! It must not choose between rows that disagree: they are refused.

use std::collections::HashMap;

use cpis_protocol::nhs::NhsNumber;

use super::check::Fields;
use super::refusal::Fault;
use super::{Change, PersonRow};

/// Plans of one person in one file; bounds the work of comparing them.
pub(super) const PLANS_MAX: usize = 64;

/// The changes so far, in the order in which each number first came.
#[derive(Debug)]
pub(super) struct Assembler {
    fields: &'static Fields,
    places: HashMap<NhsNumber, usize>,
    changes: Vec<Change>,
}

impl Assembler {
    pub(super) fn new(fields: &'static Fields) -> Self {
        Self { fields, places: HashMap::new(), changes: Vec::new() }
    }

    /// Adds a person, or the plans of one who is there with the same details.
    pub(super) fn put(&mut self, person: PersonRow) -> Result<(), Fault> {
        let fields = self.fields;
        let number = person.number;
        match self.places.get(&number).and_then(|place| self.changes.get_mut(*place)) {
            None => {
                self.places.insert(number, self.changes.len());
                self.changes.push(Change::Put(person));
                Ok(())
            }
            Some(Change::Delete(_)) => Err(put_and_delete(fields)),
            Some(Change::Put(known)) => merge(fields, known, person),
        }
    }

    /// Takes a number out.
    pub(super) fn delete(&mut self, number: NhsNumber) -> Result<(), Fault> {
        match self.places.get(&number).and_then(|place| self.changes.get(*place)) {
            None => {
                self.places.insert(number, self.changes.len());
                self.changes.push(Change::Delete(number));
                Ok(())
            }
            Some(Change::Put(_)) => Err(put_and_delete(self.fields)),
            Some(Change::Delete(_)) => {
                Err(Fault::new(self.fields.number, "duplicate-row", "the number is deleted twice: take one row out"))
            }
        }
    }

    pub(super) fn finish(self) -> Vec<Change> {
        self.changes
    }
}

fn put_and_delete(fields: &Fields) -> Fault {
    Fault::new(
        fields.number,
        "put-and-delete",
        "the file both puts and deletes this number: keep one; a number that was replaced is deleted only",
    )
}

fn merge(fields: &Fields, known: &mut PersonRow, person: PersonRow) -> Result<(), Fault> {
    if known.birth != person.birth {
        return Err(Fault::new(
            fields.birth,
            "conflicting-birth-date",
            "another row gives this number another date of birth: trace the person",
        ));
    }
    for (field, same) in [
        (fields.surname, known.surname == person.surname),
        (fields.given, known.given == person.given),
        (fields.postcode, known.postcode == person.postcode),
        (fields.number, known.restricted == person.restricted),
    ] {
        if !same {
            return Err(Fault::new(
                field,
                "conflicting-person",
                "another row gives this number other details (name, postcode or restricted): make them the same",
            ));
        }
    }
    for plan in person.plans {
        if known.plans.contains(&plan) {
            return Err(Fault::new(fields.plan, "duplicate-row", "the same plan is given twice: take one out"));
        }
        let same = |other: &&super::PlanRow| {
            (other.kind, other.authority, other.start) == (plan.kind, plan.authority, plan.start)
        };
        if known.plans.iter().any(|other| same(&other)) {
            return Err(Fault::new(
                fields.plan,
                "conflicting-plan",
                "the same plan is given twice with another end or due date: keep the right one",
            ));
        }
        if known.plans.len() >= PLANS_MAX {
            return Err(Fault::new(
                fields.plan,
                "too-many-plans",
                "one person has more than 64 plans: check the export",
            ));
        }
        known.plans.push(plan);
    }
    Ok(())
}
