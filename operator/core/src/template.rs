//! When two pod templates are the same: equal as the API server returns them, `pod-template-hash` aside.
//!
//! The digest lives in memory alone and only ever compares objects read by one process, so that no upgrade of the operator, a
//! library or the cluster can make an old version look new.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
};

use serde_json::Value;

/// The label that the Deployment controller adds to the template of a ReplicaSet.
const HASH_LABEL: &str = "pod-template-hash";

/// Stands for the content of one pod template within this process. Never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Digest(u64, u64);

/// The digest of a template as read.
pub fn digest(template: &Value) -> Digest {
    let plain = without_hash(template);
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        write(&plain, &mut hasher);
        hasher.finish()
    };
    Digest(half(0), half(1))
}

/// The template of a ReplicaSet as it stood in its Deployment.
pub fn without_hash(template: &Value) -> Value {
    let mut plain = template.clone();
    if let Some(metadata) = plain.get_mut("metadata").and_then(Value::as_object_mut) {
        // Servers differ in whether they write it; it says nothing.
        if metadata.get("creationTimestamp").is_some_and(Value::is_null) {
            metadata.remove("creationTimestamp");
        }
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(HASH_LABEL);
        }
    }
    plain
}

fn write(value: &Value, hasher: &mut impl Hasher) {
    match value {
        Value::Null => 0u8.hash(hasher),
        Value::Bool(bool) => (1u8, bool).hash(hasher),
        Value::Number(number) => (2u8, number.to_string()).hash(hasher),
        Value::String(text) => (3u8, text).hash(hasher),
        Value::Array(items) => {
            (4u8, items.len()).hash(hasher);
            for item in items {
                write(item, hasher);
            }
        }
        Value::Object(fields) => {
            (5u8, fields.len()).hash(hasher);
            // The order of keys says nothing, whichever map serde_json was built with.
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort_unstable();
            for key in keys {
                key.hash(hasher);
                if let Some(field) = fields.get(key) {
                    write(field, hasher);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_replica_sets_template_equals_its_deployments() {
        let deployment = json!({"metadata": {"labels": {"app": "a"}, "creationTimestamp": null}, "spec": {"containers": [{"name": "c"}]}});
        let replica_set = json!({"spec": {"containers": [{"name": "c"}]}, "metadata": {"labels": {"pod-template-hash": "x", "app": "a"}}});
        assert_eq!(digest(&deployment), digest(&replica_set));
    }

    #[test]
    fn any_other_difference_is_a_new_version() {
        let one = json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "1"}]}]}});
        let two = json!({"spec": {"containers": [{"name": "c", "env": [{"name": "A", "value": "2"}]}]}});
        assert_ne!(digest(&one), digest(&two));
        assert_ne!(digest(&json!({"a": ["b", "c"]})), digest(&json!({"a": ["bc"]})));
        assert_ne!(digest(&json!({"a": 1})), digest(&json!({"a": "1"})));
    }
}
