//! Stable's pods: how low a weight may go by how many there are, when they are lost, and how often a template is put back.

use serde_json::{Value, json};
use stepgate_core::input::ReplicaSetView;
use stepgate_core::recovery::{self, Recovery};
use stepgate_core::side::{self, WayBack};
use stepgate_core::{Need, Plan, Seen, Wake, mend, template::digest};
use stepgate_crds::units::{Span, Timestamp};

use crate::fixtures::world::{Moment, world};

/// The lowest weight on a way back from `weight` that has lasted for so many milliseconds.
fn lowest([stable, canary, base, weight]: [i32; 4], lasted: i64, at_once: bool) -> i32 {
    let moment = world().at_step(2).with(|seen| {
        (seen.stable_ready, seen.canary_ready) = (stable, canary);
    });
    let way = WayBack {
        weight,
        base,
        since: Timestamp::from_millis(moment.0.now.as_millis() - lasted),
        at_once,
    };
    side::lowest(&moment.0.input(), way)
}

#[test]
fn what_stables_pods_do_not_cover_stays_as_far_as_the_canarys_carry_it() {
    for (pods, left) in [
        // [stable, canary, all, weight]: three tenths are not covered, and carried.
        ([7, 10, 10, 100], 30),
        ([3, 10, 10, 100], 70),
        ([1, 10, 10, 100], 90),
        // Four fifths are as good as all.
        ([8, 10, 10, 100], 0),
        ([4, 5, 5, 100], 0),
        ([3, 5, 5, 100], 40),
        // No more than the canary carries, nor than it had.
        ([3, 2, 10, 100], 20),
        ([3, 10, 10, 50], 50),
        ([3, 10, 10, 0], 0),
        // In whole percent of seven.
        ([3, 6, 7, 100], 58),
        ([2, 3, 7, 100], 42),
        // Nothing on a canary without pods, and nothing from one where stable has none.
        ([3, 0, 10, 50], 0),
        ([0, 0, 10, 50], 0),
        ([0, 2, 10, 50], 50),
        ([1, 1, 0, 50], 0),
    ] {
        assert_eq!(lowest(pods, 0, false), left, "{pods:?}");
    }
    let by_capacity = world().at_step(2).0.limits.by_capacity.as_millis();
    let pods = [3, 10, 10, 100];
    assert_eq!(lowest(pods, by_capacity - 1, false), 70);
    assert_eq!(lowest(pods, by_capacity, false), 0);
    assert_eq!(lowest(pods, 0, true), 0);
    assert_eq!(
        lowest([0, 10, 10, 100], by_capacity, true),
        100,
        "without stable it serves on"
    );
}

fn template(version: &str) -> Value {
    json!({"spec": {"containers": [{"name": "app", "image": version}]}})
}

/// The stable version is v1, and a new one is held.
fn held() -> Moment {
    world().at_step(2).with(|seen| {
        let stable = seen.rollout.status.stable.clone().unwrap().template;
        seen.templates.get_mut(&stable).unwrap().digest = digest(&template("v1"));
        seen.replica_sets = None;
    })
}

fn uid(moment: &Moment) -> String {
    moment.0.workload.get().unwrap().uid.clone()
}

fn set(owner: &str, version: &str, wanted: i32) -> ReplicaSetView {
    ReplicaSetView {
        name: format!("checkout-{version}"),
        uid: format!("uid-{version}"),
        owner: Some(owner.to_owned()),
        replicas: wanted,
        wanted,
        template: template(version),
    }
}

