//! One pass over one Rollout: observe, decide, commit or execute, until there is nothing left to do but wait.
//!
//! The loop is the whole of it: no choice is made here that `next` could make. A pass ends early only where a request failed; the
//! world is then read again.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use kube::{Resource, ResourceExt, runtime::controller::Action};
use serde_json::Value;
use stepgate_core::{
    Effect, Input, Limits, Plan, Wake,
    input::{ReplicaSetView, Survey},
};
use stepgate_crds::{
    Rollout,
    status::{Note, Phase},
    units::{Span, Timestamp},
};
use tokio::{sync::watch, time::sleep};
use tracing::{debug, info, warn};

use crate::{
    execute::{Class, RequestError},
    observe::Observer,
    telemetry::Metrics,
    world::{Handle, SAY_AGAIN},
};

/// More turns than any pass takes: one that comes here goes in circles, and must not take the others down with it.
const MOST_TURNS: usize = 40;
/// How soon to look again after the world moved on under a write.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);
/// So many times in a row a conflict is tried again at once.
const QUICK_TRIES: u32 = 3;
/// How often an Event is tried to write, over 15 s in all.
const EVENT_TRIES: u32 = 6;
/// The first wait after a failed request; doubled with each in a row.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// The longest wait after failed requests.
const LONGEST_PATIENCE: Duration = Duration::from_secs(30);
/// How soon to look again where the time to do so has passed already: nothing may spin.
const OVERDUE: Duration = Duration::from_millis(250);
/// The longest wait after failed requests while traffic goes back to stable.
const PATIENCE_IN_ROLLBACK: Duration = Duration::from_secs(2);
/// The longest that a timer is set for.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);
/// Refreshes of a status in which only numbers changed, of all runs together, a second.
const REFRESHES: usize = 10;
/// With more runs than these none is looked at for its numbers alone.
const MANY: usize = 100;
/// Events of decisions this old were written by whoever led then, or are of no use any more.
const NEWS: Span = Span::seconds(600);

/// What a pass needs.
#[derive(Debug)]
pub struct Reconciler {
    /// The eyes.
    pub observer: Observer,
    /// The constants.
    pub limits: Limits,
    /// Our own metrics.
    pub metrics: Metrics,
    /// Why no Deployment would be held; none where the hold is in place.
    pub no_hold: watch::Receiver<Option<String>>,
    /// The leader's term.
    pub term: i64,
    /// How long nobody led before it.
    pub absent: Span,
    /// The clock of the leader before was another one.
    pub clocks_differ: bool,
    /// Failures in a row, by Rollout.
    pub failures: Mutex<HashMap<(String, String), Failures>>,
    /// The note that the last Event was written of, by Rollout.
    pub told: Mutex<HashMap<(String, String), String>>,
}

/// Failed requests for one Rollout since the last pass that came to its end.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    in_a_row: u32,
    /// What the API server refused, in its own words.
    refused: Option<String>,
}

/// What the last look brought that no watch does: good for one pass.
#[derive(Default)]
struct Brought {
    survey: Option<Survey>,
    replica_sets: Option<Vec<ReplicaSetView>>,
    recorded: Option<BTreeMap<String, Value>>,
}

impl Reconciler {
    /// One pass. Never fails: what went wrong is logged, counted and tried again.
    pub async fn reconcile(&self, handle: Arc<Handle>) -> Action {
        let (namespace, name) = (handle.namespace().unwrap_or_default(), handle.name_any());
        let started = Instant::now();
        let ended = self.pass(&namespace, &name).await;
        let outcome = ended.as_ref().map_or_else(RequestError::label, |_| "ok");
        self.metrics.reconciled(outcome, started.elapsed());
        match ended {
            Ok(wake) => {
                self.failures().insert((namespace, name), Failures::default());
                wake.and_then(|wake| wake.at).map_or_else(Action::await_change, |at| {
                    let now = now();
                    if at <= now {
                        return Action::requeue(OVERDUE);
                    }
                    // A timer that rings a moment early would only wake to wait again.
                    let wait = at.since(now).duration() + Duration::from_millis(2);
                    Action::requeue(wait.min(LONGEST_SLEEP))
                })
            }
            Err(error) => Action::requeue(self.after(&namespace, &name, &error)),
        }
    }

