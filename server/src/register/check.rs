//! The rules that a value must meet, the same for every source.
//! It must not mend a value: what does not fit is refused, with what to do about it.

use cpis_protocol::flag::FlagKind;
use cpis_protocol::nhs::{Date, DateError, NhsNumber, NhsNumberError, NumberRange};

use super::PlanRow;
use super::refusal::Fault;

/// Characters of a surname, of given names, of an authority's name.
pub(super) const NAME_CHARS_MAX: usize = 64;
/// No child is under a plan, or looked after, at 18: 18 years have at most 6,575 days.
const CHILD_DAYS_MAX: i32 = 6_575;
/// A due date this long before the start of an unborn child's plan, or this long after it, is mistyped.
const DUE_BEFORE_DAYS_MAX: i32 = 60;
const DUE_AFTER_DAYS_MAX: i32 = 310;

/// How a source calls the values, for its refusals.
#[derive(Debug)]
pub(super) struct Fields {
    pub(super) number: &'static str,
    pub(super) birth: &'static str,
    pub(super) surname: &'static str,
    pub(super) given: &'static str,
    pub(super) postcode: &'static str,
    pub(super) plan: &'static str,
    pub(super) start: &'static str,
    pub(super) end: &'static str,
    pub(super) due: &'static str,
}

/// A number of the range that this register takes.
pub(super) fn number(field: &'static str, text: &str, synthetic: bool) -> Result<NhsNumber, Fault> {
    let number: NhsNumber = text.parse().map_err(|error| match error {
        NhsNumberError::NotTenDigits => Fault::new(
            field,
            "nhs-number-not-ten-digits",
            "write ten digits, with or without spaces; a spreadsheet may have dropped digits or used an exponent",
        ),
        NhsNumberError::WrongCheckDigit => Fault::new(
            field,
            "nhs-number-check-digit",
            "one or more digits are mistyped: trace the number again, do not correct the last digit",
        ),
        NhsNumberError::RepeatedDigit => {
            Fault::new(field, "nhs-number-repeated-digit", "a placeholder is not a number: trace the person")
        }
    })?;
    match (synthetic, number.range()) {
        (false, NumberRange::EnglandWales) | (true, NumberRange::Synthetic) => Ok(number),
        (true, _) => Err(Fault::new(
            field,
            "nhs-number-range",
            "a synthetic register takes test numbers (beginning 999) only: never load real people into it",
        )),
        (false, NumberRange::Synthetic) => Err(Fault::new(
            field,
            "nhs-number-range",
            "this is a test number (beginning 999); a real register does not take it",
        )),
        (false, _) => Err(Fault::new(
            field,
            "nhs-number-range",
            "not a number issued in England or Wales (Scotland, Northern Ireland or nobody): trace the person",
        )),
    }
}

/// A date, or nothing where the text is empty.
pub(super) fn date(field: &'static str, text: &str) -> Result<Option<Date>, Fault> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|DateError| Fault::new(field, "bad-date", "write a real date as YYYY-MM-DD"))
}

/// Text of people: short, nothing that a spreadsheet would run, nothing that cannot be printed.
pub(super) fn text(field: &'static str, text: &str) -> Result<String, Fault> {
    if text.chars().count() > NAME_CHARS_MAX {
        return Err(Fault::new(field, "too-long", "at most 64 characters fit"));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::new(field, "control-character", "take tabs and other control characters out"));
    }
    if text.starts_with(['=', '+', '-', '@']) {
        return Err(Fault::new(
            field,
            "formula",
            "the text begins with = + - or @, which a spreadsheet would run: correct it at the source",
        ));
    }
    Ok(text.to_owned())
}

/// A name; `required` when it must not be empty.
pub(super) fn name(field: &'static str, value: &str, required: bool) -> Result<String, Fault> {
    let value = text(field, value)?;
    if value.is_empty() && required {
        return Err(Fault::new(
            field,
            "missing-value",
            "give the name; somebody with a single name has it as the surname",
        ));
    }
    if !value.is_empty() && !value.chars().any(char::is_alphabetic) {
        return Err(Fault::new(field, "bad-name", "a name has at least one letter"));
    }
    Ok(value)
}

