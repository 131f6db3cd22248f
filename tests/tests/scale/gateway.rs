//! A gateway's controller and counters without its traffic: it accepts the routes that name it, and counts for each backend the requests that
//! its weight would bring it.
//!
//! Written by hand for one test, because 2,000 pods under real load are what one machine cannot do. Its counters have the names and labels of
//! Contour's Envoy (`operator/providers/contour.yaml`), and begin with a backend's first request, as Envoy's do.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use axum::Router;
use axum::routing::get;
use futures::StreamExt;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use stepgate_tests::cluster::Counters;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The name of the Gateway that routes name as their parent. No object stands behind it: nobody but a gateway's own controller reads it.
pub(crate) const NAME: &str = "stand-in";
const CONTROLLER: &str = "stepgate.dev/stand-in-gateway";
/// Requests a second that clients would send to each route.
const RATE: f64 = 10.0;
/// Of so many requests one fails.
const ONE_BAD_OF: u64 = 500;
/// Of so many requests one takes longer than 250 ms.
const ONE_SLOW_OF: u64 = 100;

/// The gateway. Ends when dropped.
pub(crate) struct Gateway {
    /// Where it counts.
    pub(crate) counters: Counters,
    _tasks: JoinSet<()>,
}

/// What it serves.
struct Served {
    /// By namespace and name the backends of a route, each with its share of the requests.
    routes: HashMap<(String, String), Vec<(String, f64)>>,
    /// Requests by Envoy cluster, in fractions of one.
    requests: BTreeMap<String, f64>,
    counted: Instant,
}

impl Gateway {
    /// Starts to accept routes and to count.
    pub(crate) async fn start(client: Client) -> Result<Self> {
        let served = Arc::new(Mutex::new(Served {
            routes: HashMap::new(),
            requests: BTreeMap::new(),
            counted: Instant::now(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("a port for the counters")?;
        let target = listener.local_addr()?.to_string();
        let page = Arc::clone(&served);
        let router = Router::new().route("/stats/prometheus", get(async move || look(&page, Served::page)));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let _until_dropped = axum::serve(listener, router).await;
        });
        tasks.spawn(accept_all(client, served));
        Ok(Self {
            counters: Counters {
                target,
                path: "/stats/prometheus",
            },
            _tasks: tasks,
        })
    }
}

/// Brings the counters up to now, and does something with them.
fn look<T>(served: &Mutex<Served>, what: impl FnOnce(&mut Served) -> T) -> T {
    let mut served = served.lock().unwrap_or_else(PoisonError::into_inner);
    served.count();
    what(&mut served)
}

impl Served {
    /// Counts the requests since the last time.
    fn count(&mut self) {
        let sent = RATE * self.counted.elapsed().as_secs_f64();
        self.counted = Instant::now();
        for (cluster, share) in self.routes.values().flatten() {
            *self.requests.entry(cluster.clone()).or_default() += sent * share;
        }
    }

    /// The counters as Prometheus reads them.
    fn page(&mut self) -> String {
        let mut page = String::new();
        for (cluster, requests) in &self.requests {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole requests")]
            let requests = *requests as u64;
            if requests == 0 {
                continue;
            }
            let (bad, slow) = (requests / ONE_BAD_OF, requests / ONE_SLOW_OF);
            let mut line = |name: &str, label: &str, value: u64| {
                let comma = if label.is_empty() { "" } else { "," };
                let _never = writeln!(
                    page,
                    "envoy_cluster_{name}{{envoy_cluster_name=\"{cluster}\"{comma}{label}}} {value}"
                );
            };
            line("upstream_rq_xx", "envoy_response_code_class=\"2\"", requests - bad);
            if bad > 0 {
                line("upstream_rq_xx", "envoy_response_code_class=\"5\"", bad);
            }
            line("upstream_rq_time_bucket", "le=\"100\"", requests / 2);
            line("upstream_rq_time_bucket", "le=\"250\"", requests - slow);
            line("upstream_rq_time_bucket", "le=\"+Inf\"", requests);
            line("upstream_rq_time_count", "", requests);
        }
        page
    }
}

/// Accepts every route that names the gateway, at each of its generations.
async fn accept_all(client: Client, served: Arc<Mutex<Served>>) {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
    let routes: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let mut events = watcher(routes, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        let Ok(Event::Apply(route) | Event::InitApply(route)) = event else {
            continue;
        };
        let Some(status) = accepted(&route) else { continue };
        let (namespace, name) = (route.namespace().unwrap_or_default(), route.name_any());
        let backends = backends(&route, &namespace);
        look(&served, |served| {
            served.routes.insert((namespace.clone(), name.clone()), backends)
        });
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &resource);
        let patch = Patch::Merge(json!({"status": status}));
        // What could not be written is written with the route's next change; the test sees a Rollout that waits.
        let _written = api.patch_status(&name, &PatchParams::default(), &patch).await;
    }
}

/// The status that a route is to get; none where it is not the gateway's, or has it already.
fn accepted(route: &DynamicObject) -> Option<Value> {
    let generation = route.metadata.generation;
    let parents = route.data.pointer("/spec/parentRefs")?.as_array()?;
    let parent = parents.iter().find(|parent| parent["name"] == NAME)?;
    let before = route.data.pointer("/status/parents/0/conditions/0");
    if before.is_some_and(|before| before["observedGeneration"] == json!(generation)) {
        return None;
    }
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": kind, "message": "", "observedGeneration": generation, "lastTransitionTime": now});
    let conditions = [condition("Accepted"), condition("ResolvedRefs")];
    Some(json!({"parents": [{"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions}]}))
}

/// The backends of a route's one rule by their Envoy clusters, each with its share of the requests.
fn backends(route: &DynamicObject, namespace: &str) -> Vec<(String, f64)> {
    let references = route
        .data
        .pointer("/spec/rules/0/backendRefs")
        .and_then(Value::as_array);
    let weighed = references.into_iter().flatten().map(|reference| {
        let (service, port) = (reference["name"].as_str().unwrap_or_default(), &reference["port"]);
        let weight = reference["weight"].as_f64().unwrap_or(1.0);
        (format!("{namespace}_{service}_{port}"), weight)
    });
    let weighed: Vec<(String, f64)> = weighed.collect();
    let all: f64 = weighed.iter().map(|(_, weight)| weight).sum();
    let share = |(cluster, weight)| (cluster, if all > 0.0 { weight / all } else { 0.0 });
    weighed.into_iter().map(share).collect()
}
