//! How figures are printed: one line each, as rows of a Markdown table, so that they can be pasted.
//! It must not stop a run because a target is missed.

#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::Duration;

/// The report of one run.
#[derive(Debug, Default)]
pub struct Report {
    missed: Vec<String>,
}

impl Report {
    /// Begins a section.
    pub fn section(&self, title: &str) {
        println!("\n### {title}\n\n| what | figure | target |\n|---|--:|---|");
    }

    /// A figure without a target.
    pub fn figure(&self, what: &str, value: impl core::fmt::Display) {
        println!("| {what} | {value} | |");
    }

    /// A figure with a target.
    pub fn target(&mut self, what: &str, value: impl core::fmt::Display, target: &str, met: bool) {
        println!("| {what} | {value} | {target}: {} |", if met { "met" } else { "**missed**" });
        if !met {
            self.missed.push(what.to_owned());
        }
    }

    /// Something that the reader must know.
    pub fn remark(&self, text: &str) {
        println!("\n{text}");
    }

    /// Rows of a table whose head was the remark before.
    pub fn remark_joined(&self, rows: &str) {
        println!("{}", rows.trim_end());
    }

    /// What was missed.
    #[must_use]
    pub fn missed(&self) -> &[String] {
        &self.missed
    }
}

/// Milliseconds, or microseconds when there is less than one.
#[must_use]
pub fn time(duration: Duration) -> String {
    if duration < Duration::from_millis(1) {
        format!("{:.1} us", duration.as_secs_f64() * 1e6)
    } else if duration < Duration::from_secs(10) {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// KiB as MiB.
#[must_use]
pub fn mib(kib: u64) -> String {
    format!("{}.{} MiB", kib / 1024, kib % 1024 * 10 / 1024)
}

/// A number with its thousands apart.
#[must_use]
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A ratio of two counts.
#[must_use]
pub fn ratio(part: u64, whole: u64) -> f64 {
    // Counts here are far below 2^52.
    #[allow(clippy::cast_precision_loss)]
    let (part, whole) = (part as f64, whole.max(1) as f64);
    part / whole
}
