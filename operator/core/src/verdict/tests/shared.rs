//! What is no fault of the version: a stable that is as bad, also where few of its requests tell so, and clumps of bad requests.

use super::*;

fn judged_by(settings: &Settings, new: &[Interval], weight: u32) -> Judgement {
    judge(&begin(settings, ACCEPTED), new, settings, &at(weight), None)
}

#[test]
fn max_alone_takes_no_version_back_that_looks_no_worse_than_stable() {
    let settings = Settings { phi: 1.0, ..settings() };
    let with = |stable| judged_by(&settings, &repeated(&counts((150, 8), stable), 2), 90);
    // Stable's two bad ones of thirty are too few to call it over max, and say enough.
    let same = with((15, 1));
    assert!(same.explanations[0].ln_absolute > same.explanations[0].threshold_fail);
    assert_eq!(same.verdict.name(), "Hold", "{}", same.verdict);
    assert_reason(&with((150, 0)), "Fail", "OverMax");
    // Without stable there is nothing to look like.
    assert_reason(&with((0, 0)), "Fail", "OverMax");
}

#[test]
fn at_full_weight_and_in_a_promotion_stables_last_requests_hold_nothing_back() {
    let settings = Settings { phi: 1.0, ..settings() };
    let new = repeated(&counts((150, 8), (15, 1)), 2);
    assert_reason(&judged_by(&settings, &new, 100), "Fail", "OverMax");
    let moment = Moment {
        promoting: true,
        ..at(90)
    };
    assert_reason(
        &judge(&begin(&settings, ACCEPTED), &new, &settings, &moment, None),
        "Fail",
        "OverMax",
    );
}

#[test]
fn a_few_bad_requests_show_that_stable_is_over_max() {
    // Three of seventy-five at a max of 1 %: by chance in 4 % of the times.
    let settings = Settings { phi: 1.0, ..settings() };
    let judgement = judged_by(&settings, &repeated(&counts((75, 0), (75, 3)), 1), 50);
    assert!(judgement.evidence.metrics[0].stable_over_since.is_some());
    let judgement = judged_by(&settings, &repeated(&counts((75, 0), (100, 3)), 1), 50);
    assert!(judgement.evidence.metrics[0].stable_over_since.is_none());
}

#[test]
fn where_bad_requests_come_in_clumps_a_single_one_is_no_proof() {
    let clump = |phi, bad| {
        let settings = Settings { phi, ..settings() };
        let judgement = judged_by(&settings, &repeated(&counts((bad + 1, bad), (200, 0)), 1), 10);
        judgement.verdict.reason()
    };
    assert_eq!(clump(1.0, 10), "Tripwire");
    assert_eq!(clump(2.0, 10), "Tripwire");
    assert_eq!(clump(6.0, 29), "InsufficientTraffic");
    assert_eq!(clump(6.0, 30), "Tripwire");
    assert_eq!(clump(f64::NAN, 10), "Tripwire");
    // From one interval alone, also where it is not half of the requests.
    let one = |phi, bad| {
        let settings = Settings { phi, ..settings() };
        judged_by(&settings, &repeated(&counts((100, bad), (4000, 0)), 1), 10)
            .verdict
            .name()
    };
    assert_eq!((one(6.0, 29), one(6.0, 30)), ("Hold", "Fail"));
}
