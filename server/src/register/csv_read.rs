//! Reads the CSV extract of an authority (docs/extract-csv.md): plans, or the authorities' telephone numbers.
//! It must not take a part of a file: one refusal, and nothing of it is taken.

use csv::StringRecord;

use cpis_protocol::flag::FlagKind;
use cpis_protocol::id::AuthorityCode;

use super::assemble::Assembler;
use super::check::{self, Fields};
use super::refusal::{Fault, Refusals};
use super::{AuthorityRow, Extract, PersonRow, PlanRow, RowRefusal, authorities, phones};

/// Bytes of one file: about 600,000 plans, four times the nation.
pub const CSV_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes of one line.
pub const LINE_BYTES_MAX: usize = 1_024;

/// The columns of the plans file. `postcode`, `due_date`, `restricted` and `action` may be left out.
pub const PLAN_COLUMNS: [&str; 12] = [
    "nhs_number",
    "date_of_birth",
    "surname",
    "given_name",
    "postcode",
    "plan",
    "start_date",
    "end_date",
    "due_date",
    "authority_code",
    "restricted",
    "action",
];
const PLAN_OPTIONAL: [&str; 4] = ["postcode", "due_date", "restricted", "action"];

/// The columns of the authorities file, all needed.
pub const AUTHORITY_COLUMNS: [&str; 4] = ["authority_code", "name", "office_phone", "duty_phone"];

const FIELDS: Fields = Fields {
    number: "nhs_number",
    birth: "date_of_birth",
    surname: "surname",
    given: "given_name",
    postcode: "postcode",
    plan: "plan",
    start: "start_date",
    end: "end_date",
    due: "due_date",
};

/// Reads one file. Which of the two kinds it is, its header says: a file with a column `nhs_number` holds plans.
///
/// # Errors
/// What is wrong, at most [`super::REFUSALS_MAX`] and then one that says so.
pub fn read_csv(bytes: &[u8], synthetic: bool) -> Result<Extract, Vec<RowRefusal>> {
    if bytes.len() > CSV_BYTES_MAX {
        let fault = Fault::new("", "file-too-large", "a file has at most 64 MiB: send one file for each authority");
        return Refusals::only(0, fault);
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    check_bytes(bytes)?;
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(bytes);
    let mut lines = filled_lines(bytes);
    let mut record = StringRecord::new();
    let mut refusals = Refusals::default();
    let header_line = lines.next().unwrap_or(1);
    let header = match reader.read_record(&mut record) {
        Ok(true) if !record.iter().any(breaks_line) => Header::read(&record, header_line)?,
        _ => return Refusals::only(header_line, Fault::new("", "bad-header", "begin with the line of column names")),
    };
    let mut extract = Extract::default();
    let mut assembler = Assembler::new(&FIELDS);
    while !refusals.stopped() && matches!(reader.read_record(&mut record), Ok(true)) {
        let line = lines.next().unwrap_or(0);
        if record.iter().any(breaks_line) {
            let remedy =
                "a quoted value runs over the end of its line: close the quotation marks, write no line breaks";
            refusals.add(line, Fault::new("", "line-break-in-value", remedy));
            break; // What follows cannot be told apart from the value.
        }
        if record.len() != header.width {
            let remedy =
                "the line has more or fewer values than the header has columns: check commas and quotation marks";
            refusals.add(line, Fault::new("", "wrong-field-count", remedy));
            continue;
        }
        let row = Row { header: &header, record: &record, line };
        if header.plans {
            row.read_plan(synthetic, &mut assembler, &mut refusals);
        } else if let Some(authority) = row.read_authority(synthetic, &mut refusals) {
            if extract.authorities.iter().any(|other| other.code == authority.code) {
                refusals.add(line, Fault::new("authority_code", "duplicate-row", "the authority is given twice"));
            } else {
                extract.authorities.push(authority);
            }
        }
    }
    extract.changes = assembler.finish();
    refusals.finish(extract)
}

fn breaks_line(value: &str) -> bool {
    value.contains(['\n', '\r'])
}

/// The lines with their numbers, without their ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    bytes.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).zip(1u64..)
}

/// The numbers of the lines that are not empty: the parser passes over the others.
fn filled_lines(bytes: &[u8]) -> impl Iterator<Item = u64> {
    lines(bytes).filter(|(line, _)| !line.is_empty()).map(|(_, number)| number)
}

