//! Reads bundles in the shape of the national Patient Flags service (Flag, CarePlan, CareTeam), and of the draft
//! CP-IS API (CareTeam alone), with the Patient resources that say whom they are about.
//! It must not guess who a flag is about: a name or a dangling reference is not an identity.

use cpis_protocol::flag::FlagKind;
use cpis_protocol::nhs::{Date, NhsNumber};

use super::assemble::Assembler;
use super::check::{self, Fields};
use super::fhir_index::{Index, nhs_number};
use super::fhir_shape::{
    Address, Bundle, CarePlan, CareTeam, CodeableConcept, Flag, Patient, Period, Reference, Resource,
};
use super::refusal::{Fault, Refusals};
use super::{AuthorityRow, Extract, PersonRow, PlanRow, RowRefusal, authorities, phones};

/// Bytes of one bundle.
pub const FHIR_BYTES_MAX: usize = 16 * 1024 * 1024;

const FLAG_SYSTEM: &str = "https://fhir.nhs.uk/England/CodeSystem/England-FlagCategoryPatient";
const FLAG_CODE: &str = "child-protection-information-system-flag";
const FLAG_DETAIL: &str = "http://hl7.org/fhir/StructureDefinition/flag-detail";
const SNOMED: &str = "http://snomed.info/sct";
const ENTERED_IN_ERROR: &str = "entered-in-error";

const FIELDS: Fields = Fields {
    number: "Patient.identifier",
    birth: "Patient.birthDate",
    surname: "Patient.name.family",
    given: "Patient.name.given",
    postcode: "Patient.address.postalCode",
    plan: "CarePlan.category",
    start: "period.start",
    end: "period.end",
    due: "",
};

/// What a bundle says, and how much of it was passed over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FhirReading {
    /// What the register takes.
    pub extract: Extract,
    /// Flags of other kinds (reasonable adjustments, FGM), flags entered in error, and resources that say nothing here.
    pub ignored: u32,
}

/// Reads one bundle; see [`read_fhir_counted`].
///
/// # Errors
/// What is wrong; `line` is the number of the entry in the bundle.
pub fn read_fhir(bytes: &[u8], synthetic: bool) -> Result<Extract, Vec<RowRefusal>> {
    read_fhir_counted(bytes, synthetic).map(|reading| reading.extract)
}

/// Reads one bundle of type `searchset` or `collection`, all or nothing.
///
/// The person must be in the bundle as a Patient with NHS number, date of birth and name. The flag finds it by
/// `subject.identifier` or by `subject.reference`. What a Put says replaces all plans of that person, so a page of a
/// longer search is refused.
///
/// # Errors
/// What is wrong; `line` is the number of the entry in the bundle, or the line of text where it is no JSON.
pub fn read_fhir_counted(bytes: &[u8], synthetic: bool) -> Result<FhirReading, Vec<RowRefusal>> {
    if bytes.len() > FHIR_BYTES_MAX {
        return Refusals::only(0, Fault::new("", "file-too-large", "a bundle has at most 16 MiB: send several"));
    }
    // The error's text may quote the file, so only its line is used.
    let bundle: Bundle = match serde_json::from_slice(bytes) {
        Ok(bundle) => bundle,
        Err(error) => {
            let line = u64::try_from(error.line()).unwrap_or(0);
            return Refusals::only(line, Fault::new("", "bad-json", "send one FHIR R4 Bundle as UTF-8 JSON"));
        }
    };
    if bundle.resource_type != "Bundle" || !["searchset", "collection"].contains(&bundle.kind.as_str()) {
        let remedy = "send a Bundle of type searchset or collection";
        return Refusals::only(0, Fault::new("Bundle.type", "unknown-bundle", remedy));
    }
    if bundle.link.iter().any(|link| link.relation == "next") {
        let remedy = "this is one page of a longer search and would drop plans of the others: send all pages as one";
        return Refusals::only(0, Fault::new("Bundle.link", "incomplete-bundle", remedy));
    }
    let mut refusals = Refusals::default();
    let index = Index::new(&bundle, &mut refusals);
    let mut reader =
        Reader { index, synthetic, assembler: Assembler::new(&FIELDS), authorities: Vec::new(), used: 0, refusals };
    let mut total = 0u32;
    for (entry, line) in bundle.entry.iter().zip(1u64..) {
        total = total.saturating_add(1);
        match &entry.resource {
            Some(Resource::Flag(flag)) => reader.flag(line, flag),
            Some(Resource::CareTeam(team)) => reader.lone_team(line, team),
            Some(Resource::CarePlan(_) | Resource::Patient(_)) => reader.used += 1,
            Some(Resource::Other) | None => {}
        }
        if reader.refusals.stopped() {
            break;
        }
    }
    let extract = Extract { authorities: reader.authorities, changes: reader.assembler.finish() };
    reader.refusals.finish(FhirReading { extract, ignored: total - reader.used })
}

