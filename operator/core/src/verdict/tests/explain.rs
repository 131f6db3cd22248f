//! The numbers for people: intervals, the forecast, and what is said of them.

use super::simulation::Random;
use super::*;

#[test]
fn a_share_has_wilsons_interval_of_counts_divided_by_phi() {
    let of = |requests, bad, phi| {
        let settings = Settings { phi, ..settings() };
        interval::share(stepgate_crds::evidence::Tally { requests, bad }, &settings)
    };
    // 10 of 100: 5.52 to 17.44 %, as Wilson's interval is printed in textbooks; none of 20: 0 to 16.11 %.
    for ((requests, bad, phi), [low, high]) in [
        ((100, 10, 1.0), [0.055_23, 0.174_37]),
        ((200, 20, 2.0), [0.055_23, 0.174_37]),
        ((20, 0, 1.0), [0.0, 0.161_13]),
        ((20, 20, 1.0), [0.838_87, 1.0]),
    ] {
        let [found_low, found_high] = of(requests, bad, phi).unwrap();
        assert!(
            (found_low - low).abs() < 1e-5 && (found_high - high).abs() < 1e-5,
            "{bad} of {requests}: {found_low} to {found_high}"
        );
    }
    assert_eq!(of(0, 0, 1.0), None);
}

#[test]
fn the_ratio_is_bounded_where_the_counts_bound_it() {
    let ratio = |observation: &Observation, times| judged(&repeated(observation, times), &at(50)).explanations[0].ratio;
    // As bad as stable: no more than so many times, and no lower bound on a grid that begins at 1.2.
    let same = ratio(&counts((2_000, 10), (2_000, 10)), 20);
    assert!(same.from.is_none() && same.to.is_some_and(|to| to < 2.5), "{same:?}");
    // Eight times as bad.
    let worse = ratio(&counts((2_000, 40), (2_000, 5)), 20);
    let (from, to) = (worse.from.unwrap(), worse.to.unwrap());
    assert!(from > 4.0 && from < 8.0 && to > 8.0 && to < 14.0, "{worse:?}");
    // Nothing bad says nothing.
    assert_eq!(ratio(&counts((2_000, 0), (2_000, 0)), 20), Ratio::default());
}

#[test]
fn the_ratio_is_the_inverted_test_of_each_ratio_of_the_grid() {
    let metric = MetricSettings::errors();
    // ρ0, and 24 from 1.25 to 64 times that in equal steps of the logarithm.
    let grid: Vec<f64> = (0..24)
        .map(|j| 1.2 * 1.25 * (51.2_f64).powf(f64::from(j) / 23.0))
        .collect();
    let grid: Vec<f64> = [1.2].into_iter().chain(grid).collect();
    for (canary, stable, phi) in [
        ((900, 60), (4_050, 60), 1.0),
        ((900, 60), (4_050, 60), 2.0),
        ((4_500, 30), (4_500, 25), 2.0),
    ] {
        let settings = Settings { phi, ..settings() };
        let evidence = judge(
            &start(),
            &repeated(&counts(canary, stable), 3),
            &settings,
            &at(50),
            None,
        )
        .evidence;
        let run = &evidence.metrics[0].processes[0];
        #[expect(clippy::cast_precision_loss, reason = "small")]
        let likelihoods: Vec<f64> = run
            .millionths
            .iter()
            .map(|sum| (*sum as f64 / 1e6 / phi).exp())
            .collect();
        let likelihoods: Vec<f64> = [1.0].into_iter().chain(likelihoods).collect();
        let mean = |of: &[f64]| of.iter().sum::<f64>() / f64::from(u32::try_from(of.len()).unwrap());
        let too_small = |at: usize| at < 24 && mean(&likelihoods[at + 1..]) >= 40.0 * likelihoods[at];
        let too_large = |at: usize| at > 0 && mean(&likelihoods[..at]) >= 40.0 * likelihoods[at];
        let from = (0..25).take_while(|at| too_small(*at)).last().map(|at| grid[at]);
        let to = (0..25).rev().take_while(|at| too_large(*at)).last().map(|at| grid[at]);
        let found = interval::ratio(run, &metric, &settings);
        for (found, wanted) in [(found.from, from), (found.to, to)] {
            assert_eq!(found.is_some(), wanted.is_some(), "{found:?}, and not {wanted:?}");
            let apart = (found.unwrap_or(0.0) - wanted.unwrap_or(0.0)).abs();
            assert!(apart < 1e-9, "{found:?}, and not {wanted:?}");
        }
    }
}

#[test]
fn the_ratio_is_that_of_the_whole_run() {
    let first = judged(&repeated(&counts((900, 60), (4_050, 60)), 3), &at(10)).evidence;
    let second = enter_step(&first, &settings(), 1);
    let judgement = judge(&second, &[], &settings(), &Moment { step: 1, ..at(30) }, None);
    let whole = interval::ratio(&second.metrics[0].processes[0], &MetricSettings::errors(), &settings());
    assert!(whole.from.is_some());
    assert_eq!(judgement.explanations[0].ratio, whole);
}

#[test]
fn what_a_pass_takes_is_the_fewest_that_pass() {
    let metric = MetricSettings::errors();
    for (phi, share) in [(1.0, 0.0), (2.0, 0.001), (2.0, 0.004), (1.0, 0.007)] {
        let settings = Settings { phi, ..settings() };
        let need = requests_for_a_pass(&metric, &settings, share).unwrap();
        let ln_e = |requests: u64| {
            let requests = as_f64(requests);
            eprocess::ln_e_pass(requests, requests * share, metric.max, phi)
        };
        assert!(ln_e(need) >= settings.threshold_pass(), "{need} at {share}");
        assert!(ln_e(need - 1) < settings.threshold_pass(), "{need} at {share}");
    }
    // Four fifths of the max and more is too near it.
    assert_eq!(requests_for_a_pass(&metric, &settings(), 0.008), None);
    assert_eq!(requests_for_a_pass(&metric, &settings(), 0.009), None);
}

