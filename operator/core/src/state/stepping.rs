//! Stepping: sizes the canary, brings the route to the step's weight, waits until every parent accepted it, and judges the step.

use stepgate_crds::{
    rollout::Approval,
    status::{Outcome, PauseReason, Phase, Retreat, RunState},
    units::Timestamp,
};

use super::{
    Pass, drift, is_unread,
    patience::{self, Patience, Then},
    retreated,
};
use crate::{
    plan::{Effect, Plan},
    report::{self, Said},
    verdict::{self, HoldReason, Judgement, RetreatCause, Verdict},
};

/// What follows from a run that is at a step.
pub fn next(pass: &Pass<'_>) -> Plan {
    let judgement = pass.judge();
    if let Some(plan) = fail(pass, judgement.as_ref()) {
        return plan;
    }
    if let Some(why) = pass.unmanageable() {
        let said = Said::stalled(Phase::Stepping, "RouteChanged", why);
        return pass.wait(judgement.as_ref(), &said, None);
    }
    let Some(canary) = pass.canary() else {
        // Not lost, not known: the watch will tell.
        return pass.wait(
            judgement.as_ref(),
            &Said::passing(Phase::Stepping, "CanaryUnknown", "the canary Deployment cannot be read"),
            None,
        );
    };
    let needed = pass.size(pass.run.weight);
    if canary.replicas < needed {
        let patch = serde_json::json!({"spec": {"replicas": needed}});
        return Plan::act(Effect::on_deployment(canary, patch));
    }
    match pass.in_force() {
        None => rise(pass, judgement.as_ref(), needed),
        Some(force) => {
            if let Some(plan) = drift::correct(pass, judgement.as_ref()) {
                return plan;
            }
            let certain = force.since.after(pass.run.spec.settle);
            at_weight(pass, judgement.as_ref(), needed, certain)
        }
    }
}

/// What is said of a canary that somebody took away.
pub const CANARY_DELETED: &str = "somebody deleted the canary Deployment";

/// Fail, what retreats, and the loss of all canary pods: judged first, in every state in which stable is whole.
pub fn fail(pass: &Pass<'_>, judgement: Option<&Judgement>) -> Option<Plan> {
    if let Some((reason, detail)) = Pass::failure(judgement) {
        return Some(pass.roll_back(judgement, Outcome::Failed, reason, &detail));
    }
    if pass.input.canary.is_absent() {
        return Some(pass.roll_back(judgement, Outcome::Failed, "CanaryLost", CANARY_DELETED));
    }
    // Sent, not accepted: a weight that no parent has confirmed yet may be in force all the same.
    let has_retreated = matches!(
        pass.run.state,
        RunState::Paused {
            why: PauseReason::Retreats,
            ..
        }
    );
    if pass.canary().is_some() && pass.input.canary_ready == 0 && pass.is_exposed() && !has_retreated {
        let detail = format!("no canary pod is ready, with {} % of the traffic on it", pass.sent());
        return Some(retreated::retreat(pass, judgement, Retreat::PodsLost, &detail));
    }
    let verdict = judgement.map(|judgement| &judgement.verdict)?;
    let Verdict::Retreat(cause) = verdict else {
        return None;
    };
    let why = match cause {
        RetreatCause::CanarySilent { .. } => Retreat::CanarySilent,
        RetreatCause::SharedFault { .. } => Retreat::SharedFault,
    };
    // Where nothing is sent nothing can be taken away.
    (pass.is_exposed() && pass.in_force().is_some())
        .then(|| retreated::retreat(pass, judgement, why, &verdict.to_string()))
}

/// Why the canary's restarts fail it, before any weight is in force.
pub fn failing_restarts(pass: &Pass<'_>) -> Option<(&'static str, String)> {
    let settings = pass.settings();
    let nothing = verdict::begin(&settings, 0);
    let judgement = verdict::judge(
        &nothing,
        &[],
        &settings,
        &verdict::Moment::default(),
        pass.input.restarts,
    );
    Pass::failure(Some(&judgement))
}

