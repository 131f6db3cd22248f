//! The three ways to set a canary apart, and every kind of Service, each in a whole run with requests through the gateway.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use stepgate_crds::{RolloutStatus, names};
use stepgate_tests::cluster::Namespace;
use stepgate_tests::load::{Load, LoadOptions, Report};
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};

use super::scene::{BOUND, Scene, network_policy, service};

const CANARY: &str = "checkout-canary";

/// The names of the pods that these labels select.
async fn pods(namespace: &Namespace, selector: &str) -> Result<Vec<Pod>> {
    let pods = namespace.api::<Pod>();
    Ok(pods.list(&ListParams::default().labels(selector)).await?.items)
}

/// The names of the ready pods behind a Service, as its EndpointSlices have them.
async fn endpoints(namespace: &Namespace, service: &str) -> Result<Vec<String>> {
    let slices = namespace.api::<EndpointSlice>();
    let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={service}"));
    let slices = slices.list(&of_service).await?.items;
    let endpoints = slices.into_iter().flat_map(|slice| slice.endpoints);
    Ok(endpoints
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false))
        .filter_map(|endpoint| endpoint.target_ref?.name)
        .collect())
}

/// One hundred requests through the gateway.
async fn asked(namespace: &Namespace) -> Result<Report> {
    let options = LoadOptions {
        rate: 200.0,
        count: Some(100),
        ..shop::load(namespace)
    };
    Load::start(options)?.finished().await
}

/// Ships a version, and looks at 50 % whether canary pods carry these labels, are behind the canary's Service alone, and answer their
/// share of the requests; then leads it to its end.
async fn whole_run(namespace: &Namespace, labels: &BTreeMap<String, String>) -> Result<()> {
    shop::ship(namespace, "v2", "0%").await?;
    for weight in [10, 30] {
        shop::wait_for_weight(namespace, weight, BOUND).await?;
        let answer = shop::plugin(namespace, &["promote", NAME]).await?;
        ensure!(answer.code == Some(0), "promote at {weight} %: {answer:?}");
    }
    shop::wait_for_weight(namespace, 50, BOUND).await?;
    let canaries = pods(namespace, names::RUN).await?;
    ensure!(!canaries.is_empty(), "no canary pods");
    let mut ready = Vec::new();
    for pod in canaries {
        let carried = pod.metadata.labels.unwrap_or_default();
        for (key, value) in labels {
            ensure!(carried.get(key) == Some(value), "{key}={value} is not in {carried:?}");
        }
        ready.extend(pod.metadata.name);
    }
    let behind_canary = endpoints(namespace, CANARY).await?;
    let behind_stable = endpoints(namespace, NAME).await?;
    ensure!(
        !behind_canary.is_empty() && behind_canary.iter().all(|pod| ready.contains(pod)),
        "canary pods {ready:?}, behind the canary's Service {behind_canary:?}"
    );
    ensure!(
        !behind_stable.is_empty() && !behind_stable.iter().any(|pod| ready.contains(pod)),
        "canary pods {ready:?}, behind the stable Service {behind_stable:?}"
    );
    // The gateway's proxy takes a weight in some milliseconds after it was accepted.
    until("both versions to answer half of the requests", BOUND, async || {
        let report = asked(namespace).await?;
        let (v1, v2) = (report.version("v1").total, report.version("v2").total);
        let fair = (25..=75).contains(&v1) && (25..=75).contains(&v2) && report.other_failures() == 0;
        Ok(if fair {
            Seen::Done(())
        } else {
            Seen::NotYet(report.to_string())
        })
    })
    .await?;
    for weight in [50, 100] {
        shop::wait_for_weight(namespace, weight, BOUND).await?;
        let answer = shop::plugin(namespace, &["promote", NAME]).await?;
        ensure!(answer.code == Some(0), "promote at {weight} %: {answer:?}");
    }
    shop::wait_for(namespace, "the run's end", BOUND, |status| status.run.is_none()).await?;
    let report = asked(namespace).await?;
    ensure!(report.version("v2").total == 100, "{report}");
    let left = namespace.api::<Service>().get_opt(CANARY).await?;
    ensure!(left.is_none(), "the canary's Service is still there");
    until("the canary's pods to end", BOUND, async || {
        let left = pods(namespace, names::RUN).await?;
        Ok(if left.is_empty() {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{} pods", left.len()))
        })
    })
    .await?;
    Ok(())
}

