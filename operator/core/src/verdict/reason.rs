//! The verdict's cases, each with a name for conditions and metrics and a sentence, in numbers, for a person.

use std::fmt;

use stepgate_crds::evidence::Trouble;

use super::observation::{Arm, DataError, as_f64};
use super::settings::{TRIPWIRE_SHARE, TRIPWIRE_STABLE};
use super::wording::{duration, grouped, of, percent};

/// What follows from the evidence.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The new version is bad: back to stable.
    Fail(Rule),
    /// No proof against the new version, but no place for traffic either: weight 0, the run lives.
    Retreat(RetreatCause),
    /// This step's data are enough, for every metric. Bake and approval are not looked at.
    Pass,
    /// Neither: stay.
    Hold(HoldReason),
}

/// What rule failed the new version. The arms are what that rule looked at.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// Worse than stable.
    Relative {
        /// The metric's name.
        metric: String,
        /// The new version, since the strongest process began.
        canary: Arm,
        /// Stable in the same intervals.
        stable: Arm,
        /// ln E, divided by φ.
        evidence: f64,
        /// What it was held against.
        threshold: f64,
    },
    /// Over its max.
    Absolute {
        /// The metric's name.
        metric: String,
        /// The new version, since the strongest process began.
        canary: Arm,
        /// The max, as a share.
        max: f64,
        /// ln E, divided by φ.
        evidence: f64,
        /// What it was held against.
        threshold: f64,
    },
    /// At least half of everything is bad.
    Tripwire {
        /// The metric's name.
        metric: String,
        /// The new version, since the weight was accepted or in the newest interval.
        canary: Arm,
        /// Stable in the same time.
        stable: Arm,
    },
    /// A query of the user's own was out of its bounds for too long.
    OwnQuery {
        /// Its name, value and bounds in words.
        said: String,
        /// In how many intervals in a row.
        intervals: u32,
    },
    /// Its containers end with errors.
    Restarts {
        /// Error exits of the canary's application containers.
        canary: u32,
        /// Per pod-hour.
        canary_rate: f64,
        /// Stable's, per pod-hour.
        stable_rate: f64,
    },
}

/// Why the canary should have no traffic for now.
#[derive(Clone, Debug, PartialEq)]
pub enum RetreatCause {
    /// Requests are sent to it and none is counted.
    CanarySilent {
        /// The metric's name.
        metric: String,
        /// Requests that it should have had.
        expected: f64,
        /// In how many intervals.
        intervals: u32,
    },
    /// Both versions are over the max, right after a rise of the weight or for long.
    SharedFault {
        /// The metric's name.
        metric: String,
        /// The new version in the last intervals.
        canary: Arm,
        /// Stable in the last intervals.
        stable: Arm,
        /// Whether it began within ten intervals of a rise of the weight; else it lasts.
        after_rise: bool,
    },
}

/// Why there is no verdict yet.
#[derive(Clone, Debug, PartialEq)]
pub enum HoldReason {
    /// Too few canary requests in this step.
    InsufficientTraffic {
        /// The metric that needs most.
        metric: String,
        /// Canary requests in this step.
        have: u64,
        /// About how many it takes at the error share seen; `None` when that is too near the max for any number to do.
        need: Option<u64>,
        /// Seconds until then, at the rate seen; `None` when that is not known.
        eta: Option<u64>,
    },
    /// Both versions are over the max.
    SharedFault {
        /// The metric's name.
        metric: String,
        /// The new version in the last intervals.
        canary: Arm,
        /// Stable in the last intervals.
        stable: Arm,
    },
    /// Stable is over the max and the canary is not above it. Promoting needs no force.
    StableIsWorse {
        /// The metric's name.
        metric: String,
        /// The new version in the last intervals.
        canary: Arm,
        /// Stable in the last intervals.
        stable: Arm,
    },
    /// No request of either version.
    NoData {
        /// The metric's name.
        metric: String,
        /// For how long, as far as was looked, in seconds.
        seconds: u64,
    },
    /// The canary's share of the requests is not what the weight says.
    ShareMismatch {
        /// The metric's name.
        metric: String,
        /// The weight, as a share.
        expected: f64,
        /// The share of this step's requests.
        measured: f64,
    },
    /// The newest interval, or the whole source, could not be read.
    MetricsUnavailable(
        /// What was asked and what came back; its kind gives the reason its name.
        DataError,
    ),
    /// Another metric counts requests of the canary, this one none.
    CanaryUnmeasured {
        /// The metric's name.
        metric: String,
        /// In how many intervals.
        intervals: u32,
    },
    /// A query of the user's own is out of its bounds.
    QueryOutOfBounds {
        /// Its name, value and bounds in words.
        said: String,
        /// In how many intervals in a row.
        intervals: u32,
        /// With so many it fails the version.
        limit: u32,
    },
    /// Too often more bad requests than requests were counted.
    Inconsistent {
        /// The metric's name.
        metric: String,
        /// In how many intervals of this step.
        intervals: u32,
    },
}

