//! The register's tables: authorities, persons, plans, the change log, look-up tokens, ingest history.
//! It must not know what a cell is.

use cpis_protocol::flag::FlagKind;
use cpis_protocol::id::{AuthorityCode, RegisterSeq, UnixMs};
use cpis_protocol::nhs::{Date, NhsNumber};

use super::StoreError;

/// A person's number in this database; never used again for another.
pub type PersonId = i64;

/// An authority with the number that records carry; the number is never used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityEntry {
    /// Its number in records.
    pub number: u16,
    /// Its GSS code.
    pub code: AuthorityCode,
    /// Its name.
    pub name: String,
    /// Telephone in office hours.
    pub office_phone: String,
    /// Telephone of the emergency duty team.
    pub duty_phone: String,
}

/// One plan of a person.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PersonPlan {
    /// The kind.
    pub kind: FlagKind,
    /// The responsible authority's number.
    pub authority: u16,
    /// First day.
    pub start: Option<Date>,
    /// Last day, once it has ended.
    pub end: Option<Date>,
    /// An unborn child's due date.
    pub due: Option<Date>,
    /// The minute from which it must not be shown any more.
    pub visible_until_min: Option<u32>,
}

/// One person of the register. `Debug` shows nothing: an identifier must not reach a log by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Person {
    /// The NHS number.
    pub number: NhsNumber,
    /// Date of birth.
    pub birth: Date,
    /// Surname.
    pub surname: String,
    /// Given name.
    pub given: String,
    /// Full postcode.
    pub postcode: String,
    /// Sensitive: nothing may be shown but whom to ring.
    pub restricted: bool,
    /// Sorted.
    pub plans: Vec<PersonPlan>,
}

impl std::fmt::Debug for PersonPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PersonPlan([redacted])")
    }
}

impl std::fmt::Debug for Person {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Person([redacted])")
    }
}

/// One file that was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestRow {
    /// SHA-256 of its content.
    pub hash: [u8; 32],
    /// When.
    pub at_ms: UnixMs,
    /// What it was: `csv`, `fhir`, `synthetic`.
    pub source: String,
    /// Records in it.
    pub records: u64,
    /// Records that changed the register.
    pub changed: u64,
}

/// Sizes, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegisterCounts {
    /// Persons.
    pub persons: u64,
    /// Plans.
    pub plans: u64,
    /// Authorities.
    pub authorities: u64,
}

/// The register.
pub trait Register {
    /// All authorities, by number.
    ///
    /// # Errors
    /// [`StoreError`].
    fn authorities(&self) -> Result<Vec<AuthorityEntry>, StoreError>;

    /// Adds an authority with the next free number, or replaces name and telephones of the one with this code.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_authority(&self, code: AuthorityCode, name: &str, office: &str, duty: &str) -> Result<u16, StoreError>;

    /// Who has this NHS number.
    ///
    /// # Errors
    /// [`StoreError`].
    fn person_id(&self, number: NhsNumber) -> Result<Option<PersonId>, StoreError>;

    /// A person with all plans.
    ///
    /// # Errors
    /// [`StoreError`].
    fn person(&self, id: PersonId) -> Result<Option<Person>, StoreError>;

    /// Adds a person, or replaces the one with this number, plans included.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_person(&self, person: &Person) -> Result<PersonId, StoreError>;

    /// Takes a person out.
    ///
    /// # Errors
    /// [`StoreError`].
    fn delete_person(&self, id: PersonId) -> Result<(), StoreError>;

    /// Gives a change the next register sequence; `None` is a change of the reference data.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_change(&self, person: Option<PersonId>, at_ms: UnixMs) -> Result<RegisterSeq, StoreError>;

    /// The register sequence of the last change; zero before the first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn last_gseq(&self) -> Result<RegisterSeq, StoreError>;

    /// Who changed after a register sequence: the next `limit` persons above `above`, each once, ascending.
    ///
    /// # Errors
    /// [`StoreError`].
    fn changed_after(&self, gseq: RegisterSeq, above: PersonId, limit: usize) -> Result<Vec<PersonId>, StoreError>;

    /// How many persons changed after a register sequence.
    ///
    /// # Errors
    /// [`StoreError`].
    fn count_changed_after(&self, gseq: RegisterSeq) -> Result<u64, StoreError>;

    /// Persons with a plan whose time to be shown ended at or before the minute and who still have it published.
    ///
    /// # Errors
    /// [`StoreError`].
    fn outlived(&self, minute: u32) -> Result<Vec<PersonId>, StoreError>;

    /// Marks those plans as dealt with.
    ///
    /// # Errors
    /// [`StoreError`].
    fn settle_outlived(&self, minute: u32) -> Result<(), StoreError>;

    /// A person's sealed look-up tokens under these parameters, by slot.
    ///
    /// # Errors
    /// [`StoreError`].
    fn tokens(&self, id: PersonId, parameters: &[u8; 32]) -> Result<Vec<Vec<u8>>, StoreError>;

    /// Keeps all sealed look-up tokens of a person, by slot, in place of any before.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_tokens(&self, id: PersonId, parameters: &[u8; 32], sealed: &[Vec<u8>]) -> Result<(), StoreError>;

    /// The next `limit` persons above `above` that have no tokens under these parameters, ascending.
    ///
    /// # Errors
    /// [`StoreError`].
    fn without_token(&self, parameters: &[u8; 32], above: PersonId, limit: usize) -> Result<Vec<PersonId>, StoreError>;

    /// How many persons have no tokens under these parameters.
    ///
    /// # Errors
    /// [`StoreError`].
    fn count_without_token(&self, parameters: &[u8; 32]) -> Result<u64, StoreError>;

    /// Whether a file with this content was taken in before.
    ///
    /// # Errors
    /// [`StoreError`].
    fn ingested(&self, hash: &[u8; 32]) -> Result<Option<IngestRow>, StoreError>;

    /// Remembers a file that was taken in.
    ///
    /// # Errors
    /// [`StoreError`].
    fn put_ingested(&self, row: &IngestRow) -> Result<(), StoreError>;

    /// Sizes.
    ///
    /// # Errors
    /// [`StoreError`].
    fn register_counts(&self) -> Result<RegisterCounts, StoreError>;
}
