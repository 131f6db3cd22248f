//! A run on given traffic, from its first weight to its end: the operator's own `judge`, with its clock, its steps and what it does on
//! each verdict. What a person is told before a run, and what `make calibrate` measures, is found by it.
//!
//! Pure: chance is the caller's ([`Traffic`]). What `state/{stepping,retreated}.rs` do with a verdict is done here by the second: a pass
//! bakes, then the next weight comes; a retreat keeps the run and comes back when stable is well. Gateways accept a weight within a second,
//! pods are there at once, and a person approves at once. What `onInconclusive` and `onNoData` do is not rehearsed.

use stepgate_crds::{
    evidence::Evidence,
    rollout::{Approval, Step},
    units::Span,
};

use crate::{
    Limits,
    verdict::{self, Counts, DataError, Interval, Judgement, Moment, Observation, RetreatCause, Settings, Verdict},
};

mod quiet;
#[cfg(test)]
mod tests;

pub use quiet::Needs;

/// From the intent of a weight to its acceptance, in seconds.
const ACCEPTANCE: i64 = 1;

/// What comes to both versions, and what the metrics source says of it.
pub trait Traffic {
    /// Both versions in a stretch of seconds in which the canary has one weight, in percent: one entry for each metric, in the order of
    /// the settings. Stretches come in their order.
    fn counts(&mut self, from: i64, to: i64, weight: u32) -> Vec<Counts>;

    /// The canary has come to a weight, which is accepted at this second. True where the run's time is counted from here on.
    fn entered(&mut self, _weight: u32, _accepted: i64) -> bool {
        false
    }

    /// What the source says of the interval that ends at this second, or why it says nothing.
    fn read(&mut self, _end: i64, counts: Vec<Counts>) -> Result<Vec<Observation>, DataError> {
        Ok(counts.into_iter().map(Observation::Counts).collect())
    }
}

/// All that runs of one kind share.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The steps.
    pub steps: &'a [Step],
    /// The verdict's parameters at each of them; the last also for those after it.
    pub settings: &'a [Settings],
    /// What a pass takes at each of them, by [`Needs::of`]; none to ask after every interval.
    pub needs: Option<&'a [Needs]>,
    /// The operator's constants: `interval`, `settle`, `bake` and `warm_up` are the run's.
    pub limits: &'a Limits,
    /// A run that is not decided after so many seconds is left undecided.
    pub longest: i64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All of the traffic goes to the new version.
    Promoted,
    /// The new version was taken back.
    RolledBack,
    /// A person is asked: it has retreated too often.
    Person,
    /// Neither, after the limit.
    Undecided,
}

/// A run that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub end: End,
    /// Seconds from its first traffic, or from where its time was counted, to its end.
    pub seconds: i64,
    /// How often all traffic went back to stable without a verdict against the version.
    pub retreats: u32,
    /// The weight that it ended at, in percent.
    pub weight: u32,
    /// Where it was rolled back: whole intervals at that weight that were counted until then.
    pub intervals: u64,
    /// How many seconds each step that was passed took, from the acceptance of its weight (the last, where it was entered again).
    pub passed: Vec<i64>,
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

/// A run on its way.
#[derive(Debug)]
pub struct Rehearsal<'a, T> {
    rules: Rules<'a>,
    traffic: T,
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
    /// When this step's weight was accepted, and when its bake is over.
    accepted: i64,
    baked: i64,
    /// Intervals that were not handed over yet.
    waiting: Vec<Interval>,
    retreats: i32,
    silences: i32,
    passed: Vec<i64>,
}

impl<'a, T: Traffic> Rehearsal<'a, T> {
    /// A run whose first weight is accepted so many seconds (fewer than it has) after the beginning of an interval.
    #[must_use]
    pub fn new(rules: Rules<'a>, traffic: T, offset: i64) -> Self {
        let interval = seconds(rules.limits.interval).max(1);
        let start = interval + offset.clamp(0, interval - 1);
        let nothing = Settings::new(Vec::new(), 1);
        let mut rehearsal = Self {
            evidence: verdict::begin(rules.settings.first().unwrap_or(&nothing), interval),
            rules,
            traffic,
            moment: Moment::default(),
            last: None,
            state: State::Stepping,
            step: 0,
            weights: vec![(0, 0)],
            start,
            next_end: 2 * interval,
            accepted: start,
            baked: 0,
            waiting: Vec::new(),
            retreats: 0,
            silences: 0,
            passed: Vec::new(),
        };
        rehearsal.enter(0, start - ACCEPTANCE);
        rehearsal
    }

    /// Until it ends; the traffic comes back with what it remembers.
    pub fn run(mut self) -> (Ended, T) {
        let lag = seconds(self.rules.limits.readable_after());
        let mut baking = false;
        let ended = loop {
            let now = self.next_end + lag;
            if baking && self.baked < now {
                baking = false;
                if let Some(ended) = self.advance(self.baked) {
                    break ended;
                }
                continue;
            }
            if now - self.start > self.rules.longest {
                break self.ended(End::Undecided, now);
            }
            self.read();
            if self.is_unjudged() {
                // A person's decision alone.
                baking = true;
                continue;
            }
            if self.is_quiet() {
                continue;
            }
            let verdict = self.judge();
            baking = self.state == State::Stepping && verdict == Verdict::Pass && now < self.baked;
            let ended = match (self.state, verdict) {
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
            if let Some(ended) = ended {
                break ended;
            }
        };
        (ended, self.traffic)
    }

    fn settings(&self) -> Option<&'a Settings> {
        let settings = self.rules.settings;
        settings.get(self.step).or_else(|| settings.last())
    }

