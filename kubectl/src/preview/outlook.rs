//! What is to be expected at a rate of requests: how long each step takes, and which regressions are found. By the core's own pass test, and
//! by rehearsals of whole runs on its own `judge`.
//!
//! Pure: chance begins with a fixed seed, so the same question has the same answer.

use rand_distr::{Binomial, Distribution, Poisson, Uniform};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;
use stepgate_core::rehearsal::{End, Ended, Needs, Rehearsal, Rules};
use stepgate_core::verdict::{Arm, Counts, requests_for_a_pass};
use stepgate_core::{Limits, rehearsal};
use stepgate_crds::rollout::Approval;
use stepgate_crds::units::Span;

use super::Plan;
use super::traffic::Traffic;

/// Chance begins with it.
pub(crate) const SEED: u64 = 1;
/// Rehearsals of each version where one rate is asked for, and where several are.
const RUNS: u32 = 200;
const RUNS_OF_MANY: u32 = 50;
/// A rehearsal that is not decided after so many seconds is left undecided.
pub(crate) const LONGEST: i64 = 4 * 3_600;
/// Regressions by how many times as bad as stable they are.
const TIMES: [f64; 3] = [2.0, 5.0, 10.0];
/// And by how many times the max.
const TIMES_MAX: f64 = 2.0;

/// What is to be expected at one rate.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outlook {
    /// Requests a second.
    pub(crate) rate: f64,
    /// Each step, for a version that is as bad as stable.
    pub(crate) steps: Vec<Expected>,
    /// A version that is as bad as stable.
    pub(crate) healthy: Rehearsed,
    /// Versions that are worse.
    pub(crate) regressions: Vec<Rehearsed>,
}

/// What a step takes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Expected {
    /// Canary requests that the pass of the metric that takes the most of them takes; none where no number would do.
    pub(crate) requests: Option<u64>,
    /// Seconds from the acceptance of its weight until it has passed; none where no number of requests would do, or none come.
    pub(crate) seconds: Option<i64>,
    /// Whether a person has to promote after that.
    pub(crate) approval: bool,
}

/// What became of many runs of one version.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Rehearsed {
    /// The metric that is worse than stable's; none where none is.
    pub(crate) metric: Option<String>,
    /// The share of its requests that are bad, from 0 to 1.
    pub(crate) share: f64,
    /// How many times stable's that is; none where stable has none.
    pub(crate) times_stable: Option<f64>,
    /// How often it was rehearsed.
    pub(crate) runs: u32,
    /// How many runs were rolled back, promoted, or still held after [`LONGEST`] (or by a person's decision).
    pub(crate) rolled_back: u32,
    /// See above.
    pub(crate) promoted: u32,
    /// See above.
    pub(crate) held: u32,
    /// The median seconds until a rollback.
    pub(crate) seconds_to_rollback: Option<i64>,
    /// The median seconds until a promotion.
    pub(crate) seconds_to_promotion: Option<i64>,
    /// The median number of bad requests that the new version served until a rollback.
    pub(crate) bad_until_rollback: Option<u64>,
}

/// At each rate.
pub(crate) fn outlooks(plan: &Plan, traffic: &Traffic) -> Vec<Outlook> {
    let runs = if traffic.rates.len() == 1 { RUNS } else { RUNS_OF_MANY };
    let needs: Vec<Needs> = plan.settings.iter().map(Needs::of).collect();
    traffic
        .rates
        .iter()
        .map(|rate| {
            let rehearse = |worse: Option<(usize, f64)>| rehearsed(plan, &needs, traffic, *rate, worse, runs);
            Outlook {
                rate: *rate,
                steps: (0..plan.spec.steps.len())
                    .map(|at| expected(plan, traffic, *rate, at))
                    .collect(),
                healthy: rehearse(None),
                regressions: regressions(plan, traffic)
                    .into_iter()
                    .map(|worse| rehearse(Some(worse)))
                    .collect(),
            }
        })
        .collect()
}

