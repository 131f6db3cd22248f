//! What the analysis remembers of a run between two passes: `status.run.evidence`.
//!
//! Only counts and log-likelihood ratios in whole millionths, never a float: the same intervals give the same bytes, whoever folds them
//! and wherever a commit falls between them. Small on purpose (under 7 KiB for two metrics): status is read and written with it.
//! The meaning of every number is `/docs/analysis.md`'s; only `stepgate_core::verdict` writes here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Everything the verdict keeps of a run. Default: nothing consumed, nothing begun.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Evidence {
    /// End of the last interval consumed, in Unix seconds on the source's clock. Intervals up to here are never counted again.
    pub through: i64,
    /// The step whose totals are kept, from 0; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<i32>")]
    pub step: Option<u32>,
    /// Steps whose process has begun: all with a smaller index, also those dropped since.
    #[schemars(with = "i32")]
    pub steps_begun: u32,
    /// Hours of pauses whose process has begun: all up to this one, from 1.
    #[schemars(with = "i32")]
    pub pauses_begun: u32,
    /// One for each metric, in the order of the settings.
    pub metrics: Vec<MetricEvidence>,
    /// One for each of the user's own queries, in the order of the settings.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub queries: Vec<QueryEvidence>,
}

/// What is kept of one of the user's own queries; it begins anew with each step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct QueryEvidence {
    /// The query's name, as in the settings.
    pub name: String,
    /// The number of the last interval of this step that had one, as text; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Intervals in a row, up to that one, in which the number was out of its bounds. One without a number is not counted and ends no row.
    #[schemars(with = "i32")]
    pub failures: u32,
    /// Why the newest interval of this step gave no number; absent when it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Of what kind that trouble is.
    #[serde(skip_serializing_if = "Trouble::is_unreadable")]
    #[schemars(with = "String")]
    pub trouble_kind: Trouble,
}

/// What is kept of one metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricEvidence {
    /// The metric's name, as in the settings.
    pub name: String,
    /// The failure tests: one for the whole run, the others begun at a step or in a pause. At most six.
    pub processes: Vec<Process>,
    /// This step's totals: the pass gate and the share check.
    pub step: StepTotals,
    /// All since the weight was accepted, settle and warm-up included: the tripwire.
    pub tripwire: Tripwire,
    /// The last ten intervals that had a request, oldest first; a time without any is one entry.
    pub recent: Vec<Recent>,
    /// Seconds since the last request of either version.
    #[schemars(with = "i64")]
    pub idle_seconds: u64,
    /// Counted intervals in a row without a canary request.
    #[schemars(with = "i32")]
    pub silent_intervals: u32,
    /// Requests of stable since the last canary request.
    #[schemars(with = "i64")]
    pub silent_stable_requests: u64,
    /// Intervals of this step with more bad requests than requests (two series scraped apart); the bad ones were cut to the requests.
    #[schemars(with = "i32")]
    pub inconsistent: u32,
    /// Intervals of this run that could not be read.
    #[schemars(with = "i32")]
    pub unreadable: u32,
    /// Why the newest interval could not be read; absent when it could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// Of what kind that trouble is.
    #[serde(skip_serializing_if = "Trouble::is_unreadable")]
    #[schemars(with = "String")]
    pub trouble_kind: Trouble,
    /// Since when stable itself is over the metric's max: the end of the first such interval, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stable_over_since: Option<i64>,
    /// Since when both versions are over the metric's max: the end of the first such interval, in Unix seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_fault_since: Option<i64>,
    /// Whether the shared fault began within ten intervals of a rise of the canary's weight.
    pub shared_fault_after_rise: bool,
}

