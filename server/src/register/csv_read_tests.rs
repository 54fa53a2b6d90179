//! Every refusal of the CSV reader, and what it forgives.
//! It must not use a number outside the 999 range, except to see it refused.

use super::super::REFUSALS_MAX;
use super::super::{Change, Extract, RowRefusal, read_csv};
use super::{CSV_BYTES_MAX, LINE_BYTES_MAX};

const HEADER: &str = "nhs_number,date_of_birth,surname,given_name,postcode,plan,start_date,end_date,due_date,\
                      authority_code,restricted,action";
const ROW: &str = "9990000018,2015-03-04,O'Brien,Ada,ZC1 1AA,cpp,2026-01-12,,,E08000019,,";

fn read(rows: &str) -> Result<Extract, Vec<RowRefusal>> {
    read_csv(format!("{HEADER}\n{rows}").as_bytes(), true)
}

/// Line, field and code of each refusal.
fn refused(result: Result<Extract, Vec<RowRefusal>>) -> Vec<(u64, &'static str, &'static str)> {
    let list = result.expect_err("refused");
    list.iter().map(|refusal| (refusal.line, refusal.field, refusal.code)).collect()
}

#[test]
fn rows_of_one_person_are_merged() {
    let other = ROW.replace("cpp,2026-01-12", "lac,2026-02-01").replace("9990000018", "999 000 0018");
    let extract = read(&format!("{ROW}\r\n\r\n{other}\r\n")).unwrap();
    let [Change::Put(person)] = extract.changes.as_slice() else { panic!("one person") };
    assert_eq!(person.plans.len(), 2);
    assert_eq!((person.surname.as_str(), person.postcode.as_str()), ("O'Brien", "ZC1 1AA"));
    assert!(!person.restricted && extract.authorities.is_empty());
}

#[test]
fn forgives_bom_order_case_and_missing_optional_columns() {
    let text = "\u{feff}Plan,NHS_Number,given_name,surname,date_of_birth,start_date,end_date,authority_code\r\n\
                342191000000101, 9990000018 ,,Ada,04/03/2015,12-Jan-2026,,E08000019";
    let extract = read_csv(text.as_bytes(), true).unwrap();
    assert_eq!(extract.changes.len(), 1);
    assert!(read_csv(HEADER.as_bytes(), true).unwrap().changes.is_empty());
}

#[test]
fn one_wrong_value_one_refusal() {
    for (from, to, field, code) in [
        ("9990000018", "9990000019", "nhs_number", "nhs-number-check-digit"),
        ("9990000018", "9999999999", "nhs_number", "nhs-number-repeated-digit"),
        ("9990000018", "4010232137", "nhs_number", "nhs-number-range"),
        ("9990000018", "999000001", "nhs_number", "nhs-number-not-ten-digits"),
        ("2015-03-04", "2015-02-30", "date_of_birth", "bad-date"),
        ("2015-03-04", "", "date_of_birth", "missing-value"),
        ("2015-03-04", "2026-01-13", "date_of_birth", "birth-after-start"),
        ("2015-03-04", "1915-03-04", "date_of_birth", "too-old-for-plan"),
        ("2026-01-12,", "2026-01-12,2026-01-11", "end_date", "end-before-start"),
        ("2026-01-12", "12.1.2026", "start_date", "bad-date"),
        ("cpp", "cin", "plan", "unknown-plan"),
        ("cpp", "ucpp", "due_date", "missing-due-date"),
        ("2026-01-12,,", "2026-01-12,,2026-03-01", "due_date", "due-date-not-unborn"),
        ("cpp,2026-01-12,,", "ucpp,2026-01-12,,2028-03-01", "due_date", "due-date-implausible"),
        ("E08000019", "E08000099", "authority_code", "unknown-authority"),
        ("O'Brien", "", "surname", "missing-value"),
        ("O'Brien", "=HYPERLINK(1)", "surname", "formula"),
        ("O'Brien", "12", "surname", "bad-name"),
        ("Ada", "@SUM(A1)", "given_name", "formula"),
        ("ZC1 1AA", "nowhere", "postcode", "bad-postcode"),
        ("E08000019,,", "E08000019,true,", "postcode", "restricted-with-postcode"),
        ("E08000019,,", "E08000019,maybe,", "restricted", "bad-restricted"),
        ("E08000019,,", "E08000019,,drop", "action", "bad-action"),
        ("E08000019,,", "E08000019,,delete", "date_of_birth", "delete-with-details"),
        ("Ada", "Ada,Bea", "", "wrong-field-count"),
        ("Ada", "\u{1}", "", "control-character"),
        ("Ada", "\0", "", "nul-byte"),
        ("Ada", "\"Ada", "", "line-break-in-value"),
    ] {
        let row = ROW.replace(from, to);
        assert_ne!(row, ROW, "{from}");
        assert_eq!(refused(read(&format!("\n{row}\n{ROW}\n"))).first(), Some(&(3, field, code)), "{to}");
    }
    let long = ROW.replace("Ada", &"a".repeat(65));
    assert_eq!(refused(read(&long)), [(2, "given_name", "too-long")]);
    let long = ROW.replace("Ada", &"a".repeat(LINE_BYTES_MAX));
    assert_eq!(refused(read(&long)), [(2, "", "line-too-long")]);
}

