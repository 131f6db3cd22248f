//! The task of one run: sleeps until an interval is old enough, reads what is missing, tells the run's key.

use std::sync::Arc;
use std::time::Duration;

use stepgate_core::verdict::{DataError, Interval, Observation};
use tokio::sync::mpsc;

use super::super::reply::{self, Sample};
use super::super::{SourceError, now};
use super::book::Book;
use super::feed::{Feed, Problem};
use super::{Key, SamplerOptions};
use crate::provider::Query;
use crate::telemetry::Metrics;

/// Wait after a first failure; doubled for each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait between two tries, whatever the interval.
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// Longest sleep in one piece, so that a clock that is set right is noticed.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// What all tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) feeds: Vec<Feed>,
    pub(super) options: SamplerOptions,
    pub(super) metrics: Metrics,
    pub(super) notify: mpsc::UnboundedSender<Key>,
}

impl Shared {
    /// The source of that name, or an error that lists those that there are.
    pub(super) fn feed(&self, name: &str) -> Result<&Feed, SourceError> {
        self.feeds
            .iter()
            .find(|feed| feed.source.name() == name)
            .ok_or_else(|| {
                let known: Vec<&str> = self.feeds.iter().map(|feed| feed.source.name()).collect();
                let known = if known.is_empty() {
                    "none".to_owned()
                } else {
                    known.join(", ")
                };
                SourceError::Unknown {
                    name: name.to_owned(),
                    known,
                }
            })
    }
}

/// The task of one run.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    pub(super) source: String,
    pub(super) query: Query,
    pub(super) interval: u32,
    pub(super) book: Arc<Book>,
    /// The last query failed: that the source's clock can be read does not mean that it is well again.
    pub(super) unanswered: bool,
}

impl Task {
    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let feed = match shared.feed(&self.source) {
            Ok(feed) => feed,
            Err(error) => return self.fails(&error.into()),
        };
        let mut failures = 0_u32;
        loop {
            match self.step(feed).await {
                Ok(()) => failures = 0,
                Err(problem) => {
                    self.fails(&problem);
                    let longest = LONGEST_RETRY.min(Duration::from_secs(self.interval.into()));
                    let wait = FIRST_RETRY
                        .saturating_mul(1 << failures.min(4))
                        .min(longest.max(FIRST_RETRY));
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Looks at the source's clock, waits until something is due, and reads it.
    async fn step(&mut self, feed: &Feed) -> Result<(), Problem> {
        feed.look(&self.shared.metrics).await?;
        if !self.unanswered && self.book.answers() {
            self.tell();
        }
        let ends = self.due().await;
        let read = feed.read(&self.query, &ends, self.interval, &self.shared.metrics).await;
        self.unanswered = read.is_err();
        self.write(read?);
        Ok(())
    }

    /// The ends of the intervals that are missing and old enough, oldest first; waits until there is one, and room for it.
    async fn due(&self) -> Vec<i64> {
        let interval = i64::from(self.interval);
        loop {
            let (next, room) = {
                let pages = self.book.pages();
                (
                    pages.next_end(interval),
                    self.shared.options.kept.saturating_sub(pages.intervals.len()),
                )
            };
            if room == 0 {
                self.book.moved.notified().await;
                continue;
            }
            #[expect(clippy::cast_precision_loss, reason = "unix seconds are far below 2^53")]
            let wait = next as f64 - (now() - self.shared.options.lag().as_secs_f64());
            if wait <= 0.0 {
                #[expect(clippy::cast_possible_truncation, reason = "at most `window`, which `take` sees to")]
                let more = (-wait / f64::from(self.interval)).floor() as i64;
                let count = usize::try_from(more).unwrap_or(0).saturating_add(1);
                let count = count.min(self.shared.options.window.max(1)).min(room);
                return std::iter::successors(Some(next), |end| end.checked_add(interval))
                    .take(count)
                    .collect();
            }
            let wait = Duration::try_from_secs_f64(wait)
                .unwrap_or(LONGEST_SLEEP)
                .min(LONGEST_SLEEP);
            // `from` may move past what this waits for.
            let _ = tokio::time::timeout(wait, self.book.moved.notified()).await;
        }
    }

    fn write(&self, samples: Vec<(i64, Sample)>) {
        let interval = i64::from(self.interval);
        let through = samples.last().map(|(end, _)| *end);
        self.book.answers();
        let mut pages = self.book.pages();
        for (end, sample) in samples {
            // What fell behind `from` while the question was under way is not wanted any more.
            if end == pages.next_end(interval) {
                let observation = sample.map_or_else(|error| self.spoilt(end, error), Observation::from);
                pages.intervals.push_back(Interval {
                    end,
                    seconds: self.interval,
                    metrics: vec![observation],
                });
            }
        }
        drop(pages);
        let rollout = format!("{}/{}", self.key.namespace, self.key.name);
        tracing::debug!(%rollout, run = %self.key.run, through, "interval read");
        self.tell();
    }

    fn spoilt(&self, end: i64, error: reply::DataError) -> Observation {
        let at = jiff::Timestamp::from_second(end).unwrap_or_default();
        Observation::Error(DataError(format!(
            "metrics source {}, interval to {at}: {error}",
            self.source
        )))
    }

    fn fails(&self, problem: &Problem) {
        if self.book.fails(problem) {
            let rollout = format!("{}/{}", self.key.namespace, self.key.name);
            tracing::warn!(source = %self.source, %rollout, label = problem.label, "{}", problem.message);
            self.tell();
        }
    }

    fn tell(&self) {
        // Nobody reconciles any more while the process ends.
        let _ = self.shared.notify.send(self.key.clone());
    }
}
