//! What is waited for, and in which words: pauses, retreats, a step that goes on without a verdict, a promotion, a newer version.

use serde_json::json;
use stepgate_core::input::{Seen, SourceHealth};
use stepgate_core::{Act, Kind, Plan, template::digest};
use stepgate_crds::{
    evidence::Trouble,
    status::{Outcome, PauseReason, Phase, Retreat, RunState},
};

use crate::fixtures::world::{Moment, world};

fn said(moment: &Moment) -> String {
    moment.clone().after(120).commits().message.unwrap()
}

fn paused(why: PauseReason) -> Moment {
    world().at_step(2).with(|seen| {
        let since = seen.now;
        seen.rollout.status.run.as_mut().unwrap().state = RunState::Paused { since, why };
    })
}

#[test]
fn a_route_that_cannot_be_managed_is_said_but_where_it_is_left_alone() {
    let renamed = |why| {
        paused(why).with_route(|route| {
            for one in route.rules.iter_mut().flat_map(|rule| &mut rule.backend_refs) {
                if one["name"] == "checkout" {
                    one["name"] = json!("renamed");
                }
            }
        })
    };
    for why in [PauseReason::Approval, PauseReason::Command, PauseReason::Retreats] {
        let message = said(&renamed(why));
        assert!(message.contains("no longer to checkout"), "{why:?}: {message}");
    }
    let message = said(&renamed(PauseReason::Contention));
    assert!(
        message.contains("somebody keeps taking the route's weights back"),
        "{message}"
    );
}

#[test]
fn whoever_changed_the_weights_is_named() {
    let by = |manager: Option<&str>| {
        let manager = manager.map(str::to_owned);
        let moment = world().at_step(2).with_weight(10).with_route(|route| {
            route.generation += 1;
            route.changed_by = manager;
        });
        moment.commits().message.unwrap()
    };
    assert!(by(Some("argocd")).starts_with("argocd (on HTTPRoute checkout) took traffic back to stable"));
    assert!(by(None).starts_with("somebody took traffic back to stable"));
}

#[test]
fn before_its_weight_was_accepted_a_change_is_simply_written_over() {
    let changed = || {
        world()
            .at_step(2)
            .with_weight(60)
            .with_route(|route| route.generation += 1)
    };
    assert!(matches!(changed().next(), Plan::Commit(_)));
    let early = changed().with_run(|run| run.in_force = None);
    assert_eq!(early.acts()[0].kind, Kind::HttpRoute);
}

#[test]
fn the_mark_of_another_run_of_the_same_rollout_is_none_of_this_one() {
    let marked = |run: &str| {
        let own = world().at_step(2).0.rollout.status.run.unwrap().id;
        let (prefix, _) = own.split_once('-').unwrap();
        let mark = if run == "own" {
            format!("{own}.1")
        } else {
            format!("{prefix}-99.1")
        };
        world().at_step(2).with_weight(10).with_route(|route| {
            route.generation += 1;
            route.run = Some(mark);
        })
    };
    assert_eq!(
        marked("own").acts()[0].kind,
        Kind::HttpRoute,
        "an earlier intent's: this one is due"
    );
    assert!(
        marked("another")
            .commits()
            .message
            .unwrap()
            .contains("that is obeyed until")
    );
}

#[test]
fn the_canarys_backend_that_was_removed_comes_back_at_0_first_and_in_a_way_back_at_once() {
    let removed = || {
        world().at_step(2).with_route(|route| {
            let (id, _) = route.run.as_ref().unwrap().split_once('.').unwrap();
            route.run = Some(format!("{id}.1"));
            for rule in &mut route.rules {
                rule.backend_refs.retain(|one| one["name"] != "checkout-canary");
            }
        })
    };
    let before = removed().0.rollout.status.run.unwrap();
    let status = removed().commits();
    let run = status.run.unwrap();
    assert_eq!((run.weight, run.seq), (0, before.seq + 1));
    assert!(status.message.unwrap().contains("it is put back at 0 % first"));
    let at_zero = removed().with_run(|run| run.weight = 0);
    assert_eq!(at_zero.acts()[0].kind, Kind::HttpRoute);
}

