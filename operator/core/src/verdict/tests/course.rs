//! What is said of a run over time: traffic that is thin or stops, outages, breaks after long health, promotion.

use super::*;

#[test]
fn three_requests_a_minute_hold_with_n_of_about_m_and_a_time() {
    // 0.75 requests an interval, a tenth of them to the canary: the first canary request comes late.
    let pattern = [
        counts((0, 0), (1, 0)),
        counts((0, 0), (1, 0)),
        Observation::Silent,
        counts((0, 0), (1, 0)),
    ];
    let mut observations: Vec<Observation> = pattern.iter().cycle().take(20).cloned().collect();
    let before = judged(&intervals(observations.clone()), &at(10));
    let Verdict::Hold(HoldReason::InsufficientTraffic {
        have: 0,
        need: Some(need),
        eta: Some(eta),
        ..
    }) = before.verdict
    else {
        panic!("{}", before.verdict)
    };
    // 0.1 × 3 requests a minute.
    let expected = f64::from(u32::try_from(need).unwrap()) / 0.3 * 60.0;
    assert!(
        (f64::from(u32::try_from(eta).unwrap()) / expected - 1.0).abs() < 0.2,
        "{eta} for {expected}"
    );
    assert!((900..1300).contains(&need), "{need}");

    observations.extend([counts((1, 0), (0, 0)), Observation::Silent]);
    let after = judged(&intervals(observations), &at(10));
    let text = after.verdict.to_string();
    assert!(
        text.starts_with("errors: 1 of about 1,0") && text.ends_with("to go"),
        "{text}"
    );
    assert_reason(&after, "Hold", "InsufficientTraffic");
}

#[test]
fn traffic_that_stops_becomes_no_data_and_at_full_weight_a_retreat() {
    let mut observations = vec![counts((20, 0), (180, 0)); 5];
    observations.extend(vec![Observation::Silent; 3]);
    assert_reason(&judged(&intervals(observations), &at(10)), "Hold", "NoData");

    let mut observations = vec![counts((20, 0), (0, 0)); 5];
    observations.extend(vec![Observation::Silent; 3]);
    assert_reason(&judged(&intervals(observations), &at(100)), "Retreat", "CanarySilent");

    let mut sparse = vec![counts((1, 0), (0, 0)); 2];
    sparse.extend(vec![Observation::Silent; 30]);
    assert_reason(&judged(&intervals(sparse), &at(100)), "Hold", "NoData");
}

#[test]
fn a_rate_is_known_from_ten_requests_on_and_foretells_what_is_missing() {
    // Intervals of 15 s: after three of them 30 requests were to come, or 27.
    let after = |requests: u32, silent: usize| {
        let mut observations = vec![counts((1, 0), (requests - 1, 0))];
        observations.extend(vec![Observation::Silent; silent]);
        judged(&intervals(observations), &at(10)).verdict.reason()
    };
    assert_eq!(after(10, 3), "NoData");
    assert_eq!(after(9, 3), "InsufficientTraffic");
    assert_eq!(after(30, 2), "NoData");
}

#[test]
fn intervals_around_the_acceptance_feed_the_tripwire_only() {
    let moment = Moment {
        counts_from: ACCEPTED + 20,
        ..at(10)
    };
    let good = counts((450, 0), (4050, 4));
    let judgement = judged(&repeated(&good, 3), &moment);
    // The first ends, the second begins before the settle time is over; the first also ends after the acceptance.
    assert_eq!(judgement.evidence.metrics[0].step.canary.requests, 450);
    assert_eq!(judgement.evidence.metrics[0].tripwire.canary.requests, 1350);
    assert_reason(
        &judged(&repeated(&counts((450, 60), (4050, 4)), 2), &moment),
        "Hold",
        "InsufficientTraffic",
    );
    assert_reason(
        &judged(&repeated(&counts((45, 45), (4050, 4)), 1), &moment),
        "Fail",
        "Tripwire",
    );

    let unaccepted = Moment {
        accepted: None,
        ..at(10)
    };
    let judgement = judged(&repeated(&counts((45, 45), (4050, 4)), 3), &unaccepted);
    assert_reason(&judgement, "Hold", "InsufficientTraffic");
    assert_eq!(judgement.evidence.through, ACCEPTED + 45);
}

