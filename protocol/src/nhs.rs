//! NHS numbers and calendar dates as the service uses them.
//! It must not say that a valid number belongs to a person: that is what tracing does.

use alloc::format;
use alloc::string::String;
use core::fmt;
use core::str::FromStr;
use serde::{Deserialize, Serialize};

/// A ten-digit NHS number whose check digit is right (NHS Data Model: NHS NUMBER, modulus 11).
///
/// `Debug` and `Display` do not show it: an identifier must not reach a log by accident.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct NhsNumber(u64);

/// Why text is not an NHS number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NhsNumberError {
    /// Not ten digits once spaces and hyphens are taken out.
    #[error("an NHS number has ten digits")]
    NotTenDigits,
    /// The tenth digit does not fit the other nine.
    #[error("the check digit is wrong: one or more digits are mistyped")]
    WrongCheckDigit,
    /// Ten times the same digit: passes the check and is never issued.
    #[error("ten equal digits are not an NHS number")]
    RepeatedDigit,
}

/// Who issues numbers of this range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberRange {
    /// England, Wales and the Isle of Man: 400 to 499 and 600 to 799 million.
    EnglandWales,
    /// Reserved for tests: 999 million.
    Synthetic,
    /// Scotland's CHI numbers begin with a date of birth: 010101 to 311299.
    Scotland,
    /// Northern Ireland: 320 to 399 million.
    NorthernIreland,
    /// Not issued by anybody.
    Unissued,
}

impl NhsNumber {
    /// Takes the number as an integer.
    ///
    /// # Errors
    /// [`NhsNumberError`].
    pub fn new(number: u64) -> Result<Self, NhsNumberError> {
        if number > 9_999_999_999 {
            return Err(NhsNumberError::NotTenDigits);
        }
        if number.is_multiple_of(1_111_111_111) {
            return Err(NhsNumberError::RepeatedDigit);
        }
        if Self::check_digit(number / 10) == Some(number % 10) {
            Ok(Self(number))
        } else {
            Err(NhsNumberError::WrongCheckDigit)
        }
    }

    /// The check digit of nine leading digits; `None` where the rule gives ten, which is never issued.
    #[must_use]
    pub fn check_digit(nine_digits: u64) -> Option<u64> {
        let mut rest = nine_digits;
        let mut sum = 0;
        for weight in 2..=10 {
            sum += (rest % 10) * weight;
            rest /= 10;
        }
        match 11 - sum % 11 {
            11 => Some(0),
            10 => None,
            digit => Some(digit),
        }
    }

    /// The number as an integer; leading zeros are lost, so show it with [`Self::grouped`].
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Ten digits without spaces.
    #[must_use]
    pub fn digits(self) -> String {
        format!("{:010}", self.0)
    }

    /// The display form 3-3-4 with single spaces (ISB 1504 NUM-0003).
    #[must_use]
    pub fn grouped(self) -> String {
        let number = self.0;
        format!("{:03} {:03} {:04}", number / 10_000_000, number / 10_000 % 1_000, number % 10_000)
    }

    /// The range that the number was issued from.
    #[must_use]
    pub const fn range(self) -> NumberRange {
        match self.0 / 10_000_000 {
            999 => NumberRange::Synthetic,
            400..=499 | 600..=799 => NumberRange::EnglandWales,
            320..=399 => NumberRange::NorthernIreland,
            10..=311 => NumberRange::Scotland,
            _ => NumberRange::Unissued,
        }
    }
}

impl TryFrom<u64> for NhsNumber {
    type Error = NhsNumberError;
    fn try_from(number: u64) -> Result<Self, NhsNumberError> {
        Self::new(number)
    }
}

impl From<NhsNumber> for u64 {
    fn from(number: NhsNumber) -> Self {
        number.0
    }
}