#[test]
fn a_deployment_that_was_made_anew_ends_the_run_and_is_named() {
    let anew = world()
        .at_step(2)
        .with_workload(|workload| workload.uid = "another".to_owned());
    let RunState::RollingBack { cause, then, .. } = anew.commits().run.unwrap().state else {
        panic!()
    };
    assert_eq!(
        (cause.detail.as_str(), then),
        ("Deployment checkout was made anew", Outcome::Replaced)
    );
}

/// All traffic is on stable, and accepted so, for this reason.
pub(super) fn retreated(why: Retreat) -> Moment {
    let moment = world().at_step(2).with_weight(0).with(|seen| {
        let now = seen.now;
        let run = seen.rollout.status.run.as_mut().unwrap();
        run.state = RunState::Retreated {
            since: now,
            why,
            well_since: None,
        };
        (run.weight, run.accepted_weight) = (0, 0);
        run.in_force.as_mut().unwrap().weight = 0;
    });
    moment.with_route(|route| route.parents[0].accepted = Some(route.generation))
}

#[test]
fn a_retreat_says_when_it_goes_on() {
    let lost = retreated(Retreat::PodsLost).with(|seen| seen.canary_ready = 0);
    assert_eq!(
        said(&lost),
        "all traffic is on stable: 0 of 2 canary pods are ready again"
    );
    let blind = |why| {
        retreated(why).with(|seen| {
            seen.source = SourceHealth::Down {
                since: seen.now,
                kind: Trouble::SourceUnreachable,
                why: "refused".to_owned(),
            };
        })
    };
    let fault = said(&blind(Retreat::SharedFault));
    assert!(
        fault.contains("it goes on when stable has been well for 10 intervals"),
        "{fault}"
    );
    let data = said(&blind(Retreat::NoData));
    assert!(
        data.contains("it goes on when there have been data of stable"),
        "{data}"
    );
}

#[test]
fn stable_has_to_be_well_by_its_data_for_as_long_as_is_said() {
    let wells = |moment: &Moment| match moment.next() {
        Plan::Commit(status) => match status.run.unwrap().state {
            RunState::Retreated { well_since, .. } => Some(well_since.is_some()),
            RunState::Stepping { .. } => None,
            other => panic!("{other:?}"),
        },
        Plan::Act(effects) => panic!("{effects:?}"),
        Plan::Wait(_) => Some(false),
    };
    let counted = |counts| retreated(Retreat::SharedFault).with_counts(3, counts);
    assert_eq!(wells(&counted([0, 0, 1_000, 1])), Some(true));
    assert_eq!(wells(&counted([0, 0, 1_000, 80])), Some(false), "over the max");
    assert_eq!(wells(&counted([0, 0, 0, 0])), Some(false), "idle");
    let down = counted([0, 0, 1_000, 1]).with(|seen| {
        seen.source = SourceHealth::Down {
            since: seen.now,
            kind: Trouble::SourceUnreachable,
            why: "refused".to_owned(),
        };
    });
    assert_eq!(wells(&down), Some(false), "unread");
    // Ten intervals of 10 s.
    let for_so_long = |seconds: i64| {
        let moment = counted([0, 0, 1_000, 1]);
        let now = moment.0.now.as_millis();
        moment.with_run(|run| {
            let RunState::Retreated { well_since, .. } = &mut run.state else {
                panic!()
            };
            *well_since = Some(stepgate_crds::units::Timestamp::from_millis(now - seconds * 1_000));
        })
    };
    assert_eq!(wells(&for_so_long(100)), None, "goes on");
    assert!(wells(&for_so_long(99)).is_some());
}