/// On the way to the step's weight.
fn rise(pass: &Pass<'_>, judgement: Option<&Judgement>, needed: i32) -> Plan {
    let input = pass.input;
    let weight = pass.run.weight;
    if input.canary_ready < needed {
        if pass.is_overdue() {
            let why = format!(
                "{} of {needed} canary pods were ready for {weight} % by the deadline",
                input.canary_ready
            );
            return pass.roll_back(judgement, Outcome::Failed, "ProgressDeadline", &why);
        }
        let message = format!("{weight} %: {} of {needed} canary pods are ready", input.canary_ready);
        return pass.wait(
            judgement,
            &Said::passing(Phase::Stepping, "CanaryNotReady", message),
            Some(pass.deadline()),
        );
    }
    if let Some(plan) = drift::correct(pass, judgement) {
        return plan;
    }
    let pending = pass.pending_parents();
    if !pending.is_empty() {
        let message = format!("{weight} % is not accepted yet by {}", pending.join(", "));
        return if pass.is_overdue() {
            pass.wait(
                judgement,
                &Said::stalled(Phase::Stepping, "RouteNotAccepted", message),
                None,
            )
        } else {
            pass.wait(
                judgement,
                &Said::passing(Phase::Stepping, "RouteNotAccepted", message),
                Some(pass.deadline()),
            )
        };
    }
    let step = u32::try_from(pass.run.step).unwrap_or(0);
    let before = judgement.map_or_else(|| pass.first_evidence(), |judgement| judgement.evidence.clone());
    let run = pass.accepted(verdict::enter_step(&before, &pass.settings(), step));
    let mut status = pass.with(run);
    status.verdict = None;
    if let Some(run) = &mut status.run {
        run.metrics = Vec::new();
        run.queries = Vec::new();
        run.rule = None;
    }
    let said = Said::passing(
        Phase::Stepping,
        "Analysing",
        format!("{weight} % is in force: collecting evidence"),
    );
    report::commit(status, input, &said, None)
}

/// The weight is in force: is the step over?
fn at_weight(pass: &Pass<'_>, judgement: Option<&Judgement>, needed: i32, settled: Timestamp) -> Plan {
    let (input, run) = (pass.input, pass.run);
    let weight = run.weight;
    let Some(step) = usize::try_from(run.step).ok().and_then(|step| run.spec.steps.get(step)) else {
        return promote(pass, judgement, "the last step is over");
    };
    if run.overridden.as_ref().is_some_and(|by| by.step == run.step) {
        return advance(pass, judgement, &format!("{weight} % was promoted by a person"), true);
    }
    let deadline = input
        .rollout
        .spec
        .progress_deadline
        .unwrap_or(input.limits.progress_deadline);
    let baked = settled.after(step.bake.unwrap_or(input.limits.bake));
    // Nothing is judged where nothing is sent: blue and green are a person's decision.
    if weight == 0 && step.approval == Some(Approval::Required) && input.now >= baked && input.canary_ready >= needed {
        return pause_for_approval(pass, judgement, "nothing is judged at 0 %");
    }
    if is_unread(input) {
        let said = Said::passing(Phase::Stepping, "Analysing", format!("{weight} %: collecting evidence"));
        return pass.wait(judgement, &said, None);
    }
    if let Some((judged, Verdict::Hold(reason))) = judgement.map(|judgement| (judgement, &judgement.verdict)) {
        return held(pass, judged, reason, settled, baked, needed);
    }
    let (said, wake) = match judgement.map(|judgement| &judgement.verdict) {
        Some(Verdict::Pass) if input.canary_ready < needed => {
            let message = format!(
                "{weight} % passed; {} of {needed} canary pods are ready",
                input.canary_ready
            );
            let deadline = baked.after(deadline);
            if input.now >= deadline {
                (Said::stalled(Phase::Stepping, "CanaryNotReady", message), None)
            } else {
                (
                    Said::passing(Phase::Stepping, "CanaryNotReady", message),
                    Some(deadline),
                )
            }
        }
        Some(Verdict::Pass) if input.now < baked => (
            Said::passing(
                Phase::Stepping,
                "Baking",
                format!("{weight} % passed; it bakes until {baked}"),
            ),
            Some(baked),
        ),
        Some(Verdict::Pass) => return go_on(pass, judgement, "passed"),
        Some(Verdict::Fail(_) | Verdict::Retreat(_) | Verdict::Hold(_)) | None => (
            Said::passing(Phase::Stepping, "Analysing", format!("{weight} %: collecting evidence")),
            None,
        ),
    };
    pass.wait(judgement, &said, wake)
}

