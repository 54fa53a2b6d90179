//! Writes the CSV extract that [`super::read_csv`] reads: for demonstrations and tests.
//! It must not be given a way around the rules of the reader: what it writes is read back or refused like any file.

use cpis_protocol::nhs::Date;

use super::csv_read::{AUTHORITY_COLUMNS, PLAN_COLUMNS};
use super::{Change, Extract, RegisterError};

/// The plans, one line each, in the columns [`PLAN_COLUMNS`].
///
/// # Errors
/// [`RegisterError::Write`].
pub fn write_plans_csv(extract: &Extract) -> Result<Vec<u8>, RegisterError> {
    let mut out = writer();
    row(&mut out, &PLAN_COLUMNS)?;
    let date = |date: Option<Date>| date.map(Date::iso).unwrap_or_default();
    for change in &extract.changes {
        match change {
            Change::Delete(number) => {
                row(&mut out, &[&number.digits(), "", "", "", "", "", "", "", "", "", "", "delete"])?;
            }
            Change::Put(person) => {
                let (number, birth) = (person.number.digits(), person.birth.iso());
                let restricted = if person.restricted { "true" } else { "false" };
                for plan in &person.plans {
                    let (start, end, due) = (date(plan.start), date(plan.end), date(plan.due));
                    let (given, postcode) = (person.given.as_str(), person.postcode.as_str());
                    let (kind, authority) = (plan.kind.code(), plan.authority.as_str());
                    let identity = [number.as_str(), &birth, &person.surname, given, postcode];
                    row(
                        &mut out,
                        &[&identity[..], &[kind, &start, &end, &due, authority, restricted, "put"]].concat(),
                    )?;
                }
            }
        }
    }
    out.into_inner().map_err(|_| RegisterError::Write)
}

/// The authorities with their telephone numbers, in the columns [`AUTHORITY_COLUMNS`].
///
/// # Errors
/// [`RegisterError::Write`].
pub fn write_authorities_csv(extract: &Extract) -> Result<Vec<u8>, RegisterError> {
    let mut out = writer();
    row(&mut out, &AUTHORITY_COLUMNS)?;
    for authority in &extract.authorities {
        row(&mut out, &[authority.code.as_str(), &authority.name, &authority.office_phone, &authority.duty_phone])?;
    }
    out.into_inner().map_err(|_| RegisterError::Write)
}

fn writer() -> csv::Writer<Vec<u8>> {
    csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new())
}

fn row(out: &mut csv::Writer<Vec<u8>>, values: &[&str]) -> Result<(), RegisterError> {
    out.write_record(values).map_err(|_| RegisterError::Write)
}