struct Reader<'a> {
    index: Index<'a>,
    synthetic: bool,
    assembler: Assembler,
    authorities: Vec<AuthorityRow>,
    used: u32,
    refusals: Refusals,
}

impl<'a> Reader<'a> {
    /// Flag, its CarePlan, and that one's CareTeam.
    fn flag(&mut self, line: u64, flag: &'a Flag) {
        let ours = flag.code.as_ref().is_some_and(|code| code.is(FLAG_SYSTEM, FLAG_CODE));
        if !ours || flag.status == ENTERED_IN_ERROR {
            return;
        }
        self.used += 1;
        let subject = self.subject(line, "Flag.subject", flag.subject.as_ref());
        let person = subject.and_then(|subject| self.person(line, subject));
        let plan = self.care_plan(flag);
        let Some(plan) = self.refusals.take(line, plan) else { return };
        if plan.status == ENTERED_IN_ERROR {
            return;
        }
        // The worst mistake is a plan on the wrong child, so what the plan says of its subject must fit.
        if let (Some(subject), Some(other)) = (subject, plan.subject.as_ref())
            && !self.index.patient(other).is_some_and(|other| std::ptr::eq(subject, other))
        {
            let remedy = "the care plan is not about the patient whom the flag names: correct one";
            self.refusals.add(line, Fault::new("CarePlan.subject", "conflicting-person", remedy));
            return;
        }
        let kind = self.refusals.take(line, kind("CarePlan.category", &plan.category));
        let team = self.care_team(plan);
        let team = self.refusals.take(line, team);
        let ended = flag.status == "inactive" || ["completed", "revoked"].contains(&plan.status.as_str());
        let period = self.refusals.take(line, period(plan.period.as_ref().or(flag.period.as_ref()), ended));
        let authority = team.and_then(|team| self.authority(line, team));
        if let (Some(person), Some(kind), Some((start, end)), Some(authority)) = (person, kind, period, authority) {
            self.put(line, person, PlanRow { kind, authority, start, end, due: None });
        }
    }

    /// A CareTeam that is itself the plan (draft CP-IS API): it has a subject and the plan's category.
    fn lone_team(&mut self, line: u64, team: &'a CareTeam) {
        self.used += 1;
        if team.subject.is_none() || team.category.is_empty() || team.status == ENTERED_IN_ERROR {
            return;
        }
        let subject = self.subject(line, "CareTeam.subject", team.subject.as_ref());
        let person = subject.and_then(|subject| self.person(line, subject));
        let kind = self.refusals.take(line, kind("CareTeam.category", &team.category));
        let period = self.refusals.take(line, period(team.period.as_ref(), team.status == "inactive"));
        let authority = self.authority(line, team);
        if let (Some(person), Some(kind), Some((start, end)), Some(authority)) = (person, kind, period, authority) {
            self.put(line, person, PlanRow { kind, authority, start, end, due: None });
        }
    }

