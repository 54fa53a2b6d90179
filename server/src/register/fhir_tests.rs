//! The published shapes, unchanged and with one thing wrong at a time.
//! It must not mend the published file that is kept as it is.

use serde_json::{Value, json};

use super::super::Change;
use super::super::fhir_index::NHS_NUMBER;
use super::*;

const PUBLISHED: &[u8] = include_bytes!("../../tests/fixtures/PatientFlags-searchset-with-CPIS.fixed.json");
const WHOLE: &[u8] = include_bytes!("../../tests/fixtures/CPIS-CPP-Bundle-Example.json");
const DRAFT: &[u8] = include_bytes!("../../tests/fixtures/cpis-careteam-searchset.derived.json");

fn read(bundle: &Value) -> Result<FhirReading, Vec<RowRefusal>> {
    read_fhir_counted(bundle.to_string().as_bytes(), true)
}

fn codes(result: Result<FhirReading, Vec<RowRefusal>>) -> Vec<(u64, &'static str)> {
    result.expect_err("refused").iter().map(|refusal| (refusal.line, refusal.code)).collect()
}

fn only_person(reading: &FhirReading) -> &PersonRow {
    match reading.extract.changes.as_slice() {
        [Change::Put(person)] => person,
        other => panic!("one person, not {other:?}"),
    }
}

/// The whole bundle with the value at a pointer replaced, or taken out when null.
fn with(pointer: &str, value: Value) -> Value {
    let mut bundle: Value = serde_json::from_slice(WHOLE).unwrap();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = bundle.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
    match parent {
        Value::Object(map) if value.is_null() => drop(map.remove(key).unwrap_or_else(|| panic!("{pointer}"))),
        Value::Object(map) => drop(map.insert(key.to_owned(), value)),
        Value::Array(list) if value.is_null() => drop(list.remove(key.parse().unwrap())),
        Value::Array(list) => list.push(value),
        _ => panic!("{pointer}"),
    }
    bundle
}

#[test]
fn the_published_searchset_is_refused_because_it_names_nobody() {
    let refusals = read_fhir(PUBLISHED, true).unwrap_err();
    let found: Vec<_> = refusals.iter().map(|r| (r.line, r.field, r.code)).collect();
    assert_eq!(
        found,
        [(3, "Flag.subject", "subject-not-identified"), (3, "Flag.extension:flag-detail", "plan-not-in-bundle"),],
        "the other two flags are of no interest, so they are not refused"
    );
    assert!(!format!("{refusals:?}").contains("Mann"));
}

#[test]
fn the_published_bundle_with_a_patient_is_taken() {
    let reading = read_fhir_counted(WHOLE, true).unwrap();
    let person = only_person(&reading);
    assert_eq!((person.number.as_u64(), person.birth.iso().as_str()), (9_990_000_018, "2015-03-04"));
    assert_eq!((person.surname.as_str(), person.given.as_str(), person.postcode.as_str()), ("Mann", "Alan", "ZC1 1AA"));
    let plan = person.plans.first().unwrap();
    assert_eq!((plan.kind, plan.authority.as_str(), plan.end), (FlagKind::Cpp, "E08000019", None));
    assert_eq!(plan.start.map(Date::iso).as_deref(), Some("2024-07-22"));
    let authority = reading.extract.authorities.first().unwrap();
    assert_eq!(authority.name, "Sheffield City Council");
    assert_eq!((authority.office_phone.as_str(), authority.duty_phone.as_str()), ("01144960581", "07700900581"));
    assert_eq!(reading.ignored, 0);
    assert!(read_fhir(WHOLE, false).unwrap_err().iter().any(|r| r.code == "nhs-number-range"));
}