    /// The step's weight is asked for now.
    fn enter(&mut self, step: usize, now: i64) {
        let of_step = self.rules.steps.get(step);
        let weight = of_step.map_or(100, |step| u32::try_from(step.weight).unwrap_or(0));
        let bake = of_step.and_then(|step| step.bake).unwrap_or(self.rules.limits.bake);
        self.state = State::Stepping;
        self.step = step;
        self.accept(weight, now + ACCEPTANCE);
        self.accepted = now + ACCEPTANCE;
        self.baked = self.accepted + seconds(self.rules.limits.settle) + seconds(bake);
        if self.traffic.entered(weight, self.accepted) {
            self.start = self.accepted;
        }
    }

    /// As `Pass::accepted` and `Pass::judge` have it.
    fn accept(&mut self, weight: u32, accepted: i64) {
        let limits = self.rules.limits;
        let step = u32::try_from(self.step).unwrap_or(0);
        let counts_from = accepted + seconds(limits.settle.max(limits.readable_after()));
        let grows = self.weights.iter().all(|(_, before)| *before < weight);
        self.weights.push((accepted, weight));
        if let Some(settings) = self.settings() {
            self.evidence = verdict::enter_step(&self.evidence, settings, step);
        }
        self.last = None;
        self.moment = Moment {
            step,
            weight_percent: weight,
            accepted: Some(if weight == 0 {
                counts_from + seconds(limits.interval)
            } else {
                accepted
            }),
            counts_from,
            warm_from: if grows {
                accepted + seconds(limits.warm_up)
            } else {
                self.moment.warm_from
            },
            ..Moment::default()
        };
    }

    /// A person has nothing to approve, or does so at once: on to the next weight, or promoted.
    fn advance(&mut self, now: i64) -> Option<Ended> {
        self.passed.truncate(self.step);
        self.passed.push(now - self.accepted);
        if self.step + 1 >= self.rules.steps.len() {
            return Some(self.ended(End::Promoted, now));
        }
        self.enter(self.step + 1, now);
        None
    }

    fn retreat(&mut self, cause: &RetreatCause, now: i64) -> Option<Ended> {
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
        let enough = i64::from(self.rules.limits.well_intervals) * seconds(self.rules.limits.interval);
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
        let counts = self.until(end);
        self.next_end += seconds(self.rules.limits.interval).max(1);
        match self.traffic.read(end, counts) {
            Ok(metrics) => {
                self.moment.unavailable = None;
                self.waiting.push(Interval {
                    end,
                    seconds: u32::try_from(seconds(self.rules.limits.interval)).unwrap_or(u32::MAX),
                    metrics,
                });
            }
            Err(why) => self.moment.unavailable = Some(why),
        }
    }

    /// Traffic of the interval up to `end`, at each weight that was in force in it.
    fn until(&mut self, end: i64) -> Vec<Counts> {
        let begin = self.next_end - seconds(self.rules.limits.interval).max(1);
        let mut sum: Vec<Counts> = Vec::new();
        for at in 0..self.weights.len() {
            let Some((from, weight)) = self.weights.get(at).copied() else {
                continue;
            };
            let to = self.weights.get(at + 1).map_or(end, |(next, _)| *next);
            if from.max(begin) < to.min(end) {
                add(&mut sum, self.traffic.counts(from.max(begin), to.min(end), weight));
            }
        }
        let surplus = self.weights.iter().skip(1).take_while(|(from, _)| *from <= end).count();
        self.weights.drain(..surplus);
        sum
    }

    /// Whether this step waits for a person alone: nothing is judged at 0 %.
    fn is_unjudged(&self) -> bool {
        let step = self.rules.steps.get(self.step);
        self.state == State::Stepping
            && step.is_some_and(|step| step.weight == 0 && step.approval == Some(Approval::Required))
    }

    fn is_quiet(&self) -> bool {
        let needs = self
            .rules
            .needs
            .and_then(|needs| needs.get(self.step).or_else(|| needs.last()));
        let (Some(needs), Some(last), Some(settings)) = (needs, &self.last, self.settings()) else {
            return false;
        };
        self.state == State::Stepping
            && self.moment.unavailable.is_none()
            && quiet::is_quiet(last, &self.waiting, settings, needs, self.moment.weight_percent)
    }

    fn judge(&mut self) -> Verdict {
        let nothing = Settings::new(Vec::new(), 1);
        let settings = self.settings().unwrap_or(&nothing);
        let judgement = verdict::judge(&self.evidence, &self.waiting, settings, &self.moment, None);
        self.waiting.clear();
        self.evidence.clone_from(&judgement.evidence);
        self.last.insert(judgement).verdict.clone()
    }

    fn ended(&mut self, end: End, now: i64) -> Ended {
        // What the new version serves until its weight is taken back.
        if end == End::RolledBack {
            self.until(now + ACCEPTANCE);
        }
        let interval = u64::try_from(seconds(self.rules.limits.interval)).unwrap_or(1).max(1);
        Ended {
            end,
            seconds: now - self.start,
            retreats: u32::try_from(self.retreats).unwrap_or(0),
            weight: self.moment.weight_percent,
            // Elsewhere some may not have been handed over yet.
            intervals: self
                .evidence
                .metrics
                .first()
                .filter(|_| end == End::RolledBack)
                .map_or(0, |metric| metric.step.seconds / interval),
            passed: std::mem::take(&mut self.passed),
        }
    }
}

fn add(sum: &mut Vec<Counts>, more: Vec<Counts>) {
    if sum.is_empty() {
        *sum = more;
        return;
    }
    for (sum, more) in sum.iter_mut().zip(more) {
        for (sum, more) in [(&mut sum.canary, more.canary), (&mut sum.stable, more.stable)] {
            sum.requests += more.requests;
            sum.bad += more.bad;
        }
    }
}

fn seconds(span: Span) -> i64 {
    span.as_millis() / 1_000
}
