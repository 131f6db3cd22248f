//! What follows where a step is held for long: as the spec says, at once, and never on by missing data.

use serde_json::{Value, json};
use stepgate_core::{Plan, input::SourceHealth};
use stepgate_crds::{
    command::Verb,
    evidence::Trouble,
    rollout::{Analysis, Step},
    status::{Outcome, PauseReason, Phase, Retreat, Run, RunState},
    units::Timestamp,
};

use super::lives::last_outcome;
use crate::fixtures::{
    controllers::Metrics,
    simulator::Simulator,
    world::{Moment, world},
};

/// An analysis that says this of waiting.
fn saying(field: &str, after: &str, then: &str) -> Value {
    json!({"analysis": {field: {"after": after, "then": then}}})
}

/// Step 1, too few requests to tell for an hour: canary requests, bad ones.
fn inconclusive(spec: Value, requests: u32, bad: u32) -> Moment {
    world()
        .with_spec(spec)
        .at_step(1)
        .with_counts(1, [requests, bad, requests * 9, 0])
        .after(3_600)
}

/// Step 1, the source gone, and nothing has been known for so many seconds.
fn without_data(spec: Value, seconds: i64) -> Moment {
    world().with_spec(spec).at_step(1).after(7_200).with(|seen| {
        let since = Timestamp::from_millis(seen.now.as_millis() - seconds * 1_000);
        seen.source = SourceHealth::Down {
            kind: Trouble::default(),
            since,
            why: "connection refused".to_owned(),
        };
        seen.rollout.status.run.as_mut().unwrap().no_data_since = Some(since);
    })
}

/// What a decision comes to.
fn outcome(moment: &Moment) -> String {
    let run = |run: Run| match run.state {
        RunState::Stepping { .. } => format!("step {} at {} %", run.step + 1, run.weight),
        RunState::RollingBack { cause, then, .. } => format!("{then:?} for {}", cause.reason),
        RunState::Retreated { why, .. } => format!("retreated for {}", why.as_str()),
        RunState::Paused { why, .. } => format!("paused for {why:?} at {} %", run.weight),
        RunState::Promoting { .. } => "promoting".to_owned(),
        other => format!("{other:?}"),
    };
    match moment.next() {
        Plan::Commit(status) => run(status.run.unwrap()),
        Plan::Wait(_) => "waits".to_owned(),
        Plan::Act(effects) => format!("{effects:?}"),
    }
}

#[test]
fn a_step_without_a_verdict_does_what_the_spec_says() {
    let stays = "step 1 at 10 %";
    let rows: [(Value, u32, u32, &str); 13] = [
        (json!({}), 60, 0, stays),
        (saying("onInconclusive", "30m", "Hold"), 60, 0, stays),
        (
            saying("onInconclusive", "30m", "Rollback"),
            60,
            0,
            "Failed for Inconclusive",
        ),
        (
            saying("onInconclusive", "30m", "Retreat"),
            60,
            0,
            "paused for Retreats at 0 %",
        ),
        (saying("onInconclusive", "30m", "Advance"), 60, 0, "step 2 at 30 %"),
        // Not before its time.
        (saying("onInconclusive", "2h", "Rollback"), 60, 0, stays),
        (saying("onInconclusive", "2h", "Advance"), 60, 0, stays),
        (saying("onInconclusive", "2h", "Retreat"), 60, 0, stays),
        // At least 50 canary requests, and their bad share under the max.
        (saying("onInconclusive", "30m", "Advance"), 49, 0, stays),
        (saying("onInconclusive", "30m", "Advance"), 50, 0, "step 2 at 30 %"),
        (saying("onInconclusive", "30m", "Advance"), 60, 1, stays),
        (saying("onInconclusive", "30m", "Advance"), 110, 1, "step 2 at 30 %"),
        // What is said of missing data says nothing of this.
        (saying("onNoData", "30m", "Rollback"), 60, 0, stays),
    ];
    for (spec, requests, bad, expected) in rows {
        let moment = inconclusive(spec.clone(), requests, bad);
        assert_eq!(
            outcome(&moment),
            expected,
            "{spec} {requests} {bad}: {:?}",
            moment.next()
        );
    }
}

#[test]
fn a_step_without_data_does_what_the_spec_says_and_never_goes_on() {
    let stays = "step 1 at 10 %";
    let rows: [(Value, i64, &str); 8] = [
        (json!({}), 7_000, stays),
        (saying("onNoData", "10m", "Hold"), 7_000, stays),
        (saying("onNoData", "10m", "Rollback"), 601, "Failed for NoData"),
        (saying("onNoData", "10m", "Rollback"), 599, stays),
        (saying("onNoData", "10m", "Retreat"), 601, "retreated for NoData"),
        (saying("onNoData", "10m", "Retreat"), 599, stays),
        // Only what is said of missing data says anything of it.
        (saying("onInconclusive", "30m", "Advance"), 7_000, stays),
        (saying("onInconclusive", "30m", "Rollback"), 7_000, stays),
    ];
    for (spec, seconds, expected) in rows {
        let moment = without_data(spec.clone(), seconds);
        assert_eq!(
            outcome(&moment),
            expected,
            "{spec} after {seconds} s: {:?}",
            moment.next()
        );
    }
}

