//! The rules of what the operator commits to a Rollout's status.

use serde_json::Value;
use stepgate_crds::RolloutStatus;
use stepgate_crds::command::Verb;
use stepgate_crds::status::{Run, RunState};

use super::{Checker, goes_back, safety};
use crate::faults::observer::Version;

impl Checker<'_> {
    /// A status that the operator wrote.
    pub(super) fn commit(&mut self, version: &Version, rollout: &Value) {
        let before = self.status();
        let Some(text) = rollout.get("status") else { return };
        let size = text.to_string().len();
        let after: RolloutStatus = serde_json::from_value(text.clone()).unwrap_or_default();
        let most = if after.run.is_some() { 16 << 10 } else { 4 << 10 };
        if size > most {
            self.broken(safety(17), format!("a status of {size} bytes"));
        }
        if let Some(run) = &after.run {
            let again = usize::try_from(run.retreats.all).unwrap_or(0);
            self.runs.insert(run.id.clone(), again);
            self.folds(run);
        }
        if let (Some(old), Some(new)) = (&before.run, &after.run)
            && goes_on(old, new)
        {
            let done = after
                .command
                .as_ref()
                .filter(|command| command.done && after.command != before.command);
            let by_person = old.overridden.is_some() || done.is_some_and(|command| command.verb == Some(Verb::Promote));
            if !by_person {
                self.passes(version, old, new, after.verdict.as_deref());
            }
        }
        if let Some(run) = &after.run
            && goes_back(&run.state)
            && !matches!(run.state, RunState::Returning { .. } | RunState::Retreated { .. })
        {
            self.ended.insert(run.id.clone());
        }
    }

    /// A step that was taken on the evidence alone.
    fn passes(&mut self, version: &Version, old: &Run, new: &Run, verdict: Option<&str>) {
        if verdict != Some("Pass") {
            self.broken(safety(3), format!("from step {} by the verdict {verdict:?}", old.step));
        }
        self.rests_on_data(version, old, new);
    }
}

/// Whether the run goes to its next step, or to its promotion.
fn goes_on(old: &Run, new: &Run) -> bool {
    let promotes = |run: &Run| matches!(run.state, RunState::Promoting { .. });
    new.id == old.id && (new.step > old.step || (promotes(new) && !promotes(old)))
}
