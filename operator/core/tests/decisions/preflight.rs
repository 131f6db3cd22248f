//! Every refusal names the object and the way out.

use serde_json::{Value, json};
use stepgate_core::{
    input::{ProviderView, Seen, ServiceView, Survey},
    preflight,
};
use stepgate_crds::rollout::ProviderName;

use crate::fixtures::{observed::Observed, world::world};

fn seen() -> Observed {
    world().at_rest().0
}

#[track_caller]
fn refuses(case: &str, spoil: impl FnOnce(&mut Observed), says: &[&str]) {
    let mut seen = seen();
    spoil(&mut seen);
    let survey = seen.survey.clone().unwrap();
    let why = preflight::find(&seen.input(), &survey).expect_err(case);
    for part in says {
        assert!(why.contains(part), "{case}: `{why}` does not say `{part}`");
    }
    assert!(why.len() < 480, "{case}: {why}");
}

fn survey(seen: &mut Observed) -> &mut Survey {
    seen.survey.as_mut().unwrap()
}

fn template(seen: &mut Observed) -> &mut Value {
    survey(seen).workload.pointer_mut("/spec/template/spec").unwrap()
}

fn service(name: &str, selector: (&str, &str)) -> ServiceView {
    ServiceView {
        name: name.to_owned(),
        canary_of: None,
        selector: [(selector.0.to_owned(), selector.1.to_owned())].into(),
        spec: json!({}),
    }
}

fn rule(seen: &mut Observed) -> &mut stepgate_core::input::RuleView {
    let Seen::At(route) = &mut seen.routes[0].1 else {
        panic!("no route")
    };
    &mut route.rules[0]
}

#[test]
fn everything_that_the_spec_leaves_open_is_found() {
    let seen = seen();
    let found = preflight::find(&seen.input(), seen.survey.as_ref().unwrap()).unwrap();
    assert_eq!(
        (found.stable_service.as_str(), found.canary_service.as_str()),
        ("checkout", "checkout-canary")
    );
    assert_eq!((found.provider, found.port), (ProviderName::Contour, 80));
    assert_eq!(found.parents, ["checkout gateways/edge example.com/gateway"]);
    assert!(found.apart.contains("app=checkout-canary"), "{}", found.apart);
}

#[test]
fn a_gateway_without_known_metrics_is_judged_by_the_pods_own() {
    let mut seen = seen();
    survey(&mut seen).providers = vec![ProviderView {
        name: ProviderName::Contour,
        controllers: vec!["another".to_owned()],
    }];
    let found = preflight::find(&seen.input(), seen.survey.as_ref().unwrap()).unwrap();
    assert_eq!(found.provider, ProviderName::Pods);
}

#[test]
fn with_two_different_gateways_no_single_gateways_metrics_will_do() {
    let provider = |seen: &Observed| {
        preflight::find(&seen.input(), seen.survey.as_ref().unwrap())
            .unwrap()
            .provider
    };
    let mut seen = seen();
    assert_eq!(provider(&seen), ProviderName::Contour);
    let Seen::At(route) = &mut seen.routes[0].1 else {
        panic!("the route is there")
    };
    let mut other = route.parents[0].clone();
    other.controller = "traefik.io/gateway-controller".to_owned();
    route.parents.push(other);
    assert_eq!(provider(&seen), ProviderName::Pods);
}

#[test]
fn a_route_that_is_not_there_or_cannot_be_read() {
    refuses(
        "gone",
        |seen| seen.routes[0].1 = Seen::Absent,
        &[
            "HTTPRoute shop/checkout does not exist",
            "create it",
            "spec.traffic.routes",
        ],
    );
    refuses(
        "unknown",
        |seen| seen.routes[0].1 = Seen::Unknown("forbidden".to_owned()),
        &["HTTPRoute shop/checkout could not be read: forbidden"],
    );
}

#[test]
fn the_stable_service() {
    refuses(
        "named, and not there",
        |seen| seen.rollout.spec.traffic.stable_service = Some("nowhere".to_owned()),
        &["Service shop/nowhere does not exist", "spec.traffic.stableService"],
    );
    refuses(
        "named, and of other pods",
        |seen| seen.rollout.spec.traffic.stable_service = Some("static".to_owned()),
        &[
            "Service shop/static selects no pod of Deployment checkout",
            "its selector",
        ],
    );
    refuses(
        "in no rule",
        |seen| {
            let Seen::At(route) = &mut seen.routes[0].1 else {
                panic!()
            };
            route.rules.iter_mut().for_each(|rule| rule.backend_refs.clear());
        },
        &[
            "HTTPRoute shop/checkout: no rule refers to a Service",
            "as a backendRef",
        ],
    );
    refuses(
        "missing",
        |seen| survey(seen).services.clear(),
        &["Service shop/checkout, static does not exist", "create it"],
    );
    refuses(
        "of other pods",
        |seen| {
            survey(seen).services.iter_mut().for_each(|service| {
                service.selector.insert("app".to_owned(), "x".to_owned());
            });
        },
        &[
            "no Service in the route (checkout, static) selects a pod of Deployment checkout",
            "the selector",
        ],
    );
    refuses(
        "ambiguous",
        |seen| {
            survey(seen).services.push(service("twin", ("app", "checkout")));
            rule(seen)
                .backend_refs
                .push(json!({"name": "twin", "port": 80, "weight": 0}));
        },
        &["several Services", "checkout, twin", "spec.traffic.stableService"],
    );
}

