//! Where a rule begins to speak: on either side of its edge.

use super::*;

fn calm() -> Settings {
    Settings { phi: 1.0, ..settings() }
}

/// Half of the requests in each of two intervals, half of the canary's bad ones in the first, stable's all in the second.
fn in_two((requests, bad): (u32, u32), (stable, stable_bad): (u32, u32)) -> Vec<Interval> {
    intervals(vec![
        counts((requests / 2, bad / 2), (stable / 2, 0)),
        counts((requests / 2, bad - bad / 2), (stable / 2, stable_bad)),
    ])
}

fn reason(settings: &Settings, new: &[Interval], weight: u32) -> &'static str {
    judge(&begin(settings, ACCEPTED), new, settings, &at(weight), None)
        .verdict
        .reason()
}

/// By exact binomial tails: at even weights 15 of 17 bad ones on the canary come by chance once in 851 times, 15 of 18 once in 265; each of
/// two ways to look worse may be wrong once in 333. With φ = 2 it is the square.
#[test]
fn a_version_over_max_looks_worse_than_stable_or_is_left_alone() {
    let clumped = settings();
    let rows = [
        (&calm(), 50, (400, 15), 400, 2),
        (&calm(), 50, (400, 18), 400, 4),
        (&clumped, 50, (400, 22), 400, 1),
        (&clumped, 50, (400, 26), 400, 3),
        (&clumped, 50, (400, 30), 400, 4),
    ];
    for (settings, weight, canary, stable, most) in rows {
        let with = |bad| reason(settings, &in_two(canary, (stable, bad)), weight);
        assert_eq!(with(most), "OverMax", "{canary:?} {most}");
        assert_eq!(with(most + 1), "InsufficientTraffic", "{canary:?} {}", most + 1);
    }
    // What stable's share of the traffic makes of it: all of 55 on a canary with nine tenths of the requests come once in 329 times.
    assert_eq!(reason(&calm(), &in_two((900, 55), (100, 0)), 90), "InsufficientTraffic");
    assert_eq!(reason(&calm(), &in_two((900, 56), (100, 0)), 90), "OverMax");
    assert_eq!(reason(&calm(), &in_two((100, 8), (900, 8)), 10), "OverMax");
    assert_eq!(reason(&calm(), &in_two((100, 8), (900, 9)), 10), "SharedFault");
}

#[test]
fn the_relative_test_needs_the_least_effect_where_there_is_a_stable_to_compare_with() {
    // 0.35 % against 0.1 %: as certain as can be, and 0.25 points.
    let small = repeated(&counts((100_000, 350), (100_000, 100)), 2);
    assert_eq!(reason(&calm(), &small, 50), "Pass");
    let larger = repeated(&counts((100_000, 410), (100_000, 100)), 2);
    assert_eq!(reason(&calm(), &larger, 50), "WorseThanStable");
}

#[test]
fn a_tripwire_is_silent_where_a_tenth_of_stables_requests_is_bad() {
    let with = |stable| reason(&settings(), &repeated(&counts((40, 20), (1_000, stable)), 1), 10);
    assert_eq!(with(99), "Tripwire");
    assert_ne!(with(100), "Tripwire");
}

#[test]
fn up_to_three_intervals_may_be_inconsistent() {
    let with = |times| reason(&settings(), &repeated(&counts((10, 0), (90, 91)), times), 10);
    assert_ne!(with(3), "Inconsistent");
    assert_eq!(with(4), "Inconsistent");
}

#[test]
fn the_share_of_the_canary_is_measured_in_all_requests_and_said() {
    let with = |canary, stable| judged(&repeated(&counts((canary, 0), (stable, 0)), 2), &at(10)).verdict;
    for (canary, stable, share) in [
        (4_000, 500, 8.0 / 9.0),
        (1_800, 2_700, 0.4),
        (4_000, 0, 1.0),
        (20, 4_000, 20.0 / 4_020.0),
    ] {
        let Verdict::Hold(HoldReason::ShareMismatch { expected, measured, .. }) = with(canary, stable) else {
            panic!("{canary} {stable}: {}", with(canary, stable));
        };
        assert!(
            (expected - 0.1).abs() < 1e-12 && (measured - share).abs() < 1e-12,
            "{expected} {measured}"
        );
    }
    let unchecked = Settings {
        check_share: false,
        ..settings()
    };
    let new = repeated(&counts((4_000, 4), (500, 0)), 2);
    assert_eq!(reason(&unchecked, &new, 10), "Pass");
    let promoting = Moment {
        promoting: true,
        ..at(10)
    };
    assert_eq!(judged(&new, &promoting).verdict, Verdict::Pass);
}

