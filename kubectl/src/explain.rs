//! Renders why a run's verdict is what it is: counts, shares with their intervals, evidence against its thresholds, what a pass still
//! takes, and the queries.
//!
//! Pure: takes the Rollout as the server returned it, and the time. Every number is the operator's own, from `status.run.metrics`.

#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use kube::ResourceExt;
use serde::Serialize;
use stepgate_core::state::interval_seconds;
use stepgate_core::verdict::dispersion::ENOUGH_BAD;
use stepgate_core::verdict::meaning;
use stepgate_crds::status::{MetricReport, Past, Phase, QueryReport, Run, RunSpec, RunState};
use stepgate_crds::units::{Span, Timestamp};
use stepgate_crds::{Rollout, RolloutStatus};

use crate::figures::{ago, grouped, lasted, rate};
use crate::status::{doing, verdict};
use crate::table::{Side, table};

/// The same for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    namespace: String,
    name: String,
    phase: Option<Phase>,
    message: Option<&'a str>,
    /// Of the run that is under way; all of these are null where there is none.
    run: Option<&'a str>,
    step: Option<&'a str>,
    weight: Option<i32>,
    verdict: Option<&'a str>,
    rule: Option<&'a str>,
    meaning: Option<String>,
    metrics: Vec<Metric<'a>>,
    /// The user's own.
    queries: &'a [QueryReport],
    last_run: Option<&'a Past>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metric<'a> {
    #[serde(flatten)]
    report: &'a MetricReport,
    promql: Option<String>,
}

/// One rollout's verdict as JSON.
pub(crate) fn json(rollout: &Rollout) -> Result<String> {
    let status = rollout.status.clone().unwrap_or_default();
    let run = status.run.as_ref();
    let metrics = run.map_or(&[][..], |run| &run.metrics).iter().map(|report| Metric {
        report,
        promql: run.and_then(|run| promql(report, run)),
    });
    let document = Document {
        namespace: rollout.namespace().unwrap_or_default(),
        name: rollout.name_any(),
        phase: status.phase,
        message: status.message.as_deref(),
        run: run.map(|run| run.id.as_str()),
        step: status.step.as_deref().filter(|_| run.is_some()),
        weight: run.map(|run| run.accepted_weight),
        verdict: status.verdict.as_deref().filter(|_| run.is_some()),
        rule: run.and_then(|run| rule(run, &status)),
        meaning: run.and_then(|run| rule(run, &status)).and_then(meaning),
        metrics: metrics.collect(),
        queries: run.map_or(&[], |run| &run.queries),
        last_run: status.history.first(),
    };
    Ok(serde_json::to_string_pretty(&document).context("writing JSON")? + "\n")
}

/// One rollout's verdict for a person.
pub(crate) fn text(rollout: &Rollout, now: Timestamp) -> String {
    let name = format!("{}/{}", rollout.namespace().unwrap_or_default(), rollout.name_any());
    let Some(status) = &rollout.status else {
        return format!("{name}   the operator has not looked at it yet\n");
    };
    let phase = status.phase.map_or("-", Phase::as_str);
    let message = status.message.as_deref().unwrap_or_default();
    match &status.run {
        Some(run) => {
            let step = status.step.as_deref().unwrap_or("-");
            let head = format!(
                "{name}   {phase}   step {step} at {} %\n{message}\n\nRun {}: {}\n{}",
                run.accepted_weight,
                run.id,
                doing(run, now),
                decided(run, status)
            );
            head + &metrics(run)
        }
        None => format!("{name}   {phase}\n{message}\n\n{}", at_rest(status, now)),
    }
}

fn at_rest(status: &RolloutStatus, now: Timestamp) -> String {
    let nothing = "No run is under way: there is nothing to be judged now.\n";
    let Some(last) = status.history.first() else {
        return format!("{nothing}None has ended yet.\n");
    };
    let failed = status.failed.as_ref().filter(|failed| failed.run == last.run);
    let why = match (failed, &last.reason) {
        (Some(failed), _) => format!(": {}: {}", failed.cause.reason, failed.cause.detail),
        (None, Some(reason)) => format!(": {reason}"),
        (None, None) => String::new(),
    };
    format!(
        "{nothing}The last one, {}, ended {} ago as {}, after {}{why}\n",
        last.run,
        ago(now, last.ended),
        last.outcome.as_str(),
        lasted(last.ended, last.started)
    )
}

