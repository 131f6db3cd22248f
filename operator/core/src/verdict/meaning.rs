//! What each rule, cause and reason means, in a sentence: for whoever reads its name in a status and wants to know.
//!
//! Only words: the numbers are an explanation's.

use stepgate_crds::evidence::Trouble;

use super::settings::{TRIPWIRE_SHARE, TRIPWIRE_STABLE};
use super::wording::percent;

/// The sentence of a verdict's [`super::Verdict::reason`]; `None` for a name that this version does not know.
#[must_use]
pub fn meaning(reason: &str) -> Option<String> {
    let text = match reason {
        "Pass" => {
            "every metric has proven in this step that it is under its max, and no test speaks against the new version"
        }
        "WorseThanStable" => "the new version was proven to be worse than stable in the same time",
        "OverMax" => {
            "the new version was proven to be over the max, and looks worse than stable where stable has traffic"
        }
        "Tripwire" => {
            return Some(format!(
                "{} or more of the new version's requests were bad, and under {} of stable's: that needs no test",
                percent(TRIPWIRE_SHARE),
                percent(TRIPWIRE_STABLE)
            ));
        }
        "Restarts" => {
            "containers of the new version ended with an error twice or more, and more often for each hour than stable's"
        }
        "CanarySilent" => {
            "requests were sent to the new version and none was counted: no proof against it, and no place for traffic"
        }
        "SharedFault" => "both versions are over the max, which speaks against neither",
        "InsufficientTraffic" => {
            "no test speaks against the new version, and it has not had enough requests in this step to pass"
        }
        "StableIsWorse" => "stable is over the max itself and the new version is not above it: a person may promote it",
        "NoData" => "no request of either version was counted, so nothing can be judged",
        "ShareMismatch" => {
            "the new version's share of the requests is not what its weight says, so the counts may not be the route's"
        }
        "CanaryUnmeasured" => "another metric counts requests of the new version and this one counts none",
        "QueryOutOfBounds" => "a query of the Rollout's own gives a number over its max or under its min",
        "Inconsistent" => "more bad requests than requests were counted too often, so the counts cannot be relied on",
        name => trouble(Trouble::ALL.into_iter().find(|trouble| trouble.reason() == name)?),
    };
    Some(text.to_owned())
}

/// Why nothing can be judged.
const fn trouble(trouble: Trouble) -> &'static str {
    match trouble {
        Trouble::Unreadable => "the metrics cannot be read, so nothing can be judged",
        Trouble::NoBucketBoundary => {
            "the threshold of latency is not the end of a bucket, so slow requests cannot be counted"
        }
        Trouble::SourceUnknown => "the administrator has set up no metrics source of that name",
        Trouble::SourceUnreachable => "the metrics source cannot be reached, so nothing can be judged",
        Trouble::SourceUnauthorized => "the metrics source does not let the operator ask, so nothing can be judged",
        Trouble::SourceRedirects => "the metrics source sends the operator elsewhere, which it does not follow",
        Trouble::SourceTimeout => "the metrics source does not answer in time, so nothing can be judged",
        Trouble::SourceFails => "the metrics source answers with an error, so nothing can be judged",
        Trouble::SourceReplyTooLarge => "the metrics source answers with more than is read",
        Trouble::SourceReplyInvalid => "the metrics source answers with what is no reply of Prometheus",
        Trouble::SourceReplyPartial => "the metrics source says itself that its reply is not complete",
        Trouble::SourceClockSkew => "the clock of the metrics source is another one, so its times mean nothing here",
        Trouble::ScrapeInterval => {
            "the metrics are scraped more seldom than the administrator says, so counts would be read before they are complete"
        }
        Trouble::QueryRejected => "the metrics source cannot evaluate the query",
        Trouble::QueryResultType => "the query's result is of another type than one that can be judged",
        Trouble::QueryResultSeries => "the query's result has two series where one is expected, or one for none",
        Trouble::QueryNoData => {
            "a query of the Rollout's own gives no number, which is neither well nor out of its bounds"
        }
        Trouble::QueryNotFinite => {
            "a query of the Rollout's own gives NaN or an infinite number, which cannot be judged"
        }
        Trouble::QueryRefused => "a query of the Rollout's own cannot be asked as it is written",
        Trouble::NotACount => "a value of the query's result is no count: it is not finite, or negative",
    }
}