#[test]
fn the_tripwire_sees_a_break_after_long_health_but_not_an_outage_of_both() {
    let mut observations = vec![counts((450, 0), (4050, 4)); 40];
    observations.push(counts((450, 400), (4050, 4)));
    assert_reason(&judged(&intervals(observations.clone()), &at(10)), "Fail", "Tripwire");
    observations.pop();
    observations.push(counts((450, 400), (4050, 3600)));
    assert_ne!(judged(&intervals(observations), &at(10)).verdict.name(), "Fail");
}

#[test]
fn a_fault_of_both_that_begins_in_mid_step_holds_then_retreats_and_leaves_nothing_behind() {
    let good = counts((450, 0), (1050, 1));
    let both_bad = counts((450, 23), (1050, 52));
    let mut observations = vec![good.clone(); 20];
    for length in 1..=39 {
        observations.push(both_bad.clone());
        let judgement = judged(&intervals(observations.clone()), &at(30));
        assert_ne!(judgement.verdict.name(), "Fail", "{length}: {}", judgement.verdict);
        if length == 5 {
            assert_reason(&judgement, "Hold", "SharedFault");
        }
    }
    let mut lasting = observations.clone();
    lasting.extend(vec![both_bad; 4]);
    assert_reason(&judged(&intervals(lasting), &at(30)), "Retreat", "SharedFault");
    for length in 1..=20 {
        observations.push(good.clone());
        let judgement = judged(&intervals(observations.clone()), &at(30));
        assert_ne!(
            judgement.verdict.name(),
            "Fail",
            "{length} after: {}",
            judgement.verdict
        );
    }
    assert_eq!(judged(&intervals(observations), &at(30)).verdict, Verdict::Pass);
}

#[test]
fn a_break_at_full_weight_is_seen_at_once_after_long_health() {
    // The restart of the step: over the whole run alone it would be minutes.
    let mut evidence = start();
    let mut moment = at(10);
    let mut now = 0;
    for (step, canary, stable) in [(0, 450, 4050), (1, 1350, 3150), (2, 2250, 2250)] {
        moment.step = step;
        for _ in 0..40 {
            now += 1;
            let new = [interval(
                now,
                vec![counts((canary, canary / 1000), (stable, stable / 1000))],
            )];
            evidence = judge(&evidence, &new, &settings(), &moment, None).evidence;
        }
    }
    moment.step = 3;
    moment.weight_percent = 100;
    let broken = |k| interval(now + k, vec![counts((4500, 90), (0, 0))]);
    let judgement = judge(&evidence, &[broken(1), broken(2)], &settings(), &moment, None);
    assert_reason(&judgement, "Fail", "OverMax");
}

#[test]
fn promoting_listens_to_the_canary_alone() {
    let promoting = Moment {
        promoting: true,
        ..at(100)
    };
    assert_reason(
        &judged(&repeated(&counts((450, 0), (0, 0)), 3), &promoting),
        "Pass",
        "Pass",
    );
    assert_reason(
        &judged(&repeated(&counts((450, 23), (450, 23)), 2), &promoting),
        "Fail",
        "OverMax",
    );
    assert_eq!(
        judged(&repeated(&counts((2000, 14), (2000, 2)), 8), &promoting)
            .evidence
            .metrics[0]
            .step
            .stable
            .requests,
        0
    );
    assert_ne!(
        judged(&repeated(&counts((2000, 14), (2000, 2)), 8), &promoting)
            .verdict
            .name(),
        "Fail"
    );
    let without = judged(&repeated(&silent(4000), 8), &promoting);
    assert_eq!(without.verdict.name(), "Hold");
    let kept = &without.evidence.metrics[0];
    assert_eq!((kept.recent.len(), kept.idle_seconds), (0, 8 * u64::from(INTERVAL)));
}
