//! Replies of the agent as text for people: the answers in fixed words, never without "as at" and "covers".
//! It must not leave out the age of a copy, nor let a negative look like an all-clear.

use std::fmt::Write as _;

use cpis_protocol::nhs::Date;
use serde_json::Value;

use crate::phone::london;

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

fn list(value: &Value, pointer: &str) -> Vec<String> {
    let items = value.pointer(pointer).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// An age in the words that people use.
#[must_use]
pub fn age(seconds: i64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => "less than a minute".into(),
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}

fn covers(names: &[String]) -> String {
    match names {
        [] => "nothing".into(),
        names if names.len() > 6 => {
            let first = names.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            format!("{first} and {} more (see `status`)", names.len() - 5)
        }
        names => names.join(", "),
    }
}

fn copy(value: &Value) -> String {
    let as_at = number(value, "/copy/as_at_ms").map_or_else(|| "never".into(), london);
    let old = number(value, "/copy/age_s").map_or_else(String::new, |s| format!(" ({} old)", age(s)));
    format!("As at {as_at}{old}. Covers {}.", covers(&list(value, "/copy/covers")))
}

/// How a candidate differs from what was typed.
fn way(code: &str) -> &'static str {
    match code {
        "sound-and-postcode" => " (surname sounds alike, same postcode; the given name was not compared)",
        "names-swapped" => " (surname and given name exchanged)",
        "day-and-month-swapped" => " (day and month of birth exchanged)",
        "part-of-surname" => " (by part of the surname)",
        "other-given-name" => " (by another given name)",
        _ => "",
    }
}

/// An answer.
#[must_use]
pub fn answer(reply: &Value) -> String {
    let candidates = reply.pointer("/candidates").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let title = match text(reply, "/answer") {
        "flagged" if !candidates.is_empty() => "POSSIBLE MATCH",
        "flagged" => "RECORD FOUND",
        "not-in-this-copy" => "NOT IN THIS COPY",
        "out-of-coverage" => "OUTSIDE COVERAGE",
        _ => "CANNOT ANSWER",
    };
    let mut out = String::new();
    let reason = text(reply, "/reason");
    let suffix = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
    let _ = writeln!(out, "{title}{suffix}");
    for word in list(reply, "/words") {
        let _ = writeln!(out, "{word}");
    }
    for one in candidates {
        let number = number(one, "/candidate").unwrap_or(0);
        let initials = Some(text(one, "/initials")).filter(|text| !text.is_empty()).unwrap_or("none recorded");
        let how = way(text(one, "/found"));
        let _ = writeln!(out, "  {number}  initials {initials}, NHS number ends {}{how}", text(one, "/last_three"));
    }
    if reply.pointer("/copy").is_some() {
        let _ = writeln!(out, "{}", copy(reply));
    }
    if let Some(look_up) = number(reply, "/look_up") {
        let _ = match text(reply, "/answer") {
            "flagged" if !candidates.is_empty() => {
                write!(out, "Once confirmed, to show the details: cpis-agent reveal {look_up} --candidate N")
            }
            "flagged" => write!(out, "To show the details: cpis-agent reveal {look_up}"),
            _ => write!(out, "Recorded as event {look_up}."),
        };
    }
    out.trim_end().to_owned()
}

fn date(iso: &str) -> String {
    iso.parse::<Date>().map_or_else(|_| "Not recorded".into(), Date::clinical)
}

/// The details of a record.
#[must_use]
pub fn revealed(reply: &Value) -> String {
    let mut out = String::from("RECORD\n");
    for word in list(reply, "/words") {
        let _ = writeln!(out, "{word}");
    }
    let duty = text(reply, "/ring_now") == "duty";
    for flag in reply.pointer("/flags").and_then(Value::as_array).into_iter().flatten() {
        let _ = writeln!(out, "\n{}", text(flag, "/display"));
        let _ = writeln!(out, "  Started    {}", date(text(flag, "/start")));
        if !text(flag, "/end").is_empty() {
            let _ = writeln!(out, "  Ended      {}", date(text(flag, "/end")));
        }
        let _ = writeln!(out, "  Authority  {}", text(flag, "/authority"));
        let lines = [("office hours", "/office_phone"), ("emergency duty team", "/duty_phone")];
        let ordered = if duty { [lines[1], lines[0]] } else { lines };
        for (at, (label, pointer)) in ordered.iter().enumerate() {
            let now = if at == 0 { "Ring now  " } else { "Otherwise " };
            let _ = writeln!(out, "  {now} {} ({label})", text(flag, pointer));
        }
    }
    let _ = writeln!(out, "\n{}", copy(reply));
    let notified = if reply.pointer("/notifies").and_then(Value::as_bool) == Some(true) {
        "The authority is told of this access when the device next connects."
    } else {
        "This access is recorded. At this site the authority is not notified of it."
    };
    let _ = write!(out, "{notified}");
    out
}