/// A postcode in capitals with one space, or nothing.
pub(super) fn postcode(field: &'static str, text: &str, restricted: bool) -> Result<String, Fault> {
    if text.is_empty() {
        return Ok(String::new());
    }
    if restricted {
        return Err(Fault::new(
            field,
            "restricted-with-postcode",
            "leave the postcode of a restricted person empty: where they live must not leave the authority",
        ));
    }
    let compact: String = text.chars().filter(|c| *c != ' ').map(|c| c.to_ascii_uppercase()).collect();
    let fault = Fault::new(field, "bad-postcode", "write a full postcode, or leave it empty where none is known");
    let (outward, inward) = compact.split_at_checked(compact.len().saturating_sub(3)).ok_or(fault)?;
    let is_letter = |b: u8| b.is_ascii_uppercase();
    let outward_fits = match outward.as_bytes() {
        [a, d] => is_letter(*a) && d.is_ascii_digit(),
        [a, b, c] => is_letter(*a) && (b.is_ascii_digit() || (is_letter(*b) && c.is_ascii_digit())),
        [a, b, c, d] => {
            let last = d.is_ascii_digit() || is_letter(*d);
            is_letter(*a) && is_letter(*b) && c.is_ascii_digit() && last
        }
        _ => false,
    };
    let outward_fits = outward_fits && outward.bytes().all(|b| b.is_ascii_digit() || is_letter(b));
    match inward.as_bytes() {
        [d, a, b] if outward_fits && d.is_ascii_digit() && is_letter(*a) && is_letter(*b) => {
            Ok(format!("{outward} {inward}"))
        }
        _ => Err(fault),
    }
}

/// What is wrong with the dates of a plan.
pub(super) fn plan(fields: &Fields, plan: &PlanRow, birth: Date) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |wrong: bool, field, code, remedy| {
        if wrong {
            faults.push(Fault::new(field, code, remedy));
        }
    };
    let days = |from: Date, to: Date| i32::from(to.days()) - i32::from(from.days());
    let unborn = plan.kind == FlagKind::Ucpp;
    let earliest = plan.start.or(plan.end);
    fault(
        plan.start.zip(plan.end).is_some_and(|(start, end)| end < start),
        fields.end,
        "end-before-start",
        "the plan ends before it starts: correct one of the dates",
    );
    fault(
        earliest.is_some_and(|day| birth > day),
        fields.birth,
        "birth-after-start",
        "the person is born after the plan begins: an unborn child's plan (ucpp) goes on the mother's number",
    );
    fault(
        !unborn && earliest.is_some_and(|day| days(birth, day) > CHILD_DAYS_MAX),
        fields.birth,
        "too-old-for-plan",
        "the person is 18 or older when the plan begins: check the date of birth, or use ucpp for a mother",
    );
    fault(
        !unborn && plan.due.is_some(),
        fields.due,
        "due-date-not-unborn",
        "only an unborn child's plan has a due date: leave it empty",
    );
    fault(
        unborn
            && plan
                .start
                .zip(plan.due)
                .is_some_and(|(start, due)| !(-DUE_BEFORE_DAYS_MAX..=DUE_AFTER_DAYS_MAX).contains(&days(start, due))),
        fields.due,
        "due-date-implausible",
        "the due date is more than 60 days before the start of the plan or more than 310 days after it",
    );
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code<T>(result: Result<T, Fault>) -> &'static str {
        result.map_or_else(|fault| fault.code, |_| "")
    }

    #[test]
    fn numbers_of_the_right_range_only() {
        for (text, real, synthetic) in [
            ("9990000018", "nhs-number-range", ""),
            ("999 000 0018", "nhs-number-range", ""),
            ("4010232137", "", "nhs-number-range"),
            ("9434765919", "nhs-number-range", "nhs-number-range"),
            ("0101010008", "nhs-number-check-digit", "nhs-number-check-digit"),
            ("1111111111", "nhs-number-repeated-digit", "nhs-number-repeated-digit"),
            ("9.99E+09", "nhs-number-not-ten-digits", "nhs-number-not-ten-digits"),
            ("", "nhs-number-not-ten-digits", "nhs-number-not-ten-digits"),
        ] {
            assert_eq!((code(number("n", text, false)), code(number("n", text, true))), (real, synthetic), "{text}");
        }
    }

    #[test]
    fn names_and_formulas() {
        for (value, want) in [
            ("O'Brien-Smith", ""),
            ("Łucja", ""),
            ("=cmd|' /C calc'!A0", "formula"),
            ("+44", "formula"),
            ("-1", "formula"),
            ("@SUM(A1)", "formula"),
            ("1234", "bad-name"),
            ("a\tb", "control-character"),
            ("", "missing-value"),
        ] {
            assert_eq!(code(name("n", value, true)), want, "{value}");
        }
        assert_eq!(code(name("n", &"é".repeat(64), true)), "");
        assert_eq!(code(name("n", &"é".repeat(65), true)), "too-long");
    }

    #[test]
    fn postcodes() {
        for good in ["za1 1aa", "ZA11AA", "SW1A 1AA", "M1 1AE", "B33 8TH", "ZZ99 3VZ", "W1A 0AX"] {
            assert!(postcode("p", good, false).is_ok(), "{good}");
        }
        for wrong in ["A", "1AA", "ZA1 1A", "ZAA1 1AA", "Z 1AA", "ZA1 AA1", "é1 1AA", "1A1 1AA", "A1-1AA"] {
            assert_eq!(code(postcode("p", wrong, false)), "bad-postcode", "{wrong}");
        }
        assert_eq!(postcode("p", "m11ae", false), Ok("M1 1AE".into()));
        assert_eq!(code(postcode("p", "M1 1AE", true)), "restricted-with-postcode");
    }
}
