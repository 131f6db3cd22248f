//! Renders a preview for people. Pure, and concludes nothing of its own.

use stepgate_crds::units::Share;

use super::document::{AnalysisView, Document, StepView};
use super::outlook::{Expected, Outlook, Rehearsed};
use super::preflight::Preflight;
use super::span;
use super::traffic::Traffic;
use crate::figures::grouped;
use crate::table::{Side, table};

/// One Rollout.
pub(crate) fn of_one(document: &Document) -> String {
    let Document {
        namespace,
        name,
        workload,
        ..
    } = document;
    [
        format!("{namespace}/{name}   Deployment {workload}\n"),
        preflight(&document.preflight),
        steps(&document.steps),
        analysis(&document.analysis),
        traffic(&document.traffic, document.analysis.latency_threshold.is_some()),
        times(&document.steps, &document.outlooks),
        regressions(document),
    ]
    .concat()
}

fn preflight(found: &Preflight) -> String {
    let head = match &found.refused {
        Some(refusal) => format!("refused: {}: {}", refusal.reason, refusal.message),
        None if found.complete => "nothing stands in the way, as far as was looked".to_owned(),
        None => "not known".to_owned(),
    };
    let mut rows = Vec::new();
    let mut row = |name: &str, text: String| rows.push(vec![name.to_owned(), text]);
    if let Some(found) = &found.found {
        let labels: Vec<String> = found
            .canary_labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let services = format!(
            "{} and {}, port {}",
            found.stable_service, found.canary_service, found.port
        );
        row("Services", services);
        row("canary pods", format!("{} ({})", labels.join(","), found.apart));
        for parent in &found.parents {
            row("route", parent.clone());
        }
    }
    for note in &found.notes {
        row("note", note.clone());
    }
    for unseen in &found.not_looked_at {
        row("not looked at", unseen.clone());
    }
    format!(
        "\nPreflight   {head}\n{}",
        table("  ", &[Side::Left, Side::Left], &rows)
    )
}

fn steps(steps: &[StepView]) -> String {
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let slow = step
                .max_slow
                .map_or_else(String::new, |max| format!(", at most {max} slow"));
            vec![
                format!("{} %", step.weight),
                format!("bake {}", step.bake),
                format!("at most {} bad{slow}", step.max_errors),
                if step.approval { "needs approval" } else { "" }.to_owned(),
            ]
        })
        .collect();
    let sides = [Side::Right, Side::Left, Side::Left, Side::Left];
    format!("\nSteps\n{}", table("  ", &sides, &rows))
}

fn analysis(analysis: &AnalysisView) -> String {
    let why = analysis
        .provider_why
        .as_ref()
        .map_or_else(String::new, |why| format!(" ({why})"));
    let latency = analysis.latency_threshold.map_or_else(
        || "how long they take is not judged".to_owned(),
        |threshold| format!("slow after {threshold}"),
    );
    let waits = match (&analysis.on_inconclusive, &analysis.on_no_data) {
        (None, None) => "a step that is not decided holds until a person decides",
        _ => "onInconclusive or onNoData end some waits; the figures below do not know of them",
    };
    format!(
        "\nAnalysis\n  source {}, provider {}{why}, every {}, settled {} after a weight is accepted\n  requests: failed ones are bad; {latency}\n  φ = {} ({})\n  {waits}\n",
        analysis.source, analysis.provider, analysis.interval, analysis.settle, analysis.phi, analysis.phi_from
    )
}

fn traffic(traffic: &Traffic, latency: bool) -> String {
    let rates: Vec<String> = traffic.rates.iter().map(|rate| number(*rate)).collect();
    let names = ["fail", "are slow"];
    let both = traffic.shares.iter().zip(&traffic.shares_from).zip(names);
    let shares = both
        .take(if latency { 2 } else { 1 })
        .map(|((share, from), name)| format!("  {} of stable's {name} ({from})\n", percent(*share)));
    format!(
        "\nTraffic\n  {} requests a second ({})\n{}",
        rates.join(", "),
        traffic.rate_from,
        shares.collect::<String>()
    )
}

