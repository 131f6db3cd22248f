//! That nothing but a hold falls where the verdict is not asked, on any traffic; and that it is not asked where it says so, to the last
//! request.

use proptest::prelude::*;

use super::*;
use crate::verdict::{
    self,
    tests::{self as fixtures, ACCEPTED, at, counts},
};

/// Canary's requests and bad ones, stable's requests and bad ones.
type Seen = [u32; 4];

/// The k-th interval, of which every metric sees the same.
fn interval(k: i64, [canary, canary_bad, stable, stable_bad]: Seen, metrics: usize) -> Interval {
    fixtures::interval(k, vec![counts((canary, canary_bad), (stable, stable_bad)); metrics])
}

fn errors() -> Settings {
    Settings::new(vec![MetricSettings::errors()], 3)
}

/// What is known after these intervals.
fn after(seen: &[Seen], settings: &Settings, weight: u32) -> Judgement {
    let intervals: Vec<Interval> = (1..)
        .zip(seen)
        .map(|(k, seen)| interval(k, *seen, settings.metrics.len()))
        .collect();
    let evidence = verdict::begin(settings, ACCEPTED);
    verdict::judge(&evidence, &intervals, settings, &at(weight), None)
}

/// Ten calm intervals at 10 %, too little for a pass.
fn calm() -> Judgement {
    let last = after(&[[10, 0, 90, 0]; 10], &errors(), 10);
    assert!(matches!(last.verdict, Verdict::Hold(_)), "{:?}", last.verdict);
    last
}

/// Whether the verdict need not be asked after these, at 10 %.
fn is_quiet_after(last: &Judgement, new: &[Seen]) -> bool {
    let settings = errors();
    let new: Vec<Interval> = (11..).zip(new).map(|(k, seen)| interval(k, *seen, 1)).collect();
    is_quiet(last, &new, &settings, &Needs::of(&settings), 10)
}

/// What the new intervals hold of bad requests.
fn bad(canary: u64, stable: u64) -> Sums {
    let bad = |bad| Tally { requests: bad, bad };
    Sums {
        canary: bad(canary),
        stable: bad(stable),
        ..Sums::of(&[], 0)
    }
}

fn arb_settings() -> impl Strategy<Value = Settings> {
    let metrics = prop_oneof![
        Just(vec![MetricSettings::errors()]),
        Just(vec![MetricSettings::errors(), MetricSettings::latency(0.05)]),
        Just(vec![MetricSettings::latency(0.3)]),
    ];
    let chance = || prop_oneof![Just(0.3), Just(0.05), Just(1e-9)];
    let phi = prop_oneof![Just(1.0), Just(2.0), Just(30.0)];
    (metrics, chance(), chance(), phi, 1..4_u64).prop_map(|(metrics, alpha, beta, phi, min_bad)| Settings {
        alpha,
        beta,
        phi,
        min_bad,
        ..Settings::new(metrics, 3)
    })
}

/// Stretches of like intervals: calm, without the canary, with a few bad ones, with as many bad ones as there are.
fn arb_traffic() -> impl Strategy<Value = Vec<Seen>> {
    let requests =
        || prop_oneof![2 => Just(0_u32), 3 => 1..5_u32, 3 => 5..50_u32, 2 => 50..1_000_u32, 1 => 1_000..100_000_u32];
    let bad = || prop_oneof![6 => Just(0.0), 3 => 0.0..0.02, 2 => 0.0..0.2, 1 => 0.3..=1.0];
    let stretch = (requests(), bad(), requests(), bad(), 1..8_usize);
    prop::collection::vec(stretch, 1..10).prop_map(|stretches| {
        let of = |requests: u32, share: f64| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at most the requests"
            )]
            let bad = (f64::from(requests) * share).ceil() as u32;
            [requests, bad]
        };
        let intervals = stretches
            .into_iter()
            .flat_map(|(canary, share, stable, stable_share, times)| {
                let ([canary, canary_bad], [stable, stable_bad]) = (of(canary, share), of(stable, stable_share));
                vec![[canary, canary_bad, stable, stable_bad]; times]
            });
        intervals.collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn where_the_verdict_is_not_asked_it_holds(
        settings in arb_settings(),
        traffic in arb_traffic(),
        weight in prop_oneof![Just(0_u32), Just(1), Just(10), Just(50), Just(99), Just(100)],
    ) {
        let (needs, moment) = (Needs::of(&settings), at(weight));
        let mut always = verdict::begin(&settings, ACCEPTED);
        let (mut last, mut waiting): (Option<Judgement>, Vec<Interval>) = (None, Vec::new());
        for (k, seen) in (1..).zip(&traffic) {
            let new = interval(k, *seen, settings.metrics.len());
            waiting.push(new.clone());
            let judged = verdict::judge(&always, &[new], &settings, &moment, None);
            always.clone_from(&judged.evidence);
            match &last {
                Some(last) if is_quiet(last, &waiting, &settings, &needs, weight) => {
                    prop_assert!(matches!(judged.verdict, Verdict::Hold(_)), "{:?} on {seen:?}", judged.verdict);
                }
                _ => {
                    waiting.clear();
                    last = Some(judged);
                }
            }
        }
    }
}

