//! Today's traffic: what the user says, else what the Rollout's own runs counted, else a few rates to choose from.
//!
//! Pure. The plugin asks no metrics source: those belong to the administrator.

use anyhow::{Result, ensure};
use serde::Serialize;
use stepgate_crds::Rollout;
use stepgate_crds::evidence::{Evidence, MetricEvidence, ProcessKind, Tally};
use stepgate_crds::status::{Past, PastMetric, RunSpec};
use stepgate_crds::units::Share;

/// Requests a second where nothing is known.
const RATES: [f64; 4] = [1.0, 10.0, 100.0, 1_000.0];
/// Where stable's own share of bad requests is not known it is taken to be this part of the max.
const PART_OF_MAX: f64 = 0.1;

/// What the user says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Given {
    /// Requests a second to the stable Service.
    pub(crate) rate: Option<f64>,
    /// Stable's own share of failed requests.
    pub(crate) bad: Option<Share>,
    /// Stable's own share of slow requests.
    pub(crate) slow: Option<Share>,
}

/// What is foretold from.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Traffic {
    /// Requests a second.
    pub(crate) rates: Vec<f64>,
    /// Where the rate is from.
    pub(crate) rate_from: String,
    /// Stable's own share of bad requests of each metric, from 0 to 1, errors first.
    pub(crate) shares: Vec<f64>,
    /// Where those are from.
    pub(crate) shares_from: Vec<String>,
}

/// The traffic that is known of.
pub(crate) fn traffic(given: &Given, live: Option<&Rollout>, spec: &RunSpec) -> Result<Traffic> {
    let counted = live.and_then(counted);
    let (rates, rate_from) = match (given.rate, &counted) {
        (Some(rate), _) => (vec![rate], "from --rate".to_owned()),
        (None, Some(counted)) if counted.rate > 0.0 => (vec![counted.rate], format!("as {} counted", counted.run)),
        _ => (
            RATES.to_vec(),
            "not known: no run of this Rollout has counted any; --rate N says how many there are".to_owned(),
        ),
    };
    let maxes = [spec.max_error_rate.get()]
        .into_iter()
        .chain(spec.latency.iter().map(|latency| latency.max.get()));
    let metrics = [("errors", "--bad", given.bad), ("latency", "--slow", given.slow)];
    let mut shares = Vec::new();
    let mut shares_from = Vec::new();
    for (max, (name, flag, said)) in maxes.zip(metrics) {
        let seen = counted.as_ref().and_then(|counted| {
            let (_, stable) = counted.stable.iter().find(|(metric, _)| metric == name)?;
            (stable.requests > 0).then(|| (share(*stable), counted))
        });
        let (share, from) = match (said, seen) {
            (Some(said), _) => (said.get(), format!("from {flag}")),
            (None, Some((share, counted))) => (share, format!("as {} counted", counted.run)),
            (None, None) => (
                max * PART_OF_MAX,
                format!("not known: a tenth of the max is taken; {flag} PERCENT says it"),
            ),
        };
        shares.push(share);
        shares_from.push(from);
    }
    ensure!(
        given.slow.is_none() || spec.latency.is_some(),
        "--slow is given, and how long requests take is not judged; leave it out, or set spec.analysis.latency"
    );
    Ok(Traffic {
        rates,
        rate_from,
        shares,
        shares_from,
    })
}

/// What a run counted.
struct Counted {
    run: String,
    /// Requests a second of both versions, lately.
    rate: f64,
    /// Stable over the whole run, by metric.
    stable: Vec<(String, Tally)>,
}

/// The newest run that counted anything.
fn counted(live: &Rollout) -> Option<Counted> {
    let status = live.status.as_ref()?;
    let under_way = status.run.as_ref();
    under_way
        .and_then(|run| of_evidence(&run.evidence, format!("run {}", run.id)))
        .or_else(|| status.history.first().and_then(of_past))
}

/// What is kept of a run that has ended.
fn of_past(past: &Past) -> Option<Counted> {
    let counts = past.counts.as_ref()?;
    let recent = &counts.metrics.first()?.recent;
    let stable = |metric: &PastMetric| {
        let parts = metric.parts.iter();
        let sum = parts.fold(Tally::default(), |sum, part| Tally {
            requests: sum.requests.saturating_add(part.stable.requests),
            bad: sum.bad.saturating_add(part.stable.bad),
        });
        (metric.name.clone(), sum)
    };
    (recent.seconds > 0).then(|| Counted {
        run: format!("run {}", past.run),
        rate: as_f64(recent.canary.requests.saturating_add(recent.stable.requests)) / as_f64(recent.seconds),
        stable: counts.metrics.iter().map(stable).collect(),
    })
}

fn of_evidence(evidence: &Evidence, run: String) -> Option<Counted> {
    let first = evidence.metrics.first()?;
    let (requests, seconds) = first.recent.iter().fold((0_u64, 0_u64), |(requests, seconds), one| {
        (
            requests
                .saturating_add(one.canary.requests)
                .saturating_add(one.stable.requests),
            seconds.saturating_add(one.seconds),
        )
    });
    let stable = |metric: &MetricEvidence| {
        let whole = metric
            .processes
            .iter()
            .find(|process| process.kind == ProcessKind::Run)?;
        Some((metric.name.clone(), whole.relative.stable))
    };
    (seconds > 0).then(|| Counted {
        run,
        rate: as_f64(requests) / as_f64(seconds),
        stable: evidence.metrics.iter().filter_map(stable).collect(),
    })
}

fn share(tally: Tally) -> f64 {
    as_f64(tally.bad) / as_f64(tally.requests.max(1))
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^53")]
fn as_f64(count: u64) -> f64 {
    count as f64
}
