//! A run: one file a state. Each takes the pass and returns what follows.
//!
//! What all of them share stands here: the run as it would be committed next, what the counts say, and the ways to end a run.

mod baseline;
pub mod draining;
mod drift;
mod metrics;
mod newer;
mod patience;
pub mod paused;
pub mod preparing;
pub mod promoting;
pub mod restoring;
pub mod retreated;
pub mod returning;
pub mod rolling_back;
pub mod stepping;
pub mod weights;

use stepgate_crds::{
    RolloutStatus,
    evidence::Evidence,
    rollout::{Step, StepAnalysis},
    status::{Cause, Found, InForce, Note, Outcome, Phase, Retreat, Run, RunSpec, RunState, Stable},
    units::{Share, Span, Timestamp},
};

use crate::{
    canary,
    input::{Arms, BaselineWindow, Input, Measure, Question, RolloutView, Seen, SourceHealth, Window},
    plan::{Plan, Wake},
    report::{self, Said},
    side::{self, Side},
    verdict::{self, DataError, Judgement, MetricSettings, Moment, QuerySettings, Rule, Settings, Verdict},
};

/// One look at a run.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// The world.
    pub input: &'a Input<'a>,
    /// The run as committed.
    pub run: &'a Run,
    /// What was found at its start.
    pub found: &'a Found,
}

impl<'a> Pass<'a> {
    /// The phase that people read for this run's state.
    pub fn phase(&self) -> Phase {
        match self.run.state {
            RunState::Preparing { .. } => Phase::Preparing,
            RunState::Stepping { .. } => Phase::Stepping,
            RunState::Paused { .. } => Phase::Paused,
            RunState::Retreated { .. } => Phase::Retreated,
            RunState::Promoting { .. } => Phase::Promoting,
            RunState::Restoring { .. } => Phase::Restoring,
            RunState::Returning { .. } => Phase::Returning,
            RunState::RollingBack { .. } => Phase::RollingBack,
            RunState::Draining { .. } => Phase::Draining,
        }
    }

    /// Since when the run is in its state.
    pub fn since(&self) -> Timestamp {
        match self.run.state {
            RunState::Preparing { since }
            | RunState::Stepping { since }
            | RunState::Paused { since, .. }
            | RunState::Retreated { since, .. }
            | RunState::Promoting { since }
            | RunState::Restoring { since, .. }
            | RunState::Returning { since }
            | RunState::RollingBack { since, .. }
            | RunState::Draining { since, .. } => since,
        }
    }

    /// When the run has been in its state for as long as it may wait.
    pub fn deadline(&self) -> Timestamp {
        let spec = &self.input.rollout.spec;
        self.since()
            .after(spec.progress_deadline.unwrap_or(self.input.limits.progress_deadline))
    }

    /// Whether that moment has come.
    pub fn is_overdue(&self) -> bool {
        self.input.now >= self.deadline()
    }

