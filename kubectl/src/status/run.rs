//! Renders the run that is under way: where it is, its steps, its weights, what came in its way, and the counts of this step.
//!
//! Pure, and concludes nothing of its own.

use stepgate_crds::RolloutStatus;
use stepgate_crds::rollout::{Approval, Step};
use stepgate_crds::status::{MetricReport, Outcome, PauseReason, Retreat, Run, RunState};
use stepgate_crds::units::Timestamp;

use crate::figures::{bar, grouped, lasted, rate};
use crate::table::{Side, table};

/// Characters of an evidence bar.
const BAR: usize = 20;

/// The run: where it is, its steps, its weights and the counts of this step.
pub(super) fn of_run(run: &Run, status: &RolloutStatus, now: Timestamp) -> String {
    let measured = run.metrics.iter().find_map(|metric| metric.measured_weight);
    let measured = measured.map_or_else(|| "–".to_owned(), |weight| format!("{weight:.1} %"));
    [
        format!(
            "\nRun {}, begun {} ago: {}\n",
            run.id,
            lasted(now, run.started),
            doing(run, now)
        ),
        ladder(run),
        format!(
            "\nWeight    intended {} %   accepted {} %   measured {measured}\n",
            run.weight, run.accepted_weight
        ),
        format!("Verdict   {}\n", verdict(run, status).unwrap_or_else(|| "–".to_owned())),
        incidents(run),
        metrics(&run.metrics),
    ]
    .concat()
}

/// The verdict, with the rule that decided where that is another word; none before the first.
pub(crate) fn verdict(run: &Run, status: &RolloutStatus) -> Option<String> {
    let verdict = status.verdict.as_ref()?;
    Some(match &run.rule {
        Some(rule) if rule != verdict => format!("{verdict} by {rule}"),
        _ => verdict.clone(),
    })
}

/// What came in the way of the run so far; nothing for most.
fn incidents(run: &Run) -> String {
    let retreats = &run.retreats;
    let others = retreats.pods_lost + retreats.silent + retreats.no_data + retreats.inconclusive;
    let shared = retreats.all - others;
    let causes: Vec<String> = [
        (retreats.pods_lost, Retreat::PodsLost),
        (shared, Retreat::SharedFault),
        (retreats.silent, Retreat::CanarySilent),
        (retreats.no_data, Retreat::NoData),
        (retreats.inconclusive, Retreat::Inconclusive),
    ]
    .into_iter()
    .filter(|(times, _)| *times > 0)
    .map(|(times, why)| format!("{times} {}", why.as_str()))
    .collect();
    let lines = [
        (retreats.all > 0).then(|| format!("Retreats  {} ({})\n", retreats.all, causes.join(", "))),
        run.drift.as_ref().map(|drift| {
            format!(
                "Drift     somebody else took the weights to stable, times in ten minutes: {}\n",
                drift.times.len()
            )
        }),
        run.newer
            .as_ref()
            .map(|newer| format!("Newer     template {newer} came meanwhile and gets its own run after this one\n")),
    ];
    lines.into_iter().flatten().collect()
}

/// The steps with a mark each: done, here, to come, or where it turned back.
fn ladder(run: &Run) -> String {
    let here = usize::try_from(run.step).unwrap_or(0);
    let mark = |index: usize| match &run.state {
        RunState::Promoting { .. }
        | RunState::Returning { .. }
        | RunState::Draining {
            then: Outcome::Promoted,
            ..
        } => "✓",
        _ if index < here => "✓",
        _ if index > here => "·",
        RunState::Preparing { .. } => "·",
        RunState::Stepping { .. } => "▶",
        RunState::Paused { .. } => "‖",
        RunState::Retreated { .. } => "↓",
        RunState::Restoring { .. } | RunState::RollingBack { .. } | RunState::Draining { .. } => "✗",
    };
    let rows: Vec<Vec<String>> = run
        .spec
        .steps
        .iter()
        .enumerate()
        .map(|(index, step)| {
            let Step {
                weight, bake, approval, ..
            } = step;
            vec![
                mark(index).to_owned(),
                format!("{weight} %"),
                bake.map_or_else(String::new, |bake| format!("bake {bake}")),
                match approval {
                    Some(Approval::Required) => "needs approval".to_owned(),
                    None => String::new(),
                },
            ]
        })
        .collect();
    table("  ", &[Side::Left, Side::Right, Side::Left, Side::Left], &rows)
}

