//! The hold: a managed Deployment whose template changed is paused and stamped by an admission policy. Here is what the stamp means,
//! and how a Deployment is let go.
//!
//! Only stamped Deployments are taken up or un-paused: a person's own pause is left alone.

use serde_json::json;
use stepgate_crds::names;

use crate::{input::WorkloadView, plan::Effect};

/// The stamp of a Deployment that waits to be taken up.
pub const WAITING: &str = "waiting";

/// Whether a new template waits to be taken up.
pub fn is_waiting(workload: &WorkloadView) -> bool {
    workload.paused && workload.hold.as_deref() == Some(WAITING)
}

/// The patch that lets a stamped Deployment go. None where there is no stamp.
pub fn release(workload: &WorkloadView) -> Option<Effect> {
    workload.hold.as_ref()?;
    let patch = json!({"metadata": {"annotations": {names::HOLD: null}}, "spec": {"paused": null}});
    Some(Effect::on_deployment(workload, patch))
}

/// How a person lets a held Deployment roll at once, unjudged.
pub fn way_past(workload: &str, namespace: &str) -> String {
    format!(
        "to let it roll at once, unjudged: kubectl annotate deployment {workload} -n {namespace} {}=released --overwrite && kubectl rollout resume deployment {workload} -n {namespace}",
        names::HOLD
    )
}
