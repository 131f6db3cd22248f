//! What one run was, stage by stage: how long each took, what clients got of the new version meanwhile, and how it ended.
//!
//! Pure: fed with each status in order.

use std::time::Duration;

use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{Cause, Outcome, Phase, Run, RunState};
use stepgate_crds::units::Timestamp;

use super::figures::between;
use crate::load::Answers;

/// One stage of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The phase, or the weight of a step: `at 10 %`.
    pub name: String,
    /// When it began, from the demo's beginning.
    pub begin: Duration,
    /// When it was seen last.
    pub end: Duration,
    /// Answers of the new version when it began, since that was shipped.
    before: Answers,
    /// Answers of the new version during it.
    pub canary: Answers,
}

/// The record of one run.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The run's id, once there is a run.
    pub run: Option<String>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// When the first weight above 0 was in force at every parent gateway, by the operator's clock.
    pub reached: Option<Timestamp>,
    /// When weight 0 was accepted again, by the operator's clock.
    pub back: Option<Timestamp>,
    /// The weight that was accepted last, in percent.
    pub accepted: i32,
    /// The highest weight that was accepted, in percent.
    pub highest: i32,
    /// Why it was rolled back.
    pub cause: Option<Cause>,
    /// How it ended, and the phase at its end.
    pub ended: Option<(Outcome, Option<Phase>)>,
}

impl Ledger {
    /// Takes in one status, seen at this time from the demo's beginning with so many answers of the new version.
    pub fn note(&mut self, at: Duration, status: &RolloutStatus, canary: Answers) {
        if let Some(stage) = self.stages.last_mut() {
            stage.end = at;
            stage.canary = between(stage.before, canary);
        }
        if let Some(run) = &status.run {
            self.run = Some(run.id.clone());
            self.note_weights(run);
            let name = stage_name(status, run);
            if self.stages.last().is_none_or(|stage| stage.name != name) {
                self.stages.push(Stage {
                    name,
                    begin: at,
                    end: at,
                    before: canary,
                    canary: Answers::default(),
                });
            }
        } else if let Some(past) = status
            .history
            .first()
            .filter(|past| Some(&past.run) == self.run.as_ref())
        {
            self.ended = Some((past.outcome, status.phase));
        }
    }

    fn note_weights(&mut self, run: &Run) {
        self.accepted = run.accepted_weight;
        self.highest = self.highest.max(run.accepted_weight);
        if let Some(force) = run.in_force.as_ref().filter(|force| force.weight > 0) {
            self.reached.get_or_insert(force.since);
        }
        match &run.state {
            RunState::RollingBack { cause, .. } => self.cause = Some(cause.clone()),
            RunState::Draining { since, cause, .. } => {
                self.back.get_or_insert(*since);
                // RollingBack may have been too short to be seen.
                self.cause = self.cause.take().or_else(|| cause.clone());
            }
            _ => {}
        }
    }

    /// From the first weight in force to weight 0 accepted.
    pub fn exposed(&self) -> Option<Duration> {
        let milliseconds = self.back?.since(self.reached?).as_millis();
        Some(Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)))
    }

    /// The whole of it.
    pub fn took(&self) -> Duration {
        let begin = self.stages.first().map(|stage| stage.begin);
        let end = self.stages.last().map(|stage| stage.end);
        end.unwrap_or_default().saturating_sub(begin.unwrap_or_default())
    }
}

fn stage_name(status: &RolloutStatus, run: &Run) -> String {
    let phase = status.phase.map_or("–", Phase::as_str);
    match run.state {
        RunState::Stepping { .. } | RunState::Paused { .. } => format!("at {} %", run.weight),
        _ => phase.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stepgate_crds::status::Past;

    fn at_rest(outcomes: &[(&str, Outcome)]) -> RolloutStatus {
        let past = |(run, outcome): &(&str, Outcome)| Past {
            run: (*run).to_owned(),
            started: Timestamp::from_millis(0),
            ended: Timestamp::from_millis(1),
            outcome: *outcome,
            reason: None,
            counts: None,
        };
        RolloutStatus {
            phase: Some(Phase::Healthy),
            history: outcomes.iter().map(past).collect(),
            ..RolloutStatus::default()
        }
    }

    #[test]
    fn the_end_of_an_earlier_run_is_not_the_end_of_this_one() {
        let mut ledger = Ledger::default();
        let earlier = at_rest(&[("run-1", Outcome::Promoted)]);
        ledger.note(Duration::ZERO, &earlier, Answers::default());
        assert_eq!(ledger.ended, None);
        ledger.run = Some("run-2".to_owned());
        ledger.note(Duration::ZERO, &earlier, Answers::default());
        assert_eq!(ledger.ended, None);
        let both = at_rest(&[("run-2", Outcome::Failed), ("run-1", Outcome::Promoted)]);
        ledger.note(Duration::ZERO, &both, Answers::default());
        assert_eq!(ledger.ended, Some((Outcome::Failed, Some(Phase::Healthy))));
    }

    #[test]
    fn a_run_was_exposed_from_its_first_weight_in_force_to_weight_zero_accepted() {
        let ledger = Ledger {
            reached: Some(Timestamp::from_millis(10_000)),
            back: Some(Timestamp::from_millis(12_500)),
            ..Ledger::default()
        };
        assert_eq!(ledger.exposed(), Some(Duration::from_millis(2_500)));
        assert_eq!(Ledger::default().exposed(), None);
    }
}
