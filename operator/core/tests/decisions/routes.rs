//! What a route's rules say of the traffic, and what is written to each form of a rule: tables.

use serde_json::{Value, json};
use stepgate_core::route::{Managed, Position, Trickles};
use stepgate_crds::status::OriginalRule;

use super::golden::{MANAGED, MARK, applied};
use crate::fixtures::observed::route_view;

/// A backend and its weight, as written: `None` where none is.
type Backend = (&'static str, Option<i64>);

fn stable(weight: i64) -> Backend {
    (MANAGED.stable, Some(weight))
}

fn canary(weight: i64) -> Backend {
    (MANAGED.canary, Some(weight))
}

fn rule(backends: &[Backend]) -> Value {
    let backends = backends.iter().map(|(name, weight)| {
        let mut backend = json!({"name": name, "port": 80});
        if let Some(weight) = weight {
            backend["weight"] = json!(weight);
        }
        backend
    });
    json!({"backendRefs": backends.collect::<Vec<_>>()})
}

fn named(name: &str, backends: &[Backend]) -> Value {
    let mut rule = rule(backends);
    rule["name"] = json!(name);
    rule
}

/// A route of these rules, with the run's mark.
fn route(rules: &[Value]) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {
            "name": "checkout", "uid": "uid-1", "resourceVersion": "7", "generation": 3,
            "annotations": {"stepgate.dev/run": MARK},
        },
        "spec": {"rules": rules},
    })
}

fn of(rules: &[Vec<Backend>]) -> Value {
    let rules: Vec<Value> = rules.iter().map(|backends| rule(backends)).collect();
    route(&rules)
}

fn unmarked(mut route: Value) -> Value {
    route["metadata"]["annotations"] = json!({});
    route
}

/// Every rule's weights, of stable, the canary and others in the order of the rule; -1 where none is written.
fn weights(route: &Value) -> Vec<Vec<i64>> {
    let rules = route["spec"]["rules"].as_array().unwrap();
    let weights = rules.iter().map(|rule| {
        let backends = rule["backendRefs"].as_array().unwrap().iter();
        backends
            .map(|backend| backend["weight"].as_i64().unwrap_or(-1))
            .collect()
    });
    weights.collect()
}

fn recorded(rule: Option<&str>, index: i32, stable_weight: Option<i64>) -> OriginalRule {
    OriginalRule {
        route: "checkout".to_owned(),
        rule: rule.map(str::to_owned),
        index,
        stable_weight,
        canary_weight: None,
    }
}

#[test]
fn where_a_route_stands() {
    for (rules, position) in [
        (vec![], Position::Without),
        (vec![vec![stable(3)]], Position::Without),
        (vec![vec![stable(70), canary(30)]], Position::Weight(30)),
        (vec![vec![stable(100), canary(0)]], Position::Weight(0)),
        (vec![vec![stable(3), canary(1)]], Position::Other),
        (vec![vec![stable(70), canary(30)]; 2], Position::Weight(30)),
        (
            vec![vec![stable(70), canary(30)], vec![stable(90), canary(10)]],
            Position::Other,
        ),
        (vec![vec![stable(70), canary(30)], vec![stable(1)]], Position::Other),
        (vec![vec![("static", Some(1))]], Position::Without),
    ] {
        assert_eq!(MANAGED.position(&route_view(&of(&rules))), position, "{rules:?}");
    }
}

#[test]
fn whom_a_route_serves() {
    // Whether stable has some weight everywhere, the canary is known, and the place of the first rule that gives it what stable should have.
    for (rules, serves_stable, knows_canary, astray) in [
        (vec![vec![stable(1)]], true, false, None),
        (vec![vec![(MANAGED.stable, None)]], true, false, None),
        (vec![vec![stable(0)]], false, false, None),
        (vec![vec![stable(2)], vec![stable(0), canary(100)]], false, true, None),
        (vec![vec![("static", Some(1)), canary(1)]], true, true, Some(0)),
        (vec![vec![("static", Some(1)), canary(0)]], true, true, None),
        // A rule of the canary alone is a person's own, and so is one whose other backends get nothing.
        (vec![vec![canary(1)]], true, true, None),
        (vec![vec![canary(1), ("static", Some(0))]], true, true, None),
    ] {
        let view = route_view(&of(&rules));
        assert_eq!(
            (
                MANAGED.serves_stable(&view),
                MANAGED.knows_canary(&view),
                MANAGED.astray(&view)
            ),
            (serves_stable, knows_canary, astray),
            "{rules:?}"
        );
    }
}

