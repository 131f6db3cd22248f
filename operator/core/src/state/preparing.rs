//! Preparing: records the new template, makes the canary's Service and Deployment, gives the route its backendRef at weight 0, and
//! waits until the pods of this run are ready for the first step.

use stepgate_crds::status::{Outcome, Phase, Run, RunState};

use super::{Pass, baseline, drift};
use crate::{
    canary, hold,
    input::Seen,
    plan::{Effect, Kind, Need, Plan, Wake},
    report::{self, Said},
    rest,
    template::digest,
};

/// What follows from a run that is being prepared.
pub fn next(pass: &Pass<'_>) -> Plan {
    let (input, run) = (pass.input, pass.run);
    if let Some((reason, why)) = super::stepping::failing_restarts(pass) {
        return pass.roll_back(None, Outcome::Failed, reason, &why);
    }
    if let Some(plan) = stable_is_bare(pass) {
        return plan;
    }
    let needed = canary::size(run.base, first_weight(pass));
    let pending = pass.pending_parents();
    let is_ready = is_made(pass) && input.canary_ready >= needed && pending.is_empty() && input.stable_ready > 0;
    if is_ready && pass.is_at_weight() && pass.unmanageable().is_none() {
        if let Some(plan) = baseline::wait(pass) {
            return plan;
        }
        let run = pass.intend(first_weight(pass), RunState::Stepping { since: input.now });
        let run = baseline::freeze(run, input);
        let said = Said::passing(
            Phase::Stepping,
            "Stepping",
            format!("{} %: waiting for every parent to accept it", run.weight),
        );
        return pass.commit(run, &said, None);
    }
    if pass.is_overdue() {
        let why = match (input.refused, pending) {
            (Some(refused), _) => format!("the canary cannot be made: {refused}"),
            (None, _) if input.canary_ready >= needed && input.stable_ready == 0 => {
                format!("Service {} has no ready endpoint", pass.found.stable_service)
            }
            (None, pending) if pending.is_empty() => {
                format!(
                    "the canary had {} of {needed} ready pods by the deadline",
                    input.canary_ready
                )
            }
            (None, pending) => {
                format!(
                    "the route with the canary's backendRef was not accepted by {} by the deadline",
                    pending.join(", ")
                )
            }
        };
        return pass.roll_back(None, Outcome::Failed, "ProgressDeadline", &why);
    }
    if let Some(plan) = make(pass) {
        return plan;
    }
    if let Some(why) = pass.unmanageable() {
        let said = Said::stalled(Phase::Preparing, "RouteChanged", why);
        return pass.wait(None, &said, Some(pass.deadline()));
    }
    if let Some(plan) = drift::correct(pass, None) {
        return plan;
    }
    let message = if input.canary_ready >= needed && input.stable_ready == 0 {
        format!(
            "Service {} has no ready endpoint: a rollout starts when stable serves; if it does not, the new version rolls natively after {}; {}",
            pass.found.stable_service,
            input.limits.bare,
            hold::way_past(&input.rollout.spec.workload.name, &input.rollout.namespace)
        )
    } else if input.canary_ready < needed {
        format!("{} of {needed} canary pods are ready", input.canary_ready)
    } else {
        format!(
            "HTTPRoute with the canary's backendRef is not accepted yet by {}",
            pending.join(", ")
        )
    };
    let said = Said::passing(Phase::Preparing, "Preparing", format!("run {}: {message}", run.id));
    let bare = run.bare_since.map(|since| since.after(input.limits.bare));
    let at = bare.map_or(pass.deadline(), |bare| bare.min(pass.deadline()));
    pass.wait(None, &said, Some(at))
}

/// Stable without a ready endpoint has nothing to protect: after a while a new version whose pods are ready rolls natively. A fix must
/// always get through.
fn stable_is_bare(pass: &Pass<'_>) -> Option<Plan> {
    let (input, run) = (pass.input, pass.run);
    let bare = input.stable_ready == 0;
    let since = match (bare, run.bare_since) {
        (true, Some(since)) => since,
        (false, None) => return None,
        _ => {
            let bare_since = bare.then_some(input.now);
            let run = Run {
                bare_since,
                ..run.clone()
            };
            return Some(Plan::Commit(Box::new(pass.with(run))));
        }
    };
    let over = input.now >= since.after(input.limits.bare);
    (over && input.canary_ready > 0).then(|| {
        let why = format!(
            "Service {} has had no ready endpoint since {since}, and the new version's pods are ready",
            pass.found.stable_service
        );
        pass.roll_back(None, Outcome::Native, rest::NOTHING_TO_PROTECT, &why)
    })
}

