//! Questions of one instant in one query: a thousand Rollouts on a common grid all ask at the same moment.
//!
//! A question waits a moment for others about the same interval's end, and they go out together, each with a label of its own on its
//! series. A batch that the source refuses, or whose reply is spoilt as a whole, is halved until it is known which question was to blame,
//! within a number of queries; that one is asked by itself from then on. A batch that the source does not manage in time is made smaller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stepgate_crds::evidence::Trouble;
use tokio::sync::oneshot;

use super::book::lock;
use super::feed::{Feed, Problem};
use crate::provider::Query;
use crate::source::SourceError;
use crate::source::reply::{self, Sample};
use crate::telemetry::Metrics;

/// Questions in one query at most.
const LARGEST: usize = 50;
/// So many queries may find out which question spoils a batch: enough for three among fifty.
const BUDGET: usize = 40;
/// For so long a question that spoilt a batch is asked by itself.
const ALONE_FOR: Duration = Duration::from_mins(10);

/// A question, and where its answer goes.
#[derive(Debug)]
struct Question {
    query: Query,
    answer: oneshot::Sender<Result<Sample, Problem>>,
}

impl Question {
    /// Whoever asked may have ended.
    fn answered(self, answer: Result<Sample, Problem>) {
        let _ = self.answer.send(answer);
    }
}

/// The questions of one source that wait for company.
#[derive(Debug)]
pub(super) struct Gathering {
    moment: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// By the end of their interval.
    waiting: HashMap<i64, Vec<Question>>,
    /// Questions that spoilt a batch, and when.
    alone: HashMap<String, Instant>,
    /// Questions in one query at most, as the source has managed so far.
    limit: usize,
}

impl Gathering {
    /// `moment`: how long a question waits for others.
    pub(super) fn new(moment: Duration) -> Self {
        Self {
            moment,
            state: Mutex::new(State {
                waiting: HashMap::new(),
                alone: HashMap::new(),
                limit: LARGEST,
            }),
        }
    }

    fn is_alone(&self, query: &Query) -> bool {
        let mut state = lock(&self.state);
        state.alone.retain(|_, since| since.elapsed() < ALONE_FOR);
        state.alone.contains_key(query.as_str())
    }

    fn keep_alone(&self, query: &Query) {
        lock(&self.state)
            .alone
            .insert(query.as_str().to_owned(), Instant::now());
    }

    fn managed(&self, questions: usize) {
        let mut state = lock(&self.state);
        if questions >= state.limit {
            state.limit = (questions + 1).min(LARGEST);
        }
    }

    /// Whether the source has not managed as many as go out at most.
    fn is_limited(&self) -> bool {
        lock(&self.state).limit < LARGEST
    }

    fn overwhelmed(&self, questions: usize) {
        lock(&self.state).limit = (questions / 2).max(1);
    }
}

/// The counts of the interval that ends at `end`, asked together with others about the same end.
pub(super) async fn ask(feed: &Arc<Feed>, query: &Query, end: i64, metrics: &Metrics) -> Result<Sample, Problem> {
    let (answer, answered) = oneshot::channel();
    let question = Question {
        query: query.clone(),
        answer,
    };
    if feed.gathering.is_alone(query) {
        tokio::spawn(resolve(Arc::clone(feed), end, vec![question], metrics.clone()));
    } else {
        join(feed, question, end, metrics);
    }
    answered.await.unwrap_or_else(|_| {
        Err(Problem {
            kind: Trouble::default(),
            may_pass: true,
            label: "ended",
            message: format!("metrics source {}: the question was given up", feed.source.name()),
        })
    })
}

