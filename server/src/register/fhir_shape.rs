//! The parts of FHIR R4 resources that the register reads; whatever else they hold is skipped.
//! It must not keep what it does not need: no note, no address line, no practitioner.

use serde::Deserialize;

/// A bundle of any type; the reader says which types it takes.
#[derive(Deserialize)]
pub(super) struct Bundle {
    #[serde(rename = "resourceType")]
    pub(super) resource_type: String,
    #[serde(rename = "type", default)]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) link: Vec<Link>,
    #[serde(default)]
    pub(super) entry: Vec<Entry>,
}

#[derive(Deserialize)]
pub(super) struct Link {
    #[serde(default)]
    pub(super) relation: String,
}

#[derive(Deserialize)]
pub(super) struct Entry {
    #[serde(rename = "fullUrl")]
    pub(super) full_url: Option<String>,
    pub(super) resource: Option<Resource>,
}

/// The four resources that say something here.
#[derive(Deserialize)]
#[serde(tag = "resourceType")]
pub(super) enum Resource {
    Flag(Flag),
    CarePlan(CarePlan),
    CareTeam(CareTeam),
    Patient(Patient),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct Flag {
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) status: String,
    pub(super) code: Option<CodeableConcept>,
    pub(super) subject: Option<Reference>,
    pub(super) period: Option<Period>,
    #[serde(default)]
    pub(super) extension: Vec<Extension>,
}

#[derive(Deserialize)]
pub(super) struct CarePlan {
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) category: Vec<CodeableConcept>,
    pub(super) subject: Option<Reference>,
    pub(super) period: Option<Period>,
    #[serde(rename = "careTeam", default)]
    pub(super) care_team: Vec<Reference>,
}

#[derive(Deserialize)]
pub(super) struct CareTeam {
    pub(super) id: Option<String>,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) category: Vec<CodeableConcept>,
    pub(super) subject: Option<Reference>,
    pub(super) period: Option<Period>,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) telecom: Vec<Telecom>,
}

#[derive(Deserialize)]
pub(super) struct Patient {
    pub(super) id: Option<String>,
    pub(super) meta: Option<Meta>,
    pub(super) active: Option<bool>,
    #[serde(default)]
    pub(super) identifier: Vec<Identifier>,
    #[serde(default)]
    pub(super) name: Vec<HumanName>,
    #[serde(rename = "birthDate", default)]
    pub(super) birth_date: String,
    #[serde(default)]
    pub(super) address: Vec<Address>,
}

#[derive(Deserialize)]
pub(super) struct Meta {
    #[serde(default)]
    pub(super) security: Vec<Coding>,
}

#[derive(Deserialize)]
pub(super) struct Extension {
    #[serde(default)]
    pub(super) url: String,
    #[serde(rename = "valueReference")]
    pub(super) value_reference: Option<Reference>,
}

#[derive(Deserialize)]
pub(super) struct Reference {
    pub(super) reference: Option<String>,
    pub(super) identifier: Option<Identifier>,
}

#[derive(Deserialize)]
pub(super) struct Identifier {
    #[serde(default)]
    pub(super) system: String,
    #[serde(default)]
    pub(super) value: String,
}

#[derive(Deserialize)]
pub(super) struct CodeableConcept {
    #[serde(default)]
    pub(super) coding: Vec<Coding>,
}

#[derive(Deserialize)]
pub(super) struct Coding {
    #[serde(default)]
    pub(super) system: String,
    #[serde(default)]
    pub(super) code: String,
}

#[derive(Deserialize)]
pub(super) struct Period {
    pub(super) start: Option<String>,
    pub(super) end: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Telecom {
    #[serde(default)]
    pub(super) system: String,
    #[serde(default)]
    pub(super) value: String,
    #[serde(rename = "use", default)]
    pub(super) usage: String,
}

#[derive(Deserialize)]
pub(super) struct HumanName {
    #[serde(rename = "use", default)]
    pub(super) usage: String,
    #[serde(default)]
    pub(super) family: String,
    #[serde(default)]
    pub(super) given: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Address {
    #[serde(rename = "use", default)]
    pub(super) usage: String,
    #[serde(rename = "postalCode", default)]
    pub(super) postal_code: String,
}

impl CodeableConcept {
    /// Whether one of the codings is this code of this system.
    pub(super) fn is(&self, system: &str, code: &str) -> bool {
        self.coding.iter().any(|coding| coding.system == system && coding.code == code)
    }
}
