//! What a run makes and clears away, each condition by itself; and what is told of its numbers.

use serde_json::{Value, json};
use stepgate_core::input::{ReplicaSetView, Seen, SourceHealth};
use stepgate_core::{Act, Kind, Need, Plan, Wake, template::digest};
use stepgate_crds::{
    evidence::Trouble,
    status::{Cause, Outcome, Phase, RunState},
};

use crate::fixtures::{
    observed::Observed,
    world::{Moment, world},
};

type Change = fn(&mut Observed);

fn another() -> Value {
    json!({"spec": {"containers": [{"name": "another"}]}})
}

/// Everything of the first run is made, and its first weight may come.
pub(super) fn made() -> Moment {
    let moment = world().in_phase(Phase::Stepping).with_run(|run| {
        run.state = RunState::Preparing { since: run.started };
        (run.step, run.weight, run.seq, run.in_force) = (0, 0, 1, None);
    });
    moment.with_weight(0).with_route(|route| {
        let id = route.run.clone().unwrap();
        route.run = Some(format!("{}.1", id.split('.').next().unwrap()));
        route.parents[0].accepted = Some(route.generation);
    })
}

fn begins(moment: &Moment) -> bool {
    match moment.next() {
        Plan::Commit(status) => status
            .run
            .is_some_and(|run| matches!(run.state, RunState::Stepping { .. })),
        Plan::Act(_) | Plan::Wait(_) => false,
    }
}

#[test]
fn the_first_weight_comes_when_all_of_the_runs_own_is_there() {
    assert!(begins(&made()));
    let without = |change: Change| begins(&made().with(change));
    assert!(!without(|seen| seen.canary_ready = 0));
    assert!(!without(|seen| seen.stable_ready = 0));
    assert!(!without(|seen| seen.canary = Seen::Absent));
    assert!(!without(|seen| seen.canary_service = Seen::Absent));
    assert!(!without(|seen| {
        let revision = seen.rollout.status.run.as_ref().unwrap().revision.clone();
        seen.templates.remove(&revision);
    }));
    assert!(!begins(&made().with_route(|route| route.parents[0].accepted = None)));
}

#[test]
fn what_another_run_left_goes_before_this_one_makes_its_own() {
    let old = |kind: Kind| {
        let moment = made().with(|seen| {
            let run = Some("another".to_owned());
            match (kind, &mut seen.canary, &mut seen.canary_service) {
                (Kind::Deployment, Seen::At(canary), _) => canary.run = run,
                (_, _, Seen::At(service)) => service.run = run,
                other => panic!("{other:?}"),
            }
        });
        let effects = moment.acts();
        (
            effects[0].kind,
            matches!(effects[0].act, Act::Delete { .. }),
            effects.len(),
        )
    };
    for kind in [Kind::Deployment, Kind::Service] {
        assert_eq!(old(kind), (kind, true, 1));
    }
}

#[test]
fn a_run_that_cannot_begin_says_what_is_missing_and_ends_with_that() {
    let parts: [(Change, &str, &str); 2] = [
        (
            |seen| seen.stable_ready = 0,
            "Service checkout has no ready endpoint: a rollout starts when stable serves",
            "Service checkout has no ready endpoint",
        ),
        (
            |seen| (seen.canary_ready, seen.stable_ready) = (0, 4),
            "0 of 1 canary pods are ready",
            "the canary had 0 of 1 ready pods by the deadline",
        ),
    ];
    for (change, early, late) in parts {
        let moment = made().with(change).with(|seen| {
            let run = seen.rollout.status.run.as_mut().unwrap();
            run.bare_since = (seen.stable_ready == 0).then_some(seen.now);
        });
        let said = moment.clone().after(61).commits().message.unwrap();
        assert!(said.contains(early), "{said}");
        let moment = moment.after(601).with(|seen| {
            let run = seen.rollout.status.run.as_mut().unwrap();
            run.bare_since = (seen.stable_ready == 0).then_some(seen.now);
        });
        let RunState::RollingBack { cause, .. } = moment.commits().run.unwrap().state else {
            panic!()
        };
        assert_eq!(
            (cause.reason.as_str(), cause.detail.as_str()),
            ("ProgressDeadline", late)
        );
    }
    let pending = made().with_route(|route| route.parents[0].accepted = None);
    let said = pending.clone().after(61).commits().message.unwrap();
    assert!(
        said.contains("HTTPRoute with the canary's backendRef is not accepted yet by"),
        "{said}"
    );
    let RunState::RollingBack { cause, .. } = pending.after(601).commits().run.unwrap().state else {
        panic!()
    };
    assert!(
        cause
            .detail
            .starts_with("the route with the canary's backendRef was not accepted by"),
        "{}",
        cause.detail
    );
}

