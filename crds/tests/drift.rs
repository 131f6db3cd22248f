//! The generated files are what the types say. A failure is mended by `make gen`.

use std::fs;
use std::path::Path;

/// Where generated copies lie, seen from the root of the tree.
const COPIES: [&str; 2] = ["crds/rollouts.yaml", "charts/stepgate/crds/rollouts.yaml"];

#[test]
fn every_copy_of_the_crd_is_what_the_types_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let generated = stepgate_crds::rollouts_yaml().unwrap();
    for copy in COPIES {
        let text = fs::read_to_string(root.join(copy)).unwrap_or_else(|error| panic!("{copy}: {error}"));
        let line = text
            .lines()
            .zip(generated.lines())
            .position(|(copy, generated)| copy != generated);
        assert!(
            text == generated,
            "{copy} is out of date (first difference in line {}): run `make gen`, and commit what it writes",
            line.unwrap_or_else(|| text.lines().count().min(generated.lines().count())) + 1
        );
    }
}

#[test]
fn the_schema_says_what_every_field_is_for() {
    let crd: serde_json::Value = serde_saphyr::from_str(&stepgate_crds::rollouts_yaml().unwrap()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let mut silent = Vec::new();
    for part in ["spec", "status"] {
        undescribed(part, &schema[part], &mut silent);
    }
    assert!(
        silent.is_empty(),
        "fields without a description in `kubectl explain`: {silent:?}"
    );
}

fn undescribed(path: &str, schema: &serde_json::Value, silent: &mut Vec<String>) {
    let properties = schema["properties"].as_object().into_iter().flatten();
    for (name, property) in properties {
        let path = format!("{path}.{name}");
        if property["description"].as_str().is_none_or(str::is_empty) {
            silent.push(path.clone());
        }
        undescribed(&path, property, silent);
    }
    if schema["items"].is_object() {
        undescribed(path, &schema["items"], silent);
    }
}
