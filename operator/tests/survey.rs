//! The lists of preflight against an API server of the test's own making: what is asked for, and what becomes of each answer.

#![expect(clippy::unwrap_used, reason = "tests and what they start from")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use stepgate::execute::{Class, Requests};
use stepgate::observe::{Observer, SourceView};
use stepgate::provider::Providers;
use stepgate::source::sampler::{Sampler, SamplerOptions};
use stepgate::telemetry::Metrics;
use stepgate::world::World;
use stepgate_core::input::{OwnedView, ServicePolicyView, VolumeClaimView};
use stepgate_crds::Rollout;
use tokio::sync::mpsc;

const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/checkout";
const CANARY: &str = "/apis/apps/v1/namespaces/shop/deployments/checkout-canary";
const SERVICES: &str = "/api/v1/namespaces/shop/services";
const POLICIES: &str = "/apis/networking.k8s.io/v1/namespaces/shop/networkpolicies";
const BUDGETS: &str = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets";
const TLS: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/backendtlspolicies";
const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data";

/// Answers by path; 404 where there is none.
type Answers = BTreeMap<&'static str, (u16, Value)>;

fn status(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}

fn list(items: &[Value]) -> (u16, Value) {
    (
        200,
        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}),
    )
}

/// A namespace in which nothing stands in the way.
fn answers() -> Answers {
    let template = json!({"metadata": {"labels": {"app": "checkout"}}, "spec": {"containers": []}});
    Answers::from([
        (
            DEPLOYMENT,
            (
                200,
                json!({"metadata": {"name": "checkout", "namespace": "shop"}, "spec": {"template": template}}),
            ),
        ),
        (
            SERVICES,
            list(&[json!({"metadata": {"name": "checkout"}, "spec": {"selector": {"app": "checkout"}}})]),
        ),
        (POLICIES, list(&[])),
        (BUDGETS, list(&[])),
        (TLS, list(&[])),
    ])
}

/// A client of a server that gives these answers, and the paths that it was asked for.
fn client(answers: Answers) -> (Client, Arc<Mutex<BTreeSet<String>>>) {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some((request, send)) = handle.next_request().await {
            assert_eq!(request.method(), "GET");
            let path = request.uri().path();
            let (code, body) = answers.get(path).cloned().unwrap_or_else(|| status(404, "NotFound"));
            assert!(seen.lock().unwrap().insert(path.to_owned()), "asked for {path} twice");
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            send.send_response(Response::builder().status(code).body(body).unwrap());
        }
    });
    (Client::new(service, "default"), asked)
}

fn rollout(name: &str, status: &Value) -> Rollout {
    serde_json::from_value(json!({
        "apiVersion": "stepgate.dev/v1alpha1", "kind": "Rollout",
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"workload": {"name": name}, "traffic": {"routes": [{"name": "web"}]}},
        "status": status,
    }))
    .unwrap()
}

fn observer(client: Client) -> Observer {
    let metrics = Metrics::new();
    let (notify, _) = mpsc::unbounded_channel();
    Observer {
        world: Arc::new(World::default()),
        requests: Requests::new(client, metrics.clone(), "test".to_owned(), || true),
        sampler: Sampler::new([], SamplerOptions::default(), metrics, notify),
        providers: Providers::built_in().unwrap(),
        sources: vec![SourceView {
            name: "default".to_owned(),
            scrape: None,
            tenant_label: Some("namespace".to_owned()),
        }],
    }
}

#[tokio::test]
async fn one_request_for_each_list_and_none_for_claims_that_nobody_mounts() {
    let (client, asked) = client(answers());
    let survey = observer(client)
        .survey(&rollout("checkout", &json!({})))
        .await
        .unwrap()
        .unwrap();
    let wanted = [DEPLOYMENT, CANARY, SERVICES, POLICIES, BUDGETS, TLS];
    assert_eq!(
        *asked.lock().unwrap(),
        wanted.into_iter().map(str::to_owned).collect::<BTreeSet<_>>()
    );
    assert_eq!(survey.services[0].name, "checkout");
    assert_eq!(survey.canary_workload, None);
    assert_eq!(survey.service_policies, Some(Vec::new()));
    assert!(survey.volume_claims.is_empty() && survey.rollouts.is_empty());
}