/// Which metric is how bad: errors by stable's share and by the max, slow requests by the max.
fn regressions(plan: &Plan, traffic: &Traffic) -> Vec<(usize, f64)> {
    let mut worse = Vec::new();
    let metrics = plan.settings.first().map_or(&[][..], |settings| &settings.metrics);
    for (at, (metric, stable)) in metrics.iter().zip(&traffic.shares).enumerate() {
        let times = TIMES.iter().filter(|_| at == 0).map(|times| times * stable);
        let mut shares: Vec<f64> = times
            .chain([metric.max * TIMES_MAX])
            .map(|share| share.min(1.0))
            .collect();
        shares.sort_by(f64::total_cmp);
        shares.dedup_by(|one, other| (*one - *other).abs() < 0.05 * *other);
        worse.extend(
            shares
                .into_iter()
                .filter(|share| *share > *stable)
                .map(|share| (at, share)),
        );
    }
    worse
}

/// What a step takes at this rate: its bake, or as many intervals as give the requests of a pass.
fn expected(plan: &Plan, traffic: &Traffic, rate: f64, at: usize) -> Expected {
    let step = plan.spec.steps.get(at);
    let approval = step.is_some_and(|step| step.approval == Some(Approval::Required));
    let weight = step.map_or(0, |step| step.weight);
    let Limits {
        interval, settle, bake, ..
    } = plan.limits;
    let bake = seconds(settle) + seconds(step.and_then(|step| step.bake).unwrap_or(bake));
    if weight == 0 && approval {
        return Expected {
            requests: Some(0),
            seconds: Some(bake),
            approval,
        };
    }
    let needs = plan.settings.get(at).map(|settings| {
        let metrics = settings.metrics.iter().zip(&traffic.shares);
        let each = metrics.map(|(metric, share)| requests_for_a_pass(metric, settings, *share));
        each.collect::<Option<Vec<u64>>>()
    });
    let requests = needs.flatten().and_then(|needs| needs.into_iter().max());
    let an_interval = rate * f64::from(weight) / 100.0 * as_f64(seconds(interval));
    let seconds = requests.filter(|_| an_interval > 0.0).map(|requests| {
        let readable = plan.limits.readable_after();
        let waits = plan
            .settings
            .get(at)
            .is_some_and(|settings| settings.metrics.iter().any(|metric| metric.warms_up));
        let warm = if waits { plan.limits.warm_up } else { Span::default() };
        let begins = settle.max(readable).max(warm);
        // On average half an interval goes by until the first that counts begins.
        let whole =
            ceil(as_f64(i64::try_from(requests).unwrap_or(i64::MAX)) / an_interval).saturating_mul(seconds(interval));
        bake.max(whole.saturating_add(seconds(begins) + seconds(interval) / 2 + seconds(readable)))
    });
    Expected {
        requests,
        seconds,
        approval,
    }
}