/// Looks at the bytes before anything is parsed.
fn check_bytes(bytes: &[u8]) -> Result<(), Vec<RowRefusal>> {
    let mut refusals = Refusals::default();
    for (line, number) in lines(bytes) {
        let fault = if line.len() > LINE_BYTES_MAX {
            Fault::new("", "line-too-long", "a line has at most 1,024 bytes: check the line ends and quotation marks")
        } else if line.contains(&0) {
            Fault::new("", "nul-byte", "the line holds a zero byte: export the file again, as UTF-8")
        } else if core::str::from_utf8(line).is_err() {
            Fault::new("", "not-utf8", "the line is not UTF-8: export as \"CSV UTF-8\"")
        } else if line.iter().any(u8::is_ascii_control) {
            Fault::new("", "control-character", "take tabs and other control characters out")
        } else {
            continue;
        };
        refusals.add(number, fault);
        if refusals.stopped() {
            break;
        }
    }
    refusals.finish(())
}

/// Where the columns are.
struct Header {
    plans: bool,
    width: usize,
    places: [Option<usize>; PLAN_COLUMNS.len()],
}

impl Header {
    /// Columns may come in any order. The header is never quoted: where it is missing, a person stands in its place.
    fn read(record: &StringRecord, line: u64) -> Result<Self, Vec<RowRefusal>> {
        let mut refusals = Refusals::default();
        let named: Vec<String> = record.iter().map(|name| name.trim().to_ascii_lowercase()).collect();
        let plans = named.iter().any(|name| name == FIELDS.number);
        let columns: &[&'static str] = if plans { &PLAN_COLUMNS } else { &AUTHORITY_COLUMNS };
        if !named.iter().any(|name| columns.contains(&name.as_str())) {
            let remedy = "the first line must name the columns, as docs/extract-csv.md lists them";
            return Refusals::only(line, Fault::new("", "bad-header", remedy));
        }
        if named.iter().any(|name| !columns.contains(&name.as_str())) {
            let remedy =
                "a column is not one of those that docs/extract-csv.md lists: take it out, send no more than that";
            refusals.add(line, Fault::new("", "unknown-column", remedy));
        }
        let mut places = [None; PLAN_COLUMNS.len()];
        for (column, place) in columns.iter().zip(&mut places) {
            *place = named.iter().position(|name| name == column);
            if named.iter().filter(|name| name == column).count() > 1 {
                refusals.add(line, Fault::new(column, "duplicate-column", "name every column once"));
            }
            if place.is_none() && !(plans && PLAN_OPTIONAL.contains(column)) {
                refusals.add(line, Fault::new(column, "missing-column", "add the column"));
            }
        }
        refusals.finish(Self { plans, width: record.len(), places })
    }
}

/// One line of values.
struct Row<'a> {
    header: &'a Header,
    record: &'a StringRecord,
    line: u64,
}

