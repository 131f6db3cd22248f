//! That a rehearsal goes as a run does. What chance makes of it is `tests/calibrate`'s.

use super::*;
use crate::verdict::{Arm, MetricSettings};

mod courses;

/// So many requests a second, of which stable's and the canary's share are bad, in whole numbers an interval.
struct Steady {
    rate: f64,
    stable: f64,
    canary: f64,
    served: f64,
}

impl Traffic for Steady {
    fn counts(&mut self, from: i64, to: i64, weight: u32) -> Vec<Counts> {
        let (all, share) = (self.rate * length(from, to), f64::from(weight) / 100.0);
        let counts = Counts {
            canary: arm(all * share, self.canary),
            stable: arm(all * (1.0 - share), self.stable),
        };
        self.served += counts.canary.bad;
        vec![counts]
    }
}

fn length(from: i64, to: i64) -> f64 {
    f64::from(i32::try_from(to - from).unwrap())
}

/// Whole requests, of which this share is bad.
fn arm(requests: f64, bad: f64) -> Arm {
    let requests = requests.round();
    Arm {
        requests,
        bad: (requests * bad).round(),
    }
}

fn steps(weights: &[i32]) -> Vec<Step> {
    let step = |weight: &i32| Step {
        weight: *weight,
        bake: None,
        approval: None,
        analysis: None,
    };
    weights.iter().map(step).collect()
}

fn run(steps: &[Step], rate: f64, canary: f64) -> (Ended, Steady) {
    let settings = [Settings::new(
        vec![MetricSettings::errors()],
        u32::try_from(steps.len()).unwrap(),
    )];
    let traffic = Steady {
        rate,
        stable: 0.001,
        canary,
        served: 0.0,
    };
    let limits = Limits::default();
    let rules = Rules {
        steps,
        settings: &settings,
        needs: None,
        limits: &limits,
        longest: 4 * 3_600,
    };
    Rehearsal::new(rules, traffic, 7).run()
}

#[test]
fn a_healthy_version_is_promoted_and_each_step_takes_at_least_its_bake() {
    let mut steps = steps(&[10, 50, 100]);
    steps[1].bake = Some(Span::seconds(600));
    let (ended, _) = run(&steps, 1_000.0, 0.001);
    assert_eq!((ended.end, ended.passed.len()), (End::Promoted, 3));
    assert!(ended.passed[0] >= 65 && ended.passed[0] < 125, "{:?}", ended.passed);
    assert!(ended.passed[1] >= 605 && ended.passed[1] < 665, "{:?}", ended.passed);
    // From one acceptance to the next; the last one ends the run.
    let between = 2 * ACCEPTANCE;
    assert_eq!(ended.passed.iter().sum::<i64>() + between, ended.seconds);
}

#[test]
fn a_bad_version_is_taken_back_and_what_it_served_until_then_is_counted() {
    let (ended, traffic) = run(&steps(&[10, 100]), 100.0, 0.1);
    assert_eq!((ended.end, ended.weight), (End::RolledBack, 10));
    assert!(
        ended.passed.is_empty() && ended.intervals >= 1 && traffic.served >= 30.0,
        "{ended:?}"
    );
}

#[test]
fn too_little_traffic_decides_nothing() {
    let (ended, _) = run(&steps(&[10, 100]), 0.01, 0.001);
    assert_eq!(ended.end, End::Undecided);
    assert!(ended.seconds > 4 * 3_600);
}

#[test]
fn a_step_at_0_percent_is_a_persons_decision_after_its_bake() {
    let mut steps = steps(&[0, 100]);
    steps[0].approval = Some(Approval::Required);
    let (ended, _) = run(&steps, 1_000.0, 0.001);
    assert_eq!(ended.end, End::Promoted);
    assert_eq!(ended.passed[0], 65);
}