impl Verdict {
    /// `Fail`, `Retreat`, `Pass` or `Hold`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Fail(_) => "Fail",
            Self::Retreat(_) => "Retreat",
            Self::Pass => "Pass",
            Self::Hold(_) => "Hold",
        }
    }

    /// The name of the rule, cause or reason; `Pass` for a pass.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Fail(rule) => rule.name(),
            Self::Retreat(cause) => cause.name(),
            Self::Pass => "Pass",
            Self::Hold(reason) => reason.name(),
        }
    }
}

impl Rule {
    /// Stable, for conditions, Events and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Relative { .. } => "WorseThanStable",
            Self::Absolute { .. } => "OverMax",
            Self::Tripwire { .. } => "Tripwire",
            Self::OwnQuery { .. } => "QueryOutOfBounds",
            Self::Restarts { .. } => "Restarts",
        }
    }
}

impl RetreatCause {
    /// Stable, for conditions, Events and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CanarySilent { .. } => "CanarySilent",
            Self::SharedFault { .. } => "SharedFault",
        }
    }
}

impl HoldReason {
    /// Whether data are missing: what cannot be read, or is not there.
    pub fn is_no_data(&self) -> bool {
        match self {
            Self::NoData { .. } | Self::MetricsUnavailable(_) | Self::CanaryUnmeasured { .. } => true,
            Self::InsufficientTraffic { .. }
            | Self::SharedFault { .. }
            | Self::StableIsWorse { .. }
            | Self::ShareMismatch { .. }
            | Self::QueryOutOfBounds { .. }
            | Self::Inconsistent { .. } => false,
        }
    }

    /// Whether nothing but too little evidence stands in the way of a pass.
    pub fn is_too_little(&self) -> bool {
        matches!(self, Self::InsufficientTraffic { .. } | Self::StableIsWorse { .. })
    }

    /// Stable, for conditions, Events and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InsufficientTraffic { .. } => "InsufficientTraffic",
            Self::SharedFault { .. } => "SharedFault",
            Self::StableIsWorse { .. } => "StableIsWorse",
            Self::NoData { .. } => "NoData",
            Self::ShareMismatch { .. } => "ShareMismatch",
            Self::MetricsUnavailable(error) => error.kind.reason(),
            Self::CanaryUnmeasured { .. } => "CanaryUnmeasured",
            Self::QueryOutOfBounds { .. } => "QueryOutOfBounds",
            Self::Inconsistent { .. } => "Inconsistent",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fail(rule) => rule.fmt(to),
            Self::Retreat(cause) => cause.fmt(to),
            Self::Pass => to.write_str("enough requests in this step, and none of the tests objects"),
            Self::Hold(reason) => reason.fmt(to),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relative {
                metric,
                canary,
                stable,
                evidence,
                threshold,
            } => write!(
                to,
                "{metric}: worse than stable: canary {}, stable {}; evidence {evidence:.1} against {threshold:.2}",
                of(*canary),
                of(*stable)
            ),
            Self::Absolute {
                metric,
                canary,
                max,
                evidence,
                threshold,
            } => write!(
                to,
                "{metric}: over the max of {}: canary {}; evidence {evidence:.1} against {threshold:.2}",
                percent(*max),
                of(*canary)
            ),
            Self::Tripwire { metric, canary, stable } => write!(
                to,
                "{metric}: canary {}, which is {} or more, while stable is under {}: {}",
                of(*canary),
                percent(TRIPWIRE_SHARE),
                percent(TRIPWIRE_STABLE),
                of(*stable)
            ),
            Self::OwnQuery { said, intervals: 1 } => write!(to, "query {said}"),
            Self::OwnQuery { said, intervals } => write!(to, "query {said}, in {intervals} intervals in a row"),
            Self::Restarts {
                canary,
                canary_rate,
                stable_rate,
            } => write!(
                to,
                "containers of the canary ended with an error {canary} times, {canary_rate:.2} times per pod-hour; stable's {stable_rate:.2} times per pod-hour"
            ),
        }
    }
}

