//! Reads each run's intervals from its metrics source as they fall due, apart from the passes over Rollouts.
//!
//! A pass says what it wants and takes what is there; it never waits for a source. One task a run sleeps until the next interval of the grid
//! is old enough, reads all that are missing, oldest first, and tells the run's key to whoever reconciles. What was read and is not yet
//! behind `from_exclusive` is kept; nothing is kept across a restart, because the source has it and the grid is the same.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::AbortHandle;

use stepgate_core::verdict::{DataError, Interval, Observation};

use super::reply::{self, Sample};
use super::{ErrorClass, MetricsSource, SourceError, now};
use crate::provider::Query;
use crate::telemetry::Metrics;

/// Wait after a first failure; doubled for each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Longest wait between two tries, whatever the interval.
const LONGEST_RETRY: Duration = Duration::from_secs(15);
/// Longest sleep in one piece, so that a clock that is set right is noticed.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// For so long one look at the source's clock is good for all runs.
const CLOCK_GOOD_FOR: Duration = Duration::from_mins(1);
/// For so long one failed look is everybody's, so that a source that is down is asked once a second and not once a run.
const CLOCK_BAD_FOR: Duration = Duration::from_secs(1);

/// One run of one Rollout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The Rollout's namespace.
    pub namespace: String,
    /// The Rollout's name.
    pub name: String,
    /// The Rollout's uid.
    pub uid: String,
    /// The run's id.
    pub run: String,
}

/// What a run wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Want {
    /// Name of the metrics source.
    pub source: String,
    /// Intervals that end after this, unix seconds. To go back is allowed, and reads them again.
    pub from_exclusive: i64,
    /// Seconds of one interval, and of the grid; at least 1.
    pub interval: u32,
    /// The query of that interval ([`crate::provider::Provider::query`]).
    pub query: Query,
}

/// Whether the source can be relied on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceHealth {
    /// Not yet asked.
    Unknown,
    /// The last question was answered.
    Available,
    /// It was not. Nothing is known since.
    Unavailable {
        /// Since when, unix seconds on our clock.
        since: i64,
        /// A constant word ([`SourceError::label`]).
        label: &'static str,
        /// For people.
        message: String,
    },
}

/// What is there now.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Adjacent intervals of one metric, oldest first, all after `from_exclusive`.
    pub intervals: Vec<Interval>,
    /// The source, as this run last saw it.
    pub health: SourceHealth,
}

/// Bounds of the sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplerOptions {
    /// The sources' scrape interval; also the most that their clocks may differ from ours.
    pub scrape: Duration,
    /// Questions under way at once, a source.
    pub concurrency: usize,
    /// How long after its scrape a sample can be there: time for the scrape itself, and for the source to take it in.
    pub settle: Duration,
    /// Intervals that one query reads at most.
    pub window: usize,
    /// Intervals that are kept for one run at most; then reading waits until `from_exclusive` moves.
    pub kept: usize,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            scrape: Duration::from_secs(15),
            settle: Duration::from_secs(2),
            concurrency: 8,
            window: 240,
            kept: 960,
        }
    }
}

impl SamplerOptions {
    /// How old an interval's end has to be before it is read: one scrape, so that its last sample is there, and `settle`.
    pub fn lag(&self) -> Duration {
        self.scrape + self.settle
    }
}

