//! What holds for every input: validity by enumeration, monotony, and that neither a commit nor nonsense changes anything.

use proptest::prelude::*;
use stepgate_crds::evidence::Tally;

use super::super::eprocess::*;
use super::*;

fn tally(requests: u64, bad: u64) -> Tally {
    Tally { requests, bad }
}

fn ln_factorial(n: u64) -> f64 {
    (1..=n).map(|k| f64::from(u32::try_from(k).unwrap()).ln()).sum()
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

fn binomial(n: u64, k: u64, share: f64) -> f64 {
    let (n32, k32) = (u32::try_from(n).unwrap(), u32::try_from(k).unwrap());
    (ln_choose(n, k) + f64::from(k32) * share.ln() + f64::from(n32 - k32) * (1.0 - share).ln()).exp()
}

#[test]
fn the_relative_e_value_is_at_most_one_on_average_when_both_are_the_same() {
    for (n, m) in [(1_u64, 1_u64), (3, 9), (10, 10), (20, 5), (7, 60), (40, 40)] {
        for phi in [1.0, 2.0] {
            for all_bad in 0..=n + m {
                let mean: f64 = (all_bad.saturating_sub(m)..=n.min(all_bad))
                    .map(|bad| {
                        let chance = ln_choose(n, bad) + ln_choose(m, all_bad - bad) - ln_choose(n + m, all_bad);
                        (chance + ln_e_relative(&[(tally(n, bad), tally(m, all_bad - bad))], 1.0, phi)).exp()
                    })
                    .sum();
                assert!(mean <= 1.0 + 1e-12, "{n} and {m} with {all_bad} bad, φ = {phi}: {mean}");
            }
        }
    }
}

#[test]
fn with_a_margin_it_is_at_most_one_where_the_canary_is_worse_by_just_the_margin() {
    for (n, m) in [(5, 20), (20, 20), (30, 10)] {
        for stable_share in [0.001, 0.01, 0.05, 0.2] {
            let canary_share = 1.2 * stable_share;
            let mut mean = 0.0;
            for bad in 0..=n {
                for stable_bad in 0..=m {
                    let chance = binomial(n, bad, canary_share) * binomial(m, stable_bad, stable_share);
                    mean += chance * ln_e_relative(&[(tally(n, bad), tally(m, stable_bad))], 1.2, 1.0).exp();
                }
            }
            assert!(mean <= 1.0 + 1e-9, "{n} and {m} at {stable_share}: {mean}");
        }
    }
}

#[test]
fn the_absolute_and_the_pass_e_value_are_at_most_one_on_their_side_of_the_max() {
    let mean = |n: u64, share: f64, ln_e: fn(f64, f64, f64, f64) -> f64| -> f64 {
        let count = |value: u64| f64::from(u32::try_from(value).unwrap());
        (0..=n)
            .map(|bad| binomial(n, bad, share) * ln_e(count(n), count(bad), 0.05, 1.0).exp())
            .sum()
    };
    for n in [1, 10, 60, 200] {
        for share in [0.001, 0.02, 0.05] {
            assert!(mean(n, share, ln_e_absolute) <= 1.0 + 1e-9, "absolute, {n} at {share}");
        }
        for share in [0.05, 0.1, 0.5] {
            assert!(mean(n, share, ln_e_pass) <= 1.0 + 1e-9, "pass, {n} at {share}");
        }
    }
}

#[test]
fn the_share_check_is_at_most_one_on_average_within_half_and_one_and_a_half_of_the_weight() {
    for weight in [0.1, 0.5, 0.9, 1.0] {
        for share in [0.5 * weight, weight, 1.5 * weight] {
            if share < 1.0 {
                let mean: f64 = (0..=80)
                    .map(|canary| {
                        let seen = f64::from(u32::try_from(canary).unwrap());
                        binomial(80, canary, share) * ln_e_share(seen, 80.0 - seen, weight, 1.0).exp()
                    })
                    .sum();
                assert!(mean <= 1.0 + 1e-9, "{share} at {weight}: {mean}");
            }
        }
    }
}

#[test]
fn the_bound_on_a_binomial_tail_is_never_too_small_and_near() {
    let exact = |n: u64, bad: u64, max: f64| (bad..=n).map(|more| binomial(n, more, max)).sum::<f64>();
    for (n, bad, max) in [
        (75, 3, 0.01),
        (10, 1, 0.01),
        (1000, 20, 0.01),
        (40, 40, 0.3),
        (40, 39, 0.3),
        (300, 5, 0.005),
        (60, 40, 0.5),
        (56, 56, 0.9),
        (300, 285, 0.9),
    ] {
        let count = |value: u64| f64::from(u32::try_from(value).unwrap());
        let (bound, exact) = ((-ln_tail_over(count(n), count(bad), max)).exp(), exact(n, bad, max));
        assert!(
            bound >= exact * (1.0 - 1e-9) && bound <= 1.1 * exact,
            "{bad} of {n} at {max}: {bound} for {exact}"
        );
    }
    assert!(ln_tail_over(100.0, 1.0, 0.01).abs() < 1e-12 && ln_tail_over(0.0, 0.0, 0.01).abs() < 1e-12);
}

/// The published numbers of the pass gate (analysis.md, section 4).
#[test]
fn the_pass_gate_takes_as_many_requests_as_published() {
    let need = |share: f64, phi: f64| {
        (1..5000)
            .find(|n| ln_e_pass(f64::from(*n), share * f64::from(*n), 0.01, phi) >= 20_f64.ln())
            .unwrap()
    };
    for (share, phi, about) in [(0.0, 1.0, 340), (0.0, 2.0, 680), (0.001, 1.0, 520), (0.001, 2.0, 1040)] {
        let need = need(share, phi);
        assert!(
            (about * 95 / 100..=about * 105 / 100).contains(&need),
            "{share}, φ = {phi}: {need} in place of {about}"
        );
    }
}

fn any_arm() -> impl Strategy<Value = Arm> {
    (0_u32..3000, 0_u32..40).prop_map(|(requests, bad)| arm(requests, bad))
}

fn any_observation() -> impl Strategy<Value = Observation> {
    prop_oneof![
        8 => (any_arm(), any_arm()).prop_map(|(canary, stable)| Observation::Counts(Counts { canary, stable })),
        1 => any_arm().prop_map(|stable| Observation::CanarySilent { stable }),
        1 => Just(Observation::Silent),
        1 => Just(error()),
    ]
}

fn wild() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-1.0),
        Just(0.5),
        Just(1e300),
        Just(9e15),
        0.0..100.0_f64
    ]
}