#[test]
fn what_a_pass_needs_is_known_to_the_request() {
    for (max, phi) in [(0.01, 1.0), (0.01, 2.0), (0.05, 2.0), (0.3, 5.0)] {
        let settings = Settings {
            phi,
            ..Settings::new(vec![MetricSettings::errors(), MetricSettings::latency(max)], 3)
        };
        let needs = Needs::of(&settings);
        for bad in 0..KNOWN {
            let need = needs.of_metric(1, bad).unwrap();
            let passes = |requests: f64| ln_e_pass(requests, as_f64(bad), max, phi) >= settings.threshold_pass();
            assert!(
                passes(need) && !passes(need - 1.0),
                "{need} with {bad} bad at max {max}, φ = {phi}"
            );
        }
        assert_eq!((needs.of_metric(1, KNOWN), needs.of_metric(2, 0)), (None, None));
    }
}

#[test]
fn a_calm_interval_is_quiet_and_only_where_the_verdict_held_and_was_readable() {
    let last = calm();
    assert!(is_quiet_after(&last, &[[10, 0, 90, 0]; 3]));
    let passed = Judgement {
        verdict: Verdict::Pass,
        ..last.clone()
    };
    assert!(!is_quiet_after(&passed, &[[10, 0, 90, 0]; 3]));
    let settings = errors();
    let mut new = vec![interval(11, [10, 0, 90, 0], 1), interval(12, [10, 0, 90, 0], 1)];
    assert!(is_quiet(&last, &new, &settings, &Needs::of(&settings), 10));
    new[0].metrics = vec![Observation::Silent];
    assert!(!is_quiet(&last, &new, &settings, &Needs::of(&settings), 10));
    new[0].metrics.clear();
    assert!(!is_quiet(&last, &new, &settings, &Needs::of(&settings), 10));
}

#[test]
fn sums_are_of_all_intervals_and_know_those_without_the_canary() {
    let seen = [[10, 1, 90, 2], [0, 0, 80, 3], [7, 2, 60, 1], [0, 0, 50, 0]];
    let new: Vec<Interval> = (1..).zip(seen).map(|(k, seen)| interval(k, seen, 2)).collect();
    let tally = |requests, bad| Tally { requests, bad };
    let sums = Sums::of(&new, 1);
    assert_eq!((sums.canary, sums.stable), (tally(17, 3), tally(280, 6)));
    assert!(sums.gap && sums.readable);
    assert!((sums.alone - 130.0).abs() < 1e-9, "{sums:?}");
    let heard = Sums::of(&new[..1], 1);
    assert!(!heard.gap && heard.readable && heard.alone == 0.0, "{heard:?}");
    assert!(!Sums::of(&new, 2).readable);
}

#[test]
fn it_cannot_fail_while_all_that_its_bad_requests_may_add_stays_below_the_threshold() {
    let mut last = calm();
    for (max, phi, most) in [
        (0.01, 1.0, (0.999_f64 / 0.01).ln()),
        (0.01, 2.0, (0.999_f64 / 0.01).ln() / 2.0),
        (0.05, 2.0, 64_f64.ln() / 2.0),
    ] {
        let mut settings = errors();
        (settings.metrics[0].max, settings.phi) = (max, phi);
        let fails = |last: &Judgement, bad_requests| !cannot_fail(last, 0, bad(bad_requests, 0), &settings);
        // Two bad requests just reach the threshold, or just not; and nothing is left to reach.
        for left in [2.0 * most - 1e-6, 2.0 * most + 1e-6, 0.0] {
            for (relative, absolute) in [(5.0 - left, -9.0), (-9.0, 5.0 - left)] {
                let known = &mut last.explanations[0];
                (known.ln_relative, known.ln_absolute, known.threshold_fail) = (relative, absolute, 5.0);
                for bad_requests in 0..4 {
                    assert_eq!(
                        fails(&last, bad_requests),
                        as_f64(bad_requests) * most >= left,
                        "{bad_requests} at {relative} and {absolute}, max {max}, φ = {phi}"
                    );
                }
            }
        }
        assert!(!cannot_fail(&last, 1, bad(0, 0), &settings));
    }
}

#[test]
fn the_tripwire_cannot_speak_on_fewer_bad_requests_than_it_takes_or_than_half() {
    let kept = |requests, bad| {
        let mut kept = calm().evidence.metrics.remove(0);
        kept.tripwire.canary = Tally { requests, bad };
        kept
    };
    // By default ten, and half of them.
    for (known, seen, quiet) in [
        ((0, 0), 9, true),
        ((0, 0), 10, false),
        ((1_000, 400), 10, false),
        ((1_000, 400), 9, true),
        ((14, 4), 5, true),
        ((14, 5), 5, false),
        ((21, 5), 5, true),
        ((20, 5), 5, false),
    ] {
        let said = cannot_trip(&kept(known.0, known.1), bad(seen, 0), &errors());
        assert_eq!(said, quiet, "{seen} after {} of {}", known.1, known.0);
    }
}

