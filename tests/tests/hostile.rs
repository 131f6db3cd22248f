//! A healthy rollout among objects as bad as the API server takes them: it goes through, they are told and left alone, and the operator
//! stays small.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::{DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use stepgate::kinds::rollout::Watched;
use stepgate_crds::status::{Outcome, Phase};
use stepgate_crds::{Verb, names};
use stepgate_tests::cluster::{Cluster, Namespace};
use stepgate_tests::operator::{OperatorOptions, install_chart};
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME};
use stepgate_tests::states;
use stepgate_tests::until::{Seen, until};

/// Most memory that the operator may have had at any time, in KiB. It has 48 MiB with all of this.
const MOST_MEMORY: u64 = 128 * 1024;
/// As much text as one object's annotations may have.
const ANNOTATION: usize = 250_000;
/// What a Rollout becomes whose status a later version wrote.
const LATER: &str = "Levitating";
/// One that can be read until it cannot.
const TURNCOAT: &str = "turncoat";

fn api(namespace: &Namespace, api_version: &str, kind: &str) -> Api<DynamicObject> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(namespace.cluster().client(), namespace.name(), &resource)
}

fn rollouts(namespace: &Namespace) -> Api<DynamicObject> {
    api(namespace, "stepgate.dev/v1alpha1", "Rollout")
}

async fn create(namespace: &Namespace, api_version: &str, kind: &str, mut object: Value) -> Result<()> {
    let fields = object.as_object_mut().context("an object")?;
    fields.insert("apiVersion".to_owned(), json!(api_version));
    fields.insert("kind".to_owned(), json!(kind));
    let object: DynamicObject = serde_json::from_value(object)?;
    let made = api(namespace, api_version, kind)
        .create(&PostParams::default(), &object)
        .await;
    made.with_context(|| format!("creating {kind} {}", object.name_any()))?;
    Ok(())
}

/// A Rollout of a Deployment that is not there.
fn rollout(name: &str) -> Value {
    json!({"apiVersion": "stepgate.dev/v1alpha1", "kind": "Rollout", "metadata": {"name": name},
        "spec": {"workload": {"name": name}, "traffic": {"routes": [{"name": name}]}}})
}

/// Lets the API server take a phase that this version does not know, as a later version's CRD does.
async fn widen(cluster: &Cluster) -> Result<()> {
    let phases = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/phase/enum/-";
    let patch = json!([{"op": "add", "path": phases, "value": LATER}]).to_string();
    let crd = "crd/rollouts.stepgate.dev";
    cluster.kubectl(&["patch", crd, "--type=json", "-p", &patch]).await?;
    Ok(())
}

/// Statuses that nobody should write.
fn statuses() -> Vec<(&'static str, Value)> {
    let run = |change: Value| {
        let mut run = json!({
            "id": "x-1", "seq": 1, "term": 1, "started": "2027-01-15T08:00:00Z", "revision": "x", "base": 1, "step": 0, "weight": 0,
            "acceptedWeight": 0, "state": {"stepping": {"since": "2027-01-15T08:00:00Z"}}, "refreshed": "2027-01-15T08:00:00Z",
            "spec": {"routes": [{"kind": "HTTPRoute", "name": "x"}], "steps": [{"weight": 100, "bake": "1s"}], "settle": "1s", "drain": "1s",
                "interval": "5s", "source": "default", "maxErrorRate": "1%", "phi": 2.0},
        });
        if let (Some(run), Value::Object(change)) = (run.as_object_mut(), change) {
            run.extend(change);
        }
        json!({"phase": "Stepping", "run": run})
    };
    vec![
        ("later", json!({"phase": LATER})),
        ("wide-number", json!({"weight": 4_000_000_000_u32})),
        ("negative", json!({"revisions": -1})),
        ("highest", json!({"revisions": i32::MAX})),
        ("generation", json!({"observedGeneration": i64::MAX})),
        ("offset", json!({"mends": {"times": ["2027-01-15T08:00:00+99:99"]}})),
        ("leap-second", json!({"mends": {"times": ["2016-12-31T23:59:60Z"]}})),
        ("last-day", json!({"mends": {"times": ["9999-12-31T23:59:59Z"]}})),
        ("large", json!({"message": "x".repeat(100_000)})),
        (
            "steps-begun",
            run(json!({"evidence": {"through": 0, "stepsBegun": -1, "pausesBegun": 0, "metrics": []}})),
        ),
        ("beyond", run(json!({"step": 7}))),
        ("heavy", run(json!({"weight": 1_000}))),
        ("no-found", run(json!({}))),
    ]
}

