//! What can go wrong, and where: at the n-th write of the operator in a run, counted over all of its lives.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};

/// What happens to a write, or beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The process ends after the write took place and before its answer.
    CrashAfter,
    /// The process ends before the write leaves it.
    CrashBefore,
    /// The write never arrives, and no answer comes.
    Lost,
    /// The write takes place, and no answer comes.
    Unheard,
    /// The API server answers this status code and does nothing.
    Answer(u16),
    /// The write arrives this much later, in milliseconds.
    Late(u32),
    /// All watches end with the write.
    CutWatches,
    /// All watches say that their version is gone (410), in the stream.
    GoneWatches,
    /// All watches stay silent for this long, in milliseconds: the operator decides on an older view.
    StaleWatches(u32),
    /// The metrics source fails for this long, in milliseconds.
    SourceDown(u32),
}

impl Kind {
    /// The name of its family, for tables.
    pub fn family(self) -> &'static str {
        match self {
            Self::CrashAfter => "crash after a write",
            Self::CrashBefore => "crash before a write",
            Self::Lost => "write lost",
            Self::Unheard => "applied, reported as a timeout",
            Self::Answer(403) => "answer 403",
            Self::Answer(409) => "answer 409",
            Self::Answer(422) => "answer 422",
            Self::Answer(429) => "answer 429 with Retry-After",
            Self::Answer(500) => "answer 500",
            Self::Answer(_) => "answer 503",
            Self::Late(_) => "write delayed",
            Self::CutWatches => "watches cut",
            Self::GoneWatches => "watches answer 410",
            Self::StaleWatches(_) => "older view",
            Self::SourceDown(_) => "metrics source down",
        }
    }

    /// Whether the process ends.
    pub fn ends_the_process(self) -> bool {
        matches!(self, Self::CrashAfter | Self::CrashBefore)
    }
}

/// A fault at the n-th write, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fault {
    /// Which write.
    pub at: usize,
    /// What happens.
    pub kind: Kind,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::CrashAfter => "crash-after".to_owned(),
            Kind::CrashBefore => "crash-before".to_owned(),
            Kind::Lost => "lost".to_owned(),
            Kind::Unheard => "unheard".to_owned(),
            Kind::Answer(code) => format!("answer-{code}"),
            Kind::Late(millis) => format!("late-{millis}"),
            Kind::CutWatches => "cut-watches".to_owned(),
            Kind::GoneWatches => "gone-watches".to_owned(),
            Kind::StaleWatches(millis) => format!("stale-{millis}"),
            Kind::SourceDown(millis) => format!("source-down-{millis}"),
        };
        write!(formatter, "{kind}@{}", self.at)
    }
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, at) = text
            .split_once('@')
            .with_context(|| format!("fault `{text}`: it is KIND@WRITE, such as lost@7"))?;
        let at = at
            .parse()
            .with_context(|| format!("fault `{text}`: {at} is no number"))?;
        let number = |prefix: &str| {
            let digits = kind.strip_prefix(prefix)?;
            digits.parse::<u32>().ok()
        };
        let kind = match kind {
            "crash-after" => Kind::CrashAfter,
            "crash-before" => Kind::CrashBefore,
            "lost" => Kind::Lost,
            "unheard" => Kind::Unheard,
            "cut-watches" => Kind::CutWatches,
            "gone-watches" => Kind::GoneWatches,
            _ => {
                if let Some(code) = number("answer-").and_then(|code| u16::try_from(code).ok()) {
                    Kind::Answer(code)
                } else if let Some(millis) = number("late-") {
                    Kind::Late(millis)
                } else if let Some(millis) = number("stale-") {
                    Kind::StaleWatches(millis)
                } else if let Some(millis) = number("source-down-") {
                    Kind::SourceDown(millis)
                } else {
                    bail!("fault `{text}`: there is no fault {kind}")
                }
            }
        };
        Ok(Self { at, kind })
    }
}

/// Milliseconds as a duration.
pub fn millis(count: u32) -> Duration {
    Duration::from_millis(count.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_as_it_is_written() {
        for text in [
            "crash-after@3",
            "answer-429@12",
            "late-800@1",
            "stale-1500@2",
            "gone-watches@9",
            "source-down-900@4",
        ] {
            let fault: Fault = text.parse().unwrap_or_else(|error| panic!("{text}: {error:#}"));
            assert_eq!(fault.to_string(), text);
        }
        for text in ["lost", "lost@x", "melted@3", "answer-x@1"] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
