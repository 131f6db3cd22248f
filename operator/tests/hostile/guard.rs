//! Rollouts that this version cannot read: they stop no other, nothing is done with them, and it is said.

use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use stepgate::{
    kinds::rollout::{Part, Unreadable, Watched},
    world::World,
};

use super::moments::read;

/// The Rollout of this name at this version, with this merged into its status.
fn rollout(name: &str, version: u64, status: impl Into<Value>) -> Value {
    json!({
        "apiVersion": "stepgate.dev/v1alpha1", "kind": "Rollout",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": version.to_string(),
            "creationTimestamp": "2026-11-24T14:00:00Z", "labels": {"a": "b"}, "annotations": {"big": "x", "stepgate.dev/command": "{}"}},
        "spec": {"workload": {"name": name}, "traffic": {"routes": [{"name": "web", "rules": ["all"]}]}},
        "status": status.into(),
    })
}

fn unreadable(object: &Value) -> Unreadable {
    match read(object) {
        Watched::Unreadable(unreadable) => *unreadable,
        Watched::Read(rollout) => panic!("{rollout:?}"),
    }
}

fn names(world: &World) -> (Vec<String>, Vec<String>) {
    let name = |metadata: &kube::api::ObjectMeta| metadata.name.clone().unwrap();
    let (mut read, mut unreadable) = (Vec::new(), Vec::new());
    world.rollouts.for_each(|rollout| read.push(name(&rollout.metadata)));
    world
        .unreadable
        .for_each(|rollout| unreadable.push(name(kube::Resource::meta(rollout))));
    read.sort();
    (read, unreadable)
}

#[test]
fn a_status_of_a_later_version_is_not_taken_for_another_and_its_field_is_named() {
    for (status, field) in [
        (
            json!({"phase": "Levitating"}),
            "status.phase: unknown variant `Levitating`",
        ),
        (json!({"weight": 4_000_000_000_u32}), "status.weight: invalid value"),
        (json!({"weight": "10"}), "status.weight: invalid type"),
        (json!({"revisions": 1.5}), "status.revisions: invalid type"),
        (json!({"history": {}}), "status.history: invalid type"),
        (json!({"mends": {"times": ["soon"]}}), "status.mends.times[0]:"),
        (json!({"revisions": -1}), "status.revisions: a number that"),
        (json!({"weight": i32::MAX}), "status.weight: a number that"),
        (json!({"observedGeneration": i64::MAX}), "status: a number that"),
        (json!({"message": "x".repeat(70_000)}), "status: 70015 bytes"),
    ] {
        let found = unreadable(&rollout("one", 5, status));
        assert_eq!(found.part, Part::Status);
        assert!(found.why.starts_with(field), "{}", found.why);
        let note = found.note();
        assert_eq!((note.reason.as_str(), note.warning), ("StatusUnreadable", true));
        assert!(
            note.text.contains(field.trim_end_matches(':')) && note.text.chars().count() < 1_000,
            "{}",
            note.text
        );
    }
    let mut spec = rollout("one", 5, json!({"phase": "Healthy"}));
    spec["spec"]["analysis"] = json!({"provider": "Telepathy"});
    let found = unreadable(&spec);
    assert_eq!(found.part, Part::Spec);
    assert_eq!(found.note().reason, "SpecUnreadable");
    assert!(found.why.contains("Telepathy"), "{}", found.why);
    // Fields that are not known are the API server's to keep or drop, as in every kind.
    let known = rollout("one", 5, json!({"phase": "Healthy", "later": {"a": 1}}));
    assert!(matches!(read(&known), Watched::Read(_)));
}

#[test]
fn of_a_rollout_only_what_is_read_is_kept() {
    let Watched::Read(rollout) = read(&rollout("one", 5, Value::Null)) else {
        panic!("not read")
    };
    assert!(rollout.metadata.labels.is_none());
    assert_eq!(
        rollout.metadata.annotations.unwrap().into_keys().collect::<Vec<_>>(),
        ["stepgate.dev/command"]
    );
}