fn first_weight(pass: &Pass<'_>) -> i32 {
    pass.run.spec.steps.first().map_or(100, |step| step.weight)
}

/// Records the new template before anything else is done with the run, so that it is known whatever becomes of it. Where the API server
/// refuses that, the run goes on to its deadline.
pub fn record(pass: &Pass<'_>) -> Option<Plan> {
    let (input, run) = (pass.input, pass.run);
    let is_new = matches!(run.state, RunState::Preparing { .. }) && !input.templates.contains_key(&run.revision);
    if !is_new || input.rollout.is_leaving() || input.refused.is_some() {
        return None;
    }
    let workload = input.workload.get()?;
    let stable = input.rollout.status.stable.as_ref()?;
    let put_back = input.templates.get(&stable.template).map(|template| template.digest) == Some(workload.template);
    if put_back || stable.workload_uid != workload.uid {
        return None;
    }
    let Some(survey) = input.survey else {
        return Some(Plan::need(Need::SURVEY));
    };
    let template = survey.workload.pointer("/spec/template")?;
    Some(if digest(template) == workload.template {
        Plan::act(record_of(pass, template))
    } else {
        // Two looks at a template that is changing.
        Plan::Wait(Wake {
            at: Some(input.now.after(input.limits.mend)),
            ..Wake::default()
        })
    })
}

fn record_of(pass: &Pass<'_>, template: &serde_json::Value) -> Effect {
    let name = &pass.run.revision;
    let object = canary::pod_template(pass.input.rollout, name, template);
    Effect::create(Kind::PodTemplate, name, object)
}

/// Whether everything is there that this run makes.
fn is_made(pass: &Pass<'_>) -> bool {
    let service = pass.input.canary_service.get();
    pass.input.templates.contains_key(&pass.run.revision)
        && pass.canary().is_some()
        && service.is_some_and(|service| service.run.as_ref() == Some(&pass.run.id))
}

/// What is still to be made, if anything.
fn make(pass: &Pass<'_>) -> Option<Plan> {
    let (input, run, found) = (pass.input, pass.run, pass.found);
    let template_known = input.templates.contains_key(&run.revision);
    let old_canary = match input.canary {
        Seen::At(canary) if canary.run.as_ref() != Some(&run.id) => Some(canary),
        _ => None,
    };
    let old_service = match input.canary_service {
        Seen::At(service) if service.run.as_ref() != Some(&run.id) => Some(service),
        _ => None,
    };
    if let Some(old) = old_canary {
        return Some(Plan::act(Effect::delete(Kind::Deployment, &old.name, &old.uid)));
    }
    if let Some(old) = old_service {
        return Some(Plan::act(Effect::delete(Kind::Service, &old.name, &old.uid)));
    }
    let canary_missing = input.canary.is_absent();
    let service_missing = input.canary_service.is_absent();
    if template_known && !canary_missing && !service_missing {
        return None;
    }
    let Some(survey) = input.survey else {
        return Some(Plan::need(Need::SURVEY));
    };
    let template = survey.workload.pointer("/spec/template")?;
    // The survey was read after the watch: a template that changed in between is the next pass's business.
    if input
        .workload
        .get()
        .is_none_or(|workload| workload.template != digest(template))
    {
        let said = Said::passing(Phase::Preparing, "Preparing", "the Deployment's template is changing");
        return Some(pass.wait(None, &said, report::earlier(None, input.now.after(input.limits.mend))));
    }
    let mut effects = Vec::new();
    if !template_known {
        effects.push(record_of(pass, template));
    }
    if service_missing {
        let stable = survey
            .services
            .iter()
            .find(|service| service.name == found.stable_service)?;
        let service = canary::service(input.rollout, run, found, &stable.spec);
        effects.push(Effect::create(Kind::Service, &found.canary_service, service));
    }
    if canary_missing {
        let size = pass.size(first_weight(pass));
        let deployment = canary::deployment(input.rollout, run, found, &survey.workload, size);
        effects.push(Effect::create(
            Kind::Deployment,
            &canary::name(&input.rollout.spec.workload.name),
            deployment,
        ));
    }
    Some(Plan::Act(effects))
}
