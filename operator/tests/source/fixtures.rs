//! What the tests of the source and of the sampler start from.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use stepgate::provider::{Arms, Measure, Providers, Query};
use stepgate::source::{MetricsSource, SourceLimits};

use crate::prometheus::Line;

pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

pub(crate) fn source(url: &str) -> MetricsSource {
    limited(
        url,
        SourceLimits {
            timeout: Duration::from_secs(2),
            body: 64 << 10,
        },
    )
}

pub(crate) fn limited(url: &str, limits: SourceLimits) -> MetricsSource {
    MetricsSource::new(&format!("default={url}").parse().unwrap(), limits).unwrap()
}

pub(crate) fn contour(interval: u32) -> Query {
    contour_of(interval, &Measure::Errors)
}

pub(crate) fn contour_of(interval: u32, measure: &Measure) -> Query {
    let arms = Arms {
        namespace: "shop".into(),
        stable_service: "checkout".into(),
        canary_service: "checkout-canary".into(),
        port: 80,
        routes: vec!["checkout".into()],
        stable_replica_set: String::new(),
        canary_deployment: String::new(),
    };
    Providers::built_in()
        .unwrap()
        .named("contour")
        .unwrap()
        .query(&arms, interval, measure)
        .unwrap()
}

/// Twenty minutes of a gateway: stable 100 requests and one bad a scrape, and from the tenth minute on a canary with 10 and 2.
pub(crate) fn gateway() -> Vec<Line> {
    let canary = |series, step: i64| {
        let mut line = Line {
            series,
            samples: vec![None; 120],
        };
        line.samples.extend((1..=120).map(|index| Some(index * step)));
        line
    };
    vec![
        Line::rising("up{job=\"envoy\",instance=\"gw\"}", 1, 0, 240),
        Line::rising(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout_80\",envoy_response_code_class=\"2\"}",
            5000,
            99,
            240,
        ),
        Line::rising(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout_80\",envoy_response_code_class=\"5\"}",
            40,
            1,
            240,
        ),
        canary(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout-canary_80\",envoy_response_code_class=\"2\"}",
            8,
        ),
        canary(
            "envoy_cluster_upstream_rq_xx{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout-canary_80\",envoy_response_code_class=\"5\"}",
            2,
        ),
    ]
}

/// The same twenty minutes of how long answers took, of those that the backends gave: of stable's 95 a scrape 2 took longer than 500 ms,
/// of the canary's 8 took 5.
pub(crate) fn latency() -> Vec<Line> {
    const STABLE: [(&str, i64); 5] = [
        (
            "envoy_cluster_upstream_rq_time_count{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout_80\"}",
            95,
        ),
        (
            "envoy_cluster_upstream_rq_time_bucket{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout_80\",le=\"250\"}",
            90,
        ),
        (
            "envoy_cluster_upstream_rq_time_bucket{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout_80\",le=\"500\"}",
            93,
        ),
        (
            "envoy_cluster_upstream_rq_time_bucket{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout_80\",le=\"1000\"}",
            95,
        ),
        (
            "envoy_cluster_upstream_rq_time_bucket{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout_80\",le=\"+Inf\"}",
            95,
        ),
    ];
    const CANARY: [(&str, i64); 3] = [
        (
            "envoy_cluster_upstream_rq_time_count{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout-canary_80\"}",
            8,
        ),
        (
            "envoy_cluster_upstream_rq_time_bucket{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout-canary_80\",le=\"500\"}",
            3,
        ),
        (
            "envoy_cluster_upstream_rq_time_bucket{job=\"envoy\",instance=\"gw\",envoy_cluster_name=\"shop_checkout-canary_80\",le=\"+Inf\"}",
            8,
        ),
    ];
    let stable = STABLE.map(|(series, step)| Line::rising(series, 5_000, step, 240));
    let canary = CANARY.map(|(series, step)| Line {
        series,
        samples: (0..240_i64)
            .map(|index| (index >= 120).then(|| (index - 119) * step))
            .collect(),
    });
    stable.into_iter().chain(canary).collect()
}

/// An hour ago, on the grid of 15 s.
pub(crate) fn hour_ago() -> i64 {
    (now() - 3600) / 15 * 15
}