    /// The canary's Deployment, where it is this run's.
    pub fn canary(&self) -> Option<&'a crate::input::WorkloadView> {
        self.input
            .canary
            .get()
            .filter(|canary| canary.run.as_ref() == Some(&self.run.id))
    }

    /// The largest size that stable had in this run.
    pub fn base(&self) -> i32 {
        let stable = self.input.workload.get().map_or(0, |workload| workload.replicas);
        self.run.base.max(stable)
    }

    /// How many canary pods a weight takes.
    pub fn size(&self, weight: i32) -> i32 {
        canary::size(self.base(), weight)
    }

    /// The run with its intent raised by one, at this weight and in this state.
    pub fn intend(&self, weight: i32, state: RunState) -> Run {
        Run {
            seq: self.run.seq.saturating_add(1),
            weight,
            state,
            base: self.base(),
            ..self.run.clone()
        }
    }

    /// The run with the present intent in force from now on.
    pub fn accepted(&self, evidence: Evidence) -> Run {
        Run {
            accepted_weight: self.run.weight,
            in_force: Some(InForce {
                seq: self.run.seq,
                step: self.run.step,
                weight: self.run.weight,
                since: self.input.now,
                grown: Some(self.grown()),
            }),
            no_data_since: None,
            evidence,
            ..self.run.clone()
        }
    }

    /// Since when the canary has had traffic on as many pods as the intended weight takes: it grows with the weight.
    fn grown(&self) -> Timestamp {
        let pods = |weight: i32| if weight == 0 { 0 } else { self.size(weight) };
        let before = self.run.in_force.as_ref();
        before
            .filter(|before| pods(before.weight) >= pods(self.run.weight))
            .and_then(|before| before.grown)
            .unwrap_or(self.input.now)
    }

    /// Whether the present intent was accepted.
    pub fn in_force(&self) -> Option<&'a InForce> {
        self.run.in_force.as_ref().filter(|force| force.seq == self.run.seq)
    }

    /// Commits the run in its next form.
    pub fn commit(&self, run: Run, said: &Said, note: Option<Note>) -> Plan {
        report::commit(self.with(run), self.input, said, note)
    }

    /// What an Event says of a decision: a sentence, and the numbers of every metric.
    pub fn told(judgement: Option<&Judgement>, text: &str) -> String {
        let numbers = judgement.map(Judgement::numbers).filter(|numbers| !numbers.is_empty());
        numbers.map_or_else(|| text.to_owned(), |numbers| format!("{text} ({numbers})"))
    }

    /// The same with what was judged.
    pub fn commit_judged(&self, run: Run, judgement: Option<&Judgement>, said: &Said, note: Option<Note>) -> Plan {
        let mut status = self.with(run);
        if let Some(judgement) = judgement {
            self.record(&mut status, judgement);
        }
        report::commit(status, self.input, said, note)
    }

    /// Waits, with the counts brought up to date.
    pub fn wait(&self, judgement: Option<&Judgement>, said: &Said, at: Option<Timestamp>) -> Plan {
        let mut status = self.with(self.run.clone());
        if let Some(judgement) = judgement {
            self.record(&mut status, judgement);
        }
        // Once a minute in any case: a watch that was cut may have missed that something vanished.
        let look = self.input.now.after(self.input.limits.refresh);
        let at = report::earlier(at, look);
        let abandoned = self.abandoned_at().filter(|abandoned| *abandoned > self.input.now);
        let at = abandoned.map_or(at, |abandoned| report::earlier(at, abandoned));
        report::wait(status, self.input, said, Wake { at, ..Wake::default() })
    }

    /// Takes the run back to stable.
    pub fn roll_back(&self, judgement: Option<&Judgement>, then: Outcome, reason: &str, detail: &str) -> Plan {
        let cause = Cause {
            reason: reason.to_owned(),
            detail: report::short(detail),
        };
        let weight = self.lowest(self.input.now, rolling_back::is_at_once(&cause));
        let state = RunState::RollingBack {
            since: self.input.now,
            cause: cause.clone(),
            then,
        };
        self.turn_back(self.intend(weight, state), judgement, &cause, then)
    }

    /// Commits the first intent of a way back, with an Event.
    fn turn_back(&self, run: Run, judgement: Option<&Judgement>, cause: &Cause, then: Outcome) -> Plan {
        let phase = Pass { run: &run, ..*self }.phase();
        let text = format!("{}: {}", cause.reason, cause.detail);
        let said = Said::passing(phase, phase.as_str(), text.clone());
        let told = Self::told(judgement, &text);
        let note = report::note(self.input, then == Outcome::Failed, phase.as_str(), told);
        self.commit_judged(run, judgement, &said, Some(note))
    }

    /// The status with this run in place of the committed one.
    pub fn with(&self, run: Run) -> RolloutStatus {
        RolloutStatus {
            run: Some(run),
            ..self.input.rollout.status.clone()
        }
    }

    /// The parameters of this run's verdict.
    pub fn settings(&self) -> Settings {
        let step = self.run.in_force.as_ref().map_or(self.run.step, |force| force.step);
        Self::settings_at(&self.run.spec, self.found.counts_all_callers, step)
    }

    /// The parameters of a run's verdict at a step, counted from 0.
    pub fn settings_at(spec: &RunSpec, counts_all_callers: bool, step: i32) -> Settings {
        // What is tolerated at each step, and at the present one.
        let by_step = |metric: MetricSettings, own: fn(&StepAnalysis) -> Option<Share>| {
            let max = |step: &Step| step.analysis.as_ref().and_then(own).map(Share::get);
            let own: Vec<Option<f64>> = spec.steps.iter().map(max).collect();
            let now = usize::try_from(step).ok().and_then(|step| *own.get(step)?);
            let differ = own.iter().any(Option::is_some);
            let all = own.into_iter().map(|own| own.unwrap_or(metric.max));
            MetricSettings {
                max: now.unwrap_or(metric.max),
                max_by_step: if differ { all.collect() } else { Vec::new() },
                ..metric
            }
        };
        let errors = MetricSettings {
            max: spec.max_error_rate.get(),
            ..MetricSettings::errors()
        };
        let errors = by_step(errors, |own| own.error_rate.as_ref().map(|own| own.max));
        let latency = spec.latency.iter().map(|latency| {
            let latency = MetricSettings::latency(latency.max.get());
            by_step(latency, |own| own.latency.as_ref().map(|own| own.max))
        });
        let metrics = [errors].into_iter().chain(latency).collect();
        let here = usize::try_from(step).ok().and_then(|step| spec.steps.get(step));
        let bounds = here.and_then(|step| step.analysis.as_ref());
        let bounds = bounds.map_or(&[][..], |own| &own.queries);
        let queries = spec.queries.iter().map(|query| {
            let own = bounds.iter().find(|own| own.name == query.name);
            let (max, min) = own.map_or((query.max, query.min), |own| (own.max, own.min));
            QuerySettings {
                name: query.name.clone(),
                max,
                min,
                failure_limit: query.failure_limit(),
            }
        });
        Settings {
            queries: queries.collect(),
            phi: spec.phi,
            check_share: !counts_all_callers,
            ..Settings::new(metrics, u32::try_from(spec.steps.len()).unwrap_or(1))
        }
    }

    /// What the counts say, by the weight that is in force. None before any was.
    pub fn judge(&self) -> Option<Judgement> {
        let force = self.run.in_force.as_ref()?;
        let limits = self.input.limits;
        let certain = self.run.spec.settle.max(limits.readable_after());
        let unavailable = match self.input.source {
            SourceHealth::Down { kind, why, .. } => Some(DataError {
                kind: *kind,
                detail: why.clone(),
            }),
            SourceHealth::Untried | SourceHealth::Answers => None,
        };
        let counts_from = force.since.after(certain).ceil_seconds();
        let lost = matches!(
            self.run.state,
            RunState::Promoting { .. }
                | RunState::Retreated {
                    why: Retreat::PodsLost,
                    ..
                }
        );
        let accepted = match force.weight {
            // The requests that the lost pods did not answer are no proof against the version.
            _ if lost && force.seq != self.run.seq => None,
            // Where nothing is sent, what an interval has of before says nothing of now.
            0 => Some(counts_from + i64::from(interval_seconds(self.run.spec.interval))),
            // A grid point at the moment of acceptance itself has nothing of what came after.
            _ => Some(force.since.as_millis().div_euclid(1_000)),
        };
        let moment = Moment {
            step: u32::try_from(force.step).unwrap_or(0),
            weight_percent: u32::try_from(force.weight).unwrap_or(0),
            accepted,
            counts_from,
            warm_from: self.warm_from(force),
            paused: self.pause_hour(),
            promoting: side::whole(&self.run.state) == Side::Canary,
            taken_away: !self.is_exposed(),
            unavailable,
        };
        Some(verdict::judge(
            &self.run.evidence,
            self.input.samples,
            &self.settings(),
            &moment,
            self.input.restarts,
        ))
    }

    /// From when on the canary's pods are warm, in Unix seconds: some time after it last grew, by its weight or by a pod that came since.
    fn warm_from(&self, force: &InForce) -> i64 {
        let grown = force.grown.unwrap_or(force.since);
        let youngest = self.input.canary_youngest.unwrap_or(grown);
        grown.max(youngest).after(self.run.spec.warm_up).ceil_seconds()
    }

    /// The failed verdict, where there is one: the reason of a cause, and the verdict in words and numbers.
    pub fn failure(judgement: Option<&Judgement>) -> Option<(&'static str, String)> {
        match judgement.map(|judgement| &judgement.verdict) {
            Some(verdict @ Verdict::Fail(rule)) => Some((
                match rule {
                    Rule::Tripwire { .. } => rolling_back::TRIPWIRE,
                    Rule::Restarts { .. } => "CanaryRestarts",
                    Rule::Relative { .. } | Rule::Absolute { .. } | Rule::OwnQuery { .. } => "Verdict",
                },
                verdict.to_string(),
            )),
            _ => None,
        }
    }

    /// The hour of pauses that the run is in, counted from 1.
    pub fn pause_hour(&self) -> Option<u32> {
        match self.run.state {
            RunState::Paused { since, .. } => {
                let hours = self.input.now.since(since).as_millis() / Span::seconds(3_600).as_millis();
                u32::try_from(i64::from(self.run.pause_hours) + hours + 1).ok()
            }
            _ => None,
        }
    }

    /// Evidence at the first weight of the run: counts begin with the interval that acceptance falls into.
    pub fn first_evidence(&self) -> Evidence {
        let interval = i64::from(interval_seconds(self.run.spec.interval));
        let now = self.input.now.as_millis().div_euclid(1_000);
        verdict::begin(&self.settings(), now - now.rem_euclid(interval))
    }

    /// Puts what was judged into a status.
    pub fn record(&self, status: &mut RolloutStatus, judgement: &Judgement) {
        let verdict = &judgement.verdict;
        status.verdict = Some(match verdict {
            Verdict::Pass | Verdict::Fail(_) => verdict.name().to_owned(),
            Verdict::Retreat(_) | Verdict::Hold(_) => verdict.reason().to_owned(),
        });
        if let Some(run) = &mut status.run {
            run.no_data_since = match verdict {
                Verdict::Hold(reason) if reason.is_no_data() => run.no_data_since.or(Some(self.input.now)),
                _ => None,
            };
            run.evidence = judgement.evidence.clone();
            run.rule = Some(verdict.reason().to_owned());
            run.metrics = metrics::reports(&judgement.explanations, self.input.queries);
            run.queries = metrics::own(&judgement.queries, self.input.asked);
        }
    }

    /// Whether the Deployment is known to be gone.
    pub fn workload_is_absent(&self) -> bool {
        matches!(self.input.workload, Seen::Absent)
    }
}

