//! How long a step is held, and what follows: what the spec says now, for its step or for all. Where it says nothing, a step holds for ever.
//!
//! Nothing goes on by missing data, whatever the spec says: only too little evidence may be advanced over, and only by `Advance`.

use stepgate_crds::{
    evidence::MetricEvidence,
    rollout::{Inconclusive, NoData, OnInconclusive, OnNoData, StepAnalysis},
    status::Retreat,
    units::Timestamp,
};

use super::Pass;
use crate::verdict::{HoldReason, Judgement};

/// What follows from a hold.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Patience {
    /// When it is over.
    pub over: Timestamp,
    /// What the spec wants done then.
    pub then: Then,
    /// In the spec's words; empty where it wants nothing done.
    pub rule: String,
}

/// What the spec wants done with a step that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// Nothing.
    Hold,
    /// All traffic to stable.
    Retreat(Retreat),
    /// The version has failed, for this reason.
    RollBack(&'static str),
    /// On without a verdict.
    Advance,
}

/// How long a step that has been in force since then is held for this reason, and what follows.
pub(super) fn of(pass: &Pass<'_>, reason: &HoldReason, settled: Timestamp) -> Patience {
    let (input, limits) = (pass.input, pass.input.limits);
    let ruled = if reason.is_no_data() {
        no_data(pass).map(|rule| {
            let after = rule.after.unwrap_or(limits.no_data);
            let then = match rule.then {
                NoData::Hold => Then::Hold,
                NoData::Retreat => Then::Retreat(Retreat::NoData),
                NoData::Rollback => Then::RollBack(Retreat::NoData.as_str()),
            };
            Patience {
                over: pass.run.no_data_since.unwrap_or(input.now).after(after),
                then,
                rule: format!("onNoData: {:?} after {after}", rule.then),
            }
        })
    } else {
        inconclusive(pass).map(|rule| {
            let after = rule.after.unwrap_or(limits.inconclusive);
            let then = match rule.then {
                Inconclusive::Hold => Then::Hold,
                Inconclusive::Retreat => Then::Retreat(Retreat::Inconclusive),
                Inconclusive::Rollback => Then::RollBack(Retreat::Inconclusive.as_str()),
                Inconclusive::Advance => Then::Advance,
            };
            Patience {
                // From the step's beginning, or the end of a pause in it.
                over: settled.max(pass.since()).after(after),
                then,
                rule: format!("onInconclusive: {:?} after {after}", rule.then),
            }
        })
    };
    ruled.unwrap_or_else(|| {
        let deadline = input.rollout.spec.progress_deadline.unwrap_or(limits.progress_deadline);
        Patience {
            over: settled.after(deadline),
            then: Then::Hold,
            rule: String::new(),
        }
    })
}

/// Why a step may not be advanced over without a verdict; none where it may.
pub(super) fn obstacle(pass: &Pass<'_>, judgement: &Judgement, reason: &HoldReason) -> Option<String> {
    if !reason.is_too_little() {
        return Some("this is not for want of evidence".to_owned());
    }
    let settings = pass.settings();
    let least = pass.input.limits.advance_requests;
    let objection = |(kept, max): (&MetricEvidence, f64)| {
        let (requests, bad) = (kept.step.canary.requests, kept.step.canary.bad);
        #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
        let is_over = bad as f64 >= max * requests as f64;
        if requests < least {
            Some(format!("{}: {requests} of {least} canary requests", kept.name))
        } else {
            is_over.then(|| {
                format!(
                    "{}: {bad} of {requests} canary requests are bad, not under the max",
                    kept.name
                )
            })
        }
    };
    let maxima = settings.metrics.iter().map(|metric| metric.max);
    judgement.evidence.metrics.iter().zip(maxima).find_map(objection)
}

/// The step's own rules, as they are now.
fn own<'a>(pass: &Pass<'a>) -> Option<&'a StepAnalysis> {
    let steps = pass.input.rollout.spec.steps.as_ref()?;
    steps.get(usize::try_from(pass.run.step).ok()?)?.analysis.as_ref()
}

fn no_data<'a>(pass: &Pass<'a>) -> Option<&'a OnNoData> {
    let all = || pass.input.rollout.spec.analysis.as_ref()?.on_no_data.as_ref();
    own(pass).and_then(|own| own.on_no_data.as_ref()).or_else(all)
}

fn inconclusive<'a>(pass: &Pass<'a>) -> Option<&'a OnInconclusive> {
    let all = || pass.input.rollout.spec.analysis.as_ref()?.on_inconclusive.as_ref();
    own(pass).and_then(|own| own.on_inconclusive.as_ref()).or_else(all)
}
