//! Whose write a stored version of a route is. Field managers are stamped with whole seconds, and in a storm several write within one; the
//! operator's own writes are told by its mark, which each of them changes and nobody else's does.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::{Value, json};
use stepgate_crds::names;

use super::super::observer::Version;

/// The same history, in which every version of a route names its author alone.
pub fn told_apart(mut history: Vec<Version>) -> Vec<Version> {
    let mut marks: HashMap<String, Option<String>> = HashMap::new();
    for version in history.iter_mut().filter(|version| version.kind == "HTTPRoute") {
        let Some(object) = &version.object else { continue };
        let mark = object
            .pointer("/metadata/annotations")
            .and_then(|all| all.get(names::RUN));
        let mark = mark.and_then(Value::as_str).map(str::to_owned);
        let before = marks.insert(version.name.clone(), mark.clone()).flatten();
        let author = if before == mark { "another" } else { names::MANAGER };
        let mut told = object.as_ref().clone();
        if let Some(entries) = told.pointer_mut("/metadata/managedFields") {
            *entries = json!([{"manager": author}]);
        }
        version.object = Some(Arc::new(told));
    }
    history
}
