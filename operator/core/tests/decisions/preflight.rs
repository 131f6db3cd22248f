//! Every refusal names the object and the way out.

use serde_json::{Value, json};
use stepgate_core::{
    input::{Instead, OwnedView, RouteView, RuleView, Seen, ServiceView, Survey},
    preflight,
};
use stepgate_crds::{provider::ProviderName, status::Found};

use crate::fixtures::{observed::Observed, world::world};

mod rules;
mod shared;

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

#[track_caller]
fn fits(case: &str, spoil: impl FnOnce(&mut Observed)) -> Found {
    let mut seen = seen();
    spoil(&mut seen);
    let survey = seen.survey.clone().unwrap();
    preflight::find(&seen.input(), &survey).expect(case)
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

fn route(seen: &mut Observed) -> &mut RouteView {
    let Seen::At(route) = &mut seen.routes[0].1 else {
        panic!("no route")
    };
    route
}

fn rule(seen: &mut Observed) -> &mut RuleView {
    &mut route(seen).rules[0]
}

#[test]
fn everything_that_the_spec_leaves_open_is_found() {
    let seen = seen();
    let found = preflight::find(&seen.input(), seen.survey.as_ref().unwrap()).unwrap();
    assert_eq!(
        (found.stable_service.as_str(), found.canary_service.as_str()),
        ("checkout", "checkout-canary")
    );
    assert_eq!((found.provider.as_str(), found.port), ("edge", 80));
    assert!(!found.counts_all_callers && found.provider_why.is_none());
    assert_eq!(found.parents, ["checkout gateways/edge example.com/gateway"]);
    assert!(found.apart.contains("app=checkout-canary"), "{}", found.apart);
}

#[test]
fn a_gateway_without_known_metrics_is_judged_by_the_pods_own() {
    let mut seen = seen();
    survey(&mut seen).providers[0].controllers = vec!["another".to_owned()];
    let found = preflight::find(&seen.input(), seen.survey.as_ref().unwrap()).unwrap();
    assert_eq!(found.provider, ProviderName::PODS);
    assert!(found.counts_all_callers && found.provider_why.is_none());
}

#[test]
fn a_gateway_that_cannot_tell_backends_apart_is_judged_by_another_and_it_is_said_why() {
    let instead = |unless_filtered| Instead {
        provider: ProviderName::PODS,
        unless_filtered,
        why: "one cluster for each rule".to_owned(),
    };
    let by = |found: &Found| (found.provider.as_str().to_owned(), found.provider_why.clone());
    let why = "edge cannot tell the two backends apart: one cluster for each rule";
    let pods = ("pods".to_owned(), Some(why.to_owned()));
    let of_edge = |unless_filtered, spoil: &dyn Fn(&mut Observed)| {
        by(&fits("there is one", |seen| {
            survey(seen).providers[0].instead = Some(instead(unless_filtered));
            spoil(seen);
        }))
    };
    let filters = || json!([{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["x"]}}]);
    let filter = |seen: &mut Observed| rule(seen).backend_refs[0]["filters"] = filters();
    let canary_first = |seen: &mut Observed| {
        let refs = &mut rule(seen).backend_refs;
        refs[0]["filters"] = filters();
        let mut canary = refs[0].clone();
        canary["name"] = json!("checkout-canary");
        canary["weight"] = json!(0);
        refs.insert(0, canary);
    };
    let another_second = |seen: &mut Observed| {
        let refs = &mut rule(seen).backend_refs;
        refs[0]["filters"] = filters();
        let mut other = refs[0].clone();
        other["name"] = json!("another");
        other["weight"] = json!(0);
        refs.push(other);
    };
    let others_too = |seen: &mut Observed| {
        for rule in &mut route(seen).rules {
            rule.backend_refs[0]["filters"] = filters();
        }
    };
    let name = |seen: &mut Observed| {
        seen.rollout.spec.analysis = Some(serde_json::from_value(json!({"provider": "edge"})).unwrap());
    };
    assert_eq!(of_edge(false, &|_| {}), pods);
    assert_eq!(of_edge(false, &name), pods);
    assert_eq!(of_edge(false, &filter), pods);
    assert_eq!(of_edge(true, &|_| {}), pods);
    assert_eq!(of_edge(true, &filter), ("edge".to_owned(), None));
    assert_eq!(of_edge(true, &canary_first), pods);
    assert_eq!(of_edge(true, &another_second), pods);
    assert_eq!(of_edge(true, &others_too), pods);
}

