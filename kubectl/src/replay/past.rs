//! The last run of a Rollout as a document of counts, from what its status kept.
//!
//! Pure. Status keeps no intervals but the counts of the run's parts (from one step's beginning to the next); each stands for an interval, or
//! for two where bad requests came in more than one. So evidence comes out near what the operator had, which stands beside it, and the
//! verdict as it would be by these counts in one step.

use anyhow::{Result, bail};
use kube::ResourceExt;
use serde_json::{Value, json};
use stepgate_core::state::interval_seconds;
use stepgate_crds::Rollout;
use stepgate_crds::evidence::{Tally, Window};
use stepgate_crds::status::{Past, PastCounts, PastMetric};
use stepgate_crds::units::Timestamp;

use super::Replay;
use crate::figures::ago;

/// A run, replayed, and what is to be said of it first.
pub(crate) struct OfRun {
    /// The same as of a file.
    pub(crate) replay: Replay,
    /// Which run it is, and what the operator had at its end.
    pub(crate) head: String,
}

/// Replays the last run of a Rollout.
pub(crate) fn of_run(rollout: &Rollout, now: Timestamp) -> Result<OfRun> {
    let name = rollout.name_any();
    let history = rollout.status.as_ref().map_or(&[][..], |status| &status.history);
    let Some(last) = history.first() else {
        bail!(
            "Rollout {name}: no run of it has ended yet; `kubectl stepgate explain {name}` says what is known of one that is under way"
        );
    };
    let Some(counts) = &last.counts else {
        bail!(
            "Rollout {name}: status keeps no counts of its last run {}: it counted nothing, status has no room for them, or an older operator ended it; `kubectl stepgate replay --counts FILE` judges counts of your own",
            last.run
        );
    };
    let text = document(last, counts).to_string();
    let source = format!("status of Rollout {name}");
    Ok(OfRun {
        replay: super::replay(&text, &source, interval_seconds(counts.interval))?,
        head: head(last, counts, now),
    })
}

fn document(last: &Past, counts: &PastCounts) -> Value {
    let cases = counts.metrics.iter().map(|metric| {
        let intervals: Vec<[u64; 4]> = metric.parts.iter().flat_map(intervals).collect();
        json!({
            "name": metric.name,
            "rho0": metric.ratio,
            "phi": counts.phi,
            "tolerance": metric.max.get(),
            "metrics": counts.metrics.len(),
            "intervals_nc_xc_ns_xs": intervals,
        })
    });
    json!({"run": last.run, "cases": cases.collect::<Vec<_>>()})
}

/// A part as an interval, or as two where bad requests came in more than one.
fn intervals(part: &Window) -> Vec<[u64; 4]> {
    let numbers = |canary: Tally, stable: Tally| [canary.requests, canary.bad, stable.requests, stable.bad];
    if part.intervals_with_bad < 2 || part.canary.bad < 2 {
        return vec![numbers(part.canary, part.stable)];
    }
    let first = |tally: Tally| Tally {
        requests: tally.requests.div_ceil(2),
        bad: tally.bad.div_ceil(2),
    };
    let rest = |tally: Tally| Tally {
        requests: tally.requests / 2,
        bad: tally.bad / 2,
    };
    [first, rest]
        .map(|half| numbers(half(part.canary), half(part.stable)))
        .into()
}

fn head(last: &Past, counts: &PastCounts, now: Timestamp) -> String {
    let why = last
        .reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(": {reason}"));
    let stood: String = counts.metrics.iter().map(stood).collect();
    format!(
        "Run {} ended {} ago as {}{why}. At its end the operator had:\n{stood}Replayed from the counts of its parts, each as one interval (or two), as status keeps them: near that, not the same.\n\n",
        last.run,
        ago(now, last.ended),
        last.outcome.as_str()
    )
}

fn stood(metric: &PastMetric) -> String {
    format!(
        "  {}: evidence that it is worse than stable {:.2}, over the max of {} {:.2}; either fails at {:.2}\n",
        metric.name, metric.relative_evidence, metric.max, metric.absolute_evidence, metric.fail_threshold
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fixtures;

    fn with_counts(outcome: &str, parts: &Value) -> Rollout {
        let mut rollout = fixtures::healthy();
        let metric = |name: &str, parts: &Value| {
            json!({
                "name": name, "max": "1%", "ratio": 1.2, "relativeEvidence": 7.5, "absoluteEvidence": 2.25,
                "failThreshold": 5.991, "recent": [300, 300, 9, 2_700, 3], "parts": parts,
            })
        };
        let past = json!({
            "run": "r6", "started": "2026-11-24T12:00:00Z", "ended": "2026-11-24T12:05:30Z", "outcome": outcome, "reason": "Verdict",
            "counts": {
                "phi": 1.0, "interval": "30s",
                "metrics": [metric("errors", parts), metric("latency", &json!([[5_000, 1, 45_000, 9, 1]]))],
            },
        });
        rollout.status.as_mut().unwrap().history = vec![serde_json::from_value(past).unwrap()];
        rollout
    }

    #[test]
    fn the_verdict_of_a_run_is_found_again_from_what_its_status_kept() {
        let failed = with_counts("Failed", &json!([[1_000, 1, 9_000, 9, 1], [900, 30, 2_100, 2, 5]]));
        let OfRun { replay, head } = of_run(&failed, fixtures::now()).unwrap();
        assert!(
            head.starts_with(
                "Run r6 ended 115m ago as Failed: Verdict. At its end the operator had:\n  errors: evidence"
            ),
            "{head}"
        );
        let document: Value = serde_json::from_str(&replay.json().unwrap()).unwrap();
        let (errors, latency) = (&document["cases"][0], &document["cases"][1]);
        assert_eq!(
            errors["intervals_nc_xc_ns_xs"],
            json!([[1_000, 1, 9_000, 9], [450, 15, 1_050, 1], [450, 15, 1_050, 1]])
        );
        assert_eq!(errors["verdict"], json!(["Pass", "Fail", "Fail"]));
        assert_eq!(latency["verdict"], json!(["Pass"]));
        assert_eq!(errors["metrics"], 2);
    }

    #[test]
    fn a_document_of_a_run_can_be_given_back_as_a_file() {
        let failed = with_counts("Failed", &json!([[900, 30, 2_100, 2, 5]]));
        let once = of_run(&failed, fixtures::now()).unwrap().replay.json().unwrap();
        let again = super::super::replay(&once, "file", 30).unwrap().json().unwrap();
        assert_eq!(once, again);
    }

    #[test]
    fn where_nothing_is_kept_it_is_said_why() {
        let error = of_run(&fixtures::healthy(), fixtures::now()).err().unwrap().to_string();
        assert!(
            error.starts_with("Rollout checkout: status keeps no counts of its last run r6"),
            "{error}"
        );
        let mut new = fixtures::healthy();
        new.status.as_mut().unwrap().history.clear();
        let error = of_run(&new, fixtures::now()).err().unwrap().to_string();
        assert!(error.contains("no run of it has ended yet"), "{error}");
    }
}
