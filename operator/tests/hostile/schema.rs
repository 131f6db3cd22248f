//! Rollouts out of the schema that the API server checks: whatever it admits is read or told to be unreadable, and decided on in bounds.

use std::rc::Rc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};
use stepgate::kinds::rollout::Watched;
use stepgate::observe::rollout_view;

use super::{
    bounds::{brief, bytes, cases, decide},
    moments::{self, Moment, observe, read},
    mutation::paths,
};

const CRD: &str = include_str!("../../../crds/rollouts.yaml");

/// The schema of a Rollout's spec and status.
fn schema() -> Value {
    let crd: Value = serde_saphyr::from_str(CRD).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Texts that mean something here, and some that mean nothing anywhere.
const WORDS: [&str; 14] = [
    "checkout",
    "checkout-canary",
    "static",
    "default",
    "shop",
    "checkout gateways/edge example.com/gateway",
    "http_errors",
    "Verdict",
    "Tripwire",
    "",
    " ",
    "a.b-c.3",
    "é\u{1F980}\u{0}",
    "../../x?y#z",
];

const TIMES: [&str; 7] = [
    "2027-01-15T08:00:00Z",
    "2027-01-15T08:02:00.123Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2027-01-15T08:00:00+14:00",
    "2027-01-15T08:00:00+99:99",
    "2016-12-31T23:59:60Z",
];

fn text(schema: &Value) -> BoxedStrategy<Value> {
    let longest = schema["maxLength"]
        .as_u64()
        .map_or(3_000, |longest| usize::try_from(longest).unwrap());
    let shortest = schema["minLength"]
        .as_u64()
        .map_or(0, |shortest| usize::try_from(shortest).unwrap());
    if schema["format"] == "date-time" {
        return prop::sample::select(TIMES.as_slice())
            .prop_map(|time| json!(time))
            .boxed();
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let pattern = pattern.trim_start_matches('^').trim_end_matches('$').to_owned();
        let fits = move |text: &String| text.len() <= longest;
        let any = prop::string::string_regex(&pattern).unwrap();
        return any.prop_filter("too long", fits).prop_map(|text| json!(text)).boxed();
    }
    let fits = move |text: &String| (shortest..=longest).contains(&text.chars().count());
    prop_oneof![
        6 => prop::sample::select(WORDS.as_slice()).prop_map(str::to_owned),
        2 => "\\PC{0,40}",
        1 => Just("l".repeat(longest)),
    ]
    .prop_filter("too short or too long", fits)
    .prop_map(|text| json!(text))
    .boxed()
}

/// A bound of integers, which the CRD writes as `0` or as `0.0`.
fn whole(bound: &Value) -> i64 {
    let text = bound.to_string();
    text.trim_end_matches(".0").parse().expect("a whole number")
}

fn integer(schema: &Value) -> BoxedStrategy<Value> {
    let narrow = schema["format"] == "int32";
    let (lowest, highest) = if narrow {
        (i64::from(i32::MIN), i64::from(i32::MAX))
    } else {
        (i64::MIN, i64::MAX)
    };
    let bound = |field: &str, other: i64| schema.get(field).map_or(other, whole);
    let (lowest, highest) = (bound("minimum", lowest), bound("maximum", highest));
    prop_oneof![
        4 => (0_i64..200).prop_map(move |small| small.clamp(lowest, highest)),
        1 => Just(lowest),
        1 => Just(highest),
        2 => lowest..=highest,
    ]
    .prop_map(|number| json!(number))
    .boxed()
}

/// Whatever this schema admits.
fn arbitrary(schema: &Value, depth: usize) -> BoxedStrategy<Value> {
    let any = admitted(schema, depth);
    if schema["nullable"] == true {
        prop_oneof![8 => any, 1 => Just(Value::Null)].boxed()
    } else {
        any
    }
}

fn admitted(schema: &Value, depth: usize) -> BoxedStrategy<Value> {
    if let Some(values) = schema["enum"].as_array() {
        // Null stands among them where it may be.
        return prop::sample::select(values.clone()).boxed();
    }
    match schema["type"].as_str() {
        Some("object") => object(schema, depth),
        Some("array") => {
            let least = schema["minItems"]
                .as_u64()
                .map_or(0, |least| usize::try_from(least).unwrap());
            let most = schema["maxItems"]
                .as_u64()
                .map_or(least + 6, |most| usize::try_from(most).unwrap());
            prop::collection::vec(arbitrary(&schema["items"], depth + 1), least..=most.max(least))
                .prop_map(Value::Array)
                .boxed()
        }
        Some("string") => text(schema),
        Some("integer") => integer(schema),
        Some("number") => prop_oneof![
            4 => 0.0..200.0,
            1 => prop::num::f64::NORMAL,
            1 => prop::sample::select(vec![0.0, -1.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE]),
        ]
        .prop_map(|number| json!(number))
        .boxed(),
        Some("boolean") => any::<bool>().prop_map(|bool| json!(bool)).boxed(),
        other => panic!("a schema of type {other:?}: {schema}"),
    }
}

fn object(schema: &Value, depth: usize) -> BoxedStrategy<Value> {
    if schema.get("additionalProperties").is_some_and(Value::is_object) {
        let value = arbitrary(&schema["additionalProperties"], depth + 1);
        let most = schema["maxProperties"]
            .as_u64()
            .map_or(8, |most| usize::try_from(most).unwrap());
        return prop::collection::btree_map("[a-z./-]{1,63}", value, 1..=most)
            .prop_map(|fields| json!(fields))
            .boxed();
    }
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    // One of the variants of an enum with fields: exactly one of the properties.
    if let Some(variants) = schema["oneOf"].as_array() {
        let variants: Vec<BoxedStrategy<Value>> = variants
            .iter()
            .map(|variant| {
                let name = variant["required"][0].as_str().unwrap().to_owned();
                let value = arbitrary(&schema["properties"][&name], depth + 1);
                value.prop_map(move |value| json!({ name.clone(): value })).boxed()
            })
            .collect();
        return prop::strategy::Union::new(variants).boxed();
    }
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    let fields: Vec<BoxedStrategy<Option<(String, Value)>>> = properties
        .iter()
        .map(|(name, property)| {
            let name = name.clone();
            let value = arbitrary(property, depth + 1);
            if required.contains(&name.as_str()) {
                return value.prop_map(move |value| Some((name.clone(), value))).boxed();
            }
            prop::option::weighted(0.6, value)
                .prop_map(move |value| value.map(|value| (name.clone(), value)))
                .boxed()
        })
        .collect();
    fields
        .prop_map(|fields| Value::Object(fields.into_iter().flatten().collect::<Map<_, _>>()))
        .boxed()
}

/// The schema of what stands at this path of a Rollout.
fn schema_at<'s>(schema: &'s Value, path: &str) -> Option<&'s Value> {
    path.split('/').skip(1).try_fold(schema, |schema, field| {
        let next = match schema["type"].as_str()? {
            "array" => schema.get("items"),
            _ => schema
                .get("properties")
                .and_then(|properties| properties.get(field))
                .or_else(|| schema.get("additionalProperties")),
        };
        next.filter(|schema| schema.is_object())
    })
}