impl FromStr for NhsNumber {
    type Err = NhsNumberError;
    /// Spaces and hyphens between digits are accepted, nothing else.
    fn from_str(text: &str) -> Result<Self, NhsNumberError> {
        let mut number = 0u64;
        let mut digits = 0;
        for c in text.trim().chars().filter(|c| !matches!(c, ' ' | '-' | '\u{a0}')) {
            let digit = c.to_digit(10).ok_or(NhsNumberError::NotTenDigits)?;
            digits += 1;
            if digits > 10 {
                return Err(NhsNumberError::NotTenDigits);
            }
            number = number * 10 + u64::from(digit);
        }
        if digits == 10 { Self::new(number) } else { Err(NhsNumberError::NotTenDigits) }
    }
}

impl fmt::Debug for NhsNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NhsNumber([redacted])")
    }
}

/// A calendar date between 1900 and 2078, stored as days since 1900-01-01.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Date(u16);

/// Text that is not a date `YYYY-MM-DD` between 1900 and 2078.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a date is written YYYY-MM-DD, dd-Mmm-yyyy or dd/mm/yyyy, and lies between 1900 and 2078")]
pub struct DateError;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const BASE: jiff::civil::Date = jiff::civil::date(1900, 1, 1);

impl Date {
    /// Year, month 1 to 12, day 1 to 31.
    ///
    /// # Errors
    /// [`DateError`].
    pub fn new(year: i16, month: i8, day: i8) -> Result<Self, DateError> {
        let date = jiff::civil::Date::new(year, month, day).map_err(|_| DateError)?;
        let days = date.since((jiff::Unit::Day, BASE)).map_err(|_| DateError)?.get_days();
        u16::try_from(days).map(Self).map_err(|_| DateError)
    }

    /// The date that an instant falls on in UTC.
    ///
    /// # Errors
    /// [`DateError`] outside the range.
    pub fn of_unix_ms(ms: i64) -> Result<Self, DateError> {
        let days = ms.div_euclid(86_400_000) + 25_567;
        u16::try_from(days).map(Self).map_err(|_| DateError)
    }

    fn civil(self) -> jiff::civil::Date {
        BASE.checked_add(jiff::Span::new().days(i32::from(self.0))).unwrap_or(BASE)
    }

    /// Days since 1900-01-01.
    #[must_use]
    pub const fn days(self) -> u16 {
        self.0
    }

    /// The date `days` later, or earlier when negative; stops at the ends of the range.
    #[must_use]
    pub fn plus_days(self, days: i32) -> Self {
        Self(u16::try_from((i32::from(self.0) + days).clamp(0, i32::from(u16::MAX))).unwrap_or(self.0))
    }

    /// Midnight UTC at the start of the date, in milliseconds since 1970.
    #[must_use]
    pub fn unix_ms(self) -> i64 {
        (i64::from(self.0) - 25_567) * 86_400_000
    }

    /// `YYYY-MM-DD` (FHIR date).
    #[must_use]
    pub fn iso(self) -> String {
        let date = self.civil();
        format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day())
    }

    /// `YYYYMMDD`, the canonical form in look-up queries.
    #[must_use]
    pub fn compact(self) -> String {
        let date = self.civil();
        format!("{:04}{:02}{:02}", date.year(), date.month(), date.day())
    }

    /// The date with day and month exchanged, where that is another date.
    #[must_use]
    pub fn transposed(self) -> Option<Self> {
        let date = self.civil();
        Self::new(date.year(), date.day(), date.month()).ok().filter(|other| *other != self)
    }

    /// `dd-Mmm-yyyy` (ISB 1503 D+Ta-0002).
    #[must_use]
    pub fn clinical(self) -> String {
        let date = self.civil();
        let month = usize::try_from(date.month() - 1).ok().and_then(|m| MONTHS.get(m)).copied().unwrap_or("???");
        format!("{:02}-{month}-{:04}", date.day(), date.year())
    }
}

impl TryFrom<u16> for Date {
    type Error = DateError;
    fn try_from(days: u16) -> Result<Self, DateError> {
        Ok(Self(days))
    }
}

impl From<Date> for u16 {
    fn from(date: Date) -> Self {
        date.0
    }
}