impl Row<'_> {
    /// The value of a column; empty where the file does not have it.
    fn get(&self, column: &str) -> &str {
        let columns: &[&str] = if self.header.plans { &PLAN_COLUMNS } else { &AUTHORITY_COLUMNS };
        let place = columns.iter().position(|name| *name == column);
        let at = place.and_then(|place| self.header.places.get(place).copied().flatten());
        at.and_then(|at| self.record.get(at)).unwrap_or_default().trim()
    }

    fn read_plan(&self, synthetic: bool, assembler: &mut Assembler, refusals: &mut Refusals) {
        let action = self.get("action").to_ascii_lowercase();
        let number = refusals.take(self.line, check::number(FIELDS.number, self.get(FIELDS.number), synthetic));
        let result = match action.as_str() {
            "" | "put" => match self.read_person(number, refusals) {
                Some(person) => assembler.put(person),
                None => return,
            },
            "delete" => match (number, self.only_the_number()) {
                (_, Err(fault)) => Err(fault),
                (Some(number), Ok(())) => assembler.delete(number),
                (None, Ok(())) => return,
            },
            _ => Err(Fault::new("action", "bad-action", "write put or delete, or leave it empty for put")),
        };
        refusals.take(self.line, result);
    }

    fn only_the_number(&self) -> Result<(), Fault> {
        let rest = PLAN_COLUMNS.iter().filter(|column| !["nhs_number", "action"].contains(column));
        match rest.copied().find(|column| !self.get(column).is_empty()) {
            None => Ok(()),
            Some(column) => {
                Err(Fault::new(column, "delete-with-details", "a delete names the number and nothing else"))
            }
        }
    }

    fn read_person(&self, number: Option<cpis_protocol::nhs::NhsNumber>, refusals: &mut Refusals) -> Option<PersonRow> {
        let line = self.line;
        let restricted = refusals.take(line, self.restricted());
        let birth = refusals.take(line, self.required_date(FIELDS.birth));
        let surname_needed = restricted != Some(true);
        let surname = refusals.take(line, check::name(FIELDS.surname, self.get(FIELDS.surname), surname_needed));
        let given = refusals.take(line, check::name(FIELDS.given, self.get(FIELDS.given), false));
        let postcode = self.get(FIELDS.postcode);
        let postcode = refusals.take(line, check::postcode(FIELDS.postcode, postcode, restricted.unwrap_or_default()));
        let plan = self.plan(refusals);
        let (birth, plan) = (birth?, plan?);
        let faults = check::plan(&FIELDS, &plan, birth);
        for fault in &faults {
            refusals.add(line, *fault);
        }
        if !faults.is_empty() {
            return None;
        }
        Some(PersonRow {
            number: number?,
            birth,
            surname: surname?,
            given: given?,
            postcode: postcode?,
            restricted: restricted?,
            plans: vec![plan],
        })
    }

    fn plan(&self, refusals: &mut Refusals) -> Option<PlanRow> {
        let line = self.line;
        let unknown = Fault::new(FIELDS.plan, "unknown-plan", "write cpp, lac or ucpp, or the SNOMED CT code of one");
        let kind = refusals.take(line, FlagKind::from_code(self.get(FIELDS.plan)).ok_or(unknown));
        let start = refusals.take(line, check::date(FIELDS.start, self.get(FIELDS.start)));
        let end = refusals.take(line, check::date(FIELDS.end, self.get(FIELDS.end)));
        let due = refusals.take(line, check::date(FIELDS.due, self.get(FIELDS.due)));
        if kind == Some(FlagKind::Ucpp) && due == Some(None) {
            let remedy = "an unborn child's plan needs the mother's due date: without it nobody knows when to hide it";
            refusals.add(line, Fault::new(FIELDS.due, "missing-due-date", remedy));
            return None;
        }
        let authority = refusals.take(line, self.authority());
        Some(PlanRow { kind: kind?, authority: authority?, start: start?, end: end?, due: due? })
    }

    fn authority(&self) -> Result<AuthorityCode, Fault> {
        let remedy = "write the authority's present GSS code, such as E08000019; see server/data";
        let unknown = Fault::new("authority_code", "unknown-authority", remedy);
        authorities::authority_coded(self.get("authority_code")).map(|known| known.code).ok_or(unknown)
    }

    fn required_date(&self, field: &'static str) -> Result<cpis_protocol::nhs::Date, Fault> {
        check::date(field, self.get(field))?.ok_or(Fault::new(field, "missing-value", "give the date as YYYY-MM-DD"))
    }

    fn restricted(&self) -> Result<bool, Fault> {
        match self.get("restricted").to_ascii_lowercase().as_str() {
            "" | "false" | "no" | "n" | "0" => Ok(false),
            "true" | "yes" | "y" | "1" => Ok(true),
            _ => Err(Fault::new("restricted", "bad-restricted", "write true or false, or leave it empty for false")),
        }
    }

    fn read_authority(&self, synthetic: bool, refusals: &mut Refusals) -> Option<AuthorityRow> {
        let line = self.line;
        let code = refusals.take(line, self.authority());
        let name = refusals.take(line, check::name("name", self.get("name"), true));
        let office_phone = refusals.take(line, phone("office_phone", self.get("office_phone"), synthetic));
        let duty_phone = refusals.take(line, phone("duty_phone", self.get("duty_phone"), synthetic));
        Some(AuthorityRow { code: code?, name: name?, office_phone: office_phone?, duty_phone: duty_phone? })
    }
}

/// A number that a crew can ring.
fn phone(field: &'static str, text: &str, synthetic: bool) -> Result<String, Fault> {
    if !phones::is_phone(text) {
        let remedy = "write the number as it is dialled, beginning with 0, digits and single spaces";
        return Err(Fault::new(field, "bad-phone", remedy));
    }
    if !synthetic && phones::is_drama(text) {
        let remedy = "this number is kept for drama and rings nobody: give the real one";
        return Err(Fault::new(field, "fictitious-phone", remedy));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
#[path = "csv_read_tests.rs"]
mod tests;