/// Puts a question to those that wait. The first of them sees to it that they are asked in a moment; the last that the source takes at once,
/// that they are asked now.
fn join(feed: &Arc<Feed>, question: Question, end: i64, metrics: &Metrics) {
    let mut state = lock(&feed.gathering.state);
    let limit = state.limit;
    let is_first = !state.waiting.contains_key(&end);
    let waiting = state.waiting.entry(end).or_default();
    waiting.push(question);
    if waiting.len() >= limit {
        let full = std::mem::take(waiting);
        tokio::spawn(resolve(Arc::clone(feed), end, full, metrics.clone()));
    }
    if is_first {
        let (feed, metrics) = (Arc::clone(feed), metrics.clone());
        tokio::spawn(async move {
            tokio::time::sleep(feed.gathering.moment).await;
            let waiting = lock(&feed.gathering.state).waiting.remove(&end);
            resolve(feed, end, waiting.unwrap_or_default(), metrics).await;
        });
    }
}

/// Asks them, and halves what the source refuses.
async fn resolve(feed: Arc<Feed>, end: i64, questions: Vec<Question>, metrics: Metrics) {
    let all = questions.len();
    let mut groups = vec![questions];
    let mut asked = 0;
    let (mut is_spoilt, mut is_found) = (false, false);
    while let Some(mut group) = groups.pop() {
        group.retain(|question| !question.answer.is_closed());
        let count = group.len();
        if count == 0 {
            continue;
        }
        if asked >= BUDGET {
            // Not in the source's words: they are about somebody else's question.
            let problem = Problem {
                kind: Trouble::default(),
                may_pass: true,
                label: "not_asked",
                message: format!(
                    "metrics source {}: not asked this time, for other questions of the same moment were refused",
                    feed.source.name()
                ),
            };
            answer_all(group, &problem);
            continue;
        }
        asked += 1;
        let queries: Vec<&Query> = group.iter().map(|question| &question.query).collect();
        let answer = match feed.ask_all(&queries, end, &metrics).await {
            Ok(answer) => answer,
            Err(held_back) => {
                answer_all(group, &held_back);
                continue;
            }
        };
        let is_refused = is_refused(&answer);
        if is_refused && count > 1 {
            is_spoilt = true;
            let second = group.split_off(count / 2);
            groups.extend([second, group]);
            continue;
        }
        let is_too_much = answer.as_ref().is_err_and(is_too_much);
        if is_too_much && count > 1 {
            feed.gathering.overwhelmed(count);
        }
        // One that is to blame by itself is asked by itself from now on.
        if count == 1 && ((is_refused && is_spoilt) || (is_too_much && feed.gathering.is_limited())) {
            is_found = true;
            for question in &group {
                feed.gathering.keep_alone(&question.query);
            }
        }
        match answer {
            Ok(samples) => {
                feed.gathering.managed(count);
                for (question, sample) in group.into_iter().zip(samples) {
                    question.answered(Ok(sample));
                }
            }
            Err(error) => answer_all(group, &feed.refused(&error).await),
        }
    }
    if is_spoilt && !is_found {
        // None of them was to blame: it is so many that the source does not take.
        feed.gathering.overwhelmed(all);
    }
}

fn answer_all(group: Vec<Question>, problem: &Problem) {
    for question in group {
        question.answered(Err(problem.clone()));
    }
}

/// Whether the source has something against the query that may be the fault of one question in it.
fn is_refused(answer: &Result<Vec<Sample>, SourceError>) -> bool {
    match answer {
        Ok(samples) => samples
            .iter()
            .any(|sample| sample.is_err_and(reply::DataError::is_of_the_reply)),
        Err(error) => !error.is_of_the_source(),
    }
}

/// Whether a smaller question might have been answered: by the source, or by a proxy before it.
const fn is_too_much(error: &SourceError) -> bool {
    match error {
        SourceError::Timeout { .. }
        | SourceError::TooLarge { .. }
        | SourceError::Status { .. }
        | SourceError::Malformed { .. }
        | SourceError::Broken { .. }
        | SourceError::Rejected { .. } => true,
        SourceError::Client { .. }
        | SourceError::Credentials { .. }
        | SourceError::Connect { .. }
        | SourceError::Redirect { .. }
        | SourceError::Unauthorized { .. }
        | SourceError::Skew { .. }
        | SourceError::Unknown { .. } => false,
    }
}
