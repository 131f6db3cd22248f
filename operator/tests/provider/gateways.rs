//! Each provider's query over series with the labels that its implementation emits: births, a reset, a gap, and neighbours that are not meant.

use stepgate::provider::{Measure, Providers};
use stepgate_crds::units::Span;

use super::{World, arms, up};

/// How an implementation names a counter's series.
struct Gateway {
    provider: &'static str,
    /// The series of responses of a Service (namespace, name, port) that were well.
    good: fn(&str, &str, u16) -> String,
    /// Those that were bad.
    bad: fn(&str, &str, u16) -> String,
    /// Series of the canary that are counted as neither.
    neither: Option<fn(&str, &str, u16) -> String>,
}

const TARGET: &str = "job=\"gateway\",instance=\"gw\"";

/// One gateway of four minutes, sampled every 5 s: the canary is born at 65 s with 12 good and 3 bad responses, the good ones of stable
/// fall back to zero at 135 s, and from 200 to 210 s no scrape succeeds.
fn counts_exactly(gateway: &Gateway) {
    let Gateway {
        provider, good, bad, ..
    } = gateway;
    let mut world = World::new(provider)
        .series(&up("gateway", "gw"), "1x39 0x2 1x20")
        .series(
            &good("shop", "checkout", 80),
            "1000+90x26 40+90x12 stale _x2 1480+90x17",
        )
        .series(&bad("shop", "checkout", 80), "5+1x39 stale _x2 48+1x17")
        .series(&good("shop", "checkout-canary", 80), "_x13 12+4x26 stale _x2 132+4x17")
        .series(&bad("shop", "checkout-canary", 80), "_x13 3x26 stale _x2 3x17");
    // Neither another namespace's Service nor another port nor one whose name begins or ends alike.
    for (namespace, service, port) in [
        ("other", "checkout", 80),
        ("shop", "checkout", 8080),
        ("shop", "checkout-canary", 8080),
        ("shop", "checkout-canary-2", 80),
        ("shop", "old-checkout", 80),
    ] {
        world = world.series(&bad(namespace, service, port), "0+50x60");
    }
    if let Some(neither) = gateway.neither {
        world = world.series(&neither("shop", "checkout-canary", 80), "0+50x60");
    }
    world
        .expect(60, &[("stable_requests", 273), ("stable_bad", 3)])
        .expect(
            75,
            &[
                ("canary_requests", 23),
                ("canary_bad", 3),
                ("stable_requests", 273),
                ("stable_bad", 3),
            ],
        )
        .expect(
            90,
            &[
                ("canary_requests", 12),
                ("canary_bad", 0),
                ("stable_requests", 273),
                ("stable_bad", 3),
            ],
        )
        .expect(
            145,
            &[
                ("canary_requests", 12),
                ("canary_bad", 0),
                ("stable_requests", 223),
                ("stable_bad", 3),
            ],
        )
        .expect(215, &[])
        .expect(
            230,
            &[
                ("canary_requests", 12),
                ("canary_bad", 0),
                ("stable_requests", 273),
                ("stable_bad", 3),
            ],
        )
        .check(&format!("gateway_{provider}"));
}

/// Envoy's counter of responses by class, of the cluster of that name.
fn envoy(cluster: &str, class: u8) -> String {
    format!(
        "envoy_cluster_upstream_rq_xx{{{TARGET},envoy_cluster_name=\"{cluster}\",envoy_response_code_class=\"{class}\"}}"
    )
}

#[test]
fn contour() {
    counts_exactly(&Gateway {
        provider: "contour",
        good: |namespace, service, port| envoy(&format!("{namespace}_{service}_{port}"), 2),
        bad: |namespace, service, port| envoy(&format!("{namespace}_{service}_{port}"), 5),
        neither: None,
    });
}

#[test]
fn kgateway() {
    counts_exactly(&Gateway {
        provider: "kgateway",
        good: |namespace, service, port| envoy(&format!("kube_{namespace}_{service}_{port}"), 2),
        bad: |namespace, service, port| envoy(&format!("kube_{namespace}_{service}_{port}"), 5),
        neither: None,
    });
}

