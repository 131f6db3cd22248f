//! How canary pods are set apart, and what forbids it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stepgate_core::{
    apart::{self, Apart, selector},
    input::{SelectorView, ServiceView, Survey},
};

mod users;

const APP: [(&str, &str); 1] = [("app", "checkout")];
const TRACK: [(&str, &str); 2] = [("app", "checkout"), ("track", "stable")];

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn service(name: &str, selector: &[(&str, &str)]) -> ServiceView {
    ServiceView {
        name: name.to_owned(),
        canary_of: None,
        selector: labels(selector),
        spec: json!({}),
    }
}

fn survey(own: &[(&str, &str)], pods: &[(&str, &str)]) -> Survey {
    Survey {
        workload: json!({"spec": {
            "selector": {"matchLabels": labels(own)},
            "template": {"metadata": {"labels": labels(pods)}, "spec": {}},
        }}),
        canary_workload: None,
        services: Vec::new(),
        network_policies: Vec::new(),
        disruption_budgets: Vec::new(),
        service_policies: None,
        volume_claims: Vec::new(),
        rollouts: Vec::new(),
        sources: Vec::new(),
        refused_queries: Vec::new(),
        providers: Vec::new(),
    }
}

fn policy(name: &str, spec: &Value) -> SelectorView {
    SelectorView {
        name: name.to_owned(),
        selectors: selector::of_network_policy(spec),
    }
}

fn budget(name: &str, spec: &Value) -> SelectorView {
    SelectorView {
        name: name.to_owned(),
        selectors: selector::of_disruption_budget(spec),
    }
}

/// The choice for an application whose pods have these labels, by which its Service selects, and whose Deployment selects by `own`.
fn choice(pods: &[(&str, &str)], own: &[(&str, &str)], spoil: impl FnOnce(&mut Survey)) -> Result<Apart, String> {
    let mut survey = survey(own, pods);
    spoil(&mut survey);
    let chosen = apart::choose(&survey, &service("checkout", pods), None);
    match &chosen {
        Ok(apart) => {
            let mut canary = labels(pods);
            canary.extend(apart.labels.clone());
            assert!(
                !apart::selects(&labels(pods), &canary),
                "the stable Service selects {canary:?}"
            );
            assert!(
                apart
                    .how
                    .contains("not looked at: policies of gateways, meshes and CNIs"),
                "{}",
                apart.how
            );
            assert!(apart.how.len() < 400, "{}", apart.how);
        }
        Err(why) => assert!(why.len() < 480, "{why}"),
    }
    chosen
}

fn unprepared(spoil: impl FnOnce(&mut Survey)) -> Result<Apart, String> {
    choice(&APP, &APP, spoil)
}

fn prepared(spoil: impl FnOnce(&mut Survey)) -> Result<Apart, String> {
    choice(&TRACK, &APP, spoil)
}

#[test]
fn the_label_that_tells_most_is_chosen() {
    let app = ("app", "checkout");
    for (selector, own, chosen, how) in [
        // Prepared: a label beside the Deployment's own selector, `track` before any other.
        (
            vec![app, ("track", "stable")],
            vec![app],
            ("track", "canary"),
            "prepared",
        ),
        (
            vec![app, ("arm", "a"), ("track", "stable")],
            vec![app],
            ("track", "canary"),
            "prepared",
        ),
        (vec![app, ("arm", "a")], vec![app], ("arm", "canary"), "prepared"),
        // Unprepared: the most telling of those that all know, else the only one.
        (vec![app], vec![app], ("app", "checkout-canary"), "unprepared"),
        (
            vec![app, ("app.kubernetes.io/name", "shop")],
            vec![app, ("app.kubernetes.io/name", "shop")],
            ("app.kubernetes.io/name", "shop-canary"),
            "unprepared",
        ),
        (
            vec![
                ("app.kubernetes.io/instance", "one"),
                ("app.kubernetes.io/name", "shop"),
            ],
            vec![
                ("app.kubernetes.io/instance", "one"),
                ("app.kubernetes.io/name", "shop"),
            ],
            ("app.kubernetes.io/instance", "one-canary"),
            "unprepared",
        ),
        (
            vec![("component", "web")],
            vec![("component", "web")],
            ("component", "web-canary"),
            "unprepared",
        ),
        // A value that is the canary's already sets nothing apart.
        (
            vec![app, ("track", "canary")],
            vec![app],
            ("app", "checkout-canary"),
            "unprepared",
        ),
        // An empty value is one, and its canary's has to be one that a label may have.
        (vec![("app", "")], vec![("app", "")], ("app", "canary"), "unprepared"),
    ] {
        let apart = choice(&selector, &own, |_| {}).unwrap();
        assert_eq!(apart.labels, labels(&[chosen]), "{selector:?}");
        assert!(apart.how.starts_with(how), "{}", apart.how);
    }
}

