//! Retreated: all traffic is on stable, the canary and what speaks against it are kept, and the run waits for what makes it go on.
//!
//! For what is no proof against the new version: its pods went, both versions fail, or it is silent while requests are sent to it.

use stepgate_crds::{
    status::{Outcome, PauseReason, Phase, Retreat, Run, RunState},
    units::{Span, Timestamp},
};

use super::{Pass, interval_seconds, is_unread, stepping};
use crate::{
    input::SourceHealth,
    plan::Plan,
    report::{self, Said},
    verdict::{self, Judgement},
};

/// Takes the traffic off the canary and keeps it; fails the run where its pods went too often, and asks a person where it retreats too
/// often.
pub fn retreat(pass: &Pass<'_>, judgement: Option<&Judgement>, why: Retreat, detail: &str) -> Plan {
    let input = pass.input;
    let mut retreats = pass.run.retreats.clone();
    retreats.all = retreats.all.saturating_add(1);
    match why {
        Retreat::PodsLost => retreats.pods_lost = retreats.pods_lost.saturating_add(1),
        Retreat::CanarySilent => retreats.silent = retreats.silent.saturating_add(1),
        Retreat::NoData => retreats.no_data = retreats.no_data.saturating_add(1),
        Retreat::Inconclusive => retreats.inconclusive = retreats.inconclusive.saturating_add(1),
        Retreat::SharedFault => {}
    }
    if why == Retreat::PodsLost && retreats.pods_lost >= input.limits.patience {
        let detail = format!("{detail}, for the {}th time in this run", retreats.pods_lost);
        return pass.roll_back(judgement, Outcome::Failed, "CanaryLost", &detail);
    }
    let since = input.now;
    // One try is enough for a version of which nothing is heard, what a person paused goes on when a person says so, and another wait would
    // end like the first.
    let paused = matches!(
        pass.run.state,
        RunState::Paused {
            why: PauseReason::Command,
            ..
        }
    );
    let person = paused || why == Retreat::Inconclusive || retreats.all >= input.limits.patience || retreats.silent > 1;
    let state = if person {
        RunState::Paused {
            since,
            why: PauseReason::Retreats,
        }
    } else {
        RunState::Retreated {
            since,
            why,
            well_since: None,
        }
    };
    let run = Run {
        retreats,
        overridden: None,
        drift: None,
        ..pass.intend(pass.lowest(since, false), state)
    };
    let name = &input.rollout.name;
    let text = if person {
        format!(
            "all traffic is on stable ({detail}), for the {}. time in this run: kubectl stepgate resume {name} tries again, abort ends it",
            run.retreats.all
        )
    } else {
        format!("all traffic is on stable ({detail}); {}", way_on(pass, why))
    };
    let phase = if person { Phase::Paused } else { Phase::Retreated };
    commit(pass, run, judgement, &Said::urgent(phase, why.as_str(), text))
}

/// What follows from a run that has retreated.
pub fn next(pass: &Pass<'_>, why: Retreat, well_since: Option<Timestamp>) -> Plan {
    let input = pass.input;
    let judgement = pass.judge();
    let judged = judgement.as_ref();
    if let Some((reason, detail)) = Pass::failure(judged) {
        return pass.roll_back(judged, Outcome::Failed, reason, &detail);
    }
    if input.canary.is_absent() {
        return pass.roll_back(judged, Outcome::Failed, "CanaryLost", stepping::CANARY_DELETED);
    }
    if let Some(plan) = back(pass, judged) {
        return plan;
    }
    let step = usize::try_from(pass.run.step).unwrap_or(0);
    match why {
        Retreat::PodsLost => {
            let needed = pass.run.spec.steps.get(step).map_or(1, |step| pass.size(step.weight));
            if input.canary_ready >= needed {
                return go_on(pass, judged, step, "the canary's pods are ready again");
            }
            if pass.is_overdue() {
                let detail = format!(
                    "{} of {needed} canary pods came back by the deadline",
                    input.canary_ready
                );
                return pass.roll_back(judged, Outcome::Failed, "ProgressDeadline", &detail);
            }
            let message = format!(
                "all traffic is on stable: {} of {needed} canary pods are ready again",
                input.canary_ready
            );
            let said = Said::urgent(Phase::Retreated, why.as_str(), message);
            pass.wait(judged, &said, Some(pass.deadline()))
        }
        Retreat::SharedFault | Retreat::NoData => until_well(pass, judged, step, why, well_since),
        Retreat::Inconclusive => {
            let message = format!("all traffic is on stable; {}", way_on(pass, why));
            pass.wait(judged, &Said::stalled(Phase::Retreated, why.as_str(), message), None)
        }
        Retreat::CanarySilent => {
            let again = pass.since().after(input.limits.silence);
            if input.now >= again {
                return go_on(pass, judged, 0, "one more try: no request to it was counted before");
            }
            let message = format!("all traffic is on stable; {}", way_on(pass, why));
            pass.wait(
                judged,
                &Said::urgent(Phase::Retreated, why.as_str(), message),
                Some(again),
            )
        }
    }
}

