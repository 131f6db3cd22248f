//! What two versions at a time cannot share, and what is said by the stable Service's name alone.

use serde_json::{Value, json};
use stepgate_core::input::{ServicePolicyView, VolumeClaimView};

use super::{fits, refuses, survey, template};
use crate::fixtures::observed::Observed;

/// The pod template mounts a claim with these access modes; one that is not there where there is none.
fn mounts(modes: &'static [&'static str]) -> impl Fn(&mut Observed) {
    move |seen| {
        template(seen)["volumes"] =
            json!([{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "data"}}]);
        if !modes.is_empty() {
            survey(seen).volume_claims.push(VolumeClaimView {
                name: "data".to_owned(),
                access_modes: modes.iter().map(|mode| (*mode).to_owned()).collect(),
            });
        }
    }
}

#[test]
fn a_volume_that_only_one_version_can_mount() {
    for (modes, named) in [
        (&["ReadWriteOnce"][..], "(ReadWriteOnce)"),
        (&["ReadWriteOncePod"], "(ReadWriteOncePod)"),
    ] {
        refuses(
            "a volume",
            mounts(modes),
            &[
                "Deployment checkout mounts the PersistentVolumeClaim data",
                named,
                "ReadWriteMany or ReadOnlyMany",
            ],
        );
    }
    refuses(
        "a claim that is not there",
        mounts(&[]),
        &[
            "Deployment checkout mounts the PersistentVolumeClaim shop/data, which does not exist",
            "create it",
        ],
    );
}

#[test]
fn a_volume_that_both_versions_can_mount() {
    for modes in [
        &["ReadWriteMany"][..],
        &["ReadOnlyMany"],
        &["ReadOnlyMany", "ReadWriteOnce"],
    ] {
        fits("a shared volume", mounts(modes));
    }
    fits("a claim of each pod's own", |seen| {
        template(seen)["volumes"] =
            json!([{"name": "a", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}}]);
    });
}

#[test]
fn ports_of_the_host() {
    let host_port = json!([{"name": "side", "ports": [{"containerPort": 9000, "hostPort": 9000}]}]);
    refuses(
        "a container",
        |seen| template(seen)["containers"][0]["ports"][0]["hostPort"] = json!(8080),
        &["Deployment checkout binds the host port 8080", "take hostPort out"],
    );
    refuses(
        "a sidecar",
        |seen| template(seen)["initContainers"] = host_port,
        &["Deployment checkout binds the host port 9000"],
    );
    refuses(
        "the host's network",
        |seen| template(seen)["hostNetwork"] = json!(true),
        &[
            "Deployment checkout runs in its hosts' network (hostNetwork)",
            "take hostNetwork out",
        ],
    );
    fits("none", |seen| {
        template(seen)["hostNetwork"] = json!(false);
        template(seen)["containers"][0]["ports"][0]["hostPort"] = json!(0);
        template(seen)["initContainers"] = Value::Null;
    });
}

#[test]
fn policies_that_name_the_stable_service_alone() {
    let policy = |name: &str, services: &[&str]| ServicePolicyView {
        kind: "BackendTLSPolicy",
        name: name.to_owned(),
        services: services.iter().map(|name| (*name).to_owned()).collect(),
    };
    refuses(
        "one",
        |seen| survey(seen).service_policies = Some(vec![policy("static", &["static"]), policy("tls", &["checkout"])]),
        &[
            "BackendTLSPolicy tls names Service checkout and not Service checkout-canary",
            "add Service checkout-canary to its targetRefs",
        ],
    );
    for (case, policies) in [
        ("none", vec![]),
        ("of another Service", vec![policy("static", &["static"])]),
        ("of both", vec![policy("tls", &["checkout", "checkout-canary"])]),
        (
            "one of each",
            vec![policy("tls", &["checkout"]), policy("tls-canary", &["checkout-canary"])],
        ),
    ] {
        let found = fits(case, |seen| survey(seen).service_policies = Some(policies));
        assert!(!found.apart.contains("BackendTLSPolic"), "{}", found.apart);
    }
    let found = fits("not served", |seen| survey(seen).service_policies = None);
    assert!(
        found.apart.ends_with(", BackendTLSPolicies (v1 is not served)"),
        "{}",
        found.apart
    );
}