#[test]
fn cilium() {
    fn cluster(namespace: &str, service: &str, port: u16) -> String {
        format!("gateways/cilium-gateway-edge/{namespace}:{service}:{port}")
    }
    counts_exactly(&Gateway {
        provider: "cilium",
        good: |namespace, service, port| envoy(&cluster(namespace, service, port), 2),
        bad: |namespace, service, port| envoy(&cluster(namespace, service, port), 5),
        // An Ingress' cluster of the same Service.
        neither: Some(|namespace, service, port| {
            envoy(&format!("kube-system/cilium-ingress/{namespace}:{service}:{port}"), 5)
        }),
    });
}

#[test]
fn envoy_gateway_where_each_backend_has_a_cluster() {
    // The route's name is that of Service checkout; the backend is known by its place.
    fn cluster(namespace: &str, service: &str, port: u16) -> String {
        match (namespace, service, port) {
            ("shop", "checkout", 80) => "httproute/shop/checkout/rule/0/backend/0".to_owned(),
            ("shop", "checkout-canary", 80) => "httproute/shop/checkout/rule/0/backend/1".to_owned(),
            _ => format!("httproute/{namespace}/{service}-{port}/rule/0/backend/0"),
        }
    }
    counts_exactly(&Gateway {
        provider: "envoy-gateway",
        good: |namespace, service, port| envoy(&cluster(namespace, service, port), 2),
        bad: |namespace, service, port| envoy(&cluster(namespace, service, port), 5),
        // Without filters a rule has one cluster.
        neither: Some(|_, _, _| envoy("httproute/shop/checkout/rule/0", 5)),
    });
}

#[test]
fn traefik_by_every_name_of_a_service() {
    const RULE: &str = "httproute-shop-checkout-gw-edge-main-ep-web-0-af329269dd38031b03e3";
    fn series(service: &str, code: u16) -> String {
        format!(
            "traefik_service_requests_total{{{TARGET},code=\"{code}\",method=\"GET\",protocol=\"http\",service=\"{service}@kubernetesgateway\"}}"
        )
    }
    // From 3.7.6 on the name begins with the rule's and has no port: another port of one Service is not told apart, and stands for another
    // Service here.
    fn of_rule(namespace: &str, service: &str, port: u16) -> String {
        let place = usize::from(service != "checkout");
        match port {
            80 => format!("{RULE}-svc-{namespace}-{service}-{place}"),
            _ => format!("{RULE}-svc-{namespace}-{service}-{port}-{place}"),
        }
    }
    counts_exactly(&Gateway {
        provider: "traefik",
        good: |namespace, service, port| series(&format!("{namespace}-{service}-{port}"), 200),
        bad: |namespace, service, port| series(&format!("{namespace}-{service}-{port}"), 503),
        neither: None,
    });
    counts_exactly(&Gateway {
        provider: "traefik",
        good: |namespace, service, port| series(&format!("{namespace}-{service}-http-{port}"), 404),
        bad: |namespace, service, port| series(&format!("{namespace}-{service}-http-{port}"), 500),
        // The service that spreads the requests over both.
        neither: Some(|_, _, _| series("httproute-shop-checkout-gw-edge-0-wrr", 500)),
    });
    counts_exactly(&Gateway {
        provider: "traefik",
        good: |namespace, service, port| series(&of_rule(namespace, service, port), 200),
        bad: |namespace, service, port| series(&of_rule(namespace, service, port), 500),
        neither: Some(|_, _, _| series(&format!("{RULE}-wrr"), 500)),
    });
}

fn istio(reporter: &str, workload: &str, (namespace, service): (&str, &str), port: u16, code: u16) -> String {
    // Istio's labels have no port: another port of one Service is not told apart, and stands for another Service here.
    let service = if port == 80 {
        service.to_owned()
    } else {
        format!("{service}-{port}")
    };
    format!(
        "istio_requests_total{{{TARGET},reporter=\"{reporter}\",source_workload=\"{workload}\",source_workload_namespace=\"edge\",\
         destination_service_name=\"{service}\",destination_service_namespace=\"{namespace}\",response_code=\"{code}\",response_flags=\"-\"}}"
    )
}