#[tokio::test]
async fn a_kind_that_is_not_served_is_told_from_a_list_that_is_empty() {
    let mut answers = answers();
    answers.remove(TLS);
    let (client, _) = client(answers);
    let survey = observer(client)
        .survey(&rollout("checkout", &json!({})))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(survey.service_policies, None);
}

#[tokio::test]
async fn a_list_that_is_forbidden_is_no_empty_one() {
    for path in [SERVICES, POLICIES, BUDGETS, TLS] {
        let mut answers = answers();
        answers.insert(path, status(403, "Forbidden"));
        let (client, _) = client(answers);
        let error = observer(client)
            .survey(&rollout("checkout", &json!({})))
            .await
            .unwrap_err();
        assert_eq!(error.class(), Class::Forbidden, "{path}: {error}");
    }
}

#[tokio::test]
async fn claims_policies_and_a_deployment_of_the_canarys_name_as_they_are() {
    let mut answers = answers();
    let volumes = json!([{"name": "a", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "gone"}}]);
    answers.get_mut(DEPLOYMENT).unwrap().1["spec"]["template"]["spec"]["volumes"] = volumes;
    answers.insert(
        CLAIM,
        (
            200,
            json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]},
                "status": {"accessModes": ["ReadWriteMany", "ReadWriteOnce"]}}),
        ),
    );
    answers.insert(
        CANARY,
        (
            200,
            json!({"metadata": {"name": "checkout-canary", "uid": "uid-9", "labels": {"mine": "yes"}}, "spec": {}}),
        ),
    );
    answers.insert(
        TLS,
        list(&[json!({"metadata": {"name": "tls"}, "spec": {"targetRefs": [
            {"group": "", "kind": "Service", "name": "checkout"}, {"group": "example.com", "kind": "Backend", "name": "elsewhere"}]}})]),
    );
    let (client, _) = client(answers);
    let survey = observer(client)
        .survey(&rollout("checkout", &json!({})))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        survey.volume_claims,
        [VolumeClaimView {
            name: "data".to_owned(),
            access_modes: vec!["ReadWriteMany".to_owned(), "ReadWriteOnce".to_owned()],
        }]
    );
    assert_eq!(
        survey.canary_workload,
        Some(OwnedView {
            name: "checkout-canary".to_owned(),
            uid: "uid-9".to_owned(),
            canary_of: None,
            run: None,
        })
    );
    assert_eq!(
        survey.service_policies,
        Some(vec![ServicePolicyView {
            kind: "BackendTLSPolicy",
            name: "tls".to_owned(),
            services: vec!["checkout".to_owned()],
        }])
    );
}

#[tokio::test]
async fn other_rollouts_of_the_namespace_come_from_the_mirror() {
    let found = json!({"found": {"generation": 1, "stableService": "basket", "canaryService": "basket-canary", "canaryLabels": {},
        "apart": "", "provider": "pods", "port": 80, "parents": []}, "revisions": 1});
    let (client, _) = client(answers());
    let observer = observer(client);
    let own = rollout("checkout", &found);
    let mut elsewhere = rollout("elsewhere", &found);
    elsewhere.metadata.namespace = Some("another".to_owned());
    for rollout in [
        &own,
        &rollout("basket", &found),
        &rollout("blocked", &json!({})),
        &elsewhere,
    ] {
        observer.world.rollouts.observe(&Event::Apply(rollout.clone()));
    }
    let survey = observer.survey(&own).await.unwrap().unwrap();
    let claims: Vec<&str> = survey.rollouts.iter().map(|claim| claim.name.as_str()).collect();
    assert_eq!(claims, ["basket"]);
    assert_eq!(survey.rollouts[0].stable_service, "basket");
    assert!(!survey.rollouts[0].in_run);
}

#[tokio::test]
async fn without_the_deployment_nothing_else_is_asked_for() {
    let (client, asked) = client(Answers::new());
    let survey = observer(client).survey(&rollout("checkout", &json!({}))).await.unwrap();
    assert!(survey.is_none());
    assert_eq!(asked.lock().unwrap().iter().collect::<Vec<_>>(), [DEPLOYMENT]);
}
