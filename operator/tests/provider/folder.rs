//! Providers from a folder: each mistake is told with its file, and what is compiled in may be replaced.

use std::fs;
use std::path::PathBuf;

use stepgate::provider::Providers;

const CONTOUR: &str = include_str!("../../providers/contour.yaml");
const KONG: &str = include_str!("../../providers/kong.yaml");

/// A folder with these files.
fn folder(name: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("providers-{name}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    for (file, text) in files {
        fs::write(folder.join(file), text).unwrap();
    }
    folder
}

fn own(name: &str, controller: &str) -> String {
    CONTOUR
        .replace("name: contour", &format!("name: {name}"))
        .replace("projectcontour.io/gateway-controller", controller)
}

#[test]
fn a_folder_adds_providers_and_replaces_those_that_are_compiled_in() {
    let mine = own("our-edge", "example.com/edge");
    let contour = CONTOUR.replace("verified: true", "verified: false");
    let folder = folder("good", &[("our-edge.yaml", &mine), ("contour.yaml", &contour)]);
    // As Kubernetes mounts a ConfigMap.
    fs::create_dir_all(folder.join("..2026_11_28")).unwrap();
    fs::write(folder.join("..data"), "").unwrap();
    let providers = Providers::with_folder(&folder).unwrap();
    assert_eq!(
        providers.iter().count(),
        Providers::built_in().unwrap().iter().count() + 1
    );
    assert!(!providers.named("contour").unwrap().verified);
    let first: Vec<&str> = providers
        .iter()
        .take(2)
        .map(|provider| provider.name.as_str())
        .collect();
    assert_eq!(first, ["contour", "our-edge"], "`auto` looks at them first");
    assert!(providers.named("pods").is_ok());
}

#[test]
fn each_mistake_in_a_folder_is_told_with_its_file() {
    let mine = own("our-edge", "example.com/edge");
    let other = own("other", "example.com/edge");
    let auto = own("auto", "example.com/edge");
    let kong = KONG.replace("provider: pods", "provider: nobody");
    let chain = KONG.replace("provider: pods", "provider: nginx");
    let large = "#".repeat(70 << 10);
    let no_templates = mine.replace("requests: envoy_cluster_upstream_rq_xx", "# requests: envoy");
    let cases = [
        (
            "syntax",
            vec![("our-edge.yaml", "]")],
            "our-edge.yaml",
            "cannot be read",
        ),
        (
            "unknown-field",
            vec![("our-edge.yaml", "nam: x")],
            "our-edge.yaml",
            "cannot be read",
        ),
        (
            "name",
            vec![("edge.yaml", &mine)],
            "edge.yaml",
            "call the file our-edge.yaml",
        ),
        ("not-yaml", vec![("README", "")], "README", "is no .yaml file"),
        (
            "auto",
            vec![("auto.yaml", &auto)],
            "auto.yaml",
            "no provider is named auto",
        ),
        ("large", vec![("big.yaml", &large)], "big.yaml", "larger than"),
        (
            "twice",
            vec![("our-edge.yaml", &mine), ("other.yaml", &other)],
            "providers-twice",
            "other and our-edge have a controllerName in common",
        ),
        (
            "nobody",
            vec![("kong.yaml", &kong)],
            "nobody",
            "no provider is named nobody",
        ),
        (
            "chain",
            vec![("kong.yaml", &chain)],
            "providers-chain",
            "provider kong: nginx takes its place",
        ),
        (
            "missing",
            vec![("our-edge.yaml", &no_templates)],
            "our-edge",
            "requests is missing",
        ),
    ];
    for (case, files, place, why) in cases {
        let text = failure(case, &files);
        assert!(text.contains(place) && text.contains(why), "{case}: {text}");
    }
    let gone = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("no-such-folder");
    let error = Providers::with_folder(&gone).unwrap_err();
    assert_eq!(error.label(), "folder");
    assert!(error.to_string().contains("no-such-folder: cannot be read"), "{error}");
}

fn failure(case: &str, files: &[(&str, &str)]) -> String {
    match Providers::with_folder(&folder(case, files)) {
        Ok(_) => panic!("{case} was read"),
        Err(error) => error.to_string(),
    }
}
