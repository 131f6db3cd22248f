//! Checks once a run, and while it is so every ten minutes, whether its targets are scraped more seldom than the administrator says: then counts
//! are read before they are complete, and fall to the wrong step.
//!
//! Runs that begin at one moment ask together. No more than one of a source's queries at once is a check, a run waits for it only so long, and one
//! that fails or says nothing changes nothing: what is wrong with the source is told by the counts' own queries.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use stepgate_core::verdict::{DataError, Observation};
use stepgate_crds::evidence::Trouble;
use stepgate_crds::units::Span;
use tokio::sync::oneshot;

use super::book::lock;
use super::feed::Feed;
use crate::provider::{Query, Scrapes, Target};
use crate::source::SourceError;
use crate::telemetry::Metrics;

/// Questions in one query at most. Each is a third of what is asked for counts.
const LARGEST: usize = 100;
/// So many queries may find out which question spoils others'.
const BUDGET: usize = 10;

/// The check of one run.
#[derive(Debug)]
pub(super) struct Check {
    scrapes: Option<Scrapes>,
    /// From one look to the next, while it found them wrong or found nothing.
    again: Duration,
    /// When it is to be asked; never where it is settled.
    due: Option<Instant>,
    found: Option<DataError>,
}

impl Check {
    /// For a run that asks these queries of that source.
    pub(super) fn of<E>(queries: &[Result<Query, E>], feed: &Feed, again: Duration) -> Self {
        let parts = queries.iter().flatten().find_map(Query::parts);
        let scrapes = parts.map(|parts| Scrapes::of(parts, feed.scrape().as_secs_f64()));
        Self {
            due: scrapes.is_some().then(Instant::now),
            scrapes,
            again,
            found: None,
        }
    }

    /// Asks at `end` (unix seconds), if it is time to, and waits no longer than that.
    pub(super) async fn look(&mut self, feed: &Arc<Feed>, end: i64, within: Duration, metrics: &Metrics) {
        let Some(scrapes) = self.scrapes.as_ref() else { return };
        let now = Instant::now();
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let asked = tokio::time::timeout(within, ask(feed, scrapes, end, metrics)).await;
        if let Some(found) = asked.ok().flatten() {
            self.found = found.map(|(target, gap)| too_seldom(feed, &target, gap));
            if self.found.is_none() {
                self.due = None;
                return;
            }
        }
        self.due = Some(now + self.again);
    }

    /// Takes the counts out, where they cannot be relied on. What could not be read stays what it is.
    pub(super) fn spoil<'o>(&self, counts: impl IntoIterator<Item = &'o mut Observation>) {
        let Some(error) = &self.found else { return };
        for observation in counts {
            if !matches!(observation, Observation::Error(_)) {
                *observation = Observation::Error(error.clone());
            }
        }
    }
}

/// The target that is scraped too seldom, and every how many seconds. The outer none: that is not known.
async fn ask(feed: &Arc<Feed>, scrapes: &Scrapes, end: i64, metrics: &Metrics) -> Option<Option<(Target, f64)>> {
    let samples = least(feed, scrapes.least(), end, metrics).await?;
    let targets = samples
        .into_iter()
        .map(|(labels, samples)| Some((scrapes.target(&labels)?, samples)));
    let targets: Vec<_> = targets.collect::<Option<_>>()?;
    if targets.is_empty() {
        return None;
    }
    let suspects = scrapes.suspects(targets);
    if suspects.is_empty() {
        return Some(None);
    }
    let up = scrapes.up(&suspects);
    let times = feed.check(feed.source.times(&up, end), metrics).await.ok()?;
    Some(scrapes.too_seldom(&suspects, &times))
}

fn too_seldom(feed: &Feed, target: &Target, gap: f64) -> DataError {
    let name = feed.source.name();
    let said = feed.scrape().as_secs_f64();
    let (found, said) = (tenths(gap), tenths(said));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the gap of two scrapes in half an hour"
    )]
    let to = Span::seconds(gap.ceil() as u64);
    let setting = if feed.source.scrape().is_some() {
        format!("its scrapeInterval (chart value metricsSources.{name}.scrapeInterval)")
    } else {
        "--scrape-interval (chart value scrapeInterval)".to_owned()
    };
    let labels: Vec<String> = target.iter().map(|(name, value)| format!("{name}={value}")).collect();
    DataError {
        kind: Trouble::ScrapeInterval,
        detail: format!(
            "metrics source {name}: targets of this Rollout's series ({}) are scraped every {found} s, and the administrator has set {said} s \
             for this source; set {setting} to {to}, or have them scraped every {said} s",
            labels.join(", ")
        ),
    }
}

/// Seconds to a tenth; scrapes are some milliseconds early or late.
fn tenths(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

/// Samples of each target that a question gives.
type Answer = Vec<(Target, f64)>;

/// A question, and where its answer goes.
#[derive(Debug)]
struct Question {
    expression: String,
    answer: oneshot::Sender<Answer>,
}

/// The questions of one source that wait for company, by the time that they are about.
#[derive(Debug)]
pub(super) struct Waiting {
    moment: Duration,
    questions: Mutex<HashMap<i64, Vec<Question>>>,
}

impl Waiting {
    /// `moment`: how long a question waits for others. Nobody is in a hurry.
    pub(super) fn new(moment: Duration) -> Self {
        Self {
            moment,
            questions: Mutex::default(),
        }
    }
}

/// What this expression gives at `end`, asked together with others about the same time. None: it was not answered.
async fn least(feed: &Arc<Feed>, expression: String, end: i64, metrics: &Metrics) -> Option<Answer> {
    let (answer, answered) = oneshot::channel();
    let is_first = {
        let mut waiting = lock(&feed.checks.questions);
        let is_first = !waiting.contains_key(&end);
        waiting.entry(end).or_default().push(Question { expression, answer });
        is_first
    };
    if is_first {
        let (feed, metrics) = (Arc::clone(feed), metrics.clone());
        tokio::spawn(async move {
            tokio::time::sleep(feed.checks.moment).await;
            let mut questions = lock(&feed.checks.questions).remove(&end).unwrap_or_default();
            while !questions.is_empty() {
                let rest = questions.split_off(questions.len().min(LARGEST));
                resolve(&feed, end, questions, &metrics).await;
                questions = rest;
            }
        });
    }
    answered.await.ok()
}

/// Asks them, and halves what the source refuses.
async fn resolve(feed: &Feed, end: i64, questions: Vec<Question>, metrics: &Metrics) {
    let mut groups = vec![questions];
    for _ in 0..BUDGET {
        let Some(mut group) = groups.pop() else { return };
        group.retain(|question| !question.answer.is_closed());
        let expressions: Vec<&str> = group.iter().map(|question| question.expression.as_str()).collect();
        if expressions.is_empty() {
            continue;
        }
        match feed.check(feed.source.by_labels(&expressions, end), metrics).await {
            Ok(answers) => {
                for (question, answer) in group.into_iter().zip(answers) {
                    // Whoever asked may have ended.
                    let _ = question.answer.send(answer);
                }
            }
            Err(error) if group.len() > 1 && is_refused(&error) => {
                let second = group.split_off(group.len() / 2);
                groups.extend([second, group]);
            }
            Err(_) => {}
        }
    }
}

/// Whether one question in a query may be to blame.
fn is_refused(error: &SourceError) -> bool {
    !error.is_of_the_source()
}
