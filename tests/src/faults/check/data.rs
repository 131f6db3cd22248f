//! The rules of what the evidence rests on: what the metrics source has told, and nothing else.

use std::collections::BTreeMap;

use jiff::Timestamp;
use stepgate_crds::evidence::{Evidence, ProcessKind, Window};
use stepgate_crds::status::Run;

use super::{Checker, safety};
use crate::faults::observer::Version;
use crate::faults::source::{BAD, REQUESTS};

/// How long an answer of the source may be on its way to a commit, in milliseconds.
const ON_ITS_WAY: i64 = 700;

/// What evidence was seen.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// Canary requests of a run when it came to its present step.
    at_step: BTreeMap<(String, i32), u64>,
    /// The evidence by run, step, intent and last interval.
    seen: BTreeMap<(String, i32, i32, i64), String>,
}

impl Checker<'_> {
    /// The evidence of a commit is made of whole intervals, and the same ones give the same.
    pub(super) fn folds(&mut self, run: &Run) {
        let requests = canary_requests(&run.evidence);
        self.folded
            .at_step
            .entry((run.id.clone(), run.step))
            .or_insert(requests);
        if self.course.told.is_none() {
            return;
        }
        for metric in &run.evidence.metrics {
            for process in &metric.processes {
                let Window { canary, stable, .. } = process.relative;
                let is_whole = [canary, stable]
                    .iter()
                    .all(|tally| tally.requests % REQUESTS == 0 && tally.bad % BAD == 0);
                if !is_whole {
                    let what = format!(
                        "{:?} has counted {canary:?} and {stable:?}, which nobody told",
                        process.kind
                    );
                    self.broken(safety(18), what);
                }
            }
        }
        let Some(force) = &run.in_force else { return };
        let key = (run.id.clone(), run.step, force.seq, run.evidence.through);
        let text = serde_json::to_string(&(&run.evidence, run.pause_hours)).unwrap_or_default();
        let known = self.folded.seen.entry(key).or_insert_with(|| text.clone()).clone();
        if known != text {
            let what = format!("up to {} the evidence was {known} and is {text}", run.evidence.through);
            self.broken(safety(18), what);
        }
    }

    /// A step that is taken on the evidence has counted requests since its weight was accepted, and knows of no newer interval that cannot be
    /// read.
    pub(super) fn rests_on_data(&mut self, version: &Version, old: &Run, new: &Run) {
        let Some(told) = self.course.told else { return };
        let before = self
            .folded
            .at_step
            .get(&(old.id.clone(), old.step))
            .copied()
            .unwrap_or(0);
        let since = old.in_force.as_ref().map(|force| force.since.ceil_seconds());
        let sent = self.sent(version);
        let mut told = told.iter().filter(|told| told.at <= sent);
        let was_told = since.is_some_and(|since| told.clone().any(|told| told.good && told.through > since));
        if canary_requests(&new.evidence) <= before || !was_told {
            self.broken(
                safety(6),
                format!(
                    "step {} passes on {} requests, and it began with {before}",
                    old.step,
                    canary_requests(&new.evidence)
                ),
            );
        }
        let on_its_way = |at: Timestamp| sent.as_millisecond() - at.as_millisecond() < ON_ITS_WAY;
        if let Some(last) = told.rfind(|told| told.good || !on_its_way(told.at))
            && !last.good
        {
            self.broken(
                safety(12),
                format!(
                    "step {} passes, and the answer before it, at {}, was none",
                    old.step, last.at
                ),
            );
        }
    }

    /// When a version was sent; when it was seen, where nobody noted it.
    fn sent(&self, version: &Version) -> Timestamp {
        let write = self
            .course
            .writes
            .iter()
            .find(|write| write.version == Some(version.version));
        write.map_or(version.at, |write| write.at)
    }
}

/// Canary requests of the whole run.
fn canary_requests(evidence: &Evidence) -> u64 {
    let process = |kind| {
        evidence
            .metrics
            .first()?
            .processes
            .iter()
            .find(|process| process.kind == kind)
    };
    process(ProcessKind::Run).map_or(0, |process| process.relative.canary.requests)
}