#[test]
fn the_canary_service() {
    refuses(
        "taken",
        |seen| survey(seen).services.push(service("checkout-canary", ("app", "else"))),
        &["Service checkout-canary is there already", "spec.traffic.canaryService"],
    );
    refuses(
        "too long",
        |seen| seen.rollout.spec.traffic.canary_service = Some("c".repeat(64)),
        &["more than 63 characters", "spec.traffic.canaryService"],
    );
    refuses(
        "in use",
        |seen| {
            rule(seen)
                .backend_refs
                .push(json!({"name": "checkout-canary", "port": 80, "weight": 5}));
        },
        &["rule 0", "already sends traffic to Service checkout-canary", "weight 0"],
    );
    // One that this Rollout made itself is its own.
    let mut seen = seen();
    let uid = seen.rollout.uid.clone();
    survey(&mut seen).services.push(ServiceView {
        canary_of: Some(uid),
        ..service("checkout-canary", ("app", "x"))
    });
    assert!(preflight::find(&seen.input(), seen.survey.as_ref().unwrap()).is_ok());
}

#[test]
fn what_two_versions_cannot_share() {
    refuses(
        "a volume",
        |seen| {
            template(seen)["volumes"] =
                json!([{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "data"}}]);
        },
        &["Deployment checkout mounts the PersistentVolumeClaim data"],
    );
    refuses(
        "a port of the host",
        |seen| template(seen)["containers"][0]["ports"][0]["hostPort"] = json!(8080),
        &["Deployment checkout binds the host port 8080"],
    );
}

#[test]
fn rules() {
    let named = |name: &'static str| {
        move |seen: &mut Observed| seen.rollout.spec.traffic.routes[0].rules = Some(vec![name.to_owned()])
    };
    refuses(
        "no such rule",
        named("main"),
        &["HTTPRoute checkout has no rule named main", "spec.traffic.routes"],
    );
    refuses(
        "a rule of another Service",
        |seen| {
            let Seen::At(route) = &mut seen.routes[0].1 else {
                panic!()
            };
            route.rules[1].name = Some("static".to_owned());
            named("static")(seen);
        },
        &[
            "HTTPRoute checkout, rule static: no backendRef to Service checkout",
            "add it",
        ],
    );
    refuses(
        "another backend",
        |seen| {
            rule(seen)
                .backend_refs
                .push(json!({"name": "legacy", "port": 80, "weight": 10}));
        },
        &[
            "HTTPRoute checkout, rule 0: it also sends traffic to legacy",
            "weight 0 or a rule of its own",
        ],
    );
    refuses(
        "a Service of the same name elsewhere",
        |seen| {
            rule(seen)
                .backend_refs
                .push(json!({"name": "checkout", "namespace": "old", "port": 80}));
        },
        &["also sends traffic to checkout"],
    );
    refuses(
        "one Service twice",
        |seen| {
            rule(seen)
                .backend_refs
                .push(json!({"name": "checkout", "port": 81, "weight": 1}));
        },
        &["HTTPRoute checkout, rule 0", "one Service twice"],
    );
    refuses(
        "no rule of the Service that was named",
        |seen| {
            seen.rollout.spec.traffic.stable_service = Some("twin".to_owned());
            survey(seen).services.push(service("twin", ("app", "checkout")));
        },
        &["HTTPRoute checkout: no rule refers to Service twin", "as a backendRef"],
    );
}

#[test]
fn ports() {
    refuses(
        "none",
        |seen| {
            rule(seen).backend_refs[0].as_object_mut().unwrap().remove("port");
        },
        &["backendRef to Service checkout has no port", "add it"],
    );
    refuses(
        "two",
        |seen| {
            let Seen::At(route) = &mut seen.routes[0].1 else {
                panic!()
            };
            route.rules[1].backend_refs = vec![json!({"name": "checkout", "port": 8080})];
        },
        &["ports 80 and 8080", "spec.traffic.routes"],
    );
}

#[test]
fn parents() {
    refuses(
        "none accepts",
        |seen| {
            let Seen::At(route) = &mut seen.routes[0].1 else {
                panic!()
            };
            route.parents[0].accepted = None;
            route.parents[0].message = "Accepted is False: no such listener".to_owned();
        },
        &[
            "HTTPRoute checkout: no parent accepts it",
            "gateways/edge: Accepted is False: no such listener",
            "spec.parentRefs",
        ],
    );
}

#[test]
fn the_metrics_source_and_its_interval() {
    refuses(
        "not set up",
        |seen| seen.rollout.spec.analysis = Some(serde_json::from_value(json!({"source": "team"})).unwrap()),
        &[
            "metrics source team is not set up",
            "[default]",
            "--metrics-source team=URL",
        ],
    );
    refuses(
        "too short",
        |seen| seen.rollout.spec.analysis = Some(serde_json::from_value(json!({"interval": "5s"})).unwrap()),
        &["spec.analysis.interval is 5s", "every 3s"],
    );
}

#[test]
fn no_json_in_a_route_is_too_strange_to_look_at() {
    for strange in [
        json!(null),
        json!("text"),
        json!({}),
        json!({"name": 5, "weight": "x", "port": -1}),
        json!({"name": "checkout", "weight": i64::MAX, "port": i64::MAX}),
        json!({"name": "checkout", "weight": -5, "port": 1.5}),
        json!({"name": "checkout-canary", "weight": i64::MAX}),
        json!([[[]]]),
    ] {
        let mut seen = world().at_step(2).0;
        let Seen::At(route) = &mut seen.routes[0].1 else {
            panic!()
        };
        for rule in &mut route.rules {
            rule.backend_refs.push(strange.clone());
            rule.backend_refs.insert(0, strange.clone());
        }
        let _ = seen.next();
        let _ = preflight::find(&seen.input(), seen.survey.as_ref().unwrap());
    }
}