#[test]
fn several_faults_of_one_row_are_all_told() {
    let row = ROW.replace("9990000018", "9990000019").replace("ZC1 1AA", "x").replace("cpp", "x");
    let fields: Vec<_> = refused(read(&row)).into_iter().map(|(_, field, _)| field).collect();
    assert_eq!(fields, ["nhs_number", "postcode", "plan"]);
}

#[test]
fn rows_that_disagree() {
    for (from, to, field, code) in [
        ("", "", "plan", "duplicate-row"),
        ("2015-03-04", "2015-03-05", "date_of_birth", "conflicting-birth-date"),
        ("Ada", "Adah", "given_name", "conflicting-person"),
        ("2026-01-12,", "2026-01-12,2026-02-01", "plan", "conflicting-plan"),
    ] {
        let second = ROW.replacen(from, to, 1);
        assert_eq!(refused(read(&format!("{ROW}\n{second}"))), [(3, field, code)]);
    }
    let delete = "9990000018,,,,,,,,,,,delete";
    assert_eq!(refused(read(&format!("{ROW}\n{delete}"))), [(3, "nhs_number", "put-and-delete")]);
    assert_eq!(refused(read(&format!("{delete}\n{ROW}"))), [(3, "nhs_number", "put-and-delete")]);
    assert_eq!(refused(read(&format!("{delete}\n{delete}"))), [(3, "nhs_number", "duplicate-row")]);
    assert!(matches!(read(delete).unwrap().changes.as_slice(), [Change::Delete(_)]));
}

#[test]
fn wrong_headers_never_quote_the_line() {
    for (header, want) in [
        ("", (1, "", "bad-header")),
        (ROW, (1, "", "bad-header")),
        ("nhs_number;date_of_birth;surname", (1, "", "bad-header")),
        ("authority_code,name,office_phone", (1, "duty_phone", "missing-column")),
        (&format!("{HEADER},social_worker"), (1, "", "unknown-column")),
        (&format!("{HEADER},action"), (1, "action", "duplicate-column")),
        (&HEADER.replace("surname,", ""), (1, "surname", "missing-column")),
    ] {
        let list = read_csv(header.as_bytes(), true).unwrap_err();
        let first = list.first().unwrap();
        assert_eq!((first.line, first.field, first.code), want);
        assert!(!format!("{list:?}").contains("O'Brien"));
    }
    assert_eq!(refused(read_csv(b"nhs_number\xff", true)), [(1, "", "not-utf8")]);
    assert_eq!(refused(read_csv(&vec![b'a'; CSV_BYTES_MAX + 1], true)), [(0, "", "file-too-large")]);
}

#[test]
fn refusals_stop_at_a_thousand_and_say_so() {
    let rows = format!("{}\n", ROW.replace("cpp", "x")).repeat(REFUSALS_MAX + 5);
    let list = read(&rows).unwrap_err();
    assert_eq!(list.len(), REFUSALS_MAX + 1);
    assert_eq!(list.last().map(|last| last.code), Some("too-many-refusals"));
    assert_eq!(list.first().map(|first| first.line), Some(2));
}

#[test]
fn restricted_people_may_have_no_name_and_have_no_postcode() {
    let row = "9990000018,2015-03-04,,,,lac,,,,E08000019,yes,put";
    let extract = read(row).unwrap();
    let [Change::Put(person)] = extract.changes.as_slice() else { panic!("one person") };
    assert!(person.restricted && person.plans.first().is_some_and(|plan| plan.start.is_none()));
}

#[test]
fn authorities_with_their_telephones() {
    let head = "authority_code,name,office_phone,duty_phone\n";
    let good = "E08000019,Sheffield City Council,0114 496 0001,0114 496 0002\n";
    let extract = read_csv(format!("{head}{good}").as_bytes(), true).unwrap();
    assert_eq!(extract.authorities.first().map(|row| row.duty_phone.as_str()), Some("0114 496 0002"));
    let twice = format!("{head}{good}{good}");
    assert_eq!(refused(read_csv(twice.as_bytes(), true)), [(3, "authority_code", "duplicate-row")]);
    let real = refused(read_csv(format!("{head}{good}").as_bytes(), false));
    assert_eq!(real.first(), Some(&(2, "office_phone", "fictitious-phone")), "a crew must not ring a drama number");
    let plus = format!("{head}{}", good.replace("0114 496 0001", "+44 114 496 0001"));
    assert_eq!(refused(read_csv(plus.as_bytes(), true)), [(2, "office_phone", "bad-phone")]);
}
