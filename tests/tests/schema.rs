//! What the API server itself accepts and refuses of a Rollout, with the words that a user sees.
//!
//! Nothing runs here: every case is a dry run of a creation (or of an update) under strict field validation.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON is looked into by its fields; what is not there reads as null"
)]

use anyhow::{Context, Result, bail, ensure};
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use stepgate_tests::cluster::{Cluster, Namespace};
use stepgate_tests::operator::install_chart;

/// The least that works, with this merged into `spec`.
fn rollout(spec: &Value) -> Value {
    let mut least = json!({
        "apiVersion": "stepgate.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "checkout"},
        "spec": {"workload": {"name": "checkout"}, "traffic": {"routes": [{"name": "checkout"}]}},
    });
    merge(&mut least["spec"], spec);
    least
}

/// RFC 7386: an object is merged, `null` takes a field away, everything else takes its place.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            into.as_object_mut().and_then(|object| object.remove(name));
        } else {
            merge(&mut into[name], value);
        }
    }
}

async fn world() -> Result<(Cluster, Namespace)> {
    let cluster = Cluster::attach().await?;
    install_chart(&cluster).await?;
    let namespace = cluster.namespace("schema").await?;
    Ok((cluster, namespace))
}

/// Rollouts as they are on the wire: the typed client could not even write the wrong ones.
fn rollouts(namespace: &Namespace) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("stepgate.dev", "v1alpha1", "Rollout"));
    Api::namespaced_with(namespace.cluster().client(), namespace.name(), &resource)
}