#[test]
fn a_version_without_ready_pods_is_not_let_roll_where_stable_has_none_either() {
    let bare = |ready| {
        let moment = made().after(121).with(|seen| {
            (seen.stable_ready, seen.canary_ready) = (0, ready);
            let since = stepgate_crds::units::Timestamp::from_millis(seen.now.as_millis() - 120_000);
            seen.rollout.status.run.as_mut().unwrap().bare_since = Some(since);
        });
        match moment.next() {
            Plan::Commit(status) => match status.run.unwrap().state {
                RunState::RollingBack { then, .. } => Some(then),
                _ => None,
            },
            Plan::Act(_) | Plan::Wait(_) => None,
        }
    };
    assert_eq!((bare(1), bare(0)), (Some(Outcome::Native), None));
}

/// A run whose template is not recorded yet.
fn unrecorded() -> Moment {
    let held = world().held();
    let status = held.commits();
    held.with(|seen| seen.rollout.status = status)
}

fn records(moment: &Moment) -> bool {
    match moment.next() {
        Plan::Act(effects) => effects.iter().any(|effect| effect.kind == Kind::PodTemplate),
        Plan::Commit(_) | Plan::Wait(_) => false,
    }
}

#[test]
fn a_new_template_is_recorded_first_unless_it_is_stables_or_nothing_may_be_made() {
    assert_eq!(unrecorded().acts().len(), 1);
    assert!(records(&unrecorded()));
    let asked = unrecorded().with(|seen| seen.survey = None);
    assert!(matches!(asked.next(), Plan::Wait(Wake { need, .. }) if need == Need::SURVEY));
    assert!(!records(
        &unrecorded().with(|seen| seen.refused = Some("quota".to_owned()))
    ));
    assert!(!records(&unrecorded().with(|seen| seen.rollout.deleting = true)));
    assert!(!records(
        &unrecorded().with_workload(|workload| workload.uid = "another".to_owned())
    ));
    assert!(!records(
        &unrecorded().with_workload(|workload| workload.template = digest(&another()))
    ));
    let put_back = unrecorded().with(|seen| {
        let stable = seen.rollout.status.stable.clone().unwrap().template;
        let digest = seen.templates[&stable].digest;
        let Seen::At(workload) = &mut seen.workload else {
            panic!()
        };
        workload.template = digest;
    });
    assert!(!records(&put_back));
}

#[test]
fn a_newer_template_in_a_promotion_is_named_recorded_and_set_aside() {
    let promoting = world().in_phase(Phase::Promoting);
    let newer_of = |moment: &Moment| match moment.next() {
        Plan::Commit(status) => status.run.and_then(|run| run.newer),
        Plan::Act(_) | Plan::Wait(_) => None,
    };
    assert_eq!(newer_of(&promoting), None);
    let newer = promoting
        .clone()
        .with_workload(|workload| workload.template = digest(&another()));
    let status = newer.commits();
    assert_eq!(status.revisions, promoting.0.rollout.status.revisions + 1);
    let name = status.run.as_ref().unwrap().newer.clone().unwrap();
    let named = newer.with(|seen| {
        seen.rollout.status = status;
        seen.survey.as_mut().unwrap().workload["spec"]["template"] = another();
    });
    let effects = named.acts();
    assert_eq!((effects[0].kind, &effects[0].name), (Kind::PodTemplate, &name));
    let asked = named.clone().with(|seen| seen.survey = None);
    assert!(matches!(asked.next(), Plan::Wait(Wake { need, .. }) if need == Need::SURVEY));
    let changing = named.clone().with(|seen| {
        seen.survey.as_mut().unwrap().workload["spec"]["template"] = json!({"yet": "another"});
    });
    assert!(matches!(changing.next(), Plan::Wait(_)));
    // Recorded: the promoted one goes back in.
    let recorded = named.with(|seen| {
        let stable = seen.rollout.status.stable.clone().unwrap().template;
        let mut record = seen.templates[&stable].clone();
        record.digest = digest(&another());
        seen.templates.insert(name.clone(), record);
    });
    assert!(!records(&recorded));
    assert!(matches!(recorded.next(), Plan::Commit(status) if status.mends.open.is_some()));
    // Stable's is no newer one.
    let back = promoting.with(|seen| {
        let stable = seen.rollout.status.stable.clone().unwrap().template;
        let digest = seen.templates[&stable].digest;
        let Seen::At(workload) = &mut seen.workload else {
            panic!()
        };
        workload.template = digest;
    });
    assert_eq!(newer_of(&back), None);
}

