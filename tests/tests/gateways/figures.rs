//! What is measured of a gateway: how soon it accepts a weight, and how far the measured share is from it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepgate_tests::load::Report;
use stepgate_tests::record::Record;

/// The steps whose share is measured, each with the one after it: the status that begins a step has the counts of the one before.
const STEPS: [(i32, i32); 3] = [(10, 30), (30, 50), (50, 100)];
/// How many standard deviations of an independent choice for each request the measured share may be away, beside one percent point.
const DEVIATIONS: f64 = 4.5;

/// The figures of two runs.
pub(crate) struct Figures {
    /// From the arrival of a changed route to that of its acceptance by all parents, sorted.
    accepted: Vec<Duration>,
    shares: Vec<Share>,
}

/// The measured share of one step.
struct Share {
    weight: i32,
    /// In percent.
    measured: f64,
    /// Of both versions.
    requests: i64,
}

impl Share {
    /// In percent points.
    fn error(&self) -> f64 {
        self.measured - f64::from(self.weight)
    }

    fn bound(&self) -> f64 {
        let share = f64::from(self.weight) / 100.0;
        #[expect(clippy::cast_precision_loss, reason = "some thousands")]
        let deviation = (share * (1.0 - share) / self.requests.max(1) as f64).sqrt();
        1.0 + DEVIATIONS * 100.0 * deviation
    }
}

impl Figures {
    pub(crate) fn of(record: &Record) -> Result<Self> {
        let routes = record.routes();
        let mut accepted = Vec::new();
        for (index, (written, route)) in routes.iter().enumerate() {
            let first = routes
                .iter()
                .position(|(_, other)| other.generation == route.generation);
            if first != Some(index) || index == 0 {
                continue;
            }
            let later = routes.iter().skip(index).find(|(_, other)| other.accepted);
            if let Some((at, seen)) = later
                && seen.generation == route.generation
            {
                accepted.push(Duration::try_from(at.duration_since(*written))?);
            }
        }
        accepted.sort();
        let share = |(weight, next): (i32, i32)| -> Result<Share> {
            let (_, run) = record
                .first_run(|run| run.weight == next && !run.metrics.is_empty())
                .with_context(|| format!("no counts of {weight} % were recorded"))?;
            let metric = run.metrics.first().context("no metric")?;
            Ok(Share {
                weight,
                measured: metric.measured_weight.context("no measured weight")?,
                requests: metric.canary_requests + metric.stable_requests,
            })
        };
        let shares = STEPS.into_iter().map(share).collect::<Result<_>>()?;
        Ok(Self { accepted, shares })
    }

    /// A row of the table: the gateway, time to acceptance (median, longest, of how many), measured share of each step, requests, lost ones.
    pub(crate) fn row(&self, title: &str, report: &Report) -> String {
        let millis = |duration: Option<&Duration>| duration.map_or(0.0, |found| found.as_secs_f64() * 1e3);
        let shares: Vec<String> = self
            .shares
            .iter()
            .map(|share| format!("{} % {:+.2} of {}", share.weight, share.error(), share.requests))
            .collect();
        format!(
            "| {title} | {:.0} ms, {:.0} ms ({}) | {} | {} | {} |",
            millis(self.accepted.get(self.accepted.len() / 2)),
            millis(self.accepted.last()),
            self.accepted.len(),
            shares.join(", "),
            report.requests,
            report.other_failures()
        )
    }

    /// Every change was accepted in the end, and no share is further from its weight than chance explains.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(
            self.accepted.len() >= 8,
            "only {} changes of the route",
            self.accepted.len()
        );
        for share in &self.shares {
            ensure!(
                share.error().abs() <= share.bound(),
                "{} % was measured as {:.2} % of {} requests, more than {:.2} points away",
                share.weight,
                share.measured,
                share.requests,
                share.bound()
            );
        }
        Ok(())
    }
}