/// Reads a Rollout as the operator does, decides on it at this moment, and says what was out of bounds. Whether it was read.
fn check(moment: &Moment, rollout: &Value) -> Result<bool, String> {
    let rollout = match read::<Watched>(rollout) {
        Watched::Read(rollout) => rollout,
        Watched::Unreadable(unreadable) => {
            let note = unreadable.note();
            let told = note.text.len() < 1_500 && format!("{unreadable:?}").len() < 64_000;
            return if told {
                Ok(false)
            } else {
                Err(format!("too much is kept: {unreadable:?}"))
            };
        }
    };
    let mut seen = observe(moment, &moment.objects);
    seen.rollout = rollout_view(&rollout);
    // The routes that it names, in its order; the shell brings each.
    seen.routes = seen
        .rollout
        .routes()
        .iter()
        .map(|route| (route.name.clone(), moment.seen.routes[0].1.clone()))
        .collect();
    let given = bytes(
        &moment
            .objects
            .iter()
            .map(|object| object.json.clone())
            .collect::<Vec<_>>(),
    );
    let given = 4 * (given + bytes(&seen.rollout.status)) * seen.routes.len().max(1);
    // What is decided stands when it is read back: a status that we write can be read.
    let plan = decide(&seen, given)?;
    if let stepgate_core::Plan::Commit(status) = plan {
        let written = json!({"metadata": {"name": "checkout"}, "spec": seen.rollout.spec, "status": status});
        if let Watched::Unreadable(unreadable) = read::<Watched>(&written) {
            return Err(format!("what was written cannot be read: {}", unreadable.why));
        }
    }
    Ok(true)
}

