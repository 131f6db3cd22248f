//! The user's own queries over a life: what they take back, what they hold, and what is kept of them in `status`.

use serde_json::json;
use stepgate_core::{
    Plan,
    verdict::{DataError, Observation},
};
use stepgate_crds::{
    RolloutStatus,
    evidence::Trouble,
    query::CountQuery,
    status::{Outcome, Phase, RunState},
};

use super::lives::last_outcome;
use crate::fixtures::{
    simulator::Simulator,
    world::{Moment, world},
};

fn judged() -> serde_json::Value {
    json!({"analysis": {
        "queries": [{"name": "queue-depth", "query": "max(queue{pod=~\"${canaryPods}\"})", "max": 100, "failureLimit": 2}],
        "onNoData": {"after": "1m", "then": "Rollback"},
    }})
}

/// At the second step with counts that pass, and these numbers in the intervals.
fn at_step(numbers: &[f64]) -> Moment {
    let observations = numbers.iter().map(|number| Observation::Value(*number));
    let intervals = i64::try_from(numbers.len()).unwrap();
    world()
        .with_spec(judged())
        .at_step(2)
        .with_counts(intervals, [1_000, 0, 2_000, 2])
        .with_numbers(observations)
        .after(60)
}

#[test]
fn a_good_version_is_promoted_and_its_query_is_in_the_status() {
    let mut simulator = Simulator::adopted(&judged());
    simulator.ship("v2");
    simulator.until("30 % is in force", 300, |simulator| {
        simulator.status().weight == Some(30)
    });
    let report = simulator.status().run.map(|run| run.queries);
    assert_eq!(report, Some(Vec::new()), "of the step before");
    simulator.run_for(60);
    let run = simulator.status().run.unwrap();
    let query = &run.queries[0];
    assert_eq!(
        (
            query.name.as_str(),
            query.value.as_deref(),
            query.max,
            query.failures,
            query.failure_limit
        ),
        ("queue-depth", Some("1"), Some(100.0), 0, 2)
    );
    assert_eq!(query.asked.as_deref(), Some("max(queue{pod=~\"${canaryPods}\"})"));
    assert_eq!(run.spec.queries.len(), 1);
    simulator.until_stable("v2", 1_200);
    assert_eq!(last_outcome(&simulator), (Outcome::Promoted, None));
}

#[test]
fn out_of_bounds_for_too_long_it_takes_the_version_back_by_name_value_and_max() {
    let status = at_step(&[1.0, 1.0, 150.0, 151.0]).commits();
    let run = status.run.unwrap();
    let RunState::RollingBack { cause, .. } = &run.state else {
        panic!("{:?}", run.state)
    };
    assert_eq!(cause.reason, "Verdict");
    assert_eq!(
        cause.detail,
        "query queue-depth: 151 is over the max of 100, in 2 intervals in a row"
    );
    assert_eq!(run.rule.as_deref(), Some("QueryOutOfBounds"));
    assert_eq!(run.evidence.queries[0].failures, 2);
    let told = status.note.unwrap().text;
    assert!(
        told.contains("queue-depth: 151, max 100, out of its bounds in 2 of 2 intervals"),
        "{told}"
    );
}

#[test]
fn out_of_bounds_once_it_holds_where_the_counts_alone_would_pass() {
    let status = at_step(&[1.0, 1.0, 1.0, 150.0]).commits();
    assert_eq!(status.phase, Some(Phase::Stepping));
    assert_eq!(status.verdict.as_deref(), Some("QueryOutOfBounds"));
    let run = status.run.unwrap();
    assert_eq!((run.step, run.no_data_since), (1, None));
    assert_eq!(
        (run.queries[0].failures, run.queries[0].value.as_deref()),
        (1, Some("150"))
    );
    // The same with a number within bounds goes on.
    let run = at_step(&[1.0; 4]).commits().run.unwrap();
    assert_eq!(run.step, 2);
}

