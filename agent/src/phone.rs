//! Which of an authority's two telephones to ring now. The home of the time zone.
//! It must not hide the other number: both are always shown.

use serde::Serialize;

/// One of the two lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Office hours: Monday to Friday, 9 to 17, Europe/London.
    Office,
    /// The emergency duty team.
    Duty,
}

/// The line to ring at this instant. Bank holidays are not known: the office line's own message then refers on.
#[must_use]
pub fn ring_now(unix_ms: i64) -> Line {
    let Ok(instant) = jiff::Timestamp::from_millisecond(unix_ms) else { return Line::Duty };
    let Ok(london) = instant.in_tz("Europe/London") else { return Line::Duty };
    let workday = !matches!(london.weekday(), jiff::civil::Weekday::Saturday | jiff::civil::Weekday::Sunday);
    if workday && (9..17).contains(&london.hour()) { Line::Office } else { Line::Duty }
}

/// An instant as people in England read it: `22-Nov-2026 16:05`.
#[must_use]
pub fn london(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .and_then(|instant| instant.in_tz("Europe/London"))
        .map_or_else(|_| "an unknown time".into(), |t| t.strftime("%d-%b-%Y %H:%M").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Line {
        ring_now(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn office_hours_follow_the_clock_on_the_wall() {
        assert_eq!(at("2026-11-23T09:00:00Z"), Line::Office, "Monday, winter time");
        assert_eq!(at("2026-11-23T08:59:59Z"), Line::Duty);
        assert_eq!(at("2026-07-06T08:00:00Z"), Line::Office, "nine o'clock in summer time");
        assert_eq!(at("2026-07-06T16:00:00Z"), Line::Duty, "five o'clock in summer time");
        assert_eq!(at("2026-11-22T12:00:00Z"), Line::Duty, "Sunday");
    }
}
