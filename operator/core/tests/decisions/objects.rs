//! What decisions read of foreign objects: each field once as it is, and what is read where it is missing or something else.

use serde_json::{Value, json};
use stepgate_core::{object, template::digest};
use stepgate_crds::{Rollout, units::Timestamp};

/// The object with something else in this place.
fn with(mut object: Value, pointer: &str, value: Value) -> Value {
    *object
        .pointer_mut(pointer)
        .unwrap_or_else(|| panic!("there is no {pointer}")) = value;
    object
}

#[test]
fn a_rollout() {
    let written = json!({
        "apiVersion": "stepgate.dev/v1alpha1", "kind": "Rollout",
        "metadata": {
            "namespace": "shop", "name": "checkout", "uid": "u-1", "resourceVersion": "5", "generation": 3,
            "creationTimestamp": "2027-01-15T08:00:00Z", "finalizers": ["others.example.com/first", "stepgate.dev/traffic"],
        },
        "spec": {"workload": {"name": "checkout"}, "traffic": {"routes": [{"name": "checkout"}]}},
    });
    let read = |written: &Value| object::rollout(&serde_json::from_value::<Rollout>(written.clone()).unwrap());
    let view = read(&written);
    assert_eq!((view.namespace.as_str(), view.name.as_str()), ("shop", "checkout"));
    assert_eq!(
        (view.uid.as_str(), view.version.as_str(), view.generation),
        ("u-1", "5", 3)
    );
    assert_eq!(view.created, Timestamp::from_millis(1_800_000_000_000));
    assert!(!view.deleting && view.finalizer && view.command.is_none());
    assert_eq!(view.finalizers.len(), 2);
    let leaving = with(
        written.clone(),
        "/metadata/finalizers",
        json!(["others.example.com/first"]),
    );
    assert!(!read(&leaving).finalizer);
    let mut deleted = written;
    deleted["metadata"]["deletionTimestamp"] = json!("2027-01-15T09:00:00Z");
    assert!(read(&deleted).deleting);
}

#[test]
fn a_deployment() {
    let template = json!({"metadata": {"labels": {"stepgate.dev/run": "1-2"}}, "spec": {"containers": []}});
    let written = json!({
        "metadata": {
            "name": "checkout", "uid": "u-1", "resourceVersion": "5", "generation": 3,
            "annotations": {"stepgate.dev/hold": "waiting"}, "labels": {"stepgate.dev/rollout": "checkout"},
        },
        "spec": {"replicas": 4, "paused": true, "template": template},
        "status": {"observedGeneration": 2, "replicas": 5, "updatedReplicas": 3, "availableReplicas": 1},
    });
    let view = object::workload(&written);
    assert_eq!(
        (view.name.as_str(), view.uid.as_str(), view.version.as_str()),
        ("checkout", "u-1", "5")
    );
    assert_eq!((view.generation, view.observed_generation), (3, 2));
    assert_eq!(
        (view.replicas, view.current, view.updated, view.available),
        (4, 5, 3, 1)
    );
    assert!(view.paused && view.annotated);
    assert_eq!(
        (view.hold.as_deref(), view.rollout.as_deref()),
        (Some("waiting"), Some("checkout"))
    );
    assert_eq!((view.run.as_deref(), view.template), (Some("1-2"), digest(&template)));
    let bare = object::workload(&json!({}));
    assert_eq!((bare.replicas, bare.current, bare.observed_generation), (1, 0, 0));
    assert!(!bare.paused && !bare.annotated && bare.hold.is_none() && bare.rollout.is_none());
    // A number that is none, or that no Deployment has.
    let negative = object::workload(&with(written.clone(), "/spec/replicas", json!(-3)));
    let huge = object::workload(&with(written.clone(), "/spec/replicas", json!(i64::MAX)));
    assert_eq!((negative.replicas, huge.replicas), (0, i32::MAX));
    assert!(!object::workload(&with(written, "/metadata/annotations", json!("text"))).annotated);
}

#[test]
fn a_replica_set_belongs_to_its_controller() {
    let written = json!({
        "metadata": {"name": "checkout-1", "uid": "u-2", "ownerReferences": [
            {"uid": "no-controller"},
            {"uid": "nor-this", "controller": false},
            {"uid": "u-1", "controller": true},
        ]},
        "spec": {"replicas": 2, "template": {"spec": 1}},
        "status": {"replicas": 3},
    });
    let view = object::replica_set(&written);
    assert_eq!((view.name.as_str(), view.uid.as_str()), ("checkout-1", "u-2"));
    assert_eq!((view.owner.as_deref(), view.wanted, view.replicas), (Some("u-1"), 2, 3));
    assert_eq!(view.template, json!({"spec": 1}));
    let bare = object::replica_set(&json!({}));
    assert_eq!(
        (bare.owner, bare.wanted, bare.replicas, bare.template),
        (None, 1, 0, Value::Null)
    );
}

