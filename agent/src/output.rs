//! What the command line prints: text for people, JSON for programs, errors with a hint. The only file that prints.
//! It must not print a passphrase, a key, or anything of a person beyond the answer that was asked for.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this file is the terminal's edge")]

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::status::Progress;

/// A line for people.
pub fn line(text: &str) {
    // A closed pipe is the reader's wish to stop, not an error.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A value for programs.
pub fn json<T: Serialize>(value: &T) {
    if let Ok(text) = serde_json::to_string_pretty(value) {
        line(&text);
    }
}

/// An error, and what to do.
pub fn error(message: &str, hint: Option<&str>) {
    let mut out = std::io::stderr();
    let _ = writeln!(out, "error: {message}");
    if let Some(hint) = hint {
        let _ = writeln!(out, "hint: {hint}");
    }
}

/// A question on the terminal whose answer is not shown.
///
/// # Errors
/// Without a terminal.
pub fn ask_secret(prompt: &str) -> std::io::Result<String> {
    rpassword::prompt_password(prompt)
}

/// A progress bar on a terminal; elsewhere a line now and then.
#[derive(Debug)]
pub struct Bar {
    bar: Option<ProgressBar>,
    last_tenth: Option<u64>,
}

impl Bar {
    /// Begins.
    #[must_use]
    pub fn new(what: &'static str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: None, last_tenth: None };
        }
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{msg} [{bar:40}] {human_pos}/{human_len} records {eta}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what);
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar: Some(bar), last_tenth: None }
    }

    /// Moves.
    pub fn set(&mut self, progress: Progress) {
        if let Some(bar) = &self.bar {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            return;
        }
        let tenth = (progress.done * 10).checked_div(progress.total).unwrap_or(0);
        if self.last_tenth != Some(tenth) {
            self.last_tenth = Some(tenth);
            let _ = writeln!(std::io::stderr(), "{} of {} records", progress.done, progress.total);
        }
    }

    /// Ends.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