#[test]
fn istio_as_a_gateway() {
    counts_exactly(&Gateway {
        provider: "istio",
        good: |namespace, service, port| istio("source", "edge-istio", (namespace, service), port, 200),
        bad: |namespace, service, port| istio("source", "edge-istio", (namespace, service), port, 503),
        // The client went away.
        neither: Some(|namespace, service, port| istio("source", "edge-istio", (namespace, service), port, 0)),
    });
    // A caller within the mesh is not the gateway, and the receiving side counts the same request again.
    for (reporter, workload) in [("source", "frontend"), ("destination", "edge-istio")] {
        World::new("istio")
            .series(&up("gateway", "gw"), "1x60")
            .series(&istio(reporter, workload, ("shop", "checkout"), 80, 500), "0+50x60")
            .expect(60, &[])
            .check(&format!("istio_{reporter}_{workload}"));
    }
}

#[test]
fn istio_as_a_mesh() {
    counts_exactly(&Gateway {
        provider: "istio-mesh",
        good: |namespace, service, port| istio("source", "frontend", (namespace, service), port, 200),
        bad: |namespace, service, port| istio("waypoint", "frontend", (namespace, service), port, 500),
        // A gateway's calls are not bound by a route of a Service.
        neither: Some(|namespace, service, port| istio("source", "edge-istio", (namespace, service), port, 500)),
    });
}

#[test]
fn linkerd_counts_failures_without_a_status() {
    fn series(namespace: &str, service: &str, port: u16, outcome: &str) -> String {
        format!(
            "outbound_http_route_backend_response_statuses_total{{{TARGET},parent_kind=\"Service\",parent_namespace=\"shop\",\
             parent_name=\"checkout\",route_kind=\"HTTPRoute\",route_name=\"checkout\",backend_kind=\"Service\",\
             backend_namespace=\"{namespace}\",backend_name=\"{service}\",backend_port=\"{port}\",{outcome}}}"
        )
    }
    counts_exactly(&Gateway {
        provider: "linkerd",
        good: |namespace, service, port| series(namespace, service, port, "http_status=\"200\",error=\"\""),
        bad: |namespace, service, port| series(namespace, service, port, "http_status=\"503\",error=\"\""),
        neither: None,
    });
    counts_exactly(&Gateway {
        provider: "linkerd",
        good: |namespace, service, port| series(namespace, service, port, "http_status=\"404\",error=\"\""),
        bad: |namespace, service, port| series(namespace, service, port, "http_status=\"\",error=\"FAIL_FAST\""),
        neither: None,
    });
}

#[test]
fn agentgateway() {
    fn series(backend: &str, status: &str) -> String {
        format!(
            "agentgateway_requests_total{{{TARGET},backend=\"{backend}\",protocol=\"http\",method=\"GET\",status=\"{status}\",\
             reason=\"Upstream\",gateway=\"shop/edge\",route=\"shop/checkout\"}}"
        )
    }
    fn host(namespace: &str, service: &str, port: u16) -> String {
        format!("{service}.{namespace}.svc.cluster.local:{port}")
    }
    counts_exactly(&Gateway {
        provider: "agentgateway",
        good: |namespace, service, port| series(&host(namespace, service, port), "200"),
        bad: |namespace, service, port| series(&host(namespace, service, port), "503"),
        neither: Some(|namespace, service, port| series(&host(namespace, service, port), "unknown")),
    });
}

#[test]
fn nginx_plus_counts_what_no_peer_answered() {
    fn series(metric: &str, (namespace, service, port): (&str, &str, u16), rest: &str) -> String {
        format!(
            "{metric}{{{TARGET},nginx_upstream_name=\"{namespace}_{service}_{port}\",nginx_zone_name=\"{namespace}_{service}_{port}\",\
             nginx_peer_address=\"10.0.0.1:8080\",nginx_peer_name=\"10.0.0.1:8080\"{rest}}}"
        )
    }
    const RESPONSES: &str = "nginx_http_upstream_peer_responses_total";
    counts_exactly(&Gateway {
        provider: "nginx-plus",
        good: |namespace, service, port| series(RESPONSES, (namespace, service, port), ",nginx_status_range=\"2xx\""),
        bad: |namespace, service, port| series(RESPONSES, (namespace, service, port), ",nginx_status_range=\"5xx\""),
        neither: Some(|namespace, service, port| {
            series(
                "nginx_http_upstream_peer_requests_total",
                (namespace, service, port),
                "",
            )
        }),
    });
    counts_exactly(&Gateway {
        provider: "nginx-plus",
        good: |namespace, service, port| series(RESPONSES, (namespace, service, port), ",nginx_status_range=\"4xx\""),
        bad: |namespace, service, port| {
            series(
                "nginx_http_upstream_peer_fails_attempts_total",
                (namespace, service, port),
                "",
            )
        },
        neither: None,
    });
}