/// Which counts a Rollout's run lives on; none before any weight was in force.
pub fn window(rollout: &RolloutView) -> Option<Window> {
    let status = &rollout.status;
    let (run, found, stable) = (status.run.as_ref()?, status.found.as_ref()?, status.stable.as_ref()?);
    run.in_force.as_ref().filter(|_| run.evidence.through > 0)?;
    Some(Window {
        run: run.id.clone(),
        from: run.evidence.through,
        interval: interval_seconds(run.spec.interval),
        source: run.spec.source.clone(),
        provider: found.provider.clone(),
        metrics: [Measure::Errors]
            .into_iter()
            .chain(run.spec.latency.iter().map(|latency| Measure::Latency {
                threshold: latency.threshold,
            }))
            .collect(),
        queries: run
            .spec
            .queries
            .iter()
            .map(|query| Question {
                name: query.name.clone(),
                query: query.query.clone(),
            })
            .collect(),
        arms: arms(rollout, found, stable),
    })
}

/// Which of stable's history a run is still to be told; none once its first weight is intended.
pub fn baseline_window(rollout: &RolloutView) -> Option<BaselineWindow> {
    let status = &rollout.status;
    let (run, found, stable) = (status.run.as_ref()?, status.found.as_ref()?, status.stable.as_ref()?);
    matches!(run.state, RunState::Preparing { .. }).then(|| BaselineWindow {
        run: run.id.clone(),
        until: run.started.as_millis().div_euclid(1_000),
        interval: interval_seconds(run.spec.interval),
        source: run.spec.source.clone(),
        provider: found.provider.clone(),
        arms: arms(rollout, found, stable),
        share: run.spec.auto_max,
    })
}

fn arms(rollout: &RolloutView, found: &Found, stable: &Stable) -> Arms {
    Arms {
        namespace: rollout.namespace.clone(),
        stable_service: found.stable_service.clone(),
        canary_service: found.canary_service.clone(),
        port: found.port,
        routes: rollout.routes().iter().map(|route| route.name.clone()).collect(),
        stable_replica_set: stable.replica_set.clone(),
        canary_deployment: canary::name(&rollout.spec.workload.name),
    }
}

/// Whether there are counts to read that nobody has asked for yet: after a change of leader what is known is of before it, and nothing goes
/// on by it.
pub fn is_unread(input: &Input<'_>) -> bool {
    *input.source == SourceHealth::Untried && window(input.rollout).is_some()
}

/// The length of an interval in whole seconds.
pub fn interval_seconds(interval: Span) -> u32 {
    u32::try_from(interval.as_millis() / 1_000).unwrap_or(u32::MAX).max(1)
}