    async fn pass(&self, namespace: &str, name: &str) -> Result<Option<Wake>, RequestError> {
        let mut brought = Brought::default();
        let mut acted: Vec<Effect> = Vec::new();
        for turn in 0..MOST_TURNS {
            let Some(rollout) = self.observer.world.rollouts.get(namespace, name) else {
                return Ok(self.tell_unreadable(namespace, name));
            };
            if turn == 0 {
                self.tell(&rollout);
            }
            let plan = self.decide(&rollout, &mut brought).await?;
            match plan {
                Plan::Commit(status) => self.commit(&rollout, *status).await?,
                // Done, answered with success, and still asked for: somebody else undoes it at once. Not in a loop with us.
                Plan::Act(effects) if effects.iter().any(|effect| is_repeated(effect, &acted)) => {
                    warn!(
                        namespace,
                        rollout = name,
                        ?effects,
                        "what was just done is asked for again: something undoes it"
                    );
                    break;
                }
                Plan::Act(effects) => {
                    self.act(namespace, name, &effects).await?;
                    // What was refused before has gone through, or is asked for again and refused again.
                    if let Some(failures) = self.failures().get_mut(&(namespace.to_owned(), name.to_owned())) {
                        failures.refused = None;
                    }
                    acted.extend(effects);
                    // A list that was read before a write says nothing of what came of it.
                    brought.replica_sets = None;
                }
                Plan::Wait(wake) => return Ok(Some(wake)),
            }
        }
        debug!(
            namespace,
            rollout = name,
            "this pass ends before its goal and is tried again"
        );
        Ok(Some(Wake {
            at: Some(now().after(self.limits.mend)),
            ..Wake::default()
        }))
    }

    /// The next decision, with what it asked for brought.
    async fn decide(&self, rollout: &Rollout, brought: &mut Brought) -> Result<Plan, RequestError> {
        let seen = self.observer.observe(rollout).await;
        let key = (seen.rollout.namespace.clone(), seen.rollout.name.clone());
        let refused = self.failures().get(&key).and_then(|failures| failures.refused.clone());
        let no_hold = self.no_hold.borrow().clone();
        let runs = self.observer.sampler.runs();
        let limits = Limits {
            scrape: self.observer.scrape(&seen.rollout).unwrap_or(self.limits.scrape),
            refresh: refresh(self.limits.refresh, runs),
            refresh_slack: if runs > MANY {
                self.limits.interval
            } else {
                self.limits.refresh_slack
            },
            ..self.limits.clone()
        };
        loop {
            let input = Input {
                now: now(),
                term: self.term,
                absent: self.absent,
                clocks_differ: self.clocks_differ,
                limits: &limits,
                rollout: &seen.rollout,
                workload: &seen.workload,
                canary: &seen.canary,
                canary_service: &seen.canary_service,
                stable_ready: seen.stable_ready,
                strange_ready: seen.strange_ready,
                canary_ready: seen.canary_ready,
                routes: &seen.routes,
                templates: &seen.templates,
                survey: brought.survey.as_ref(),
                replica_sets: brought.replica_sets.as_deref(),
                recorded: brought.recorded.as_ref(),
                restarts: seen.restarts,
                canary_youngest: seen.canary_youngest,
                samples: &seen.samples,
                queries: &seen.queries,
                baseline: &seen.baseline,
                asked: &seen.asked,
                source: &seen.source,
                no_hold: no_hold.as_deref(),
                refused: refused.as_deref(),
            };
            let plan = stepgate_core::next(&input);
            let Plan::Wait(Wake { need, .. }) = &plan else {
                return Ok(plan);
            };
            let survey = need.survey && brought.survey.is_none();
            let replica_sets = need.replica_sets && brought.replica_sets.is_none();
            let recorded = need.recorded && brought.recorded.is_none();
            if !survey && !replica_sets && !recorded {
                return Ok(plan);
            }
            if survey {
                // On the heap: it is large and rare.
                let Some(found) = Box::pin(self.observer.survey(rollout)).await? else {
                    // Gone between two looks: the next observation sees it.
                    return Ok(Plan::Wait(Wake {
                        at: Some(now().after(self.limits.mend)),
                        ..Wake::default()
                    }));
                };
                brought.survey = Some(found);
            }
            if recorded {
                brought.recorded = Some(self.observer.recorded(rollout).await?);
            }
            if replica_sets {
                brought.replica_sets = Some(self.observer.replica_sets(rollout, &seen.workload).await?);
            }
        }
    }

