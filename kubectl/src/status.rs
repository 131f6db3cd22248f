//! Renders Rollouts for people: one in detail, or many as a table.
//!
//! Pure: takes the Rollout as the server returned it, and the time. It shows what `status` says and concludes nothing of its own.

#[cfg(test)]
pub(crate) mod fixtures;
mod run;

pub(crate) use run::{doing, verdict};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use stepgate_crds::status::{CommandOutcome, Phase};
use stepgate_crds::units::Timestamp;
use stepgate_crds::{Rollout, RolloutStatus, Verb};

use crate::figures::{ago, lasted};
use crate::table::{Side, table};

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
    parts.extend(status.run.as_ref().map(|run| run::of_run(run, status, now)));
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
        if failed.put_back {
            let held = "stable's template is back in its place; should it come again, it is held as failed";
            rows.push(vec![String::new(), held.to_owned()]);
        }
    }
    if let Some(native) = &status.native {
        let why = format!("natively, without steps: {}: {}", native.reason, native.detail);
        rows.push(vec!["  rolls".to_owned(), why]);
    }
    if let Some(open) = &status.mends.open {
        let what = format!("template {open} is being put into the Deployment");
        rows.push(vec!["  mending".to_owned(), what]);
    }
    if !status.mends.times.is_empty() {
        let what = format!(
            "a recorded template was put into the Deployment, times in the last hour: {}",
            status.mends.times.len()
        );
        rows.push(vec!["  mended".to_owned(), what]);
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
        rows.push(vec![
            "  queries".to_owned(),
            match &found.provider_why {
                Some(why) => format!("{} ({why})", found.provider),
                None => found.provider.to_string(),
            },
        ]);
        for parent in &found.parents {
            rows.push(vec!["  route".to_owned(), parent.clone()]);
        }
    }
    format!("\nFound\n{}", table("", &[Side::Left, Side::Left], &rows))
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