#[test]
fn the_searchset_shape_is_taken_once_it_is_whole() {
    let mut bundle: Value = serde_json::from_slice(PUBLISHED).unwrap();
    let parts: Value = serde_json::from_slice(WHOLE).unwrap();
    let mut plan = parts.pointer("/entry/1").unwrap().clone();
    // The published searchset calls it -example, the published bundle -Example: references are case-sensitive.
    plan["resource"]["id"] = json!("CPIS-CarePlan-example");
    plan["fullUrl"] = json!("urn:uuid:52345678-1234-5678-1234-567812345678");
    let entries = bundle["entry"].as_array_mut().unwrap();
    entries.extend([plan, parts["entry"][2].clone(), parts["entry"][3].clone()]);
    let reading = read(&bundle).unwrap();
    assert_eq!(only_person(&reading).plans.len(), 1);
    assert_eq!(reading.ignored, 2, "reasonable adjustments and FGM are not ours to hold");
}

#[test]
fn the_draft_care_team_searchset_needs_its_patient() {
    assert_eq!(codes(read_fhir_counted(DRAFT, true)), [(1, "subject-not-identified")]);
    let mut bundle: Value = serde_json::from_slice(DRAFT).unwrap();
    let parts: Value = serde_json::from_slice(WHOLE).unwrap();
    bundle["entry"].as_array_mut().unwrap().push(parts["entry"][3].clone());
    let reading = read(&bundle).unwrap();
    assert_eq!(
        only_person(&reading).plans.first().and_then(|plan| plan.start).map(Date::iso).as_deref(),
        Some("2026-01-12")
    );
    bundle["entry"][0]["resource"]["status"] = json!("inactive");
    assert_eq!(codes(read(&bundle)), [(1, "inactive-without-end")]);
}

#[test]
fn one_thing_wrong_one_refusal() {
    let plan = "/entry/1/resource";
    let team = "/entry/2/resource";
    let patient = "/entry/3/resource";
    for (pointer, value, line, code) in [
        ("/type".into(), json!("history"), 0, "unknown-bundle"),
        ("/resourceType".into(), json!("Parameters"), 0, "unknown-bundle"),
        ("/link".into(), json!([{"relation": "next", "url": "x"}]), 0, "incomplete-bundle"),
        ("/entry/3".into(), Value::Null, 1, "subject-not-identified"),
        ("/entry/0/resource/subject".into(), Value::Null, 1, "subject-not-identified"),
        ("/entry/0/resource/extension".into(), json!([]), 1, "plan-not-named"),
        ("/entry/1".into(), Value::Null, 1, "plan-not-in-bundle"),
        ("/entry/2".into(), Value::Null, 1, "careteam-not-in-bundle"),
        ("/entry/0/resource/status".into(), json!("inactive"), 1, "inactive-without-end"),
        (format!("{plan}/status"), json!("completed"), 1, "inactive-without-end"),
        (format!("{plan}/category"), json!([]), 1, "unknown-plan"),
        (format!("{plan}/period/start"), json!("2024-07"), 1, "bad-date"),
        (format!("{plan}/period/start"), json!("22/07/2024"), 1, "bad-date"),
        (format!("{plan}/period/end"), json!("2024-07-21"), 1, "end-before-start"),
        (format!("{team}/name"), json!("Atlantis City Council"), 1, "unknown-authority"),
        (format!("{team}/telecom"), json!([]), 1, "missing-phone"),
        (format!("{team}/telecom/0/value"), json!("ring us"), 1, "bad-phone"),
        (format!("{patient}/active"), json!(false), 1, "inactive-patient"),
        (format!("{patient}/birthDate"), json!("2015"), 1, "bad-date"),
        (format!("{patient}/birthDate"), Value::Null, 1, "missing-value"),
        (format!("{patient}/birthDate"), json!("2024-07-23"), 1, "birth-after-start"),
        (format!("{patient}/name"), Value::Null, 1, "missing-value"),
        (format!("{patient}/name/0/family"), json!("=1+1"), 1, "formula"),
        (format!("{patient}/address/0/postalCode"), json!("Leeds"), 1, "bad-postcode"),
        (format!("{patient}/identifier/0/value"), json!("9990000019"), 1, "nhs-number-check-digit"),
        (format!("{patient}/identifier/0/value"), json!("4010232137"), 1, "nhs-number-range"),
    ] {
        assert_eq!(codes(read(&with(&pointer, value))), [(line, code)], "{pointer}");
    }
}

