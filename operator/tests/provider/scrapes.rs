//! The question how often a Rollout's targets are scraped: 65 minutes of a gateway, asked at their end by Prometheus' own engine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use stepgate::provider::{Measure, Scrapes};

use super::{arms, envoy, promtool, query};

/// Seconds from the first sample until the question, and of the grid of samples.
const ASKED: u32 = 3_900;
const GRID: u32 = 5;

/// A target: its instance, and whether it is scraped at a time.
type Gateway = (&'static str, fn(u32) -> bool);

/// A little after the grid of the question's windows, so that no sample falls on the end of two.
const fn every(seconds: u32, time: u32) -> bool {
    time % seconds == GRID
}

/// What is found of these gateways, where 15 s are said: samples in the best five minutes of each that is asked about, and those among them
/// that are suspected.
fn check(name: &str, gateways: &[Gateway], samples: &[(&str, u32)], suspected: &[&str]) {
    let query = query("contour", &arms(), &Measure::Errors);
    let scrapes = Scrapes::of(query.parts().unwrap(), 15.0);
    let mut file = format!("evaluation_interval: {GRID}s\ntests:\n- interval: {GRID}s\n  input_series:\n");
    for (instance, is_scraped) in gateways {
        // Several series a target, and another Rollout's, which is scraped all the time.
        let of = |service, class| (envoy(service, class, instance), *is_scraped);
        let other: fn(u32) -> bool = |_| true;
        let series = [
            of("checkout", 2),
            of("checkout", 4),
            of("checkout", 5),
            (envoy("other", 2, instance), other),
        ];
        for (series, is_scraped) in series {
            let values = (0..=ASKED / GRID).map(|index| {
                if is_scraped(index * GRID) {
                    index.to_string()
                } else {
                    "_".into()
                }
            });
            let values: Vec<String> = values.collect();
            writeln!(file, "  - {{series: '{series}', values: '{}'}}", values.join(" ")).unwrap();
        }
    }
    if gateways.is_empty() {
        file.push_str("  - {series: 'other', values: '1'}\n");
    }
    let expression = serde_json::to_string(&scrapes.least()).unwrap();
    writeln!(
        file,
        "  promql_expr_test:\n  - expr: {expression}\n    eval_time: {ASKED}s\n    exp_samples:"
    )
    .unwrap();
    for (instance, samples) in samples {
        writeln!(
            file,
            "    - {{labels: '{{job=\"envoy\", instance=\"{instance}\"}}', value: {samples}}}"
        )
        .unwrap();
    }
    if samples.is_empty() {
        file.push_str("      []\n");
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("scrapes_{name}.yml"));
    std::fs::write(&path, file).unwrap();
    promtool(&path);
    let target = |(instance, samples): &(&str, u32)| {
        let labels =
            [("job", "envoy"), ("instance", *instance)].map(|(name, value)| (name.to_owned(), value.to_owned()));
        (BTreeMap::from(labels), f64::from(*samples))
    };
    let found = scrapes.suspects(samples.iter().map(target).collect());
    let found: Vec<&str> = found.iter().map(|target| target["instance"].as_str()).collect();
    assert_eq!(found, suspected, "{name}");
}

#[test]
fn targets_that_are_scraped_as_is_said_are_no_suspects() {
    check("as_said", &[("gw-1", |time| every(15, time))], &[("gw-1", 20)], &[]);
}

#[test]
fn a_target_that_is_scraped_once_a_minute_is_a_suspect() {
    check("minute", &[("gw-1", |time| every(60, time))], &[("gw-1", 5)], &["gw-1"]);
}

#[test]
fn one_slow_target_of_three_is_found() {
    let gateways: [Gateway; 3] = [
        ("gw-1", |time| every(15, time)),
        ("gw-2", |time| every(60, time)),
        ("gw-3", |time| every(15, time)),
    ];
    check(
        "one_of_three",
        &gateways,
        &[("gw-1", 20), ("gw-2", 5), ("gw-3", 20)],
        &["gw-2"],
    );
}

#[test]
fn no_more_than_five_targets_are_looked_at_and_those_are_the_slowest() {
    let gateways: [Gateway; 7] = [
        ("gw-1", |time| every(60, time)),
        ("gw-2", |time| every(15, time)),
        ("gw-3", |time| every(60, time)),
        ("gw-4", |time| every(30, time)),
        ("gw-5", |time| every(60, time)),
        ("gw-6", |time| every(15, time)),
        ("gw-7", |time| every(60, time)),
    ];
    let slow = [("gw-1", 5), ("gw-3", 5), ("gw-4", 10), ("gw-5", 5), ("gw-7", 5)];
    check("seven", &gateways, &slow, &["gw-1", "gw-3", "gw-4", "gw-5", "gw-7"]);
}

#[test]
fn an_outage_of_four_minutes_makes_no_suspect() {
    let gateways: [Gateway; 2] = [
        ("long-ago", |time| every(15, time) && !(1_800..2_040).contains(&time)),
        ("just-over", |time| every(15, time) && !(3_640..3_880).contains(&time)),
    ];
    check("outage", &gateways, &[("long-ago", 20), ("just-over", 20)], &[]);
}

#[test]
fn a_young_target_is_left_out_and_so_is_one_that_is_gone() {
    let gateways: [Gateway; 3] = [
        ("young", |time| every(60, time) && time > ASKED - 540),
        ("old", |time| every(15, time)),
        ("gone", |time| every(60, time) && time < ASKED - 360),
    ];
    check("young", &gateways, &[("old", 20)], &[]);
    check("young_alone", &gateways[..1], &[], &[]);
}

#[test]
fn without_a_target_nothing_is_said() {
    check("none", &[], &[], &[]);
}
