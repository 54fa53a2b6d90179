//! What the register takes in, from whatever source: an authority's CSV extract, FHIR bundles, or the synthetic
//! register. Bytes and parameters in, values out.
//! It must not read a clock, a file or the network, and nothing it says about a refusal may quote a person's data.

mod assemble;
mod authorities;
mod check;
mod counts;
mod csv_read;
mod csv_write;
mod fhir;
mod fhir_index;
mod fhir_shape;
mod names;
mod phones;
mod random;
mod refusal;
mod synthetic;
mod visible;

use core::fmt;

use cpis_protocol::flag::FlagKind;
use cpis_protocol::id::AuthorityCode;
use cpis_protocol::nhs::{Date, NhsNumber};

pub use authorities::{KnownAuthority, authority_named, known_authorities};
pub use csv_read::{AUTHORITY_COLUMNS, CSV_BYTES_MAX, LINE_BYTES_MAX, PLAN_COLUMNS, read_csv};
pub use csv_write::{write_authorities_csv, write_plans_csv};
pub use fhir::{FHIR_BYTES_MAX, FhirReading, read_fhir, read_fhir_counted};
pub use refusal::{REFUSALS_MAX, RowRefusal};
pub use synthetic::{RECORDS_MAX, SynthesiseOptions, synthesise};
pub use visible::{VisiblePolicy, visible_until_min};

/// One local authority and whom to ring there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityRow {
    /// Its GSS code.
    pub code: AuthorityCode,
    /// Its name.
    pub name: String,
    /// Telephone in office hours; empty where the source does not say.
    pub office_phone: String,
    /// Telephone of the emergency duty team; empty where the source does not say.
    pub duty_phone: String,
}

/// One plan of one person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanRow {
    /// The kind of plan.
    pub kind: FlagKind,
    /// The responsible authority.
    pub authority: AuthorityCode,
    /// First day, where known.
    pub start: Option<Date>,
    /// Last day, when the plan has ended.
    pub end: Option<Date>,
    /// The mother's due date; only for the unborn.
    pub due: Option<Date>,
}

/// One person with all plans that the source knows; for an unborn child the person is the mother.
///
/// `Debug` shows how many plans there are and nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct PersonRow {
    /// The NHS number.
    pub number: NhsNumber,
    /// Date of birth.
    pub birth: Date,
    /// Surname; may be empty only for a restricted person.
    pub surname: String,
    /// Given names; empty for somebody with a single name.
    pub given: String,
    /// Postcode in capitals with one space; empty where not known, always empty for a restricted person.
    pub postcode: String,
    /// Sensitive (S-flagged): say "ring the authority" and no more.
    pub restricted: bool,
    /// At least one.
    pub plans: Vec<PlanRow>,
}

impl fmt::Debug for PersonRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PersonRow([redacted], {} plans)", self.plans.len())
    }
}

/// One change of the register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Replaces the person's whole set of plans.
    Put(PersonRow),
    /// Takes a deleted or inactivated number out; there is no link to any other number.
    Delete(NhsNumber),
}

/// What one file, or the synthetic register, says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extract {
    /// Authorities whose names and telephone numbers the source gives; an empty number says nothing, so keep the old.
    pub authorities: Vec<AuthorityRow>,
    /// One change at most for each NHS number.
    pub changes: Vec<Change>,
}

/// Why a synthetic register or a CSV file cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// Neither a GSS code nor the name of one of the authorities.
    #[error("no local authority has the code or name {0:?}")]
    UnknownAuthority(String),
    /// There are not so many test numbers.
    #[error("at most {RECORDS_MAX} synthetic records can be made: the 999 range has no more numbers")]
    TooManyRecords,
    /// Data that is part of the program cannot be read: a fault of the build, not of the input.
    #[error("the built-in data file {0} cannot be read")]
    BuiltInData(&'static str),
    /// CSV could not be written.
    #[error("the CSV file cannot be written")]
    Write,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_redacts() {
        let row = PersonRow {
            number: NhsNumber::new(9_990_000_018).unwrap(),
            birth: Date::new(2015, 3, 4).unwrap(),
            surname: "Sorenson".into(),
            given: "Ada".into(),
            postcode: "ZA1 1AA".into(),
            restricted: false,
            plans: Vec::new(),
        };
        let shown = format!("{:?} {:?}", Change::Put(row.clone()), Change::Delete(row.number));
        for secret in ["999", "2015", "Sorenson", "Ada", "ZA1"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