impl fmt::Display for RetreatCause {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CanarySilent {
                metric,
                expected,
                intervals,
            } => write!(
                to,
                "{metric}: no canary request in {intervals} intervals, although about {} should have come by the weight",
                grouped(*expected)
            ),
            Self::SharedFault {
                metric,
                canary,
                stable,
                after_rise,
            } => write!(
                to,
                "{metric}: both versions are over the max {}: canary {}, stable {}",
                if *after_rise {
                    "since the canary's weight rose"
                } else {
                    "and it lasts"
                },
                of(*canary),
                of(*stable)
            ),
        }
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InsufficientTraffic {
                metric,
                have,
                need,
                eta,
            } => {
                let have = grouped(as_f64(*have));
                match need {
                    Some(need) => write!(
                        to,
                        "{metric}: {have} of about {} canary requests in this step, {}",
                        grouped(as_f64(*need)),
                        match eta {
                            Some(seconds) => format!("about {} to go", duration(*seconds)),
                            None => "at a rate that is not known yet".to_owned(),
                        }
                    ),
                    None => write!(
                        to,
                        "{metric}: after {have} canary requests in this step their bad share is at or too near the max: it takes more of them to tell which side it is on; promote or abort decides at once"
                    ),
                }
            }
            Self::SharedFault { metric, canary, stable } => write!(
                to,
                "{metric}: both versions are over the max, so it speaks against neither: canary {}, stable {}",
                of(*canary),
                of(*stable)
            ),
            Self::StableIsWorse { metric, canary, stable } => write!(
                to,
                "{metric}: stable is over the max itself and the canary is not above it: canary {}, stable {}; promote if this is the fix",
                of(*canary),
                of(*stable)
            ),
            Self::NoData { metric, seconds: 0 } => write!(to, "{metric}: no request of either version"),
            Self::NoData { metric, seconds } => {
                write!(to, "{metric}: no request of either version for {}", duration(*seconds))
            }
            Self::ShareMismatch {
                metric,
                expected,
                measured,
            } => write!(
                to,
                "{metric}: the canary has {} of this step's requests, its weight is {}; check what else routes to the two Services",
                percent(*measured),
                percent(*expected)
            ),
            Self::MetricsUnavailable(error) if error.kind == Trouble::NoBucketBoundary => error.fmt(to),
            Self::MetricsUnavailable(error) => write!(to, "metrics cannot be read: {error}"),
            Self::CanaryUnmeasured { metric, intervals } => write!(
                to,
                "{metric}: nothing was counted for the canary in {intervals} intervals, although another metric counts its requests; does the new version still expose what is asked for?"
            ),
            Self::QueryOutOfBounds { said, intervals, limit } => write!(
                to,
                "query {said}, in {intervals} of the {limit} intervals in a row that fail the version"
            ),
            Self::Inconsistent { metric, intervals } => write!(
                to,
                "{metric}: in {intervals} intervals of this step more bad requests than requests were counted; check that both queries select the same series"
            ),
        }
    }
}
