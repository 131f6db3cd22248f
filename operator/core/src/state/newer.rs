//! A newer version that came while the Deployment was rolling: recorded, set aside for its own run, and brought in when its turn has come.

use stepgate_crds::{
    RolloutStatus,
    status::{Phase, Run},
};

use super::Pass;
use crate::{
    canary, hold,
    input::WorkloadView,
    mend::{self, Mend},
    plan::{Effect, Need, Plan, Wake},
    report::Said,
    rest::start::revision_name,
    template::digest,
};

/// Writes down a template that is neither of the run nor stable's, before it is taken out of the Deployment. None where that is done.
pub(super) fn record(pass: &Pass<'_>, workload: &WorkloadView) -> Option<Plan> {
    let (input, run) = (pass.input, pass.run);
    let stable = input.rollout.status.stable.as_ref();
    let is = |name: &String| input.templates.get(name).map(|template| template.digest) == Some(workload.template);
    if is(&run.revision) || stable.is_some_and(|stable| is(&stable.template)) || run.newer.as_ref().is_some_and(is) {
        return None;
    }
    let named = run.newer.as_ref().filter(|name| !input.templates.contains_key(*name));
    let Some(name) = named else {
        let number = input.rollout.status.revisions.saturating_add(1);
        let run = Run {
            newer: Some(revision_name(input, number)),
            ..run.clone()
        };
        return Some(Plan::Commit(Box::new(RolloutStatus {
            revisions: number,
            ..pass.with(run)
        })));
    };
    let Some(survey) = input.survey else {
        return Some(Plan::need(Need::SURVEY));
    };
    let template = survey.workload.pointer("/spec/template")?;
    Some(if digest(template) == workload.template {
        Plan::act(Effect::create(
            crate::plan::Kind::PodTemplate,
            name,
            canary::pod_template(input.rollout, name, template),
        ))
    } else {
        // Two looks at a template that is changing.
        Plan::Wait(Wake {
            at: Some(input.now.after(input.limits.mend)),
            ..Wake::default()
        })
    })
}

/// Keeps this template in the rolling Deployment, and a newer one aside. None where the Deployment has it and rolls.
pub(super) fn keep(pass: &Pass<'_>, workload: &WorkloadView, template: &str, what: &str) -> Option<Plan> {
    if let Some(plan) = record(pass, workload) {
        return Some(plan);
    }
    match mend::put(pass.input, workload, template, None) {
        Mend::Done => hold::release(workload).map(Plan::act),
        Mend::Next(plan) => Some(plan),
        Mend::Stuck(why) => {
            let message = format!(
                "the template of Deployment {} was changed while it rolls to {what}: the canary serves on; {why}",
                workload.name
            );
            Some(pass.wait(
                None,
                &Said::stalled(pass.phase(), "TemplateContention", message),
                pass.gives_up_at(),
            ))
        }
    }
}

/// Brings the newer version into the Deployment at the end of a run: held, so that it gets a run of its own. None where there is none, or
/// where somebody shipped another meanwhile.
pub(super) fn bring(pass: &Pass<'_>) -> Option<Plan> {
    let (input, run) = (pass.input, pass.run);
    let (newer, workload) = (run.newer.as_ref()?, input.workload.get()?);
    if input.rollout.is_leaving() {
        return None;
    }
    let stable = input.rollout.status.stable.as_ref()?;
    let own = input.templates.get(&stable.template).map(|template| template.digest);
    let is_open = input.rollout.status.mends.open.as_ref() == Some(newer);
    if stable.workload_uid != workload.uid || (own != Some(workload.template) && !is_open) {
        return None;
    }
    match mend::put(input, workload, newer, Some(hold::WAITING)) {
        Mend::Done => None,
        Mend::Next(plan) => Some(plan),
        // It is lost to this Rollout, and said so: whoever shipped it can ship it again.
        Mend::Stuck(why) => {
            let message = format!("the newer version that came meanwhile cannot be brought in: {why}");
            let said = Said::stalled(Phase::Draining, "TemplateContention", message);
            Some(pass.wait(None, &said, None))
        }
    }
}