fn asks(recovery: &Recovery) -> bool {
    match recovery {
        Recovery::None => false,
        Recovery::Next(Plan::Wait(Wake { need, .. })) => {
            assert_eq!(*need, Need::REPLICA_SETS);
            true
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn replica_sets_are_asked_for_where_pods_of_a_held_deployment_are_missing_or_strange() {
    let asked = |moment: &Moment| asks(&recovery::next(&moment.0.input()));
    assert!(!asked(&held()));
    let gone = held().with_workload(|workload| workload.current = 0);
    assert!(asked(&gone));
    assert!(asked(&held().with_workload(|workload| workload.updated = 1)));
    assert!(asked(&held().with(|seen| seen.strange_ready = 1)));
    // Where its controller may still act, nothing is asked for, nobody holds it, or it asks for stable itself.
    let v1 = digest(&template("v1"));
    assert!(!asked(&gone.clone().with_workload(|workload| workload.paused = false)));
    assert!(!asked(&gone.clone().with_workload(|workload| workload.hold = None)));
    assert!(!asked(&gone.clone().with_workload(|workload| workload.generation += 1)));
    assert!(asked(
        &gone.clone().with_workload(|workload| workload.observed_generation += 1)
    ));
    assert!(!asked(&gone.clone().with_workload(|workload| workload.replicas = 0)));
    assert!(!asked(&gone.clone().with_workload(|workload| workload.template = v1)));
    assert!(!asked(
        &gone
            .clone()
            .with_workload(|workload| workload.uid = "another".to_owned())
    ));
    assert!(!asked(&gone.with(|seen| seen.workload = Seen::Absent)));
}

#[test]
fn stables_pods_are_lost_where_its_replica_set_is_gone_empty_or_replaced() {
    let suspicious = held().with_workload(|workload| workload.updated = 1);
    let owner = uid(&suspicious);
    for (sets, lost) in [
        (vec![set(&owner, "v1", 4)], None),
        (vec![set(&owner, "v1", 4), set(&owner, "v2", 0)], None),
        (vec![set(&owner, "v1", 4), set("another", "v2", 1)], None),
        (vec![], Some("of the stable version is gone")),
        (vec![set("another", "v1", 4)], Some("of the stable version is gone")),
        (vec![set(&owner, "v2", 4)], Some("of the stable version is gone")),
        (
            vec![set(&owner, "v1", 0)],
            Some("ReplicaSet checkout-v1 of the stable version has no pods any more"),
        ),
        (
            vec![set(&owner, "v1", 4), set(&owner, "v2", 1)],
            Some("ReplicaSet checkout-v2 was started in place of the stable version's"),
        ),
    ] {
        let said = format!("{sets:?}");
        let moment = suspicious.clone().with(|seen| seen.replica_sets = Some(sets));
        match (recovery::next(&moment.0.input()), lost) {
            (Recovery::None, None) => {}
            (Recovery::Lost(why), Some(lost)) => assert!(why.contains(lost), "{why}"),
            (other, _) => panic!("{other:?} of {said}"),
        }
    }
}

#[test]
fn what_is_put_back_is_stables_and_which_replica_set_is_its_is_looked_for_again() {
    let moment = held();
    let status = &moment.0.rollout.status;
    let stable = status.stable.clone().unwrap();
    let intended = recovery::intend(status.clone(), &moment.0.input()).unwrap();
    assert_eq!(intended.mends.open.as_ref(), Some(&stable.template));
    assert_eq!(intended.mends.times, [moment.0.now]);
    let now = intended.stable.clone().unwrap();
    assert_eq!((now.uid.as_str(), now.template), ("", stable.template));
    // Until it is there nothing else is looked at.
    let open = moment.with(|seen| seen.rollout.status = intended);
    match recovery::next(&open.0.input()) {
        Recovery::Next(Plan::Act(effects)) => {
            assert_eq!((effects.len(), effects[0].name.as_str()), (1, "checkout"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_template_is_put_back_three_times_in_an_hour() {
    let ago = |seconds: &[u64]| {
        held().with(|seen| {
            let before =
                |seconds: &u64| Timestamp::from_millis(seen.now.as_millis() - Span::seconds(*seconds).as_millis());
            seen.rollout.status.mends.times = seconds.iter().map(before).collect();
        })
    };
    let intend = |moment: &Moment| {
        let status = moment.0.rollout.status.clone();
        mend::intend(status, &moment.0.input(), "checkout-1").map(|status| status.mends.times.len())
    };
    assert_eq!(intend(&ago(&[])), Ok(1));
    assert_eq!(intend(&ago(&[1_200, 600])), Ok(3));
    assert_eq!(intend(&ago(&[3_600, 1_200, 600])), Ok(3), "an hour ago is forgotten");
    let refused = intend(&ago(&[3_599, 1_200, 600])).unwrap_err();
    assert!(refused.contains("rewritten 3 times within an hour"), "{refused}");
    assert!(intend(&ago(&[9, 8, 7, 6])).unwrap_err().contains("rewritten 4 times"));
}
