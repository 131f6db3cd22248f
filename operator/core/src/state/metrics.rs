//! What was judged of each metric, as it stands in `status`.
//!
//! Rounded to three decimals: enough for people, and the same counts give the same bytes.

use stepgate_crds::{
    query::CountQuery,
    status::{MetricReport, QueryReport},
};

use crate::verdict::{MetricExplanation, QueryExplanation};

/// One report for each metric; `queries` is in their order, and may be shorter.
pub(super) fn reports(explanations: &[MetricExplanation], queries: &[Option<CountQuery>]) -> Vec<MetricReport> {
    let queries = queries.iter().cloned().chain(std::iter::repeat(None));
    let reports = explanations.iter().zip(queries);
    reports.map(|(explanation, query)| report(explanation, query)).collect()
}

/// One report for each of the user's own queries; `asked` is in their order, and may be shorter.
pub(super) fn own(explanations: &[QueryExplanation], asked: &[Option<String>]) -> Vec<QueryReport> {
    let asked = asked.iter().cloned().chain(std::iter::repeat(None));
    let reports = explanations.iter().zip(asked).map(|(explanation, asked)| QueryReport {
        name: explanation.settings.name.clone(),
        value: explanation.value.clone(),
        max: explanation.settings.max,
        min: explanation.settings.min,
        failures: i32::try_from(explanation.failures).unwrap_or(i32::MAX),
        failure_limit: i32::try_from(explanation.settings.failure_limit).unwrap_or(i32::MAX),
        trouble: explanation.trouble.clone(),
        asked,
    });
    reports.collect()
}

#[expect(clippy::cast_possible_truncation, reason = "counts stay below 2^53")]
fn report(explanation: &MetricExplanation, query: Option<CountQuery>) -> MetricReport {
    let (canary, stable) = (explanation.canary, explanation.stable);
    let total = canary.requests + stable.requests;
    let percent = |shares: [f64; 2]| shares.map(|share| round(100.0 * share));
    let whole = |count: Option<u64>| count.and_then(|count| i64::try_from(count).ok());
    MetricReport {
        name: explanation.name.clone(),
        canary_requests: canary.requests as i64,
        canary_bad: canary.bad as i64,
        stable_requests: stable.requests as i64,
        stable_bad: stable.bad as i64,
        measured_weight: (total > 0.0).then(|| round(canary.requests / total * 100.0)),
        max: Some(round(100.0 * explanation.max)),
        canary_interval: explanation.canary_interval.map(percent),
        stable_interval: explanation.stable_interval.map(percent),
        ratio_from: explanation.ratio.from.map(round),
        ratio_to: explanation.ratio.to.map(round),
        relative_evidence: Some(round(explanation.ln_relative)),
        absolute_evidence: Some(round(explanation.ln_absolute)),
        fail_evidence: round(explanation.ln_relative.max(explanation.ln_absolute)),
        fail_threshold: round(explanation.threshold_fail),
        pass_evidence: round(explanation.ln_pass),
        pass_threshold: round(explanation.threshold_pass),
        need: whole(explanation.missing.and_then(|missing| missing.need)),
        eta_seconds: whole(explanation.missing.and_then(|missing| missing.eta)),
        query,
    }
}

fn round(value: f64) -> f64 {
    if value.is_finite() {
        (value * 1_000.0).round() / 1_000.0
    } else {
        0.0
    }
}