/// The status.
#[must_use]
pub fn status(value: &Value) -> String {
    let mut out = String::new();
    let synthetic =
        if value.pointer("/synthetic").and_then(Value::as_bool) == Some(true) { ", test data only" } else { "" };
    let _ = writeln!(out, "Deployment  {}{synthetic}", text(value, "/deployment"));
    let root = value.pointer("/root_version").and_then(Value::as_u64).unwrap_or(0);
    if let Some(until) = value.pointer("/root_until_ms").and_then(Value::as_i64) {
        let _ = writeln!(out, "Trust root  {root}, good until {}", london(until));
    }
    if let Some(until) = value.pointer("/certificate_until_ms").and_then(Value::as_i64) {
        let _ = writeln!(out, "Certificate good until {}, renewed by itself", london(until));
    }
    let _ = writeln!(
        out,
        "Device      {} at {} ({})",
        text(value, "/device"),
        text(value, "/site"),
        text(value, "/access_mode")
    );
    let _ = writeln!(out, "Scope       {}: covers {}", text(value, "/scope"), covers(&list(value, "/copy/covers")));
    let state = match (text(value, "/copy/freshness"), text(value, "/copy/cannot_answer")) {
        (band, "") => band.to_owned(),
        (_, reason) => format!("CANNOT ANSWER: {reason}"),
    };
    let as_at =
        number(value, "/copy/as_at_ms").map_or_else(|| "never synced".into(), |ms| format!("as at {}", london(ms)));
    let old = number(value, "/copy/age_s").map_or_else(String::new, |s| format!(", {} old", age(s)));
    let _ = writeln!(out, "Copy        {state}, {as_at}{old}");
    let records = number(value, "/copy/records").unwrap_or(0);
    let feeds = number(value, "/copy/feeds").unwrap_or(0);
    let _ = writeln!(
        out,
        "            {records} sealed records in {feeds} feeds, register sequence {}",
        number(value, "/copy/gseq").unwrap_or(0)
    );
    if let Some(lease) = number(value, "/copy/lease_until_ms") {
        let _ = writeln!(out, "            locks on {} unless it connects before", london(lease));
    }
    let outcome = match text(value, "/link/last_outcome") {
        "" => "not tried yet",
        outcome => outcome,
    };
    let _ = writeln!(out, "Link        {}: {outcome}", text(value, "/server"));
    let remedy = text(value, "/link/trouble/remedy");
    if !remedy.is_empty() {
        let _ = writeln!(out, "            {remedy}");
    }
    let waiting = number(value, "/outbox/waiting").unwrap_or(0);
    let through = number(value, "/outbox/through").unwrap_or(0);
    let _ =
        writeln!(out, "Outbox      {waiting} waiting of {through} recorded, space {}", text(value, "/outbox/space"));
    let problem = text(value, "/link/upload_problem");
    if !problem.is_empty() && waiting > 0 {
        let _ = writeln!(out, "            last upload: {problem}");
    }
    people(value, &mut out);
    let provider = text(value, "/device_secret/provider");
    if !provider.is_empty() {
        let since =
            number(value, "/device_secret/since_ms").map_or_else(String::new, |ms| format!(", since {}", london(ms)));
        let _ = write!(out, "\nSecret      kept by: {provider}{since}");
    }
    if value.pointer("/revoked").and_then(Value::as_bool) == Some(true) {
        let _ = write!(out, "\nREVOKED     this device has been withdrawn from use");
    }
    out
}