#[test]
fn a_set_of_queries_that_is_not_there() {
    refuses(
        "nobody's",
        |seen| seen.rollout.spec.analysis = Some(serde_json::from_value(json!({"provider": "edges"})).unwrap()),
        &[
            "no set of queries edges",
            "[auto, edge, forgetful, pods]",
            "--providers-folder",
        ],
    );
}

#[test]
fn with_two_different_gateways_no_single_gateways_metrics_will_do() {
    let provider = |seen: &Observed| {
        preflight::find(&seen.input(), seen.survey.as_ref().unwrap())
            .unwrap()
            .provider
    };
    let mut seen = seen();
    assert_eq!(provider(&seen).as_str(), "edge");
    let Seen::At(route) = &mut seen.routes[0].1 else {
        panic!("the route is there")
    };
    let mut other = route.parents[0].clone();
    other.controller = "traefik.io/gateway-controller".to_owned();
    route.parents.push(other);
    assert_eq!(provider(&seen), ProviderName::PODS);
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
fn an_interval_has_at_least_two_scrapes() {
    let with = |millis: i64| {
        move |seen: &mut Observed| {
            let interval = seen.limits.scrape.twice().as_millis() + millis;
            seen.rollout.spec.analysis =
                Some(serde_json::from_value(json!({"interval": format!("{}s", interval / 1_000)})).unwrap());
        }
    };
    fits("exactly two", with(0));
    refuses("less", with(-1_000), &["an interval has at least two scrapes"]);
}

#[test]
fn the_canary_service() {
    refuses(
        "taken",
        |seen| survey(seen).services.push(service("checkout-canary", ("app", "else"))),
        &["Service checkout-canary is there already", "spec.traffic.canaryService"],
    );
    fits("as long as may be", |seen| {
        seen.rollout.spec.traffic.canary_service = Some("c".repeat(63));
    });
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
    fits("its own", |seen| {
        let uid = seen.rollout.uid.clone();
        survey(seen).services.push(ServiceView {
            canary_of: Some(uid),
            ..service("checkout-canary", ("app", "x"))
        });
    });
}

#[test]
fn the_canarys_deployment() {
    let named = |canary_of: Option<&str>| OwnedView {
        name: "checkout-canary".to_owned(),
        uid: "uid-9".to_owned(),
        canary_of: canary_of.map(str::to_owned),
        run: None,
    };
    for (case, canary_of) in [("a person's", None), ("another Rollout's", Some("uid-of-another"))] {
        refuses(
            case,
            |seen| survey(seen).canary_workload = Some(named(canary_of)),
            &[
                "Deployment checkout-canary is there already and not made by this Rollout",
                "rename that Deployment, or delete it",
            ],
        );
    }
    fits("its own", |seen| {
        let uid = seen.rollout.uid.clone();
        survey(seen).canary_workload = Some(named(Some(&uid)));
    });
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
fn a_query_that_cannot_be_asked_is_refused_with_its_place() {
    let refused = |seen: &mut Observed| {
        let why = "at character 5, the end: `)` is expected here".to_owned();
        survey(seen).refused_queries = vec![("queue-depth".to_owned(), why)];
    };
    let mut seen = seen();
    refused(&mut seen);
    let why = preflight::find(&seen.input(), seen.survey.as_ref().unwrap()).unwrap_err();
    assert_eq!(
        why,
        "spec.analysis.queries, query queue-depth: at character 5, the end: `)` is expected here"
    );
}

#[test]
fn queries_that_status_has_no_room_for_are_refused_before_a_run() {
    let with = |queries: usize, length: usize| {
        let mut seen = seen();
        let query = |number: usize| json!({"name": format!("query-{number}"), "query": "q".repeat(length), "max": 1});
        let queries: Vec<Value> = (0..queries).map(query).collect();
        let analysis = serde_json::from_value(json!({"queries": queries})).unwrap();
        seen.rollout.spec.analysis = Some(analysis);
        preflight::find(&seen.input(), seen.survey.as_ref().unwrap()).map(|_| ())
    };
    assert_eq!(with(10, 100), Ok(()));
    let why = with(10, 1_000).unwrap_err();
    assert!(why.contains("give fewer or shorter queries"), "{why}");
}
