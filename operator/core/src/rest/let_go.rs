//! Lets go of everything when the Rollout is deleted or suspended and no run is under way.

use serde_json::json;
use stepgate_crds::{
    RolloutStatus, names,
    status::{Mends, Note, Phase},
};

use crate::{
    input::{Input, Seen, WorkloadView},
    plan::{Effect, Kind, Plan, Wake},
    report::{self, Said},
};

/// The Deployment is plain Kubernetes again, and the finalizer goes last.
pub(super) fn let_go(input: &Input<'_>) -> Plan {
    if !input.rollout.finalizer {
        return if input.rollout.deleting {
            Plan::Wait(Wake::default())
        } else {
            suspended(input)
        };
    }
    if let Seen::At(workload) = input.workload
        && workload.rollout.as_ref() == Some(&input.rollout.name)
    {
        let stable = input
            .rollout
            .status
            .stable
            .as_ref()
            .and_then(|stable| input.templates.get(&stable.template));
        let is_stable = stable.is_some_and(|stable| stable.digest == workload.template);
        // A template that was never proven is not let loose: it stays paused, and a person is told how to go on.
        if workload.hold.is_some() && workload.paused && !is_stable {
            let told = |note: &Note| note.reason == LEFT_PAUSED;
            if !input.rollout.status.note.as_ref().is_some_and(told) {
                return Plan::Commit(Box::new(RolloutStatus {
                    note: Some(report::note(input, true, LEFT_PAUSED, left_paused(input, workload))),
                    ..input.rollout.status.clone()
                }));
            }
        }
        let mut patch = json!({"metadata": {"labels": {names::ROLLOUT: null}}});
        // A version that waits keeps its stamp through a suspension, and gets its run when that is over. One that failed does not.
        let failed = input.rollout.status.failed.as_ref();
        let failed = failed.and_then(|failed| input.templates.get(&failed.template));
        let has_failed = failed.is_some_and(|failed| failed.digest == workload.template);
        let waits = !input.rollout.deleting && !is_stable && !has_failed;
        if workload.hold.is_some() && !waits {
            patch = json!({"metadata": {"labels": {names::ROLLOUT: null}, "annotations": {names::HOLD: null}}});
            if is_stable && let Some(fields) = patch.as_object_mut() {
                fields.insert("spec".to_owned(), json!({"paused": null}));
            }
        }
        return Plan::act(Effect::on_deployment(workload, patch));
    }
    if let Seen::Unknown(_) = input.workload {
        return Plan::Wait(Wake {
            at: Some(input.now.after(input.limits.mend)),
            ..Wake::default()
        });
    }
    // Also where it is suspended: without the finalizer nobody would clear them away should it be deleted then.
    let mut ours = super::left_behind(input);
    let recorded = input.templates.iter();
    ours.extend(recorded.map(|(name, template)| Effect::delete(Kind::PodTemplate, name, &template.uid)));
    if !ours.is_empty() {
        return Plan::Act(ours);
    }
    let finalizers: Vec<&String> = input
        .rollout
        .finalizers
        .iter()
        .filter(|name| *name != names::FINALIZER)
        .collect();
    Plan::act(Effect::on_rollout(
        input.rollout,
        json!({"metadata": {"finalizers": finalizers}}),
    ))
}

/// Nothing is managed, and nothing of what was known is taken for true when it is again.
fn suspended(input: &Input<'_>) -> Plan {
    let status = RolloutStatus {
        stable: None,
        found: None,
        failed: None,
        native: None,
        mends: Mends::default(),
        verdict: None,
        ..input.rollout.status.clone()
    };
    let message =
        "suspended: nothing is managed, and the Deployment rolls by itself; set spec.suspend to false to go on";
    super::steady(input, status, &Said::passing(Phase::Suspended, "Suspended", message))
}

/// The reason of the Event about a Deployment that stays paused when its Rollout goes.
const LEFT_PAUSED: &str = "LeftPaused";

fn left_paused(input: &Input<'_>, workload: &WorkloadView) -> String {
    let (name, namespace) = (&workload.name, &input.rollout.namespace);
    format!(
        "Deployment {name} stays paused with a version that was not proven, its pods are the stable version's; to roll it out: kubectl rollout resume deployment {name} -n {namespace}; to stay with stable: put the old template back first"
    )
}