/// Who has the vault open, and what is left of their limits.
fn people(value: &Value, out: &mut String) {
    let vault = match text(value, "/unlocked_by") {
        "" => "locked".to_owned(),
        name => format!("unlocked by {name}"),
    };
    let _ = write!(out, "Vault       {vault}");
    if let Some(left) = number(value, "/allowance/look_ups") {
        let wait = number(value, "/allowance/wait_s").filter(|wait| *wait > 0);
        let wait = wait.map_or_else(String::new, |wait| format!(", the next in {wait} s"));
        let _ = write!(out, "\nLook-ups    {left} left now{wait}");
    }
    if let Some(left) = number(value, "/allowance/break_glass_look_ups") {
        let until = number(value, "/allowance/break_glass_until_ms").map_or_else(String::new, london);
        let _ = write!(out, "\nBROKEN GLASS {left} look-ups left of it, until {until}");
    }
    let (glasses, unrecorded) = (number(value, "/break_glass_count"), number(value, "/unrecorded_count"));
    if glasses.unwrap_or(0) > 0 {
        let (glasses, unrecorded) = (glasses.unwrap_or(0), unrecorded.unwrap_or(0));
        let _ = write!(out, "\nBreak-glass {glasses} times on this device; {unrecorded} answers were recorded later");
    }
}

/// The outbox.
#[must_use]
pub fn outbox(value: &Value) -> String {
    let events = value.pointer("/events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if events.is_empty() {
        return "Nothing waits: everything recorded has been acknowledged by the server.".into();
    }
    let mut out =
        format!("{} events wait. What they say is sealed to the server.\n", number(value, "/waiting").unwrap_or(0));
    for event in events {
        let when = number(event, "/event_ms").map_or_else(String::new, london);
        let _ = writeln!(out, "  {:>8}  {when}", number(event, "/seq").unwrap_or(0));
    }
    out.trim_end().to_owned()
}

/// The doctor's findings.
#[must_use]
pub fn doctor(value: &Value) -> String {
    let mut out = String::new();
    for check in value.pointer("/checks").and_then(Value::as_array).into_iter().flatten() {
        let mark = match text(check, "/result") {
            "good" => "ok  ",
            "warning" => "warn",
            _ => "FAIL",
        };
        let _ = writeln!(out, "{mark}  {:<12} {}", text(check, "/name"), text(check, "/finding"));
        if !text(check, "/remedy").is_empty() {
            let _ = writeln!(out, "      {:<12} {}", "", text(check, "/remedy"));
        }
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_negative_says_copy_age_coverage_and_that_it_is_no_all_clear() {
        let reply = json!({
            "answer": "not-in-this-copy", "look_up": 9,
            "words": [cpis_protocol::answer::NOT_IN_THIS_COPY, cpis_protocol::answer::NOT_NO_CONCERNS],
            "copy": { "as_at_ms": 1_795_370_700_000i64, "age_s": 7_260, "freshness": "fresh", "covers": ["Leeds"] },
        });
        assert_eq!(
            answer(&reply),
            "NOT IN THIS COPY\nNo CP-IS record in this copy with these details.\nThis does not mean that there are no \
             concerns. Follow your safeguarding procedure.\nAs at 22-Nov-2026 18:05 (2 h 1 min old). Covers Leeds.\n\
             Recorded as event 9."
        );
    }

    #[test]
    fn the_line_to_ring_now_comes_first() {
        let flag = json!({ "display": "Looked after child", "start": "2025-01-31", "authority": "Leeds",
            "office_phone": "0113 496 0001", "duty_phone": "0113 496 0002" });
        let shown = revealed(&json!({ "flags": [flag], "ring_now": "duty", "notifies": true, "words": [] }));
        let (duty, office) = (shown.find("Ring now   0113 496 0002"), shown.find("Otherwise  0113 496 0001"));
        assert!(duty.is_some() && duty < office, "{shown}");
        assert!(shown.contains("31-Jan-2025"), "{shown}");
    }

    #[test]
    fn ages() {
        assert_eq!([age(5), age(61), age(3_600), age(90_000)], ["less than a minute", "1 min", "1 h 0 min", "1 d 1 h"]);
    }
}