/// What was found for a shop that is opened with these manifests.
async fn found(scene: &Scene, manifests: &[String]) -> Result<(String, BTreeMap<String, String>)> {
    scene.apply(manifests).await?;
    scene.healthy().await?;
    let status: RolloutStatus = shop::status(&scene.namespace).await?;
    let found = status.found.context("what was found")?;
    ensure!(
        found
            .apart
            .contains("not looked at: policies of gateways, meshes and CNIs"),
        "{}",
        found.apart
    );
    Ok((found.apart, found.canary_labels))
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn two_pods() -> Shop {
    Shop {
        replicas: 2,
        ..Shop::default()
    }
}

fn budget(selector: &str) -> String {
    format!(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: budget}}\nspec: {{minAvailable: 1, selector: {{matchLabels: {{{selector}}}}}}}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn unprepared_by_the_label_that_all_select_by_and_the_budget_is_noted() -> Result<()> {
    let scene = Scene::begin().await?;
    let mut manifests = scene.shop(&two_pods()).to_vec();
    manifests.insert(0, budget("app: checkout"));
    let (apart, chosen) = found(&scene, &manifests).await?;
    ensure!(chosen == labels(&[("app", CANARY)]), "{chosen:?}");
    ensure!(
        apart.starts_with(
            "unprepared: canary pods carry app=checkout-canary; PodDisruptionBudget budget does not see canary pods"
        ),
        "{apart}"
    );
    whole_run(&scene.namespace, &chosen).await
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_by_a_label_of_any_name_and_all_else_goes_on_seeing_both() -> Result<()> {
    let scene = Scene::begin().await?;
    let prepared = Shop {
        prepared: true,
        ..two_pods()
    };
    let [application, route, rollout] = scene.shop(&prepared);
    // Everything that selects by `app` alone sees both versions.
    let manifests = [
        budget("app: checkout"),
        network_policy(),
        service("checkout-admin", "app: checkout"),
        application.replace("track: stable", "arm: one"),
        route,
        rollout,
    ];
    let (apart, chosen) = found(&scene, &manifests).await?;
    ensure!(chosen == labels(&[("arm", "canary")]), "{chosen:?}");
    ensure!(
        apart.starts_with("prepared: arm=canary beside the Deployment's own selector; not looked at"),
        "{apart}"
    );
    whole_run(&scene.namespace, &chosen).await
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_labels_that_the_user_says_and_what_they_lose_is_noted() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&two_pods());
    let manifests = [
        network_policy(),
        application,
        route,
        rollout.replace(
            "traffic: {",
            "traffic: {canaryLabels: {app: checkout-next, tier: preview}, ",
        ),
    ];
    let (apart, chosen) = found(&scene, &manifests).await?;
    ensure!(
        chosen == labels(&[("app", "checkout-next"), ("tier", "preview")]),
        "{chosen:?}"
    );
    ensure!(
        apart.starts_with(
            "by spec.traffic.canaryLabels (app=checkout-next, tier=preview); NetworkPolicy open does not see canary pods"
        ),
        "{apart}"
    );
    whole_run(&scene.namespace, &chosen).await
}

/// The canary's Service, once there is one.
async fn canary_service(namespace: &Namespace) -> Result<Service> {
    let services = namespace.api::<Service>();
    until("the canary's Service", BOUND, async || {
        Ok(match services.get_opt(CANARY).await? {
            Some(service) => Seen::Done(service),
            None => Seen::NotYet("none".to_owned()),
        })
    })
    .await
}

/// A shop whose Service has this spec beside its selector.
async fn with_service(spec: &str) -> Result<(Scene, Service)> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&two_pods());
    let (deployment, _) = application.split_once("---").context("two objects")?;
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: checkout}}\nspec: {{selector: {{app: checkout}}, {spec}}}\n"
    );
    scene.apply(&[deployment.to_owned(), service, route, rollout]).await?;
    scene.healthy().await?;
    let stable = scene.namespace.api::<Service>().get(NAME).await?;
    Ok((scene, stable))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_with_named_ports_protocols_and_wishes_for_its_traffic() -> Result<()> {
    let (scene, stable) = with_service(
        "type: NodePort, trafficDistribution: PreferSameZone, internalTrafficPolicy: Cluster, sessionAffinity: ClientIP, \
         ports: [{name: web, port: 80, targetPort: http, appProtocol: http}, {name: metrics, port: 9090, targetPort: 8080, appProtocol: example.com/metrics}]",
    )
    .await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    let canary = canary_service(&scene.namespace).await?;
    let (stable, canary) = (stable.spec.context("spec")?, canary.spec.context("spec")?);
    let ports = |ports: Option<Vec<ServicePort>>| -> Vec<_> {
        let without_node_ports = ports.into_iter().flatten().map(|port| ServicePort {
            node_port: None,
            ..port
        });
        without_node_ports.collect()
    };
    ensure!(ports(stable.ports.clone()) == ports(canary.ports.clone()), "{canary:?}");
    ensure!(
        canary.ports.iter().flatten().all(|port| port.node_port.is_none()),
        "{canary:?}"
    );
    ensure!(canary.type_.as_deref() == Some("ClusterIP"), "{canary:?}");
    ensure!(canary.traffic_distribution == stable.traffic_distribution, "{canary:?}");
    ensure!(canary.session_affinity == stable.session_affinity, "{canary:?}");
    whole_run(&scene.namespace, &labels(&[("app", CANARY)])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_headless_service_that_publishes_addresses_early() -> Result<()> {
    let (scene, _) = with_service(
        "clusterIP: None, publishNotReadyAddresses: true, ports: [{name: http, port: 80, targetPort: http}]",
    )
    .await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    let canary = canary_service(&scene.namespace).await?.spec.context("spec")?;
    ensure!(canary.cluster_ip.as_deref() == Some("None"), "{canary:?}");
    // Its pods get their share when they are ready, not before.
    ensure!(canary.publish_not_ready_addresses != Some(true), "{canary:?}");
    whole_run(&scene.namespace, &labels(&[("app", CANARY)])).await
}