fn wild_observation() -> impl Strategy<Value = Observation> {
    let arms = || (wild(), wild()).prop_map(|(requests, bad)| Arm { requests, bad });
    prop_oneof![
        4 => (arms(), arms()).prop_map(|(canary, stable)| Observation::Counts(Counts { canary, stable })),
        1 => arms().prop_map(|stable| Observation::CanarySilent { stable }),
        1 => Just(Observation::Silent),
        1 => ".{0,400}".prop_map(|why| Observation::Error(DataError::unreadable(why))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_commit_between_any_two_intervals_changes_nothing(
        observations in prop::collection::vec(any_observation(), 0..30),
        commits in prop::collection::vec(any::<bool>(), 30),
        weight in 1_u32..=100,
        settle in 0_i64..60,
    ) {
        let new = intervals(observations);
        let moment = Moment { counts_from: ACCEPTED + settle, paused: Some(1), ..at(weight) };
        let at_once = judged(&new, &moment);
        let mut evidence = start();
        let mut waiting = Vec::new();
        for (interval, commit) in new.iter().zip(commits) {
            waiting.push(interval.clone());
            if commit {
                let committed = judge(&evidence, &waiting, &settings(), &moment, None).evidence;
                evidence = serde_json::from_str(&serde_json::to_string(&committed).unwrap()).unwrap();
                waiting.clear();
            }
        }
        prop_assert_eq!(judge(&evidence, &waiting, &settings(), &moment, None), at_once);
    }

    #[test]
    fn one_more_bad_canary_request_never_speaks_for_it(
        n in 1_u64..5000, m in 1_u64..5000, bad in 0_u64..200, stable_bad in 0_u64..200, ratio in 1.0..2.0_f64,
    ) {
        let (bad, stable_bad) = (bad.min(n - 1), stable_bad.min(m));
        let relative = |bad| ln_e_relative(&[(tally(n, bad), tally(m, stable_bad))], ratio, 2.0);
        prop_assert!(relative(bad + 1) >= relative(bad));
        let requests = f64::from(u32::try_from(n).unwrap());
        let (less, more) = (f64::from(u32::try_from(bad).unwrap()), f64::from(u32::try_from(bad + 1).unwrap()));
        prop_assert!(ln_e_absolute(requests, more, 0.01, 2.0) >= ln_e_absolute(requests, less, 0.01, 2.0));
        prop_assert!(ln_e_pass(requests, more, 0.01, 2.0) <= ln_e_pass(requests, less, 0.01, 2.0));
    }

    #[test]
    fn intervals_of_the_same_share_merge_in_any_order(
        n in 1_u64..500, m in 1_u64..500, times in prop::collection::vec((1_u64..5, 0_u64..4, 0_u64..4), 1..6),
    ) {
        let parts: Vec<_> = times
            .iter()
            .map(|(k, bad, stable_bad)| (tally(n * k, *(bad.min(&(n * k)))), tally(m * k, *(stable_bad.min(&(m * k))))))
            .collect();
        let whole = parts.iter().fold((tally(0, 0), tally(0, 0)), |(c, s), (canary, stable)| {
            let sum = |one: Tally, other: Tally| tally(one.requests + other.requests, one.bad + other.bad);
            (sum(c, *canary), sum(s, *stable))
        });
        let merged = ln_e_relative(&[whole], 1.2, 2.0);
        let backwards: Vec<_> = parts.iter().rev().copied().collect();
        for apart in [ln_e_relative(&parts, 1.2, 2.0), ln_e_relative(&backwards, 1.2, 2.0)] {
            prop_assert!((apart - merged).abs() <= 1e-9 * merged.abs().max(1.0), "{apart} and {merged}");
        }
    }

    #[test]
    fn the_millionths_of_the_run_follow_the_formula(
        pairs in prop::collection::vec(((1_u32..3000, 0_u32..40), (1_u32..3000, 0_u32..40)), 1..20),
    ) {
        let cut = |(requests, bad): (u32, u32)| (requests, bad.min(requests));
        let new = intervals(pairs.iter().map(|(canary, stable)| counts(cut(*canary), cut(*stable))).collect());
        let kept = judged(&new, &at(50)).evidence.metrics[0].processes[0].clone();
        let sums: Vec<f64> = kept.millionths.iter().map(|sum| f64::from(i32::try_from(*sum).unwrap()) / 1e6).collect();
        let whole = |pair| {
            let (requests, bad) = cut(pair);
            tally(requests.into(), bad.into())
        };
        let tallies: Vec<_> = pairs.iter().map(|(canary, stable)| (whole(*canary), whole(*stable))).collect();
        let (found, exact) = (ln_mean(&sums, 2.0), ln_e_relative(&tallies, 1.2, 2.0));
        prop_assert!(exact < -400.0 || (found <= exact + 1e-9 && exact - found <= 2e-5), "{found} for {exact}");
    }

    #[test]
    fn unreadable_intervals_neither_pass_nor_fail(
        observations in prop::collection::vec(any_observation(), 0..20), errors in 1_usize..5,
    ) {
        let before = judged(&intervals(observations.clone()), &at(50));
        let mut longer = observations;
        longer.extend(vec![error(); errors]);
        let after = judged(&intervals(longer), &at(50));
        prop_assert_ne!(&after.verdict, &Verdict::Pass);
        prop_assert_eq!(after.verdict.name() == "Fail", before.verdict.name() == "Fail");
        prop_assert_eq!(after.explanations, before.explanations);
    }

    #[test]
    fn nonsense_never_panics_and_leaves_evidence_that_json_can_hold(
        observations in prop::collection::vec(wild_observation(), 0..12),
        ends in prop::collection::vec(any::<i64>(), 12), seconds in any::<u32>(),
        parameters in prop::array::uniform6(wild()), moments in any::<(u32, u32, Option<i64>, i64, Option<u32>, bool, u32)>(),
    ) {
        let [max, min_effect, ratio, alpha, beta, phi] = parameters;
        let (step, weight_percent, accepted, counts_from, paused, promoting, steps) = moments;
        let metric = MetricSettings { max, min_effect, ratio, warms_up: promoting, ..MetricSettings::errors() };
        let settings = Settings { alpha, beta, phi, ..Settings::new(vec![metric], steps) };
        let moment = Moment { step, weight_percent, accepted, counts_from, warm_from: counts_from, paused, promoting, taken_away: false, unavailable: None };
        let new: Vec<Interval> = observations
            .into_iter()
            .zip(ends)
            .map(|(observation, end)| Interval { end, seconds, metrics: vec![observation] })
            .collect();
        let judgement = judge(&begin(&settings, i64::MIN), &new, &settings, &moment, None);
        let explanation = &judgement.explanations[0];
        prop_assert!(!explanation.ln_relative.is_nan() && !explanation.ln_absolute.is_nan() && !explanation.ln_pass.is_nan());
        let _ = (judgement.verdict.to_string(), explanation.to_string());
        let json = serde_json::to_string(&judgement.evidence).unwrap();
        prop_assert_eq!(serde_json::from_str::<Evidence>(&json).unwrap(), judgement.evidence);
    }
}