#[test]
fn what_we_may_have_made() {
    let labels = json!({"stepgate.dev/canary-of": "r-1", "stepgate.dev/run": "1-2"});
    let view = object::owned(&json!({"metadata": {"name": "checkout-canary", "uid": "u-3", "labels": labels}}));
    assert_eq!((view.name.as_str(), view.uid.as_str()), ("checkout-canary", "u-3"));
    assert_eq!(
        (view.canary_of.as_deref(), view.run.as_deref()),
        (Some("r-1"), Some("1-2"))
    );
    let foreign = object::owned(&json!({"metadata": {"name": "x", "labels": {"app": "x"}}}));
    assert!(foreign.canary_of.is_none() && foreign.run.is_none() && foreign.uid.is_empty());
}

#[test]
fn a_service_and_who_selects_what() {
    let service = object::service(&json!({
        "metadata": {"name": "checkout", "labels": {"stepgate.dev/canary-of": "r-1"}},
        "spec": {"selector": {"app": "checkout", "not": 1}, "ports": [{"port": 80}]},
    }));
    assert_eq!(
        (service.name.as_str(), service.canary_of.as_deref()),
        ("checkout", Some("r-1"))
    );
    assert_eq!(service.selector, [("app".to_owned(), "checkout".to_owned())].into());
    assert_eq!(service.spec["ports"][0]["port"], 80);
    let policy = object::network_policy(&json!({
        "metadata": {"name": "inside"}, "spec": {"podSelector": {"matchLabels": {"app": "checkout"}}},
    }));
    assert_eq!((policy.name.as_str(), policy.selectors.len()), ("inside", 1));
    let budget = object::disruption_budget(&json!({
        "metadata": {"name": "two"}, "spec": {"selector": {"matchLabels": {"app": "checkout"}}},
    }));
    assert_eq!((budget.name.as_str(), budget.selectors.len()), ("two", 1));
}

#[test]
fn a_policy_of_certificates_names_services_alone() {
    let view = object::backend_tls_policy(&json!({
        "metadata": {"name": "inner"},
        "spec": {"targetRefs": [
            {"kind": "Service", "name": "checkout"}, {"kind": "Backend", "name": "else"}, {"name": "no-kind"}, {"kind": "Service"},
        ]},
    }));
    assert_eq!((view.kind, view.name.as_str()), ("BackendTLSPolicy", "inner"));
    assert_eq!(view.services, ["checkout"]);
}

#[test]
fn a_claim_may_be_mounted_as_it_asks_or_as_it_is() {
    let view = object::volume_claim(&json!({
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce", 7, "ReadOnlyMany"]},
        "status": {"accessModes": ["ReadWriteOnce", "ReadWriteMany"]},
    }));
    assert_eq!(view.name, "data");
    assert_eq!(view.access_modes, ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce"]);
}

fn a_route() -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": "checkout", "uid": "u-4", "resourceVersion": "9", "generation": 4,
            "annotations": {"stepgate.dev/run": "a-1.2  b-1.3"},
            "managedFields": [
                {"manager": "first", "time": "2027-01-15T08:00:00Z", "fieldsV1": {"f:spec": {}}},
                {"manager": "last", "time": "2027-01-15T08:00:02Z", "fieldsV1": {"f:spec": {}}},
                {"manager": "middle", "time": "2027-01-15T08:00:01Z", "fieldsV1": {"f:spec": {}}},
                {"manager": "gateway", "time": "2027-01-15T08:00:09Z", "fieldsV1": {"f:status": {}}},
                {"manager": "stepgate", "time": "2027-01-15T08:00:09Z", "fieldsV1": {"f:spec": {}}},
            ],
        },
        "spec": {
            "parentRefs": [
                {"name": "edge"},
                {"namespace": "gateways", "name": "edge", "sectionName": "https"},
                {"name": "edge", "port": 8443},
                {"namespace": "gateways", "name": "edge", "sectionName": "https", "port": 8443},
            ],
            "rules": [{"name": "main", "backendRefs": [{"name": "checkout", "port": 80}]}, {}],
        },
        "status": {"parents": [{
            "parentRef": {"name": "edge"}, "controllerName": "example.com/gateway",
            "conditions": [
                {"type": "Other", "status": "False", "observedGeneration": 1},
                {"type": "Accepted", "status": "True", "observedGeneration": 4},
                {"type": "ResolvedRefs", "status": "True", "observedGeneration": 3},
            ],
        }]},
    })
}