/// What kind of trouble keeps an interval from being read. In JSON its [`Trouble::reason`]; a name that this version does not know is read as
/// of no kind of its own, so that a status of a newer version can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "&'static str")]
pub enum Trouble {
    /// Something else than what follows.
    #[default]
    Unreadable,
    /// The threshold of latency is no bucket boundary of the histogram.
    NoBucketBoundary,
    /// No source has the name that is asked for.
    SourceUnknown,
    /// The source cannot be reached, or breaks off.
    SourceUnreachable,
    /// The source lets this operator do nothing, or its credentials cannot be read.
    SourceUnauthorized,
    /// The source answers with a redirect.
    SourceRedirects,
    /// The source does not answer in time.
    SourceTimeout,
    /// The source answers with an error.
    SourceFails,
    /// The source answers with more than is read.
    SourceReplyTooLarge,
    /// The source answers with what is no reply of Prometheus' API.
    SourceReplyInvalid,
    /// The source says that its reply is not complete.
    SourceReplyPartial,
    /// The source's clock is another one.
    SourceClockSkew,
    /// The source scrapes the targets of the counted series more seldom than its administrator says.
    ScrapeInterval,
    /// The source cannot evaluate the query.
    QueryRejected,
    /// The query's result is of a type that holds no counts, or no number: a string, a matrix; for counts a scalar, too.
    QueryResultType,
    /// The query's result has two series for one count or number, or one for none.
    QueryResultSeries,
    /// A value is no count: NaN, infinite, negative.
    NotACount,
    /// A query of the user's own gives nothing.
    QueryNoData,
    /// The value of a query of the user's own is NaN or infinite.
    QueryNotFinite,
    /// A query of the user's own cannot be asked as it is written.
    QueryRefused,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Unreadable,
        Self::NoBucketBoundary,
        Self::SourceUnknown,
        Self::SourceUnreachable,
        Self::SourceUnauthorized,
        Self::SourceRedirects,
        Self::SourceTimeout,
        Self::SourceFails,
        Self::SourceReplyTooLarge,
        Self::SourceReplyInvalid,
        Self::SourceReplyPartial,
        Self::SourceClockSkew,
        Self::ScrapeInterval,
        Self::QueryRejected,
        Self::QueryResultType,
        Self::QueryResultSeries,
        Self::NotACount,
        Self::QueryNoData,
        Self::QueryNotFinite,
        Self::QueryRefused,
    ];

    /// Its name as a reason of conditions and as a verdict.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Unreadable => "MetricsUnavailable",
            Self::NoBucketBoundary => "NoBucketBoundary",
            Self::SourceUnknown => "SourceUnknown",
            Self::SourceUnreachable => "SourceUnreachable",
            Self::SourceUnauthorized => "SourceUnauthorized",
            Self::SourceRedirects => "SourceRedirects",
            Self::SourceTimeout => "SourceTimeout",
            Self::SourceFails => "SourceFails",
            Self::SourceReplyTooLarge => "SourceReplyTooLarge",
            Self::SourceReplyInvalid => "SourceReplyInvalid",
            Self::SourceReplyPartial => "SourceReplyPartial",
            Self::SourceClockSkew => "SourceClockSkew",
            Self::ScrapeInterval => "ScrapeInterval",
            Self::QueryRejected => "QueryRejected",
            Self::QueryResultType => "QueryResultType",
            Self::QueryResultSeries => "QueryResultSeries",
            Self::NotACount => "NotACount",
            Self::QueryNoData => "QueryNoData",
            Self::QueryNotFinite => "QueryNotFinite",
            Self::QueryRefused => "QueryRefused",
        }
    }

    /// Whether it is of the kind that most troubles are of.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
    fn is_unreadable(&self) -> bool {
        *self == Self::Unreadable
    }
}

impl From<String> for Trouble {
    fn from(name: String) -> Self {
        let named = Self::ALL.into_iter().find(|trouble| trouble.reason() == name);
        named.unwrap_or_default()
    }
}

impl From<Trouble> for &'static str {
    fn from(trouble: Trouble) -> Self {
        trouble.reason()
    }
}

/// Where a process of the failure tests began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProcessKind {
    /// At the start of the run.
    #[default]
    Run,
    /// At the step of its index, from 0.
    Step,
    /// In the hour of pauses of its index, from 1.
    Pause,
}

/// One e-process of each failure test, from where it began until now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Process {
    /// What it began with.
    pub kind: ProcessKind,
    /// The step (from 0) or the hour of pauses (from 1); 0 for the run.
    #[schemars(with = "i32")]
    pub index: u32,
    /// Log-likelihood ratios of the relative test over its grid of 24 ratios, in millionths, each interval's rounded down (a
    /// smaller e-value is still one), never under -1000.
    pub millionths: Vec<i64>,
    /// `[canary requests, canary bad, stable requests, stable bad, intervals with bad canary requests]` of the relative test.
    #[schemars(with = "[i64; 5]")]
    pub relative: Window,
    /// `[canary requests, canary bad, intervals with bad canary requests]` of the absolute test.
    #[schemars(with = "[i64; 3]")]
    pub absolute: AbsoluteWindow,
}