#[test]
fn a_step_waits_as_long_as_the_defaults_say_where_the_spec_does_not() {
    let after = |field: &str, then: &str| json!({"analysis": {field: {"then": then}}});
    let at = |seconds: u64| {
        let moment = world()
            .with_spec(after("onInconclusive", "Rollback"))
            .at_step(1)
            .with_counts(1, [60, 0, 540, 0])
            .after(seconds);
        outcome(&moment)
    };
    assert_eq!(
        (at(1_700).as_str(), at(1_900).as_str()),
        ("step 1 at 10 %", "Failed for Inconclusive")
    );
    let without = |seconds| outcome(&without_data(after("onNoData", "Rollback"), seconds));
    assert_eq!(
        (without(590).as_str(), without(610).as_str()),
        ("step 1 at 10 %", "Failed for NoData")
    );
}

#[test]
fn a_step_with_rules_of_its_own_goes_by_them_and_an_edit_goes_at_once() {
    let own = json!({
        "steps": [
            {"weight": 10, "analysis": {"onInconclusive": {"after": "30m", "then": "Rollback"}}},
            {"weight": 100},
        ],
        "analysis": {"onInconclusive": {"after": "30m", "then": "Advance"}},
    });
    assert_eq!(outcome(&inconclusive(own.clone(), 60, 0)), "Failed for Inconclusive");
    let edited = inconclusive(own, 60, 0).with(|seen| {
        let steps = seen.rollout.spec.steps.as_mut().unwrap();
        steps[0].analysis = None;
    });
    assert_eq!(outcome(&edited), "step 2 at 100 %");
    let written_later = inconclusive(json!({}), 60, 0).with(|seen| {
        let analysis: Analysis =
            serde_json::from_value(saying("onInconclusive", "30m", "Rollback")["analysis"].clone()).unwrap();
        seen.rollout.spec.analysis = Some(analysis);
    });
    assert_eq!(outcome(&written_later), "Failed for Inconclusive");
}

#[test]
fn an_advance_passes_neither_an_approval_nor_what_is_no_want_of_evidence() {
    let approval = json!({
        "steps": [{"weight": 10, "approval": "Required"}, {"weight": 100}],
        "analysis": {"onInconclusive": {"after": "30m", "then": "Advance"}},
    });
    assert_eq!(outcome(&inconclusive(approval, 60, 0)), "paused for Approval at 10 %");
    // A share of requests that does not follow the weight.
    let crooked = world()
        .with_spec(saying("onInconclusive", "30m", "Advance"))
        .at_step(1)
        .with_counts(3, [100, 0, 20, 0])
        .after(3_600);
    let said = crooked.commits();
    assert_eq!(said.verdict.as_deref(), Some("ShareMismatch"));
    assert_eq!(said.run.as_ref().unwrap().step, 0);
    assert!(
        said.message.as_ref().unwrap().contains("not for want of evidence"),
        "{said:?}"
    );
    // Too few pods for the weight.
    let small = inconclusive(saying("onInconclusive", "30m", "Advance"), 60, 0).with(|seen| seen.canary_ready = 0);
    assert_ne!(outcome(&small), "step 2 at 30 %");
    // The last step leads to promotion.
    let last = world()
        .with_spec(
            json!({"steps": [{"weight": 100}], "analysis": {"onInconclusive": {"after": "30m", "then": "Advance"}}}),
        )
        .at_step(1)
        .with_counts(1, [60, 0, 0, 0])
        .after(3_600);
    assert_eq!(outcome(&last), "promoting");
}

#[test]
fn what_is_waited_for_and_until_when_is_said() {
    let said = world()
        .with_spec(saying("onInconclusive", "30m", "Rollback"))
        .at_step(1)
        .with_counts(1, [60, 0, 540, 0])
        .after(120)
        .commits();
    let message = said.message.unwrap();
    assert!(
        message.contains("errors: 60 of about") && message.contains("; onInconclusive: Rollback after 30m, at "),
        "{message}"
    );
    let failed = inconclusive(saying("onInconclusive", "30m", "Rollback"), 60, 0).commits();
    let message = failed.message.unwrap();
    assert!(
        message.starts_with("Inconclusive: 10 %: errors: 60 of about"),
        "{message}"
    );
}

#[test]
fn the_tolerance_of_a_step_is_its_own() {
    let tolerant = |step: Value| json!({"steps": [step, {"weight": 100}]});
    let strict = tolerant(json!({"weight": 10}));
    let own = tolerant(json!({"weight": 10, "analysis": {"errorRate": {"max": "5%"}}}));
    // Two per cent, as stable has it: over one, under five.
    let judged = |spec: Value| {
        let moment = world()
            .with_spec(spec)
            .at_step(1)
            .with_counts(6, [1_000, 20, 9_000, 180])
            .after(60);
        moment.commits().verdict.unwrap()
    };
    assert_eq!((judged(strict).as_str(), judged(own).as_str()), ("SharedFault", "Pass"));
    let latency = json!({
        "steps": [{"weight": 10, "analysis": {"latency": {"max": "5%"}}}, {"weight": 100}],
        "analysis": {"latency": {"threshold": "500ms", "max": "1%"}},
    });
    let moment = world()
        .with_spec(latency)
        .at_step(1)
        .with_counts(12, [1_000, 0, 9_000, 0])
        .with_slow([20, 180])
        .after(60);
    assert_eq!(moment.commits().verdict.unwrap(), "Pass");
}

