//! What a run takes from stable's history: before its first weight, and never again.

use serde_json::json;
use stepgate_core::{input::Before, verdict::Baseline};
use stepgate_crds::status::{Phase, RunState};

use crate::fixtures::world::{Moment, world};

/// The pods of the first step are ready, and all that is missing is its weight.
fn ready(max: &str) -> Moment {
    let prepared = world()
        .with_spec(json!({"analysis": {"errorRate": {"max": max}}}))
        .in_phase(Phase::Stepping);
    let run = prepared.0.rollout.status.run.clone().unwrap();
    let since = prepared.0.now;
    prepared
        .with_weight(0)
        .with_run(|run| {
            run.state = RunState::Preparing { since };
            run.weight = 0;
            run.seq -= 1;
        })
        .with_route(|route| {
            route.run = Some(format!("{}.{}", run.id, run.seq - 1));
            for parent in &mut route.parents {
                parent.accepted = Some(route.generation);
            }
        })
}

fn known(requests: f64, bad: f64) -> Before {
    Before::Known(Baseline {
        hours: 4,
        requests,
        bad,
        pods: 3.0,
        phi: 1.25,
    })
}

fn after(max: &str, before: Before) -> stepgate_crds::status::RunSpec {
    let status = ready(max).with(|seen| seen.baseline = before).commits();
    let run = status.run.unwrap();
    assert!(matches!(run.state, RunState::Stepping { .. }));
    run.spec
}

#[test]
fn it_is_waited_for_and_not_for_ever() {
    let moment = ready("1%");
    let (now, patience) = (moment.0.now, moment.0.limits.baseline);
    let awaited = |since, found| Before::Awaited { since, found };
    // A new leader begins to read late in a long preparation: it is given its time, too.
    let later = now.after(patience).after(patience);
    let late = moment.clone().with(|seen| {
        seen.now = later;
        seen.baseline = awaited(later, None);
    });
    assert_eq!(late.waits(), Some(later.after(patience)));
    let moment = moment.with(|seen| seen.baseline = awaited(now, None));
    assert_eq!(moment.waits(), Some(now.after(patience)));
    // What fewer hours have told by then is taken.
    let Before::Known(hours) = known(5_000.0, 10.0) else {
        panic!("not known")
    };
    let found = moment.clone().with(|seen| {
        seen.now = now.after(patience);
        seen.baseline = awaited(now, Some(hours));
    });
    let spec = found.commits().run.unwrap().spec;
    assert_eq!(
        (spec.phi, spec.baseline.map(|known| known.requests)),
        (1.25, Some(5_000))
    );
    let spec = moment
        .with(|seen| seen.now = now.after(patience))
        .commits()
        .run
        .unwrap()
        .spec;
    assert_eq!((spec.phi, spec.baseline), (2.0, None));
    assert!(spec.no_baseline.unwrap().contains("had not answered in time"));
}

#[test]
fn phi_and_an_automatic_max_are_of_stables_history_and_a_written_max_is_not() {
    let spec = after("auto", known(100_000.0, 1_000.0));
    assert_eq!((spec.phi, spec.max_error_rate.to_string().as_str()), (1.25, "1.5%"));
    let baseline = spec.baseline.unwrap();
    assert_eq!(
        (baseline.hours, baseline.requests, baseline.bad, baseline.pods),
        (4, 100_000, 1_000, 3)
    );
    let spec = after("2%", known(100_000.0, 1_000.0));
    assert_eq!((spec.phi, spec.max_error_rate.to_string().as_str()), (1.25, "2%"));
    assert_eq!(spec.no_baseline, None);
}

#[test]
fn without_a_history_the_defaults_hold_and_that_is_said() {
    let spec = after(
        "auto",
        Before::Unreadable("metrics source default answers with HTTP 500".to_owned()),
    );
    assert_eq!((spec.phi, spec.max_error_rate.to_string().as_str()), (2.0, "1%"));
    assert!(spec.auto_max && spec.no_baseline.unwrap().contains("HTTP 500"));
    let spec = after("auto", known(999.0, 0.0));
    assert_eq!(spec.max_error_rate.to_string(), "1%");
    assert_eq!(spec.no_baseline.as_deref(), Some("stable had only 999 requests"));
    assert_eq!(spec.baseline.unwrap().requests, 999);
    let spec = after("1%", Before::Untold);
    assert_eq!((spec.phi, spec.baseline, spec.no_baseline), (2.0, None, None));
}
