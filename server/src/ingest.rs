//! Takes an extract into the register: all of it or nothing, and only what is really new gets a register sequence.
//! It must not read files or formats (that is [`crate::register`]) nor make cells (that is [`crate::publish`]).

use std::collections::{BTreeMap, BTreeSet};

use cpis_protocol::answer::admit_number;
use cpis_protocol::digest::Hash;
use cpis_protocol::id::{AuthorityCode, RegisterSeq, UnixMs};
use cpis_protocol::nhs::NhsNumber;

use crate::port::{AuthorityEntry, IngestRow, Person, PersonPlan, Store, StoreError, Tx};
use crate::register::{AuthorityRow, Change, Extract, PersonRow, known_authorities, visible_until_min};

/// Why an extract was not taken. Nothing of it is in the register then.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Real numbers in a synthetic deployment.
    #[error("{0} of the NHS numbers are not test numbers (999 range), and this deployment is synthetic")]
    RealNumbers(usize),
    /// Numbers that England did not issue, test numbers included, in a real deployment.
    #[error("{0} of the NHS numbers are test numbers or were not issued in England and Wales")]
    NotEngland(usize),
    /// More authorities than records can name.
    #[error("there are more authorities than the format can number")]
    TooManyAuthorities,
    /// Another authority has given plans for the same number with another date of birth.
    #[error("a person is given with another date of birth than the one under which another authority's plans stand")]
    AnotherBirth,
    /// Carries the result of a rehearsal out of the transaction that is undone.
    #[error("rehearsal")]
    Rehearsed(Box<Applied>),
}

/// Where an extract comes from.
#[derive(Debug, Clone)]
pub struct Source {
    /// `csv`, `fhir`, `synthetic`.
    pub kind: &'static str,
    /// Hash of the content: the same content twice changes nothing.
    pub hash: Hash,
    /// Takes content in again that was taken in before.
    pub again: bool,
    /// Says what would happen, and does nothing.
    pub rehearse: bool,
    /// Leaves out a record whose NHS number another person of the register has: invented people must not replace
    /// each other.
    pub keep_others: bool,
}

/// What an extract did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Records in it.
    pub records: u64,
    /// Persons added.
    pub added: u64,
    /// Persons changed.
    pub changed: u64,
    /// Persons taken out.
    pub removed: u64,
    /// Records that say what the register already says.
    pub unchanged: u64,
    /// Records left out because another person has the number.
    pub left_out: u64,
    /// Authorities added or changed.
    pub authorities: u64,
    /// The register sequence afterwards.
    pub gseq: RegisterSeq,
    /// The same content was taken in before, then; nothing was done.
    pub before: Option<UnixMs>,
}

/// Takes an extract in. `tick` is called with the number of records done.
///
/// # Errors
/// [`IngestError`].
pub fn apply<S: Store>(
    store: &S,
    extract: &Extract,
    source: &Source,
    synthetic: bool,
    now_ms: UnixMs,
    tick: &mut dyn FnMut(u64),
) -> Result<Applied, IngestError> {
    check_ranges(extract, synthetic)?;
    let result = store.write(|tx| {
        let applied = apply_in(tx, extract, source, now_ms, tick)?;
        if source.rehearse { Err(IngestError::Rehearsed(Box::new(applied))) } else { Ok(applied) }
    });
    match result {
        Err(IngestError::Rehearsed(applied)) => Ok(*applied),
        other => other,
    }
}

fn check_ranges(extract: &Extract, synthetic: bool) -> Result<(), IngestError> {
    let outside = extract.changes.iter().filter(|change| admit_number(number_of(change), synthetic).is_err()).count();
    match (outside, synthetic) {
        (0, _) => Ok(()),
        (outside, true) => Err(IngestError::RealNumbers(outside)),
        (outside, false) => Err(IngestError::NotEngland(outside)),
    }
}

fn number_of(change: &Change) -> NhsNumber {
    match change {
        Change::Put(person) => person.number,
        Change::Delete(number) => *number,
    }
}

fn apply_in<T: Tx>(
    tx: &T,
    extract: &Extract,
    source: &Source,
    now_ms: UnixMs,
    tick: &mut dyn FnMut(u64),
) -> Result<Applied, IngestError> {
    if let Some(row) = tx.ingested(&source.hash)?.filter(|_| !source.again) {
        return Ok(Applied {
            before: Some(row.at_ms),
            records: row.records,
            gseq: tx.last_gseq()?,
            ..Applied::default()
        });
    }
    let mut applied = Applied { records: extract.changes.len() as u64, ..Applied::default() };
    let numbers = take_authorities(tx, extract, now_ms, &mut applied)?;
    for (change, done) in extract.changes.iter().zip(1..) {
        match change {
            Change::Put(row) => put(tx, row, &numbers, source, now_ms, &mut applied)?,
            Change::Delete(number) => {
                if let Some(id) = tx.person_id(*number)? {
                    tx.delete_person(id)?;
                    tx.log_change(Some(id), now_ms)?;
                    applied.removed += 1;
                } else {
                    applied.unchanged += 1;
                }
            }
        }
        tick(done);
    }
    applied.gseq = tx.last_gseq()?;
    tx.put_ingested(&IngestRow {
        hash: source.hash,
        at_ms: now_ms,
        source: source.kind.to_owned(),
        records: applied.records,
        changed: applied.added + applied.changed + applied.removed,
    })?;
    Ok(applied)
}