    fn subject(&mut self, line: u64, field: &'static str, subject: Option<&Reference>) -> Option<&'a Patient> {
        let found = subject.and_then(|subject| self.index.patient(subject));
        if found.is_none() {
            let remedy = "put the Patient into the bundle, with identifier (NHS number), birthDate and name, and name \
                          it in subject by the same identifier or by its reference";
            self.refusals.add(line, Fault::new(field, "subject-not-identified", remedy));
        }
        found
    }

    fn care_plan(&self, flag: &Flag) -> Result<&'a CarePlan, Fault> {
        let fault = |code, remedy: &'static str| Err(Fault::new("Flag.extension:flag-detail", code, remedy));
        let mut details = flag.extension.iter().filter(|extension| extension.url == FLAG_DETAIL);
        let (Some(detail), None) = (details.next(), details.next()) else {
            return fault("plan-not-named", "the flag must name its CarePlan in one flag-detail extension");
        };
        let reference = detail.value_reference.as_ref().and_then(|value| value.reference.as_deref());
        match reference.and_then(|reference| self.index.find(reference)) {
            Some(Resource::CarePlan(plan)) => Ok(plan),
            _ => fault("plan-not-in-bundle", "put the CarePlan that the flag names into the same bundle"),
        }
    }

    fn care_team(&self, plan: &CarePlan) -> Result<&'a CareTeam, Fault> {
        let reference = match plan.care_team.as_slice() {
            [team] => team.reference.as_deref(),
            _ => None,
        };
        match reference.and_then(|reference| self.index.find(reference)) {
            Some(Resource::CareTeam(team)) => Ok(team),
            _ => {
                let remedy = "name one CareTeam and put it into the same bundle: it has the authority's telephones";
                Err(Fault::new("CarePlan.careTeam", "careteam-not-in-bundle", remedy))
            }
        }
    }

    /// The authority of a team, which becomes known with its telephone numbers.
    fn authority(&mut self, line: u64, team: &CareTeam) -> Option<cpis_protocol::id::AuthorityCode> {
        let unknown = Fault::new(
            "CareTeam.name",
            "unknown-authority",
            "name an authority of England that has children's services, as in \"Sheffield City Council\"",
        );
        let known = self.refusals.take(line, authorities::authority_named(&team.name).ok_or(unknown))?;
        // A trap of the national shape: the emergency duty team has the use `mobile`.
        let office_phone = phone(team, "work", self.synthetic);
        let duty_phone = phone(team, "mobile", self.synthetic);
        let office_phone = self.refusals.take(line, office_phone)?;
        let duty_phone = self.refusals.take(line, duty_phone)?;
        if office_phone.is_empty() && duty_phone.is_empty() {
            let remedy = "give the office telephone (use work) and the emergency duty team's (use mobile)";
            self.refusals.add(line, Fault::new("CareTeam.telecom", "missing-phone", remedy));
            return None;
        }
        let row = AuthorityRow { code: known.code, name: known.name.clone(), office_phone, duty_phone };
        match self.authorities.iter().find(|other| other.code == row.code) {
            None => self.authorities.push(row),
            Some(other) if *other == row => {}
            Some(_) => {
                let remedy = "two teams of one authority have different telephone numbers: make them the same";
                self.refusals.add(line, Fault::new("CareTeam.telecom", "conflicting-phone", remedy));
                return None;
            }
        }
        Some(known.code)
    }

    /// The person without plans; everything that is wrong with the Patient is told at once.
    fn person(&mut self, line: u64, patient: &Patient) -> Option<PersonRow> {
        let identity = self.identity(line, patient);
        let restricted = is_restricted(patient);
        let name = patient.name.iter().max_by_key(|name| match name.usage.as_str() {
            "usual" => 3,
            "official" => 2,
            "" => 1,
            _ => 0,
        });
        let family = name.map_or("", |name| name.family.trim());
        let given = name.map_or_else(String::new, |name| name.given.join(" "));
        let surname = self.refusals.take(line, check::name(FIELDS.surname, family, !restricted));
        let given = self.refusals.take(line, check::name(FIELDS.given, given.trim(), false));
        // Where a restricted person lives is left out here, even if the source did not leave it out.
        let home = |address: &&Address| ["home", ""].contains(&address.usage.as_str());
        let address = patient.address.iter().find(home).filter(|_| !restricted);
        let postcode = address.map_or("", |address| address.postal_code.trim());
        let postcode = self.refusals.take(line, check::postcode(FIELDS.postcode, postcode, restricted));
        let ((number, birth), surname, given, postcode) = (identity?, surname?, given?, postcode?);
        Some(PersonRow { number, birth, surname, given, postcode, restricted, plans: Vec::new() })
    }

    fn put(&mut self, line: u64, person: PersonRow, plan: PlanRow) {
        let faults = check::plan(&FIELDS, &plan, person.birth);
        for fault in &faults {
            self.refusals.add(line, *fault);
        }
        if faults.is_empty() {
            let result = self.assembler.put(PersonRow { plans: vec![plan], ..person });
            self.refusals.take(line, result);
        }
    }

    fn identity(&mut self, line: u64, patient: &Patient) -> Option<(NhsNumber, Date)> {
        if patient.active == Some(false) {
            let remedy =
                "the patient's record is not in use any more: delete the number by a CSV row with action delete";
            self.refusals.add(line, Fault::new("Patient.active", "inactive-patient", remedy));
        }
        let number = check::number(FIELDS.number, nhs_number(patient).unwrap_or_default(), self.synthetic);
        let missing = Fault::new(FIELDS.birth, "missing-value", "give the whole date of birth");
        let birth = date(FIELDS.birth, Some(&patient.birth_date)).and_then(|birth| birth.ok_or(missing));
        let number = self.refusals.take(line, number);
        let birth = self.refusals.take(line, birth);
        Some((number?, birth?))
    }
}