#[test]
fn one_that_cannot_be_read_stops_no_other_and_comes_back_when_it_can() {
    let world = World::default();
    let good = |name: &str, version| read::<Watched>(&rollout(name, version, json!({"phase": "Healthy"})));
    let bad = |version| read::<Watched>(&rollout("bad", version, json!({"phase": "Levitating"})));
    world.observe_rollout(Event::Init);
    world.observe_rollout(Event::InitApply(good("one", 1)));
    world.observe_rollout(Event::InitApply(good("bad", 2)));
    world.observe_rollout(Event::InitApply(good("two", 3)));
    world.observe_rollout(Event::InitDone);
    assert!(world.rollouts.is_synced());
    assert_eq!(names(&world), (vec!["bad".into(), "one".into(), "two".into()], vec![]));
    // What was known of it before is forgotten with its first version that cannot be read.
    world.observe_rollout(Event::Apply(bad(7)));
    assert_eq!(
        names(&world),
        (vec!["one".into(), "two".into()], vec!["bad".to_owned()])
    );
    assert_eq!(world.phases().get("Unreadable"), Some(&1));
    // It is said once, and again only when it is another mistake.
    let (told, note) = world.to_tell("shop", "bad").unwrap();
    assert_eq!(kube::ResourceExt::name_any(told.as_ref()), "bad");
    assert!(world.to_tell("shop", "bad").is_none() && world.to_tell("shop", "one").is_none());
    world.observe_rollout(Event::Apply(bad(8)));
    assert!(world.to_tell("shop", "bad").is_none());
    world.observe_rollout(Event::Apply(read(&rollout("bad", 9, json!({"step": 3})))));
    assert_ne!(world.to_tell("shop", "bad").unwrap().1.id, note.id);
    // A list that comes late does not bring back what was known before.
    world.observe_rollout(Event::Init);
    world.observe_rollout(Event::InitApply(good("one", 1)));
    world.observe_rollout(Event::InitApply(bad(10)));
    world.observe_rollout(Event::InitDone);
    assert_eq!(names(&world), (vec!["one".into()], vec!["bad".to_owned()]));
    // Somebody put it right.
    world.observe_rollout(Event::Apply(good("bad", 11)));
    assert_eq!(names(&world), (vec!["bad".into(), "one".into()], vec![]));
    assert!(world.to_tell("shop", "bad").is_none());
    world.observe_rollout(Event::Apply(bad(12)));
    assert!(world.to_tell("shop", "bad").is_some(), "the same mistake once more");
    world.observe_rollout(Event::Delete(bad(13)));
    assert_eq!(names(&world), (vec!["one".into()], vec![]));
}

#[test]
fn an_older_answer_to_a_write_does_not_bring_it_back() {
    let world = World::default();
    let answer = |version| serde_json::from_value(rollout("bad", version, json!({"phase": "Healthy"}))).unwrap();
    world.observe_rollout(Event::Apply(read(&rollout("bad", 7, json!({"phase": "Levitating"})))));
    world.put_rollout(answer(6));
    assert_eq!(names(&world), (vec![], vec!["bad".to_owned()]));
    // A newer one can only be that of an object that could be read.
    world.put_rollout(answer(8));
    assert_eq!(names(&world).0, ["bad"]);
}

#[test]
fn what_cannot_be_read_keeps_its_claims() {
    let status = json!({
        "phase": "Levitating",
        "found": {"stableService": "web", "canaryService": "web-canary", "provider": "Telepathy"},
        "run": {"id": "r", "spec": {"routes": [{"name": "web"}, {"name": 7}, {"name": "api", "kind": "HTTPRoute"}]}},
    });
    let claim = unreadable(&rollout("one", 5, status)).claim.unwrap();
    assert!(claim.in_run);
    assert_eq!(
        (claim.stable_service.as_str(), claim.canary_service.as_str()),
        ("web", "web-canary")
    );
    let routes: Vec<&str> = claim.routes.iter().map(|route| route.name.as_str()).collect();
    assert_eq!(routes, ["web", "api"]);
    // At rest by its spec; one that never found anything claims nothing.
    let at_rest = json!({"phase": "Levitating", "found": {"stableService": "web", "canaryService": "web-canary"}});
    let claim = unreadable(&rollout("one", 5, at_rest)).claim.unwrap();
    assert_eq!(
        (claim.in_run, claim.routes[0].rules.clone()),
        (false, Some(vec!["all".to_owned()]))
    );
    assert!(
        unreadable(&rollout("one", 5, json!({"phase": "Levitating"})))
            .claim
            .is_none()
    );
}