/// Why a source was not asked with success, as all runs that wait for it are told.
#[derive(Debug, Clone)]
struct Problem {
    label: &'static str,
    message: String,
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
struct Feed {
    source: MetricsSource,
    slots: Semaphore,
    clock: tokio::sync::Mutex<Option<(Instant, Result<(), Problem>)>>,
}

#[derive(Debug)]
struct Shared {
    feeds: BTreeMap<String, Feed>,
    options: SamplerOptions,
    metrics: Metrics,
    notify: mpsc::UnboundedSender<Key>,
}

/// One run's reading.
#[derive(Debug)]
struct Reading {
    want: Want,
    book: Arc<Book>,
    task: AbortHandle,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task of a run and its passes share.
#[derive(Debug)]
struct Book {
    pages: Mutex<Pages>,
    /// Told when `from` moves.
    moved: Notify,
}

#[derive(Debug)]
struct Pages {
    from: i64,
    intervals: VecDeque<Interval>,
    health: SourceHealth,
}

/// The readings of all runs. Dropping it ends them.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    readings: Mutex<HashMap<Key, Reading>>,
    runtime: Handle,
}

impl Sampler {
    /// A sampler over these sources. To be called within a tokio runtime, in which it reads. Each key that has something new goes to `notify`.
    pub fn new(
        sources: impl IntoIterator<Item = MetricsSource>,
        options: SamplerOptions,
        metrics: Metrics,
        notify: mpsc::UnboundedSender<Key>,
    ) -> Self {
        let feeds = sources
            .into_iter()
            .map(|source| {
                let name = source.name().to_owned();
                let slots = Semaphore::new(options.concurrency.max(1));
                (
                    name,
                    Feed {
                        source,
                        slots,
                        clock: tokio::sync::Mutex::new(None),
                    },
                )
            })
            .collect();
        Self {
            shared: Arc::new(Shared {
                feeds,
                options,
                metrics,
                notify,
            }),
            readings: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    /// The source of that name, say for preflight's [`MetricsSource::check`].
    pub fn source(&self, name: &str) -> Result<&MetricsSource, SourceError> {
        self.shared
            .feeds
            .get(name)
            .map(|feed| &feed.source)
            .ok_or_else(|| self.shared.unknown(name))
    }

    /// Takes what is there after `want.from_exclusive`, forgets what is before, and sees to it that the rest is read as it falls due.
    /// Never waits. Another source, query or interval under the same key starts anew.
    pub fn want(&self, key: &Key, want: Want) -> Snapshot {
        let mut readings = lock(&self.readings);
        let known = readings.get_mut(key).filter(|reading| reading.serves(&want));
        let book = if let Some(reading) = known {
            reading.want.from_exclusive = want.from_exclusive;
            reading.book.forget_through(want.from_exclusive);
            Arc::clone(&reading.book)
        } else {
            let reading = self.begin(key, want);
            let book = Arc::clone(&reading.book);
            readings.insert(key.clone(), reading);
            book
        };
        let pages = book.pages();
        Snapshot {
            intervals: pages.intervals.iter().cloned().collect(),
            health: pages.health.clone(),
        }
    }

    /// Ends the reading of one run.
    pub fn forget(&self, key: &Key) {
        lock(&self.readings).remove(key);
    }

    /// Ends every reading whose key is not among those that `keep` says yes to.
    pub fn retain(&self, mut keep: impl FnMut(&Key) -> bool) {
        lock(&self.readings).retain(|key, _| keep(key));
    }

    /// When the next interval of that run is old enough to be read; `None` for a run that nobody has asked for.
    pub fn next_due(&self, key: &Key) -> Option<Timestamp> {
        let readings = lock(&self.readings);
        let reading = readings.get(key)?;
        let end = reading.book.pages().next_end(i64::from(reading.want.interval.max(1)));
        let lag = SignedDuration::try_from(self.shared.options.lag()).ok()?;
        Timestamp::from_second(end).ok()?.checked_add(lag).ok()
    }

    fn begin(&self, key: &Key, want: Want) -> Reading {
        let pages = Pages {
            from: want.from_exclusive,
            intervals: VecDeque::new(),
            health: SourceHealth::Unknown,
        };
        let book = Arc::new(Book {
            pages: Mutex::new(pages),
            moved: Notify::new(),
        });
        let task = Task {
            shared: Arc::clone(&self.shared),
            key: key.clone(),
            source: want.source.clone(),
            query: want.query.clone(),
            interval: want.interval.max(1),
            book: Arc::clone(&book),
            unanswered: false,
        };
        let task = self.runtime.spawn(task.run()).abort_handle();
        Reading { want, book, task }
    }
}

impl Reading {
    /// Whether what this one has read, and will read, is what is wanted.
    fn serves(&self, want: &Want) -> bool {
        self.want.source == want.source
            && self.want.query == want.query
            && self.want.interval == want.interval
            && self.book.pages().from <= want.from_exclusive
    }
}

impl Shared {
    fn unknown(&self, name: &str) -> SourceError {
        let known: Vec<&str> = self.feeds.keys().map(String::as_str).collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        SourceError::Unknown {
            name: name.to_owned(),
            known,
        }
    }
}

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        lock(&self.pages)
    }