/// How long each step takes, a column for each rate.
fn times(steps: &[StepView], outlooks: &[Outlook]) -> String {
    let mut head = vec!["STEP".to_owned(), "CANARY REQUESTS".to_owned()];
    head.extend(outlooks.iter().map(|outlook| format!("AT {}/S", number(outlook.rate))));
    let mut rows = vec![head];
    for (at, step) in steps.iter().enumerate() {
        let of = |outlook: &Outlook| outlook.steps.get(at).map_or_else(|| "–".to_owned(), time);
        let first = outlooks.first().and_then(|outlook| outlook.steps.get(at));
        let requests = first.and_then(|step| step.requests);
        let mut row = vec![
            format!("{} %", step.weight),
            requests.map_or_else(
                || "no number would do".to_owned(),
                |requests| grouped(i64::try_from(requests).unwrap_or(i64::MAX)),
            ),
        ];
        row.extend(outlooks.iter().map(of));
        rows.push(row);
    }
    let mut last = vec!["promoted".to_owned(), String::new()];
    last.extend(outlooks.iter().map(|outlook| {
        let healthy = &outlook.healthy;
        healthy.seconds_to_promotion.map_or_else(
            || "in none".to_owned(),
            |seconds| format!("{} ({})", span(seconds), often(healthy.promoted, healthy.runs)),
        )
    }));
    rows.push(last);
    let sides = vec![Side::Right; rows.first().map_or(0, Vec::len)];
    format!(
        "\nHow long a version takes that is as good as stable: each step by its pass test, and the median of the rehearsals that were promoted (share of them)\n{}",
        table("  ", &sides, &rows)
    )
}

fn time(step: &Expected) -> String {
    let more = if step.approval { " + approval" } else { "" };
    step.seconds
        .map_or_else(|| "–".to_owned(), |seconds| format!("{}{more}", span(seconds)))
}

/// What is found, a row for each rate and regression.
fn regressions(document: &Document) -> String {
    let head = ["AT", "WORSE", "FOUND", "IN", "BAD UNTIL THEN", "PROMOTED", "HELD"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for outlook in &document.outlooks {
        for version in outlook.regressions.iter().chain([&outlook.healthy]) {
            rows.push(vec![
                format!("{}/s", number(outlook.rate)),
                worse(version),
                often(version.rolled_back, version.runs),
                version
                    .seconds_to_rollback
                    .map_or_else(|| "–".to_owned(), |seconds| span(seconds).to_string()),
                version
                    .bad_until_rollback
                    .map_or_else(|| "–".to_owned(), |bad| grouped(i64::try_from(bad).unwrap_or(i64::MAX))),
                often(version.promoted, version.runs),
                often(version.held, version.runs),
            ]);
        }
    }
    let runs = document.outlooks.first().map_or(0, |outlook| outlook.healthy.runs);
    let mut sides = vec![Side::Right; head.len()];
    if let Some(side) = sides.get_mut(1) {
        *side = Side::Left;
    }
    format!(
        "\nWhich regressions are rolled back: {runs} rehearsals each by the operator's own verdict (seed {}), medians, at most {} each; approvals are given at once, bad requests come each by itself\n{}",
        document.seed,
        span(document.longest_seconds),
        table("  ", &sides, &rows)
    )
}

fn worse(version: &Rehearsed) -> String {
    let times = version
        .times_stable
        .map_or_else(String::new, |times| format!(" ({} times stable's)", number(times)));
    match version.metric.as_deref() {
        None => "no worse than stable".to_owned(),
        Some("latency") => format!("{} slow{times}", percent(version.share)),
        Some(_) => format!("{} bad{times}", percent(version.share)),
    }
}

/// A share of runs in whole percent, with its count where it is neither none nor all.
fn often(number: u32, runs: u32) -> String {
    let percent = (100 * number + runs / 2) / runs.max(1);
    if number > 0 && percent == 0 {
        return "< 1 %".to_owned();
    }
    if number < runs && percent == 100 {
        return "> 99 %".to_owned();
    }
    format!("{percent} %")
}

/// A share with at most three decimals of a percent.
fn percent(share: f64) -> String {
    Share::new((share * 100_000.0).round() / 100_000.0)
        .to_string()
        .replace('%', " %")
}

/// A rate with as many decimals as matter.
fn number(value: f64) -> String {
    if value >= 10.0 || (value - value.round()).abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}
