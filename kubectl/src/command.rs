//! Decides whether a command makes sense for a Rollout as it is, and to which run and step it is addressed.
//!
//! Pure. It refuses only what cannot mean anything; whatever depends on more than status, the operator decides.

use stepgate_crds::status::{PauseReason, Run, RunState};
use stepgate_crds::{Rollout, RolloutStatus, Verb};

/// The run, and for `promote` the step from 1, that a command is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) run: String,
    pub(crate) step: Option<u32>,
}

/// Finds what the command is for, or says why there is nothing.
pub(crate) fn address(verb: Verb, rollout: &Rollout) -> Result<Address, String> {
    let Some(status) = &rollout.status else {
        return Err("the operator has not looked at this Rollout yet; is it running? (kubectl get deployments -A -l app.kubernetes.io/name=stepgate)".to_owned());
    };
    match (verb, &status.run) {
        (Verb::Retry, Some(run)) => Err(format!(
            "run {} is under way; only a version that failed can be retried",
            run.id
        )),
        (Verb::Retry, None) => match &status.failed {
            Some(failed) => Ok(Address {
                run: failed.run.clone(),
                step: None,
            }),
            None => Err(format!(
                "no version has failed here{}; there is nothing to retry",
                last(status)
            )),
        },
        (verb, None) => Err(match &status.failed {
            Some(failed) => format!(
                "no run is under way: the last one, {}, failed ({}); `retry` tries that version again, any other version starts a run",
                failed.run, failed.cause.reason
            ),
            None => format!(
                "no run is under way{}; there is nothing to {}",
                last(status),
                verb.as_str()
            ),
        }),
        (verb, Some(run)) => of_run(verb, run),
    }
}

fn of_run(verb: Verb, run: &Run) -> Result<Address, String> {
    let whole = Ok(Address {
        run: run.id.clone(),
        step: None,
    });
    let doing = doing(&run.state);
    match (verb, &run.state) {
        (Verb::Promote, RunState::Stepping { .. } | RunState::Paused { .. }) => Ok(Address {
            run: run.id.clone(),
            step: Some(u32::try_from(run.step).unwrap_or(0).saturating_add(1)),
        }),
        (Verb::Promote, _) => Err(format!("run {} {doing}; only a step can be promoted", run.id)),
        (Verb::Abort, RunState::RollingBack { .. } | RunState::Draining { .. }) => {
            Err(format!("run {} {doing} already; there is nothing to abort", run.id))
        }
        (Verb::Pause, RunState::Paused { .. }) => Err(format!("run {} {doing} already", run.id)),
        (
            Verb::Pause,
            RunState::Promoting { .. }
            | RunState::Returning { .. }
            | RunState::RollingBack { .. }
            | RunState::Draining { .. },
        ) => Err(format!("run {} {doing}; only a step can be paused", run.id)),
        (
            Verb::Resume,
            RunState::Paused {
                why: PauseReason::Approval,
                ..
            },
        ) => Err(format!(
            "run {} waits for an approval at step {}, not for a resume: use `promote`",
            run.id,
            run.step.saturating_add(1)
        )),
        (Verb::Resume, RunState::Paused { .. }) | (Verb::Pause | Verb::Abort, _) => whole,
        (Verb::Resume, _) => Err(format!("run {} {doing}; it is not paused", run.id)),
        (Verb::Retry, _) => Err(format!("run {} is under way", run.id)),
    }
}

fn doing(state: &RunState) -> &'static str {
    match state {
        RunState::Preparing { .. } => "is preparing its canary",
        RunState::Stepping { .. } => "is under way",
        RunState::Paused { .. } => "is paused",
        RunState::Promoting { .. } => "is promoting",
        RunState::Returning { .. } => "is promoted, and its traffic returns to the Deployment",
        RunState::RollingBack { .. } => "is rolling back",
        RunState::Draining { .. } => "is draining its canary",
    }
}

/// What the last run came to, to complete a sentence.
fn last(status: &RolloutStatus) -> String {
    status.history.first().map_or_else(String::new, |past| {
        format!(" (the last one, {}, ended as {})", past.run, past.outcome.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fixtures;

    fn refusal(verb: Verb, rollout: &Rollout) -> String {
        address(verb, rollout).unwrap_err()
    }

    #[test]
    fn promote_is_addressed_to_the_step_as_people_count() {
        let rollout = fixtures::stepping(1);
        assert_eq!(
            address(Verb::Promote, &rollout),
            Ok(Address {
                run: "r7".into(),
                step: Some(2)
            })
        );
    }

    #[test]
    fn the_others_mean_the_run_wherever_it_is() {
        let rollout = fixtures::stepping(1);
        for verb in [Verb::Abort, Verb::Pause] {
            assert_eq!(
                address(verb, &rollout),
                Ok(Address {
                    run: "r7".into(),
                    step: None
                })
            );
        }
        assert_eq!(
            address(Verb::Resume, &fixtures::paused(PauseReason::Command))
                .unwrap()
                .step,
            None
        );
    }

    #[test]
    fn without_a_run_there_is_nothing_to_command() {
        for verb in [Verb::Promote, Verb::Abort, Verb::Pause, Verb::Resume, Verb::Retry] {
            let text = refusal(verb, &fixtures::healthy());
            assert!(text.contains(verb.as_str()), "{text}");
            assert!(text.contains("r6, ended as Promoted"), "{text}");
        }
    }

    #[test]
    fn retry_is_for_what_failed() {
        assert_eq!(
            address(Verb::Retry, &fixtures::failed()),
            Ok(Address {
                run: "r7".into(),
                step: None
            })
        );
        assert!(refusal(Verb::Abort, &fixtures::failed()).contains("`retry`"));
        assert!(refusal(Verb::Retry, &fixtures::stepping(0)).contains("under way"));
    }

    #[test]
    fn an_approval_is_given_by_promote() {
        let rollout = fixtures::paused(PauseReason::Approval);
        assert!(refusal(Verb::Resume, &rollout).contains("use `promote`"));
        assert_eq!(address(Verb::Promote, &rollout).unwrap().step, Some(3));
    }

    #[test]
    fn what_is_going_on_already_is_not_asked_for_again() {
        assert!(refusal(Verb::Abort, &fixtures::rolling_back()).contains("rolling back already"));
        assert!(refusal(Verb::Pause, &fixtures::paused(PauseReason::Command)).contains("paused already"));
        assert!(refusal(Verb::Resume, &fixtures::stepping(0)).contains("not paused"));
        assert!(refusal(Verb::Promote, &fixtures::rolling_back()).contains("only a step"));
    }

    #[test]
    fn a_rollout_that_nobody_looked_at_points_to_the_operator() {
        let mut rollout = fixtures::healthy();
        rollout.status = None;
        assert!(refusal(Verb::Promote, &rollout).contains("is it running?"));
    }
}