#[test]
fn repeated_and_conflicting_entries() {
    let parts: Value = serde_json::from_slice(WHOLE).unwrap();
    let twice = |entry: usize| with("/entry/9", parts["entry"][entry].clone());
    assert_eq!(codes(read(&twice(1))), [(5, "duplicate-resource")]);
    let codes_of: Vec<_> = codes(read(&twice(0))).into_iter().map(|(_, code)| code).collect();
    assert_eq!(codes_of, ["duplicate-resource", "duplicate-row"]);
    let mut other = parts["entry"][3].clone();
    other["fullUrl"] = json!("Patient/other");
    other["resource"]["id"] = json!("other");
    other["resource"]["identifier"][0]["value"] = json!("9990000026");
    let mut bundle = with("/entry/9", other);
    bundle["entry"][1]["resource"]["subject"] = json!({"reference": "Patient/other"});
    assert_eq!(codes(read(&bundle)), [(1, "conflicting-person")]);
}

#[test]
fn subjects_by_identifier_and_by_any_url() {
    let number = json!({"identifier": {"system": NHS_NUMBER, "value": "9990000018"}});
    let url = json!({"reference": "https://fhirserver.example.org/R4/Patient/PatientFlag-AlanMann-Example"});
    for subject in [number, url] {
        assert!(read(&with("/entry/0/resource/subject", subject)).is_ok());
    }
    let both = json!({
        "identifier": {"system": NHS_NUMBER, "value": "9990000026"},
        "reference": "Patient/PatientFlag-AlanMann-Example",
    });
    assert_eq!(codes(read(&with("/entry/0/resource/subject", both.clone()))), [(1, "subject-not-identified")]);
    assert_eq!(codes(read(&with("/entry/1/resource/subject", both))), [(1, "conflicting-person")]);
    let nobody = json!({"identifier": {"system": NHS_NUMBER, "value": "9990000026"}});
    assert_eq!(codes(read(&with("/entry/0/resource/subject", nobody))), [(1, "subject-not-identified")]);
}

#[test]
fn a_restricted_person_has_no_postcode_whatever_the_source_says() {
    let reading = read(&with("/entry/3/resource/meta", json!({"security": [{"code": "R"}]}))).unwrap();
    let person = only_person(&reading);
    assert!(person.restricted && person.postcode.is_empty());
}

#[test]
fn what_says_nothing_is_ignored_and_counted() {
    let wrong = read(&with("/entry/0/resource/status", json!("entered-in-error"))).unwrap();
    assert_eq!((wrong.extract.changes.len(), wrong.ignored), (0, 1));
    let outcome = json!({"resource": {"resourceType": "OperationOutcome", "issue": []}});
    assert_eq!(read(&with("/entry/9", outcome)).map(|reading| reading.ignored), Ok(1));
    let none = json!({"resourceType": "Bundle", "type": "searchset", "total": 0});
    assert_eq!(read(&none), Ok(FhirReading::default()));
}

#[test]
fn international_telephones_are_written_as_dialled_here() {
    let reading = read(&with("/entry/2/resource/telecom/0/value", json!("+44 114 496 0581"))).unwrap();
    assert_eq!(reading.extract.authorities.first().map(|a| a.office_phone.as_str()), Some("0114 496 0581"));
}

#[test]
fn no_json_and_too_deep_and_too_large() {
    assert_eq!(codes(read_fhir_counted(b"<Bundle/>", true)), [(1, "bad-json")]);
    let deep = format!("{{\"resourceType\":\"Bundle\",\"entry\":{}", "[".repeat(100_000));
    assert_eq!(codes(read_fhir_counted(deep.as_bytes(), true)), [(1, "bad-json")]);
    assert_eq!(codes(read_fhir_counted(&vec![b' '; FHIR_BYTES_MAX + 1], true)), [(0, "file-too-large")]);
}