#[test]
fn stable_is_worse_only_where_the_canary_is_not_above_it() {
    let with = |canary, stable| reason(&settings(), &repeated(&counts(canary, stable), 1), 10);
    // 14 of 270 are 5.19 %, 1 of 20 are 5 %, 1 of 19 are 5.26 %.
    assert_eq!(with((20, 1), (270, 14)), "StableIsWorse");
    assert_eq!(with((19, 1), (270, 14)), "InsufficientTraffic");
    assert_eq!(with((20, 1), (280, 14)), "StableIsWorse");
    // Stable is well.
    assert_eq!(with((20, 0), (270, 1)), "InsufficientTraffic");
}

#[test]
fn container_exits_are_held_against_the_time_that_pods_ran() {
    let with = |canary, canary_hours, stable, stable_hours| match restarted(canary, canary_hours, stable, stable_hours)
    {
        Verdict::Fail(Rule::Restarts {
            canary_rate,
            stable_rate,
            ..
        }) => Some((canary_rate, stable_rate)),
        _ => None,
    };
    assert_eq!(with(2, 4.0, 1, 1.0), None);
    assert_eq!(with(2, 1.0, 20, 10.0), None);
    assert_eq!(with(4, 0.5, 3, 4.0), Some((8.0, 0.75)));
    // Two exits of pods that ran for no time known count as in a minute.
    assert!(with(2, 0.0, 30, 1.0).is_some_and(|(canary, _)| (canary - 120.0).abs() < 1e-9));
    assert_eq!(with(2, 0.0, 130, 1.0), None);
}

fn missing(judgement: &Judgement) -> (&str, u64, Option<u64>, Option<u64>) {
    match &judgement.verdict {
        Verdict::Hold(HoldReason::InsufficientTraffic {
            metric,
            have,
            need,
            eta,
        }) => (metric, *have, *need, *eta),
        other => panic!("{other}"),
    }
}

#[test]
fn what_is_missing_is_said_of_the_metric_that_needs_most() {
    for (first, second, which) in [((30, 0), (300, 0), "errors"), ((300, 0), (30, 0), "latency")] {
        let new = vec![interval(
            1,
            vec![counts(first, (9 * first.0, 0)), counts(second, (9 * second.0, 0))],
        )];
        let judgement = judge(&begin(&two_metrics(), ACCEPTED), &new, &two_metrics(), &at(10), None);
        assert_eq!(missing(&judgement).0, which);
    }
}

#[test]
fn what_is_missing_is_said_in_requests_and_in_seconds_at_the_rate_seen() {
    // 150 canary requests in 15 s: ten a second.
    let judgement = judged(&repeated(&counts((150, 0), (1_350, 0)), 1), &at(10));
    let (_, have, need, eta) = missing(&judgement);
    let (need, eta) = (need.unwrap(), eta.unwrap());
    assert_eq!(have, 150);
    assert_eq!(eta, (need - have).div_ceil(10));
    // And it is enough then: with one hundredth of what is needed less it is not.
    let bad = |requests: u64| f64::from(u32::try_from(requests).unwrap()) * 0.3 / (150.0 + 300.0);
    let ln_e = |requests: u64| {
        let requests_f = f64::from(u32::try_from(requests).unwrap());
        super::super::eprocess::ln_e_pass(
            requests_f,
            bad(requests - have),
            settings().metrics[0].max(),
            settings().phi(),
        )
    };
    assert!(ln_e(need + 1) >= settings().threshold_pass(), "{need}");
    assert!(ln_e(need - need / 100) < settings().threshold_pass(), "{need}");
    // Without any request nothing is known of the time.
    assert_eq!(missing(&judged(&[], &at(10))).3, None);
    // Before the canary's first request: by the weight.
    let before = judged(&repeated(&silent(90), 1), &at(10));
    let (_, have, need, eta) = missing(&before);
    assert_eq!((have, eta.unwrap()), (0, (need.unwrap() * 10).div_ceil(6)));
}

#[test]
fn a_weight_that_is_no_share_above_zero_has_no_bound_to_test() {
    for weight in [0.0, -0.1, 1.1, f64::NAN] {
        let ln_e = super::super::eprocess::ln_e_share(900.0, 100.0, weight, 1.0);
        assert!(ln_e.abs() < f64::EPSILON, "{weight}: {ln_e}");
    }
    assert!(super::super::eprocess::ln_e_share(900.0, 100.0, 0.1, 1.0) > 100.0);
}
