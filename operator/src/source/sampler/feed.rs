//! One metrics source as all runs share it: a bound on questions at once, and one look at its clock for everybody.

use std::time::{Duration, Instant};

use tokio::sync::{Mutex, Semaphore};

use super::super::reply::Sample;
use super::super::{ErrorClass, MetricsSource, SourceError};
use super::SamplerOptions;
use crate::provider::{Query, Slow};
use crate::telemetry::Metrics;

/// For so long one look at the source's clock is good for all runs.
const CLOCK_GOOD_FOR: Duration = Duration::from_mins(1);
/// For so long one failed look is everybody's, so that a source that is down is asked once a second and not once a run.
const CLOCK_BAD_FOR: Duration = Duration::from_secs(1);

/// Why a source was not asked with success, as all runs that wait for it are told.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) label: &'static str,
    pub(super) message: String,
}

impl From<SourceError> for Problem {
    fn from(error: SourceError) -> Self {
        let label = error.label();
        let message = match std::error::Error::source(&error) {
            Some(cause) => format!("{error}: {}", root(cause)),
            None => error.to_string(),
        };
        Self { label, message }
    }
}

/// The innermost cause; what lies between repeats it.
fn root<'a>(mut cause: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

/// One source, with what all runs that use it share.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) source: MetricsSource,
    slots: Semaphore,
    scrape: f64,
    clock: Mutex<Option<(Instant, Result<(), Problem>)>>,
}

impl Feed {
    pub(super) fn new(source: MetricsSource, options: &SamplerOptions) -> Self {
        Self {
            source,
            slots: Semaphore::new(options.concurrency.max(1)),
            scrape: options.scrape.as_secs_f64(),
            clock: Mutex::new(None),
        }
    }

    /// Whether the source answers with a clock that can be used. One look at a time, and one for all.
    pub(super) async fn look(&self, metrics: &Metrics) -> Result<(), Problem> {
        let mut seen = self.clock.lock().await;
        if let Some((at, verdict)) = seen.as_ref() {
            let good_for = if verdict.is_ok() { CLOCK_GOOD_FOR } else { CLOCK_BAD_FOR };
            if at.elapsed() < good_for {
                return verdict.clone();
            }
        }
        let started = Instant::now();
        let checked = self.source.check(self.scrape).await;
        let outcome = checked.as_ref().map_or_else(SourceError::label, |()| "ok");
        metrics.source_query(self.source.name(), outcome, started.elapsed());
        let verdict = checked.map_err(Problem::from);
        *seen = Some((Instant::now(), verdict.clone()));
        verdict
    }

    /// Reads the intervals that end at `ends`, when it is this question's turn.
    pub(super) async fn read(
        &self,
        query: &Query,
        ends: &[i64],
        interval: u32,
        metrics: &Metrics,
    ) -> Result<Vec<(i64, Sample)>, Problem> {
        let slot = self.slots.acquire().await;
        let started = Instant::now();
        let answer = self.source.window(query, ends, interval).await;
        drop(slot);
        let outcome = match &answer {
            Ok(samples) if samples.iter().any(|(_, sample)| sample.is_err()) => "data_error",
            Ok(_) => "ok",
            Err(error) => error.label(),
        };
        metrics.source_query(self.source.name(), outcome, started.elapsed());
        if answer
            .as_ref()
            .is_err_and(|error| error.class() == ErrorClass::Transient)
        {
            // The source may be gone: one look for all before anybody's next question.
            *self.clock.lock().await = None;
        }
        answer.map_err(Problem::from)
    }

    /// The bucket boundaries that there are, when it is this question's turn.
    pub(super) async fn boundaries(&self, of: &Slow, time: i64, metrics: &Metrics) -> Result<Vec<f64>, SourceError> {
        let slot = self.slots.acquire().await;
        let started = Instant::now();
        let answer = self.source.boundaries(of, time).await;
        drop(slot);
        let outcome = answer.as_ref().map_or_else(SourceError::label, |_| "ok");
        metrics.source_query(self.source.name(), outcome, started.elapsed());
        answer
    }
}
