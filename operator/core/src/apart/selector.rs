//! Label selectors as the API server reads them, and where they stand in the objects that may select canary pods.
//!
//! Pure. Two sets of labels are told apart by asking a selector of both: what it selects by does not matter where its answer is the
//! same.

use std::collections::BTreeMap;

use serde_json::Value;

use super::string_map;

/// A label selector: every term of it has to hold, and without any term it matches all pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    labels: BTreeMap<String, String>,
    expressions: Vec<Expression>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Expression {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl LabelSelector {
    /// A selector as it stands in an object. None where there is none, which matches no pod.
    pub fn read(selector: Option<&Value>) -> Option<Self> {
        let selector = selector.filter(|selector| selector.is_object())?;
        Some(Self {
            labels: string_map(selector.get("matchLabels")),
            expressions: items(Some(selector), "matchExpressions")
                .filter_map(Expression::read)
                .collect(),
        })
    }

    /// Whether pods of these labels are selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.expressions.iter().all(|expression| expression.holds(labels))
    }
}

impl Expression {
    fn read(expression: &Value) -> Option<Self> {
        let text = |field: &str| expression.get(field).and_then(Value::as_str);
        Some(Self {
            key: text("key")?.to_owned(),
            operator: match text("operator")? {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return None,
            },
            values: items(Some(expression), "values")
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect(),
        })
    }

    /// A label that is not there is in no list: `NotIn` holds for it.
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// The selectors of pods in the spec of a NetworkPolicy: whom it is for, and its peers in either direction. A peer with a
/// namespaceSelector may mean this namespace too; a namespaceSelector itself is about namespaces.
pub fn of_network_policy(spec: &Value) -> Vec<LabelSelector> {
    let peers = [("ingress", "from"), ("egress", "to")]
        .into_iter()
        .flat_map(|(rules, peers)| items(Some(spec), rules).flat_map(move |rule| items(Some(rule), peers)));
    LabelSelector::read(spec.get("podSelector"))
        .into_iter()
        .chain(peers.filter_map(|peer| LabelSelector::read(peer.get("podSelector"))))
        .collect()
}

/// The selector in the spec of a PodDisruptionBudget.
pub fn of_disruption_budget(spec: &Value) -> Vec<LabelSelector> {
    LabelSelector::read(spec.get("selector")).into_iter().collect()
}

/// The first term of a pod's own affinity or spread that goes by other pods, and by labels in which the two versions differ.
pub(super) fn own_term(
    spec: &Value,
    stable: &BTreeMap<String, String>,
    canary: &BTreeMap<String, String>,
) -> Option<&'static str> {
    let differs = |term: &Value| {
        let by_selector = LabelSelector::read(term.get("labelSelector"))
            .is_some_and(|selector| selector.matches(stable) != selector.matches(canary));
        // The pod's own values of these labels become terms of the selector.
        let mut by_own_value = items(Some(term), "matchLabelKeys")
            .chain(items(Some(term), "mismatchLabelKeys"))
            .filter_map(Value::as_str);
        by_selector || by_own_value.any(|key| stable.get(key) != canary.get(key))
    };
    let affinity = spec.get("affinity");
    let kinds = ["podAffinity", "podAntiAffinity"]
        .into_iter()
        .filter_map(|kind| affinity?.get(kind));
    let mut terms = kinds.flat_map(|kind| {
        let required = items(Some(kind), "requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = items(Some(kind), "preferredDuringSchedulingIgnoredDuringExecution");
        required.chain(preferred.filter_map(|preferred| preferred.get("podAffinityTerm")))
    });
    if terms.any(differs) {
        return Some("affinity");
    }
    items(Some(spec), "topologySpreadConstraints")
        .any(differs)
        .then_some("topologySpreadConstraints")
}

fn items<'v>(value: Option<&'v Value>, field: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value
        .and_then(|value| value.get(field))
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}
