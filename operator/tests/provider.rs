//! The providers' queries, evaluated by Prometheus' own engine (`promtool test rules`) over series as the implementations emit them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests and what they start from")]

#[path = "provider/folder.rs"]
mod folder;
#[path = "provider/gateways.rs"]
mod gateways;
#[path = "source/programs.rs"]
mod programs;
#[path = "provider/scrapes.rs"]
mod scrapes;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use programs::program;
use stepgate::provider::{Arms, Measure, Provider, ProviderError, Providers, Query, Sees};
use stepgate_crds::units::Span;

fn arms() -> Arms {
    Arms {
        namespace: "shop".into(),
        stable_service: "checkout".into(),
        canary_service: "checkout-canary".into(),
        port: 80,
        routes: vec!["checkout".into()],
        stable_replica_set: "checkout-6d5f7c9b8d".into(),
        canary_deployment: "checkout-canary".into(),
    }
}

/// Runs promtool over one file of unit tests and gives its output back if any fails.
fn promtool(file: &Path) {
    let output = Command::new(program("promtool"))
        .args(["test", "rules"])
        .arg(file)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}:\n{}{}",
        file.display(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A provider's query over 15 s.
fn query(provider: &str, arms: &Arms, measure: &Measure) -> Query {
    let providers = Providers::built_in().unwrap();
    providers.named(provider).unwrap().query(arms, 15, measure).unwrap()
}

/// A world of series sampled every 5 s, and what a provider's query over 15 s has to say of it.
struct World {
    provider: &'static str,
    measure: Measure,
    series: Vec<(String, String)>,
    expected: Vec<(u32, Vec<(&'static str, u64)>)>,
}

impl World {
    fn new(provider: &'static str) -> Self {
        Self {
            provider,
            measure: Measure::Errors,
            series: Vec::new(),
            expected: Vec::new(),
        }
    }

    /// Slow requests in place of failed ones.
    fn slow(self, threshold: Span) -> Self {
        let measure = Measure::Latency { threshold };
        Self { measure, ..self }
    }

    /// `values` in promtool's notation, one sample every 5 s from 0.
    fn series(mut self, series: &str, values: &str) -> Self {
        self.series.push((series.into(), values.into()));
        self
    }

    /// What the query gives at a time in seconds; what is not named is absent.
    fn expect(mut self, at: u32, counts: &[(&'static str, u64)]) -> Self {
        self.expected.push((at, counts.to_vec()));
        self
    }

    fn check(self, name: &str) {
        let query = query(self.provider, &arms(), &self.measure);
        let mut file = String::from("evaluation_interval: 5s\ntests:\n- interval: 5s\n  input_series:\n");
        for (series, values) in &self.series {
            writeln!(file, "  - {{series: '{series}', values: '{values}'}}").unwrap();
        }
        file.push_str("  promql_expr_test:\n");
        for (at, counts) in &self.expected {
            writeln!(
                file,
                "  - expr: {}\n    eval_time: {at}s\n    exp_samples:",
                serde_json::to_string(query.as_str()).unwrap()
            )
            .unwrap();
            for (label, value) in counts {
                writeln!(file, "    - {{labels: '{{stepgate=\"{label}\"}}', value: {value}}}").unwrap();
            }
            if counts.is_empty() {
                file.push_str("      []\n");
            }
        }
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.yml"));
        std::fs::write(&path, file).unwrap();
        promtool(&path);
    }
}

fn envoy(service: &str, class: u8, instance: &str) -> String {
    format!(
        "envoy_cluster_upstream_rq_xx{{job=\"envoy\",instance=\"{instance}\",envoy_cluster_name=\"shop_{service}_80\",envoy_response_code_class=\"{class}\"}}"
    )
}

fn up(job: &str, instance: &str) -> String {
    format!("up{{job=\"{job}\",instance=\"{instance}\"}}")
}

#[test]
fn contour_counts_both_versions_at_one_time() {
    World::new("contour")
        .series(&up("envoy", "gw-1"), "1x60")
        .series(&envoy("checkout", 2, "gw-1"), "1000+90x60")
        .series(&envoy("checkout", 4, "gw-1"), "7+3x60")
        .series(&envoy("checkout", 5, "gw-1"), "5+1x60")
        .series(&envoy("checkout-canary", 2, "gw-1"), "100+9x60")
        .series(&envoy("checkout-canary", 5, "gw-1"), "2+2x60")
        // Neither another namespace's Service nor another port nor the gateway's own clusters.
        .series(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw-1\",envoy_cluster_name=\"other_checkout_80\",envoy_response_code_class=\"5\"}",
            "0+50x60",
        )
        .series(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw-1\",envoy_cluster_name=\"shop_checkout_8080\",envoy_response_code_class=\"5\"}",
            "0+50x60",
        )
        .expect(60, &[("canary_requests", 33), ("canary_bad", 6), ("stable_requests", 282), ("stable_bad", 3)])
        .expect(75, &[("canary_requests", 33), ("canary_bad", 6), ("stable_requests", 282), ("stable_bad", 3)])
        .check("contour_both");
}

#[test]
fn a_canary_born_with_errors_is_counted_from_its_first_response() {
    World::new("contour")
        .series(&up("envoy", "gw-1"), "1x60")
        .series(&envoy("checkout", 2, "gw-1"), "1000+90x60")
        .series(&envoy("checkout-canary", 5, "gw-1"), "_x13 12+4x40")
        .expect(60, &[("stable_requests", 270)])
        .expect(
            75,
            &[("canary_requests", 20), ("canary_bad", 20), ("stable_requests", 270)],
        )
        .expect(
            90,
            &[("canary_requests", 12), ("canary_bad", 12), ("stable_requests", 270)],
        )
        .check("contour_birth");
}

#[test]
fn the_first_error_of_a_running_canary_is_counted() {
    World::new("contour")
        .series(&up("envoy", "gw-1"), "1x60")
        .series(&envoy("checkout-canary", 2, "gw-1"), "100+9x60")
        .series(&envoy("checkout-canary", 5, "gw-1"), "_x13 3x40")
        .expect(60, &[("canary_requests", 27)])
        .expect(75, &[("canary_requests", 30), ("canary_bad", 3)])
        .expect(90, &[("canary_requests", 27), ("canary_bad", 0)])
        .check("contour_first_error");
}

#[test]
fn a_gateway_pod_that_restarts_is_counted_from_zero() {
    World::new("contour")
        .series(&up("envoy", "gw-1"), "1x60")
        .series(&envoy("checkout", 2, "gw-1"), "1000+90x12 40 130+90x40")
        .expect(60, &[("stable_requests", 270)])
        // 13 samples to 60 s; at 65 s 40, at 70 s 130, at 75 s 220: all since the restart
        .expect(75, &[("stable_requests", 220)])
        .expect(90, &[("stable_requests", 270)])
        .check("contour_reset");
}

#[test]
fn a_new_gateway_pod_does_not_bring_its_history() {
    World::new("contour")
        .series(&up("envoy", "gw-1"), "1x60")
        .series(&up("envoy", "gw-2"), "_x13 1x40")
        .series(&envoy("checkout", 2, "gw-1"), "1000+90x60")
        .series(&envoy("checkout", 2, "gw-2"), "_x13 9000+90x40")
        .expect(75, &[("stable_requests", 270)])
        .expect(90, &[("stable_requests", 540)])
        .check("contour_new_gateway");
}

#[test]
fn a_target_that_comes_back_after_failed_scrapes_does_not_bring_its_history() {
    // A failed scrape writes up 0 and marks every series of the target as gone.
    World::new("contour")
        .series(&up("envoy", "gw-1"), "1x11 0x5 1x40")
        .series(&envoy("checkout", 2, "gw-1"), "1000+90x11 stale _x5 2620+90x40")
        .series(&envoy("checkout-canary", 5, "gw-1"), "50+1x11 stale _x5 68+1x40")
        .expect(75, &[])
        .expect(90, &[])
        .expect(
            105,
            &[("canary_requests", 3), ("canary_bad", 3), ("stable_requests", 270)],
        )
        .check("contour_scrape_failed");
}

#[test]
fn adjacent_intervals_add_up_to_the_whole() {
    // 45 s read in three: what one query over the whole would say, whatever the traffic did in between.
    World::new("contour")
        .series(&up("envoy", "gw-1"), "1x60")
        .series(&envoy("checkout", 2, "gw-1"), "0 1 5 5 5 9 100 100 130 131 131 131 500")
        .expect(15, &[("stable_requests", 5)])
        .expect(30, &[("stable_requests", 95)])
        .expect(45, &[("stable_requests", 31)])
        .check("contour_adjacent");
}

fn pod(name: &str, code: &str, rest: &str) -> String {
    format!(
        "http_requests_total{{job=\"app\",instance=\"{name}:8080\",namespace=\"shop\",pod=\"{name}\",code=\"{code}\"{rest}}}"
    )
}

#[test]
fn pods_tells_versions_apart_by_the_names_of_their_pods() {
    let stable = "checkout-6d5f7c9b8d-abcde";
    let older = "checkout-5b6c7d8e9f-abcde";
    let canary = "checkout-canary-7f9c5d4b6-xyz12";
    let neighbour = "checkout-canary-test-7f9c5d4b6-xyz12";
    let mut world = World::new("pods");
    for name in [stable, older, canary, neighbour] {
        world = world.series(&up("app", &format!("{name}:8080")), "1x60");
    }
    world
        .series(&pod(stable, "200", ""), "10+20x60")
        .series(&pod(stable, "503", ""), "0+1x60")
        .series(&pod(canary, "200", ""), "10+2x60")
        .series(&pod(canary, "500", ""), "_x10 1+1x60")
        .series(&pod(older, "500", ""), "0+100x60")
        .series(&pod(neighbour, "500", ""), "0+100x60")
        .series(&pod(canary, "200", ",path=\"/readyz\""), "0+100x60")
        .series(&pod(canary, "200", ",handler=\"/metrics\""), "0+100x60")
        .expect(
            60,
            &[
                ("canary_requests", 9),
                ("canary_bad", 3),
                ("stable_requests", 63),
                ("stable_bad", 3),
            ],
        )
        .check("pods_names");
}

#[test]
fn a_new_pod_counts_from_its_second_interval_in_both_versions() {
    let stable = "checkout-6d5f7c9b8d-abcde";
    let canary = "checkout-canary-7f9c5d4b6-xyz12";
    World::new("pods")
        .series(&up("app", &format!("{stable}:8080")), "_x13 1x60")
        .series(&up("app", &format!("{canary}:8080")), "_x13 1x60")
        .series(&pod(stable, "200", ""), "_x13 5000+20x60")
        .series(&pod(canary, "500", ""), "_x13 11+2x60")
        .expect(75, &[])
        .expect(
            90,
            &[("canary_requests", 6), ("canary_bad", 6), ("stable_requests", 60)],
        )
        .check("pods_births");
}

#[test]
fn each_provider_says_whose_gateways_it_fits_and_whose_calls_it_sees() {
    let providers = Providers::built_in().unwrap();
    let controllers = |name: &str| providers.named(name).unwrap().controller_names.clone();
    assert_eq!(controllers("contour"), ["projectcontour.io/gateway-controller"]);
    // It is taken where no other fits, and fits nobody by name.
    assert!(controllers("pods").is_empty());
    assert_eq!(providers.named("contour").unwrap().sees, Sees::Gateway);
    assert_eq!(providers.named("pods").unwrap().sees, Sees::Everything);
}

#[test]
fn an_unknown_provider_is_named_with_those_that_exist() {
    let error = Providers::built_in().unwrap().named("haproxy").unwrap_err();
    assert_eq!(
        error.to_string(),
        "no provider is named haproxy; there are: agentgateway, aws-alb, cilium, contour, envoy-gateway, istio, istio-mesh, kgateway, \
         kong, linkerd, nginx, nginx-plus, pods, traefik, and auto"
    );
}

#[test]
fn a_provider_was_measured_or_names_what_it_was_written_from() {
    let providers = Providers::built_in().unwrap();
    let mut controllers = Vec::new();
    for provider in providers.iter() {
        let name = &provider.name;
        assert_eq!(provider.verified, provider.verified_on.is_some(), "{name}");
        assert!(
            provider.verified || provider.written_from.iter().any(|from| from.starts_with("https://")),
            "{name}"
        );
        for controller in &provider.controller_names {
            assert!(!controllers.contains(controller), "{name}: {controller} is another's");
            controllers.push(controller.clone());
        }
    }
}

#[test]
fn the_page_for_administrators_lists_every_provider_as_it_is() {
    let page = include_str!("../../docs/sources.md");
    let providers = Providers::built_in().unwrap();
    for provider in providers.iter() {
        let row = format!("| `{}` | ", provider.name);
        let row = page.lines().find(|line| line.starts_with(&row)).unwrap();
        let verified = if provider.verified { "| yes |" } else { "| no |" };
        assert!(row.ends_with(verified), "{row}");
        assert!(provider.controller_names.iter().all(|name| row.contains(name)), "{row}");
    }
    let (_, example) = page.split_once("```yaml\nname: our-edge").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    Provider::parse("page", &format!("name: our-edge{example}")).unwrap();
}

#[test]
fn a_provider_without_counters_of_its_own_has_another_take_its_place() {
    let providers = Providers::built_in().unwrap();
    for name in ["kong", "nginx", "aws-alb", "envoy-gateway"] {
        let provider = providers.named(name).unwrap();
        let instead = provider.view().instead.unwrap();
        assert_eq!(instead.provider.as_str(), "pods", "{name}");
        assert!(!instead.why.is_empty() && instead.why.len() < 160, "{name}");
        assert_eq!(instead.unless_filtered, name == "envoy-gateway");
        let query = provider.query(&arms(), 15, &Measure::Errors);
        assert_eq!(query.is_ok(), name == "envoy-gateway", "{name}");
    }
}

#[test]
fn what_is_put_into_a_query_cannot_end_its_string() {
    let hostile = Arms {
        namespace: "a\"} or vector(1) #".into(),
        stable_service: "b\\".into(),
        stable_replica_set: "c.d|e".into(),
        ..arms()
    };
    let contour = query("contour", &hostile, &Measure::Errors);
    assert!(
        contour
            .as_str()
            .contains(r#"envoy_cluster_name="a\"} or vector(1) #_b\\_80""#),
        "{contour}"
    );
    let pods = query("pods", &hostile, &Measure::Errors);
    assert!(pods.as_str().contains(r#"pod=~"c\\.d\\|e-[a-z0-9]{5}""#), "{pods}");
    // Within a regular expression a name stands for itself.
    let cilium = query("cilium", &hostile, &Measure::Errors);
    let stable = r#"cilium-gateway-[^/]+/a\"\\} or vector\\(1\\) #:b\\\\:80""#;
    assert!(cilium.as_str().contains(stable), "{cilium}");
}

#[test]
fn names_of_pods_are_shortened_as_kubernetes_does() {
    let long = "a".repeat(57);
    let arms = Arms {
        stable_replica_set: format!("{long}-6d5f7c9b8d"),
        canary_deployment: long.clone(),
        ..arms()
    };
    let query = query("pods", &arms, &Measure::Errors);
    // 58 characters and five random ones
    assert!(
        query.as_str().contains(&format!("pod=~\"{long}-[a-z0-9]{{5}}\"")),
        "{query}"
    );
    assert!(
        query
            .as_str()
            .contains(&format!("pod=~\"{long}-[a-z0-9]*-?[a-z0-9]{{5}}\"")),
        "{query}"
    );
}

#[test]
fn a_provider_file_with_a_mistake_is_refused() {
    let good = include_str!("../providers/contour.yaml");
    assert!(Provider::parse("good", good).is_ok());
    let label = |text: &str| Provider::parse("bad", text).unwrap_err().label();
    assert_eq!(label(&good.replace("verified: true", "verifed: true")), "syntax");
    assert_eq!(label(&good.replace("${port}", "${prot}")), "placeholder");
    assert_eq!(label(&good.replace("${port}", "${port")), "placeholder");
    assert_eq!(label(&good.replace("_${port}\"", "${arm}\"")), "placeholder");
    assert_eq!(label(&good.replace("[job, instance]", "[]")), "no_target_labels");
    assert_eq!(label(&good.replace("${le}", "${les}")), "placeholder");
    assert_eq!(label(&good.replace("unit: milliseconds", "unit: minutes")), "syntax");
    assert!(matches!(
        Provider::parse("bad", "]").unwrap_err(),
        ProviderError::Syntax { .. }
    ));
}

/// Series of a histogram: one value of the count, and one for each bucket.
fn histogram(mut world: World, name: &str, labels: &str, count: &str, buckets: &[(&str, &str)]) -> World {
    world = world.series(&format!("{name}_count{{{labels}}}"), count);
    for (le, values) in buckets {
        world = world.series(&format!("{name}_bucket{{{labels},le=\"{le}\"}}"), values);
    }
    world
}

#[test]
fn contour_counts_requests_within_the_threshold() {
    let cluster = |service: &str| format!("job=\"envoy\",instance=\"gw-1\",envoy_cluster_name=\"shop_{service}_80\"");
    let name = "envoy_cluster_upstream_rq_time";
    let world = World::new("contour")
        .slow(Span::millis(500))
        .series(&up("envoy", "gw-1"), "1x60");
    let world = histogram(
        world,
        name,
        &cluster("checkout"),
        "1000+90x60",
        &[("250", "800+80x60"), ("500", "900+89x60"), ("+Inf", "1000+90x60")],
    );
    // The canary's histogram is born after its first responses; as Envoy's counters are.
    histogram(
        world,
        name,
        &cluster("checkout-canary"),
        "_x13 12+4x40",
        &[("250", "_x13 0x40"), ("500", "_x13 3+1x40"), ("+Inf", "_x13 12+4x40")],
    )
    .expect(60, &[("stable_requests", 270), ("stable_within", 267)])
    .expect(
        75,
        &[
            ("canary_requests", 20),
            ("canary_within", 5),
            ("stable_requests", 270),
            ("stable_within", 267),
        ],
    )
    .expect(
        90,
        &[
            ("canary_requests", 12),
            ("canary_within", 3),
            ("stable_requests", 270),
            ("stable_within", 267),
        ],
    )
    .check("contour_latency");
}

#[test]
fn pods_count_requests_within_the_threshold_however_the_boundary_is_written() {
    let (stable, canary) = ("checkout-6d5f7c9b8d-abcde", "checkout-canary-7f9c5d4b6-xyz12");
    let pod = |name: &str| format!("job=\"app\",instance=\"{name}:8080\",namespace=\"shop\",pod=\"{name}\"");
    let mut world = World::new("pods").slow(Span::seconds(1));
    for name in [stable, canary] {
        world = world.series(&up("app", &format!("{name}:8080")), "1x60");
    }
    let name = "http_request_duration_seconds";
    world = histogram(world, name, &pod(stable), "10+20x60", &[("1", "10+19x60")]);
    world = histogram(
        world,
        name,
        &pod(canary),
        "10+2x60",
        &[("1.0", "4+1x60"), ("1.05", "10+2x60")],
    );
    let probes = pod(canary) + ",path=\"/readyz\"";
    histogram(world, name, &probes, "0+100x60", &[("1.0", "0+100x60")])
        .expect(
            60,
            &[
                ("canary_requests", 6),
                ("canary_within", 3),
                ("stable_requests", 60),
                ("stable_within", 57),
            ],
        )
        .check("pods_latency");
}

#[test]
fn a_threshold_that_is_no_boundary_gives_requests_alone() {
    let labels = "job=\"envoy\",instance=\"gw-1\",envoy_cluster_name=\"shop_checkout_80\"";
    let world = World::new("contour")
        .slow(Span::millis(300))
        .series(&up("envoy", "gw-1"), "1x60");
    histogram(
        world,
        "envoy_cluster_upstream_rq_time",
        labels,
        "1000+90x60",
        &[("250", "800+80x60"), ("3000", "900+89x60")],
    )
    .expect(60, &[("stable_requests", 270)])
    .check("contour_no_boundary");
}

#[test]
fn a_provider_without_a_histogram_says_so() {
    let contour = include_str!("../providers/contour.yaml");
    let (before, rest) = contour.split_once("latency:").unwrap();
    let (_, after) = rest.split_once("separatedBy:").unwrap();
    let plain = Provider::parse("plain", &format!("{before}separatedBy:{after}")).unwrap();
    let threshold = Span::millis(500);
    let error = plain.query(&arms(), 15, &Measure::Latency { threshold }).unwrap_err();
    assert_eq!(error.label(), "no_latency");
    assert!(plain.query(&arms(), 15, &Measure::Errors).is_ok());
}
