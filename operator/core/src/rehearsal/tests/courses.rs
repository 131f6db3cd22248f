//! Every turn that a rehearsal can take, once, with the second of each: they repeat exactly, and asking less often changes none.

use super::*;

/// Traffic with a history: shares of bad requests by the second, the canary's share of its weight, and when the source cannot be read.
#[derive(Clone)]
struct Story {
    rate: f64,
    /// From this second on: stable's bad share, the canary's, and how much of its share of the traffic the canary gets.
    chapters: Vec<(i64, [f64; 3])>,
    dark: std::ops::Range<i64>,
    /// The weight from which on time is counted.
    counted_from: Option<u32>,
    /// The share of the canary's answers that are slow in its first seconds at a weight.
    cold: f64,
    accepted: i64,
    /// Each weight with the second of its acceptance; each stretch that is no whole interval; what was read in all.
    entered: Vec<(u32, i64)>,
    cut: Vec<(i64, i64, u32)>,
    read: [f64; 4],
}

impl Traffic for Story {
    fn counts(&mut self, from: i64, to: i64, weight: u32) -> Vec<Counts> {
        let chapter = self.chapters.iter().rev().find(|(since, _)| *since <= from);
        let [stable, canary, gets] = chapter.map_or([0.001, 0.001, 1.0], |(_, shares)| *shares);
        let (all, share) = (self.rate * length(from, to), f64::from(weight) / 100.0);
        if to - from != 30 {
            self.cut.push((from, to, weight));
        }
        let slow = if from < self.accepted + 40 { self.cold } else { 0.001 };
        vec![
            Counts {
                canary: arm(all * share * gets, canary),
                stable: arm(all * (1.0 - share), stable),
            },
            Counts {
                canary: arm(all * share * gets, slow),
                stable: arm(all * (1.0 - share), 0.001),
            },
        ]
    }

    fn entered(&mut self, weight: u32, accepted: i64) -> bool {
        self.entered.push((weight, accepted));
        self.accepted = accepted;
        self.counted_from == Some(weight)
    }

    fn read(&mut self, end: i64, counts: Vec<Counts>) -> Result<Vec<Observation>, DataError> {
        if self.dark.contains(&end) {
            return Err(DataError {
                kind: stepgate_crds::evidence::Trouble::SourceTimeout,
                detail: "no answer".to_owned(),
            });
        }
        let errors = &counts[0];
        let seen = [
            errors.canary.requests,
            errors.canary.bad,
            errors.stable.requests,
            errors.stable.bad,
        ];
        for (sum, more) in self.read.iter_mut().zip(seen) {
            *sum += more;
        }
        Ok(counts.into_iter().map(Observation::Counts).collect())
    }
}

/// How it ends, told in words; asked after every interval, and only where something could be decided.
fn course(steps: &[Step], story: Story, offset: i64) -> String {
    let metrics = vec![MetricSettings::errors(), MetricSettings::latency(0.05)];
    let of_first = Settings::new(metrics, u32::try_from(steps.len()).unwrap());
    // From the second step on twice as much is needed.
    let settings = [of_first.clone(), Settings { phi: 2.0, ..of_first }];
    let needs = settings.each_ref().map(Needs::of);
    let limits = Limits {
        warm_up: Span::seconds(60),
        ..Limits::default()
    };
    let rules = |needs| Rules {
        steps,
        settings: &settings,
        needs,
        limits: &limits,
        longest: 4 * 3_600,
    };
    let (ended, told) = Rehearsal::new(rules(None), story.clone(), offset).run();
    let (sooner, _) = Rehearsal::new(rules(Some(&needs)), story, offset).run();
    assert_eq!(ended, sooner);
    let Story { entered, cut, read, .. } = told;
    let Ended {
        end,
        seconds,
        retreats,
        weight,
        intervals,
        passed,
    } = ended;
    format!(
        "{end:?} after {seconds} s at {weight} %, {retreats} retreats, {intervals} intervals, passed {passed:?}\n  \
         entered {entered:?}\n  cut {cut:?}\n  read {read:?}"
    )
}

fn story(rate: f64, chapters: &[(i64, [f64; 3])]) -> Story {
    Story {
        rate,
        chapters: chapters.to_vec(),
        dark: 0..0,
        counted_from: None,
        cold: 0.001,
        accepted: 0,
        entered: Vec::new(),
        cut: Vec::new(),
        read: [0.0; 4],
    }
}

const WELL: [f64; 3] = [0.001, 0.001, 1.0];
const SHARED: [f64; 3] = [0.2, 0.2, 1.0];
const SILENT: [f64; 3] = [0.001, 0.001, 0.0];

/// Every turn that a run of a good version can take.
fn of_good_versions() -> [(&'static str, String); 9] {
    let ladder = steps(&[10, 30, 50, 100]);
    let mut baked = ladder.clone();
    baked[1].bake = Some(Span::seconds(601));
    let mut asked_later = ladder.clone();
    asked_later[0].approval = Some(Approval::Required);
    let unasked = steps(&[0, 20, 100]);
    let mut asked = unasked.clone();
    asked[0].approval = Some(Approval::Required);
    let cold = Story {
        cold: 0.4,
        ..story(100.0, &[])
    };
    let counted = Story {
        counted_from: Some(50),
        ..story(1_000.0, &[])
    };
    [
        (
            "from the beginning of an interval",
            course(&ladder, story(100.0, &[]), 0),
        ),
        ("a second later", course(&ladder, story(100.0, &[]), 1)),
        ("from further than there is", course(&ladder, story(100.0, &[]), 99)),
        ("with a bake of ten minutes", course(&baked, story(1_000.0, &[]), 3)),
        ("after an approval at 0 %", course(&asked, story(1_000.0, &[]), 7)),
        (
            "with 0 % that nobody is asked about",
            course(&unasked, story(1_000.0, &[]), 7),
        ),
        ("with an approval at 10 %", course(&asked_later, story(1_000.0, &[]), 7)),
        ("slow while it warms up", course(&ladder, cold, 7)),
        ("its time counted from 50 % on", course(&ladder, counted, 7)),
    ]
}

/// Every turn that another can take.
fn of_others() -> [(&'static str, String); 9] {
    let ladder = steps(&[10, 30, 50, 100]);
    let of = |rate: f64, chapters: &[(i64, [f64; 3])]| course(&ladder, story(rate, chapters), 7);
    let dark = Story {
        dark: 100..700,
        ..story(100.0, &[])
    };
    let twice = [(100, SHARED), (300, WELL), (900, SHARED), (1_100, WELL)];
    [
        ("a tenth more bad", of(100.0, &[(0, [0.001, 0.1, 1.0])])),
        ("bad at the second step", of(100.0, &[(200, [0.001, 0.05, 1.0])])),
        (
            "a fault of both for some minutes",
            of(100.0, &[(100, SHARED), (400, WELL)]),
        ),
        ("a fault of both, twice", of(100.0, &twice)),
        ("a fault of both for ever", of(100.0, &[(100, SHARED)])),
        ("no requests for a while", of(100.0, &[(0, SILENT), (300, WELL)])),
        ("no requests", of(100.0, &[(0, SILENT)])),
        ("hardly any requests", of(0.05, &[])),
        ("a source that cannot be read for a while", course(&ladder, dark, 7)),
    ]
}

#[test]
fn each_course_goes_as_it_went() {
    let courses = of_good_versions().into_iter().chain(of_others());
    let told: Vec<String> = courses.map(|(name, ended)| format!("{name}: {ended}")).collect();
    insta::assert_snapshot!(told.join("\n"));
}
