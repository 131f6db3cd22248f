//! `kubectl stepgate replay` as a program: it needs no cluster, and says by its exit code whether it could.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

fn replay(arguments: &[&str], input: &str) -> io::Result<Output> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kubectl-stepgate"))
        .arg("replay")
        .args(arguments)
        .env("KUBECONFIG", "/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read its input has ended already.
        drop(stdin.write_all(input.as_bytes()));
    }
    child.wait_with_output()
}

const COUNTS: &str =
    r#"{"cases": [{"rho0": 1.2, "phi": 2.0, "tolerance": 0.01, "intervals_nc_xc_ns_xs": [[4500, 2, 4500, 3]]}]}"#;

#[test]
fn counts_are_replayed_without_a_cluster() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/eprocess.json");
    let output = replay(&["--counts", vectors, "-o", "json"], "").unwrap();
    assert!(output.status.success(), "{output:?}");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["cases"].as_array().unwrap().len(), 40);
    let output = replay(&["--counts", "-"], COUNTS).unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8(output.stdout)
            .unwrap()
            .contains("  Pass: enough requests")
    );
}

#[test]
fn what_cannot_be_replayed_is_an_error_that_names_the_file_and_prints_no_document() {
    for (arguments, input, said) in [
        (
            ["--counts", "/nowhere/counts.json"],
            "",
            "error: /nowhere/counts.json: cannot be read; give --counts a file",
        ),
        (["--counts", "-"], "counts", "error: -: not a JSON object"),
    ] {
        let output = replay(&arguments, input).unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with(said), "{message}");
        assert!(output.stdout.is_empty());
    }
}
