//! Everything that a Rollout said and that its route was, in order and with its time of arrival: what a test measures by, and what it
//! prints when it fails.
//!
//! Fed by two watches, so that nothing between two looks is missed. A record only looks; it writes nothing.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt};
use serde_json::Value;
use stepgate_crds::status::{Phase, Run};
use stepgate_crds::{Rollout, RolloutStatus, names};
use tokio::task::JoinHandle;

use crate::cluster::Namespace;
use crate::shop::NAME;

/// The canary's Service in the shop.
const CANARY: &str = "checkout-canary";

/// The route at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSeen {
    /// Its generation.
    pub generation: i64,
    /// The canary's weight; none where no rule refers to it. The highest where rules differ.
    pub weight: Option<i64>,
    /// Every parent has accepted this generation.
    pub accepted: bool,
    /// The mark of the run's intent.
    pub mark: Option<String>,
}

#[derive(Clone, Debug)]
enum Seen {
    Status(Box<RolloutStatus>),
    Route(RouteSeen),
}

type Entries = Arc<Mutex<Vec<(Timestamp, Seen)>>>;

/// A record that goes on until it is dropped.
#[derive(Debug)]
pub struct Record {
    entries: Entries,
    watches: Vec<JoinHandle<()>>,
}

impl Record {
    /// Begins to record the shop of a namespace.
    pub fn start(namespace: &Namespace) -> Self {
        let entries = Entries::default();
        let client = namespace.cluster().client();
        let rollouts: Api<Rollout> = namespace.api();
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute"));
        let routes: Api<DynamicObject> = Api::namespaced_with(client, namespace.name(), &kind);
        let one = Config::default().fields(&format!("metadata.name={NAME}"));
        let (statuses, weights) = (Arc::clone(&entries), Arc::clone(&entries));
        let watch_rollout = watcher(rollouts, one.clone()).default_backoff().for_each(move |event| {
            if let Ok(Event::Apply(rollout) | Event::InitApply(rollout)) = event {
                note(&statuses, Seen::Status(Box::new(rollout.status.unwrap_or_default())));
            }
            std::future::ready(())
        });
        let watch_route = watcher(routes, one).default_backoff().for_each(move |event| {
            if let Ok(Event::Apply(route) | Event::InitApply(route)) = event {
                note(&weights, Seen::Route(route_seen(&route)));
            }
            std::future::ready(())
        });
        Self {
            entries,
            watches: vec![tokio::spawn(watch_rollout), tokio::spawn(watch_route)],
        }
    }

    /// Every status, with its time of arrival.
    pub fn statuses(&self) -> Vec<(Timestamp, RolloutStatus)> {
        self.all()
            .into_iter()
            .filter_map(|(at, seen)| match seen {
                Seen::Status(status) => Some((at, *status)),
                Seen::Route(_) => None,
            })
            .collect()
    }