/// The rule that decided; an operator that does not write it says it in the verdict, but for a failure.
fn rule<'a>(run: &'a Run, status: &'a RolloutStatus) -> Option<&'a str> {
    run.rule.as_deref().or(status.verdict.as_deref())
}

fn decided(run: &Run, status: &RolloutStatus) -> String {
    let Some(verdict) = verdict(run, status) else {
        return "Verdict   none yet\n".to_owned();
    };
    rule(run, status).and_then(meaning).map_or_else(
        || format!("Verdict   {verdict}\n"),
        |meaning| format!("Verdict   {verdict}: {meaning}\n"),
    )
}

fn metrics(run: &Run) -> String {
    if run.metrics.is_empty() {
        let why = match run.state {
            RunState::Preparing { .. } => "Nothing is judged before the first weight is in force.",
            _ => "No interval of this step has been judged yet.",
        };
        return format!("\n{why}\n{}", baseline(&run.spec));
    }
    let blocks: String = run.metrics.iter().map(|metric| block(metric, run)).collect();
    let own = own(run);
    format!(
        "{blocks}{own}\nEvidence is a natural logarithm. It is divided by φ = {}, and so are the counts of the intervals.\n{}",
        run.spec.phi,
        baseline(&run.spec)
    )
}

/// Where φ, and the max of `max: auto`, come from.
fn baseline(spec: &RunSpec) -> String {
    let max = spec.auto_max.then(|| format!("max: auto is {}", spec.max_error_rate));
    match (&spec.baseline, &spec.no_baseline) {
        (Some(known), why) => {
            let phi = (known.pods >= 2).then(|| {
                if u64::try_from(known.bad).is_ok_and(|bad| bad < ENOUGH_BAD) {
                    "φ is at least the default, for so few say little".to_owned()
                } else {
                    format!("φ is of its {} pods", known.pods)
                }
            });
            let made: Vec<String> = phi.into_iter().chain(max).collect();
            let why = why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
            format!(
                "Before the run stable had {} requests in {} h, {} of them bad: {}{why}.\n",
                grouped(known.requests),
                known.hours,
                grouped(known.bad),
                if made.is_empty() {
                    "φ is the default".to_owned()
                } else {
                    made.join(", ")
                },
            )
        }
        (None, Some(why)) => {
            let max = max.map(|max| format!(", {max}")).unwrap_or_default();
            format!("What stable did before the run is not known ({why}): φ is the default{max}.\n")
        }
        (None, None) => String::new(),
    }
}

/// One metric.
fn block(metric: &MetricReport, run: &Run) -> String {
    let heading = [
        &format!("{} in this step", metric.name),
        "requests",
        "bad",
        "share",
        "95 % interval",
    ];
    let arms = [
        heading.map(str::to_owned).to_vec(),
        arm(
            "canary",
            metric.canary_requests,
            metric.canary_bad,
            metric.canary_interval,
        ),
        arm(
            "stable",
            metric.stable_requests,
            metric.stable_bad,
            metric.stable_interval,
        ),
    ];
    let arms = table(
        "",
        &[Side::Left, Side::Right, Side::Right, Side::Right, Side::Left],
        &arms,
    );
    let more = [ratio(metric), missing(metric)];
    let more: Vec<Vec<String>> = more.into_iter().flatten().map(|line| vec![line]).collect();
    let more = table("  ", &[Side::Left], &more);
    format!("\n{arms}{}{more}{}", evidence(metric), query(metric, run))
}

fn arm(name: &str, requests: i64, bad: i64, interval: Option<[f64; 2]>) -> Vec<String> {
    vec![
        format!("  {name}"),
        grouped(requests),
        grouped(bad),
        rate(bad, requests),
        interval.map_or_else(|| "–".to_owned(), |[low, high]| format!("{low:.2} % to {high:.2} %")),
    ]
}

/// Each test with its evidence and threshold.
fn evidence(metric: &MetricReport) -> String {
    let over = |word: &str| {
        metric
            .max
            .map_or_else(|| format!("{word} the max"), |max| format!("{word} the max of {max} %"))
    };
    let against = match (metric.relative_evidence, metric.absolute_evidence) {
        (Some(relative), Some(absolute)) => vec![("worse than stable".to_owned(), relative), (over("over"), absolute)],
        _ => vec![("against it".to_owned(), metric.fail_evidence)],
    };
    let fails = against
        .into_iter()
        .map(|(what, value)| test(&what, value, metric.fail_threshold, "fails"));
    let passes = test(&over("under"), metric.pass_evidence, metric.pass_threshold, "passes");
    let rows: Vec<Vec<String>> = fails.chain([passes]).collect();
    table("  ", &[Side::Left, Side::Right, Side::Left], &rows)
}

