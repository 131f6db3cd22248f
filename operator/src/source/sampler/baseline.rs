//! Reads what stable did in the hours before a run, once for each run, apart from the passes over Rollouts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use stepgate_core::input::{BaselineWindow, Before};
use stepgate_core::verdict::Baseline;
use stepgate_core::verdict::baseline::HOURS;
use tokio::task::AbortHandle;

use super::Key;
use super::book::lock;
use super::feed::{Feed, Problem};
use super::task::Shared;
use crate::provider::{Provider, ProviderError};

/// So many intervals are looked at, however long the hours are: each has enough requests then, and the source little to do.
const INTERVALS: u32 = 720;
/// Waits between the tries of one question, as long as the source may be back.
const RETRIES: [u64; 8] = [1, 3, 5, 5, 10, 15, 30, 60];

/// What a run wants to know of the time before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaselineWant {
    /// Name of the metrics source.
    source: String,
    /// In Unix seconds: when the run began.
    until: i64,
    /// One question for each of [`HOURS`].
    questions: Vec<Question>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    hours: u32,
    /// Seconds of one interval of the run, and of one that is looked at: some of those.
    interval: u32,
    step: u32,
    expression: String,
}

impl BaselineWant {
    /// What a decision asks for, in the words of the provider that was chosen for it; none where its metrics would tell nothing.
    pub fn of(window: &BaselineWindow, provider: &Provider) -> Result<Option<Self>, ProviderError> {
        let mut questions = Vec::new();
        for hours in HOURS {
            let interval = window.interval.max(1);
            let step = interval.saturating_mul((hours * 3_600).div_ceil(interval.saturating_mul(INTERVALS)));
            let Some(expression) = provider.baseline(&window.arms, step, window.share)? else {
                return Ok(None);
            };
            questions.push(Question {
                hours,
                interval,
                step,
                expression,
            });
        }
        Ok(Some(Self {
            source: window.source.clone(),
            until: window.until,
            questions,
        }))
    }
}

/// The reading of one run's.
#[derive(Debug)]
pub(super) struct Reading {
    want: BaselineWant,
    found: Arc<Mutex<Before>>,
    task: AbortHandle,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reading {
    /// Begins it; its key is told when it is done.
    pub(super) fn begin(shared: &Arc<Shared>, runtime: &tokio::runtime::Handle, key: &Key, want: BaselineWant) -> Self {
        let since = jiff::Timestamp::now().into();
        let found = Arc::new(Mutex::new(Before::Awaited { since, found: None }));
        let (shared, key, asked, told) = (Arc::clone(shared), key.clone(), want.clone(), Arc::clone(&found));
        let task = runtime.spawn(async move {
            let so_far = |baseline| {
                *lock(&told) = Before::Awaited {
                    since,
                    found: Some(baseline),
                };
            };
            let before = read(&shared, &asked, so_far).await;
            if let Before::Unreadable(why) = &before {
                let rollout = format!("{}/{}", key.namespace, key.name);
                tracing::warn!(source = %asked.source, %rollout, "what stable did before the run is not known: {why}");
            }
            *lock(&told) = before;
            // Nobody reconciles any more while the process ends.
            let _ = shared.notify.send(key);
        });
        Self {
            want,
            found,
            task: task.abort_handle(),
        }
    }

    /// Whether this is what is wanted.
    pub(super) fn serves(&self, want: &BaselineWant) -> bool {
        self.want == *want
    }

    /// What is known by now.
    pub(super) fn found(&self) -> Before {
        lock(&self.found).clone()
    }
}

async fn read(shared: &Shared, want: &BaselineWant, so_far: impl Fn(Baseline)) -> Before {
    let feed = match shared.feed(&want.source) {
        Ok(feed) => feed,
        Err(error) => return Before::Unreadable(error.to_string()),
    };
    let mut found = Before::Untold;
    for question in &want.questions {
        match ask(shared, feed, question, want.until).await {
            Ok(baseline) => {
                found = Before::Known(baseline);
                if !baseline.is_short() {
                    break;
                }
                so_far(baseline);
            }
            // What fewer hours have told is better than nothing.
            Err(why) if found == Before::Untold => return Before::Unreadable(why),
            Err(_) => break,
        }
    }
    found
}

async fn ask(shared: &Shared, feed: &Feed, question: &Question, until: i64) -> Result<Baseline, String> {
    let (interval, step) = (i64::from(question.interval), i64::from(question.step));
    let lag = i64::try_from(feed.lag().as_secs()).unwrap_or(0).saturating_add(1);
    let last = until.saturating_sub(lag).div_euclid(interval).saturating_mul(interval);
    let hours = i64::from(question.hours).saturating_mul(3_600);
    let first = last.saturating_sub(hours.saturating_sub(step));
    let mut waits = RETRIES.iter();
    loop {
        let problem = match feed.look(&shared.metrics).await {
            Ok(()) => match feed
                .pods(&question.expression, [first, last], question.step, &shared.metrics)
                .await
            {
                Ok(Ok(history)) => return Ok(Baseline::of(question.hours, &history)),
                Ok(Err(error)) => return Err(format!("metrics source {}: {error}", feed.source.name())),
                Err(problem) => problem,
            },
            Err(problem) => problem,
        };
        let Problem { may_pass, message, .. } = problem;
        match waits.next() {
            Some(wait) if may_pass => tokio::time::sleep(Duration::from_secs(*wait)).await,
            _ => return Err(message),
        }
    }
}
