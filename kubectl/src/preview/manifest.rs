//! The Rollouts of a manifest: several documents of YAML or JSON, of which other kinds are left aside.
//!
//! Pure. What the schema refuses is the API server's to say; only what nothing can be foretold of is refused here.

use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;
use serde_json::{Value, json};
use stepgate_crds::Rollout;

const API: &str = "stepgate.dev/v1alpha1";

/// A Rollout as it is written.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// As it is read here.
    pub(crate) rollout: Rollout,
    /// To the letter, without what only a server writes.
    pub(crate) raw: Value,
}

/// All Rollouts of a manifest that `file` names in messages, each with a namespace: its own, else the flag's, else the context's.
pub(crate) fn read(text: &str, file: &str, flag: Option<&str>, default: &str) -> Result<Vec<Manifest>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .with_context(|| format!("{file}: neither YAML nor JSON; give -f a manifest of a Rollout"))?;
    let mut others = Vec::new();
    let mut rollouts = Vec::new();
    for object in documents.iter().flat_map(items) {
        let word = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or("(none)");
        let (version, kind) = (word("apiVersion"), word("kind"));
        if (version, kind) != (API, "Rollout") {
            if !object.is_null() {
                others.push(format!("{kind} of {version}"));
            }
            continue;
        }
        rollouts.push(rollout(object, file, flag, default)?);
    }
    ensure!(
        !rollouts.is_empty(),
        "{file}: no Rollout of {API} in it{}",
        if others.is_empty() {
            "; it is empty".to_owned()
        } else {
            format!(", but {}; give -f a file that has one", others.join(", "))
        }
    );
    Ok(rollouts)
}

/// The objects of a document: those of a List, else itself.
fn items(document: &Value) -> Vec<&Value> {
    match document.get("items").and_then(Value::as_array) {
        Some(items) if document.get("kind").and_then(Value::as_str) == Some("List") => items.iter().collect(),
        _ => vec![document],
    }
}

fn rollout(object: &Value, file: &str, flag: Option<&str>, default: &str) -> Result<Manifest> {
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    ensure!(!name.is_empty(), "{file}: a Rollout has no metadata.name; give it one");
    let mut rollout: Rollout = serde_path_to_error::deserialize(object).map_err(|error| {
        anyhow::anyhow!(
            "{file}: Rollout {name}: {}: {}; `kubectl explain rollout.spec --recursive` lists the fields",
            error.path(),
            error.inner()
        )
    })?;
    // What is previewed is what the file says.
    rollout.status = None;
    match (rollout.namespace(), flag) {
        (Some(own), Some(flag)) if own != flag => {
            bail!("{file}: Rollout {name} is in namespace {own}, and -n says {flag}; leave one of them out")
        }
        (Some(_), _) => {}
        (None, flag) => rollout.metadata.namespace = Some(flag.unwrap_or(default).to_owned()),
    }
    check(&rollout).with_context(|| format!("{file}: Rollout {}", place(&rollout)))?;
    let metadata = |field: &str| object.pointer(&format!("/metadata/{field}"));
    let raw = json!({
        "apiVersion": API,
        "kind": "Rollout",
        "metadata": {
            "name": name,
            "namespace": rollout.namespace(),
            "labels": metadata("labels"),
            "annotations": metadata("annotations"),
        },
        "spec": object.get("spec"),
    });
    Ok(Manifest { rollout, raw })
}

/// The rules of steps, which the schema has too: nothing can be foretold of others.
fn check(rollout: &Rollout) -> Result<()> {
    let Some(steps) = &rollout.spec.steps else {
        return Ok(());
    };
    let weights: Vec<i32> = steps.iter().map(|step| step.weight).collect();
    ensure!(
        (1..=20).contains(&weights.len()),
        "spec.steps has {} steps; give it 1 to 20, or leave it out for 10, 30, 50 and 100 percent",
        weights.len()
    );
    if let Some(weight) = weights.iter().find(|weight| !(0..=100).contains(*weight)) {
        bail!("spec.steps: the weight {weight} is no percentage; give one from 0 to 100");
    }
    ensure!(
        weights.is_sorted(),
        "spec.steps: the weights {weights:?} decrease; put them in rising order"
    );
    ensure!(
        weights.last() == Some(&100),
        "spec.steps: the last weight is {}; the last step's has to be 100",
        weights.last().copied().unwrap_or_default()
    );
    Ok(())
}

/// `namespace/name`.
pub(crate) fn place(rollout: &Rollout) -> String {
    format!("{}/{}", rollout.namespace().unwrap_or_default(), rollout.name_any())
}
