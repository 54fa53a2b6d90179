//! Everything that is printed: text or one JSON value to standard output, progress and errors to standard error.
//! It must not be given a value of a person unless the command was asked to show persons.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the one place that prints")]

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

/// Where a command says what it did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether a JSON value is wanted.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// The result: the value in JSON, or the lines.
    pub(crate) fn result(self, value: &impl Serialize, text: &str) {
        if self.json {
            self.json_line(value);
        } else {
            self.text(text);
        }
    }

    /// One line of JSON.
    pub(crate) fn json_line(self, value: &impl Serialize) {
        self.text(&serde_json::to_string(value).unwrap_or_default());
    }

    /// Text for people. A closed pipe is not an error worth a panic.
    pub(crate) fn text(self, text: &str) {
        let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    }

    /// A remark that is not the result.
    pub(crate) fn note(self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Why the command failed, and what to do.
    pub(crate) fn failure(self, message: &str, hint: Option<&str>) {
        let red = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (on, off) = if red { ("\x1b[31m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(std::io::stderr(), "{on}error:{off} {message}");
        if let Some(hint) = hint {
            let _ = writeln!(std::io::stderr(), "hint: {hint}");
        }
    }
}

/// Lines up columns of text.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| -> String {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