fn put<T: Tx>(
    tx: &T,
    row: &PersonRow,
    numbers: &BTreeMap<AuthorityCode, u16>,
    source: &Source,
    now_ms: UnixMs,
    applied: &mut Applied,
) -> Result<(), IngestError> {
    let mut person = person_of(row, numbers)?;
    let before = match tx.person_id(row.number)? {
        Some(id) => tx.person(id)?,
        None => None,
    };
    let another =
        |old: &Person| (old.birth, &old.surname, &old.given) != (person.birth, &person.surname, &person.given);
    if source.keep_others && before.as_ref().is_some_and(another) {
        applied.left_out += 1;
        return Ok(());
    }
    if let Some(before) = &before {
        keep_plans_of_others(&mut person, before)?;
    }
    if before.as_ref() == Some(&person) {
        applied.unchanged += 1;
        return Ok(());
    }
    let id = tx.put_person(&person)?;
    tx.log_change(Some(id), now_ms)?;
    if before.is_some() {
        applied.changed += 1;
    } else {
        applied.added += 1;
    }
    Ok(())
}

/// A source speaks for the authorities that it names: what others said of the same child stands, or one authority's
/// extract would take another's plan away, and a crew would be told that there is none.
fn keep_plans_of_others(person: &mut Person, before: &Person) -> Result<(), IngestError> {
    let named: BTreeSet<u16> = person.plans.iter().map(|plan| plan.authority).collect();
    let others: Vec<_> = before.plans.iter().filter(|plan| !named.contains(&plan.authority)).cloned().collect();
    if others.is_empty() {
        return Ok(());
    }
    if before.birth != person.birth {
        // Taking it would make the other authority's plan unfindable under the date that it was given with.
        return Err(IngestError::AnotherBirth);
    }
    person.plans.extend(others);
    person.plans.sort();
    person.restricted |= before.restricted;
    Ok(())
}

fn person_of(row: &PersonRow, numbers: &BTreeMap<AuthorityCode, u16>) -> Result<Person, IngestError> {
    let plan = |plan: &crate::register::PlanRow| -> Result<PersonPlan, IngestError> {
        Ok(PersonPlan {
            kind: plan.kind,
            authority: *numbers.get(&plan.authority).ok_or(IngestError::TooManyAuthorities)?,
            start: plan.start,
            end: plan.end,
            due: plan.due,
            visible_until_min: visible_until_min(plan),
        })
    };
    let mut plans = row.plans.iter().map(plan).collect::<Result<Vec<_>, _>>()?;
    plans.sort();
    Ok(Person {
        number: row.number,
        birth: row.birth,
        surname: row.surname.clone(),
        given: row.given.clone(),
        postcode: row.postcode.clone(),
        restricted: row.restricted,
        plans,
    })
}

/// Adds the authorities of the extract, and those that only its plans name, and gives everybody's number.
fn take_authorities<T: Tx>(
    tx: &T,
    extract: &Extract,
    now_ms: UnixMs,
    applied: &mut Applied,
) -> Result<BTreeMap<AuthorityCode, u16>, IngestError> {
    let mut known: BTreeMap<AuthorityCode, AuthorityEntry> =
        tx.authorities()?.into_iter().map(|entry| (entry.code, entry)).collect();
    let mut wanted: BTreeMap<AuthorityCode, AuthorityRow> =
        extract.authorities.iter().map(|row| (row.code, row.clone())).collect();
    for change in &extract.changes {
        let Change::Put(person) = change else { continue };
        for plan in &person.plans {
            if !known.contains_key(&plan.authority) && !wanted.contains_key(&plan.authority) {
                wanted.insert(plan.authority, nameless(plan.authority));
            }
        }
    }
    for (code, row) in wanted {
        let old = known.get(&code);
        let keep = |new: &str, old: Option<&String>| match old {
            // An empty telephone number says nothing: the one that is known stays.
            Some(old) if new.is_empty() => old.clone(),
            Some(_) | None => new.to_owned(),
        };
        let name = keep(&row.name, old.map(|old| &old.name));
        let office_phone = keep(&row.office_phone, old.map(|old| &old.office_phone));
        let duty_phone = keep(&row.duty_phone, old.map(|old| &old.duty_phone));
        let same =
            old.is_some_and(|old| old.name == name && old.office_phone == office_phone && old.duty_phone == duty_phone);
        if same {
            continue;
        }
        let number = tx.put_authority(code, &name, &office_phone, &duty_phone)?;
        tx.log_change(None, now_ms)?;
        applied.authorities += 1;
        known.insert(code, AuthorityEntry { number, code, name, office_phone, duty_phone });
    }
    Ok(known.into_iter().map(|(code, entry)| (code, entry.number)).collect())
}

/// An authority of which a source says only the code.
fn nameless(code: AuthorityCode) -> AuthorityRow {
    let name = known_authorities().iter().find(|known| known.code == code).map(|known| known.name.clone());
    let name = name.unwrap_or_else(|| code.as_str().to_owned());
    AuthorityRow { code, name, office_phone: String::new(), duty_phone: String::new() }
}
