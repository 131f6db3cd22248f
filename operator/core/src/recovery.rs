//! Recovery: a paused Deployment does not heal itself. Where stable's pods are lost while a new template is held, stable's template goes
//! back and the Deployment is un-paused. That comes before policy.

use stepgate_crds::{RolloutStatus, status::Stable};

use crate::{
    input::{Input, ReplicaSetView, WorkloadView},
    mend::{self, Mend},
    plan::{Need, Plan},
    template::digest,
};

/// What becomes of stable's pods.
#[derive(Clone, Debug, PartialEq)]
pub enum Recovery {
    /// They are well, or it is not ours to heal.
    None,
    /// This comes next, whatever else is under way.
    Next(Plan),
    /// They are lost: why. To be written down with [`intend`].
    Lost(String),
    /// They are lost and cannot be brought back: why, and what a person can do.
    Stuck(String),
}

/// Whether stable's pods are lost, and what brings them back.
pub fn next(input: &Input<'_>) -> Recovery {
    let status = &input.rollout.status;
    let (Some(workload), Some(stable)) = (input.workload.get(), &status.stable) else {
        return Recovery::None;
    };
    if stable.workload_uid != workload.uid {
        return Recovery::None;
    }
    if status.mends.open.as_ref() == Some(&stable.template) {
        return match mend::put(input, workload, &stable.template, None) {
            Mend::Done => Recovery::None,
            Mend::Next(plan) => Recovery::Next(plan),
            Mend::Stuck(why) => Recovery::Stuck(why),
        };
    }
    let own = input.templates.get(&stable.template).map(|template| template.digest);
    if own == Some(workload.template) || !is_suspicious(input, workload) {
        return Recovery::None;
    }
    let Some(sets) = input.replica_sets else {
        return Recovery::Next(Plan::need(Need::REPLICA_SETS));
    };
    let owned = || sets.iter().filter(|set| set.owner.as_ref() == Some(&workload.uid));
    let is_stable = |set: &&ReplicaSetView| Some(digest(&set.template)) == own;
    let stranger = owned().find(|set| set.wanted > 0 && !is_stable(set));
    let why = match (owned().find(is_stable), stranger) {
        (None, _) => format!("ReplicaSet {} of the stable version is gone", stable.replica_set),
        (Some(_), Some(other)) => format!("ReplicaSet {} was started in place of the stable version's", other.name),
        (Some(set), None) if set.wanted == 0 => {
            format!("ReplicaSet {} of the stable version has no pods any more", set.name)
        }
        (Some(_), None) => return Recovery::None,
    };
    match intend(status.clone(), input) {
        Ok(_) => Recovery::Lost(why),
        Err(stuck) => Recovery::Stuck(format!("{why}; {stuck}")),
    }
}

/// The status that says that stable's template is to be put back. Which ReplicaSet is stable's is looked for again afterwards.
pub fn intend(status: RolloutStatus, input: &Input<'_>) -> Result<RolloutStatus, String> {
    let Some(stable) = status.stable.clone() else {
        return Ok(status);
    };
    let mut status = mend::intend(status, input, &stable.template)?;
    status.stable = Some(Stable {
        uid: String::new(),
        ..stable
    });
    Ok(status)
}

/// Whether what is watched gives reason to list the ReplicaSets: the Deployment's controller has done what it will do, and there are no
/// pods although some are asked for, or pods of another version.
fn is_suspicious(input: &Input<'_>, workload: &WorkloadView) -> bool {
    let settled = workload.observed_generation >= workload.generation;
    workload.paused
        && workload.hold.is_some()
        && settled
        && workload.replicas > 0
        && (workload.current == 0 || workload.updated > 0 || input.strange_ready > 0)
}
