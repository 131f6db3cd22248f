//! `preview`: what a Rollout in a file would do, before it is applied: what stands in the way of it, how long its steps take at today's
//! traffic, and which regressions it would find.
//!
//! Writes nothing; the API server is asked to check the manifest by a dry run. Everything is found by the operator's own code
//! (`stepgate_core`), on what the user may read; what could not be looked at is said. Needs no cluster for what no cluster is needed for.

mod document;
mod look;
mod manifest;
mod outlook;
mod preflight;
mod providers;
#[cfg(test)]
mod tests;
mod text;
mod traffic;

use anyhow::{Context, Result};
use stepgate_core::Limits;
use stepgate_core::state::Pass;
use stepgate_core::verdict::Settings;
use stepgate_core::verdict::baseline::max_of;
use stepgate_crds::units::{Share, Span, Timestamp};
use stepgate_crds::{Rollout, status::RunSpec};

use crate::args::PreviewArguments;
use crate::connect::Connection;
use document::Document;
use look::Looked;
pub(crate) use traffic::Given;

/// What is to be printed, and whether something is refused.
#[derive(Debug)]
pub(crate) struct Previews(Vec<Document>);

/// Looks at every Rollout of a manifest. `connection` is why there is none where there is none.
pub(crate) async fn preview(
    text: &str,
    file: &str,
    connection: Result<Connection, String>,
    wanted: &PreviewArguments,
    namespace: Option<&str>,
) -> Result<Previews> {
    let default = connection
        .as_ref()
        .map_or("default", |connection| &connection.namespace);
    let manifests = manifest::read(text, file, namespace, default)?;
    let now = Timestamp::from(jiff::Timestamp::now());
    let mut documents = Vec::new();
    for manifest in &manifests {
        let looked = match &connection {
            Ok(connection) => Looked::at(connection, manifest).await,
            Err(why) => Looked::nowhere(why),
        };
        documents.push(of_one(&manifest.rollout, &looked, &wanted.given(), now)?);
    }
    Ok(Previews(documents))
}

fn of_one(rollout: &Rollout, looked: &Looked, given: &Given, now: Timestamp) -> Result<Document> {
    let mut preflight = preflight::preflight(rollout, looked, now);
    let traffic = traffic::traffic(given, looked.live.as_ref(), &preflight.spec)
        .with_context(|| format!("Rollout {}", manifest::place(rollout)))?;
    let errors = traffic.shares.first().copied().unwrap_or_default();
    if preflight.spec.auto_max {
        let max = Share::new(max_of(errors));
        preflight.spec.max_error_rate = max;
        preflight.notes.push(format!(
            "max: auto is read from stable's history when a run starts; with {} of its requests bad it is {max}",
            Share::new(errors)
        ));
    }
    let plan = Plan::new(
        preflight.spec.clone(),
        preflight.counts_all_callers(),
        preflight.limits.clone(),
    );
    let outlooks = outlook::outlooks(&plan, &traffic);
    Ok(Document::new(rollout, preflight, &plan, traffic, outlooks))
}

/// A run as it would be judged.
#[derive(Debug)]
pub(crate) struct Plan {
    /// With every default filled in.
    spec: RunSpec,
    /// The verdict's parameters at each step.
    settings: Vec<Settings>,
    /// The operator's constants, those of the run in their place.
    limits: Limits,
}

impl Plan {
    fn new(spec: RunSpec, counts_all_callers: bool, limits: Limits) -> Self {
        let steps = i32::try_from(spec.steps.len()).unwrap_or(i32::MAX);
        Self {
            settings: (0..steps)
                .map(|step| Pass::settings_at(&spec, counts_all_callers, step))
                .collect(),
            limits: Limits {
                interval: spec.interval,
                settle: spec.settle,
                warm_up: spec.warm_up,
                ..limits
            },
            spec,
        }
    }
}

impl Previews {
    /// Whether a Rollout is refused.
    pub(crate) fn is_refused(&self) -> bool {
        self.0.iter().any(|document| document.preflight.refused.is_some())
    }

    /// For programs.
    pub(crate) fn json(&self) -> Result<String> {
        let document = serde_json::json!({"rollouts": self.0});
        Ok(serde_json::to_string_pretty(&document).context("writing JSON")? + "\n")
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(text::of_one).collect();
        parts.join("\n")
    }
}

/// A span of so many seconds.
fn span(seconds: i64) -> Span {
    Span::seconds(u64::try_from(seconds).unwrap_or(0))
}