/// The third step has bounds of its own: what is well elsewhere is not there, and the other way round.
#[test]
fn a_step_has_bounds_of_its_own_in_place_of_both_of_the_query() {
    let at_step = |number: i32, numbers: &[f64]| {
        let mut spec = judged();
        spec["steps"] = json!([
            {"weight": 10},
            {"weight": 30},
            {"weight": 50, "analysis": {"queries": [{"name": "queue-depth", "min": 120}]}},
            {"weight": 100},
        ]);
        world()
            .with_spec(spec)
            .at_step(number)
            .with_counts(4, [1_000, 0, 2_000, 2])
            .with_numbers(numbers.iter().map(|number| Observation::Value(*number)))
            .after(60)
            .commits()
    };
    let run = |status: RolloutStatus| status.run.unwrap();
    assert_eq!(
        run(at_step(3, &[150.0; 4])).step,
        3,
        "it passes where only 120 is asked for"
    );
    let failed = run(at_step(3, &[150.0, 150.0, 90.0, 90.0]));
    let RunState::RollingBack { cause, .. } = &failed.state else {
        panic!("{:?}", failed.state)
    };
    assert_eq!(
        cause.detail,
        "query queue-depth: 90 is under the min of 120, in 2 intervals in a row"
    );
    let elsewhere = at_step(2, &[90.0, 90.0, 90.0, 150.0]);
    assert_eq!(elsewhere.verdict.as_deref(), Some("QueryOutOfBounds"));
    let query = run(elsewhere).queries.remove(0);
    assert_eq!((query.max, query.min), (Some(100.0), None));
}

#[test]
fn without_a_number_it_holds_and_the_rule_for_no_data_applies() {
    let nothing = Observation::Error(DataError {
        kind: Trouble::QueryNoData,
        detail: "the query gives no series".to_owned(),
    });
    let silent = || {
        at_step(&[])
            .with_counts(4, [1_000, 0, 2_000, 2])
            .with_numbers(vec![nothing.clone(); 4])
    };
    let status = silent().after(60).commits();
    assert_eq!(status.verdict.as_deref(), Some("QueryNoData"));
    let message = status.message.clone().unwrap();
    assert!(
        message.contains("query queue-depth: the query gives no series"),
        "{message}"
    );
    assert!(status.run.as_ref().unwrap().no_data_since.is_some());
    let later = silent()
        .with(|seen| seen.rollout.status = status.clone())
        .after(180)
        .commits();
    let run = later.run.unwrap();
    let RunState::RollingBack { cause, .. } = &run.state else {
        panic!("{:?}", run.state)
    };
    assert_eq!(cause.reason, "NoData");
}

#[test]
fn a_query_says_nothing_against_a_version_whose_traffic_somebody_took_away() {
    let bad = at_step(&[200.0, 200.0]);
    let failed = |moment: &Moment| match moment.next() {
        Plan::Commit(status) => status
            .run
            .is_some_and(|run| matches!(run.state, RunState::RollingBack { .. })),
        Plan::Act(_) | Plan::Wait(_) => false,
    };
    assert!(failed(&bad), "{:?}", bad.next());
    let taken = bad.with_weight(0).with_route(|route| route.generation += 1);
    assert!(!failed(&taken), "{:?}", taken.next());
}

/// Ten queries whose every answer is a long refusal, beside metrics with long queries of their own.
#[test]
fn what_ten_refused_queries_say_stays_within_the_bounds_of_status() {
    let names: Vec<String> = (0..10)
        .map(|number| format!("query-{number}-{}", "x".repeat(30)))
        .collect();
    let queries: Vec<_> = names
        .iter()
        .map(|name| json!({"name": name, "query": "q".repeat(100), "max": 1.0}))
        .collect();
    let refused = DataError {
        kind: Trouble::QueryRejected,
        detail: "\"many-to-many matching not allowed\" ".repeat(20),
    };
    let status = world()
        .with_spec(json!({"analysis": {"queries": queries}}))
        .at_step(2)
        .with_counts(1, [1_000, 0, 2_000, 2])
        .with(|seen| {
            let sample = seen.samples.first_mut().unwrap();
            sample
                .metrics
                .extend(names.iter().map(|_| Observation::Error(refused.clone())));
            let parts = "y".repeat(600);
            seen.queries = vec![Some(CountQuery {
                canary_requests: parts.clone(),
                canary_bad: parts.clone(),
                stable_requests: parts.clone(),
                stable_bad: parts,
                targets: Vec::new(),
                within: false,
            })];
            seen.asked = vec![Some("z".repeat(1_000)); names.len()];
        })
        .after(90)
        .commits();
    assert!(serde_json::to_string(&status).unwrap().len() <= 16 * 1_024);
    let evidence = &status.run.unwrap().evidence.queries;
    assert!(
        evidence.len() == 10 && evidence.iter().all(|query| query.trouble.is_some()),
        "{evidence:?}"
    );
}
