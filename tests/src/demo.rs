//! The demo: a good version and a bad one on a real cluster, told live to a person, and judged at the end.
//!
//! `story` drives the cluster and looks; `timeline`, `ledger` and `summary` are pure and turn what was seen into lines. Everything
//! printed goes through `Screen`, one line after the other, so that a log file reads like a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

pub mod figures;
pub mod ledger;
pub mod story;
pub mod summary;
pub mod timeline;

/// Where the demo's lines go: standard output, never rewritten.
#[derive(Debug)]
pub struct Screen {
    begin: Instant,
    bold: bool,
}

impl Screen {
    /// A screen whose clock starts now; headlines are bold on a terminal.
    pub fn begin() -> Self {
        Self {
            begin: Instant::now(),
            bold: std::io::stdout().is_terminal(),
        }
    }

    /// The time since the beginning.
    pub fn time(&self) -> Duration {
        self.begin.elapsed()
    }

    /// An event, set apart from the lines around it.
    pub fn headline(&self, text: &str) {
        let time = figures::clock(self.time());
        let line = format!("{time} ═ {text}");
        if self.bold {
            self.line(&format!("\n\u{1b}[1m{line}\u{1b}[0m"));
        } else {
            self.line(&format!("\n{line}"));
        }
    }

    /// A line as it is.
    #[expect(clippy::print_stdout, reason = "the demo is what it prints")]
    pub fn line(&self, text: &str) {
        println!("{text}");
    }

    /// Several lines as they are.
    pub fn lines<T: AsRef<str>>(&self, lines: impl IntoIterator<Item = T>) {
        for line in lines {
            self.line(line.as_ref());
        }
    }
}
