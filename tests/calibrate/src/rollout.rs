//! One simulated rollout under Stepgate: the core's rehearsal of a run, on the traffic of a scenario.

use stepgate_core::Limits;
use stepgate_core::rehearsal::{Needs, Rehearsal, Rules, Traffic};
use stepgate_core::verdict::{Arm, Counts, DataError, Observation, Settings};
use stepgate_crds::rollout::Step;
use stepgate_crds::units::Span;

use crate::outcome::Outcome;
use crate::traffic::{Both, Course, Scenario, Seen, Service};

/// The length of an interval in seconds.
pub(crate) const INTERVAL: u32 = 15;
/// A rollout that is not decided after so many seconds is left undecided.
pub(crate) const LONGEST: i64 = 4 * 3_600;

/// The operator's defaults, with intervals of 15 s and scrapes every 5 s.
pub(crate) fn limits() -> Limits {
    Limits {
        interval: Span::seconds(u64::from(INTERVAL)),
        scrape: Span::seconds(5),
        ..Limits::default()
    }
}

/// Rollouts that are judged by the same settings.
#[derive(Debug)]
pub(crate) struct Rollouts<'a> {
    limits: &'a Limits,
    steps: Vec<Step>,
    settings: [Settings; 1],
    needs: Option<[Needs; 1]>,
}

impl<'a> Rollouts<'a> {
    /// Over the default ladder. `always`: the verdict is asked for after every interval, also where it cannot have changed.
    pub(crate) fn new(settings: Settings, limits: &'a Limits, always: bool) -> Self {
        let steps = limits.ladder.iter().map(|weight| Step {
            weight: *weight,
            bake: None,
            approval: None,
            analysis: None,
        });
        Self {
            limits,
            steps: steps.collect(),
            needs: (!always).then(|| [Needs::of(&settings)]),
            settings: [settings],
        }
    }

    /// One whose first weight is accepted at a random second of an interval.
    pub(crate) fn one(&self, scenario: &Scenario, mut service: Service<'_>) -> Outcome {
        let offset = i64::try_from(service.below(u64::from(INTERVAL))).unwrap_or(0);
        let rules = Rules {
            steps: &self.steps,
            settings: &self.settings,
            needs: self.needs.as_ref().map(<[Needs; 1]>::as_slice),
            limits: self.limits,
            longest: LONGEST,
        };
        let counted = Counted {
            scenario,
            service,
            // Either nothing answers any more, or one of the two queries fails: which, hangs on the second it began.
            falls_silent: (i64::from(INTERVAL) + offset) % 2 == 0,
            bad: 0,
        };
        let (ended, counted) = Rehearsal::new(rules, counted, offset).run();
        Outcome {
            end: ended.end,
            seconds: ended.seconds,
            bad: counted.bad,
            retreats: ended.retreats,
            weight: ended.weight,
            intervals: ended.intervals,
        }
    }
}

/// A scenario's service, and the bad requests that its new version has served.
#[derive(Debug)]
struct Counted<'a> {
    scenario: &'a Scenario,
    service: Service<'a>,
    falls_silent: bool,
    bad: u64,
}

impl Traffic for Counted<'_> {
    fn counts(&mut self, from: i64, to: i64, weight: u32) -> Vec<Counts> {
        let both = self.service.traffic(from, to, weight);
        self.bad += self.scenario.bad(both.canary);
        counts(both).into()
    }

    fn entered(&mut self, weight: u32, accepted: i64) -> bool {
        let begins = weight >= 100 && self.scenario.course == Course::BreaksAtFullWeight;
        if begins {
            self.bad = 0;
        }
        self.service.entered(weight, accepted);
        begins
    }

    fn read(&mut self, end: i64, counts: Vec<Counts>) -> Result<Vec<Observation>, DataError> {
        let counts = counts.into_iter().map(Observation::Counts);
        if !self.service.source_is_down(end) {
            return Ok(counts.collect());
        }
        if self.falls_silent {
            return Err(DataError::unreadable("the source does not answer"));
        }
        let failed = Observation::Error(DataError::unreadable("the query failed"));
        Ok(counts.take(1).chain([failed]).collect())
    }
}

fn counts(both: Both) -> [Counts; 2] {
    let Both { canary, stable } = both;
    let of = |bad: fn(Seen) -> u64| Counts {
        canary: arm(canary.requests, bad(canary)),
        stable: arm(stable.requests, bad(stable)),
    };
    [of(|seen| seen.errors), of(|seen| seen.slow)]
}

fn arm(requests: u64, bad: u64) -> Arm {
    Arm {
        requests: requests as f64,
        bad: bad as f64,
    }
}
