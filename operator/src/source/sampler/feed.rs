//! One metrics source as all runs share it: a bound on questions at once, one look at its clock for everybody, and a breaker that lets it be
//! while it does not answer.

use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, Instant};

use super::super::breaker::{Breaker, Leave};
use super::super::reply::{self, Sample};
use super::super::{MetricsSource, SourceError};
use super::SamplerOptions;
use super::batch::{self, Gathering};
use super::book::lock;
use super::scrapes::Waiting;
use crate::provider::{Query, Slow};
use crate::telemetry::Metrics;
use stepgate_core::verdict::dispersion::Pods;
use stepgate_crds::evidence::Trouble;
use stepgate_crds::units::Span;
use tokio::sync::{Mutex, Semaphore};

/// For so long one look at the source's clock is good for all runs.
const CLOCK_GOOD_FOR: Duration = Duration::from_mins(1);
/// For so long one failed look is everybody's, so that a source that is down is asked once a second and not once a run.
const CLOCK_BAD_FOR: Duration = Duration::from_secs(1);

/// Why a source was not asked with success, as all runs that wait for it are told.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) kind: Trouble,
    /// Whether the same question may be answered a moment later.
    pub(super) may_pass: bool,
    pub(super) label: &'static str,
    pub(super) message: String,
}

impl From<&SourceError> for Problem {
    fn from(error: &SourceError) -> Self {
        let label = error.label();
        let message = match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {}", root(cause)),
            None => error.to_string(),
        };
        Self {
            kind: error.trouble(),
            may_pass: error.is_of_the_source(),
            label,
            message,
        }
    }
}

/// The innermost cause; what lies between repeats it.
fn root<'a>(mut cause: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}

/// What the own queries of one run at one time have together.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) begun: Instant,
    /// All of them have so long.
    pub(super) within: Duration,
    /// So many of them are asked at once.
    pub(super) places: Semaphore,
}

/// One source, with what all runs that use it share.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) source: MetricsSource,
    slots: Semaphore,
    /// Of their own for users' queries: counts do not wait for what takes long.
    own: Semaphore,
    /// One of `slots` at most is for checks of scrapes.
    checking: Semaphore,
    pub(super) checks: Waiting,
    scrape: Duration,
    /// How long after its scrape a sample can be there.
    settle: Duration,
    clock: Mutex<Option<(Instant, Result<(), Problem>)>>,
    standing: StdMutex<Standing>,
    pub(super) gathering: Gathering,
}

/// How it has answered so far.
#[derive(Debug)]
struct Standing {
    breaker: Breaker,
    problem: Option<Problem>,
}

impl Feed {
    pub(super) fn new(source: MetricsSource, options: &SamplerOptions) -> Self {
        Self {
            slots: Semaphore::new(options.concurrency.max(1)),
            own: Semaphore::new(options.concurrency.max(1).saturating_mul(2)),
            checking: Semaphore::new(1),
            checks: Waiting::new(options.gather.saturating_mul(10)),
            scrape: source.scrape().map_or(options.scrape, Span::duration),
            settle: options.settle,
            gathering: Gathering::new(options.gather),
            source,
            clock: Mutex::new(None),
            standing: StdMutex::new(Standing {
                breaker: Breaker::new(),
                problem: None,
            }),
        }
    }

    /// How old an interval's end has to be before it is read: one scrape, so that its last sample is there, and `settle`.
    pub(super) fn lag(&self) -> Duration {
        self.scrape + self.settle
    }

    /// Whether the source may be asked, and answers with a clock that can be used. One look at a time, and one for all.
    pub(super) async fn look(&self, metrics: &Metrics) -> Result<(), Problem> {
        let mut seen = self.clock.lock().await;
        let leave = {
            let mut standing = lock(&self.standing);
            let leave = standing.breaker.leave(Instant::now(), self.source.timeout() * 2);
            if let (Leave::Wait(_), Some(problem)) = (leave, &standing.problem) {
                return Err(problem.clone());
            }
            leave
        };
        if let (Leave::Ask, Some((at, verdict))) = (leave, seen.as_ref()) {
            let good_for = if verdict.is_ok() { CLOCK_GOOD_FOR } else { CLOCK_BAD_FOR };
            if at.elapsed() < good_for {
                return verdict.clone();
            }
        }
        let started = Instant::now();
        let checked = self.source.check(self.scrape.as_secs_f64()).await;
        let outcome = checked.as_ref().map_or_else(SourceError::label, |()| "ok");
        metrics.source_query(self.source.name(), outcome, started.elapsed());
        let verdict = match checked {
            Ok(()) => {
                lock(&self.standing).breaker.reached();
                Ok(())
            }
            Err(error) => Err(self.failed(&error)),
        };
        *seen = Some((Instant::now(), verdict.clone()));
        verdict
    }