#[test]
fn the_way_back_leaves_the_canary_no_more_than_it_has() {
    for (backends, percent, left) in [
        (vec![stable(70), canary(30)], 10, [90, 10]),
        (vec![stable(70), canary(30)], 0, [100, 0]),
        (vec![stable(90), canary(10)], 30, [90, 10]),
        (vec![stable(100), canary(0)], 30, [100, 0]),
        // Weights that are no percentages: of what it has, so much at most; and nothing of nothing.
        (vec![stable(1), canary(1)], 30, [70, 30]),
        (vec![stable(1), canary(0)], 30, [100, 0]),
    ] {
        let before = of(std::slice::from_ref(&backends));
        let after = applied(&before, &MANAGED.take_back(&route_view(&before), percent, MARK));
        assert_eq!(weights(&after), [left.to_vec()], "{backends:?} to {percent} %");
    }
}

#[test]
fn a_backend_that_the_gateway_would_forget_keeps_a_millionth() {
    const ALL: i64 = 1_000_000;
    for (percent, [stable_keeps, canary_keeps], wanted) in [
        (0, [false, false], [100, 0]),
        (0, [true, false], [100, 0]),
        (0, [false, true], [ALL, 1]),
        (10, [true, true], [90, 10]),
        (100, [false, false], [0, 100]),
        (100, [false, true], [0, 100]),
        (100, [true, false], [1, ALL]),
    ] {
        let managed = Managed {
            trickles: Trickles {
                stable: stable_keeps,
                canary: canary_keeps,
            },
            ..MANAGED
        };
        let case = format!("{percent} %, stable keeps one: {stable_keeps}, the canary: {canary_keeps}");
        for backends in [
            vec![stable(50), canary(50)],
            vec![stable(1)],
            vec![stable(1), canary(ALL)],
        ] {
            let before = of(std::slice::from_ref(&backends));
            let after = applied(&before, &managed.set_weight(&route_view(&before), percent, MARK));
            assert_eq!(weights(&after), [wanted.to_vec()], "{backends:?}, {case}");
            // Whoever reads it sees a percentage, whether it would write it so or not.
            let after = route_view(&after);
            assert_eq!(MANAGED.position(&after), Position::Weight(percent), "{case}");
            assert_eq!(MANAGED.sent(&after), i64::from(percent), "{case}");
            assert_eq!(MANAGED.serves_stable(&after), percent < 100, "{case}");
            assert_eq!(managed.lacks_trickle(&after), wanted[1] == 0 && canary_keeps, "{case}");
        }
        if percent == 0 {
            let before = of(&[vec![stable(1), canary(ALL)]]);
            let after = applied(&before, &managed.take_back(&route_view(&before), percent, MARK));
            assert_eq!(weights(&after), [wanted.to_vec()], "{case}");
            assert!(managed.is_back(&route_view(&after), 0, MARK), "{case}");
        }
    }
    // All of a rule that lost stable: its canary gets nothing, whatever it would keep.
    let keeping = Managed {
        trickles: Trickles {
            stable: true,
            canary: true,
        },
        ..MANAGED
    };
    let stray = of(&[vec![("other", Some(1)), canary(1)]]);
    let after = applied(&stray, &keeping.take_back(&route_view(&stray), 0, MARK));
    assert_eq!(weights(&after), [[1, 0]]);
    // Somebody took the canary out: what we left to stable is not its user's.
    let left = of(&[vec![stable(ALL)]]);
    let seven = [recorded(None, 0, Some(7))];
    let restored = MANAGED.restore(&route_view(&left), &seven, MARK).unwrap();
    assert_eq!(weights(&applied(&left, &restored)), [[7]]);
}