/// Sensitive, as PDS marks it (research/domain.md, 1.4).
fn is_restricted(patient: &Patient) -> bool {
    let codes = patient.meta.iter().flat_map(|meta| &meta.security);
    codes.into_iter().any(|coding| ["R", "V", "REDACTED"].contains(&coding.code.as_str()))
}

fn kind(field: &'static str, category: &[CodeableConcept]) -> Result<FlagKind, Fault> {
    let mut kinds = FlagKind::ALL.into_iter().filter(|kind| category.iter().any(|c| c.is(SNOMED, kind.snomed())));
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) => Ok(kind),
        _ => Err(Fault::new(
            field,
            "unknown-plan",
            "give one SNOMED CT code: 342191000000101, 764841000000100 or 818901000000100",
        )),
    }
}

fn period(period: Option<&Period>, ended: bool) -> Result<(Option<Date>, Option<Date>), Fault> {
    let missing = Fault::new("period", "missing-value", "give the period of the plan");
    let period = period.ok_or(missing)?;
    let start = date(FIELDS.start, period.start.as_deref())?;
    let end = date(FIELDS.end, period.end.as_deref())?;
    if ended && end.is_none() {
        let remedy = "the plan is no longer active but has no end: give the end of its period";
        return Err(Fault::new(FIELDS.end, "inactive-without-end", remedy));
    }
    Ok((start, end))
}

/// A FHIR date, or the date of a dateTime in its own time zone; a year or a month alone is not one.
fn date(field: &'static str, text: Option<&str>) -> Result<Option<Date>, Fault> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let fault = Fault::new(field, "bad-date", "write a whole date, YYYY-MM-DD, with or without a time");
    let (day, rest) = text.split_at_checked(10).ok_or(fault)?;
    if day.as_bytes().get(4) != Some(&b'-') || !(rest.is_empty() || rest.starts_with('T')) {
        return Err(fault);
    }
    day.parse().map(Some).map_err(|_| fault)
}

/// The telephone of this use, as dialled in the country; empty where there is none.
fn phone(team: &CareTeam, usage: &str, synthetic: bool) -> Result<String, Fault> {
    let mut all = team.telecom.iter().filter(|t| t.system == "phone" && t.usage == usage);
    let Some(telecom) = all.next() else { return Ok(String::new()) };
    let value = telecom.value.trim();
    let value = value.strip_prefix("+44").map_or_else(|| value.to_owned(), |rest| format!("0{}", rest.trim_start()));
    if all.next().is_some() || !phones::is_phone(&value) {
        let remedy = "give one telephone for each use (work, mobile), digits and single spaces, from 0 or +44";
        return Err(Fault::new("CareTeam.telecom", "bad-phone", remedy));
    }
    if !synthetic && phones::is_drama(&value) {
        let remedy = "this number is kept for drama and rings nobody: give the real one";
        return Err(Fault::new("CareTeam.telecom", "fictitious-phone", remedy));
    }
    Ok(value)
}

#[cfg(test)]
#[path = "fhir_tests.rs"]
mod tests;
