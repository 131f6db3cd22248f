//! Puts a recorded template into the user's Deployment: stable's where the pods of stable are lost or a promotion is undone, the
//! promoted one where a newer came too early, the newer one when its turn has come.
//!
//! Rewriting a template takes its fields from whoever applied them, so each is counted in `status` before it is done, and after so many in
//! an hour it is left to people: two tools that disagree must not write against each other for ever.

use stepgate_crds::{
    RolloutStatus,
    units::{Span, Timestamp},
};

use crate::{
    input::{Input, WorkloadView},
    plan::{Effect, Need, Plan},
};

/// How long a write is remembered.
const HOUR: Span = Span::seconds(3_600);

/// Where a template is on its way into the Deployment.
#[derive(Clone, Debug, PartialEq)]
pub enum Mend {
    /// The Deployment has it.
    Done,
    /// This comes next.
    Next(Plan),
    /// It is not to be had, or was put in too often: why, and what a person can do.
    Stuck(String),
}

/// The status that says that this template is to be put in, or why that would be too often.
pub fn intend(status: RolloutStatus, input: &Input<'_>, template: &str) -> Result<RolloutStatus, String> {
    let mut status = status;
    let recent = |time: &Timestamp| input.now.since(*time) < HOUR;
    status.mends.times.retain(recent);
    if status.mends.times.len() >= input.limits.mends {
        return Err(format!(
            "the template of the Deployment was rewritten {} times within an hour and somebody keeps changing it back: stop whatever applies it (a GitOps tool?), then apply the version that is to run",
            status.mends.times.len()
        ));
    }
    status.mends.open = Some(template.to_owned());
    status.mends.times.push(input.now);
    Ok(status)
}

/// Brings the recorded template of this name into the Deployment: rolling, or held under this stamp.
pub fn put(input: &Input<'_>, workload: &WorkloadView, template: &str, hold: Option<&str>) -> Mend {
    let status = &input.rollout.status;
    let open = status.mends.open.as_deref() == Some(template);
    let Some(record) = input.templates.get(template) else {
        return Mend::Stuck(format!(
            "PodTemplate {template}, which kept the template of Deployment {} that is to run now, is gone: apply that version yourself",
            workload.name
        ));
    };
    if record.digest == workload.template {
        if !open {
            return Mend::Done;
        }
        let mut status = status.clone();
        status.mends.open = None;
        return Mend::Next(Plan::Commit(Box::new(status)));
    }
    if !open {
        return match intend(status.clone(), input, template) {
            Ok(status) => Mend::Next(Plan::Commit(Box::new(status))),
            Err(why) => Mend::Stuck(why),
        };
    }
    let Some(recorded) = input.recorded else {
        return Mend::Next(Plan::need(Need::RECORDED));
    };
    match recorded.get(template) {
        Some(body) => Mend::Next(Plan::act(Effect::put_template(workload, body, hold))),
        None => Mend::Stuck(format!("PodTemplate {template} could not be read whole")),
    }
}