fn test(what: &str, value: f64, threshold: f64, then: &str) -> Vec<String> {
    let reached = if value >= threshold { ": reached" } else { "" };
    vec![
        format!("evidence: {what}"),
        format!("{value:.2}"),
        format!("{then} at {threshold:.2}{reached}"),
    ]
}

fn ratio(metric: &MetricReport) -> Option<String> {
    let times = match (metric.ratio_from, metric.ratio_to) {
        (Some(from), Some(to)) => format!("{from:.1} to {to:.1} times"),
        (Some(from), None) => format!("at least {from:.1} times"),
        (None, Some(to)) => format!("at most {to:.1} times"),
        (None, None) => return None,
    };
    Some(format!(
        "over the whole run the canary is {times} as bad as stable (95 %, at every look)"
    ))
}

/// What a pass still takes; an operator that writes no max writes no forecast either.
fn missing(metric: &MetricReport) -> Option<String> {
    if metric.pass_evidence >= metric.pass_threshold {
        return Some("for a pass: nothing is missing".to_owned());
    }
    let Some(need) = metric.need else {
        metric.max?;
        let near =
            "its share of bad requests is at or too near the max: it takes more of them to tell which side it is on";
        return Some(format!("for a pass: {near}"));
    };
    let more = grouped((need - metric.canary_requests).max(0));
    let seconds = metric.eta_seconds.and_then(|eta| u64::try_from(eta).ok());
    let time = seconds.map_or_else(
        || "at a rate that is not known yet".to_owned(),
        |seconds| format!("about {} at today's traffic", Span::seconds(seconds)),
    );
    Some(format!(
        "for a pass: about {more} more canary requests of {}, {time}",
        grouped(need)
    ))
}

/// The user's own queries: a table, and each as it is asked.
fn own(run: &Run) -> String {
    if run.queries.is_empty() {
        return String::new();
    }
    let heading = ["own queries", "value", "max", "min", "out of bounds in a row"];
    let bound = |bound: Option<f64>| bound.map_or_else(|| "–".to_owned(), |bound| bound.to_string());
    let row = |query: &QueryReport| {
        vec![
            format!("  {}", query.name),
            query.value.clone().unwrap_or_else(|| "none".to_owned()),
            bound(query.max),
            bound(query.min),
            format!("{} of {} intervals", query.failures, query.failure_limit),
        ]
    };
    let rows: Vec<Vec<String>> = [heading.map(str::to_owned).to_vec()]
        .into_iter()
        .chain(run.queries.iter().map(row))
        .collect();
    let table = table(
        "",
        &[Side::Left, Side::Right, Side::Right, Side::Right, Side::Left],
        &rows,
    );
    let said = |query: &QueryReport| {
        let trouble = query.trouble.as_ref();
        let trouble = trouble.map_or_else(String::new, |why| format!(" (no number in the newest interval: {why})"));
        match &query.asked {
            Some(asked) => format!(
                "\nPromQL: {}, as Stepgate asks metrics source {}{trouble}\n\n{asked}\n",
                query.name, run.spec.source
            ),
            None => format!(
                "\nPromQL: {}: not in status, which has no room for it, or it cannot be asked{trouble}\n",
                query.name
            ),
        }
    };
    let asked: String = run.queries.iter().map(said).collect();
    format!("\n{table}{asked}")
}

fn promql(metric: &MetricReport, run: &Run) -> Option<String> {
    let query = metric.query.as_ref()?;
    Some(query.promql(interval_seconds(run.spec.interval)))
}

fn query(metric: &MetricReport, run: &Run) -> String {
    match promql(metric, run) {
        Some(promql) => format!(
            "\nPromQL: {}, counted over the last {}, as Stepgate asks metrics source {}\n\n{promql}\n",
            metric.name, run.spec.interval, run.spec.source
        ),
        None => "\nPromQL: not in status, which has no room for it (or an older operator wrote it)\n".to_owned(),
    }
}
