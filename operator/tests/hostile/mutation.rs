//! Changes of JSON at any path: what stands there dropped, emptied, of another type, negative, huge.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// What happens to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    Drop,
    Null,
    EmptyObject,
    EmptyList,
    EmptyText,
    Text,
    Bool,
    Zero,
    Negative,
    MostNegative,
    Largest,
    Largest32,
    Huge,
    Fraction,
    LongText,
    Many,
    Wrapped,
}

impl Mutation {
    pub(crate) const ALL: [Self; 17] = [
        Self::Drop,
        Self::Null,
        Self::EmptyObject,
        Self::EmptyList,
        Self::EmptyText,
        Self::Text,
        Self::Bool,
        Self::Zero,
        Self::Negative,
        Self::MostNegative,
        Self::Largest,
        Self::Largest32,
        Self::Huge,
        Self::Fraction,
        Self::LongText,
        Self::Many,
        Self::Wrapped,
    ];

    fn of(self, value: &Value) -> Option<Value> {
        Some(match self {
            Self::Drop => return None,
            Self::Null => Value::Null,
            Self::EmptyObject => json!({}),
            Self::EmptyList => json!([]),
            Self::EmptyText => json!(""),
            Self::Text => json!("é–\u{0}\u{1F980} / ~1 . - x"),
            Self::Bool => json!(true),
            Self::Zero => json!(0),
            Self::Negative => json!(-1),
            Self::MostNegative => json!(i64::MIN),
            Self::Largest => json!(i64::MAX),
            Self::Largest32 => json!(i32::MAX),
            Self::Huge => json!(u64::MAX),
            Self::Fraction => json!(1e300),
            Self::LongText => json!("ü-.".repeat(8_000)),
            Self::Many => match value {
                Value::Array(items) => items.iter().cycle().take(256).cloned().collect(),
                Value::Object(fields) => {
                    let more = (0..256).map(|number| (format!("key-{number}"), json!("value")));
                    Value::Object(fields.clone().into_iter().chain(more).collect::<Map<_, _>>())
                }
                other => vec![other.clone(); 256].into(),
            },
            Self::Wrapped => json!([{"value": value}]),
        })
    }

    /// The object changed at this path.
    pub(crate) fn apply(self, object: &mut Value, path: &str) {
        let Some(value) = object.pointer_mut(path) else { return };
        if let Some(other) = self.of(value) {
            *value = other;
            return;
        }
        let (parent, field) = path.rsplit_once('/').expect("a path below the root");
        match object.pointer_mut(parent) {
            Some(Value::Object(fields)) => {
                fields.remove(&field.replace("~1", "/").replace("~0", "~"));
            }
            Some(Value::Array(items)) => {
                items.remove(field.parse().unwrap());
            }
            _ => {}
        }
    }
}

/// Any of them.
pub(crate) fn any_mutation() -> impl Strategy<Value = Mutation> {
    prop::sample::select(Mutation::ALL.as_slice())
}

/// Every path below the root, as JSON pointers.
pub(crate) fn paths(object: &Value) -> Vec<String> {
    fn walk(value: &Value, path: &str, found: &mut Vec<String>) {
        let fields: Vec<(String, &Value)> = match value {
            Value::Object(fields) => fields
                .iter()
                .map(|(name, field)| (name.replace('~', "~0").replace('/', "~1"), field))
                .collect(),
            Value::Array(items) => items
                .iter()
                .enumerate()
                .map(|(at, item)| (at.to_string(), item))
                .collect(),
            _ => Vec::new(),
        };
        for (name, field) in fields {
            let path = format!("{path}/{name}");
            walk(field, &path, found);
            found.push(path);
        }
    }
    let mut found = Vec::new();
    walk(object, "", &mut found);
    found
}
