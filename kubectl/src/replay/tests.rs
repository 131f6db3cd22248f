//! What a replayed document says, what it keeps, and how it is refused.

use serde_json::{Value, json};

use super::*;

const VECTORS: &str = include_str!("../../../tests/vectors/eprocess.json");

fn replayed(document: &Value) -> Value {
    let text = replay(&document.to_string(), "counts.json", 15)
        .unwrap()
        .json()
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

fn case(intervals: &Value) -> Value {
    json!({"cases": [{"rho0": 1.2, "phi": 1.0, "tolerance": 0.01, "intervals_nc_xc_ns_xs": intervals}]})
}

fn refusal(text: &str) -> String {
    format!("{:#}", replay(text, "counts.json", 15).unwrap_err())
}

#[test]
fn all_reference_cases_come_out_to_a_billionth() {
    const EVIDENCE: [&str; 3] = ["ln_e_relative", "ln_e_absolute", "ln_e_pass"];
    let expected: Value = serde_json::from_str(VECTORS).unwrap();
    let mut bare = expected.clone();
    for case in bare["cases"].as_array_mut().unwrap() {
        for name in EVIDENCE {
            case.as_object_mut().unwrap().remove(name).unwrap();
        }
    }
    let found = replayed(&bare);
    assert_eq!(found["grid"], expected["grid"]);
    let cases = expected["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 40);
    for (number, case) in cases.iter().enumerate() {
        let found = &found["cases"][number];
        let intervals = case["intervals_nc_xc_ns_xs"].as_array().unwrap();
        assert_eq!(&found["intervals_nc_xc_ns_xs"], &case["intervals_nc_xc_ns_xs"]);
        assert_eq!(found["verdict"].as_array().unwrap().len(), intervals.len());
        for name in EVIDENCE {
            assert_eq!(found[name].as_array().unwrap().len(), intervals.len());
            for at in 0..intervals.len() {
                let (found, expected) = (found[name][at].as_f64().unwrap(), case[name][at].as_f64().unwrap());
                assert!(
                    (found - expected).abs() <= 1e-9 * expected.abs(),
                    "case {number}, {name}, interval {at}: {found} instead of {expected}"
                );
            }
        }
    }
}

#[test]
fn verdicts_are_the_operators_with_their_reasons() {
    let mut intervals = vec![json!([150, 0, 1350, 1]); 3];
    intervals.push(json!([150, 30, 1350, 1]));
    let found = &replayed(&case(&Value::from(intervals)))["cases"][0];
    assert_eq!(found["verdict"], json!(["Hold", "Hold", "Pass", "Fail"]));
    assert_eq!(
        found["reason"],
        json!(["InsufficientTraffic", "InsufficientTraffic", "Pass", "OverMax"])
    );
}

#[test]
fn evidence_that_stands_there_is_replaced_in_its_place() {
    let text =
        r#"{"cases":[{"ln_e_pass":[7],"rho0":1.0,"phi":1.0,"tolerance":0.01,"intervals_nc_xc_ns_xs":[[10,0,90,0]]}]}"#;
    let again = replay(text, "counts.json", 15).unwrap().json().unwrap();
    let found: Value = serde_json::from_str(&again).unwrap();
    assert_ne!(found["cases"][0]["ln_e_pass"], json!([7]));
    assert!(
        again.find("ln_e_pass").unwrap() < again.find("rho0").unwrap(),
        "{again}"
    );
    assert_eq!(again.matches("ln_e_pass").count(), 1);
}

#[test]
fn what_is_not_ours_is_kept_to_the_letter() {
    let ours = r#""rho0":1.20,"phi":1e0,"tolerance":0.01,"intervals_nc_xc_ns_xs":[[10.0, 0, 90, 1]]"#;
    let text = format!(
        r#"{{"zeta": 123456789012345678901234567890, "cases": [{{"run": "r7", {ours}, "alpha": {{"b": 0.10, "a": 1e400}}}}], "beta": null}}"#
    );
    let again = replay(&text, "counts.json", 15).unwrap().json().unwrap();
    for kept in [
        "123456789012345678901234567890",
        r#"{"b": 0.10, "a": 1e400}"#,
        "1.20",
        "1e0",
        "[[10.0, 0, 90, 1]]",
        r#""beta": null"#,
    ] {
        assert!(again.contains(kept), "{kept} is lost: {again}");
    }
    let places = ["zeta", "cases", "run", "rho0", "phi", "alpha", "beta"]
        .map(|name| again.find(&format!("\"{name}\"")).unwrap());
    assert!(places.is_sorted(), "{again}");
}

#[test]
fn no_interval_is_no_verdict_and_no_case_no_error() {
    assert_eq!(replayed(&json!({"cases": []})), json!({"cases": []}));
    let found = replayed(&case(&json!([])));
    assert_eq!(found["cases"][0]["verdict"], json!([]));
}

#[test]
fn a_refusal_names_file_case_interval_and_what_to_do() {
    let bad = |intervals: Value| refusal(&case(&intervals).to_string());
    let rows = [
        (
            json!([[4, 5, 0, 0]]),
            "case 1 (cases[0]): interval 1 (intervals_nc_xc_ns_xs[0]): 5 bad requests of 4 of the canary",
        ),
        (
            json!([[4, 0, 9, 0], [4, 0, 1, 2]]),
            "interval 2 (intervals_nc_xc_ns_xs[1]): 2 bad requests of 1 of the stable",
        ),
        (
            json!([[-4, 0, 0, 0]]),
            "the canary's requests are -4; give a whole number",
        ),
        (
            json!([[4, 0.5, 0, 0]]),
            "the canary's bad requests are 0.5; give a whole number",
        ),
        (
            json!([[4, 0, "9", 0]]),
            "the stable's requests are \"9\"; give a whole number",
        ),
        (json!([[4, 0, 9_007_199_254_740_993_u64, 0]]), "from 0 to 2^53"),
        (json!([[4, 0, 1e300, 0]]), "from 0 to 2^53"),
        (json!([[4, 0, 9]]), "3 numbers instead of 4; give [canary requests"),
        (
            json!([[4, 0, 9, 0], 7]),
            "interval 2 (intervals_nc_xc_ns_xs[1]): 7 is no list; give [canary requests",
        ),
        (
            json!({"a": 1}),
            "`intervals_nc_xc_ns_xs` is no list; give a list of intervals",
        ),
    ];
    for (intervals, expected) in rows {
        let found = bad(intervals);
        assert!(found.starts_with("counts.json: case 1 (cases[0]): "), "{found}");
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn a_refusal_names_the_field_that_is_missing_or_out_of_range() {
    let good = &case(&json!([[4, 0, 9, 0]]))["cases"][0];
    for (name, form) in [
        ("rho0", "from 1 to 100"),
        ("phi", "from 1 to 1000000"),
        ("tolerance", "at most 0.5"),
        ("intervals_nc_xc_ns_xs", "a list of intervals"),
    ] {
        let refused = |value: Option<Value>| {
            let mut case = good.as_object().unwrap().clone();
            case.remove(name);
            case.extend(value.map(|value| (name.to_owned(), value)));
            refusal(&json!({"cases": [good, case]}).to_string())
        };
        for value in [
            None,
            Some(json!("1")),
            Some(json!(-1)),
            Some(json!(null)),
            Some(json!(0.99e7)),
        ] {
            let found = refused(value);
            assert!(found.starts_with("counts.json: case 2 (cases[1]): "), "{found}");
            assert!(found.contains(&format!("`{name}`")) && found.contains(form), "{found}");
        }
    }
}

#[test]
fn what_is_no_document_is_told_what_one_looks_like() {
    for text in ["", "counts", "[]", "3", "{\"cases\": [", "\u{0}"] {
        let found = refusal(text);
        assert!(
            found.starts_with("counts.json: not a JSON object such as {\"cases\""),
            "{found}"
        );
    }
    assert!(refusal("{}").contains("no field `cases`; put the runs there"));
    assert!(refusal(r#"{"cases": {}}"#).contains("`cases` is no list; put the runs there"));
    assert!(refusal(r#"{"cases": [7]}"#).starts_with("counts.json: case 1 (cases[0]): not an object"));
    let twice = r#"{"cases": [{"rho0": 1, "rho0": 2}]}"#;
    assert!(
        refusal(twice).contains("`rho0` stands there twice"),
        "{}",
        refusal(twice)
    );
}

#[test]
fn a_table_shows_counts_evidence_and_the_last_verdict_in_words() {
    let document = case(&json!([[450, 0, 4050, 4], [450, 80, 4050, 4]]));
    let text = replay(&document.to_string(), "counts.json", 15).unwrap().text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[3], "Case 1   max 1 %   φ 1   ρ0 1.2");
    let words: Vec<&str> = lines[6].split_whitespace().collect();
    assert_eq!(words[..5], ["2", "450", "80", "4,050", "4"]);
    assert_eq!(words[8..], ["Fail", "OverMax"]);
    assert!(
        lines[7].starts_with("  Fail: errors: over the max of 1 %: canary 80 of 900 bad"),
        "{text}"
    );
}

#[test]
fn the_weight_is_what_was_measured_and_full_only_without_stable() {
    let tally = |requests| Tally { requests, bad: 0 };
    let percent = |canary, stable| measured_percent(tally(canary), tally(stable));
    assert_eq!([percent(0, 0), percent(5, 0), percent(0, 9)], [100, 100, 1]);
    assert_eq!(
        [percent(1, 9), percent(999, 1), percent(u64::MAX, u64::MAX)],
        [10, 99, 50]
    );
}