    /// The last status that arrived.
    pub fn last_status(&self) -> Option<RolloutStatus> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().rev().find_map(|(_, seen)| match seen {
            Seen::Status(status) => Some((**status).clone()),
            Seen::Route(_) => None,
        })
    }

    /// Every state of the route, with its time of arrival.
    pub fn routes(&self) -> Vec<(Timestamp, RouteSeen)> {
        self.all()
            .into_iter()
            .filter_map(|(at, seen)| match seen {
                Seen::Route(route) => Some((at, route)),
                Seen::Status(_) => None,
            })
            .collect()
    }

    /// The canary's weights that every parent accepted, in order, each once in a row; none where no rule refers to it.
    pub fn accepted_weights(&self) -> Vec<Option<i64>> {
        let mut weights: Vec<Option<i64>> = self
            .routes()
            .into_iter()
            .filter(|(_, route)| route.accepted)
            .map(|(_, route)| route.weight)
            .collect();
        weights.dedup();
        weights
    }

    /// When this weight was first seen to be accepted at or after a time.
    pub fn accepted_at(&self, weight: i64, from: Timestamp) -> Option<Timestamp> {
        self.routes()
            .into_iter()
            .find(|(at, route)| *at >= from && route.accepted && route.weight == Some(weight))
            .map(|(at, _)| at)
    }

    /// The phases, each once in a row.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases: Vec<Phase> = self
            .statuses()
            .into_iter()
            .filter_map(|(_, status)| status.phase)
            .collect();
        phases.dedup();
        phases
    }

    /// The first run, in order of arrival, that is as wanted.
    pub fn first_run(&self, wanted: impl Fn(&Run) -> bool) -> Option<(Timestamp, Run)> {
        self.statuses()
            .into_iter()
            .find_map(|(at, status)| status.run.filter(|run| wanted(run)).map(|run| (at, run)))
    }

    /// For people: one line for each change.
    pub fn timeline(&self) -> String {
        let all = self.all();
        let Some((begin, _)) = all.first() else {
            return "nothing was recorded\n".to_owned();
        };
        let mut lines = String::new();
        for (at, seen) in &all {
            let seconds = at.duration_since(*begin).as_secs_f64();
            // Writing into a String does not fail.
            let _written = match seen {
                Seen::Status(status) => writeln!(lines, "{seconds:8.3} status {}", status_line(status)),
                Seen::Route(route) => writeln!(
                    lines,
                    "{seconds:8.3} route  generation {}, canary {}, {}, mark {}",
                    route.generation,
                    route
                        .weight
                        .map_or_else(|| "absent".to_owned(), |weight| format!("{weight} %")),
                    if route.accepted { "accepted" } else { "not accepted yet" },
                    route.mark.as_deref().unwrap_or("-")
                ),
            };
        }
        lines
    }

    fn all(&self) -> Vec<(Timestamp, Seen)> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        for watch in &self.watches {
            watch.abort();
        }
    }
}

/// A status in one line.
pub fn status_line(status: &RolloutStatus) -> String {
    let run = status.run.as_ref();
    format!(
        "{} step {} intended {} accepted {} verdict {}: {}",
        status.phase.map_or("-", Phase::as_str),
        status.step.as_deref().unwrap_or("-"),
        run.map_or_else(|| "-".to_owned(), |run| run.weight.to_string()),
        status
            .weight
            .map_or_else(|| "-".to_owned(), |weight| weight.to_string()),
        status.verdict.as_deref().unwrap_or("-"),
        status.message.as_deref().unwrap_or_default()
    )
}

fn note(entries: &Entries, seen: Seen) {
    let at = Timestamp::now();
    entries.lock().unwrap_or_else(PoisonError::into_inner).push((at, seen));
}

fn route_seen(route: &DynamicObject) -> RouteSeen {
    let generation = route.metadata.generation.unwrap_or_default();
    let list = |path: &str| {
        let found = route.data.pointer(path).and_then(Value::as_array);
        found.cloned().unwrap_or_default()
    };
    let weight = list("/spec/rules")
        .iter()
        .filter_map(|rule| {
            let references = rule.get("backendRefs")?.as_array()?;
            let weight = |one: &Value| one.get("weight").and_then(Value::as_i64).unwrap_or(1);
            let is_canary = |one: &&Value| one.get("name").and_then(Value::as_str) == Some(CANARY);
            let all: i64 = references.iter().map(weight).sum();
            // A millionth keeps a backend known.
            Some(match (references.iter().find(is_canary).map(weight)?, all) {
                (1, 1_000_001) => 0,
                (1_000_000, 1_000_001) => 100,
                (weight, _) => weight,
            })
        })
        .max();
    let parents = list("/status/parents");
    let holds = |parent: &Value, wanted: &str| {
        let conditions = parent.get("conditions").and_then(Value::as_array).cloned();
        conditions.unwrap_or_default().iter().any(|condition| {
            let is = |field: &str, value: &str| condition.get(field).and_then(Value::as_str) == Some(value);
            is("type", wanted)
                && is("status", "True")
                && condition.get("observedGeneration").and_then(Value::as_i64) == Some(generation)
        })
    };
    RouteSeen {
        generation,
        weight,
        accepted: !parents.is_empty()
            && parents
                .iter()
                .all(|parent| holds(parent, "Accepted") && holds(parent, "ResolvedRefs")),
        mark: route.annotations().get(names::RUN).cloned(),
    }
}
