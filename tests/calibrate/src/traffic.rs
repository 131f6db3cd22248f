//! Simulated services: what happens to one during a rollout, and the counts that a gateway would see of it.
//!
//! Requests come as a Poisson process, so each version's share of them does too; bad ones are binomial, or come in clumps. Both are drawn
//! for a stretch of time at one weight, never request by request. Everything that chance decides comes from the one generator of a run.

use std::ops::AddAssign;

use rand_distr::{Binomial, Distribution, Poisson, Uniform};
use rand_pcg::Pcg64Mcg;
use stepgate_core::verdict::dispersion::Pods;
use stepgate_crds::evidence::Tally;

/// A shared outage takes so long, in seconds.
pub(crate) const OUTAGE_SECONDS: i64 = 360;
/// In an outage so many of all requests fail.
pub(crate) const OUTAGE_SHARE: f64 = 0.05;
/// Bad requests of a clump, the fewest and the most.
pub(crate) const CLUMP: (u64, u64) = (3, 10);
/// Pods of the stable version, for its history.
const PODS: usize = 5;

/// Shares of bad requests of one version.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shares {
    /// Of requests that fail.
    pub(crate) errors: f64,
    /// Of requests that are slower than the limit.
    pub(crate) slow: f64,
}

/// What happens during the rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Course {
    /// Nothing: the shares stay.
    Steady,
    /// Both versions fail alike for a time, from a random moment of a step under 100 % on.
    SharedOutage,
    /// The canary is as good as stable until it has all of the traffic.
    BreaksAtFullWeight,
    /// From a random moment of a step under 100 % on the metrics cannot be read any more.
    SourceFails,
}

/// A kind of rollout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scenario {
    /// As the tables call it.
    pub(crate) name: &'static str,
    /// Whether the new version should be promoted.
    pub(crate) healthy: bool,
    /// The stable version.
    pub(crate) stable: Shares,
    /// The new version.
    pub(crate) canary: Shares,
    /// The tolerated share of errors; of slow requests it is 1 %.
    pub(crate) max_errors: f64,
    /// Whether bad requests come in clumps.
    pub(crate) clumped: bool,
    /// What happens.
    pub(crate) course: Course,
}

impl Scenario {
    /// The bad requests that this scenario is about.
    pub(crate) fn bad(&self, seen: Seen) -> u64 {
        if self.canary.slow > self.stable.slow {
            seen.slow
        } else {
            seen.errors
        }
    }
}

/// Requests of one version, and the bad ones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// All.
    pub(crate) requests: u64,
    /// Those that failed.
    pub(crate) errors: u64,
    /// Those that were slow.
    pub(crate) slow: u64,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.slow += other.slow;
    }
}

/// Both versions in a stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Both {
    /// The new version.
    pub(crate) canary: Seen,
    /// The version that it is compared with.
    pub(crate) stable: Seen,
}

impl AddAssign for Both {
    fn add_assign(&mut self, other: Self) {
        self.canary += other.canary;
        self.stable += other.stable;
    }
}

/// One service during one rollout.
#[derive(Debug)]
pub(crate) struct Service<'a> {
    scenario: &'a Scenario,
    /// Requests a second.
    rate: f64,
    random: Pcg64Mcg,
    /// The weights under 100 % that have been entered, and on which of them the event of the course comes.
    entered: u64,
    event_at_entry: u64,
    /// When the event of the course comes, once that is known.
    event: Option<i64>,
}

impl<'a> Service<'a> {
    /// A service with so many requests a second; the tool has so many steps under 100 %.
    pub(crate) fn new(scenario: &'a Scenario, rate: f64, steps_under_full: u64, mut random: Pcg64Mcg) -> Self {
        let event_at_entry = below(&mut random, steps_under_full.max(1)) + 1;
        Self {
            scenario,
            rate,
            random,
            entered: 0,
            event_at_entry,
            event: None,
        }
    }

