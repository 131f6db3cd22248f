//! How canary pods are set apart, and what forbids it.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use stepgate_core::{
    apart::{self, Apart},
    input::{SelectorView, ServiceView, Survey},
};

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

fn survey(own: &[(&str, &str)], pods: &[(&str, &str)], spec: &Value) -> Survey {
    Survey {
        workload: json!({"spec": {
            "selector": {"matchLabels": labels(own)},
            "template": {"metadata": {"labels": labels(pods)}, "spec": spec},
        }}),
        services: Vec::new(),
        network_policies: Vec::new(),
        disruption_budgets: Vec::new(),
        sources: Vec::new(),
        providers: Vec::new(),
    }
}

/// The choice for an application whose Service selects by these.
fn choice(selector: &[(&str, &str)], own: &[(&str, &str)]) -> Result<Apart, String> {
    let chosen = apart::choose(&survey(own, selector, &json!({})), &service("checkout", selector), None);
    if let Ok(apart) = &chosen {
        let mut pods = labels(selector);
        pods.extend(apart.labels.clone());
        assert!(
            !apart::selects(&labels(selector), &pods),
            "the stable Service selects {pods:?}"
        );
    }
    chosen
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
    ] {
        let apart = choice(&selector, &own).unwrap();
        assert_eq!(apart.labels, labels(&[chosen]), "{selector:?}");
        assert!(apart.how.starts_with(how), "{}", apart.how);
    }
}

#[test]
fn what_cannot_be_chosen_is_said_with_the_prepared_way() {
    let several = [("component", "web"), ("team", "shop")];
    let why = choice(&several, &several).unwrap_err();
    assert!(
        why.contains("Service checkout selects by component, team") && why.contains("track: stable"),
        "{why}"
    );
    let long = "c".repeat(60);
    let why = choice(&[("app", &long)], &[("app", &long)]).unwrap_err();
    assert!(
        why.contains("too long") && why.contains("spec.traffic.canaryLabels"),
        "{why}"
    );
}

#[test]
fn another_user_of_the_label_forbids_the_unprepared_way_and_is_named() {
    type Add = fn(&mut Survey, SelectorView);
    let app = [("app", "checkout")];
    let policy = SelectorView {
        name: "deny".to_owned(),
        keys: vec!["app".to_owned()],
    };
    let cases: [(&str, Add); 4] = [
        ("NetworkPolicy deny", |survey, policy| {
            survey.network_policies.push(policy);
        }),
        ("Service admin", |survey, _| {
            survey.services.push(service("admin", &[("app", "checkout")]));
        }),
        ("affinity in the pod template", |survey, _| {
            survey.workload["spec"]["template"]["spec"]["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["checkout"]}]}}]}});
        }),
        ("topologySpreadConstraints in the pod template", |survey, _| {
            survey.workload["spec"]["template"]["spec"]["topologySpreadConstraints"] =
                json!([{"labelSelector": {"matchLabels": {"app": "checkout"}}}]);
        }),
    ];
    for (user, add) in cases {
        let mut survey = survey(&app, &app, &json!({}));
        add(&mut survey, policy.clone());
        let why = apart::choose(&survey, &service("checkout", &app), None).unwrap_err();
        assert!(
            why.starts_with(&format!("{user} selects by the label app")) && why.contains("track: stable"),
            "{why}"
        );
    }
}

#[test]
fn users_of_other_labels_or_of_other_pods_forbid_nothing() {
    let app = [("app", "checkout")];
    let mut survey = survey(&app, &app, &json!({"affinity": {"nodeAffinity": {"key": "zone"}}}));
    survey.network_policies.push(SelectorView {
        name: "zone".to_owned(),
        keys: vec!["zone".to_owned()],
    });
    survey.services.push(service("static", &[("app", "static")]));
    survey.services.push(ServiceView {
        canary_of: Some("uid".to_owned()),
        ..service("checkout-canary", &app)
    });
    survey.disruption_budgets.push(SelectorView {
        name: "budget".to_owned(),
        keys: vec!["app".to_owned()],
    });
    let apart = apart::choose(&survey, &service("checkout", &app), None).unwrap();
    assert!(
        apart
            .how
            .contains("PodDisruptionBudget budget does not see canary pods"),
        "{}",
        apart.how
    );
}

#[test]
fn the_users_own_labels_have_to_set_the_pods_apart() {
    let app = [("app", "checkout")];
    let survey = survey(&app, &app, &json!({}));
    let stable = service("checkout", &app);
    let apart = apart::choose(&survey, &stable, Some(&labels(&[("app", "preview"), ("x", "y")]))).unwrap();
    assert_eq!(apart.labels, labels(&[("app", "preview"), ("x", "y")]));
    for useless in [labels(&[("x", "y")]), labels(&[("app", "checkout")])] {
        let why = apart::choose(&survey, &stable, Some(&useless)).unwrap_err();
        assert!(
            why.contains("would still select the canary's pods") && why.contains("spec.traffic.canaryLabels"),
            "{why}"
        );
    }
}