#[test]
fn the_second_silence_of_a_canary_asks_a_person_and_so_does_the_third_retreat() {
    let after = |all: i32, silent: i32| {
        let moment = world()
            .at_step(4)
            .with_run(|run| (run.retreats.all, run.retreats.silent) = (all, silent));
        let silent = moment.with_counts(4, [0, 0, 1_000, 0]);
        silent.commits().run.unwrap().state
    };
    assert!(
        matches!(
            after(0, 0),
            RunState::Retreated {
                why: Retreat::CanarySilent,
                ..
            }
        ),
        "{:?}",
        after(0, 0)
    );
    let person = |state: RunState| {
        matches!(
            state,
            RunState::Paused {
                why: PauseReason::Retreats,
                ..
            }
        )
    };
    assert!(person(after(1, 1)));
    assert!(person(after(2, 0)));
    assert!(!person(after(1, 0)));
}

#[test]
fn a_step_that_goes_on_without_a_verdict_waits_for_its_pods_and_its_bake() {
    let spec = json!({
        "analysis": {"onInconclusive": {"after": "10m", "then": "Advance"}},
        "steps": [{"weight": 10, "bake": "2h"}, {"weight": 100}],
    });
    let at = |seconds: u64| {
        world()
            .with_spec(spec.clone())
            .at_step(1)
            .with_counts(1, [60, 0, 540, 0])
            .after(seconds)
    };
    let step = |moment: &Moment| match moment.next() {
        Plan::Commit(status) => (status.run.unwrap().step, status.message.unwrap()),
        other => panic!("{other:?}"),
    };
    let (now, message) = step(&at(3_600));
    assert_eq!(now, 0);
    assert!(message.contains("not while: it bakes until"), "{message}");
    let small = at(8_000).with_run(|run| run.base = 20).with(|seen| {
        let Seen::At(canary) = &mut seen.canary else { panic!() };
        (canary.replicas, seen.canary_ready) = (2, 1);
    });
    let (now, message) = step(&small);
    assert_eq!(now, 0);
    assert!(message.contains("not while: 1 of 2 canary pods are ready"), "{message}");
    assert_eq!(step(&at(8_000)).0, 1);
    // The bake ends at a moment, and then it looks again.
    let told = at(3_600).commits();
    let waits = at(3_600).with(|seen| seen.rollout.status = told).waits();
    assert!(waits.is_some());
}

#[test]
fn a_step_at_0_percent_with_approval_asks_when_its_pods_are_there_and_its_bake_is_over() {
    let spec = json!({"steps": [{"weight": 0, "bake": "1m", "approval": "Required"}, {"weight": 100}]});
    let at = |seconds: u64, ready: i32| {
        world().with_spec(spec.clone()).at_step(1).after(seconds).with(|seen| {
            seen.canary_ready = ready;
        })
    };
    let asks = |moment: &Moment| match moment.next() {
        Plan::Commit(status) => matches!(
            status.run.unwrap().state,
            RunState::Paused {
                why: PauseReason::Approval,
                ..
            }
        ),
        Plan::Act(_) | Plan::Wait(_) => false,
    };
    let ready = world().with_spec(spec.clone()).at_step(1).0.canary_ready;
    assert!(asks(&at(70, ready)));
    assert!(!asks(&at(10, ready)));
    assert!(!asks(&at(70, 0)));
}

/// In a promotion whose Deployment has rolled out, at the full weight.
fn promoted() -> Moment {
    let moment = world().in_phase(Phase::Returning).with(|seen| {
        let run = seen.rollout.status.run.as_mut().unwrap();
        run.state = RunState::Promoting { since: run.started };
        (run.weight, run.seq) = (100, 5);
    });
    moment.with_weight(100).with_route(|route| {
        let mark = route.run.clone().unwrap();
        let (id, _) = mark.split_once('.').unwrap();
        route.run = Some(format!("{id}.5"));
        route.parents[0].accepted = Some(route.generation);
    })
}