    /// A whole number from 0 on, below a limit.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        below(&mut self.random, limit)
    }

    /// The tool has brought the canary to a weight, at this second. The event of the course comes in the first minute of a step.
    pub(crate) fn entered(&mut self, weight: u32, now: i64) {
        if weight == 0 || weight >= 100 {
            return;
        }
        self.entered += 1;
        if self.event.is_none() && self.entered == self.event_at_entry {
            self.event = Some(now + i64::try_from(self.below(60)).unwrap_or(0));
        }
    }

    /// Whether the metrics can be read no more.
    pub(crate) fn source_is_down(&self, now: i64) -> bool {
        self.scenario.course == Course::SourceFails && self.event.is_some_and(|event| now >= event)
    }

    /// What comes in a stretch of time in which the canary has one weight, in per cent.
    pub(crate) fn traffic(&mut self, from: i64, to: i64, weight: u32) -> Both {
        let mut sum = Both::default();
        let mut cuts = vec![from];
        if let Some(event) = self.event.filter(|_| self.scenario.course == Course::SharedOutage) {
            cuts.extend(
                [event, event + OUTAGE_SECONDS]
                    .into_iter()
                    .filter(|cut| (from + 1..to).contains(cut)),
            );
        }
        cuts.push(to);
        for stretch in cuts.windows(2) {
            if let [from, to] = stretch {
                sum += self.stretch(*from, *to, weight);
            }
        }
        sum
    }

    /// A stretch that lies wholly inside or outside an outage.
    fn stretch(&mut self, from: i64, to: i64, weight: u32) -> Both {
        let seconds = f64::from(i32::try_from(to - from).unwrap_or(0));
        let share = f64::from(weight.min(100)) / 100.0;
        let (mut canary, mut stable) = (self.scenario.canary, self.scenario.stable);
        let out = self
            .event
            .is_some_and(|event| (event..event + OUTAGE_SECONDS).contains(&from));
        match self.scenario.course {
            Course::SharedOutage if out => (canary.errors, stable.errors) = (OUTAGE_SHARE, OUTAGE_SHARE),
            Course::BreaksAtFullWeight if weight < 100 => canary = stable,
            _ => {}
        }
        Both {
            canary: self.version(self.rate * seconds * share, canary),
            stable: self.version(self.rate * seconds * (1.0 - share), stable),
        }
    }

    fn version(&mut self, expected: f64, shares: Shares) -> Seen {
        let requests = poisson(&mut self.random, expected);
        if !self.scenario.clumped {
            return Seen {
                requests,
                errors: binomial(&mut self.random, requests, shares.errors),
                slow: binomial(&mut self.random, requests, shares.slow),
            };
        }
        // A clump brings its requests with it, such as those of one caller that tries again and again.
        let errors = self.clumps(expected * shares.errors);
        let slow = self.clumps(expected * shares.slow);
        Seen {
            requests: requests + errors + slow,
            errors,
            slow,
        }
    }

    /// So many bad requests are expected, and come in clumps.
    fn clumps(&mut self, expected: f64) -> u64 {
        let clumps = poisson(&mut self.random, expected / mean_clump());
        (0..clumps).map(|_| clump(&mut self.random)).sum()
    }

    /// Stable's errors on each of its pods in some hours before the rollout, by intervals of so many seconds; those without errors are
    /// left out.
    pub(crate) fn history(&mut self, hours: u32, interval: u32) -> Vec<Pods> {
        let intervals = hours * 3_600 / interval;
        let expected = self.rate * f64::from(interval);
        let share = self.scenario.stable.errors;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a few thousand requests"
        )]
        let of_pod = (expected / PODS as f64).round() as u64;
        let mut history = Vec::new();
        for _ in 0..intervals {
            let mut pods = vec![
                Tally {
                    requests: of_pod,
                    bad: 0
                };
                PODS
            ];
            if self.scenario.clumped {
                for _ in 0..poisson(&mut self.random, expected * share / mean_clump()) {
                    let at = usize::try_from(self.below(PODS as u64)).unwrap_or(0);
                    let bad = clump(&mut self.random);
                    if let Some(pod) = pods.get_mut(at) {
                        pod.requests += bad;
                        pod.bad += bad;
                    }
                }
            } else {
                for pod in &mut pods {
                    pod.bad = binomial(&mut self.random, of_pod, share);
                }
            }
            if pods.iter().any(|pod| pod.bad > 0) {
                history.push(Pods::of(&pods));
            }
        }
        history
    }
}

fn mean_clump() -> f64 {
    let (fewest, most) = CLUMP;
    (fewest + most) as f64 / 2.0
}

fn clump(random: &mut Pcg64Mcg) -> u64 {
    let (fewest, most) = CLUMP;
    fewest + below(random, most - fewest + 1)
}

fn below(random: &mut Pcg64Mcg, limit: u64) -> u64 {
    Uniform::new(0, limit.max(1)).map_or(0, |uniform| uniform.sample(random))
}

fn poisson(random: &mut Pcg64Mcg, mean: f64) -> u64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number that is not negative"
    )]
    Poisson::new(mean).map_or(0, |poisson| poisson.sample(random) as u64)
}

fn binomial(random: &mut Pcg64Mcg, number: u64, share: f64) -> u64 {
    Binomial::new(number, share).map_or(0, |binomial| binomial.sample(random))
}
