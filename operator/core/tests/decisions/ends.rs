//! Decisions on the way to the end of a run.

use stepgate_core::{
    Act, Kind, Plan,
    input::{Seen, SourceHealth},
    verdict::{Arm, Counts, Interval, Observation},
};
use stepgate_crds::{
    evidence::Trouble,
    status::{Outcome, Phase, RunState},
};

use crate::fixtures::world::{Moment, world};

fn drained(phase: Phase) -> Moment {
    world().in_phase(phase).with(|seen| {
        let RunState::Draining { since, .. } = seen.rollout.status.run.as_ref().unwrap().state else {
            panic!()
        };
        seen.now = since.after(stepgate_crds::units::Span::seconds(10));
        seen.samples = Vec::new();
        seen.source = SourceHealth::Answers;
    })
}

fn interval(moment: &Moment, from: i64, canary: f64) -> Interval {
    let RunState::Draining { since, .. } = moment.0.rollout.status.run.as_ref().unwrap().state else {
        panic!()
    };
    Interval {
        end: since.ceil_seconds() + from + 10,
        seconds: 10,
        metrics: vec![Observation::Counts(Counts {
            canary: Arm {
                requests: canary,
                bad: 0.0,
            },
            stable: Arm {
                requests: 500.0,
                bad: 0.0,
            },
        })],
    }
}

#[test]
fn the_route_is_restored_after_the_drain_and_an_interval_without_canary_requests() {
    let moment = drained(Phase::Draining);
    let early = moment
        .clone()
        .with(|seen| seen.now = stepgate_crds::units::Timestamp::from_millis(seen.now.as_millis() - 1));
    assert_eq!(early.waits(), Some(moment.0.now));
    // Nothing is known of the time since: it waits, but not for ever.
    let until = moment.waits().unwrap();
    // Four intervals of 10 s, and until the last of them can be read.
    assert_eq!(until, moment.0.now.after(stepgate_crds::units::Span::seconds(44)));
    let busy = interval(&moment, 0, 3.0);
    assert_eq!(
        moment.clone().with(|seen| seen.samples = vec![busy]).waits(),
        Some(until)
    );
    // An interval that began before weight 0 was in force says nothing.
    let overlapping = interval(&moment, -5, 0.0);
    assert_eq!(
        moment.clone().with(|seen| seen.samples = vec![overlapping]).waits(),
        Some(until)
    );
    let quiet = interval(&moment, 0, 0.0);
    let effects = moment.clone().with(|seen| seen.samples = vec![quiet]).acts();
    assert_eq!((effects.len(), effects[0].kind), (1, Kind::HttpRoute));
    assert_eq!(
        moment.clone().with(|seen| seen.now = until).acts()[0].kind,
        Kind::HttpRoute
    );
    let blind = moment.with(|seen| {
        seen.source = SourceHealth::Down {
            since: seen.now,
            kind: Trouble::default(),
            why: "refused".to_owned(),
        }
    });
    assert_eq!(blind.acts()[0].kind, Kind::HttpRoute);
}

#[test]
fn pods_stay_until_the_restored_route_is_accepted() {
    let moment = drained(Phase::Draining)
        .with(|seen| {
            seen.source = SourceHealth::Down {
                since: seen.now,
                kind: Trouble::default(),
                why: "refused".to_owned(),
            };
        })
        .with_route(|route| {
            route.run = None;
            route.generation += 1;
            for rule in &mut route.rules {
                rule.backend_refs.retain(|one| one["name"] != "checkout-canary");
                rule.backend_refs[0]["weight"] = if rule.backend_refs[0]["name"] == "checkout" {
                    7
                } else {
                    1
                }
                .into();
            }
        });
    let plan = moment.next();
    assert!(matches!(plan, Plan::Wait(_) | Plan::Commit(_)), "{plan:?}");
    let accepted = moment.with_route(|route| route.parents[0].accepted = Some(route.generation));
    let effects = accepted.acts();
    let gone: Vec<_> = effects
        .iter()
        .map(|effect| (effect.kind, matches!(effect.act, Act::Delete { .. })))
        .collect();
    assert_eq!(gone, [(Kind::Deployment, true), (Kind::Service, true)]);
    let unknown = accepted.with(|seen| {
        seen.canary = Seen::Unknown("timeout".to_owned());
        seen.canary_service = Seen::Absent;
    });
    assert!(
        !matches!(unknown.next(), Plan::Commit(status) if status.run.is_none()),
        "a canary that cannot be read is not gone"
    );
}

#[test]
fn promoting_ends_only_when_every_pod_is_of_the_new_version_and_ready() {
    let moment = world().in_phase(Phase::Returning).with(|seen| {
        let run = seen.rollout.status.run.as_mut().unwrap();
        run.state = RunState::Promoting { since: run.started };
        run.weight = 100;
        run.seq -= 1;
    });
    let moment = moment.with_weight(100).with_route(|route| {
        let mark = route.run.clone().unwrap();
        let (id, _) = mark.split_once('.').unwrap();
        route.run = Some(format!("{id}.5"));
        route.parents[0].accepted = Some(route.generation);
    });
    let moment = moment.with(|seen| seen.rollout.status.run.as_mut().unwrap().seq = 5);
    let goes_on =
        |moment: &Moment| matches!(moment.next(), Plan::Commit(status) if status.phase == Some(Phase::Returning));
    assert!(goes_on(&moment));
    for spoil in [
        (|workload| workload.updated -= 1) as fn(&mut stepgate_core::input::WorkloadView),
        |workload| workload.available -= 1,
        |workload| workload.current += 1,
        |workload| workload.observed_generation -= 1,
    ] {
        assert!(!goes_on(&moment.clone().with_workload(spoil)));
    }
    assert!(!goes_on(&moment.clone().with(|seen| seen.stable_ready -= 1)));
    // No deadline rolls it back.
    let late = moment
        .with_workload(|workload| workload.updated -= 1)
        .after(36_000)
        .commits();
    assert_eq!(late.phase, Some(Phase::Promoting));
    assert!(
        late.conditions
            .iter()
            .any(|one| one.type_ == "Stalled" && one.status == "True")
    );
}

#[test]
fn a_promoted_run_ends_healthy_with_nothing_more_to_say() {
    let moment = world().at_rest();
    assert!(moment.waits().is_none());
    let failed = world().in_phase(Phase::Failed);
    assert!(failed.waits().is_none());
    assert_eq!(failed.0.rollout.status.history[0].outcome, Outcome::Failed);
}
