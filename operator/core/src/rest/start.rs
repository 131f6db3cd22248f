//! Starts a run: what was found, the rules as they are, and the spec with every default filled in, written down before anything is done.

use stepgate_crds::{
    RolloutStatus,
    evidence::Evidence,
    rollout::{Step, StepAnalysis},
    status::{Phase, Retreats, Run, RunSpec, RunState},
    units::{Max, Share},
};

use super::find;
use crate::{
    input::{Input, WorkloadView},
    plan::Plan,
    preflight,
    report::{self, Said},
    route,
};

/// Starts a run with the Deployment's template.
pub fn start(input: &Input<'_>, workload: &WorkloadView) -> Plan {
    let found = match find(input) {
        Ok(found) => found,
        Err(plan) => return *plan,
    };
    let status = &input.rollout.status;
    let number = status.revisions.saturating_add(1);
    let id = run_id(input, number);
    let original = input
        .routes
        .iter()
        .filter_map(|(name, seen)| {
            let reference = input
                .rollout
                .spec
                .traffic
                .routes
                .iter()
                .find(|route| route.name == *name)?;
            Some(route::managed(&found, reference.rules.as_deref()).original(seen.get()?))
        })
        .flatten()
        .collect();
    let run = Run {
        id: id.clone(),
        seq: 1,
        term: input.term,
        started: input.now,
        revision: revision_name(input, number),
        spec: run_spec(input),
        original,
        base: workload.replicas,
        step: 0,
        weight: 0,
        accepted_weight: 0,
        in_force: None,
        no_data_since: None,
        retreats: Retreats::default(),
        drift: None,
        newer: None,
        bare_since: None,
        pause_hours: 0,
        state: RunState::Preparing { since: input.now },
        overridden: None,
        evidence: Evidence::default(),
        rule: None,
        metrics: Vec::new(),
        queries: Vec::new(),
        refreshed: input.now,
    };
    let steps = run
        .spec
        .steps
        .iter()
        .map(|step| step.weight.to_string())
        .collect::<Vec<_>>()
        .join(" → ");
    let text = format!("run {id}: a new version of Deployment {} goes {steps}", workload.name);
    let status = RolloutStatus {
        run: Some(run),
        found: Some(found),
        verdict: None,
        revisions: number,
        ..status.clone()
    };
    let note = report::note(input, false, "Started", text.clone());
    report::commit(
        status,
        input,
        &Said::passing(Phase::Preparing, "Preparing", text),
        Some(note),
    )
}

/// The spec of a run with every default filled in.
pub fn run_spec(input: &Input<'_>) -> RunSpec {
    let (spec, limits) = (&input.rollout.spec, input.limits);
    let analysis = spec.analysis.clone().unwrap_or_default();
    let steps = spec.steps.clone().unwrap_or_else(|| {
        limits
            .ladder
            .iter()
            .map(|weight| Step {
                weight: *weight,
                bake: None,
                approval: None,
                analysis: None,
            })
            .collect()
    });
    let max = analysis.error_rate.map(|rate| rate.max);
    RunSpec {
        routes: spec.traffic.routes.clone(),
        steps: steps
            .into_iter()
            .map(|step| Step {
                bake: Some(step.bake.unwrap_or(limits.bake)),
                // What follows from waiting is the spec's as it is now, not as it was.
                analysis: step.analysis.map(|analysis| StepAnalysis {
                    on_inconclusive: None,
                    on_no_data: None,
                    ..analysis
                }),
                ..step
            })
            .collect(),
        settle: spec.traffic.settle.unwrap_or(limits.settle),
        drain: spec.traffic.drain.unwrap_or(limits.drain),
        interval: analysis.interval.unwrap_or(limits.interval),
        source: analysis.source.unwrap_or_else(|| preflight::DEFAULT_SOURCE.to_owned()),
        max_error_rate: max.and_then(Max::share).unwrap_or(Share::new(limits.max_error_rate)),
        auto_max: max == Some(Max::Auto),
        baseline: None,
        no_baseline: None,
        latency: analysis.latency,
        queries: analysis.queries,
        warm_up: limits.warm_up,
        phi: limits.phi,
    }
}

fn run_id(input: &Input<'_>, number: i32) -> String {
    format!("{}-{number}", route::mark_prefix(&input.rollout.uid))
}

/// The name of the PodTemplate that keeps the template of this number.
pub fn revision_name(input: &Input<'_>, number: i32) -> String {
    format!("{}-{}", input.rollout.name, run_id(input, number))
}