#[test]
fn a_fault_cannot_be_shared_while_one_of_both_has_too_few_bad_requests() {
    let mut kept = calm().evidence.metrics.remove(0);
    let one = |canary: u64, stable: u64| Recent {
        seconds: 30,
        canary: bad(canary, 0).canary,
        stable: bad(stable, 0).canary,
    };
    for (known, seen, quiet) in [
        ([(0, 0), (0, 0)], (2, 100), true),
        ([(0, 0), (0, 0)], (3, 2), true),
        ([(0, 0), (0, 0)], (3, 3), false),
        ([(1, 1), (1, 1)], (0, 100), true),
        ([(1, 1), (1, 1)], (100, 0), true),
        ([(1, 1), (1, 1)], (1, 1), false),
        ([(2, 0), (1, 0)], (0, 2), true),
        ([(2, 0), (1, 0)], (0, 3), false),
        ([(0, 3), (0, 9)], (2, 0), true),
        ([(0, 3), (0, 9)], (3, 0), false),
    ] {
        kept.recent = known.map(|(canary, stable)| one(canary, stable)).to_vec();
        let said = cannot_be_shared(&kept, bad(seen.0, seen.1), &errors());
        assert_eq!(said, quiet, "{seen:?} after {known:?}");
    }
    kept.recent.clear();
    assert!(cannot_be_shared(&kept, bad(0, 0), &errors()));
    kept.stable_over_since = Some(ACCEPTED);
    assert!(!cannot_be_shared(&kept, bad(0, 0), &errors()));
}

#[test]
fn the_canary_cannot_be_silent_while_too_few_of_its_requests_are_missing() {
    let mut kept = calm().evidence.metrics.remove(0);
    let mut silent = |known, gap, alone, share| {
        kept.silent_stable_requests = known;
        let seen = Sums {
            alone,
            gap,
            ..bad(0, 0)
        };
        !cannot_be_silent(&kept, seen, share)
    };
    // Twenty of them, at a quarter of the traffic for each 80 of stable's.
    assert!(!silent(0, true, 79.0, 0.25) && silent(0, true, 80.0, 0.25));
    assert!(!silent(40, true, 39.0, 0.25) && silent(40, true, 40.0, 0.25));
    assert!(!silent(79, true, 0.0, 0.25) && silent(80, true, 0.0, 0.25));
    assert!(!silent(1_000, false, 0.0, 0.25));
    assert!(silent(0, true, 0.0, 1.0) && !silent(0, false, 0.0, 1.0));
    assert!(!silent(0, true, 19.0, 0.999) && silent(0, true, 19.0, 1.5));
}

#[test]
fn silence_counts_by_the_weight() {
    let last = calm();
    // 199 requests of stable beside 10 %.
    assert!(is_quiet_after(&last, &[[0, 0, 100, 0], [0, 0, 99, 0]]));
    assert!(!is_quiet_after(&last, &[[0, 0, 100, 0], [0, 0, 100, 0]]));
}

#[test]
fn it_cannot_pass_on_fewer_requests_than_a_pass_needs() {
    let (mut kept, settings) = (calm().evidence.metrics.remove(0), errors());
    let needs = Needs::of(&settings);
    let need = |bad| needs.of_metric(0, bad).unwrap();
    let mut passes = |known: (f64, u64), seen: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and small")]
        let whole = |requests: f64| requests as u64;
        kept.step.canary = Tally {
            requests: whole(known.0),
            bad: known.1,
        };
        let canary = Tally {
            requests: whole(seen),
            bad: 0,
        };
        let seen = Sums { canary, ..bad(0, 0) };
        !cannot_pass(&kept, seen, &needs, 0)
    };
    assert!(!passes((100.0, 0), need(0) - 101.0) && passes((100.0, 0), need(0) - 100.0));
    assert!(!passes((need(2) - 100.0, 2), 99.0) && passes((need(2) - 100.0, 2), 100.0));
    // In a step whose totals start anew its own need counts, which is the smaller one.
    assert!(!passes((0.0, 2), need(0) - 1.0) && passes((0.0, 2), need(0)));
    // How many it takes with so many bad ones was not worked out.
    assert!(passes((0.0, KNOWN), 0.0));
}

#[test]
fn what_one_metric_lacks_holds_the_pass_of_all() {
    let settings = Settings::new(vec![MetricSettings::errors(), MetricSettings::latency(0.3)], 3);
    let last = after(&[[10, 0, 90, 0]; 10], &settings, 10);
    let (needs, new) = (Needs::of(&settings), [interval(11, [10, 0, 90, 0], 2)]);
    let alone = |at: usize| cannot_pass(&last.evidence.metrics[at], Sums::of(&new, at), &needs, at);
    assert_eq!((alone(0), alone(1)), (true, false));
    assert!(is_quiet(&last, &new, &settings, &needs, 10));
}