#[test]
fn the_ratio_is_missed_at_no_look_in_nineteen_of_twenty_runs() {
    let mut random = Random(7);
    let independent = Settings { phi: 1.0, ..settings() };
    for ratio in [1.0, 3.0, 10.0] {
        let missed = (0..200)
            .filter(|_| {
                let mut evidence = start();
                (1..=40).any(|now| {
                    let (canary, stable) = (random.bad(500, 0.004 * ratio), random.bad(1_500, 0.004));
                    let seen = interval(now, vec![counts((500, canary), (1_500, stable))]);
                    let judgement = judge(&evidence, &[seen], &independent, &at(25), None);
                    evidence = judgement.evidence;
                    let found = judgement.explanations[0].ratio;
                    found.from.is_some_and(|from| from > ratio) || found.to.is_some_and(|to| to < ratio)
                })
            })
            .count();
        assert!(missed <= 10, "{ratio} times as bad: missed in {missed} of 200 runs");
    }
}

#[test]
fn what_is_missing_is_what_the_verdict_holds_for() {
    let judgement = judged(&repeated(&counts((50, 0), (450, 0)), 2), &at(10));
    let missing = judgement.explanations[0].missing.unwrap();
    let Verdict::Hold(HoldReason::InsufficientTraffic { have, need, eta, .. }) = judgement.verdict else {
        panic!("{}", judgement.verdict)
    };
    assert_eq!(missing, Missing { have, need, eta });
    // 100 in 30 seconds, of some 900: 680 without any bad one, and more for the one in 1,000 that may come.
    assert_eq!(have, 100);
    let need = need.unwrap();
    assert!((680..1_100).contains(&need), "{need}");
    let seconds = (need - have) * 30 / 100;
    assert!((seconds..=seconds + 1).contains(&eta.unwrap()), "{eta:?} for {need}");
    let passed = judged(&repeated(&counts((500, 0), (4_500, 0)), 3), &at(10));
    assert_eq!((passed.verdict.name(), passed.explanations[0].missing), ("Pass", None));
}

#[test]
fn every_reason_of_a_verdict_has_a_meaning() {
    let seen = Arm::default();
    let metric = String::new;
    let verdicts = [
        Verdict::Pass,
        Verdict::Fail(Rule::Relative {
            metric: metric(),
            canary: seen,
            stable: seen,
            evidence: 0.0,
            threshold: 0.0,
        }),
        Verdict::Fail(Rule::Absolute {
            metric: metric(),
            canary: seen,
            max: 0.0,
            evidence: 0.0,
            threshold: 0.0,
        }),
        Verdict::Fail(Rule::Tripwire {
            metric: metric(),
            canary: seen,
            stable: seen,
        }),
        Verdict::Fail(Rule::Restarts {
            canary: 2,
            canary_rate: 1.0,
            stable_rate: 0.0,
        }),
        Verdict::Retreat(RetreatCause::CanarySilent {
            metric: metric(),
            expected: 0.0,
            intervals: 0,
        }),
        Verdict::Retreat(RetreatCause::SharedFault {
            metric: metric(),
            canary: seen,
            stable: seen,
            after_rise: false,
        }),
        Verdict::Hold(HoldReason::InsufficientTraffic {
            metric: metric(),
            have: 0,
            need: None,
            eta: None,
        }),
        Verdict::Hold(HoldReason::SharedFault {
            metric: metric(),
            canary: seen,
            stable: seen,
        }),
        Verdict::Hold(HoldReason::StableIsWorse {
            metric: metric(),
            canary: seen,
            stable: seen,
        }),
        Verdict::Hold(HoldReason::NoData {
            metric: metric(),
            seconds: 0,
        }),
        Verdict::Hold(HoldReason::ShareMismatch {
            metric: metric(),
            expected: 0.0,
            measured: 0.0,
        }),
        Verdict::Hold(HoldReason::CanaryUnmeasured {
            metric: metric(),
            intervals: 0,
        }),
        Verdict::Hold(HoldReason::Inconsistent {
            metric: metric(),
            intervals: 0,
        }),
    ];
    let troubles =
        Trouble::ALL.map(|kind| Verdict::Hold(HoldReason::MetricsUnavailable(DataError { kind, detail: metric() })));
    for verdict in verdicts.into_iter().chain(troubles) {
        let meaning = meaning(verdict.reason());
        assert!(meaning.is_some_and(|text| text.len() > 20), "{}", verdict.reason());
    }
    assert_eq!(meaning("Fail"), None);
}

#[test]
fn the_numbers_of_two_metrics_fit_into_an_event() {
    let settings = Settings::new(two_metrics().metrics, 4);
    let busy = counts((12_345, 123), (112_345, 1_123));
    let new = [interval(1, vec![busy.clone(), busy])];
    let judgement = judge(&begin(&settings, ACCEPTED), &new, &settings, &at(10), None);
    let numbers = judgement.numbers();
    assert!(
        numbers.starts_with("errors: canary 123 of 12,345 bad (1.0 %)"),
        "{numbers}"
    );
    assert!(numbers.contains("; latency: canary 123 of 12,345 bad"), "{numbers}");
    assert!(numbers.len() < 400, "{} bytes: {numbers}", numbers.len());
}
