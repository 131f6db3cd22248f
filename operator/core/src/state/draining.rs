//! Draining: weight 0 is in force. After the drain, and one interval without a request to the canary where that can be measured, the
//! route becomes what the user wrote, and then the canary's objects go.

use stepgate_crds::{
    RolloutStatus,
    status::{Cause, Failed, Outcome, Past, Phase, RunState},
    units::{Span, Timestamp},
};

use super::{Pass, interval_seconds, newer};
use crate::{
    input::{Seen, SourceHealth},
    plan::{Effect, Kind, Need, Plan},
    report::{self, Said},
    rest,
    template::digest,
    verdict::{self, Observation},
};

/// What follows from a run whose canary has no traffic.
pub fn next(pass: &Pass<'_>, cause: Option<&Cause>, then: Outcome) -> Plan {
    let input = pass.input;
    let drained = pass.since().after(pass.run.spec.drain);
    if pass.is_exposed() {
        return again(pass, cause, then);
    }
    if input.now < drained {
        return wait(
            pass,
            "Draining",
            format!("the canary's pods stay until {drained}"),
            Some(drained),
        );
    }
    if let Some(until) = noisy_until(pass, drained)
        && input.now < until
    {
        return wait(
            pass,
            "Draining",
            "requests to the canary are still being counted".to_owned(),
            Some(until),
        );
    }
    let effects = pass.restore_effects();
    if !effects.is_empty() {
        return Plan::Act(effects);
    }
    let pending = pass.pending_parents();
    if !pending.is_empty() && !removed(pass) {
        let message = format!(
            "the route without the canary is not accepted yet by {}; its pods stay",
            pending.join(", ")
        );
        let late = pass.is_overdue();
        let said = if late {
            Said::stalled(Phase::Draining, "RouteNotAccepted", message)
        } else {
            Said::passing(Phase::Draining, "RouteNotAccepted", message)
        };
        return pass.wait(None, &said, (!late).then(|| pass.deadline()));
    }
    let mut effects = Vec::new();
    if let Seen::At(canary) = input.canary
        && canary.rollout.is_none()
    {
        effects.push(Effect::delete(Kind::Deployment, &canary.name, &canary.uid));
    }
    if let Seen::At(service) = input.canary_service {
        effects.push(Effect::delete(Kind::Service, &service.name, &service.uid));
    }
    if effects.is_empty()
        && let Some(plan) = clear_failed(pass, then).or_else(|| newer::bring(pass))
    {
        return plan;
    }
    if effects.is_empty() {
        let unknown = matches!(input.canary, Seen::Unknown(_)) || matches!(input.canary_service, Seen::Unknown(_));
        if unknown {
            let at = input.now.after(input.limits.mend);
            return wait(pass, "Draining", "the canary cannot be read".to_owned(), Some(at));
        }
        end(pass, cause, then)
    } else {
        Plan::Act(effects)
    }
}

/// The version that failed in its promotion has left an empty ReplicaSet, which a scale from 0 of a held Deployment would start.
fn clear_failed(pass: &Pass<'_>, then: Outcome) -> Option<Plan> {
    let (input, workload) = (pass.input, pass.input.workload.get()?);
    if then != Outcome::Failed || !is_stable(pass) {
        return None;
    }
    let Some(sets) = input.replica_sets else {
        return Some(Plan::need(Need::REPLICA_SETS));
    };
    let failed = input.templates.get(&pass.run.revision)?.digest;
    let left = sets.iter().find(|set| {
        set.owner.as_ref() == Some(&workload.uid)
            && set.replicas == 0
            && set.wanted == 0
            && digest(&set.template) == failed
    })?;
    Some(Plan::act(Effect::delete(Kind::ReplicaSet, &left.name, &left.uid)))
}

/// Whether the Deployment has stable's template.
fn is_stable(pass: &Pass<'_>) -> bool {
    let (input, stable) = (pass.input, pass.input.rollout.status.stable.as_ref());
    let own = stable.and_then(|stable| input.templates.get(&stable.template));
    own.zip(input.workload.get())
        .is_some_and(|(own, workload)| own.digest == workload.template)
}

/// Somebody sent traffic to the canary again: it goes back, and the drain begins anew when that is accepted.
fn again(pass: &Pass<'_>, cause: Option<&Cause>, then: Outcome) -> Plan {
    let since = pass.input.now;
    let unknown = || Cause {
        reason: "WeightsChanged".to_owned(),
        detail: "somebody changed the weights of the route".to_owned(),
    };
    let (phase, state) = if then == Outcome::Promoted {
        (Phase::Returning, RunState::Returning { since })
    } else {
        let cause = cause.cloned().unwrap_or_else(unknown);
        (Phase::RollingBack, RunState::RollingBack { since, cause, then })
    };
    let said = Said::urgent(
        phase,
        "WeightsChanged",
        "somebody sent traffic to the canary while it drained: it is taken back",
    );
    pass.commit(pass.intend(0, state), &said, None)
}