#[test]
fn a_label_in_an_expression_of_the_deployments_selector_is_not_beside_it() {
    let apart = choice(&APP, &[], |survey| {
        survey.workload["spec"]["selector"] =
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["checkout"]}]});
    })
    .unwrap();
    assert_eq!(apart.labels, labels(&[("app", "checkout-canary")]));
    assert!(apart.how.starts_with("unprepared"), "{}", apart.how);
}

#[test]
fn what_cannot_be_chosen_is_said_with_the_prepared_way() {
    let several = [("component", "web"), ("team", "shop")];
    let why = choice(&several, &several, |_| {}).unwrap_err();
    assert!(
        why.contains("Service checkout selects by component, team") && why.contains("track: stable"),
        "{why}"
    );
    let longest = "c".repeat(63 - "-canary".len());
    assert!(choice(&[("app", &longest)], &[("app", &longest)], |_| {}).is_ok());
    let long = "c".repeat(64 - "-canary".len());
    let why = choice(&[("app", &long)], &[("app", &long)], |_| {}).unwrap_err();
    assert!(
        why.contains("too long") && why.contains("spec.traffic.canaryLabels"),
        "{why}"
    );
}

type Spoil = fn(&mut Survey);

fn template(survey: &mut Survey) -> &mut Value {
    &mut survey.workload["spec"]["template"]["spec"]
}

#[test]
fn the_users_own_labels_have_to_set_the_pods_apart() {
    let survey = survey(&APP, &APP);
    let stable = service("checkout", &APP);
    let apart = apart::choose(&survey, &stable, Some(&labels(&[("app", "preview"), ("x", "y")]))).unwrap();
    assert_eq!(apart.labels, labels(&[("app", "preview"), ("x", "y")]));
    assert!(
        apart.how.starts_with("by spec.traffic.canaryLabels (app=preview, x=y)"),
        "{}",
        apart.how
    );
    for useless in [labels(&[("x", "y")]), labels(&[("app", "checkout")])] {
        let why = apart::choose(&survey, &stable, Some(&useless)).unwrap_err();
        assert!(
            why.contains("would still select the canary's pods") && why.contains("spec.traffic.canaryLabels"),
            "{why}"
        );
    }
}

#[test]
fn the_users_own_labels_have_to_be_labels() {
    let survey = survey(&APP, &APP);
    let stable = service("checkout", &APP);
    for (key, value) in [
        ("app", "-next"),
        ("app", "next!"),
        ("app", &*"n".repeat(64)),
        ("stepgate.dev/run", "mine"),
        ("pod-template-hash", "mine"),
        ("team/", "mine"),
    ] {
        let mut wanted = labels(&[("app", "next")]);
        wanted.insert(key.to_owned(), value.to_owned());
        let why = apart::choose(&survey, &stable, Some(&wanted)).unwrap_err();
        assert!(
            why.starts_with(&format!(
                "spec.traffic.canaryLabels: {key}={value} is no label that a pod can be given"
            )),
            "{why}"
        );
    }
    let fine = labels(&[("app", ""), ("example.com/Next_1.0", "A-b_c.9")]);
    apart::choose(&survey, &stable, Some(&fine)).unwrap();
}