/// Requests and the bad ones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tally {
    /// Completed requests.
    #[schemars(with = "i64")]
    pub requests: u64,
    /// The bad ones among them, never more than `requests`.
    #[schemars(with = "i64")]
    pub bad: u64,
}

/// What the relative test has seen since its process began. In JSON five numbers in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 5]", into = "[u64; 5]")]
pub struct Window {
    /// The new version.
    pub canary: Tally,
    /// The version it is compared with.
    pub stable: Tally,
    /// Intervals with at least one bad canary request.
    pub intervals_with_bad: u64,
}

/// What the absolute test has seen since its process began. In JSON three numbers in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[u64; 3]", into = "[u64; 3]")]
pub struct AbsoluteWindow {
    /// The new version.
    pub canary: Tally,
    /// Intervals with at least one bad canary request.
    pub intervals_with_bad: u64,
}

/// The counted intervals of one step; they start anew when a fault of stable is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct StepTotals {
    /// Their length together, those without requests included.
    #[schemars(with = "i64")]
    pub seconds: u64,
    /// The new version.
    pub canary: Tally,
    /// The version it is compared with.
    pub stable: Tally,
}

/// What the tripwire looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Tripwire {
    /// The new version since the weight was accepted.
    pub canary: Tally,
    /// Stable since then.
    pub stable: Tally,
    /// The new version in the newest interval that had requests.
    pub latest_canary: Tally,
    /// Stable in that interval.
    pub latest_stable: Tally,
}

/// One interval, or a time without requests. In JSON five numbers:
/// `[seconds, canary requests, canary bad, stable requests, stable bad]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "[u64; 5]", into = "[u64; 5]")]
#[schemars(with = "[i64; 5]")]
pub struct Recent {
    /// Its length.
    pub seconds: u64,
    /// The new version.
    pub canary: Tally,
    /// The version it is compared with.
    pub stable: Tally,
}

impl From<[u64; 5]> for Window {
    fn from(
        [
            canary_requests,
            canary_bad,
            stable_requests,
            stable_bad,
            intervals_with_bad,
        ]: [u64; 5],
    ) -> Self {
        Self {
            canary: Tally {
                requests: canary_requests,
                bad: canary_bad,
            },
            stable: Tally {
                requests: stable_requests,
                bad: stable_bad,
            },
            intervals_with_bad,
        }
    }
}

impl From<Window> for [u64; 5] {
    fn from(
        Window {
            canary,
            stable,
            intervals_with_bad,
        }: Window,
    ) -> Self {
        [
            canary.requests,
            canary.bad,
            stable.requests,
            stable.bad,
            intervals_with_bad,
        ]
    }
}

impl From<[u64; 3]> for AbsoluteWindow {
    fn from([requests, bad, intervals_with_bad]: [u64; 3]) -> Self {
        Self {
            canary: Tally { requests, bad },
            intervals_with_bad,
        }
    }
}

impl From<AbsoluteWindow> for [u64; 3] {
    fn from(
        AbsoluteWindow {
            canary,
            intervals_with_bad,
        }: AbsoluteWindow,
    ) -> Self {
        [canary.requests, canary.bad, intervals_with_bad]
    }
}

impl From<[u64; 5]> for Recent {
    fn from([seconds, canary_requests, canary_bad, stable_requests, stable_bad]: [u64; 5]) -> Self {
        Self {
            seconds,
            canary: Tally {
                requests: canary_requests,
                bad: canary_bad,
            },
            stable: Tally {
                requests: stable_requests,
                bad: stable_bad,
            },
        }
    }
}

impl From<Recent> for [u64; 5] {
    fn from(
        Recent {
            seconds,
            canary,
            stable,
        }: Recent,
    ) -> Self {
        [seconds, canary.requests, canary.bad, stable.requests, stable.bad]
    }
}
