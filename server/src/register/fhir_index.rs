//! Finds the resources of one bundle by everything that a reference may call them.
//! It must not look outside the bundle.

use std::collections::HashMap;

use super::fhir_shape::{Bundle, Patient, Reference, Resource};
use super::refusal::{Fault, Refusals};

/// The identifier system of NHS numbers.
pub(super) const NHS_NUMBER: &str = "https://fhir.nhs.uk/Id/nhs-number";

/// The resources by everything that a reference may call them, and the patients by NHS number as written.
pub(super) struct Index<'a> {
    resources: HashMap<String, &'a Resource>,
    patients: HashMap<String, &'a Patient>,
}

impl<'a> Index<'a> {
    pub(super) fn new(bundle: &'a Bundle, refusals: &mut Refusals) -> Self {
        let mut index = Self { resources: HashMap::new(), patients: HashMap::new() };
        for (entry, line) in bundle.entry.iter().zip(1u64..) {
            let Some(resource) = &entry.resource else { continue };
            let (kind, id) = match resource {
                Resource::CarePlan(plan) => ("CarePlan", &plan.id),
                Resource::CareTeam(team) => ("CareTeam", &team.id),
                Resource::Patient(patient) => {
                    index.add_patient(line, patient, refusals);
                    ("Patient", &patient.id)
                }
                Resource::Flag(flag) => ("Flag", &flag.id),
                Resource::Other => continue,
            };
            let own = id.as_ref().map(|id| format!("{kind}/{id}"));
            let url = entry.full_url.clone().filter(|url| Some(url) != own.as_ref());
            for name in own.into_iter().chain(url) {
                if index.resources.insert(name, resource).is_some() {
                    let remedy = "two entries have the same id or fullUrl, so references to them mean nothing certain";
                    refusals.add(line, Fault::new("Bundle.entry", "duplicate-resource", remedy));
                }
            }
        }
        index
    }

    fn add_patient(&mut self, line: u64, patient: &'a Patient, refusals: &mut Refusals) {
        if let Some(number) = nhs_number(patient)
            && self.patients.insert(number.to_owned(), patient).is_some()
        {
            let remedy = "two Patient entries have the same NHS number: keep one";
            refusals.add(line, Fault::new("Patient.identifier", "duplicate-resource", remedy));
        }
    }

    /// What a reference means: `CarePlan/x`, the entry's full URL, or any URL that ends in `/CarePlan/x`.
    pub(super) fn find(&self, reference: &str) -> Option<&'a Resource> {
        let short = || {
            let mut parts = reference.rsplitn(3, '/');
            let (id, kind) = (parts.next()?, parts.next()?);
            self.resources.get(&format!("{kind}/{id}"))
        };
        self.resources.get(reference).or_else(short).copied()
    }

    pub(super) fn patient(&self, subject: &Reference) -> Option<&'a Patient> {
        let by_reference = subject.reference.as_deref().and_then(|reference| match self.find(reference) {
            Some(Resource::Patient(patient)) => Some(patient),
            _ => None,
        });
        let Some(identifier) = subject.identifier.as_ref().filter(|identifier| identifier.system == NHS_NUMBER) else {
            return by_reference;
        };
        // Where both are there they must mean the same person.
        let by_number = self.patients.get(identifier.value.as_str()).copied()?;
        by_reference.is_none_or(|other| std::ptr::eq(other, by_number)).then_some(by_number)
    }
}

/// The NHS number as it is written.
pub(super) fn nhs_number(patient: &Patient) -> Option<&str> {
    patient.identifier.iter().find(|identifier| identifier.system == NHS_NUMBER).map(|found| found.value.as_str())
}