fn wait(pass: &Pass<'_>, reason: &'static str, message: String, at: Option<Timestamp>) -> Plan {
    pass.wait(None, &Said::passing(Phase::Draining, reason, message), at)
}

/// Whether both objects of the canary are gone.
fn removed(pass: &Pass<'_>) -> bool {
    pass.input.canary.is_absent() && pass.input.canary_service.is_absent()
}

/// Until when to wait for an interval without canary requests: none where one was seen, or where it cannot be measured.
fn noisy_until(pass: &Pass<'_>, drained: Timestamp) -> Option<Timestamp> {
    let input = pass.input;
    if pass
        .run
        .in_force
        .as_ref()
        .is_none_or(|force| pass.run.evidence.through == 0 || force.weight != 0)
        || matches!(input.source, SourceHealth::Down { .. })
    {
        return None;
    }
    let interval = interval_seconds(pass.run.spec.interval);
    let zero_since = pass.since().ceil_seconds();
    let counted = pass.settings().metrics.len();
    let quiet = input.samples.iter().any(|sample| {
        sample.end - i64::from(sample.seconds) >= zero_since
            && sample.metrics.iter().take(counted).all(|metric| match metric {
                Observation::Counts(counts) => counts.canary.requests < 0.5,
                Observation::CanarySilent { .. } | Observation::Silent => true,
                Observation::Error(_) | Observation::Value(_) => false,
            })
    });
    if quiet {
        return None;
    }
    let patience = u64::from(interval) * u64::from(input.limits.quiet_intervals);
    Some(
        drained
            .after(Span::seconds(patience))
            .after(input.limits.readable_after()),
    )
}

/// The run is over.
fn end(pass: &Pass<'_>, cause: Option<&Cause>, then: Outcome) -> Plan {
    let (input, run) = (pass.input, pass.run);
    let mut status = RolloutStatus {
        run: None,
        verdict: None,
        ..input.rollout.status.clone()
    };
    for older in &mut status.history {
        older.counts = None;
    }
    status.history.insert(
        0,
        Past {
            run: run.id.clone(),
            started: run.started,
            ended: input.now,
            outcome: then,
            reason: cause.map(|cause| cause.reason.clone()),
            counts: verdict::past(&run.evidence, &pass.settings(), run.spec.interval),
        },
    );
    status.history.truncate(input.limits.history);
    let why = cause.map_or_else(String::new, |cause| format!("{}: {}", cause.reason, cause.detail));
    let (said, note) = match then {
        Outcome::Promoted => {
            status.failed = None;
            let text = format!("run {}: the new version is the stable one", run.id);
            // What is said at rest from now on: it takes no second write.
            let healthy = status
                .stable
                .as_ref()
                .map_or_else(|| text.clone(), rest::healthy_message);
            (
                Said::passing(Phase::Healthy, "Healthy", healthy),
                Some(report::note(input, false, "Promoted", text)),
            )
        }
        Outcome::Failed => {
            status.verdict = Some("Fail".to_owned());
            let cause = cause.cloned().unwrap_or_else(|| Cause {
                reason: "Unknown".to_owned(),
                detail: String::new(),
            });
            let put_back = is_stable(pass);
            status.failed = Some(Failed {
                run: run.id.clone(),
                template: run.revision.clone(),
                cause,
                put_back,
            });
            if put_back {
                let text = rest::put_back_message(&status, &why);
                (
                    Said::passing(Phase::Healthy, "Healthy", text.clone()),
                    Some(report::note(input, true, "RolledBack", text)),
                )
            } else {
                let text = failed_message(&input.rollout.name, &why);
                (
                    Said::stalled(Phase::Failed, "Failed", text.clone()),
                    Some(report::note(input, true, "RolledBack", text)),
                )
            }
        }
        Outcome::Native => {
            let text = format!("{why}: the Deployment rolls natively");
            status.stable = None;
            status.failed = None;
            status.native = cause.cloned();
            (
                Said::stalled(Phase::Blocked, rest::NOTHING_TO_PROTECT, text.clone()),
                None,
            )
        }
        Outcome::Superseded | Outcome::Reverted | Outcome::Replaced | Outcome::Deleted | Outcome::Suspended => (
            Said::passing(
                // Only the Deployment that asks for stable again is as it should be.
                match then {
                    Outcome::Reverted => Phase::Healthy,
                    Outcome::Superseded => Phase::Preparing,
                    _ => Phase::Draining,
                },
                then.as_str(),
                format!("run {} has ended ({why})", run.id),
            ),
            None,
        ),
    };
    report::commit(status, input, &said, note)
}

/// What is said of a failed version.
pub fn failed_message(rollout: &str, why: &str) -> String {
    format!(
        "the new version failed, stable serves ({why}); ship another version, put the old template back, or: kubectl stepgate retry {rollout}"
    )
}