/// The object as it would be created, or the message of the refusal. Unknown fields are errors, as for kubectl.
async fn create(namespace: &Namespace, object: &Value, dry_run: bool) -> Result<Result<Value, String>> {
    let dry_run = if dry_run { "&dryRun=All" } else { "" };
    let path = format!(
        "/apis/stepgate.dev/v1alpha1/namespaces/{}/rollouts?fieldValidation=Strict{dry_run}",
        namespace.name()
    );
    let request = http::Request::post(path)
        .header("Content-Type", "application/json")
        .body(serde_json::to_vec(object)?)?;
    match namespace.cluster().client().request(request).await {
        Ok(made) => Ok(Ok(made)),
        Err(kube::Error::Api(status)) => Ok(Err(status.message)),
        Err(error) => Err(error).context("creating a Rollout"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn six_lines_are_enough_and_get_their_defaults() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    let six = "apiVersion: stepgate.dev/v1alpha1\nkind: Rollout\nmetadata: {name: checkout}\nspec:\n  \
               workload: {name: checkout}\n  traffic: {routes: [{name: checkout}]}\n";
    ensure!(six.lines().count() == 6);
    namespace.apply(six).await?;
    let made = serde_json::to_value(rollouts(&namespace).get("checkout").await?)?;
    let expected = json!({
        "workload": {"kind": "Deployment", "name": "checkout"},
        "traffic": {"routes": [{"kind": "HTTPRoute", "name": "checkout"}]},
    });
    ensure!(made["spec"] == expected, "{}", made["spec"]);
    Ok(())
}

fn queries(queries: &Value) -> Value {
    json!({"analysis": {"queries": queries}})
}

/// Two queries, and other bounds of them in so many steps.
fn bounds_of_a_step(steps: i32, bounds: &Value) -> Value {
    let step = |step: i32| json!({"weight": 100 * step / steps, "analysis": {"queries": bounds}});
    let queries = json!([{"name": "queue-depth", "query": "q", "max": 100}, {"name": "other", "query": "q", "max": 1}]);
    json!({"steps": (1..=steps).map(step).collect::<Vec<_>>(), "analysis": {"queries": queries}})
}

/// So many queries of so many characters.
fn of_length(queries: usize, length: usize) -> Value {
    let query = |number: usize| json!({"name": format!("query-{number}"), "query": "q".repeat(length), "max": 1});
    (0..queries).map(query).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_spells_out_is_accepted() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    let accepted = [
        json!({}),
        json!({
            "workload": {"kind": "Deployment", "name": "checkout"},
            "traffic": {
                "stableService": "checkout",
                "canaryService": "checkout-next",
                "canaryLabels": {"track": "canary"},
                "routes": [{"kind": "HTTPRoute", "name": "checkout", "rules": ["api", "web"]}],
                "settle": "5s",
                "drain": "30s",
            },
            "steps": [
                {"weight": 10, "bake": "2m"},
                {"weight": 30},
                {"weight": 50, "approval": "Required"},
                {"weight": 100},
            ],
            "analysis": {"interval": "30s", "source": "default", "provider": "auto", "errorRate": {"max": "1%"}},
            "progressDeadline": "10m",
            "suspend": false,
        }),
        json!({"suspend": true}),
        json!({"steps": [{"weight": 100}]}),
        json!({"steps": [{"weight": 0}, {"weight": 0}, {"weight": 100}, {"weight": 100}]}),
        json!({"steps": (1..=20).map(|step| json!({"weight": step * 5})).collect::<Vec<_>>()}),
        json!({"analysis": {"interval": "5s", "provider": "pods"}}),
        json!({"analysis": {"interval": "60m", "provider": "contour"}}),
        json!({"analysis": {"provider": "our-own-gateway"}}),
        json!({"analysis": {"interval": "1m30s"}}),
        json!({"analysis": {"interval": "6000ms"}}),
        json!({"analysis": {"errorRate": {"max": "50%"}}}),
        json!({"analysis": {"errorRate": {"max": "0.1%"}}}),
        json!({"analysis": {"errorRate": {"max": "auto"}}}),
        queries(&json!([{"name": "queue-depth", "query": "max(queue)", "max": 100, "failureLimit": 3}])),
        queries(&json!([{"name": "q", "query": "q", "min": -0.5}, {"name": "r", "query": "q", "min": 1, "max": 1e9}])),
        queries(&of_length(10, 200)),
        queries(&of_length(2, 1_000)),
        bounds_of_a_step(
            20,
            &json!([{"name": "queue-depth", "max": 50}, {"name": "other", "min": 1, "max": 2}]),
        ),
        json!({"progressDeadline": "10s"}),
        json!({"traffic": {"settle": "0s", "drain": "0s"}}),
        json!({"traffic": {"routes": [{"name": "one"}, {"name": "two"}]}}),
    ];
    for spec in accepted {
        if let Err(message) = create(&namespace, &rollout(&spec), true).await? {
            bail!("{spec} was refused: {message}");
        }
    }
    Ok(())
}

/// Each with words of the message.
#[expect(clippy::too_many_lines, reason = "a table")]
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_work_is_refused_in_words_that_say_what_is_right() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    let steps = |weights: &[i64]| {
        let steps: Vec<Value> = weights.iter().map(|weight| json!({"weight": weight})).collect();
        json!({"steps": steps})
    };
    let interval = |interval: &str| json!({"analysis": {"interval": interval}});
    let max = |max: &str| json!({"analysis": {"errorRate": {"max": max}}});
    let routes = |names: &[&str]| {
        let routes: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        json!({"traffic": {"routes": routes}})
    };
    let nine: Vec<String> = (0..9).map(|number| format!("route-{number}")).collect();
    let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
    let refused = [
        (steps(&[30, 10, 100]), "the weights of steps must not decrease"),
        (steps(&[10, 50]), "the weight of the last step must be 100"),
        (steps(&[10, 101]), "should be less than or equal to 100"),
        (steps(&[-1, 100]), "should be greater than or equal to 0"),
        (steps(&[]), "should have at least 1 items"),
        (steps(&[100; 21]), "must have at most 20 items"),
        (json!({"steps": [{"bake": "1m"}]}), "weight: Required value"),
        (json!({"steps": [{"weight": "10%"}]}), "must be of type integer"),
        (
            json!({"steps": [{"weight": 100, "bake": "169h"}]}),
            "bake must be at most 168h",
        ),
        (
            json!({"steps": [{"weight": 100, "approval": "Maybe"}]}),
            "supported values: \"Required\"",
        ),
        (interval("4s"), "interval must be from 5s to 1h"),
        (interval("61m"), "interval must be from 5s to 1h"),
        (interval("5500ms"), "interval must be whole seconds"),
        (interval("5"), "spec.analysis.interval"),
        (interval("1.5s"), "spec.analysis.interval"),
        (interval("-30s"), "spec.analysis.interval"),
        (interval(""), "spec.analysis.interval"),
        (max("0%"), "max must be auto, or above 0% and at most 50%"),
        (max("51%"), "max must be auto, or above 0% and at most 50%"),
        (max("100%"), "max must be auto, or above 0% and at most 50%"),
        (max("1"), "spec.analysis.errorRate.max"),
        (max("-1%"), "spec.analysis.errorRate.max"),
        (max("Auto"), "spec.analysis.errorRate.max"),
        (max("auto%"), "spec.analysis.errorRate.max"),
        (
            json!({"steps": [{"weight": 100, "analysis": {"errorRate": {"max": "auto"}}}]}),
            "analysis.errorRate.max",
        ),
        (
            json!({"analysis": {"latency": {"threshold": "1s"}}}),
            "spec.analysis.latency.max: Required value",
        ),
        (
            json!({"analysis": {"latency": {"threshold": "0s", "max": "1%"}}}),
            "threshold must be from 1ms to 10m",
        ),
        (
            json!({"analysis": {"latency": {"threshold": "1s", "max": "0%"}}}),
            "max must be above 0% and at most 50%",
        ),
        (
            json!({"analysis": {"onNoData": {"then": "Advance"}}}),
            "supported values: \"Hold\", \"Retreat\", \"Rollback\"",
        ),
        (
            json!({"analysis": {"onInconclusive": {"after": "1s", "then": "Hold"}}}),
            "after must be from 10s to 168h",
        ),
        (
            json!({"steps": [{"weight": 100, "analysis": {"latency": {"max": "60%"}}}]}),
            "max must be above 0% and at most 50%",
        ),
        (
            queries(&json!([{"name": "q", "query": "q"}])),
            "a query has a max, a min, or both",
        ),
        (
            queries(&json!([{"name": "q", "query": "q", "max": 1, "min": 2}])),
            "min must not be above max",
        ),
        (
            bounds_of_a_step(1, &json!([{"name": "nobody", "max": 1}])),
            "a step gives bounds to a query that spec.analysis.queries does not have",
        ),
        (
            json!({"steps": [{"weight": 100, "analysis": {"queries": [{"name": "queue-depth", "max": 1}]}}]}),
            "a step gives bounds to a query that spec.analysis.queries does not have",
        ),
        (
            bounds_of_a_step(1, &json!([{"name": "queue-depth"}])),
            "a query has a max, a min, or both",
        ),
        (
            bounds_of_a_step(1, &json!([{"name": "queue-depth", "max": 1, "min": 2}])),
            "min must not be above max",
        ),
        (
            queries(&json!([{"name": "errors", "query": "q", "max": 1}])),
            "errors and latency are the names of what Stepgate counts itself",
        ),
        (
            queries(&json!([{"name": "q", "query": "a", "max": 1}, {"name": "q", "query": "b", "max": 1}])),
            "Duplicate value",
        ),
        (
            queries(&json!([{"name": "Queue depth", "query": "q", "max": 1}])),
            "spec.analysis.queries[0].name",
        ),
        (
            queries(&json!([{"name": "q".repeat(41), "query": "q", "max": 1}])),
            "spec.analysis.queries[0].name",
        ),
        (
            queries(&json!([{"name": "q", "query": "", "max": 1}])),
            "spec.analysis.queries[0].query",
        ),
        (
            queries(&json!([{"name": "q", "query": "q", "max": "100"}])),
            "must be of type number",
        ),
        (
            queries(&json!([{"name": "q", "query": "q", "max": 1, "failureLimit": 0}])),
            "should be greater than or equal to 1",
        ),
        (
            queries(&json!([{"name": "q", "query": "q", "max": 1, "failureLimit": 101}])),
            "should be less than or equal to 100",
        ),
        (
            queries(&json!([{"name": "q", "query": "q", "max": 1, "failurelimit": 1}])),
            "unknown field \"spec.analysis.queries[0].failurelimit\"",
        ),
        (queries(&of_length(11, 1)), "must have at most 10 items"),
        (queries(&of_length(1, 1_001)), "may not be more than 1000"),
        (
            queries(&of_length(10, 201)),
            "the queries together have at most 2000 characters",
        ),
        (json!({"analysis": {"provider": "Nobody"}}), "spec.analysis.provider"),
        (json!({"analysis": {"provider": ""}}), "spec.analysis.provider"),
        (json!({"analysis": {"source": ""}}), "spec.analysis.source"),
        (
            json!({"progressDeadline": "5s"}),
            "progressDeadline must be at least 10s",
        ),
        (json!({"progressDeadline": "600"}), "spec.progressDeadline"),
        (json!({"traffic": {"settle": "11m"}}), "settle must be at most 10m"),
        (json!({"traffic": {"drain": "61m"}}), "drain must be at most 1h"),
        (
            json!({"traffic": {"stableService": "checkout", "canaryService": "checkout"}}),
            "stableService and canaryService must differ",
        ),
        (
            json!({"traffic": {"canaryService": "Checkout"}}),
            "spec.traffic.canaryService",
        ),
        (
            json!({"traffic": {"canaryLabels": {}}}),
            "should have at least 1 properties",
        ),
        (json!({"traffic": {"routes": null}}), "routes: Required value"),
        (routes(&[]), "should have at least 1 items"),
        (routes(&["checkout", "checkout"]), "Duplicate value"),
        (routes(&nine), "must have at most 8 items"),
        (
            json!({"traffic": {"routes": [{"name": "a", "rules": []}]}}),
            "should have at least 1 items",
        ),
        (
            json!({"traffic": {"routes": [{"kind": "TLSRoute", "name": "a"}]}}),
            "supported values: \"HTTPRoute\"",
        ),
        (
            json!({"workload": {"kind": "StatefulSet"}}),
            "supported values: \"Deployment\"",
        ),
        (json!({"workload": {"name": ""}}), "spec.workload.name"),
        (json!({"workload": null}), "workload: Required value"),
        (json!({"suspend": "yes"}), "must be of type boolean"),
        // What is not there yet, and what was mistyped.
        (json!({"suspended": true}), "unknown field \"spec.suspended\""),
        (
            json!({"steps": [{"weight": 100, "mirror": "20%"}]}),
            "unknown field \"spec.steps[0].mirror\"",
        ),
        (
            json!({"analysis": {"latency": {"threshold": "1s", "maximum": "1%"}}}),
            "unknown field \"spec.analysis.latency.maximum\"",
        ),
        (
            json!({"traffic": {"setle": "1s"}}),
            "unknown field \"spec.traffic.setle\"",
        ),
    ];
    let mut wrong = Vec::new();
    for (spec, words) in refused {
        match create(&namespace, &rollout(&spec), true).await? {
            Ok(_) => wrong.push(format!("{spec} was accepted; wanted: {words}")),
            Err(message) if message.contains(words) => {}
            Err(message) => wrong.push(format!("{spec}: wanted `{words}`, got: {message}")),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_no_label_value_is_refused() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    for (length, accepted) in [(63, true), (64, false)] {
        let mut object = rollout(&json!({}));
        object["metadata"]["name"] = json!("a".repeat(length));
        match create(&namespace, &object, true).await? {
            Ok(_) => ensure!(accepted, "a name of {length} characters was accepted"),
            Err(message) => ensure!(
                !accepted && message.contains("at most 63 characters: it is a label value on the Deployment"),
                "{length}: {message}"
            ),
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_workload_stays_and_everything_else_may_be_edited() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    create(&namespace, &rollout(&json!({})), false)
        .await?
        .map_err(anyhow::Error::msg)?;
    let api = rollouts(&namespace);
    let to = async |spec: Value| {
        let patch = json!({"spec": spec});
        api.patch("checkout", &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map(drop)
    };
    let refused = to(json!({"workload": {"name": "other"}})).await;
    ensure!(
        refused.as_ref().is_err_and(|error| error
            .to_string()
            .contains("workload is immutable: make another Rollout for another workload")),
        "{refused:?}"
    );
    to(json!({"workload": {"name": "checkout"}, "steps": [{"weight": 100}]})).await?;
    to(json!({"traffic": {"routes": [{"name": "other"}]}, "progressDeadline": "1m"})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn status_cannot_be_set_through_the_rollout_itself() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    let mut object = rollout(&json!({}));
    object["status"] = json!({"phase": "Healthy", "revisions": 7});
    let made = create(&namespace, &object, false).await?.map_err(anyhow::Error::msg)?;
    ensure!(made.get("status").is_none(), "{made}");
    let patch = json!({"status": {"phase": "Failed", "revisions": 7}, "spec": {"progressDeadline": "1m"}});
    let api = rollouts(&namespace);
    api.patch("checkout", &PatchParams::default(), &Patch::Merge(&patch))
        .await?;
    let after = serde_json::to_value(api.get("checkout").await?)?;
    ensure!(after.get("status").is_none(), "{after}");
    ensure!(after["spec"]["progressDeadline"] == "1m", "{after}");
    // Through the subresource it goes, and is checked as well.
    let patch = json!({"status": {"phase": "Sideways", "revisions": 0}});
    let refused = api
        .patch_status("checkout", &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    ensure!(
        refused
            .as_ref()
            .is_err_and(|error| error.to_string().contains("Unsupported value: \"Sideways\"")),
        "{refused:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_prints_the_columns_that_a_person_asks_for_first() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    create(&namespace, &rollout(&json!({})), false)
        .await?
        .map_err(anyhow::Error::msg)?;
    for name in ["rollouts", "rollout", "sg"] {
        let table = namespace.kubectl(&["get", name]).await?;
        let header: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        let expected = ["NAME", "PHASE", "STEP", "WEIGHT", "VERDICT", "MESSAGE", "AGE"];
        ensure!(header == expected, "{name}: {table}");
    }
    let explained = namespace.kubectl(&["explain", "rollout.spec.steps.weight"]).await?;
    ensure!(explained.contains("share of the traffic"), "{explained}");
    Ok(())
}
