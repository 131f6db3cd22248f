//! The rules of the routes, their ports and parents, and other Rollouts that lay claim to them.

use serde_json::json;
use stepgate_core::{
    input::{ClaimView, ParentView, Seen},
    preflight,
};
use stepgate_crds::{
    rollout::RouteReference,
    units::{Span, Timestamp},
};

use super::{fits, refuses, route, rule, service, survey};
use crate::fixtures::{observed::Observed, world::world};

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
            route(seen).rules[1].name = Some("static".to_owned());
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
            route(seen).rules[1].backend_refs = vec![json!({"name": "checkout", "port": 8080})];
        },
        &["ports 80 and 8080", "spec.traffic.routes"],
    );
}

#[test]
fn parents() {
    refuses(
        "none accepts",
        |seen| {
            let parent = &mut route(seen).parents[0];
            parent.accepted = None;
            parent.message = "Accepted is False: no such listener".to_owned();
        },
        &[
            "HTTPRoute checkout: no parent accepts it",
            "gateways/edge: Accepted is False: no such listener",
            "spec.parentRefs",
        ],
    );
}

#[test]
fn a_rule_may_list_the_canary_and_others_at_weight_0_and_stable_at_any() {
    fits("weight 0", |seen| {
        let references = &mut rule(seen).backend_refs;
        references[0]["weight"] = json!(0);
        references.push(json!({"name": "checkout-canary", "port": 80, "weight": 0}));
        references.push(json!({"name": "legacy", "port": 80, "weight": 0}));
    });
}

/// A parent that says this of the route.
fn parent(name: &str, accepted: Option<i64>, lacks_backend: bool) -> ParentView {
    ParentView {
        parent: format!("gateways/{name}"),
        controller: "example.com/gateway".to_owned(),
        accepted,
        lacks_backend,
        message: String::new(),
    }
}

#[test]
fn a_parent_that_never_accepted_does_not_count() {
    let found = fits("one of two accepts", |seen| {
        route(seen).parents.insert(0, parent("closed", None, false));
    });
    assert_eq!(found.parents, ["checkout gateways/edge example.com/gateway"]);
}

#[test]
fn a_parent_that_misses_nothing_but_the_canarys_service_counts() {
    let lists = |seen: &mut Observed| {
        let canary = json!({"name": "checkout-canary", "port": 80, "weight": 0});
        rule(seen).backend_refs.push(canary);
        route(seen).parents = vec![parent("edge", None, true)];
    };
    let found = fits("it is made for a run", lists);
    assert_eq!(found.parents, ["checkout gateways/edge example.com/gateway"]);
    let message = &["HTTPRoute checkout: no parent accepts it"];
    refuses(
        "another backend is missing",
        |seen| route(seen).parents = vec![parent("edge", None, true)],
        message,
    );
    refuses(
        "the canary's Service is there, so it is another that is missing",
        |seen| {
            lists(seen);
            let mut canary = service("checkout-canary", ("app", "checkout-canary"));
            canary.canary_of = Some(seen.rollout.uid.clone());
            survey(seen).services.push(canary);
        },
        message,
    );
}

/// Another Rollout on the same route, for the rules of these names of the same Service.
fn claim(seen: &Observed, rules: Option<&[&str]>) -> ClaimView {
    ClaimView {
        name: "another".to_owned(),
        created: Timestamp::from_millis(seen.rollout.created.as_millis() - 1_000),
        in_run: false,
        stable_service: "checkout".to_owned(),
        canary_service: "checkout-next".to_owned(),
        routes: vec![RouteReference {
            rules: rules.map(|rules| rules.iter().map(|rule| (*rule).to_owned()).collect()),
            ..seen.rollout.spec.traffic.routes[0].clone()
        }],
    }
}

/// Two rules with names, of which this Rollout manages the first.
fn two_rules(seen: &mut Observed) {
    let mut web = rule(seen).clone();
    web.name = Some("web".to_owned());
    let admin = stepgate_core::input::RuleView {
        name: Some("admin".to_owned()),
        ..web.clone()
    };
    route(seen).rules = vec![web, admin];
    seen.rollout.spec.traffic.routes[0].rules = Some(vec!["web".to_owned()]);
}

