//! Lets a held Deployment go, with or without an operator: one patch of the Deployment, and words on what follows.
//!
//! It writes the annotation `stepgate.dev/hold: released` and takes the pause off, nothing else. A pause that carries no stamp is a
//! person's own and is left alone.

use anyhow::{Context, Error, Result};
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stepgate_crds::status::{OriginalRule, Run};
use stepgate_crds::{Rollout, names};

use crate::args::bare;
use crate::connect::Connection;
use crate::send::Answer;

/// The value of the stamp that the hold policy lets through.
const RELEASED: &str = "released";

/// Releases the Deployment of a Rollout, or, where that is gone or `deployment/NAME` is given, the Deployment itself.
pub(crate) async fn release(connection: &Connection, name: &str) -> Result<Answer> {
    let (rollout, workload) = match name.split_once('/') {
        Some(("deployment" | "deployments" | "deploy" | "deployment.apps" | "deployments.apps", workload)) => {
            (None, workload.to_owned())
        }
        _ => match connection.rollouts().get(bare(name)).await {
            Ok(rollout) => {
                let workload = rollout.spec.workload.name.clone();
                (Some(rollout), workload)
            }
            // A Rollout whose finalizer was taken off by hand leaves the hold behind.
            Err(kube::Error::Api(answer)) if answer.is_not_found() => {
                let named = connection.deployments().get_opt(bare(name)).await.ok().flatten();
                if !named.is_some_and(|workload| is_ours(&workload)) {
                    return Err(connection.explain(kube::Error::Api(answer), Some(bare(name))).await);
                }
                (None, bare(name).to_owned())
            }
            Err(error) => return Err(connection.explain(error, Some(bare(name))).await),
        },
    };
    let full_name = format!("Deployment {}/{workload}", connection.namespace);
    let asked = connection.deployments().get_opt(&workload).await;
    let Some(deployment) = asked.with_context(|| format!("reading {full_name}"))? else {
        return Ok(Answer::Refused(format!("{full_name} is not there: nothing holds it")));
    };
    if let Some(why) = refusal(&deployment) {
        return Ok(Answer::Refused(format!("{full_name} {why}")));
    }
    let patch = json!({
        "metadata": {"uid": deployment.uid(), "annotations": {names::HOLD: RELEASED}},
        "spec": {"paused": null},
    });
    let parameters = PatchParams {
        field_manager: Some("kubectl-stepgate".to_owned()),
        ..PatchParams::default()
    };
    let after = connection
        .deployments()
        .patch(&workload, &parameters, &Patch::Merge(patch))
        .await
        .map_err(Error::new)
        .with_context(|| format!("releasing {full_name}"))?;
    if is_paused(&after) {
        return Ok(Answer::Refused(format!(
            "{full_name} was un-paused and is paused still: another admission policy or webhook than Stepgate's pauses it"
        )));
    }
    let mut text = what_follows(&deployment, &connection.namespace);
    if let Some(rollout) = &rollout
        && let Some(run) = rollout.status.as_ref().and_then(|status| status.run.as_ref())
    {
        text.push_str(&of_run(run, &workload, &connection.namespace));
        text.push_str(&by_hand(connection, rollout, run, &workload).await);
    }
    Ok(Answer::Done(text.trim_end().to_owned()))
}

fn is_paused(deployment: &Deployment) -> bool {
    deployment.spec.as_ref().and_then(|spec| spec.paused).unwrap_or(false)
}

fn is_ours(deployment: &Deployment) -> bool {
    deployment.labels().contains_key(names::ROLLOUT) || deployment.annotations().contains_key(names::HOLD)
}

/// Why there is nothing to release.
fn refusal(deployment: &Deployment) -> Option<String> {
    let resume = format!("kubectl rollout resume deployment {}", deployment.name_any());
    let stamp = deployment.annotations().get(names::HOLD).map(String::as_str);
    match (is_paused(deployment), stamp) {
        (false, Some(RELEASED)) => Some("is released already".to_owned()),
        (true, None) => Some(format!("is paused, but not by Stepgate: {resume} goes on")),
        (false, None) if !is_ours(deployment) => Some("is not managed by Stepgate: it rolls by itself".to_owned()),
        _ => None,
    }
}