    async fn commit(&self, rollout: &Rollout, status: stepgate_crds::RolloutStatus) -> Result<(), RequestError> {
        let before = rollout.status.clone().unwrap_or_default();
        let written = self
            .observer
            .requests
            .commit(&self.observer.world, rollout, status)
            .await?;
        let after = written.status.clone().unwrap_or_default();
        if before.phase != after.phase || before.message != after.message {
            info!(
                namespace = rollout.namespace().unwrap_or_default(),
                rollout = rollout.name_any(),
                run = after.run.as_ref().map(|run| run.id.as_str()),
                phase = after.phase.map(Phase::as_str),
                step = after.step,
                intended = after.run.as_ref().map(|run| run.weight),
                accepted = after.weight,
                verdict = after.verdict,
                "{}",
                after.message.as_deref().unwrap_or_default()
            );
        }
        if before.verdict != after.verdict {
            self.metrics.verdict(match after.verdict.as_deref() {
                Some("Pass") => "pass",
                Some("Fail") => "fail",
                Some(_) => "hold",
                None => "none",
            });
        }
        self.tell(&written);
        if after.run.is_none() && before.run.is_some() {
            self.observer.forget_ended();
        }
        Ok(())
    }

    async fn act(&self, namespace: &str, name: &str, effects: &[Effect]) -> Result<(), RequestError> {
        // Each on its own: a route that refuses its weight keeps no other from getting it.
        let mut failed = Ok(());
        for effect in effects {
            debug!(namespace, rollout = name, kind = ?effect.kind, object = effect.name, act = ?effect.act, "acting");
            let done = self
                .observer
                .requests
                .execute(&self.observer.world, namespace, effect)
                .await;
            if failed.is_ok() {
                failed = done;
            }
        }
        failed
    }

    /// Writes an Event beside the pass: nothing waits for it, and one that is not taken is tried again for a while.
    fn publish(&self, rollout: Arc<impl Resource<DynamicType = ()> + Send + Sync + 'static>, note: Note) {
        let requests = self.observer.requests.clone();
        tokio::spawn(async move {
            let mut patience = AFTER_FAILURE;
            for left in (0..EVENT_TRIES).rev() {
                let Err(error) = requests.publish(rollout.as_ref(), &note).await else {
                    return;
                };
                // Its namespace is gone, or it is refused for what it is.
                let is_final = matches!(error.class(), Class::Conflict | Class::Invalid);
                if left == 0 || is_final {
                    warn!(reason = note.reason, "an Event was not written: {error}");
                    return;
                }
                debug!(
                    reason = note.reason,
                    "an Event is written again in {patience:?}: {error}"
                );
                sleep(patience).await;
                patience = patience.saturating_mul(2);
            }
        });
    }

    /// A Rollout that this version cannot read is only spoken of. Comes again while it is there, for Events do not last.
    fn tell_unreadable(&self, namespace: &str, name: &str) -> Option<Wake> {
        let world = &self.observer.world;
        if let Some((rollout, note)) = world.to_tell(namespace, name) {
            self.publish(rollout, note);
        }
        world.unreadable.get(namespace, name).map(|_| Wake {
            at: Some(now().after(Span::from(SAY_AGAIN))),
            ..Wake::default()
        })
    }