fn run(strategy: &impl Strategy<Value = (usize, Value)>, moments: &[Moment], usual: u32) -> (u32, u32) {
    let counts = std::cell::Cell::new((0, 0));
    TestRunner::new(cases(usual))
        .run(strategy, |(at, rollout)| {
            let moment = &moments[at];
            let read = check(moment, &rollout)
                .map_err(|why| TestCaseError::fail(format!("{}: {why}: {}", moment.name, brief(&rollout))))?;
            let (all, readable) = counts.get();
            counts.set((all + 1, readable + u32::from(read)));
            Ok(())
        })
        .unwrap();
    counts.get()
}

#[test]
fn whatever_the_schema_admits_is_decided_on_in_bounds() {
    let moments = moments::all();
    let schema = schema();
    let made = (
        0..moments.len(),
        arbitrary(&schema["properties"]["spec"], 0),
        prop::option::weighted(0.8, arbitrary(&schema["properties"]["status"], 0)),
    );
    let rollouts: Vec<Value> = moments.iter().map(|moment| moment.rollout.clone()).collect();
    let strategy = made.prop_map(move |(at, spec, status)| {
        let mut rollout = rollouts[at].clone();
        rollout["spec"] = spec;
        rollout["status"] = status.unwrap_or_default();
        (at, rollout)
    });
    let (all, readable) = run(&strategy, &moments, 500);
    println!("{all} Rollouts of the schema, of which {readable} can be read");
    assert!(readable > all / 20);
}

#[test]
fn a_real_rollout_with_anything_that_the_schema_admits_in_some_places_is_decided_on_in_bounds() {
    let moments = moments::all();
    let schema = schema();
    // Every place of every real one, with whatever its schema admits.
    let places: Vec<(usize, String, Rc<BoxedStrategy<Value>>)> = moments
        .iter()
        .enumerate()
        .flat_map(|(at, moment)| {
            let ours = paths(&moment.rollout)
                .into_iter()
                .filter(|path| path.starts_with("/spec/") || path.starts_with("/status/"));
            let schema = &schema;
            ours.filter_map(move |path| Some((at, path.clone(), Rc::new(arbitrary(schema_at(schema, &path)?, 0)))))
        })
        .collect();
    assert!(places.len() > 500, "{}", places.len());
    let of = |at: usize| -> Vec<(String, Rc<BoxedStrategy<Value>>)> {
        let here = places.iter().filter(|(moment, ..)| *moment == at);
        here.map(|(_, path, any)| (path.clone(), Rc::clone(any))).collect()
    };
    let by_moment: Rc<Vec<_>> = Rc::new((0..moments.len()).map(of).collect());
    let rollouts: Vec<Value> = moments.iter().map(|moment| moment.rollout.clone()).collect();
    let picks = prop::collection::vec(any::<prop::sample::Index>(), 1..5);
    let strategy = (0..moments.len(), picks)
        .prop_flat_map(move |(at, picks)| {
            let changes: Vec<_> = picks
                .into_iter()
                .map(|pick| {
                    let (path, any) = pick.get(&by_moment[at]).clone();
                    (Just(path), any)
                })
                .collect();
            (Just(at), changes)
        })
        .prop_map(move |(at, changes)| {
            let mut rollout = rollouts[at].clone();
            for (path, value) in changes {
                if let Some(place) = rollout.pointer_mut(&path) {
                    *place = value;
                }
            }
            (at, rollout)
        });
    let (all, readable) = run(&strategy, &moments, 4_000);
    println!("{all} mutated Rollouts, of which {readable} can be read");
    assert!(readable > all / 4);
}