impl FromStr for Date {
    type Err = DateError;
    fn from_str(text: &str) -> Result<Self, DateError> {
        let text = text.trim();
        let separator = if text.contains('/') { '/' } else { '-' };
        let mut parts = text.split(separator);
        let (Some(a), Some(b), Some(c), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(DateError);
        };
        let number = |part: &str, length: usize| -> Result<i16, DateError> {
            if part.len() == length && part.bytes().all(|b| b.is_ascii_digit()) {
                part.parse().map_err(|_| DateError)
            } else {
                Err(DateError)
            }
        };
        let (year, month, day) = if separator == '-' && a.len() == 4 {
            (number(a, 4)?, number(b, 2)?, number(c, 2)?)
        } else if let Some(month) = MONTHS.iter().position(|m| m.eq_ignore_ascii_case(b)) {
            (number(c, 4)?, i16::try_from(month).map_err(|_| DateError)? + 1, number(a, 2)?)
        } else if separator == '/' {
            (number(c, 4)?, number(b, 2)?, number(a, 2)?)
        } else {
            return Err(DateError);
        };
        let narrow = |n: i16| i8::try_from(n).map_err(|_| DateError);
        Self::new(year, narrow(month)?, narrow(day)?)
    }
}

impl fmt::Debug for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Date([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_digits_and_ranges() {
        let number: NhsNumber = "999 000 0018".parse().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(number.range(), NumberRange::Synthetic);
        assert_eq!(number.grouped(), "999 000 0018");
        assert_eq!(alloc::format!("{number:?}"), "NhsNumber([redacted])");
        assert_eq!("9990000019".parse::<NhsNumber>(), Err(NhsNumberError::WrongCheckDigit));
        assert_eq!("1111111111".parse::<NhsNumber>(), Err(NhsNumberError::RepeatedDigit));
        assert_eq!("99900000181".parse::<NhsNumber>(), Err(NhsNumberError::NotTenDigits));
        assert_eq!("999000001x".parse::<NhsNumber>(), Err(NhsNumberError::NotTenDigits));
        // A published "test number" of the draft guide fails the check: generate, do not copy.
        assert_eq!("9912003899".parse::<NhsNumber>(), Err(NhsNumberError::WrongCheckDigit));
        assert_eq!("9434765919".parse::<NhsNumber>().map(NhsNumber::range), Ok(NumberRange::Unissued));
    }

    proptest::proptest! {
        #[test]
        fn every_single_digit_error_is_caught(body in 0u64..1_000_000_000, place in 0u32..10, digit in 0u64..10) {
            if let Some(check) = NhsNumber::check_digit(body) {
                let number = body * 10 + check;
                let unit = 10u64.pow(place);
                let wrong = number - (number / unit % 10) * unit + digit * unit;
                proptest::prop_assert!(wrong == number || NhsNumber::new(wrong).is_err());
            }
        }

        #[test]
        fn dates_round_trip(days in 0u16..65_000) {
            let date = Date(days);
            proptest::prop_assert_eq!(date.iso().parse::<Date>(), Ok(date));
            proptest::prop_assert_eq!(date.clinical().parse::<Date>(), Ok(date));
            proptest::prop_assert_eq!(Date::of_unix_ms(date.unix_ms()), Ok(date));
        }
    }

    #[test]
    fn dates_read_and_refuse() {
        assert_eq!("2015-03-04".parse::<Date>().map(Date::clinical), Ok("04-Mar-2015".into()));
        let transposed = |text: &str| text.parse::<Date>().ok().and_then(Date::transposed).map(Date::iso);
        assert_eq!(transposed("2015-03-04").as_deref(), Some("2015-04-03"));
        assert_eq!((transposed("2015-03-13"), transposed("2015-04-04")), (None, None));
        assert_eq!("04/03/2015".parse::<Date>().map(Date::iso), Ok("2015-03-04".into()));
        for wrong in ["2015-02-30", "15-03-04", "2015-3-4", "", "2015-03-04-05", "1899-12-31", "+015-03-04"] {
            assert_eq!(wrong.parse::<Date>(), Err(DateError), "{wrong}");
        }
    }
}