#[test]
fn what_a_person_did_to_the_rules_since_is_told_from_what_the_run_did() {
    let three_five = || [recorded(None, 0, Some(3)), recorded(None, 1, Some(5))];
    let managed = || vec![stable(90), canary(10)];
    let now = |rules: &[Value], before: &[OriginalRule]| {
        let found = MANAGED.original_now(&route_view(&route(rules)), before);
        let told = found
            .into_iter()
            .map(|rule| (rule.rule, rule.index, rule.stable_weight));
        told.collect::<Vec<_>>()
    };
    let of = |rule: Option<&str>, index, weight| (rule.map(str::to_owned), index, Some(weight));

    // As many as before: the same ones, though somebody took the canary off one, and put one with a name in front.
    assert_eq!(
        now(
            &[named("front", &[stable(8)]), rule(&managed()), rule(&[stable(100)])],
            &three_five()
        ),
        [of(Some("front"), 0, 8), of(None, 1, 3), of(None, 2, 5)]
    );
    // One more, and none has the canary: somebody wrote them all anew.
    assert_eq!(
        now(
            &[rule(&[stable(1)]), rule(&[stable(2)]), rule(&[stable(4)])],
            &three_five()
        ),
        [of(None, 0, 1), of(None, 1, 2), of(None, 2, 4)]
    );
    // One more, and all the run's have it: that one is new.
    assert_eq!(
        now(&[rule(&managed()), rule(&[stable(2)]), rule(&managed())], &three_five()),
        [of(None, 0, 3), of(None, 1, 2), of(None, 2, 5)]
    );
    // One more, and one of the run's two has lost it: which is new cannot be told.
    assert_eq!(
        now(
            &[rule(&[stable(1)]), rule(&managed()), rule(&[stable(4)])],
            &three_five()
        ),
        [of(None, 0, 3), of(None, 1, 5)]
    );
    // Names say which is which.
    let names = [recorded(Some("a"), 0, Some(3)), recorded(Some("b"), 1, Some(5))];
    assert_eq!(
        now(&[named("b", &managed()), named("a", &managed())], &names),
        [of(Some("b"), 0, 5), of(Some("a"), 1, 3)]
    );
    // The user's own rule had the canary from the start: that it is there says nothing.
    let own = [OriginalRule {
        canary_weight: Some(0),
        ..recorded(None, 0, Some(3))
    }];
    assert_eq!(
        now(&[named("front", &[stable(8)]), rule(&managed())], &own),
        [of(None, 0, 3)]
    );
}

#[test]
fn restoring_touches_only_what_the_run_left() {
    let seven = || vec![recorded(None, 0, Some(7))];
    for (what, rules, original, restored) in [
        (
            "managed",
            vec![vec![stable(90), canary(10)]],
            seven(),
            Some(vec![vec![7]]),
        ),
        (
            "the canary was taken off, and the run's 100 is left",
            vec![vec![stable(100)]],
            seven(),
            Some(vec![vec![7]]),
        ),
        (
            "another weight is its user's",
            vec![vec![stable(50)]],
            seven(),
            Some(vec![vec![50]]),
        ),
        (
            "a rule that is not recorded may have 100 of its own",
            vec![vec![stable(100)]],
            vec![],
            Some(vec![vec![100]]),
        ),
        (
            "rules of which it cannot be told which is new get what all had",
            vec![vec![stable(1)], vec![stable(90), canary(10)], vec![stable(4)]],
            vec![recorded(None, 0, Some(5)), recorded(None, 1, Some(5))],
            Some(vec![vec![1], vec![5], vec![4]]),
        ),
        (
            "or the default, where they differed",
            vec![vec![stable(1)], vec![stable(90), canary(10)], vec![stable(4)]],
            vec![recorded(None, 0, Some(3)), recorded(None, 1, Some(5))],
            Some(vec![vec![1], vec![1], vec![4]]),
        ),
        (
            "or none, where none was written",
            vec![vec![stable(1)], vec![stable(90), canary(10)], vec![stable(4)]],
            vec![recorded(None, 0, None), recorded(None, 1, None)],
            Some(vec![vec![1], vec![-1], vec![4]]),
        ),
        (
            "the user's own weight of the canary",
            vec![vec![stable(90), canary(10)]],
            vec![OriginalRule {
                canary_weight: Some(5),
                ..recorded(None, 0, Some(95))
            }],
            Some(vec![vec![95, 5]]),
        ),
    ] {
        let before = of(&rules);
        let effect = MANAGED.restore(&route_view(&before), &original, MARK);
        let after = effect.map(|effect| applied(&before, &effect));
        assert_eq!(after.as_ref().map(weights), restored, "{what}");
        let annotations = after.map(|after| after["metadata"]["annotations"].clone());
        assert_eq!(annotations, Some(json!({})), "{what}");
    }
    // Without the run's mark a weight of 100 is its user's.
    let foreign = unmarked(of(&[vec![stable(100)]]));
    assert_eq!(MANAGED.restore(&route_view(&foreign), &seven(), MARK), None);
}
