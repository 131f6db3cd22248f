//! Reads each run's intervals from its metrics source as they fall due, apart from the passes over Rollouts.
//!
//! A pass says what it wants and takes what is there; it never waits for a source. One task a run sleeps until the next interval of the grid
//! is old enough, reads all that are missing, oldest first, and tells the run's key to whoever reconciles. What was read and is not yet
//! behind `from_exclusive` is kept; nothing is kept across a restart, because the source has it and the grid is the same.

mod baseline;
mod batch;
mod book;
mod feed;
mod scrapes;
mod task;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepgate_core::input::{Before, Question, SourceHealth, Window};
use stepgate_core::verdict::{DataError, Interval};
use stepgate_crds::evidence::Trouble;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::MetricsSource;
use crate::provider::{self, Provider, ProviderError, Query};
use crate::telemetry::Metrics;
pub use baseline::BaselineWant;
use book::{Book, lock};
use feed::Feed;
use task::{Shared, Task};

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
    /// The queries of that interval ([`crate::provider::Provider::query`]), one for each metric, or why there is none for it.
    pub queries: Vec<Result<Query, DataError>>,
    /// The user's own queries as they are asked, or why one cannot be; their numbers follow the counts in each interval.
    pub own: Vec<Result<String, DataError>>,
}

impl Want {
    /// What a decision asks for, in the words of the provider that was chosen for it. `tenant_label`: by which label the source tells
    /// namespaces apart, where it is to.
    pub fn of(window: &Window, provider: &Provider, tenant_label: Option<&str>) -> Result<Self, ProviderError> {
        let interval = window.interval.max(1);
        let query = |measure| match provider.query(&window.arms, interval, measure) {
            Ok(query) => Ok(Ok(query)),
            // What one metric lacks does not hide what another one says.
            Err(error @ ProviderError::NoLatency { .. }) => Ok(Err(DataError::unreadable(error.to_string()))),
            Err(error) => Err(error),
        };
        let own = |question: &Question| {
            provider::asked(&question.query, &window.arms, tenant_label).map_err(|error| DataError {
                kind: Trouble::QueryRefused,
                detail: error.to_string(),
            })
        };
        Ok(Self {
            source: window.source.clone(),
            from_exclusive: window.from,
            interval,
            queries: window.metrics.iter().map(query).collect::<Result<_, _>>()?,
            own: window.queries.iter().map(own).collect(),
        })
    }
}

/// What is there now.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Adjacent intervals, oldest first, all after `from_exclusive`.
    pub intervals: Vec<Interval>,
    /// The source, as this run last saw it.
    pub health: SourceHealth,
}

/// Bounds of the sampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SamplerOptions {
    /// The scrape interval of sources that do not say theirs; also the most that their clocks may differ from ours.
    pub scrape: Duration,
    /// Questions under way at once, a source.
    pub concurrency: usize,
    /// How long after its scrape a sample can be there: time for the scrape itself, and for the source to take it in.
    pub settle: Duration,
    /// How long a question about one interval waits for those of other runs, to go out with them in one query; a check of the scrape interval
    /// ten times as long.
    pub gather: Duration,
    /// From one check of the scrape interval to the next of the same run, until it has found nothing amiss.
    pub again: Duration,
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
            gather: Duration::from_millis(100),
            again: Duration::from_mins(10),
            window: 240,
            kept: 960,
        }
    }
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

/// The readings of all runs. Dropping it ends them.
#[derive(Debug)]
pub struct Sampler {
    shared: Arc<Shared>,
    readings: Mutex<HashMap<Key, Reading>>,
    baselines: Mutex<HashMap<Key, baseline::Reading>>,
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
            .map(|source| Arc::new(Feed::new(source, &options)))
            .collect();
        Self {
            shared: Arc::new(Shared {
                feeds,
                options,
                metrics,
                notify,
            }),
            readings: Mutex::default(),
            baselines: Mutex::default(),
            runtime: Handle::current(),
        }
    }

    /// Takes what is there after `want.from_exclusive`, forgets what is before, and sees to it that the rest is read as it falls due.
    /// Never waits. Another source, other queries or another interval under the same key starts anew.
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
        book.snapshot()
    }

    /// What stable did before a run, as far as it is known; begins to read it where nobody has. Never waits.
    pub fn baseline(&self, key: &Key, want: BaselineWant) -> Before {
        let mut baselines = lock(&self.baselines);
        if let Some(known) = baselines.get(key).filter(|reading| reading.serves(&want)) {
            return known.found();
        }
        let reading = baseline::Reading::begin(&self.shared, &self.runtime, key, want);
        let found = reading.found();
        baselines.insert(key.clone(), reading);
        found
    }

    /// How many runs are read.
    pub fn runs(&self) -> usize {
        lock(&self.readings).len()
    }

    /// Ends every reading whose key is not among those that `keep` says yes to.
    pub fn retain(&self, mut keep: impl FnMut(&Key) -> bool) {
        lock(&self.readings).retain(|key, _| keep(key));
        lock(&self.baselines).retain(|key, _| keep(key));
    }

    fn begin(&self, key: &Key, want: Want) -> Reading {
        let book = Arc::new(Book::new(want.from_exclusive));
        let task = Task {
            shared: Arc::clone(&self.shared),
            key: key.clone(),
            source: want.source.clone(),
            queries: want.queries.clone(),
            own: want.own.clone(),
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
            && self.want.queries == want.queries
            && self.want.own == want.own
            && self.want.interval == want.interval
            && self.book.pages().reaches_back_to(want.from_exclusive)
    }
}