    fn forget_through(&self, from: i64) {
        let mut pages = self.pages();
        if from > pages.from {
            pages.from = from;
            while pages.intervals.front().is_some_and(|interval| interval.end <= from) {
                pages.intervals.pop_front();
            }
            drop(pages);
            self.moved.notify_one();
        }
    }
}

impl Pages {
    /// The end of the first interval that is missing: on the grid, after the last that was read, or after `from`.
    fn next_end(&self, interval: i64) -> i64 {
        let last = self.intervals.back().map_or(self.from, |read| read.end).max(self.from);
        last.div_euclid(interval).saturating_add(1).saturating_mul(interval)
    }
}

/// The task of one run.
struct Task {
    shared: Arc<Shared>,
    key: Key,
    source: String,
    query: Query,
    interval: u32,
    book: Arc<Book>,
    /// The last query failed: that the source's clock can be read does not mean that it is well again.
    unanswered: bool,
}

impl Task {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let Some(feed) = shared.feeds.get(&self.source) else {
            self.unavailable(shared.unknown(&self.source).into());
            return;
        };
        let mut failures = 0_u32;
        loop {
            match self.step(feed).await {
                Ok(()) => failures = 0,
                Err(problem) => {
                    self.unavailable(problem);
                    let longest = LONGEST_RETRY.min(Duration::from_secs(self.interval.into()));
                    let wait = FIRST_RETRY
                        .saturating_mul(1 << failures.min(4))
                        .min(longest.max(FIRST_RETRY));
                    failures += 1;
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Looks at the source's clock, waits until something is due, and reads it.
    async fn step(&mut self, feed: &Feed) -> Result<(), Problem> {
        self.clock(feed).await?;
        if !self.unanswered {
            self.available();
        }
        let ends = self.due().await;
        let slot = feed.slots.acquire().await;
        let started = Instant::now();
        let answer = feed.source.window(&self.query, &ends, self.interval).await;
        drop(slot);
        let outcome = match &answer {
            Ok(samples) if samples.iter().any(|(_, sample)| sample.is_err()) => "data_error",
            Ok(_) => "ok",
            Err(error) => error.label(),
        };
        self.shared
            .metrics
            .source_query(feed.source.name(), outcome, started.elapsed());
        match answer {
            Ok(samples) => {
                self.unanswered = false;
                self.available();
                self.write(samples);
                Ok(())
            }
            Err(error) => {
                self.unanswered = true;
                if error.class() == ErrorClass::Transient {
                    // The source may be gone: one look for all before anybody's next question.
                    *feed.clock.lock().await = None;
                }
                Err(error.into())
            }
        }
    }

    /// One look at a time, and one for all.
    async fn clock(&self, feed: &Feed) -> Result<(), Problem> {
        let mut seen = feed.clock.lock().await;
        if let Some((at, verdict)) = seen.as_ref() {
            let good_for = if verdict.is_ok() { CLOCK_GOOD_FOR } else { CLOCK_BAD_FOR };
            if at.elapsed() < good_for {
                return verdict.clone();
            }
        }
        let started = Instant::now();
        let checked = feed.source.check(self.shared.options.scrape.as_secs_f64()).await;
        let outcome = checked.as_ref().map_or_else(SourceError::label, |()| "ok");
        self.shared
            .metrics
            .source_query(feed.source.name(), outcome, started.elapsed());
        let verdict = checked.map_err(Problem::from);
        *seen = Some((Instant::now(), verdict.clone()));
        verdict
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
        self.tell();
    }

    fn spoilt(&self, end: i64, error: reply::DataError) -> Observation {
        let at = Timestamp::from_second(end).unwrap_or_default();
        Observation::Error(DataError(format!(
            "metrics source {}, interval to {at}: {error}",
            self.source
        )))
    }

    fn available(&self) {
        let mut pages = self.book.pages();
        if pages.health != SourceHealth::Available {
            pages.health = SourceHealth::Available;
            drop(pages);
            self.tell();
        }
    }

    fn unavailable(&self, problem: Problem) {
        let Problem { label, message } = problem;
        let mut pages = self.book.pages();
        let before = match &pages.health {
            SourceHealth::Unavailable { since, label, .. } => Some((*since, *label)),
            SourceHealth::Unknown | SourceHealth::Available => None,
        };
        #[expect(clippy::cast_possible_truncation, reason = "unix seconds")]
        let since = before.map_or_else(|| now() as i64, |(since, _)| since);
        pages.health = SourceHealth::Unavailable {
            since,
            label,
            message: message.clone(),
        };
        drop(pages);
        if before.is_none_or(|(_, earlier)| earlier != label) {
            tracing::warn!(source = %self.source, rollout = %format_args!("{}/{}", self.key.namespace, self.key.name), label, "{message}");
            self.tell();
        }
    }

    fn tell(&self) {
        // Nobody reconciles any more while the process ends.
        let _ = self.shared.notify.send(self.key.clone());
    }
}

/// The lock, also after a panic elsewhere: every change under it is complete.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