/// Slow requests of a provider whose histogram has these labels: of stable 270 in 15 s, 30 of them slow; of the canary 27, 18 of them slow.
fn counts_slow_ones(provider: &'static str, histogram: &str, le: &str, labels: fn(&str) -> String) {
    let mut world = World::new(provider)
        .slow(Span::millis(500))
        .series(&up("gateway", "gw"), "1x60");
    for (service, all, within) in [
        ("checkout", "1000+90x60", "800+80x60"),
        ("checkout-canary", "100+9x60", "50+3x60"),
        ("neighbour", "0+50x60", "0+1x60"),
    ] {
        let labels = labels(service);
        world = world
            .series(&format!("{histogram}_count{{{TARGET},{labels}}}"), all)
            .series(&format!("{histogram}_bucket{{{TARGET},{labels},le=\"+Inf\"}}"), all)
            .series(&format!("{histogram}_bucket{{{TARGET},{labels},le=\"{le}\"}}"), within);
    }
    world
        .expect(
            60,
            &[
                ("canary_requests", 27),
                ("canary_within", 9),
                ("stable_requests", 270),
                ("stable_within", 240),
            ],
        )
        .check(&format!("slow_{provider}"));
}

#[test]
fn slow_requests_of_every_provider_that_has_a_histogram() {
    const ENVOY: &str = "envoy_cluster_upstream_rq_time";
    const ISTIO: &str = "istio_request_duration_milliseconds";
    fn istio(reporter: &str, workload: &str, service: &str) -> String {
        format!(
            "reporter=\"{reporter}\",source_workload=\"{workload}\",destination_service_name=\"{service}\",\
             destination_service_namespace=\"shop\",response_code=\"200\""
        )
    }
    counts_slow_ones("contour", ENVOY, "500", |service| {
        format!("envoy_cluster_name=\"shop_{service}_80\"")
    });
    counts_slow_ones("kgateway", ENVOY, "500", |service| {
        format!("envoy_cluster_name=\"kube_shop_{service}_80\"")
    });
    counts_slow_ones("cilium", ENVOY, "500", |service| {
        format!("envoy_cluster_name=\"gateways/cilium-gateway-edge/shop:{service}:80\"")
    });
    counts_slow_ones("envoy-gateway", ENVOY, "500", |service| {
        let place = ["checkout", "checkout-canary", "neighbour"].map(|other| other == service);
        let place = place.iter().position(|is| *is).unwrap();
        format!("envoy_cluster_name=\"httproute/shop/checkout/rule/3/backend/{place}\"")
    });
    counts_slow_ones("istio", ISTIO, "500", |service| istio("source", "edge-istio", service));
    counts_slow_ones("istio-mesh", ISTIO, "500", |service| {
        istio("waypoint", "frontend", service)
    });
    counts_slow_ones(
        "traefik",
        "traefik_service_request_duration_seconds",
        "0.5",
        |service| format!("service=\"shop-{service}-http-80@kubernetesgateway\",code=\"200\",method=\"GET\""),
    );
    counts_slow_ones(
        "traefik",
        "traefik_service_request_duration_seconds",
        "0.5",
        |service| {
            format!(
                "service=\"httproute-shop-checkout-gw-edge-main-ep-web-0-af329269dd38031b03e3-svc-shop-{service}-0@kubernetesgateway\",\
                 code=\"200\",method=\"GET\""
            )
        },
    );
    counts_slow_ones(
        "linkerd",
        "outbound_http_route_backend_response_duration_seconds",
        "0.5",
        |service| {
            format!(
                "backend_kind=\"Service\",backend_namespace=\"shop\",backend_name=\"{service}\",backend_port=\"80\""
            )
        },
    );
    counts_slow_ones(
        "agentgateway",
        "agentgateway_request_duration_seconds",
        "0.5",
        |service| format!("backend=\"{service}.shop.svc.cluster.local:80\",status=\"200\""),
    );
    let providers = Providers::built_in().unwrap();
    let threshold = Span::millis(500);
    let error = providers
        .named("nginx-plus")
        .unwrap()
        .query(&arms(), 15, &Measure::Latency { threshold })
        .unwrap_err();
    assert_eq!(error.label(), "no_latency");
}