#[test]
fn a_promotion_is_over_when_the_new_versions_own_replica_set_has_the_pods() {
    let goes_on = |moment: &Moment| matches!(moment.next(), Plan::Commit(status) if matches!(status.run.as_ref().unwrap().state, RunState::Returning { .. }));
    let accepted = promoted().with_run(|run| {
        let mut force = run.in_force.clone().unwrap();
        (force.seq, force.weight) = (5, 100);
        run.in_force = Some(force);
    });
    assert!(goes_on(&accepted));
    let with = |change: fn(&mut stepgate_core::input::ReplicaSetView)| {
        accepted
            .clone()
            .with(|seen| seen.replica_sets.as_mut().unwrap().iter_mut().for_each(change))
    };
    assert!(!goes_on(&with(|set| set.replicas = 0)));
    assert!(!goes_on(&with(|set| set.owner = Some("another".to_owned()))));
    assert!(!goes_on(&with(|set| set.template = json!({"another": 1}))));
    // Its weight was not accepted yet under this intent: that is written down first, but not where it has none.
    let early = accepted.clone().with_run(|run| run.in_force.as_mut().unwrap().seq = 4);
    let run = early.commits().run.unwrap();
    assert!(matches!(run.state, RunState::Promoting { .. }));
    assert_eq!(run.in_force.unwrap().seq, 5);
    // Nothing to serve with is no whole side.
    let empty = accepted.with_workload(|workload| {
        (
            workload.replicas,
            workload.current,
            workload.updated,
            workload.available,
        ) = (0, 0, 0, 0);
    });
    assert!(!goes_on(&empty));
}

#[test]
fn the_twin_of_the_stable_service_is_made_of_that_one() {
    let moment = super::making::made().with(|seen| {
        seen.canary_service = Seen::Absent;
        let services = &mut seen.survey.as_mut().unwrap().services;
        let mut other = services
            .iter()
            .find(|service| service.name == "checkout")
            .unwrap()
            .clone();
        other.name = "another".to_owned();
        other.spec["ports"] = json!([{"name": "other", "port": 9}]);
        services.insert(0, other);
        let template = seen.survey.as_ref().unwrap().workload["spec"]["template"].clone();
        let Seen::At(workload) = &mut seen.workload else {
            panic!()
        };
        workload.template = digest(&template);
    });
    let effects = moment.acts();
    let Act::Create(service) = &effects[0].act else {
        panic!("{effects:?}")
    };
    assert_eq!(effects[0].kind, Kind::Service);
    assert_eq!(service["spec"]["ports"][0]["port"], json!(80));
}

#[test]
fn a_newer_version_comes_in_at_the_end_where_the_deployment_is_as_this_run_left_it() {
    let with_newer = || {
        super::making::cleared(Some(Vec::new())).with(|seen| {
            let mut record = seen.templates["failed"].clone();
            record.digest = digest(&json!({"newer": 1}));
            seen.templates.insert("newer".to_owned(), record);
            seen.rollout.status.run.as_mut().unwrap().newer = Some("newer".to_owned());
        })
    };
    let brings = |moment: &Moment| matches!(moment.next(), Plan::Commit(status) if status.mends.open.as_deref() == Some("newer"));
    assert!(brings(&with_newer()));
    assert!(!brings(&with_newer().with(|seen| seen.rollout.deleting = true)));
    assert!(!brings(
        &with_newer().with_workload(|workload| workload.uid = "another".to_owned())
    ));
    assert!(!brings(&with_newer().with_workload(
        |workload| workload.template = digest(&json!({"another": 1}))
    )));
    // Under way: whatever the Deployment has, it is brought to its end.
    let open = with_newer()
        .with_workload(|workload| workload.template = digest(&json!({"another": 1})))
        .with(|seen| {
            seen.rollout.status.mends.open = Some("newer".to_owned());
            seen.recorded = Some([("newer".to_owned(), json!({"newer": 1}))].into());
        });
    assert_eq!(open.acts()[0].kind, Kind::Deployment);
}
