//! One simulated rollout under Stepgate: the operator's own `judge`, with its clock, its steps and what it does on each verdict.
//!
//! What `core/state/{stepping,retreated}.rs` do with a verdict is done here by the second: a pass bakes, then the next weight comes; a
//! retreat keeps the run and comes back when stable is well. Gateways accept a weight within a second.

use stepgate_core::Limits;
use stepgate_core::verdict::{
    self, Arm, Counts, DataError, Interval, Judgement, Moment, Observation, RetreatCause, Settings, Verdict,
};
use stepgate_crds::evidence::Evidence;
use stepgate_crds::units::Span;

use crate::outcome::{End, Outcome};
use crate::quiet::{Needs, is_quiet};
use crate::traffic::{Both, Course, Scenario, Service};

/// The length of an interval in seconds.
pub(crate) const INTERVAL: u32 = 15;
/// A rollout that is not decided after so many seconds is left undecided.
pub(crate) const LONGEST: i64 = 4 * 3_600;
/// From the intent of a weight to its acceptance, in seconds.
const ACCEPTANCE: i64 = 1;

/// The operator's defaults, with intervals of 15 s and scrapes every 5 s.
pub(crate) fn limits() -> Limits {
    Limits {
        interval: Span::seconds(u64::from(INTERVAL)),
        scrape: Span::seconds(5),
        ..Limits::default()
    }
}

/// All that rollouts of one kind share.
#[derive(Debug)]
pub(crate) struct Rules<'a> {
    /// What happens to the service.
    pub(crate) scenario: &'a Scenario,
    /// The verdict's parameters.
    pub(crate) settings: &'a Settings,
    /// The operator's constants.
    pub(crate) limits: &'a Limits,
    /// What a pass takes; none to ask after every interval.
    pub(crate) needs: Option<&'a Needs>,
}

/// What the run is doing.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Stepping,
    Retreated {
        silent: bool,
        since: i64,
        well_since: Option<i64>,
    },
}

/// A rollout on its way.
#[derive(Debug)]
pub(crate) struct Rollout<'a> {
    rules: &'a Rules<'a>,
    service: Service<'a>,
    evidence: Evidence,
    moment: Moment,
    last: Option<Judgement>,
    state: State,
    step: usize,
    /// Each weight with the second from which it is in force.
    weights: Vec<(i64, u32)>,
    /// From when on its time is counted.
    start: i64,
    next_end: i64,
    /// When the bake of this step is over.
    baked: i64,
    /// Intervals that were not handed over yet.
    waiting: Vec<Interval>,
    bad: u64,
    retreats: i32,
    silences: i32,
}

impl<'a> Rollout<'a> {
    /// A rollout whose first weight is accepted at a random second of an interval.
    pub(crate) fn new(rules: &'a Rules<'a>, mut service: Service<'a>) -> Self {
        let interval = i64::from(INTERVAL);
        let start = interval + i64::try_from(service.below(u64::from(INTERVAL))).unwrap_or(0);
        let mut rollout = Self {
            rules,
            service,
            evidence: verdict::begin(rules.settings, interval),
            moment: Moment::default(),
            last: None,
            state: State::Stepping,
            step: 0,
            weights: vec![(0, 0)],
            start,
            next_end: 2 * interval,
            baked: 0,
            waiting: Vec::new(),
            bad: 0,
            retreats: 0,
            silences: 0,
        };
        rollout.enter(0, start - ACCEPTANCE);
        rollout
    }

