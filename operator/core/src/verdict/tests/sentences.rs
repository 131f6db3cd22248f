//! What a person reads, to the letter.

use super::*;

#[test]
fn shares_counts_and_times_read_as_people_write_them() {
    for (share, said) in [
        (0.0, "0 %"),
        (0.000_4, "0.040 %"),
        (0.000_94, "0.094 %"),
        (0.000_96, "0.1 %"),
        (0.001_4, "0.1 %"),
        (0.01, "1 %"),
        (0.051, "5.1 %"),
        (0.5, "50 %"),
        (0.999_4, "99.9 %"),
        (0.999_6, "100 %"),
        (1.0, "100 %"),
    ] {
        assert_eq!(wording::percent(share), said);
    }
    for (count, said) in [
        (0.0, "0"),
        (999.0, "999"),
        (1_000.0, "1,000"),
        (12_345_678.0, "12,345,678"),
    ] {
        assert_eq!(wording::grouped(count), said);
    }
    for (seconds, said) in [
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (121, "3 min"),
        (7_199, "120 min"),
        (7_200, "2 h"),
        (172_799, "48 h"),
        (172_800, "2 days"),
        (172_801, "3 days"),
    ] {
        assert_eq!(wording::duration(seconds), said);
    }
    assert_eq!(wording::of(arm(4_500, 23)), "23 of 4,500 bad (0.5 %)");
    assert_eq!(wording::of(arm(0, 0)), "without requests");
}

#[test]
fn a_retreat_says_what_of_which_metric_it_is_for() {
    let metric = || "errors".to_owned();
    let silent = RetreatCause::CanarySilent {
        metric: metric(),
        expected: 1_250.0,
        intervals: 2,
    };
    assert_eq!(
        silent.to_string(),
        "errors: no canary request in 2 intervals, although about 1,250 should have come by the weight"
    );
    let shared = |after_rise| RetreatCause::SharedFault {
        metric: metric(),
        canary: arm(100, 5),
        stable: arm(900, 45),
        after_rise,
    };
    for (after_rise, when) in [(true, "since the canary's weight rose"), (false, "and it lasts")] {
        assert_eq!(
            shared(after_rise).to_string(),
            format!(
                "errors: both versions are over the max {when}: canary 5 of 100 bad (5 %), stable 45 of 900 bad (5 %)"
            )
        );
    }
}

#[test]
fn a_hold_without_data_says_for_how_long_and_what_cannot_be_read() {
    let idle = |seconds| {
        HoldReason::NoData {
            metric: "errors".to_owned(),
            seconds,
        }
        .to_string()
    };
    assert_eq!(idle(0), "errors: no request of either version");
    assert_eq!(idle(90), "errors: no request of either version for 90 s");
    let unreadable = |kind| {
        HoldReason::MetricsUnavailable(DataError {
            kind,
            detail: "what it says".to_owned(),
        })
        .to_string()
    };
    assert_eq!(unreadable(Trouble::NoBucketBoundary), "what it says");
    assert!(unreadable(Trouble::NotACount).starts_with("metrics cannot be read: "));
}

#[test]
fn what_a_source_says_is_cut_where_it_is_long() {
    let exactly = "ä".repeat(120);
    assert_eq!(observation::shortened(&exactly), exactly);
    assert_eq!(observation::shortened(&format!("{exactly}b")), format!("{exactly}…"));
    // A letter that begins before the end is kept whole.
    let odd = format!("a{}", "ä".repeat(200));
    assert_eq!(observation::shortened(&odd), format!("a{}…", "ä".repeat(120)));
}