    /// Writes the last Event of a Rollout, where that is not done yet: after a commit; where its answer was lost and it is only seen later; and
    /// after our start, for whoever led before may have died between its commit and its Event.
    fn tell(&self, rollout: &Arc<Rollout>) {
        let Some(note) = rollout.status.as_ref().and_then(|status| status.note.as_ref()) else {
            return;
        };
        let key = (rollout.namespace().unwrap_or_default(), rollout.name_any());
        if self.told().insert(key, note.id.clone()).as_ref() == Some(&note.id) {
            return;
        }
        let written = i64::from_str_radix(&note.id, 16).map(Timestamp::from_millis);
        if written.is_ok_and(|written| now().since(written) < NEWS) {
            self.publish(Arc::clone(rollout), note.clone());
        }
    }

    /// How long to wait after a failure.
    fn after(&self, namespace: &str, name: &str, error: &RequestError) -> Duration {
        let class = error.class();
        let in_a_row = {
            let mut failures = self.failures();
            let failures = failures.entry((namespace.to_owned(), name.to_owned())).or_default();
            failures.in_a_row = failures.in_a_row.saturating_add(1);
            // A precondition that failed because somebody else wrote looks the same as a refusal; only a refusal stays.
            if class == Class::Forbidden || (class == Class::Invalid && failures.in_a_row > QUICK_TRIES) {
                failures.refused = Some(error.to_string());
            }
            failures.in_a_row
        };
        let patience = AFTER_FAILURE
            .saturating_mul(2_u32.saturating_pow(in_a_row.saturating_sub(1).min(10)))
            .min(if self.is_rolling_back(namespace, name) {
                PATIENCE_IN_ROLLBACK
            } else {
                LONGEST_PATIENCE
            });
        match class {
            Class::Conflict | Class::Invalid if in_a_row <= QUICK_TRIES => {
                debug!(namespace, rollout = name, "the world moved on under a write: {error}");
                AFTER_CONFLICT
            }
            class => {
                warn!(
                    namespace,
                    rollout = name,
                    ?class,
                    in_a_row,
                    "a request failed, trying again in {patience:?}: {error}"
                );
                patience
            }
        }
    }

    fn is_rolling_back(&self, namespace: &str, name: &str) -> bool {
        let rollout = self.observer.world.rollouts.get(namespace, name);
        let phase = rollout.and_then(|rollout| rollout.status.as_ref()?.phase);
        phase == Some(Phase::RollingBack)
    }

    /// Forgets what was kept for Rollouts that are gone, and ends the reading of their counts.
    pub fn sweep(&self) {
        let world = &self.observer.world;
        let is_there = |(namespace, name): &(String, String)| world.rollouts.get(namespace, name).is_some();
        self.failures().retain(|rollout, _| is_there(rollout));
        self.told().retain(|rollout, _| is_there(rollout));
        self.observer.forget_ended();
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<(String, String), Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told(&self) -> MutexGuard<'_, HashMap<(String, String), String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this very thing was done in this pass: the same patch but for the version it was decided on, or the same creation.
fn is_repeated(effect: &Effect, acted: &[Effect]) -> bool {
    acted.iter().any(|before| {
        before.kind == effect.kind && before.name == effect.name && before.act.goal() == effect.act.goal()
    })
}

/// The least time between two refreshes of one status, so that all runs together keep to [`REFRESHES`].
fn refresh(least: Span, runs: usize) -> Span {
    least.max(Span::seconds(runs.div_ceil(REFRESHES) as u64))
}

/// The time, once for a decision, in the resolution that status has.
fn now() -> Timestamp {
    Timestamp::from(jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_runs_refresh_their_statuses_more_seldom() {
        let seconds = |runs| refresh(Span::seconds(60), runs).as_millis() / 1_000;
        assert_eq!(
            [0, 1, 600, 601, 1_000, 10_000].map(seconds),
            [60, 60, 60, 61, 100, 1_000]
        );
    }
}