#[test]
fn a_route_its_rules_its_marks_and_who_wrote_it() {
    let view = object::route(&a_route());
    assert_eq!(
        (view.name.as_str(), view.uid.as_str(), view.version.as_str()),
        ("checkout", "u-4", "9")
    );
    assert_eq!((view.generation, view.annotated), (4, true));
    assert_eq!(view.run.as_deref(), Some("a-1.2 b-1.3"));
    assert_eq!(view.changed_by.as_deref(), Some("last"));
    assert_eq!(
        view.parent_refs,
        [
            "shop/edge",
            "gateways/edge/https",
            "shop/edge:8443",
            "gateways/edge/https:8443"
        ]
    );
    let rules: Vec<_> = view
        .rules
        .iter()
        .map(|rule| (rule.name.as_deref(), rule.backend_refs.len()))
        .collect();
    assert_eq!(rules, [(Some("main"), 1), (None, 0)]);
    let bare = object::route(&json!({}));
    assert!(bare.run.is_none() && bare.changed_by.is_none() && bare.parents.is_empty() && !bare.annotated);
}

#[test]
fn of_many_marks_the_last_are_read_and_none_that_is_longer_than_any() {
    let read = |marks: &[String]| {
        let route = with(
            a_route(),
            "/metadata/annotations/stepgate.dev~1run",
            json!(marks.join(" ")),
        );
        object::route(&route).run.unwrap()
    };
    let marks: Vec<String> = (0..65).map(|number| format!("m{number}")).collect();
    assert_eq!(read(&marks), marks[1..].join(" "));
    assert_eq!(read(&marks[1..]), marks[1..].join(" "));
    let (longest, longer) = ("x".repeat(128), "x".repeat(129));
    assert_eq!(read(&["a".to_owned(), longest.clone()]), format!("a {longest}"));
    assert_eq!(read(&["a".to_owned(), longer]), "a");
}

#[test]
fn a_parent_has_accepted_where_both_conditions_are_true_at_the_older_of_their_generations() {
    let parent = |route: &Value| object::route(route).parents.remove(0);
    let conditions = "/status/parents/0/conditions";
    let both = parent(&a_route());
    assert_eq!(
        (both.parent.as_str(), both.controller.as_str()),
        ("shop/edge", "example.com/gateway")
    );
    assert_eq!(
        (both.accepted, both.message.as_str(), both.lacks_backend),
        (Some(3), "", false)
    );
    let newer = with(a_route(), &format!("{conditions}/1/observedGeneration"), json!(2));
    assert_eq!(parent(&newer).accepted, Some(2));
    let unsaid = with(a_route(), &format!("{conditions}/1/observedGeneration"), json!(null));
    assert_eq!(parent(&unsaid).accepted, None);

    let denied = json!({"type": "Accepted", "status": "False", "message": "no listener"});
    let lacking = json!({"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "gone"});
    let other = json!({"type": "ResolvedRefs", "status": "False", "reason": "InvalidKind", "message": "what"});
    let accepted = json!({"type": "Accepted", "status": "True", "observedGeneration": 4});
    for (said, message, lacks_backend) in [
        (json!([denied, other]), "Accepted is False: no listener", false),
        (json!([denied, lacking]), "Accepted is False: no listener", false),
        (json!([accepted, lacking]), "ResolvedRefs is False: gone", true),
        (json!([accepted, other]), "ResolvedRefs is False: what", false),
        (json!([accepted]), "it does not report ResolvedRefs", false),
        (json!([other]), "it does not report Accepted", false),
        (json!([]), "it does not report Accepted", false),
        (json!("text"), "it does not report Accepted", false),
    ] {
        let seen = parent(&with(a_route(), conditions, said.clone()));
        assert_eq!(
            (seen.accepted, seen.message.as_str(), seen.lacks_backend),
            (None, message, lacks_backend),
            "{said}"
        );
    }
}

#[test]
fn a_text_is_kept_as_far_as_any_name_goes() {
    let long = "é".repeat(300);
    assert_eq!(object::bounded(&long), "é".repeat(256));
    assert_eq!(object::bounded(&long[..512]), long[..512]);
    // A boundary within a letter is no boundary.
    let odd = format!("a{long}");
    assert_eq!(object::bounded(&odd), format!("a{}", "é".repeat(255)));
    assert_eq!(object::text(&json!({"a": 1}), "a"), None);
    assert_eq!(object::items(&json!({"a": "b"}), "a").count(), 0);
}
