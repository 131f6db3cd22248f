//! Drift: weights that somebody else changed. Away from the whole side they are put right at once; toward it the change is a brake:
//! obeyed first, put right after a while, and after some times in ten minutes left to a person.

use stepgate_crds::{
    status::{Drift, PauseReason, Phase, Run, RunState},
    units::Timestamp,
};

use super::Pass;
use crate::{
    input::RouteView,
    plan::Plan,
    report::{self, Said},
    route::{self, Managed, Position},
    side::{self, Side},
    verdict::Judgement,
};

/// How the routes stand to the run's present intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// At its weight.
    There,
    /// It has not been written yet.
    Due,
    /// Somebody took weight from the side that is not whole.
    Toward,
    /// Somebody gave weight to it, or left a rule without any.
    Away,
}

/// Brings every route to the run's weight, and answers whoever changed it in between; none where all are there.
pub(super) fn correct(pass: &Pass<'_>, judgement: Option<&Judgement>) -> Option<Plan> {
    match standing(pass) {
        Standing::There if matches!(pass.run.state, RunState::Preparing { .. }) => None,
        Standing::There => pass.regain(judgement),
        Standing::Due => pass.toward_weight(judgement),
        Standing::Away if pass.in_force().is_none() => pass.toward_weight(judgement),
        Standing::Away => {
            let message = format!(
                "{} changed the weights of the route: {} % is put back at once and judged anew",
                who(pass),
                pass.run.weight
            );
            Some(assert_again(pass, judgement, message))
        }
        Standing::Toward => Some(brake(pass, judgement)),
    }
}

/// The worst of all routes.
fn standing(pass: &Pass<'_>) -> Standing {
    let off = pass.off_weight();
    let of = |wanted: Standing| {
        off.iter()
            .any(|(view, managed)| of_route(pass, view, *managed) == wanted)
    };
    if off.is_empty() {
        Standing::There
    } else if of(Standing::Away) {
        Standing::Away
    } else if of(Standing::Toward) {
        Standing::Toward
    } else {
        Standing::Due
    }
}

fn of_route(pass: &Pass<'_>, view: &RouteView, managed: Managed<'_>) -> Standing {
    let mark = route::mark(pass.run);
    let is_written = match route::own_mark(view, &mark) {
        Some(own) if own == mark => true,
        // An earlier intent's: this one comes next.
        Some(own) if route::is_mark_of_run(own, pass.run) => false,
        // Never marked in this run, or the mark was taken off. Since the last time that this was seen nothing has changed: it comes next.
        Some(_) | None => {
            let seen = |drift: &Drift| drift.seq < pass.run.seq && drift.generations == generations(pass);
            pass.run.seq > 1 && !pass.run.drift.as_ref().is_some_and(seen)
        }
    };
    if !is_written {
        return Standing::Due;
    }
    let (weight, sent) = (i64::from(pass.run.weight), managed.sent(view));
    let position = managed.position(view);
    // Nobody changed it: a trickle is still to come.
    if position == Position::Weight(pass.run.weight) {
        return Standing::Due;
    }
    let is_served = managed.serves_stable(view);
    let toward_stable = match position {
        Position::Weight(_) | Position::Without => sent <= weight,
        Position::Other => sent <= weight && is_served,
    };
    match side::whole(&pass.run.state) {
        Side::Stable if toward_stable => Standing::Toward,
        Side::Stable | Side::Canary => Standing::Away,
    }
}

fn brake(pass: &Pass<'_>, judgement: Option<&Judgement>) -> Plan {
    let (input, run) = (pass.input, pass.run);
    let limits = input.limits;
    let known = run.drift.as_ref().filter(|drift| drift.seq == run.seq);
    if let Some(drift) = known {
        let delay = drift.times.len().checked_sub(1).and_then(|at| limits.brake.get(at));
        let until = drift
            .times
            .last()
            .map_or(input.now, |last| last.after(delay.copied().unwrap_or_default()));
        if input.now < until {
            return pass.wait(judgement, &obeyed(pass, until), Some(until));
        }
        let message = format!("the weights that were changed are put right: {} % again", run.weight);
        return assert_again(pass, judgement, message);
    }
    let mut times: Vec<Timestamp> = run.drift.iter().flat_map(|drift| &drift.times).copied().collect();
    times.retain(|time| input.now.since(*time) < limits.brake_memory);
    times.push(input.now);
    if times.len() > limits.brake.len() {
        return contention(pass, judgement, times.len());
    }
    let delay = limits.brake.get(times.len() - 1).copied().unwrap_or_default();
    let run = Run {
        drift: Some(Drift {
            seq: run.seq,
            times,
            generations: generations(pass),
        }),
        ..run.clone()
    };
    pass.commit_judged(run, judgement, &obeyed(pass, input.now.after(delay)), None)
}

fn obeyed(pass: &Pass<'_>, until: Timestamp) -> Said {
    let message = format!(
        "{} took traffic back to stable: that is obeyed until {until}, then the route gives the canary {} % again",
        who(pass),
        pass.run.weight
    );
    Said::urgent(pass.phase(), "WeightsChanged", message)
}

/// Somebody does it again and again: the route stays as it is, and a person decides.
fn contention(pass: &Pass<'_>, judgement: Option<&Judgement>, times: usize) -> Plan {
    let name = &pass.input.rollout.name;
    let run = Run {
        state: RunState::Paused {
            since: pass.input.now,
            why: PauseReason::Contention,
        },
        drift: None,
        overridden: None,
        accepted_weight: pass.sent(),
        ..pass.run.clone()
    };
    let text = format!(
        "{} took the route's weights back to stable {times} times in ten minutes; they stay as they are. Let it leave the managed weights alone (Argo CD: ignoreDifferences with RespectIgnoreDifferences=true; Flux: kustomize.toolkit.fluxcd.io/ssa: IfNotPresent; see docs/gitops.md), then: kubectl stepgate resume {name}",
        who(pass)
    );
    let note = report::note(pass.input, true, "TrafficContention", text.clone());
    let said = Said::stalled(Phase::Paused, "TrafficContention", text);
    pass.commit_judged(run, judgement, &said, Some(note))
}

/// The same weight as a new intent, which is accepted and judged anew.
fn assert_again(pass: &Pass<'_>, judgement: Option<&Judgement>, message: String) -> Plan {
    let mut state = pass.run.state.clone();
    if let RunState::Stepping { since } = &mut state {
        *since = pass.input.now;
    }
    let run = pass.intend(pass.run.weight, state);
    pass.commit_judged(
        run,
        judgement,
        &Said::urgent(pass.phase(), "WeightsChanged", message),
        None,
    )
}

/// The generations of all routes: any change of a spec makes it another number.
fn generations(pass: &Pass<'_>) -> i64 {
    pass.routes().map(|view| view.generation).fold(0, i64::saturating_add)
}

/// Who changed the routes last, as their field manager names itself.
fn who(pass: &Pass<'_>) -> String {
    let off = pass.off_weight();
    off.iter()
        .find_map(|(view, _)| Some(format!("{} (on HTTPRoute {})", view.changed_by.as_ref()?, view.name)))
        .unwrap_or_else(|| "somebody".to_owned())
}