fn rehearsed(
    plan: &Plan,
    needs: &[Needs],
    traffic: &Traffic,
    rate: f64,
    worse: Option<(usize, f64)>,
    runs: u32,
) -> Rehearsed {
    let mut canary = traffic.shares.clone();
    if let Some((at, share)) = worse
        && let Some(own) = canary.get_mut(at)
    {
        *own = share;
    }
    let at = worse.map_or(0, |(at, _)| at);
    let stable = traffic.shares.get(at).copied().unwrap_or_default();
    let share = canary.get(at).copied().unwrap_or_default();
    let rules = Rules {
        steps: &plan.spec.steps,
        settings: &plan.settings,
        needs: Some(needs),
        limits: &plan.limits,
        longest: LONGEST,
    };
    let ended: Vec<(Ended, u64)> = (0..runs)
        .map(|run| {
            let mut chance = Chance {
                rate,
                stable: &traffic.shares,
                canary: &canary,
                random: Pcg64Mcg::new((u128::from(SEED) << 64) | (u128::from(run) << 1) | 1),
                counted: at,
                bad: 0,
            };
            let offset = chance.below(seconds(plan.limits.interval));
            let (ended, chance) = Rehearsal::new(rules, chance, offset).run();
            (ended, chance.bad)
        })
        .collect();
    let of = |end: End| ended.iter().filter(move |(ended, _)| ended.end == end);
    let number = |end: End| u32::try_from(of(end).count()).unwrap_or(runs);
    let (rolled_back, promoted) = (number(End::RolledBack), number(End::Promoted));
    let metric = plan.settings.first().and_then(|settings| settings.metrics.get(at));
    Rehearsed {
        metric: worse.and(metric).map(|metric| metric.name.clone()),
        share,
        times_stable: (stable > 0.0).then(|| share / stable),
        runs,
        rolled_back,
        promoted,
        held: runs.saturating_sub(rolled_back + promoted),
        seconds_to_rollback: median(of(End::RolledBack).map(|(ended, _)| ended.seconds).collect()),
        seconds_to_promotion: median(of(End::Promoted).map(|(ended, _)| ended.seconds).collect()),
        bad_until_rollback: median(of(End::RolledBack).map(|(_, bad)| *bad).collect()),
    }
}

/// Requests that come as a Poisson process, bad ones among them each by itself.
struct Chance<'a> {
    /// Requests a second.
    rate: f64,
    /// Shares of bad ones, by metric.
    stable: &'a [f64],
    canary: &'a [f64],
    random: Pcg64Mcg,
    /// The metric whose bad requests are counted, and how many the canary had.
    counted: usize,
    bad: u64,
}

impl Chance<'_> {
    fn below(&mut self, limit: i64) -> i64 {
        Uniform::new(0, limit.max(1)).map_or(0, |uniform| uniform.sample(&mut self.random))
    }

    /// Requests and, by metric, the bad ones.
    fn version(&mut self, expected: f64, shares: &[f64]) -> (f64, Vec<f64>) {
        let requests = Poisson::new(expected).map_or(0.0, |poisson| poisson.sample(&mut self.random));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number that is not negative"
        )]
        let whole = requests as u64;
        let mut bad = |share: &f64| Binomial::new(whole, *share).map_or(0, |bad| bad.sample(&mut self.random));
        let bad: Vec<u64> = shares.iter().map(&mut bad).collect();
        (
            requests,
            bad.into_iter()
                .map(|bad| as_f64(i64::try_from(bad).unwrap_or(i64::MAX)))
                .collect(),
        )
    }
}

impl rehearsal::Traffic for Chance<'_> {
    fn counts(&mut self, from: i64, to: i64, weight: u32) -> Vec<Counts> {
        let expected = self.rate * as_f64(to - from);
        let share = f64::from(weight.min(100)) / 100.0;
        let (requests, bad) = self.version(expected * share, self.canary);
        let (stable_requests, stable_bad) = self.version(expected * (1.0 - share), self.stable);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number that is not negative"
        )]
        let served = bad.get(self.counted).copied().unwrap_or_default() as u64;
        self.bad += served;
        let arm = |requests: f64, bad: f64| Arm { requests, bad };
        bad.into_iter()
            .zip(stable_bad)
            .map(|(canary, stable)| Counts {
                canary: arm(requests, canary),
                stable: arm(stable_requests, stable),
            })
            .collect()
    }
}

/// The middle value, of an even number the upper of the two.
fn median<N: Ord + Copy>(mut values: Vec<N>) -> Option<N> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn seconds(span: Span) -> i64 {
    span.as_millis() / 1_000
}

fn ceil(value: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a cast from a double saturates")]
    let whole = value.ceil() as i64;
    whole
}

#[expect(clippy::cast_precision_loss, reason = "seconds and counts are far below 2^53")]
fn as_f64(number: i64) -> f64 {
    number as f64
}
