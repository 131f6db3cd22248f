//! Which labels set canary pods apart from those that the stable Service selects, and what forbids it.
//!
//! Canary pods that the stable Service selects would get traffic that no weight governs. Where something else selects by the label
//! that would have to change, the answer is a refusal that names it, never a guess.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::input::{ServiceView, Survey};

/// The labels by which a Service's selector may be told apart, most telling first.
const KNOWN: [&str; 3] = ["app.kubernetes.io/instance", "app.kubernetes.io/name", "app"];

/// Most characters of a label's value.
const LONGEST_VALUE: usize = 63;

/// How canary pods are set apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// The labels that canary pods carry in place of stable's.
    pub labels: BTreeMap<String, String>,
    /// How they were chosen, and what was not looked at, for `status.found`.
    pub how: String,
}

/// The first of the three ways that fits, or why none does.
pub fn choose(
    survey: &Survey,
    stable: &ServiceView,
    wanted: Option<&BTreeMap<String, String>>,
) -> Result<Apart, String> {
    let owned = string_map(survey.workload.pointer("/spec/selector/matchLabels"));
    let service = &stable.name;
    if let Some(labels) = wanted {
        if labels
            .iter()
            .all(|(key, value)| stable.selector.get(key).is_none_or(|stable| stable == value))
        {
            return Err(format!(
                "Service {service} would still select the canary's pods: give spec.traffic.canaryLabels another value for a label that it selects by ({})",
                listed(stable.selector.keys())
            ));
        }
        return Ok(Apart {
            labels: labels.clone(),
            how: format!("by spec.traffic.canaryLabels ({})", pairs(labels)),
        });
    }
    if let Some(key) = stable
        .selector
        .keys()
        .filter(|key| !owned.contains_key(*key))
        // The value that the canary is to have cannot be stable's.
        .filter(|key| stable.selector.get(*key).is_some_and(|value| value != "canary"))
        .min_by_key(|key| (key.as_str() != "track", (*key).clone()))
    {
        let labels = BTreeMap::from([(key.clone(), "canary".to_owned())]);
        return Ok(Apart {
            how: format!("prepared: {} beside the Deployment's own selector", pairs(&labels)),
            labels,
        });
    }
    let key = KNOWN
        .into_iter()
        .find(|key| stable.selector.contains_key(*key))
        .map(str::to_owned)
        .or_else(|| stable.selector.keys().next().filter(|_| stable.selector.len() == 1).cloned())
        .ok_or_else(|| {
            format!(
                "Service {service} selects by {}: none of them can be chosen for you; give its selector and the Deployment's pod template a label such as track: stable, or set spec.traffic.canaryLabels",
                listed(stable.selector.keys())
            )
        })?;
    let value = stable.selector.get(&key).cloned().unwrap_or_default();
    if value.len() + "-canary".len() > LONGEST_VALUE {
        return Err(format!(
            "the label {key}={value} of Service {service} is too long to become {value}-canary for canary pods; set spec.traffic.canaryLabels"
        ));
    }
    if let Some(user) = other_user(survey, service, &key) {
        return Err(format!(
            "{user} selects by the label {key}, which would have to differ for canary pods; give the Deployment's pod template and Service {service} a label such as track: stable (it is not part of the Deployment's selector), and all else goes on seeing both versions"
        ));
    }
    let mut how =
        format!("unprepared: canary pods carry {key}={value}-canary; mesh and CNI policies were not looked at");
    if let Some(budget) = survey
        .disruption_budgets
        .iter()
        .find(|budget| budget.keys.contains(&key))
    {
        how = format!("{how}; PodDisruptionBudget {} does not see canary pods", budget.name);
    }
    Ok(Apart {
        labels: BTreeMap::from([(key, format!("{value}-canary"))]),
        how,
    })
}

/// Whether a selector matches these labels; an empty one matches none, as for a Service.
pub fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A map of strings out of an object; empty where it is none.
pub fn string_map(value: Option<&Value>) -> BTreeMap<String, String> {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Who else selects pods by this label: a NetworkPolicy, another Service that selects this Deployment's pods, or the pod template
/// itself.
fn other_user(survey: &Survey, stable: &str, key: &str) -> Option<String> {
    if let Some(policy) = survey
        .network_policies
        .iter()
        .find(|policy| policy.keys.iter().any(|used| used == key))
    {
        return Some(format!("NetworkPolicy {}", policy.name));
    }
    let pods = string_map(survey.workload.pointer("/spec/template/metadata/labels"));
    let sees = |service: &&ServiceView| {
        service.name != stable
            && service.canary_of.is_none()
            && service.selector.contains_key(key)
            && selects(&service.selector, &pods)
    };
    if let Some(service) = survey.services.iter().find(sees) {
        return Some(format!("Service {}", service.name));
    }
    let spec = survey.workload.pointer("/spec/template/spec")?;
    ["affinity", "topologySpreadConstraints"]
        .into_iter()
        .find(|field| spec.get(field).is_some_and(|terms| mentions(terms, key)))
        .map(|field| format!("{field} in the pod template"))
}

/// Whether a label key stands in a selector somewhere below: as a key of `matchLabels` or the `key` of an expression.
fn mentions(value: &Value, label: &str) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(name, field)| {
            (name == "matchLabels" && field.get(label).is_some())
                || (name == "key" && field.as_str() == Some(label))
                || mentions(field, label)
        }),
        Value::Array(items) => items.iter().any(|item| mentions(item, label)),
        _ => false,
    }
}

fn pairs(labels: &BTreeMap<String, String>) -> String {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.cloned().collect::<Vec<_>>().join(", ")
}