/// What becomes of a Deployment that was as this one when it was released.
fn what_follows(before: &Deployment, namespace: &str) -> String {
    let name = before.name_any();
    let now = if is_paused(before) {
        format!(
            "Deployment {namespace}/{name} is released: it rolls to the version that it asks for, at once and unjudged; follow it with: \
             kubectl rollout status deployment {name} -n {namespace}\n"
        )
    } else {
        format!("Deployment {namespace}/{name} is released; no version waits\n")
    };
    let later = format!(
        "An operator that runs holds it again from the next version on; where none does, every later version rolls so too, until: \
         kubectl annotate deployment {name} -n {namespace} {}-\n",
        names::HOLD
    );
    now + &later
}

fn of_run(run: &Run, workload: &str, namespace: &str) -> String {
    format!(
        "Run {} has {} % of the traffic on its canary. An operator that runs ends it: the canary's traffic goes to the Deployment, the \
         canary goes.\nWhere none does, do it by hand, in this order, once Deployment {namespace}/{workload} has rolled:\n",
        run.id, run.weight
    )
}

/// The commands that end a run without an operator: traffic back on the user's Service, the canary away, plain Kubernetes.
async fn by_hand(connection: &Connection, rollout: &Rollout, run: &Run, workload: &str) -> String {
    let namespace = &connection.namespace;
    let mut commands = vec![format!("kubectl rollout status deployment {workload} -n {namespace}")];
    let found = rollout.status.as_ref().and_then(|status| status.found.as_ref());
    for reference in &run.spec.routes {
        let route = connection.http_routes().get(&reference.name).await;
        let route = route.ok().and_then(|route| serde_json::to_value(route).ok());
        let operations = route
            .zip(found)
            .map(|(route, found)| give_back(&route, &found.stable_service, &found.canary_service, &run.original));
        match operations {
            Some(operations) if operations.is_empty() => {}
            Some(operations) => commands.push(format!(
                "kubectl patch httproute {} -n {namespace} --type=json -p '{}'",
                reference.name,
                Value::Array(operations)
            )),
            None => commands.push(format!(
                "kubectl edit httproute {} -n {namespace}   # it could not be read: take the canary's backendRef off",
                reference.name
            )),
        }
    }
    if let Some(uid) = rollout.uid() {
        commands.push(format!(
            "kubectl delete deployments,services -n {namespace} -l {}={uid}",
            names::CANARY_OF
        ));
    }
    let name = rollout.name_any();
    commands.push(format!(
        "kubectl patch rollout {name} -n {namespace} --type=merge -p '{{\"metadata\":{{\"finalizers\":null}}}}'"
    ));
    commands.push(format!("kubectl delete rollout {name} -n {namespace}"));
    commands.push(format!(
        "kubectl label deployment {workload} -n {namespace} {}-",
        names::ROLLOUT
    ));
    format!("  {}\n", commands.join("\n  "))
}