/// Neither passed nor failed: waits, or does what the spec says of waiting for long.
fn held(
    pass: &Pass<'_>,
    judgement: &Judgement,
    reason: &HoldReason,
    settled: Timestamp,
    baked: Timestamp,
    needed: i32,
) -> Plan {
    let (input, weight) = (pass.input, pass.run.weight);
    let Patience { over, then, rule } = patience::of(pass, reason, settled);
    let is_over = input.now >= over;
    let mut message = format!("{weight} %: {reason}");
    let why = format!("{message}; {rule}");
    match then {
        Then::RollBack(cause) if is_over => return pass.roll_back(Some(judgement), Outcome::Failed, cause, &why),
        Then::Retreat(cause) if is_over && pass.is_exposed() => {
            return retreated::retreat(pass, Some(judgement), cause, &why);
        }
        Then::Advance if is_over => {
            let obstacle = if input.canary_ready < needed {
                Some(format!("{} of {needed} canary pods are ready", input.canary_ready))
            } else if input.now < baked {
                Some(format!("it bakes until {baked}"))
            } else {
                patience::obstacle(pass, judgement, reason)
            };
            match obstacle {
                None => return go_on(pass, Some(judgement), &format!("goes on without a verdict ({why})")),
                Some(obstacle) => message = format!("{why}, not while: {obstacle}"),
            }
        }
        Then::Hold => {}
        Then::RollBack(_) | Then::Retreat(_) | Then::Advance => message = format!("{why}, at {over}"),
    }
    let said = hold(reason.name(), message, is_over);
    let wake = if is_over {
        Some(baked).filter(|baked| input.now < *baked)
    } else {
        Some(over)
    };
    pass.wait(Some(judgement), &said, wake)
}

/// The step is over: on, or a person is asked first.
fn go_on(pass: &Pass<'_>, judgement: Option<&Judgement>, why: &str) -> Plan {
    let step = usize::try_from(pass.run.step)
        .ok()
        .and_then(|step| pass.run.spec.steps.get(step));
    if step.is_some_and(|step| step.approval == Some(Approval::Required)) {
        pause_for_approval(pass, judgement, why)
    } else {
        let weight = pass.run.weight;
        advance(pass, judgement, &format!("{weight} % {why}"), true)
    }
}

/// What is said of a hold: too little traffic is the ordinary course until the deadline, everything else a person wants to see at once.
fn hold(name: &'static str, message: String, long: bool) -> Said {
    match (name, long) {
        (_, true) => Said::stalled(Phase::Stepping, name, message),
        ("InsufficientTraffic", false) => Said::passing(Phase::Stepping, name, message),
        (_, false) => Said::urgent(Phase::Stepping, name, message),
    }
}

fn pause_for_approval(pass: &Pass<'_>, judgement: Option<&Judgement>, why: &str) -> Plan {
    let run = pass.run.clone();
    let weight = run.weight;
    let name = &pass.input.rollout.name;
    let mut status = pass.with(stepgate_crds::status::Run {
        state: RunState::Paused {
            since: pass.input.now,
            why: PauseReason::Approval,
        },
        ..run
    });
    if let Some(judgement) = judgement {
        pass.record(&mut status, judgement);
    }
    let text = format!("{weight} % waits for an approval: kubectl stepgate promote {name}");
    let told = Pass::told(judgement, &format!("{text}: {why}"));
    let note = report::note(pass.input, false, "ApprovalRequired", told);
    report::commit(
        status,
        pass.input,
        &Said::urgent(Phase::Paused, "ApprovalRequired", text),
        Some(note),
    )
}

/// On to the next step, or to promotion after the last.
///
/// `tell`: with an Event, which a step that asked for an approval had already.
pub fn advance(pass: &Pass<'_>, judgement: Option<&Judgement>, why: &str, tell: bool) -> Plan {
    let next = usize::try_from(pass.run.step)
        .ok()
        .and_then(|step| pass.run.spec.steps.get(step + 1));
    let Some(next) = next else {
        return promote(pass, judgement, why);
    };
    let mut run = pass.intend(next.weight, RunState::Stepping { since: pass.input.now });
    run.step = pass.run.step.saturating_add(1);
    run.overridden = None;
    let said = Said::passing(Phase::Stepping, "Stepping", format!("{why}; on to {} %", next.weight));
    let note = tell.then(|| report::note(pass.input, false, "StepPassed", Pass::told(judgement, &said.message)));
    pass.commit_judged(run, judgement, &said, note)
}

fn promote(pass: &Pass<'_>, judgement: Option<&Judgement>, why: &str) -> Plan {
    let run = stepgate_crds::status::Run {
        state: RunState::Promoting { since: pass.input.now },
        overridden: None,
        ..pass.run.clone()
    };
    let text = format!("{why}; the Deployment rolls to the new version while the canary carries the traffic");
    let note = report::note(pass.input, false, "Promoting", Pass::told(judgement, &text));
    pass.commit_judged(
        run,
        judgement,
        &Said::passing(Phase::Promoting, "Promoting", text),
        Some(note),
    )
}
