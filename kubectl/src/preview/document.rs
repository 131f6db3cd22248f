//! What a preview says, for programs as it is, and for people by `text`.

use kube::ResourceExt;
use serde::Serialize;
use stepgate_crds::Rollout;
use stepgate_crds::provider::ProviderName;
use stepgate_crds::rollout::{Approval, OnInconclusive, OnNoData};
use stepgate_crds::units::{Share, Span};

use super::Plan;
use super::outlook::{LONGEST, Outlook, SEED};
use super::preflight::Preflight;
use super::traffic::Traffic;

/// One Rollout, looked at before it is applied.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) workload: String,
    pub(crate) preflight: Preflight,
    pub(crate) steps: Vec<StepView>,
    pub(crate) analysis: AnalysisView,
    pub(crate) traffic: Traffic,
    /// One for each rate.
    pub(crate) outlooks: Vec<Outlook>,
    /// Chance began with it.
    pub(crate) seed: u64,
    /// Seconds after which a rehearsal was left undecided.
    pub(crate) longest_seconds: i64,
}

/// A step.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StepView {
    pub(crate) weight: i32,
    pub(crate) bake: Span,
    pub(crate) approval: bool,
    /// Tolerated shares.
    pub(crate) max_errors: Share,
    pub(crate) max_slow: Option<Share>,
}

/// How a version is judged.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnalysisView {
    pub(crate) source: String,
    /// The set of queries: the one that was found, else what the spec says.
    pub(crate) provider: ProviderName,
    pub(crate) provider_why: Option<String>,
    pub(crate) interval: Span,
    pub(crate) settle: Span,
    /// What is slow; none where it is not judged.
    pub(crate) latency_threshold: Option<Span>,
    pub(crate) phi: f64,
    pub(crate) phi_from: String,
    pub(crate) on_inconclusive: Option<OnInconclusive>,
    pub(crate) on_no_data: Option<OnNoData>,
}

impl Document {
    pub(crate) fn new(
        rollout: &Rollout,
        preflight: Preflight,
        plan: &Plan,
        traffic: Traffic,
        outlooks: Vec<Outlook>,
    ) -> Self {
        let spec = &plan.spec;
        let steps = spec.steps.iter().zip(&plan.settings).map(|(step, settings)| {
            let max = |at: usize| settings.metrics.get(at).map(|metric| Share::new(metric.max));
            StepView {
                weight: step.weight,
                bake: step.bake.unwrap_or(plan.limits.bake),
                approval: step.approval == Some(Approval::Required),
                max_errors: max(0).unwrap_or(spec.max_error_rate),
                max_slow: max(1),
            }
        });
        let own = rollout.spec.analysis.clone().unwrap_or_default();
        let found = preflight.found.as_ref();
        Self {
            namespace: rollout.namespace().unwrap_or_default(),
            name: rollout.name_any(),
            workload: rollout.spec.workload.name.clone(),
            steps: steps.collect(),
            analysis: AnalysisView {
                source: spec.source.clone(),
                provider: found.map_or_else(|| own.provider.unwrap_or_default(), |found| found.provider.clone()),
                provider_why: found.and_then(|found| found.provider_why.clone()),
                interval: spec.interval,
                settle: spec.settle,
                latency_threshold: spec.latency.as_ref().map(|latency| latency.threshold),
                phi: spec.phi,
                phi_from: "the default; a run reads it from stable's history where the metrics tell its pods apart"
                    .to_owned(),
                on_inconclusive: own.on_inconclusive,
                on_no_data: own.on_no_data,
            },
            preflight,
            traffic,
            outlooks,
            seed: SEED,
            longest_seconds: LONGEST,
        }
    }
}
