//! Decides whether a command makes sense for a Rollout as it is, and to which run and step it is addressed.
//!
//! Pure. It refuses only what cannot mean anything; whatever depends on more than status, the operator decides.

use stepgate_crds::status::{PauseReason, Phase, Run, RunState};
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
    match (&status.run, verb) {
        (Some(run), verb) => of_run(verb, run),
        (None, Verb::Retry | Verb::Undo) => match &status.failed {
            Some(failed) if failed.put_back && status.phase == Some(Phase::Healthy) => Err(format!(
                "stable's template is back in place of the version that failed in run {}; there is nothing to {}",
                failed.run,
                verb.as_str()
            )),
            Some(failed) => Ok(Address {
                run: failed.run.clone(),
                step: None,
            }),
            None => Err(format!(
                "no version has failed here{}; there is nothing to {}",
                last(status),
                verb.as_str()
            )),
        },
        (None, verb) => Err(match &status.failed {
            Some(failed) if status.phase != Some(Phase::Healthy) => format!(
                "no run is under way: the last one, {}, failed ({}); `retry` tries that version again, `undo` puts stable's back, any other version starts a run",
                failed.run, failed.cause.reason
            ),
            _ => format!(
                "no run is under way{}; there is nothing to {}",
                last(status),
                verb.as_str()
            ),
        }),
    }
}

fn of_run(verb: Verb, run: &Run) -> Result<Address, String> {
    use RunState::{Draining, Paused, Preparing, Promoting, Restoring, Retreated, Returning, RollingBack, Stepping};
    let whole = Ok(Address {
        run: run.id.clone(),
        step: None,
    });
    let refused = |why: &str| Err(format!("run {} {}{why}", run.id, doing(&run.state)));
    match verb {
        Verb::Promote => match run.state {
            Stepping { .. } | Paused { .. } | Retreated { .. } => Ok(Address {
                run: run.id.clone(),
                step: Some(u32::try_from(run.step).unwrap_or(0).saturating_add(1)),
            }),
            _ => refused("; only a step can be promoted"),
        },
        Verb::Abort => match run.state {
            Preparing { .. } | Stepping { .. } | Paused { .. } | Retreated { .. } | Promoting { .. } => whole,
            Restoring { .. } | RollingBack { .. } | Draining { .. } => refused(" already; there is nothing to abort"),
            Returning { .. } => refused("; it is through, put the old template back to leave it"),
        },
        Verb::Pause => match run.state {
            Stepping { .. } => whole,
            Paused { .. } => refused(" already"),
            _ => refused("; only a step can be paused"),
        },
        Verb::Resume => match run.state {
            Paused {
                why: PauseReason::Approval,
                ..
            } => Err(format!(
                "run {} waits for an approval at step {}, not for a resume: use `promote`",
                run.id,
                run.step.saturating_add(1)
            )),
            Paused { .. } => whole,
            _ => refused("; it is not paused"),
        },
        Verb::Retry => refused("; only a version that failed can be retried"),
        Verb::Undo => refused("; only a version that failed can be undone, and `abort` ends a run"),
    }
}

fn doing(state: &RunState) -> &'static str {
    match state {
        RunState::Preparing { .. } => "is preparing its canary",
        RunState::Stepping { .. } => "is under way",
        RunState::Paused { .. } => "is paused",
        RunState::Retreated { .. } => "has retreated from its traffic",
        RunState::Promoting { .. } => "is promoting",
        RunState::Restoring { .. } => "is restoring the stable version",
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
        for verb in [
            Verb::Promote,
            Verb::Abort,
            Verb::Pause,
            Verb::Resume,
            Verb::Retry,
            Verb::Undo,
        ] {
            let text = refusal(verb, &fixtures::healthy());
            assert!(text.contains(verb.as_str()), "{text}");
            assert!(text.contains("r6, ended as Promoted"), "{text}");
        }
    }

    #[test]
    fn retry_and_undo_are_for_what_failed() {
        for verb in [Verb::Retry, Verb::Undo] {
            assert_eq!(
                address(verb, &fixtures::failed()),
                Ok(Address {
                    run: "r7".into(),
                    step: None
                })
            );
            assert!(refusal(verb, &fixtures::stepping(0)).contains("under way"));
        }
        let told = refusal(Verb::Abort, &fixtures::failed());
        assert!(told.contains("`retry`") && told.contains("`undo`"), "{told}");
    }

    #[test]
    fn what_was_put_back_is_neither_retried_nor_undone() {
        let mut rollout = fixtures::failed();
        let status = rollout.status.as_mut().unwrap();
        status.failed.as_mut().unwrap().put_back = true;
        // It came again, and is held as failed.
        assert!(address(Verb::Retry, &rollout).is_ok());
        rollout.status.as_mut().unwrap().phase = Some(Phase::Healthy);
        for verb in [Verb::Retry, Verb::Undo] {
            assert!(refusal(verb, &rollout).contains("in place of the version that failed in run r7"));
        }
        assert!(refusal(Verb::Pause, &rollout).contains("nothing to pause"));
    }

    #[test]
    fn an_approval_is_given_by_promote() {
        let rollout = fixtures::paused(PauseReason::Approval);
        assert!(refusal(Verb::Resume, &rollout).contains("use `promote`"));
        assert_eq!(address(Verb::Promote, &rollout).unwrap().step, Some(3));
    }

    #[test]
    fn every_other_pause_is_ended_by_resume_or_by_promote() {
        for why in [PauseReason::Command, PauseReason::Contention, PauseReason::Retreats] {
            let rollout = fixtures::paused(why);
            assert_eq!(address(Verb::Resume, &rollout).unwrap().step, None);
            assert_eq!(address(Verb::Promote, &rollout).unwrap().step, Some(3));
        }
    }

    /// Which verbs mean something in which state, as docs/commands.md has it.
    #[test]
    fn the_table_of_verbs_and_states() {
        type Case = (fn() -> Rollout, &'static str);
        let cases: [Case; 14] = [
            (|| fixtures::preparing(), "abort"),
            (|| fixtures::stepping(1), "promote abort pause"),
            (|| fixtures::paused(PauseReason::Approval), "promote abort"),
            (|| fixtures::paused(PauseReason::Command), "promote abort resume"),
            (|| fixtures::paused(PauseReason::Contention), "promote abort resume"),
            (|| fixtures::paused(PauseReason::Retreats), "promote abort resume"),
            (|| fixtures::retreated(), "promote abort"),
            (|| fixtures::promoting(), "abort"),
            (|| fixtures::restoring(), ""),
            (|| fixtures::returning(), ""),
            (|| fixtures::rolling_back(), ""),
            (|| fixtures::draining(), ""),
            (|| fixtures::healthy(), ""),
            (|| fixtures::failed(), "retry undo"),
        ];
        for (rollout, expected) in cases {
            let verbs = [
                Verb::Promote,
                Verb::Abort,
                Verb::Pause,
                Verb::Resume,
                Verb::Retry,
                Verb::Undo,
            ];
            let meant: Vec<&str> = verbs
                .into_iter()
                .filter(|verb| address(*verb, &rollout()).is_ok())
                .map(Verb::as_str)
                .collect();
            assert_eq!(meant.join(" "), expected, "{:?}", rollout().status.unwrap().phase);
        }
    }

    #[test]
    fn what_is_going_on_already_is_not_asked_for_again() {
        assert!(refusal(Verb::Abort, &fixtures::rolling_back()).contains("rolling back already"));
        assert!(refusal(Verb::Abort, &fixtures::restoring()).contains("restoring the stable version already"));
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