    /// Reads the intervals that end at `ends`, when it is this question's turn: one together with what other runs ask about it, several by
    /// themselves.
    pub(super) async fn read(
        self: &Arc<Self>,
        query: &Query,
        ends: &[i64],
        interval: u32,
        metrics: &Metrics,
    ) -> Result<Vec<(i64, Sample)>, Problem> {
        if let [end] = ends {
            return Ok(vec![(*end, batch::ask(self, query, *end, metrics).await?)]);
        }
        let asked = self.in_turn(metrics, self.source.window(query, ends, interval), |samples| {
            samples.iter().any(|(_, sample)| sample.is_err())
        });
        match asked.await? {
            Ok(samples) => Ok(samples),
            Err(error) => Err(self.refused(&error).await),
        }
    }

    /// The counts of each query for the interval that ends at `end`, in one query, when it is its turn. The outer error is that the source is
    /// left alone for now.
    pub(super) async fn ask_all(
        &self,
        queries: &[&Query],
        end: i64,
        metrics: &Metrics,
    ) -> Result<Result<Vec<Sample>, SourceError>, Problem> {
        self.in_turn(metrics, self.source.together(queries, end), |samples| {
            samples.iter().any(Result::is_err)
        })
        .await
    }

    /// The numbers of one of a user's own queries, in its turn. What becomes of it says nothing of the
    /// source: a query that no source can answer keeps nobody else from it.
    pub(super) async fn numbers(
        &self,
        expression: &str,
        ends: &[i64],
        interval: u32,
        turn: &Turn,
        metrics: &Metrics,
    ) -> Result<Vec<reply::Number>, Problem> {
        let started = Instant::now();
        let question = async {
            let _place = turn.places.acquire().await;
            let _slot = self.own.acquire().await;
            self.source.numbers(expression, ends, interval).await
        };
        let answer = tokio::time::timeout_at((turn.begun + turn.within).into(), question).await;
        let answer = answer.unwrap_or_else(|_| Err(self.source.timed_out(turn.within)));
        let outcome = match &answer {
            Ok(numbers) if numbers.iter().any(Result::is_err) => "data_error",
            Ok(_) => "ok",
            Err(error) => error.label(),
        };
        metrics.source_query(self.source.name(), outcome, started.elapsed());
        answer.map_err(|error| Problem::from(&error))
    }

    /// How often it scrapes, as the administrator says.
    pub(super) fn scrape(&self) -> Duration {
        self.scrape
    }

    /// A question of a check of scrapes, when it is its turn. What becomes of it says nothing of the source.
    pub(super) async fn check<T>(
        &self,
        question: impl Future<Output = Result<T, SourceError>>,
        metrics: &Metrics,
    ) -> Result<T, SourceError> {
        let _one = self.checking.acquire().await;
        let _slot = self.slots.acquire().await;
        let started = Instant::now();
        let answer = question.await;
        let outcome = answer.as_ref().map_or_else(SourceError::label, |_| "ok");
        metrics.source_query(self.source.name(), outcome, started.elapsed());
        answer
    }

    /// Asks when there is a slot; counts the question and how it went.
    async fn in_turn<T>(
        &self,
        metrics: &Metrics,
        question: impl Future<Output = Result<T, SourceError>>,
        is_spoilt: impl Fn(&T) -> bool,
    ) -> Result<Result<T, SourceError>, Problem> {
        let slot = self.slots.acquire().await;
        // While this one waited for its turn others may have found out that nothing comes.
        if let Standing {
            breaker,
            problem: Some(problem),
        } = &*lock(&self.standing)
            && breaker.is_open()
        {
            return Err(problem.clone());
        }
        let started = Instant::now();
        let answer = question.await;
        drop(slot);
        let outcome = match &answer {
            Ok(answer) if is_spoilt(answer) => "data_error",
            Ok(_) => "ok",
            Err(error) => error.label(),
        };
        metrics.source_query(self.source.name(), outcome, started.elapsed());
        if answer.is_ok() {
            lock(&self.standing).breaker.answered();
        }
        Ok(answer)
    }

    /// What a failed question says of the source, and what those are told who asked it.
    pub(super) async fn refused(&self, error: &SourceError) -> Problem {
        if error.is_of_the_source() {
            // The source may be gone: one look for all before anybody's next question.
            *self.clock.lock().await = None;
            self.failed(error)
        } else {
            lock(&self.standing).breaker.answered();
            Problem::from(error)
        }
    }

    fn failed(&self, error: &SourceError) -> Problem {
        let problem = Problem::from(error);
        let mut standing = lock(&self.standing);
        let was_open = standing.breaker.is_open();
        standing.breaker.failed(Instant::now());
        if !was_open && standing.breaker.is_open() {
            tracing::warn!(source = %self.source.name(), label = problem.label, "asked now and then only, until it answers: {}", problem.message);
        }
        standing.problem = Some(problem.clone());
        problem
    }

    /// What stable's pods did in the intervals that end within these times, when it is this question's turn.
    pub(super) async fn pods(
        &self,
        expression: &str,
        ends: [i64; 2],
        step: u32,
        metrics: &Metrics,
    ) -> Result<Result<Vec<Pods>, reply::DataError>, Problem> {
        let asked = self.in_turn(metrics, self.source.pods(expression, ends, step), Result::is_err);
        match asked.await? {
            Ok(read) => Ok(read),
            Err(error) => Err(self.refused(&error).await),
        }
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
