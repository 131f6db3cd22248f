//! That a rehearsal goes as a run does. What chance makes of it is `tests/calibrate`'s.

use super::*;
use crate::verdict::{Arm, MetricSettings};

/// So many requests a second, of which stable's and the canary's share are bad, in whole numbers an interval.
struct Steady {
    rate: f64,
    stable: f64,
    canary: f64,
    served: f64,
}

impl Traffic for Steady {
    fn counts(&mut self, from: i64, to: i64, weight: u32) -> Vec<Counts> {
        let seconds = f64::from(i32::try_from(to - from).unwrap());
        let share = f64::from(weight) / 100.0;
        let arm = |share: f64, bad: f64| {
            let requests = (self.rate * seconds * share).round();
            Arm {
                requests,
                bad: (requests * bad).round(),
            }
        };
        let counts = Counts {
            canary: arm(share, self.canary),
            stable: arm(1.0 - share, self.stable),
        };
        self.served += counts.canary.bad;
        vec![counts]
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
    let rules = |needs| Rules {
        steps,
        settings: &settings,
        needs,
        limits: &limits,
        longest: 4 * 3_600,
    };
    Rehearsal::new(rules(None), traffic, 7).run()
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

/// Traffic with a history: shares of bad requests by the second, the canary's share of its weight, and when the source cannot be read.
struct Story {
    rate: f64,
    /// From this second on: stable's bad share, the canary's, and how much of its share of the traffic the canary gets.
    chapters: Vec<(i64, [f64; 3])>,
    dark: std::ops::Range<i64>,
    /// The weight from which on time is counted.
    counted_from: Option<u32>,
}

impl Traffic for Story {
    fn counts(&mut self, from: i64, to: i64, weight: u32) -> Vec<Counts> {
        let seconds = f64::from(i32::try_from(to - from).unwrap());
        let chapter = self.chapters.iter().rev().find(|(since, _)| *since <= from);
        let [stable, canary, gets] = chapter.map_or([0.001, 0.001, 1.0], |(_, shares)| *shares);
        let share = f64::from(weight) / 100.0;
        let arm = |share: f64, bad: f64| {
            let requests = (self.rate * seconds * share).round();
            Arm {
                requests,
                bad: (requests * bad).round(),
            }
        };
        vec![Counts {
            canary: arm(share * gets, canary),
            stable: arm(1.0 - share, stable),
        }]
    }

    fn entered(&mut self, weight: u32, _accepted: i64) -> bool {
        self.counted_from == Some(weight)
    }

    fn read(&mut self, end: i64, counts: Vec<Counts>) -> Result<Vec<Observation>, DataError> {
        if self.dark.contains(&end) {
            return Err(DataError {
                kind: stepgate_crds::evidence::Trouble::SourceTimeout,
                detail: "no answer".to_owned(),
            });
        }
        Ok(counts.into_iter().map(Observation::Counts).collect())
    }
}

/// How it ends, told in words; asked after every interval, and only where something could be decided.
fn course(steps: &[Step], story: &dyn Fn() -> Story, offset: i64) -> String {
    let settings = [Settings::new(
        vec![MetricSettings::errors()],
        u32::try_from(steps.len()).unwrap(),
    )];
    let needs = [Needs::of(&settings[0])];
    let limits = Limits::default();
    let rules = |needs| Rules {
        steps,
        settings: &settings,
        needs,
        limits: &limits,
        longest: 4 * 3_600,
    };
    let (ended, _) = Rehearsal::new(rules(None), story(), offset).run();
    let (sooner, _) = Rehearsal::new(rules(Some(&needs)), story(), offset).run();
    assert_eq!(ended, sooner);
    let Ended {
        end,
        seconds,
        retreats,
        weight,
        intervals,
        passed,
    } = ended;
    format!("{end:?} after {seconds} s at {weight} %, {retreats} retreats, {intervals} intervals, passed {passed:?}")
}

/// Every turn that a run can take, once, with the second of each: they repeat exactly, and asking less often changes none.
#[test]
fn each_course_goes_as_it_went() {
    const WELL: [f64; 3] = [0.001, 0.001, 1.0];
    const SHARED: [f64; 3] = [0.2, 0.2, 1.0];
    const SILENT: [f64; 3] = [0.001, 0.001, 0.0];
    let ladder = steps(&[10, 30, 50, 100]);
    let mut baked = ladder.clone();
    baked[1].bake = Some(Span::seconds(601));
    let mut asked = steps(&[0, 20, 100]);
    asked[0].approval = Some(Approval::Required);
    let story = |rate: f64, chapters: &[(i64, [f64; 3])]| {
        let chapters = chapters.to_vec();
        move || Story {
            rate,
            chapters: chapters.clone(),
            dark: 0..0,
            counted_from: None,
        }
    };
    let dark = |dark: std::ops::Range<i64>| {
        move || Story {
            dark: dark.clone(),
            ..story(100.0, &[])()
        }
    };
    let counted = |weight: u32| {
        move || Story {
            counted_from: Some(weight),
            ..story(1_000.0, &[])()
        }
    };
    let courses = [
        ("well", course(&ladder, &story(100.0, &[]), 7)),
        (
            "well, from the beginning of an interval",
            course(&ladder, &story(100.0, &[]), 0),
        ),
        (
            "well, from its end, and further than there is",
            course(&ladder, &story(100.0, &[]), 99),
        ),
        (
            "well, with a bake of ten minutes",
            course(&baked, &story(1_000.0, &[]), 3),
        ),
        (
            "well, after a person's approval at 0 %",
            course(&asked, &story(1_000.0, &[]), 7),
        ),
        (
            "a tenth more bad",
            course(&ladder, &story(100.0, &[(0, [0.001, 0.1, 1.0])]), 7),
        ),
        (
            "bad from the tenth minute on",
            course(&ladder, &story(100.0, &[(600, [0.001, 0.05, 1.0])]), 7),
        ),
        (
            "a fault of both for some minutes",
            course(&ladder, &story(100.0, &[(100, SHARED), (400, WELL)]), 7),
        ),
        (
            "a fault of both, twice",
            course(
                &ladder,
                &story(100.0, &[(100, SHARED), (300, WELL), (900, SHARED), (1_100, WELL)]),
                7,
            ),
        ),
        (
            "a fault of both for ever",
            course(&ladder, &story(100.0, &[(100, SHARED)]), 7),
        ),
        (
            "a canary without requests for a while",
            course(&ladder, &story(100.0, &[(0, SILENT), (300, WELL)]), 7),
        ),
        (
            "a canary without requests",
            course(&ladder, &story(100.0, &[(0, SILENT)]), 7),
        ),
        (
            "a source that cannot be read for a while",
            course(&ladder, &dark(100..700), 7),
        ),
        ("time that is counted from 50 % on", course(&ladder, &counted(50), 7)),
        ("hardly any requests", course(&ladder, &story(0.05, &[]), 7)),
    ];
    let told: Vec<String> = courses
        .into_iter()
        .map(|(name, ended)| format!("{name}: {ended}"))
        .collect();
    insta::assert_snapshot!(told.join("\n"));
}