/// The JSON Patch that takes a route back to what it was before the run: the canary's ref (or its weight) off, stable's weight as
/// recorded, the mark of the run away. Empty where nothing is left to take back.
fn give_back(route: &Value, stable: &str, canary: &str, original: &[OriginalRule]) -> Vec<Value> {
    let mut operations = Vec::new();
    let name = route
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let rules = route.pointer("/spec/rules").and_then(Value::as_array);
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let references = rule.get("backendRefs").and_then(Value::as_array);
        let place = |wanted: &str| {
            references?
                .iter()
                .position(|reference| reference.get("name").and_then(Value::as_str) == Some(wanted))
        };
        let (Some(of_stable), Some(of_canary)) = (place(stable), place(canary)) else {
            continue;
        };
        let recorded = original
            .iter()
            .find(|rule| rule.route == name && usize::try_from(rule.index) == Ok(index));
        let path = |place: usize| format!("/spec/rules/{index}/backendRefs/{place}");
        for (place, name) in [(of_stable, stable), (of_canary, canary)] {
            operations.push(json!({"op": "test", "path": format!("{}/name", path(place)), "value": name}));
        }
        let weight = recorded.and_then(|rule| rule.stable_weight).unwrap_or(1);
        operations.push(json!({"op": "add", "path": format!("{}/weight", path(of_stable)), "value": weight}));
        operations.push(match recorded.and_then(|rule| rule.canary_weight) {
            Some(weight) => {
                json!({"op": "add", "path": format!("{}/weight", path(of_canary)), "value": weight})
            }
            None => json!({"op": "remove", "path": path(of_canary)}),
        });
    }
    // A mark with a space in it is that of other runs too, of Rollouts that share the route.
    let mark = route
        .pointer("/metadata/annotations")
        .and_then(|all| all.get(names::RUN)?.as_str());
    if !operations.is_empty() && mark.is_some_and(|mark| !mark.contains(' ')) {
        let path = format!("/metadata/annotations/{}", names::RUN.replace('/', "~1"));
        operations.push(json!({"op": "remove", "path": path}));
    }
    operations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment(paused: bool, stamp: Option<&str>, managed: bool) -> Deployment {
        let mut deployment: Deployment = serde_json::from_value(json!({
            "metadata": {"name": "checkout", "labels": {}},
            "spec": {"paused": paused, "selector": {}, "template": {}},
        }))
        .unwrap();
        if managed {
            deployment
                .labels_mut()
                .insert(names::ROLLOUT.to_owned(), "checkout".to_owned());
        }
        if let Some(stamp) = stamp {
            deployment
                .annotations_mut()
                .insert(names::HOLD.to_owned(), stamp.to_owned());
        }
        deployment
    }

    #[test]
    fn only_what_stepgate_holds_or_would_hold_is_released() {
        for held in [
            deployment(true, Some("waiting"), true),
            deployment(true, Some("waiting"), false),
            deployment(true, Some("released"), true),
            deployment(false, None, true),
        ] {
            assert_eq!(refusal(&held), None, "{held:?}");
        }
        for (other, words) in [
            (
                deployment(true, None, true),
                "not by Stepgate: kubectl rollout resume deployment checkout",
            ),
            (deployment(true, None, false), "not by Stepgate"),
            (deployment(false, None, false), "is not managed by Stepgate"),
            (deployment(false, Some("released"), true), "is released already"),
        ] {
            assert!(refusal(&other).unwrap().contains(words), "{other:?}");
        }
    }

    #[test]
    fn what_follows_says_how_to_hold_again() {
        let held = what_follows(&deployment(true, Some("waiting"), true), "shop");
        assert!(held.contains("at once and unjudged"), "{held}");
        let resting = what_follows(&deployment(false, None, true), "shop");
        assert!(resting.contains("no version waits"), "{resting}");
        for text in [held, resting] {
            assert!(
                text.contains("kubectl annotate deployment checkout -n shop stepgate.dev/hold-"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_route_is_given_back_as_it_was_before_the_run() {
        let route = |references: Value| {
            json!({
                "metadata": {"name": "checkout", "annotations": {"stepgate.dev/run": "r7.4"}},
                "spec": {"rules": [{"backendRefs": [{"name": "other"}]}, {"backendRefs": references}]},
            })
        };
        let original = |canary_weight| {
            [OriginalRule {
                route: "checkout".to_owned(),
                rule: None,
                index: 1,
                stable_weight: Some(3),
                canary_weight,
            }]
        };
        let both = route(json!([{"name": "checkout", "weight": 70}, {"name": "checkout-canary", "weight": 30}]));
        let operations = give_back(&both, "checkout", "checkout-canary", &original(None));
        let expected = json!([
            {"op": "test", "path": "/spec/rules/1/backendRefs/0/name", "value": "checkout"},
            {"op": "test", "path": "/spec/rules/1/backendRefs/1/name", "value": "checkout-canary"},
            {"op": "add", "path": "/spec/rules/1/backendRefs/0/weight", "value": 3},
            {"op": "remove", "path": "/spec/rules/1/backendRefs/1"},
            {"op": "remove", "path": "/metadata/annotations/stepgate.dev~1run"},
        ]);
        assert_eq!(Value::Array(operations), expected);
        // A ref that the user had listed stays, with the user's weight.
        let operations = give_back(&both, "checkout", "checkout-canary", &original(Some(0)));
        assert!(
            operations.contains(&json!({"op": "add", "path": "/spec/rules/1/backendRefs/1/weight", "value": 0})),
            "{operations:?}"
        );
        let one = route(json!([{"name": "checkout"}]));
        assert_eq!(
            give_back(&one, "checkout", "checkout-canary", &original(None)),
            Vec::<Value>::new()
        );
    }
}
