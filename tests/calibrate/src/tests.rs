//! That the simulation is what it says: the same by the same seed, rates as they are named, rules as they are documented.

use rand_pcg::Pcg64Mcg;
use stepgate_core::verdict::dispersion::dispersion;

use crate::cells::{Cell, RATES, SCENARIOS, Tool, all, outcomes, simulate};
use crate::outcome::{End, Outcome, Summary};
use crate::page::with_tables;
use crate::report::{duration, percent};
use crate::threshold::{argo, flagger};
use crate::traffic::{CLUMP, Scenario, Service, Shares};
use crate::{chart, report, targets};

fn named(name: &str) -> &'static Scenario {
    SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap()
}

fn cell(name: &str, rate: f64, tool: Tool, runs: u64) -> Cell {
    Cell {
        scenario: named(name),
        rate,
        tool,
        runs,
        found: Summary::default(),
    }
}

fn service(scenario: &Scenario, rate: f64) -> Service<'_> {
    Service::new(scenario, rate, 3, Pcg64Mcg::new(7))
}

fn steady(errors: f64, slow: f64) -> Scenario {
    Scenario {
        canary: Shares { errors, slow },
        ..*named("healthy 0.1 %")
    }
}

#[test]
fn asking_after_every_interval_changes_no_outcome() {
    for scenario in &SCENARIOS {
        for rate in [1.0, 10.0, 100.0] {
            for tool in [Tool::Stepgate(1.0), Tool::Stepgate(2.0)] {
                let cell = cell(scenario.name, rate, tool, 0);
                assert_eq!(
                    outcomes(&cell, 0..2, 3, false),
                    outcomes(&cell, 0..2, 3, true),
                    "{} at {rate}/s, {}",
                    scenario.name,
                    tool.name()
                );
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_figures_on_any_number_of_threads() {
    let run = |seed, threads| {
        let mut cells = vec![
            cell("0.1 → 2 %", 100.0, Tool::Stepgate(1.0), 600),
            cell("0.1 → 1 %", 10.0, Tool::Flagger, 300),
        ];
        simulate(&mut cells, seed, threads);
        let targets = targets::check(&cells);
        (report::markdown(&cells, &targets, seed), chart::svg(&cells))
    };
    assert_eq!(run(1, 1), run(1, 3));
    assert_ne!(run(1, 1), run(2, 1));
}

#[test]
fn traffic_comes_at_its_rate_and_is_as_bad_as_it_is_named() {
    let scenario = steady(0.02, 0.01);
    let seen = service(&scenario, 1_000.0).traffic(0, 1_000, 30).canary;
    let near = |found: u64, expected: f64| (found as f64 / expected - 1.0).abs() < 0.05;
    assert!(
        near(seen.requests, 300_000.0) && near(seen.errors, 6_000.0) && near(seen.slow, 3_000.0),
        "{seen:?}"
    );

    let clumped = Scenario {
        clumped: true,
        ..scenario
    };
    let mut service = service(&clumped, 1_000.0);
    let seen = service.traffic(0, 1_000, 30).canary;
    assert!(
        (seen.errors as f64 / seen.requests as f64 - 0.02).abs() < 0.002,
        "{seen:?}"
    );
    let smallest = (0..4_000)
        .map(|at| service.traffic(at, at + 1, 1).canary.errors)
        .filter(|errors| *errors > 0)
        .min();
    assert_eq!(smallest, Some(CLUMP.0));
}

#[test]
fn an_outage_is_shared_lasts_six_minutes_and_begins_in_a_step_under_full_weight() {
    let scenario = named("shared outage");
    let mut service = service(scenario, 1_000.0);
    for (weight, now) in [(10, 0), (30, 1_000), (50, 2_000), (100, 3_000)] {
        service.entered(weight, now);
    }
    let outside = |both: crate::traffic::Both| (both.stable.errors as f64) < 0.01 * both.stable.requests as f64;
    let bad: Vec<i64> = (0..4_000)
        .filter(|now| !outside(service.traffic(*now, now + 1, 50)))
        .collect();
    let (first, last) = (*bad.first().unwrap(), *bad.last().unwrap());
    assert!((355..=360).contains(&(last - first)), "{first} to {last}");
    assert!(first % 1_000 < 62 && first < 2_100, "{first}");
    let both = service.traffic(first + 5, first + 300, 50);
    let share = |seen: crate::traffic::Seen| seen.errors as f64 / seen.requests as f64;
    assert!((share(both.canary) - 0.05).abs() < 0.005 && (share(both.stable) - 0.05).abs() < 0.005);
}

#[test]
fn flagger_promotes_after_five_good_minutes_and_takes_back_after_five_bad_ones() {
    let end = |scenario: &Scenario, rate| {
        let outcome = flagger::run(scenario, service(scenario, rate));
        (outcome.end, outcome.seconds, outcome.weight)
    };
    assert_eq!(end(&steady(0.0, 0.0), 100.0), (End::Promoted, 300, 50));
    assert_eq!(end(&steady(0.5, 0.0), 100.0), (End::RolledBack, 360, 10));
    assert_eq!(end(&steady(0.0, 0.5), 100.0), (End::RolledBack, 360, 10));
    assert_eq!(end(&steady(0.0, 0.0), 0.0), (End::RolledBack, 360, 10));
}

#[test]
fn argo_goes_by_the_clock_and_takes_back_at_the_third_measurement() {
    let end = |scenario: &Scenario| {
        let outcome = argo::run(scenario, service(scenario, 100.0));
        (outcome.end, outcome.seconds, outcome.weight)
    };
    assert_eq!(end(&steady(0.0, 0.5)), (End::Promoted, 2_400, 80));
    assert_eq!(end(&steady(0.5, 0.0)), (End::RolledBack, 1_215, 60));
}

#[test]
fn without_metrics_stepgate_neither_promotes_nor_rolls_back() {
    for rate in RATES {
        let found = outcomes(&cell("metrics fail", rate, Tool::Stepgate(1.0), 0), 0..20, 1, false);
        assert!(found.iter().all(|outcome| outcome.end == End::Undecided), "{found:?}");
    }
}

#[test]
fn clumps_are_known_from_stables_history() {
    let calm = service(named("healthy 0.1 %"), 100.0).history(4, 15);
    let clumped = service(named("clumps, 0.1 %"), 100.0).history(4, 15);
    assert!((1.0..1.2).contains(&dispersion(&calm)), "{}", dispersion(&calm));
    assert!((5.0..8.0).contains(&dispersion(&clumped)), "{}", dispersion(&clumped));
}

#[test]
fn every_scenario_has_every_rate_and_healthy_ones_the_more_rollouts() {
    let cells = all(5, 50);
    for scenario in &SCENARIOS {
        let of = |tool: Tool| {
            cells
                .iter()
                .filter(move |cell| cell.scenario == scenario && cell.tool == tool)
        };
        for tool in [Tool::Stepgate(1.0), Tool::Stepgate(2.0), Tool::Flagger, Tool::Argo] {
            assert_eq!(of(tool).count(), RATES.len());
        }
        let history = of(Tool::StepgateFromHistory);
        assert!(history.count() == if scenario.clumped { 4 } else { 0 });
        let often = of(if scenario.clumped {
            Tool::StepgateFromHistory
        } else {
            Tool::Stepgate(1.0)
        });
        assert!(
            often
                .into_iter()
                .all(|cell| cell.runs == if scenario.healthy { 50 } else { 5 })
        );
    }
}

#[test]
fn medians_and_shares_are_those_of_the_outcomes() {
    let outcome = |end, seconds, bad| Outcome {
        end,
        seconds,
        bad,
        retreats: 1,
        weight: 10,
        intervals: 1,
    };
    let mut summary = Summary::default();
    summary.extend(vec![
        outcome(End::RolledBack, 10, 1),
        outcome(End::RolledBack, 30, 9),
        outcome(End::Promoted, 99, 5),
        outcome(End::RolledBack, 20, 2),
        outcome(End::RolledBack, 40, 4),
    ]);
    assert!((summary.ended(End::RolledBack) - 0.8).abs() < 1e-12);
    assert_eq!(summary.median_seconds(End::RolledBack), Some(25.0));
    assert_eq!(summary.median_seconds(End::Undecided), None);
    assert_eq!(summary.median_bad(End::RolledBack), Some(3.0));
    assert!((summary.mean_retreats() - 1.0).abs() < 1e-12);
}

#[test]
fn a_target_without_a_figure_is_missed() {
    let targets = targets::check(&[]);
    assert!(targets.len() > 10 && targets.iter().all(|target| !target.met));
}

#[test]
fn figures_have_the_digits_that_they_are_worth() {
    assert_eq!(
        [0.0, 0.000_05, 0.5, 0.9996, 1.0].map(percent),
        ["0", "0.01", "50.0", "99.96", "100"]
    );
    assert_eq!(
        [None, Some(45.0), Some(150.0), Some(900.0)].map(duration),
        ["–", "45 s", "2.5 min", "15 min"]
    );
}

#[test]
fn a_page_keeps_what_is_not_ours() {
    let page = "above\n<!-- calibrate: begin (written by `make calibrate`) -->\nold\n<!-- calibrate: end -->\nbelow\n";
    let new = with_tables(page, "new").unwrap();
    assert_eq!(new, page.replace("old", "\nnew"));
    assert_eq!(with_tables(&new, "new").unwrap(), new);
    assert!(with_tables("above", "new").is_err());
}