#[test]
fn the_second_rollout_of_a_rule_refuses() {
    for (case, rules) in [("all rules", None), ("the same rule", Some(&["web"][..]))] {
        refuses(
            case,
            |seen| {
                two_rules(seen);
                let claim = claim(seen, rules);
                survey(seen).rollouts.push(claim);
            },
            &[
                "HTTPRoute checkout, rule web: Rollout another moves its weights, and two cannot",
                "spec.traffic.routes",
            ],
        );
    }
    refuses(
        "made in the same second, and the second by its name",
        |seen| {
            let mut claim = claim(seen, None);
            claim.created = seen.rollout.created;
            survey(seen).rollouts.push(claim);
        },
        &["HTTPRoute checkout, rule 0: Rollout another moves its weights"],
    );
    refuses(
        "the younger, but in a run",
        |seen| {
            let mut claim = claim(seen, None);
            claim.created = seen.rollout.created.after(Span::seconds(60));
            claim.in_run = true;
            // What shows of the other's run: its canary's Service, and its weight.
            claim.canary_service = "checkout-canary".to_owned();
            survey(seen).rollouts.push(claim);
            survey(seen)
                .services
                .push(service("checkout-canary", ("app", "checkout-canary")));
            let canary = json!({"name": "checkout-canary", "port": 80, "weight": 10});
            rule(seen).backend_refs.push(canary);
        },
        &["HTTPRoute checkout, rule 0: Rollout another moves its weights in a run"],
    );
}

#[test]
fn rollouts_may_share_a_route_and_not_a_rule() {
    type Change = fn(&mut ClaimView);
    let changes: [(&str, Change); 4] = [
        ("another rule", |claim| {
            claim.routes[0].rules = Some(vec!["admin".to_owned()]);
        }),
        ("another Service", |claim| claim.stable_service = "static".to_owned()),
        ("another route", |claim| claim.routes[0].name = "partners".to_owned()),
        ("the younger one", |claim| {
            claim.created = claim.created.after(Span::seconds(60));
        }),
    ];
    for (case, change) in changes {
        fits(case, |seen| {
            two_rules(seen);
            let mut claim = claim(seen, None);
            change(&mut claim);
            survey(seen).rollouts.push(claim);
        });
    }
}

#[test]
fn two_rollouts_do_not_make_a_service_of_one_name() {
    refuses(
        "another rule",
        |seen| {
            two_rules(seen);
            let mut claim = claim(seen, Some(&["admin"]));
            claim.canary_service = "checkout-canary".to_owned();
            survey(seen).rollouts.push(claim);
        },
        &[
            "Service checkout-canary: Rollout another makes one of this name",
            "spec.traffic.canaryService",
        ],
    );
}

#[test]
fn a_rollout_lays_claim_once_it_found_its_service_and_until_it_lets_go() {
    let (at_rest, in_run) = (world().at_rest().0, world().at_step(1).0);
    let claim = ClaimView::of(&in_run.rollout).unwrap();
    assert!(claim.in_run);
    assert_eq!(claim.stable_service, "checkout");
    assert_eq!(claim.canary_service, "checkout-canary");
    assert!(!ClaimView::of(&at_rest.rollout).unwrap().in_run);
    let leaving = |seen: &Observed| {
        let mut rollout = seen.rollout.clone();
        rollout.spec.suspend = Some(true);
        let suspended = ClaimView::of(&rollout).is_some();
        rollout.spec.suspend = None;
        rollout.deleting = true;
        assert_eq!(ClaimView::of(&rollout).is_some(), suspended);
        suspended
    };
    // A run that goes back still moves weights.
    assert!(leaving(&in_run) && !leaving(&at_rest));
    let mut blocked = at_rest.rollout.clone();
    blocked.status.found = None;
    assert_eq!(ClaimView::of(&blocked), None);
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
