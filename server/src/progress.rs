//! Progress of long work: a bar on a terminal, a line now and then elsewhere.
//! It must not slow the work down.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// Seconds between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of one piece of work.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    out: Output,
    label: &'static str,
    total: u64,
    last: Instant,
}

impl Progress {
    /// Starts; `total` may be set later.
    pub(crate) fn start(out: Output, label: &'static str, total: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10));
            let style = ProgressStyle::with_template("{msg:<24} {wide_bar} {human_pos}/{human_len} {eta:>4}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(label);
            bar
        });
        Self { bar, out, label, total, last: Instant::now() }
    }

    /// So much is done.
    pub(crate) fn at(&mut self, done: u64, total: u64) {
        self.total = total;
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        } else if self.last.elapsed() >= LINE_EVERY {
            self.last = Instant::now();
            self.out.note(&format!("{}: {done} of {total}", self.label));
        }
    }

    /// Ends, and takes the bar away.
    pub(crate) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}
