//! Renders Rollouts for people: one in detail, or many as a table.
//!
//! Pure: takes the Rollout as the server returned it, and the time. It shows what `status` says and concludes nothing of its own.

#[cfg(test)]
pub(crate) mod fixtures;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use stepgate_crds::rollout::{Approval, Step};
use stepgate_crds::status::{CommandOutcome, MetricReport, Outcome, PauseReason, Phase, Run, RunState};
use stepgate_crds::units::Timestamp;
use stepgate_crds::{Rollout, RolloutStatus, Verb};

use crate::figures::{ago, bar, grouped, lasted, rate};
use crate::table::{Side, table};

/// Characters of an evidence bar.
const BAR: usize = 20;

/// All rollouts, a line each.
pub(crate) fn overview(rollouts: &[Rollout], namespaces: bool, now: Timestamp) -> String {
    let mut rows = vec![
        [
            "NAMESPACE",
            "NAME",
            "PHASE",
            "STEP",
            "WEIGHT",
            "VERDICT",
            "AGE",
            "MESSAGE",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(rollouts.iter().map(|rollout| {
        let status = rollout.status.clone().unwrap_or_default();
        let age = rollout
            .metadata
            .creation_timestamp
            .as_ref()
            .map(|time| ago(now, time.0.into()));
        vec![
            rollout.namespace().unwrap_or_default(),
            rollout.name_any(),
            status.phase.map_or("-", Phase::as_str).to_owned(),
            status.step.unwrap_or_else(|| "-".to_owned()),
            status
                .weight
                .map_or_else(|| "-".to_owned(), |weight| format!("{weight} %")),
            status.verdict.unwrap_or_else(|| "-".to_owned()),
            age.unwrap_or_default(),
            status
                .message
                .unwrap_or_else(|| "the operator has not looked at it yet".to_owned()),
        ]
    }));
    let mut sides = vec![Side::Left; 8];
    for right in [4, 6] {
        if let Some(side) = sides.get_mut(right) {
            *side = Side::Right;
        }
    }
    if !namespaces {
        sides.remove(0);
        for row in &mut rows {
            row.remove(0);
        }
    }
    table("", &sides, &rows)
}

/// One rollout with everything that a person wants to know of it.
pub(crate) fn detail(rollout: &Rollout, now: Timestamp) -> String {
    let name = format!("{}/{}", rollout.namespace().unwrap_or_default(), rollout.name_any());
    let Some(status) = &rollout.status else {
        return format!("{name}   the operator has not looked at it yet\n");
    };
    let step = status
        .step
        .as_ref()
        .map_or_else(String::new, |step| format!("   step {step}"));
    let message = status.message.as_deref().unwrap_or_default();
    let mut parts = vec![format!(
        "{name}   {}{step}\n{message}\n",
        status.phase.map_or("-", Phase::as_str)
    )];
    if rollout.metadata.generation > status.observed_generation {
        parts.push("(the operator has not looked at the latest edit yet)\n".to_owned());
    }
    parts.extend(status.run.as_ref().map(|run| of_run(run, status, now)));
    parts.push(found(rollout, status));
    parts.push(conditions(&status.conditions, message, now));
    parts.extend(status.command.as_ref().map(last_command));
    parts.push(history(status, now));
    parts.concat()
}

fn last_command(command: &CommandOutcome) -> String {
    let verb = command.verb.map_or("unreadable", Verb::as_str);
    let done = if command.done { "done" } else { "refused" };
    format!("\nLast command\n  {verb}: {done}: {}\n", command.message)
}

fn of_run(run: &Run, status: &RolloutStatus, now: Timestamp) -> String {
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
        format!("Verdict   {}\n", status.verdict.as_deref().unwrap_or("–")),
        metrics(&run.metrics),
    ]
    .concat()
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
        RunState::RollingBack { .. } | RunState::Draining { .. } => "✗",
    };
    let rows: Vec<Vec<String>> = run
        .spec
        .steps
        .iter()
        .enumerate()
        .map(|(index, Step { weight, bake, approval })| {
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

fn doing(run: &Run, now: Timestamp) -> String {
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
            };
            format!("{why} for {}", lasted(now, *since))
        }
        RunState::Promoting { since } => format!(
            "the Deployment rolls for {}, the canary carries the traffic",
            lasted(now, *since)
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

fn found(rollout: &Rollout, status: &RolloutStatus) -> String {
    let workload = &rollout.spec.workload.name;
    let mut rows = vec![vec!["  Deployment".to_owned(), workload.clone()]];
    if let Some(stable) = &status.stable {
        rows.push(vec![
            "  stable".to_owned(),
            format!("ReplicaSet {}, template {}", stable.replica_set, stable.template),
        ]);
    }
    if let Some(failed) = &status.failed {
        let why = format!(
            "template {} in run {}: {}: {}",
            failed.template, failed.run, failed.cause.reason, failed.cause.detail
        );
        rows.push(vec!["  failed".to_owned(), why]);
    }
    if let Some(found) = &status.found {
        let labels: Vec<_> = found
            .canary_labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        rows.push(vec![
            "  Services".to_owned(),
            format!(
                "{} and {}, port {}",
                found.stable_service, found.canary_service, found.port
            ),
        ]);
        rows.push(vec![
            "  canary pods".to_owned(),
            format!("{} ({})", labels.join(","), found.apart),
        ]);
        rows.push(vec!["  queries".to_owned(), provider(found.provider).to_owned()]);
        for parent in &found.parents {
            rows.push(vec!["  route".to_owned(), parent.clone()]);
        }
    }
    format!("\nFound\n{}", table("", &[Side::Left, Side::Left], &rows))
}

fn provider(provider: stepgate_crds::rollout::ProviderName) -> &'static str {
    use stepgate_crds::rollout::ProviderName as Name;
    match provider {
        Name::Auto => "auto",
        Name::Contour => "contour",
        Name::Pods => "pods",
    }
}

/// Each condition in a line; a message that stands above already is not said again.
fn conditions(conditions: &[Condition], said: &str, now: Timestamp) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = conditions
        .iter()
        .map(|condition| {
            vec![
                format!("{}={}", condition.type_, condition.status),
                ago(now, condition.last_transition_time.0.into()),
                condition.reason.clone(),
                if condition.message == said {
                    String::new()
                } else {
                    condition.message.clone()
                },
            ]
        })
        .collect();
    format!(
        "\nConditions\n{}",
        table("  ", &[Side::Left, Side::Right, Side::Left, Side::Left], &rows)
    )
}

fn history(status: &RolloutStatus, now: Timestamp) -> String {
    if status.history.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = status
        .history
        .iter()
        .map(|past| {
            vec![
                past.run.clone(),
                past.outcome.as_str().to_owned(),
                past.reason.clone().unwrap_or_default(),
                format!("{} ago", ago(now, past.ended)),
                format!("took {}", lasted(past.ended, past.started)),
            ]
        })
        .collect();
    format!(
        "\nHistory\n{}",
        table(
            "  ",
            &[Side::Left, Side::Left, Side::Left, Side::Right, Side::Left],
            &rows
        )
    )
}

#[cfg(test)]
mod tests;
