//! What the operator's account may do: each right that it uses, and none of those that would be dear to lose.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{ObjectMeta, PostParams};

use super::*;

const POLICIES: &str = "admissionregistration.k8s.io";

/// Verb, group, resource with its subresource or (behind a colon) a name, namespace (`*`: any), and whether the operator may.
const RIGHTS: [(&str, &str, &str, &str, bool); 58] = [
    ("patch", "stepgate.dev", "rollouts", "*", true),
    ("watch", "stepgate.dev", "rollouts", "*", true),
    ("update", "stepgate.dev", "rollouts/status", "*", true),
    ("create", "stepgate.dev", "rollouts", "*", false),
    ("update", "stepgate.dev", "rollouts", "*", false),
    ("delete", "stepgate.dev", "rollouts", "*", false),
    ("get", "apps", "deployments", "*", true),
    ("create", "apps", "deployments", "*", true),
    ("patch", "apps", "deployments", "*", true),
    ("delete", "apps", "deployments", "*", true),
    ("update", "apps", "deployments", "*", false),
    ("deletecollection", "apps", "deployments", "*", false),
    ("patch", "apps", "deployments/scale", "*", false),
    ("list", "apps", "replicasets", "*", true),
    ("delete", "apps", "replicasets", "*", true),
    ("deletecollection", "apps", "replicasets", "*", false),
    ("patch", "apps", "replicasets", "*", false),
    ("list", "apps", "statefulsets", "*", false),
    ("create", "", "services", "*", true),
    ("delete", "", "services", "*", true),
    ("patch", "", "services", "*", false),
    ("create", "", "podtemplates", "*", true),
    ("get", "", "podtemplates", "*", true),
    ("list", "", "podtemplates", "*", true),
    ("get", "", "persistentvolumeclaims", "*", true),
    ("list", "", "persistentvolumeclaims", "*", false),
    ("patch", "", "podtemplates", "*", false),
    ("list", "", "pods", "*", true),
    ("create", "", "pods", "*", false),
    ("delete", "", "pods", "*", false),
    ("create", "", "pods/exec", "*", false),
    ("get", "", "secrets", "*", false),
    ("list", "", "secrets", SYSTEM, false),
    ("get", "", "configmaps", "*", false),
    ("get", "", "nodes", "", false),
    ("list", "", "namespaces", "", false),
    ("create", "", "serviceaccounts/token", SYSTEM, false),
    ("patch", "gateway.networking.k8s.io", "httproutes", "*", true),
    ("update", "gateway.networking.k8s.io", "httproutes", "*", false),
    ("delete", "gateway.networking.k8s.io", "httproutes", "*", false),
    ("patch", "gateway.networking.k8s.io", "httproutes/status", "*", false),
    ("get", "gateway.networking.k8s.io", "gateways", "*", false),
    ("list", "gateway.networking.k8s.io", "backendtlspolicies", "*", true),
    ("list", "networking.k8s.io", "networkpolicies", "*", true),
    ("list", "policy", "poddisruptionbudgets", "*", true),
    ("create", "events.k8s.io", "events", "*", true),
    ("list", "events.k8s.io", "events", "*", false),
    ("update", "coordination.k8s.io", "leases", SYSTEM, true),
    ("update", "coordination.k8s.io", "leases", "default", false),
    ("delete", "coordination.k8s.io", "leases", SYSTEM, false),
    ("get", POLICIES, "mutatingadmissionpolicies:stepgate-hold", "", true),
    (
        "get",
        POLICIES,
        "mutatingadmissionpolicybindings:stepgate-hold",
        "",
        true,
    ),
    ("get", POLICIES, "mutatingadmissionpolicies:another", "", false),
    ("list", POLICIES, "mutatingadmissionpolicies", "", false),
    ("patch", POLICIES, "mutatingadmissionpolicies:stepgate-hold", "", false),
    (
        "delete",
        POLICIES,
        "mutatingadmissionpolicybindings:stepgate-hold",
        "",
        false,
    ),
    ("patch", "rbac.authorization.k8s.io", "clusterroles", "", false),
    ("patch", "apiextensions.k8s.io", "customresourcedefinitions", "", false),
];

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_may_do_what_it_does_and_nothing_more() -> Result<()> {
    let (cluster, namespace) = world().await?;
    let reviews: Api<SubjectAccessReview> = Api::all(cluster.client());
    let mut wrong = Vec::new();
    for (verb, group, resource, place, may) in RIGHTS {
        let (resource, name) = resource.split_once(':').unwrap_or((resource, ""));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let place = if place == "*" { namespace.name() } else { place };
        let review = SubjectAccessReview {
            metadata: ObjectMeta::default(),
            spec: SubjectAccessReviewSpec {
                user: Some(account()),
                groups: Some(vec![
                    "system:serviceaccounts".to_owned(),
                    format!("system:serviceaccounts:{SYSTEM}"),
                    "system:authenticated".to_owned(),
                ]),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    group: Some(group.to_owned()),
                    resource: Some(resource.to_owned()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(name.to_owned()),
                    namespace: Some(place.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            status: None,
        };
        let answer = reviews.create(&PostParams::default(), &review).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        if allowed != may {
            wrong.push(format!(
                "{verb} {resource}/{subresource} {name} in `{place}`: {allowed}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