    /// Until it ends.
    pub(crate) fn run(mut self) -> Outcome {
        let lag = seconds(self.rules.limits.readable_after());
        let mut baking = false;
        loop {
            let now = self.next_end + lag;
            if baking && self.baked < now {
                baking = false;
                if let Some(outcome) = self.advance(self.baked) {
                    return outcome;
                }
                continue;
            }
            if now - self.start > LONGEST {
                return self.ended(End::Undecided, now);
            }
            self.read();
            if self.is_quiet() {
                continue;
            }
            let verdict = self.judge();
            baking = self.state == State::Stepping && verdict == Verdict::Pass && now < self.baked;
            let outcome = match (self.state, verdict) {
                (_, Verdict::Fail(_)) => Some(self.ended(End::RolledBack, now)),
                (State::Stepping, Verdict::Pass) if !baking => self.advance(now),
                (State::Stepping, Verdict::Retreat(cause)) => self.retreat(&cause, now),
                (State::Stepping, _) => None,
                (
                    State::Retreated {
                        silent: true, since, ..
                    },
                    _,
                ) => {
                    if now >= since + seconds(self.rules.limits.silence) {
                        self.enter(0, now);
                    }
                    None
                }
                (State::Retreated { since, well_since, .. }, _) => {
                    self.wait_for_stable(since, well_since, now);
                    None
                }
            };
            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }

    /// The step's weight is asked for now.
    fn enter(&mut self, step: usize, now: i64) {
        let weight = self.rules.limits.ladder.get(step).copied().unwrap_or(100);
        let weight = u32::try_from(weight).unwrap_or(0);
        self.state = State::Stepping;
        self.step = step;
        self.accept(weight, now + ACCEPTANCE);
        self.baked = now + ACCEPTANCE + seconds(self.rules.limits.settle) + seconds(self.rules.limits.bake);
        if weight >= 100 && self.rules.scenario.course == Course::BreaksAtFullWeight {
            (self.start, self.bad) = (now + ACCEPTANCE, 0);
        }
        self.service.entered(weight, now + ACCEPTANCE);
    }

    /// As `Pass::accepted` and `Pass::judge` have it.
    fn accept(&mut self, weight: u32, accepted: i64) {
        let Rules { settings, limits, .. } = self.rules;
        let step = u32::try_from(self.step).unwrap_or(0);
        let counts_from = accepted + seconds(limits.settle.max(limits.readable_after()));
        self.weights.push((accepted, weight));
        self.evidence = verdict::enter_step(&self.evidence, settings, step);
        self.last = None;
        self.moment = Moment {
            step,
            weight_percent: weight,
            accepted: Some(if weight == 0 {
                counts_from + i64::from(INTERVAL)
            } else {
                accepted
            }),
            counts_from,
            ..Moment::default()
        };
    }

    /// A person has nothing to approve: on to the next weight, or promoted.
    fn advance(&mut self, now: i64) -> Option<Outcome> {
        if self.step + 1 >= self.rules.limits.ladder.len() {
            return Some(self.ended(End::Promoted, now));
        }
        self.enter(self.step + 1, now);
        None
    }

    fn retreat(&mut self, cause: &RetreatCause, now: i64) -> Option<Outcome> {
        let silent = matches!(cause, RetreatCause::CanarySilent { .. });
        self.retreats += 1;
        self.silences += i32::from(silent);
        if self.retreats >= self.rules.limits.patience || self.silences > 1 {
            return Some(self.ended(End::Person, now));
        }
        self.state = State::Retreated {
            silent,
            since: now,
            well_since: None,
        };
        self.accept(0, now + ACCEPTANCE);
        None
    }

    /// Back to the step once stable has been well for so many intervals.
    fn wait_for_stable(&mut self, since: i64, well_since: Option<i64>, now: i64) {
        let is_well =
            self.evidence.metrics.iter().all(|metric| {
                metric.stable_over_since.is_none() && metric.trouble.is_none() && metric.idle_seconds == 0
            });
        let enough = i64::from(self.rules.limits.well_intervals) * i64::from(INTERVAL);
        let well_since = match (is_well, well_since) {
            (true, Some(well)) if now >= well + enough => {
                self.enter(self.step, now);
                return;
            }
            (true, well) => well.or(Some(now)),
            (false, _) => None,
        };
        self.state = State::Retreated {
            silent: false,
            since,
            well_since,
        };
    }

    /// The interval that is next: its traffic, and what the source says of it.
    fn read(&mut self) {
        let end = self.next_end;
        let both = self.until(end);
        self.next_end += i64::from(INTERVAL);
        if self.service.source_is_down(end) {
            // Either nothing answers any more, or one of the two queries fails: which, hangs on the second it began.
            if self.start % 2 == 0 {
                self.moment.unavailable = Some(DataError::unreadable("the source does not answer"));
                return;
            }
            let failed = Observation::Error(DataError::unreadable("the query failed"));
            let counts = observations(&both).into_iter().next();
            self.waiting.push(Interval {
                end,
                seconds: INTERVAL,
                metrics: counts.into_iter().chain([failed]).collect(),
            });
            return;
        }
        self.waiting.push(Interval {
            end,
            seconds: INTERVAL,
            metrics: observations(&both).into(),
        });
    }

    /// Traffic of the interval up to `end`, at each weight that was in force in it.
    fn until(&mut self, end: i64) -> Both {
        let begin = self.next_end - i64::from(INTERVAL);
        let mut sum = Both::default();
        for at in 0..self.weights.len() {
            let Some((from, weight)) = self.weights.get(at).copied() else {
                continue;
            };
            let to = self.weights.get(at + 1).map_or(end, |(next, _)| *next);
            if from.max(begin) < to.min(end) {
                sum += self.service.traffic(from.max(begin), to.min(end), weight);
            }
        }
        let surplus = self.weights.iter().skip(1).take_while(|(from, _)| *from <= end).count();
        self.weights.drain(..surplus);
        self.bad += self.rules.scenario.bad(sum.canary);
        sum
    }

    fn is_quiet(&self) -> bool {
        let (Some(needs), Some(last)) = (self.rules.needs, &self.last) else {
            return false;
        };
        self.state == State::Stepping
            && self.moment.unavailable.is_none()
            && is_quiet(
                last,
                &self.waiting,
                self.rules.settings,
                needs,
                self.moment.weight_percent,
            )
    }

    fn judge(&mut self) -> Verdict {
        let judgement = verdict::judge(&self.evidence, &self.waiting, self.rules.settings, &self.moment, None);
        self.waiting.clear();
        self.evidence.clone_from(&judgement.evidence);
        self.last.insert(judgement).verdict.clone()
    }

    fn ended(&mut self, end: End, now: i64) -> Outcome {
        // What the new version serves until its weight is taken back.
        if end == End::RolledBack {
            self.until(now + ACCEPTANCE);
        }
        Outcome {
            end,
            seconds: now - self.start,
            bad: self.bad,
            retreats: u32::try_from(self.retreats).unwrap_or(0),
            weight: self.moment.weight_percent,
            // Elsewhere some may not have been handed over yet.
            intervals: self
                .evidence
                .metrics
                .first()
                .filter(|_| end == End::RolledBack)
                .map_or(0, |metric| metric.step.seconds / u64::from(INTERVAL)),
        }
    }
}

fn observations(both: &Both) -> [Observation; 2] {
    let arm = |requests: u64, bad: u64| Arm {
        requests: requests as f64,
        bad: bad as f64,
    };
    let Both { canary, stable } = both;
    [
        Observation::Counts(Counts {
            canary: arm(canary.requests, canary.errors),
            stable: arm(stable.requests, stable.errors),
        }),
        Observation::Counts(Counts {
            canary: arm(canary.requests, canary.slow),
            stable: arm(stable.requests, stable.slow),
        }),
    ]
}

fn seconds(span: Span) -> i64 {
    span.as_millis() / 1_000
}
