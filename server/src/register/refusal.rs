//! What is said about a row that cannot be taken: where, which field, a stable code, and what to do.
//! It must not hold any text of the file.

use core::fmt;

/// Refusals that are collected before reading stops.
pub const REFUSALS_MAX: usize = 1_000;

/// One reason why a file was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRefusal {
    /// Line of a CSV file, or number of the entry in a FHIR bundle, from 1; 0 is the file as a whole.
    pub line: u64,
    /// The column or FHIR element; empty where the whole row is meant.
    pub field: &'static str,
    /// The stable code, for programs.
    pub code: &'static str,
    /// What to do about it, for people.
    pub remedy: String,
}

impl fmt::Display for RowRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, {}: {}: {}", self.line, self.field, self.code, self.remedy)
    }
}

/// A reason without its place: field, code, remedy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) field: &'static str,
    pub(super) code: &'static str,
    pub(super) remedy: &'static str,
}

impl Fault {
    pub(super) const fn new(field: &'static str, code: &'static str, remedy: &'static str) -> Self {
        Self { field, code, remedy }
    }
}

/// Collects refusals up to [`REFUSALS_MAX`].
#[derive(Debug, Default)]
pub(super) struct Refusals {
    list: Vec<RowRefusal>,
    stopped: bool,
}

impl Refusals {
    /// Adds one; after the last that is kept, one more says that reading stopped.
    pub(super) fn add(&mut self, line: u64, fault: Fault) {
        if self.stopped {
            return;
        }
        if self.list.len() < REFUSALS_MAX {
            let Fault { field, code, remedy } = fault;
            self.list.push(RowRefusal { line, field, code, remedy: remedy.to_owned() });
            return;
        }
        self.stopped = true;
        let remedy =
            format!("{REFUSALS_MAX} refusals were found and reading stopped here: mend these and send it again");
        self.list.push(RowRefusal { line, field: "", code: "too-many-refusals", remedy });
    }

    /// Adds the fault and gives nothing, or gives the value.
    pub(super) fn take<T>(&mut self, line: u64, result: Result<T, Fault>) -> Option<T> {
        result.map_err(|fault| self.add(line, fault)).ok()
    }

    /// Whether there is no point in reading on.
    pub(super) const fn stopped(&self) -> bool {
        self.stopped
    }

    /// All or nothing: the value only when nothing was refused.
    pub(super) fn finish<T>(self, value: T) -> Result<T, Vec<RowRefusal>> {
        if self.list.is_empty() { Ok(value) } else { Err(self.list) }
    }

    /// The list with this one as its last.
    pub(super) fn only<T>(line: u64, fault: Fault) -> Result<T, Vec<RowRefusal>> {
        let mut refusals = Self::default();
        refusals.add(line, fault);
        Err(refusals.list)
    }
}
