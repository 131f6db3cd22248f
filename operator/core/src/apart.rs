//! Which labels set canary pods apart from those that the stable Service selects, and what forbids it.
//!
//! Canary pods that the stable Service selects would get traffic that no weight governs. Where something else tells the two apart by
//! the label that would have to change, the answer is a refusal that names it, never a guess; a person who says the labels has the
//! last word, and reads in `status.found` what follows from them.

use std::collections::BTreeMap;

use serde_json::Value;
use stepgate_crds::names;

use crate::input::{ServiceView, Survey};

pub mod selector;

type Labels = BTreeMap<String, String>;

/// The labels by which a Service's selector may be told apart, most telling first.
const KNOWN: [&str; 3] = ["app.kubernetes.io/instance", "app.kubernetes.io/name", "app"];

/// Most characters of a label's value, and of a key without its prefix.
const LONGEST_VALUE: usize = 63;

/// What could select canary pods otherwise than stable's and is in no list that is read.
const NOT_LOOKED_AT: &str = "not looked at: policies of gateways, meshes and CNIs, and what other namespaces or workloads select by these labels";

/// How canary pods are set apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// The labels that canary pods carry in place of stable's.
    pub labels: Labels,
    /// How they were chosen, what does not see canary pods, and what was not looked at, for `status.found`.
    pub how: String,
}

/// The first of the three ways that fits, or why none does.
pub fn choose(survey: &Survey, stable: &ServiceView, wanted: Option<&Labels>) -> Result<Apart, String> {
    if let Some(labels) = wanted {
        return by_the_users_word(survey, stable, labels);
    }
    prepared(survey, stable).unwrap_or_else(|| unprepared(survey, stable))
}

/// The labels that the user says. What tells the two apart by them is noted, for it may be meant so.
fn by_the_users_word(survey: &Survey, stable: &ServiceView, labels: &Labels) -> Result<Apart, String> {
    if labels
        .iter()
        .all(|(key, value)| stable.selector.get(key).is_none_or(|stable| stable == value))
    {
        return Err(format!(
            "Service {} would still select the canary's pods: give spec.traffic.canaryLabels another value for a label that it selects by ({})",
            stable.name,
            listed(stable.selector.keys())
        ));
    }
    if let Some((key, value)) = labels.iter().find(|(key, value)| !is_label(key, value)) {
        return Err(format!(
            "spec.traffic.canaryLabels: {key}={value} is no label that a pod can be given; a value has at most {LONGEST_VALUE} letters, digits, dashes, underscores and dots, and the labels of Stepgate and of the Deployment's controller are their own"
        ));
    }
    let how = format!("by spec.traffic.canaryLabels ({})", pairs(labels));
    let differing = Differing::new(survey, stable, labels);
    let noted = [
        differing.policies(),
        differing.services(),
        differing.terms(),
        differing.budgets(),
    ];
    Ok(apart(labels.clone(), how, noted.into_iter().flatten()))
}

/// A label of the Service's selector that the Deployment's own selector does not have. None where there is no such label.
fn prepared(survey: &Survey, stable: &ServiceView) -> Option<Result<Apart, String>> {
    let owned = owned_keys(survey);
    let mut keys: Vec<&String> = stable
        .selector
        .iter()
        // The value that the canary is to have cannot be stable's.
        .filter(|(key, value)| !owned.contains(key) && *value != "canary")
        .map(|(key, _)| key)
        .collect();
    keys.sort_by_key(|key| key.as_str() != "track");
    let ways = keys.iter().map(|key| {
        let labels = Labels::from([((*key).clone(), "canary".to_owned())]);
        let differing = Differing::new(survey, stable, &labels);
        if let Some(user) = differing.policies().or_else(|| differing.terms()) {
            return Err(format!(
                "{} selects by the label {key}, which would have to differ for canary pods; let it select by another label, give the Deployment's pod template and Service {} a label for this alone such as track: stable, or say in spec.traffic.canaryLabels what canary pods carry",
                user.name, stable.name
            ));
        }
        let how = format!("prepared: {} beside the Deployment's own selector", pairs(&labels));
        let noted = [differing.services(), differing.budgets()];
        Ok(apart(labels, how, noted.into_iter().flatten()))
    });
    let mut ways: Vec<Result<Apart, String>> = ways.collect();
    let fits = ways.iter().position(Result::is_ok).unwrap_or(0);
    (!ways.is_empty()).then(|| ways.swap_remove(fits))
}