/// What the run does, for how long, and why.
pub(crate) fn doing(run: &Run, now: Timestamp) -> String {
    match &run.state {
        RunState::Preparing { since } => format!("preparing the canary for {}", lasted(now, *since)),
        RunState::Stepping { since } => match &run.in_force {
            Some(force) if force.step == run.step && force.weight == run.weight => {
                format!("at this weight for {}", lasted(now, force.since))
            }
            _ => format!("on the way to this weight for {}", lasted(now, *since)),
        },
        RunState::Paused { since, why } => {
            let why = match why {
                PauseReason::Approval => "waiting for an approval (promote)",
                PauseReason::Command => "paused by a person (resume)",
                PauseReason::Contention => "paused, somebody else keeps taking the weights back (resume)",
                PauseReason::Retreats => "paused, it retreated too often (resume)",
            };
            format!("{why} for {}", lasted(now, *since))
        }
        RunState::Retreated { since, why, well_since } => {
            let why = match why {
                Retreat::PodsLost => "all pods of the canary went: it goes on when they are ready",
                Retreat::SharedFault => "both versions failed: it goes on when stable was well for a while",
                Retreat::CanarySilent => "no request to the canary was counted: it is tried again",
                Retreat::NoData => "there were no data: it goes on when there have been some of stable for a while",
                Retreat::Inconclusive => "no verdict was reached in time (resume)",
            };
            let well = well_since.map_or_else(String::new, |well| format!(", stable well for {}", lasted(now, well)));
            format!("all traffic on stable for {}: {why}{well}", lasted(now, *since))
        }
        RunState::Promoting { since } => format!(
            "the Deployment rolls for {}, the canary carries the traffic",
            lasted(now, *since)
        ),
        RunState::Restoring { since, cause, .. } => format!(
            "the Deployment rolls back to stable for {}, the canary carries the traffic: {}: {}",
            lasted(now, *since),
            cause.reason,
            cause.detail
        ),
        RunState::Returning { since } => format!("traffic returns to the Deployment for {}", lasted(now, *since)),
        RunState::RollingBack { since, cause, .. } => {
            format!(
                "rolling back for {}: {}: {}",
                lasted(now, *since),
                cause.reason,
                cause.detail
            )
        }
        RunState::Draining { since, cause, then } => {
            let cause = cause
                .as_ref()
                .map_or_else(String::new, |cause| format!(": {}: {}", cause.reason, cause.detail));
            format!(
                "draining the canary for {}, then {}{cause}",
                lasted(now, *since),
                then.as_str()
            )
        }
    }
}

fn metrics(metrics: &[MetricReport]) -> String {
    let mut text = String::new();
    for metric in metrics {
        let heading = [&format!("{} in this step", metric.name), "requests", "bad", "share"];
        let rows = [
            heading.map(str::to_owned).to_vec(),
            arm("canary", metric.canary_requests, metric.canary_bad),
            arm("stable", metric.stable_requests, metric.stable_bad),
        ];
        text.push('\n');
        text += &table("", &[Side::Left, Side::Right, Side::Right, Side::Right], &rows);
        let evidence = [
            evidence(
                "evidence against it",
                metric.fail_evidence,
                metric.fail_threshold,
                "fails",
            ),
            evidence("evidence for it", metric.pass_evidence, metric.pass_threshold, "passes"),
        ];
        text += &table("  ", &[Side::Left, Side::Left, Side::Right, Side::Left], &evidence);
    }
    text
}

fn arm(name: &str, requests: i64, bad: i64) -> Vec<String> {
    vec![
        format!("  {name}"),
        grouped(requests),
        grouped(bad),
        rate(bad, requests),
    ]
}

fn evidence(name: &str, value: f64, threshold: f64, then: &str) -> Vec<String> {
    vec![
        name.to_owned(),
        bar(value, threshold, BAR),
        format!("{value:.2}"),
        format!("{then} at {threshold:.2}"),
    ]
}
