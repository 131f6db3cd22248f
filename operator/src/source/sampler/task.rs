//! The task of one run: sleeps until an interval is old enough, reads what is missing, tells the run's key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use stepgate_core::verdict::{DataError, Interval, Observation};
use stepgate_crds::evidence::Trouble;
use tokio::sync::{Semaphore, mpsc};

use super::super::reply::{self, Sample};
use super::super::{SourceError, now};
use super::book::Book;
use super::feed::{Feed, Problem, Turn};
use super::scrapes::Check;
use super::{Key, SamplerOptions};
use crate::provider::Query;
use crate::telemetry::Metrics;

/// Wait after a first failure; doubled for each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait between two tries, whatever the interval.
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// So many of a run's own queries are asked at once, so that one user's do not keep others' from their turn.
const OWN_AT_ONCE: usize = 2;
/// Longest sleep in one piece, so that a clock that is set right is noticed.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// What all tasks share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) feeds: Vec<Arc<Feed>>,
    pub(super) options: SamplerOptions,
    pub(super) metrics: Metrics,
    pub(super) notify: mpsc::UnboundedSender<Key>,
}

impl Shared {
    /// The source of that name, or an error that lists those that there are.
    pub(super) fn feed(&self, name: &str) -> Result<&Arc<Feed>, SourceError> {
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

/// When there is something to read.
enum Due {
    /// Intervals that end at these times are missing, and old enough.
    Now(Vec<i64>),
    /// After so long.
    In(Duration),
    /// When some of what is kept has been used.
    WithRoom,
}

/// The task of one run.
pub(super) struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) key: Key,
    pub(super) source: String,
    pub(super) queries: Vec<Result<Query, DataError>>,
    pub(super) own: Vec<Result<String, DataError>>,
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
            Err(error) => return self.fails(&Problem::from(&error)),
        };
        let mut check = Check::of(&self.queries, feed, self.shared.options.again);
        let mut failures = 0_u32;
        loop {
            match self.step(feed, &mut check).await {
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

    /// Looks at the source's clock, waits until something is due, and reads it. That it answers is said once what was due has been read: until
    /// then what a run knows of it is of before.
    async fn step(&mut self, feed: &Arc<Feed>, check: &mut Check) -> Result<(), Problem> {
        feed.look(&self.shared.metrics).await?;
        let ends = match self.due_now(feed) {
            Due::Now(ends) => ends,
            Due::In(_) | Due::WithRoom => {
                if !self.unanswered && self.book.answers() {
                    self.tell();
                }
                self.due(feed).await
            }
        };
        let read = self.read(feed, &ends).await;
        self.unanswered = read.is_err();
        let mut read = read?;
        if let Some(end) = ends.last() {
            check.look(feed, *end, self.patience(feed), &self.shared.metrics).await;
            // The user's own numbers are not counts, and stay.
            check.spoil(read.iter_mut().take(self.queries.len()).flatten());
        }
        self.write(&ends, read);
        Ok(())
    }

    /// The observations at these ends, of each metric and then of each of the user's own queries: those only where there are counts, a few at a
    /// time, and all of them within half an interval, for the counts are used together with them.
    async fn read(&self, feed: &Arc<Feed>, ends: &[i64]) -> Result<Vec<Vec<Observation>>, Problem> {
        let counts = self.read_counts(feed, ends).await?;
        let turn = Turn {
            begun: Instant::now(),
            within: self.patience(feed),
            places: Semaphore::new(OWN_AT_ONCE),
        };
        let own = self.own.iter();
        let own = join_all(own.map(|query| self.read_own(feed, query.as_ref(), ends, &turn))).await;
        Ok(counts.into_iter().chain(own).collect())
    }

    /// How long counts that were read wait for what is asked besides: half an interval, so that they are used in time.
    fn patience(&self, feed: &Feed) -> Duration {
        let half = Duration::from_secs(self.interval.into()) / 2;
        feed.source.timeout().min(half)
    }

    /// The numbers of one of the user's own queries, or why there is none.
    async fn read_own(
        &self,
        feed: &Arc<Feed>,
        query: Result<&String, &DataError>,
        ends: &[i64],
        turn: &Turn,
    ) -> Vec<Observation> {
        let spoilt = |kind, why: &dyn std::fmt::Display| {
            Observation::Error(DataError {
                kind,
                detail: why.to_string(),
            })
        };
        let query = match query {
            Ok(query) => query,
            Err(error) => return vec![Observation::Error(error.clone()); ends.len()],
        };
        match feed
            .numbers(query, ends, self.interval, turn, &self.shared.metrics)
            .await
        {
            Ok(numbers) => {
                let observation = |number: reply::Number| match number {
                    Ok(value) => Observation::Value(value),
                    Err(error) => spoilt(error.trouble(), &error),
                };
                numbers.into_iter().map(observation).collect()
            }
            Err(problem) => vec![spoilt(problem.kind, &problem.message); ends.len()],
        }
    }

    /// The observations of each metric at these ends, in the order of the queries. What keeps one metric from being read spoils that metric
    /// alone; an error is that none could be.
    async fn read_counts(&self, feed: &Arc<Feed>, ends: &[i64]) -> Result<Vec<Vec<Observation>>, Problem> {
        let read = join_all(
            self.queries
                .iter()
                .map(|query| self.read_one(feed, query.as_ref(), ends)),
        )
        .await;
        if read.iter().all(Result::is_err) {
            return read.into_iter().collect();
        }
        let read = self.once_more(feed, ends, read).await;
        let spoilt = |problem: Problem| {
            let error = Observation::Error(DataError {
                kind: problem.kind,
                detail: problem.message,
            });
            vec![error; ends.len()]
        };
        Ok(read.into_iter().map(|one| one.unwrap_or_else(spoilt)).collect())
    }

    /// What only failed by the source for one metric may be there a moment later, and an interval is consumed but once.
    async fn once_more(
        &self,
        feed: &Arc<Feed>,
        ends: &[i64],
        mut read: Vec<Result<Vec<Observation>, Problem>>,
    ) -> Vec<Result<Vec<Observation>, Problem>> {
        for wait in [FIRST_RETRY, 2 * FIRST_RETRY] {
            let failed = |one: &Result<Vec<Observation>, Problem>| one.as_ref().is_err_and(|problem| problem.may_pass);
            if !read.iter().any(failed) {
                break;
            }
            tokio::time::sleep(wait).await;
            for (one, query) in read.iter_mut().zip(&self.queries) {
                if failed(one) {
                    *one = self.read_one(feed, query.as_ref(), ends).await;
                }
            }
        }
        read
    }

    async fn read_one(
        &self,
        feed: &Arc<Feed>,
        query: Result<&Query, &DataError>,
        ends: &[i64],
    ) -> Result<Vec<Observation>, Problem> {
        let query = match query {
            Ok(query) => query,
            Err(error) => return Ok(vec![Observation::Error(error.clone()); ends.len()]),
        };
        let samples = feed.read(query, ends, self.interval, &self.shared.metrics).await?;
        let no_bucket = |sample: &&(i64, Sample)| matches!(sample.1, Err(reply::DataError::NoBucket(_)));
        let boundary = match samples.iter().rev().find(no_bucket) {
            Some((end, _)) => self.no_boundary(feed, query, *end).await,
            None => None,
        };
        let observation = |(end, sample): (i64, Sample)| match (sample, &boundary) {
            (Ok(sample), _) => Observation::from(sample),
            (Err(reply::DataError::NoBucket(_)), Some(error)) => Observation::Error(error.clone()),
            (Err(error), _) => self.spoilt(end, error),
        };
        Ok(samples.into_iter().map(observation).collect())
    }

    /// What a person is told where the bucket of the threshold is not there.
    async fn no_boundary(&self, feed: &Arc<Feed>, query: &Query, time: i64) -> Option<DataError> {
        let slow = query.slow()?;
        let detail = match feed.boundaries(slow, time, &self.shared.metrics).await {
            Ok(boundaries) => slow.unit.no_boundary(slow.threshold, &boundaries),
            Err(error) => format!("{} is no bucket boundary of the histogram ({error})", slow.threshold),
        };
        Some(DataError {
            kind: Trouble::NoBucketBoundary,
            detail,
        })
    }

    /// The ends of the intervals that are missing and old enough, oldest first; waits until there is one, and room for it.
    async fn due(&self, feed: &Arc<Feed>) -> Vec<i64> {
        loop {
            match self.due_now(feed) {
                Due::Now(ends) => return ends,
                Due::WithRoom => self.book.moved.notified().await,
                // `from` may move past what this waits for.
                Due::In(wait) => {
                    let _ = tokio::time::timeout(wait, self.book.moved.notified()).await;
                }
            }
        }
    }

    fn due_now(&self, feed: &Arc<Feed>) -> Due {
        let interval = i64::from(self.interval);
        let (next, room) = {
            let pages = self.book.pages();
            (
                pages.next_end(interval),
                self.shared.options.kept.saturating_sub(pages.intervals.len()),
            )
        };
        if room == 0 {
            return Due::WithRoom;
        }
        #[expect(clippy::cast_precision_loss, reason = "unix seconds are far below 2^53")]
        let wait = next as f64 - (now() - feed.lag().as_secs_f64());
        if wait > 0.0 {
            let wait = Duration::try_from_secs_f64(wait).unwrap_or(LONGEST_SLEEP);
            return Due::In(wait.min(LONGEST_SLEEP));
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most `window`, which `take` sees to")]
        let more = (-wait / f64::from(self.interval)).floor() as i64;
        let count = usize::try_from(more).unwrap_or(0).saturating_add(1);
        let count = count.min(self.shared.options.window.max(1)).min(room);
        let ends = std::iter::successors(Some(next), |end| end.checked_add(interval)).take(count);
        Due::Now(ends.collect())
    }

    fn write(&self, ends: &[i64], read: Vec<Vec<Observation>>) {
        let interval = i64::from(self.interval);
        let through = ends.last();
        self.book.answers();
        let mut pages = self.book.pages();
        let mut read: Vec<_> = read.into_iter().map(Vec::into_iter).collect();
        for end in ends {
            let metrics = read.iter_mut().filter_map(Iterator::next).collect();
            // What fell behind `from` while the question was under way is not wanted any more.
            if *end == pages.next_end(interval) {
                pages.intervals.push_back(Interval {
                    end: *end,
                    seconds: self.interval,
                    metrics,
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
        Observation::Error(DataError {
            kind: error.trouble(),
            detail: format!("metrics source {}, interval to {at}: {error}", self.source),
        })
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
