//! The query for one metric, by the parts that differ: four selectors, and the labels of a target. What the operator asks and what a person
//! pastes are made of them by the same code.
//!
//! Counts are whole numbers from counters, never from `rate` or `increase()`, because those guess at the edges of a window.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The label of a query's series: which count of which arm.
pub const SERIES_LABEL: &str = "stepgate";

/// One of the series of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// Completed requests of the canary.
    CanaryRequests,
    /// Those of them that were bad.
    CanaryBad,
    /// Completed requests of stable.
    StableRequests,
    /// Those of them that were bad.
    StableBad,
    /// Those of the canary's that were not slow.
    CanaryWithin,
    /// Those of stable's that were not slow.
    StableWithin,
}

impl Series {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::CanaryRequests,
        Self::CanaryBad,
        Self::StableRequests,
        Self::StableBad,
        Self::CanaryWithin,
        Self::StableWithin,
    ];

    /// The value of [`SERIES_LABEL`].
    pub const fn label(self) -> &'static str {
        match self {
            Self::CanaryRequests => "canary_requests",
            Self::CanaryBad => "canary_bad",
            Self::StableRequests => "stable_requests",
            Self::StableBad => "stable_bad",
            Self::CanaryWithin => "canary_within",
            Self::StableWithin => "stable_within",
        }
    }

    /// The series of a label value, `None` for any other text.
    pub fn parse(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|series| series.label() == label)
    }
}

/// What a metric's four counts are selected by. A third as long as the PromQL that is made of it, and kept in `status` for that.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct CountQuery {
    /// The canary's requests.
    pub canary_requests: String,
    /// The bad ones of them; with `within` those that are not bad.
    pub canary_bad: String,
    /// Stable's requests.
    pub stable_requests: String,
    /// The bad ones of them; with `within` those that are not bad.
    pub stable_bad: String,
    /// Labels that a series shares with its target's `up`.
    pub targets: Vec<String>,
    /// Whether those that are not bad are counted in place of the bad ones: the buckets of a histogram, up to the threshold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub within: bool,
}

impl CountQuery {
    /// The PromQL for both versions over (t − interval, t], to be evaluated at t; its series are those of [`Series`], each a sum of
    /// [`increase`]. A bad count without series is left out of the reply, and means 0 where the requests are there.
    #[must_use]
    pub fn promql(&self, interval_seconds: u32) -> String {
        let (canary_bad, stable_bad) = if self.within {
            (Series::CanaryWithin, Series::StableWithin)
        } else {
            (Series::CanaryBad, Series::StableBad)
        };
        let counts = [
            (Series::CanaryRequests, &self.canary_requests),
            (canary_bad, &self.canary_bad),
            (Series::StableRequests, &self.stable_requests),
            (stable_bad, &self.stable_bad),
        ]
        .map(|(series, selector)| {
            let label = series.label();
            let counted = increase(selector, &self.targets, interval_seconds);
            format!("label_replace(sum({counted}), \"{SERIES_LABEL}\", \"{label}\", \"\", \"\")")
        });
        counts.join("\nor\n")
    }
}

/// How much each counter that `selector` selects has counted over (t − interval, t]; `targets` are the labels that it shares with its
/// target's `up`.
///
/// The increase of every series that was there one interval earlier and did not fall; and the whole value of a series that is new or was
/// reset, where its target answered a scrape one interval earlier. (`up` is 0 after a failed scrape, and the series are gone until the next:
/// without `== 1` a target that comes back would be counted with its whole history.) Counts of adjacent intervals add up to the count of the
/// whole.
#[must_use]
pub fn increase(selector: &str, targets: &[String], interval_seconds: u32) -> String {
    let targets = targets.join(", ");
    format!(
        "((({selector}) - ({selector} offset {interval_seconds}s)) >= 0) \
         or ({selector} and on ({targets}) (up offset {interval_seconds}s == 1))"
    )
}