/// A failed promotion at its very end: the canary is gone, the route is the user's, the Deployment has stable's template.
pub(super) fn cleared(sets: Option<Vec<ReplicaSetView>>) -> Moment {
    let moment = world().in_phase(Phase::Draining).with_route(|route| {
        route.run = None;
        for rule in &mut route.rules {
            rule.backend_refs.retain(|one| one["name"] != "checkout-canary");
            let is_stable = rule.backend_refs[0]["name"] == "checkout";
            rule.backend_refs[0]["weight"] = json!(if is_stable { 7 } else { 1 });
        }
    });
    moment.after(3_600).with(|seen| {
        (seen.canary, seen.canary_service) = (Seen::Absent, Seen::Absent);
        seen.source = SourceHealth::Down {
            since: seen.now,
            kind: Trouble::SourceUnreachable,
            why: "refused".to_owned(),
        };
        seen.replica_sets = sets;
        let stable = seen.rollout.status.stable.clone().unwrap().template;
        let own = seen.templates[&stable].digest;
        let Seen::At(workload) = &mut seen.workload else {
            panic!()
        };
        workload.template = own;
        let run = seen.rollout.status.run.as_mut().unwrap();
        let RunState::Draining { since, .. } = run.state else {
            panic!()
        };
        run.state = RunState::Draining {
            since,
            cause: Some(Cause {
                reason: "Verdict".to_owned(),
                detail: "bad".to_owned(),
            }),
            then: Outcome::Failed,
        };
        run.revision = "failed".to_owned();
        let mut record = seen.templates[&stable].clone();
        record.digest = digest(&another());
        seen.templates.insert("failed".to_owned(), record);
    })
}

#[test]
fn the_empty_replica_set_of_a_version_that_failed_in_its_promotion_is_cleared_away() {
    let owner = cleared(None).0.workload.get().unwrap().uid.clone();
    let set = || ReplicaSetView {
        name: "checkout-bad".to_owned(),
        uid: "uid-bad".to_owned(),
        owner: Some(owner.clone()),
        replicas: 0,
        wanted: 0,
        template: another(),
    };
    assert!(matches!(cleared(None).next(), Plan::Wait(Wake { need, .. }) if need == Need::REPLICA_SETS));
    let effects = cleared(Some(vec![set()])).acts();
    assert_eq!(
        (effects[0].kind, effects[0].name.as_str()),
        (Kind::ReplicaSet, "checkout-bad")
    );
    let ends = |moment: &Moment| match moment.next() {
        Plan::Commit(status) if status.run.is_none() => status.failed.map(|failed| failed.put_back),
        other => panic!("{other:?}"),
    };
    assert_eq!(ends(&cleared(Some(Vec::new()))), Some(true));
    let but = |change: fn(&mut ReplicaSetView)| {
        let mut set = set();
        change(&mut set);
        ends(&cleared(Some(vec![set])))
    };
    assert_eq!(but(|set| set.owner = Some("another".to_owned())), Some(true));
    assert_eq!(but(|set| set.replicas = 1), Some(true));
    assert_eq!(but(|set| set.wanted = 1), Some(true));
    assert_eq!(but(|set| set.template = json!({"yet": "another"})), Some(true));
    // Where the Deployment still asks for the failed version its ReplicaSet is the one that is held.
    let held = cleared(Some(vec![set()])).with_workload(|workload| workload.template = digest(&another()));
    assert_eq!(ends(&held), Some(false));
}

#[test]
fn the_numbers_of_a_metric_are_told_in_percent() {
    let status = world().at_step(2).with_counts(2, [100, 5, 200, 2]).after(60).commits();
    let metric = status.run.unwrap().metrics.remove(0);
    assert_eq!(
        (
            metric.canary_requests,
            metric.canary_bad,
            metric.stable_requests,
            metric.stable_bad
        ),
        (200, 10, 400, 4)
    );
    let near = |found: Option<f64>, wanted: f64| found.is_some_and(|found| (found - wanted).abs() < 0.01);
    assert!(near(metric.measured_weight, 33.33), "{:?}", metric.measured_weight);
    assert!(near(metric.max, 1.0), "{:?}", metric.max);
    // Wilson's interval of 5 of 100 (φ = 2): 2.15 to 11.18 %.
    let [low, high] = metric.canary_interval.unwrap();
    assert!(near(Some(low), 2.15) && near(Some(high), 11.18), "{low} {high}");
    let silent = world().at_step(2).with_counts(2, [0, 0, 0, 0]).after(60).commits();
    assert_eq!(silent.run.unwrap().metrics[0].measured_weight, None);
}