/// One label that the Service selects by gets another value, where nothing else goes by it.
fn unprepared(survey: &Survey, stable: &ServiceView) -> Result<Apart, String> {
    let service = &stable.name;
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
    let value = match stable.selector.get(&key).map(String::as_str) {
        None | Some("") => "canary".to_owned(),
        Some(value) => format!("{value}-canary"),
    };
    if value.len() > LONGEST_VALUE {
        return Err(format!(
            "the label {key} of Service {service} is too long to become {value} for canary pods; set spec.traffic.canaryLabels"
        ));
    }
    let labels = Labels::from([(key.clone(), value)]);
    let differing = Differing::new(survey, stable, &labels);
    let user = differing
        .policies()
        .or_else(|| differing.services())
        .or_else(|| differing.terms());
    if let Some(user) = user {
        return Err(format!(
            "{} selects by the label {key}, which would have to differ for canary pods; give the Deployment's pod template and Service {service} a label such as track: stable (it is not part of the Deployment's selector), and all else goes on seeing both versions",
            user.name
        ));
    }
    let how = format!("unprepared: canary pods carry {}", pairs(&labels));
    Ok(apart(labels, how, differing.budgets().into_iter()))
}

/// Something that tells canary pods from stable's by their labels.
struct User {
    name: String,
    /// Whether it selects stable's pods, and so not the canary's.
    of_stable: bool,
}

fn apart(labels: Labels, how: String, noted: impl Iterator<Item = User>) -> Apart {
    let mut how = noted.fold(how, |how, user| {
        let sight = if user.of_stable { "does not see" } else { "sees only" };
        format!("{how}; {} {sight} canary pods", user.name)
    });
    how = format!("{how}; {NOT_LOOKED_AT}");
    Apart { labels, how }
}

/// The pods of the two versions, for asking what tells them apart.
struct Differing<'a> {
    survey: &'a Survey,
    stable: &'a ServiceView,
    pods: Labels,
    canary: Labels,
}

impl<'a> Differing<'a> {
    fn new(survey: &'a Survey, stable: &'a ServiceView, labels: &Labels) -> Self {
        let pods = string_map(survey.workload.pointer("/spec/template/metadata/labels"));
        let mut canary = pods.clone();
        canary.extend(labels.clone());
        Self {
            survey,
            stable,
            pods,
            canary,
        }
    }

    fn policies(&self) -> Option<User> {
        self.selecting("NetworkPolicy", &self.survey.network_policies)
    }

    fn budgets(&self) -> Option<User> {
        self.selecting("PodDisruptionBudget", &self.survey.disruption_budgets)
    }

    fn selecting(&self, kind: &str, views: &[crate::input::SelectorView]) -> Option<User> {
        views.iter().find_map(|view| {
            let selector = view
                .selectors
                .iter()
                .find(|selector| selector.matches(&self.pods) != selector.matches(&self.canary))?;
            Some(User {
                name: format!("{kind} {}", view.name),
                of_stable: selector.matches(&self.pods),
            })
        })
    }

    fn services(&self) -> Option<User> {
        let mut others = self
            .survey
            .services
            .iter()
            .filter(|service| service.name != self.stable.name && service.canary_of.is_none());
        others.find_map(|service| {
            let of_stable = selects(&service.selector, &self.pods);
            (of_stable != selects(&service.selector, &self.canary)).then(|| User {
                name: format!("Service {}", service.name),
                of_stable,
            })
        })
    }

    fn terms(&self) -> Option<User> {
        let spec = self.survey.workload.pointer("/spec/template/spec")?;
        let field = selector::own_term(spec, &self.pods, &self.canary)?;
        Some(User {
            name: format!("{field} in the pod template"),
            of_stable: true,
        })
    }
}

/// Whether a selector matches these labels; an empty one matches none, as for a Service.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// A map of strings out of an object; empty where it is none.
pub fn string_map(value: Option<&Value>) -> Labels {
    value
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// The label keys of the Deployment's own selector.
fn owned_keys(survey: &Survey) -> Vec<String> {
    let expressions = survey.workload.pointer("/spec/selector/matchExpressions");
    let keys = expressions
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|expression| expression.get("key")?.as_str().map(str::to_owned));
    string_map(survey.workload.pointer("/spec/selector/matchLabels"))
        .into_keys()
        .chain(keys)
        .collect()
}

/// Whether a pod can be given this label, and by us.
fn is_label(key: &str, value: &str) -> bool {
    let word = |word: &str| {
        let end = |character: Option<char>| character.is_some_and(|character| character.is_ascii_alphanumeric());
        let inner = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.');
        word.len() <= LONGEST_VALUE
            && end(word.chars().next())
            && end(word.chars().next_back())
            && word.chars().all(inner)
    };
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    let ours = key == names::RUN || key == "pod-template-hash";
    !ours && word(name) && (value.is_empty() || word(value))
}

fn pairs(labels: &Labels) -> String {
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn listed<'a>(names: impl Iterator<Item = &'a String>) -> String {
    names.cloned().collect::<Vec<_>>().join(", ")
}
