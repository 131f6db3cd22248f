//! What else selects by the label that sets canary pods apart: NetworkPolicies, Services, the template's own terms, budgets.

use serde_json::json;
use stepgate_core::{apart, input::ServiceView};

use super::{APP, Spoil, TRACK, budget, choice, labels, policy, prepared, service, survey, template, unprepared};

/// What selects by the label `app`, and by what it is named.
fn users_of_the_label() -> Vec<(&'static str, Spoil)> {
    vec![
        ("NetworkPolicy for-them", |survey| {
            let spec = json!({"podSelector": {"matchLabels": {"app": "checkout"}}, "ingress": [{}]});
            survey.network_policies.push(policy("for-them", &spec));
        }),
        ("NetworkPolicy for-some", |survey| {
            let spec = json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["checkout", "cart"]}]}});
            survey.network_policies.push(policy("for-some", &spec));
        }),
        ("NetworkPolicy for-the-rest", |survey| {
            let spec = json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["checkout"]}]}});
            survey.network_policies.push(policy("for-the-rest", &spec));
        }),
        ("NetworkPolicy from-them", |survey| {
            let spec = json!({"podSelector": {"matchLabels": {"app": "database"}},
                "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}, {"podSelector": {"matchLabels": {"app": "checkout"}}}]}]});
            survey.network_policies.push(policy("from-them", &spec));
        }),
        ("NetworkPolicy to-them", |survey| {
            let spec = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": [
                {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "checkout"}}}]}]});
            survey.network_policies.push(policy("to-them", &spec));
        }),
        ("Service admin", |survey| {
            survey.services.push(service("admin", &[("app", "checkout")]));
        }),
        ("Service preview", |survey| {
            survey.services.push(service("preview", &[("app", "checkout-canary")]));
        }),
        ("affinity in the pod template", |survey| {
            template(survey)["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["checkout"]}]}}]}});
        }),
        ("affinity in the pod template", |survey| {
            template(survey)["affinity"] = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 1, "podAffinityTerm": {"labelSelector": {"matchLabels": {"app": "checkout"}}}}]}});
        }),
        ("topologySpreadConstraints in the pod template", |survey| {
            template(survey)["topologySpreadConstraints"] =
                json!([{"labelSelector": {"matchLabels": {"app": "checkout"}}}]);
        }),
        ("topologySpreadConstraints in the pod template", |survey| {
            template(survey)["topologySpreadConstraints"] = json!([{"labelSelector": {}, "matchLabelKeys": ["app"]}]);
        }),
    ]
}

#[test]
fn another_user_of_the_label_forbids_the_unprepared_way_and_is_named() {
    for (user, spoil) in users_of_the_label() {
        let why = unprepared(spoil).expect_err(user);
        assert!(
            why.starts_with(&format!("{user} selects by the label app")) && why.contains("track: stable"),
            "{why}"
        );
    }
}

#[test]
fn all_of_them_go_on_seeing_both_versions_in_the_prepared_way() {
    for (user, spoil) in users_of_the_label() {
        let apart = prepared(spoil).expect(user);
        assert_eq!(apart.labels, labels(&[("track", "canary")]));
        assert!(!apart.how.contains(user), "{}", apart.how);
    }
}