/// Objects of all kinds that are read, each as large as it may be.
async fn foreign(namespace: &Namespace) -> Result<()> {
    let large = "m".repeat(ANNOTATION);
    let metadata =
        |name: &str, labels: Value| json!({"name": name, "labels": labels, "annotations": {"manifest": large}});
    let pod = json!({"terminationGracePeriodSeconds": 0, "schedulerName": "nobody", "containers": [{"name": "a", "image": "none"}]});
    let template = json!({"metadata": {"labels": {"app": "ghost"}}, "spec": pod});
    let deployment = |name: &str, labels: Value| json!({"metadata": metadata(name, labels), "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "ghost"}}, "template": template}});
    create(
        namespace,
        "apps/v1",
        "Deployment",
        deployment("ghost", json!({names::ROLLOUT: "ghost"})),
    )
    .await?;
    create(
        namespace,
        "apps/v1",
        "Deployment",
        deployment("ghost-canary", json!({names::CANARY_OF: "ghost"})),
    )
    .await?;
    let labels = json!({names::TEMPLATE_OF: "ghost"});
    create(
        namespace,
        "v1",
        "PodTemplate",
        json!({"metadata": metadata("ghost", labels), "template": template}),
    )
    .await?;
    let ports: Vec<Value> = (1..=200)
        .map(|port| json!({"name": format!("p{port}"), "port": port}))
        .collect();
    let service = json!({"metadata": metadata("ghost", json!({names::CANARY_OF: "ghost"})), "spec": {"selector": {"app": "ghost"}, "ports": ports}});
    create(namespace, "v1", "Service", service).await?;
    create(
        namespace,
        "v1",
        "Pod",
        json!({"metadata": metadata("ghost", json!({names::RUN: "ghost-1"})), "spec": pod}),
    )
    .await?;
    let long = "x".repeat(60);
    for number in 0..4 {
        let endpoints: Vec<Value> = (0..1_000)
            .map(|at| json!({"addresses": [format!("10.99.{}.{}", at / 250, at % 250 + 1)], "targetRef": {"kind": "Pod", "name": format!("{long}-{at}")}}))
            .collect();
        let labels = json!({"kubernetes.io/service-name": "ghost"});
        let slice = json!({"metadata": metadata(&format!("ghost-{number}"), labels), "addressType": "IPv4", "endpoints": endpoints});
        create(namespace, "discovery.k8s.io/v1", "EndpointSlice", slice).await?;
        let backends: Vec<Value> = (0..16)
            .map(|backend| {
                let header = json!({"name": "x-a", "value": "b".repeat(1_000)});
                json!({"name": format!("{long}-{backend}"), "port": 80, "weight": 1_000_000,
                    "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [header]}}]})
            })
            .collect();
        let rules: Vec<Value> = (0..16)
            .map(|rule| json!({"name": format!("rule-{rule}-{long}"), "backendRefs": backends}))
            .collect();
        let mut metadata = metadata(&format!("ghost-{number}"), json!({}));
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.clear();
            annotations.insert(names::RUN.to_owned(), json!("ffffffff-1.1 ".repeat(ANNOTATION / 14)));
        }
        let route = json!({"metadata": metadata, "spec": {"rules": rules}});
        create(namespace, "gateway.networking.k8s.io/v1", "HTTPRoute", route).await?;
    }
    let peers: Vec<Value> = (0..500)
        .map(|peer| json!({"podSelector": {"matchLabels": {"app": format!("other-{peer}")}}}))
        .collect();
    let policy = json!({"metadata": metadata("ghost", json!({})), "spec": {"podSelector": {"matchLabels": {"app": "ghost"}}, "ingress": [{"from": peers}]}});
    create(namespace, "networking.k8s.io/v1", "NetworkPolicy", policy).await?;
    let values: Vec<String> = (0..1_000).map(|value| format!("v{value}")).collect();
    let expression = json!({"key": "app", "operator": "In", "values": values});
    let budget = json!({"metadata": metadata("ghost", json!({})), "spec": {"minAvailable": 1, "selector": {"matchExpressions": [expression]}}});
    create(namespace, "policy/v1", "PodDisruptionBudget", budget).await
}

/// Rollouts that can be read and ask for as much as the schema lets them.
async fn greedy(namespace: &Namespace) -> Result<()> {
    let routes: Vec<Value> = (0..8)
        .map(|route| json!({"name": format!("ghost-{route}"), "rules": vec!["r".repeat(253); 16]}))
        .collect();
    let steps: Vec<Value> = (0..20)
        .map(|step| json!({"weight": (step + 1) * 5, "bake": "168h"}))
        .collect();
    for number in 0..8 {
        let name = format!("{}-{number}", "g".repeat(61));
        let mut object = rollout(&name);
        if let Some(fields) = object.as_object_mut() {
            let command = "{".repeat(ANNOTATION);
            fields.insert(
                "metadata".to_owned(),
                json!({"name": name, "annotations": {names::COMMAND: command}}),
            );
            fields.insert(
                "spec".to_owned(),
                json!({"workload": {"name": "ghost"}, "traffic": {"routes": routes}, "steps": steps}),
            );
        }
        create(namespace, "stepgate.dev/v1alpha1", "Rollout", object).await?;
    }
    Ok(())
}

/// Writes a status past the operator; the object as it stands then, or none where the API server refuses it.
async fn write_status(namespace: &Namespace, name: &str, status: &Value) -> Result<Option<DynamicObject>> {
    let patch = Patch::Merge(json!({"status": status}));
    match rollouts(namespace)
        .patch_status(name, &PatchParams::default(), &patch)
        .await
    {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 422 => Ok(None),
        Err(error) => Err(error).with_context(|| format!("writing the status of {name}")),
    }
}

/// Whether this version can read it.
fn is_readable(object: &DynamicObject) -> Result<bool> {
    Ok(matches!(
        serde_json::from_value(serde_json::to_value(object)?)?,
        Watched::Read(_)
    ))
}

/// The most memory that the process of this id has had, in KiB.
fn peak(id: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("VmHWM")?;
    line.trim()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .context("a number of KiB")
}

async fn wait_for_event(namespace: &Namespace, name: &str) -> Result<String> {
    until(&format!("an Event about {name}"), Duration::from_secs(30), async || {
        let events = shop::events(namespace, name).await?;
        let told = events.into_iter().find(|(reason, _)| reason == "StatusUnreadable");
        Ok(told.map_or_else(|| Seen::NotYet("none yet".to_owned()), |(_, text)| Seen::Done(text)))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_among_hostile_objects_goes_through_and_they_are_left_alone() -> Result<()> {
    let cluster = Cluster::attach().await?;
    install_chart(&cluster).await?;
    widen(&cluster).await?;
    let namespace = cluster.namespace("hostile").await?;
    foreign(&namespace).await?;
    greedy(&namespace).await?;
    let mut unreadable = Vec::new();
    let mut refused = Vec::new();
    for (name, status) in statuses() {
        create(&namespace, "stepgate.dev/v1alpha1", "Rollout", rollout(name)).await?;
        // A schema takes a moment to be in force.
        let written = until(
            &format!("the API server's word on {name}"),
            Duration::from_secs(20),
            async || {
                let written = write_status(&namespace, name, &status).await?;
                Ok(if written.is_none() && name == "later" {
                    Seen::NotYet("refused".to_owned())
                } else {
                    Seen::Done(written)
                })
            },
        )
        .await?;
        match written {
            Some(object) if !is_readable(&object)? => unreadable.push(object),
            Some(_) => {}
            None => refused.push(name),
        }
    }
    println!(
        "unreadable: {:?}; refused by the API server: {refused:?}",
        unreadable.iter().map(ResourceExt::name_any).collect::<Vec<_>>()
    );
    ensure!(unreadable.len() >= 6, "the API server takes more than that");
    create(&namespace, "stepgate.dev/v1alpha1", "Rollout", rollout(TURNCOAT)).await?;

    let scene = Scene::open_in(namespace, &states::shop(), OperatorOptions::led_by_commands()).await?;
    let gone_through = goes_through(&scene, unreadable).await;
    scene.told(gone_through)
}

#[expect(clippy::print_stdout, reason = "the peak is a figure")]
async fn goes_through(scene: &Scene, mut unreadable: Vec<DynamicObject>) -> Result<()> {
    let namespace = &scene.namespace;
    shop::ship(namespace, "v2", "0%").await?;
    states::in_force(scene, 50).await?;
    // In mid-run another one becomes unreadable.
    let turned = write_status(namespace, TURNCOAT, &json!({"phase": LATER})).await?;
    unreadable.push(turned.context("the schema was widened")?);
    scene.command(Verb::Promote).await?;
    states::in_force(scene, 100).await?;
    scene.command(Verb::Promote).await?;
    let healthy = states::follow(scene, "v2 to be stable", |status| {
        status.phase == Some(Phase::Healthy) && status.run.is_none() && !status.history.is_empty()
    })
    .await?;
    let outcome = healthy.history.first().map(|past| past.outcome);
    ensure!(outcome == Some(Outcome::Promoted), "{outcome:?}");
    states::serves(namespace, "v2").await?;

    // Each was told, once, and not touched.
    for object in &unreadable {
        let name = object.name_any();
        let text = wait_for_event(namespace, &name).await?;
        ensure!(
            text.contains("nothing of this Rollout is managed") && text.len() <= 1_000,
            "{name}: {text}"
        );
        let now = rollouts(namespace).get(&name).await?;
        ensure!(
            now.resource_version() == object.resource_version(),
            "{name} was written to: {now:?}"
        );
        let log = scene.operator.log(usize::MAX);
        let mark = format!("rollout=\"{name}\"");
        let said = log
            .lines()
            .filter(|line| line.contains(&mark) && line.contains("cannot read"))
            .count();
        ensure!(said == 1, "{name} was logged {said} times");
    }
    let log = scene.operator.log(usize::MAX);
    ensure!(!log.contains("panicked"), "the operator panicked");
    let counted = format!("stepgate_rollouts{{phase=\"Unreadable\"}} {}", unreadable.len());
    let address = log
        .split("address=")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next())
        .context("an address")?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    until("the census", Duration::from_secs(15), async || {
        let page = client
            .get(format!("http://{address}/metrics"))
            .send()
            .await?
            .text()
            .await?;
        Ok(if page.contains(&counted) {
            Seen::Done(())
        } else {
            Seen::NotYet(
                page.lines()
                    .filter(|line| line.contains("stepgate_rollouts{"))
                    .collect(),
            )
        })
    })
    .await?;

    // One that can be read again is managed again: it is told what it lacks.
    write_status(namespace, TURNCOAT, &json!({"phase": "Healthy"}))
        .await?
        .context("a phase that is known")?;
    until(
        "the turncoat to be managed again",
        Duration::from_secs(30),
        async || {
            let now = rollouts(namespace).get(TURNCOAT).await?;
            let phase = now
                .data
                .pointer("/status/phase")
                .and_then(Value::as_str)
                .unwrap_or_default();
            Ok(if phase == "Blocked" {
                Seen::Done(())
            } else {
                Seen::NotYet(phase.to_owned())
            })
        },
    )
    .await?;
    let peak = peak(scene.operator.id().context("a running operator")?)?;
    println!(
        "the operator's peak: {peak} KiB, {} Rollouts unreadable, {NAME} promoted",
        unreadable.len()
    );
    ensure!(peak < MOST_MEMORY, "the operator had {peak} KiB");
    Ok(())
}