/// Brings the weight down and waits until that is accepted; also for a pause after too many retreats.
pub(super) fn back(pass: &Pass<'_>, judgement: Option<&Judgement>) -> Option<Plan> {
    if let Some(plan) = pass.descend(judgement, false).or_else(|| pass.toward_weight(judgement)) {
        return Some(plan);
    }
    if pass.run.weight > 0 {
        return Some(pass.wait_for_pods(judgement, ""));
    }
    if pass.in_force().is_some() {
        return None;
    }
    let pending = pass.pending_parents();
    if pending.is_empty() {
        let step = u32::try_from(pass.run.step).unwrap_or(0);
        let before = judgement.map_or(&pass.run.evidence, |judgement| &judgement.evidence);
        // One that retreated before its first weight was accepted had not begun to count.
        let before = if before.through == 0 {
            pass.first_evidence()
        } else {
            before.clone()
        };
        let run = pass.accepted(verdict::enter_step(&before, &pass.settings(), step));
        let said = Said::passing(pass.phase(), "TrafficOnStable", "all traffic is on stable");
        return Some(pass.commit(run, &said, None));
    }
    let message = format!("weight 0 is not accepted yet by {}", pending.join(", "));
    let late = pass.is_overdue();
    let said = if late {
        Said::stalled(pass.phase(), "RouteNotAccepted", message)
    } else {
        Said::passing(pass.phase(), "RouteNotAccepted", message)
    };
    Some(pass.wait(judgement, &said, (!late).then(|| pass.deadline())))
}

/// Both versions failed, or there were no data: stable has to be well for some time first, as its data say.
fn until_well(
    pass: &Pass<'_>,
    judgement: Option<&Judgement>,
    step: usize,
    why: Retreat,
    well_since: Option<Timestamp>,
) -> Plan {
    let input = pass.input;
    if is_unread(input) {
        let message = format!("all traffic is on stable; {}", way_on(pass, why));
        return pass.wait(judgement, &Said::urgent(Phase::Retreated, why.as_str(), message), None);
    }
    let answers = !matches!(input.source, SourceHealth::Down { .. });
    let is_well = answers
        && judgement.is_some_and(|judgement| {
            let stable_is_well = |metric: &stepgate_crds::evidence::MetricEvidence| {
                metric.stable_over_since.is_none() && metric.trouble.is_none() && metric.idle_seconds == 0
            };
            judgement.evidence.metrics.iter().all(stable_is_well)
        });
    let seen = |well_since: Option<Timestamp>, message: &str| {
        let run = Run {
            state: RunState::Retreated {
                since: pass.since(),
                why,
                well_since,
            },
            ..pass.run.clone()
        };
        let said = Said::urgent(Phase::Retreated, why.as_str(), message);
        pass.commit_judged(run, judgement, &said, None)
    };
    let intervals = u64::from(interval_seconds(pass.run.spec.interval)) * u64::from(input.limits.well_intervals);
    match (is_well, well_since) {
        (true, None) => seen(Some(input.now), "all traffic is on stable, which is well now"),
        (false, Some(_)) => seen(None, "all traffic is on stable, which is not well"),
        (true, Some(since)) if input.now >= since.after(Span::seconds(intervals)) => {
            go_on(pass, judgement, step, "stable is well again")
        }
        (_, well) => {
            let at = well.map(|since| since.after(Span::seconds(intervals)));
            let message = format!("all traffic is on stable; {}", way_on(pass, why));
            let said = if pass.is_overdue() && well.is_none() {
                Said::stalled(Phase::Retreated, why.as_str(), message)
            } else {
                Said::urgent(Phase::Retreated, why.as_str(), message)
            };
            pass.wait(
                judgement,
                &said,
                at.or_else(|| (!pass.is_overdue()).then(|| pass.deadline())),
            )
        }
    }
}

/// Back to a step: at its weight as soon as its pods are ready and every parent accepts it.
pub fn go_on(pass: &Pass<'_>, judgement: Option<&Judgement>, step: usize, why: &str) -> Plan {
    let weight = pass.run.spec.steps.get(step).map_or(0, |step| step.weight);
    let run = Run {
        step: i32::try_from(step).unwrap_or(0),
        drift: None,
        ..pass.intend(weight, RunState::Stepping { since: pass.input.now })
    };
    pass.commit_judged(
        run,
        judgement,
        &Said::urgent(Phase::Stepping, "GoesOn", format!("{why}: on to {weight} %")),
        None,
    )
}

fn way_on(pass: &Pass<'_>, why: Retreat) -> String {
    match why {
        Retreat::PodsLost => "it goes on when the canary's pods are ready again".to_owned(),
        Retreat::SharedFault => format!(
            "it goes on when stable has been well for {} intervals",
            pass.input.limits.well_intervals
        ),
        Retreat::NoData => format!(
            "it goes on when there have been data of stable, and it has been well, for {} intervals",
            pass.input.limits.well_intervals
        ),
        Retreat::Inconclusive => format!(
            "kubectl stepgate resume {} tries again, abort ends it",
            pass.input.rollout.name
        ),
        Retreat::CanarySilent => format!(
            "it gets one more try at the first weight after {}; check that the canary's Service and its metrics are reachable",
            pass.input.limits.silence
        ),
    }
}

fn commit(pass: &Pass<'_>, run: Run, judgement: Option<&Judgement>, said: &Said) -> Plan {
    let note = report::note(pass.input, true, "Retreated", Pass::told(judgement, &said.message));
    pass.commit_judged(run, judgement, said, Some(note))
}