#[test]
fn users_of_other_labels_or_of_other_pods_forbid_nothing() {
    let harmless: Spoil = |survey| {
        for (name, spec) in [
            ("zone", json!({"podSelector": {"matchLabels": {"zone": "a"}}})),
            // It selects by the label, and neither version.
            ("other", json!({"podSelector": {"matchLabels": {"app": "database"}}})),
            ("all", json!({"podSelector": {}, "ingress": [{}]})),
            // It sees both.
            (
                "labelled",
                json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}),
            ),
            (
                "none",
                json!({"podSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}),
            ),
            // A namespace's label is no pod's.
            (
                "namespaces",
                json!({"podSelector": {}, "ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"app": "checkout"}}}]}]}),
            ),
            // What nobody can read selects nothing.
            (
                "strange",
                json!({"podSelector": 5, "ingress": {}, "egress": [{"to": 1}]}),
            ),
        ] {
            survey.network_policies.push(policy(name, &spec));
        }
        survey.services.push(service("static", &[("app", "static")]));
        survey.services.push(service("external", &[]));
        survey.services.push(ServiceView {
            canary_of: Some("uid".to_owned()),
            ..service("checkout-canary", &[("app", "checkout-canary")])
        });
        // A node's label is no pod's, other pods are not these, and no selector selects nobody.
        *template(survey) = json!({
            "affinity": {
                "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "app", "operator": "In", "values": ["checkout"]}]}]}},
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": {"app": "cache"}}}, {"topologyKey": "zone"}]},
            },
            "topologySpreadConstraints": [{"labelSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
                "matchLabelKeys": ["pod-template-hash"]}],
        });
    };
    let apart = unprepared(harmless).unwrap();
    assert!(
        apart
            .how
            .starts_with("unprepared: canary pods carry app=checkout-canary; not looked at"),
        "{}",
        apart.how
    );
}

#[test]
fn a_disruption_budget_that_loses_sight_of_the_canary_is_noted() {
    for (spec, note) in [
        (
            json!({"selector": {"matchLabels": {"app": "checkout"}}}),
            Some("PodDisruptionBudget budget does not see canary pods"),
        ),
        (
            json!({"selector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["checkout"]}]}}),
            Some("PodDisruptionBudget budget sees only canary pods"),
        ),
        (json!({"selector": {}}), None),
        (json!({}), None),
        (json!({"selector": {"matchLabels": {"app": "database"}}}), None),
    ] {
        let apart = unprepared(|survey| survey.disruption_budgets.push(budget("budget", &spec))).unwrap();
        match note {
            Some(note) => assert!(apart.how.contains(note), "{spec}: {}", apart.how),
            None => assert!(!apart.how.contains("Budget"), "{spec}: {}", apart.how),
        }
    }
}

#[test]
fn the_prepared_label_may_have_no_other_user_either() {
    // One by which the Deployment does not select is not yet a label for this alone.
    let policy_by = |key: &str| policy("open", &json!({"podSelector": {"matchLabels": {key: "stable"}}}));
    let why = prepared(|survey| survey.network_policies.push(policy_by("track"))).unwrap_err();
    for words in [
        "NetworkPolicy open selects by the label track",
        "let it select by another label",
        "track: stable",
        "spec.traffic.canaryLabels",
    ] {
        assert!(why.contains(words), "{why}");
    }
    let why = prepared(|survey| {
        template(survey)["topologySpreadConstraints"] =
            json!([{"labelSelector": {"matchLabels": {"track": "stable"}}}]);
    })
    .unwrap_err();
    assert!(
        why.starts_with("topologySpreadConstraints in the pod template selects by the label track"),
        "{why}"
    );
    // Where there is a second such label, that one is taken.
    let two = [("app", "checkout"), ("arm", "stable"), ("track", "stable")];
    let apart = choice(&two, &APP, |survey| survey.network_policies.push(policy_by("track"))).unwrap();
    assert_eq!(apart.labels, labels(&[("arm", "canary")]));
    let apart = choice(&two, &APP, |survey| survey.network_policies.push(policy_by("arm"))).unwrap();
    assert_eq!(apart.labels, labels(&[("track", "canary")]));
    // A Service that was prepared as well goes on with stable alone, and that is said.
    let apart = prepared(|survey| survey.services.push(service("admin", &TRACK))).unwrap();
    assert!(
        apart.how.starts_with(
            "prepared: track=canary beside the Deployment's own selector; Service admin does not see canary pods"
        ),
        "{}",
        apart.how
    );
}

#[test]
fn the_users_own_labels_are_the_last_word_and_what_follows_from_them_is_noted() {
    for (user, spoil) in users_of_the_label() {
        let mut survey = survey(&APP, &APP);
        spoil(&mut survey);
        survey.disruption_budgets.push(budget(
            "budget",
            &json!({"selector": {"matchLabels": {"app": "checkout"}}}),
        ));
        let wanted = labels(&[("app", "checkout-canary")]);
        let apart = apart::choose(&survey, &service("checkout", &APP), Some(&wanted)).unwrap();
        for noted in [user, "PodDisruptionBudget budget"] {
            assert!(
                apart.how.contains(&format!("; {noted} does not see canary pods"))
                    || apart.how.contains(&format!("; {noted} sees only canary pods")),
                "{}",
                apart.how
            );
        }
    }
}
