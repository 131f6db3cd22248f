//! What can go wrong, and where: at the n-th write of the operator in a run, counted over all of its lives.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};

use super::malady::Malady;

/// Objects of which a view can be old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// All that the operator watches.
    All,
    /// The Rollouts.
    Rollouts,
    /// The routes.
    Routes,
    /// The endpoints of Services.
    Endpoints,
    /// The Deployments.
    Deployments,
}

impl View {
    const EACH: [Self; 5] = [
        Self::All,
        Self::Rollouts,
        Self::Routes,
        Self::Endpoints,
        Self::Deployments,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Rollouts => "rollouts",
            Self::Routes => "routes",
            Self::Endpoints => "endpoints",
            Self::Deployments => "deployments",
        }
    }

    /// Whether a watch of this path is meant.
    pub fn covers(self, path: &str) -> bool {
        let resource = match self {
            Self::All => return true,
            Self::Rollouts => "/rollouts",
            Self::Routes => "/httproutes",
            Self::Endpoints => "/endpointslices",
            Self::Deployments => "/deployments",
        };
        path.ends_with(resource)
    }
}

/// What happens to a write, or beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The process ends after the write took place and before its answer.
    CrashAfter,
    /// The process ends before the write leaves it.
    CrashBefore,
    /// The process ends after this write, and again after so many more, to the end of the course.
    CrashEvery(u32),
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
    /// All watches end, and each is answered 410 when it is asked for again.
    GoneOnConnect,
    /// These watches stay silent for this long, in milliseconds: the operator decides on an older view.
    Stale(View, u32),
    /// The connection of all watches is half open for so long, in milliseconds: nothing comes, what is sent is lost, then it breaks.
    HalfOpen(u32),
    /// For so long, in milliseconds, each event comes twice, and neighbours of different objects in the other order.
    Doubled(u32),
    /// Events are answered 503 for this long, in milliseconds.
    Unspoken(u32),
    /// The metrics source is ill for this long, in milliseconds.
    Source(Malady, u32),
}

impl Kind {
    /// The name of its family, for tables.
    pub fn family(self) -> &'static str {
        match self {
            Self::CrashAfter => "crash after a write",
            Self::CrashBefore => "crash before a write",
            Self::CrashEvery(_) => "crash after every k writes",
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
            Self::GoneWatches => "410 in the watch",
            Self::GoneOnConnect => "410 on connect",
            Self::Stale(View::All, _) => "older view of all",
            Self::Stale(..) => "older view of one kind",
            Self::HalfOpen(_) => "half-open connection",
            Self::Doubled(_) => "events doubled and out of order",
            Self::Unspoken(_) => "Events refused",
            Self::Source(Malady::Skewed, _) => "clocks an hour apart",
            Self::Source(..) => "metrics source ill",
        }
    }

    /// Whether the process ends.
    pub fn ends_the_process(self) -> bool {
        matches!(self, Self::CrashAfter | Self::CrashBefore | Self::CrashEvery(_))
    }

    /// How long it may keep the operator from answering at once.
    pub fn lasts(self) -> Duration {
        match self {
            Self::Late(how_long)
            | Self::Stale(_, how_long)
            | Self::HalfOpen(how_long)
            | Self::Doubled(how_long)
            | Self::Source(_, how_long) => millis(how_long),
            // Each life has to begin, and each refused request is sent again after a while.
            Self::CrashEvery(_) => Duration::from_secs(10),
            _ => Duration::from_secs(2),
        }
    }

    fn word(self) -> String {
        match self {
            Self::CrashAfter => "crash-after".to_owned(),
            Self::CrashBefore => "crash-before".to_owned(),
            Self::CrashEvery(writes) => format!("crash-every-{writes}"),
            Self::Lost => "lost".to_owned(),
            Self::Unheard => "unheard".to_owned(),
            Self::Answer(code) => format!("answer-{code}"),
            Self::Late(millis) => format!("late-{millis}"),
            Self::CutWatches => "cut-watches".to_owned(),
            Self::GoneWatches => "gone-watches".to_owned(),
            Self::GoneOnConnect => "gone-on-connect".to_owned(),
            Self::Stale(view, millis) => format!("stale-{}-{millis}", view.word()),
            Self::HalfOpen(millis) => format!("half-open-{millis}"),
            Self::Doubled(millis) => format!("doubled-{millis}"),
            Self::Unspoken(millis) => format!("unspoken-{millis}"),
            Self::Source(malady, millis) => format!("source-{malady}-{millis}"),
        }
    }

    /// Reads what [`Self::word`] writes.
    fn parse(word: &str) -> Option<Self> {
        let plain = [
            Self::CrashAfter,
            Self::CrashBefore,
            Self::Lost,
            Self::Unheard,
            Self::CutWatches,
            Self::GoneWatches,
            Self::GoneOnConnect,
        ];
        if let Some(kind) = plain.into_iter().find(|kind| kind.word() == word) {
            return Some(kind);
        }
        let (name, number) = word.rsplit_once('-')?;
        let number: u32 = number.parse().ok()?;
        match name {
            "crash-every" => Some(Self::CrashEvery(number)),
            "answer" => u16::try_from(number).ok().map(Self::Answer),
            "late" => Some(Self::Late(number)),
            "half-open" => Some(Self::HalfOpen(number)),
            "doubled" => Some(Self::Doubled(number)),
            "unspoken" => Some(Self::Unspoken(number)),
            _ => {
                let (name, of) = name.split_once('-')?;
                match name {
                    "stale" => {
                        let view = View::EACH.into_iter().find(|view| view.word() == of)?;
                        Some(Self::Stale(view, number))
                    }
                    "source" => Some(Self::Source(of.parse().ok()?, number)),
                    _ => None,
                }
            }
        }
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
        let kind = self.kind.word();
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
        let Some(kind) = Kind::parse(kind) else {
            bail!("fault `{text}`: there is no fault {kind}");
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
            "stale-all-1500@2",
            "stale-endpoints-1500@2",
            "gone-watches@9",
            "gone-on-connect@9",
            "half-open-2000@9",
            "unspoken-1500@9",
            "crash-every-3@3",
            "source-down-900@4",
            "source-two-series-900@4",
        ] {
            let fault: Fault = text.parse().unwrap_or_else(|error| panic!("{text}: {error:#}"));
            assert_eq!(fault.to_string(), text);
        }
        for text in [
            "lost",
            "lost@x",
            "melted@3",
            "answer-x@1",
            "source-mad-3@1",
            "stale-3@1",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }
}