#[test]
fn what_a_run_keeps_of_its_steps_is_how_they_judge_and_not_how_they_wait() {
    let spec = json!({"steps": [
        {"weight": 10, "analysis": {"errorRate": {"max": "5%"}, "onNoData": {"then": "Rollback"}}},
        {"weight": 100},
    ]});
    let kept: Vec<Step> = world()
        .with_spec(spec)
        .at_step(1)
        .0
        .rollout
        .status
        .run
        .unwrap()
        .spec
        .steps;
    let own = kept[0].analysis.as_ref().unwrap();
    assert!(own.error_rate.is_some() && own.on_no_data.is_none());
}

#[test]
fn a_run_without_data_goes_back_and_on_when_there_have_been_some_for_a_while() {
    let mut simulator = Simulator::at_step(&saying("onNoData", "2m", "Retreat"), 2);
    simulator.cluster.weather.metrics = Metrics::Down;
    simulator.until_phase(Phase::Retreated, 300);
    simulator.until("all traffic is on stable", 60, |simulator| {
        simulator.status().weight == Some(0)
    });
    simulator.run_for(1_800);
    assert!(simulator.is_in("Retreated"), "{}", simulator.timeline());
    simulator.cluster.weather.metrics = Metrics::Up;
    simulator.run_for(90);
    assert!(simulator.is_in("Retreated"), "{}", simulator.timeline());
    simulator.until_stable("v2", 1_200);
}

#[test]
fn a_run_without_data_fails_where_the_spec_says_so_whatever_the_trouble() {
    for trouble in [Metrics::Down, Metrics::Empty, Metrics::Nonsense, Metrics::Failing] {
        let mut simulator = Simulator::at_step(&saying("onNoData", "2m", "Rollback"), 2);
        simulator.cluster.weather.metrics = trouble;
        simulator.until_phase(Phase::Failed, 900);
        assert_eq!(
            last_outcome(&simulator),
            (Outcome::Failed, Some("NoData".to_owned())),
            "{trouble:?}"
        );
    }
}

#[test]
fn a_step_that_retreated_without_a_verdict_waits_for_a_person() {
    let mut simulator = Simulator::adopted(&saying("onInconclusive", "5m", "Retreat"));
    simulator.cluster.weather.requests = 2.0;
    simulator.ship("v2");
    simulator.until_phase(Phase::Paused, 900);
    let run = simulator.status().run.unwrap();
    assert!(
        matches!(
            run.state,
            RunState::Paused {
                why: PauseReason::Retreats,
                ..
            }
        ),
        "{run:?}"
    );
    assert_eq!((run.retreats.all, run.retreats.inconclusive), (1, 1));
    simulator.run_for(7_200);
    assert!(simulator.is_in("Paused"), "{}", simulator.timeline());
    simulator.cluster.weather.requests = 200.0;
    simulator.command(Verb::Resume);
    simulator.until_stable("v2", 1_200);
}

#[test]
fn time_without_data_counts_from_when_they_ended_and_not_while_nobody_leads() {
    let mut simulator = Simulator::at_step(&saying("onNoData", "10m", "Rollback"), 2);
    simulator.run_for(20);
    simulator.cluster.weather.metrics = Metrics::Failing;
    simulator.until("it is known that there are no data", 60, |simulator| {
        simulator.status().run.is_some_and(|run| run.no_data_since.is_some())
    });
    let since = simulator.status().run.unwrap().no_data_since.unwrap();
    simulator.run_for(300);
    let run = simulator.status().run.unwrap();
    assert_eq!(run.no_data_since, Some(since), "{:?}", run.state);
    let moment = world()
        .with_spec(saying("onNoData", "10m", "Rollback"))
        .at_step(2)
        .with(|seen| {
            seen.rollout.status.run.as_mut().unwrap().no_data_since = Some(seen.now);
            seen.source = SourceHealth::Down {
                since: seen.now,
                kind: Trouble::default(),
                why: "refused".to_owned(),
            };
            (seen.term, seen.absent) = (seen.term + 1, stepgate_crds::units::Span::seconds(3_600));
            seen.now = seen.now.after(stepgate_crds::units::Span::seconds(3_700));
        });
    let shifted = moment.commits().run.unwrap().no_data_since.unwrap();
    assert_eq!(moment.0.now.since(shifted), stepgate_crds::units::Span::seconds(100));
    assert!(!matches!(
        moment.commits().run.unwrap().state,
        RunState::Retreated {
            why: Retreat::NoData,
            ..
        }
    ));
}
