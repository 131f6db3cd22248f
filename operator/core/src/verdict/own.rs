//! The user's own queries: one number each at the end of an interval, held against its bounds.
//!
//! Pure. A number out of its bounds in so many intervals of a step in a row fails the version, once holds it; a query without a number says
//! nothing for or against the version, and holds. None of this is a test: what a query's chance to fail a healthy version is, its user knows.

use std::fmt;

use stepgate_crds::evidence::{QueryEvidence, Trouble};

use super::Moment;
use super::observation::{DataError, Interval, Observation, shortened};
use super::reason::{HoldReason, Rule};
use super::settings::{QuerySettings, Settings};

/// One query in numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryExplanation {
    /// By what it is judged.
    pub settings: QuerySettings,
    /// The number that it gave last at this step.
    pub value: Option<String>,
    /// Intervals in a row in which it was out of its bounds.
    pub failures: u32,
    /// Why the newest interval gave no number.
    pub trouble: Option<String>,
}

/// `queue-depth: 120, max 100, out of its bounds in 2 of 3 intervals`.
impl fmt::Display for QueryExplanation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.settings;
        write!(
            to,
            "{}: {}{}",
            settings.name,
            self.value.as_deref().unwrap_or("no number"),
            bounds(settings)
        )?;
        if self.failures > 0 {
            write!(
                to,
                ", out of its bounds in {} of {} intervals",
                self.failures, settings.failure_limit
            )?;
        }
        Ok(())
    }
}

/// Whether own queries say anything now: not where nothing is sent to the canary, nor while the canary is the whole side, when what a query
/// compares it with is a version that rolls.
pub(super) fn speak(moment: &Moment) -> bool {
    moment.weight_percent > 0 && !moment.promoting
}

/// The evidence of exactly the settings' queries, in their order.
pub(super) fn aligned(kept: &[QueryEvidence], settings: &Settings) -> Vec<QueryEvidence> {
    let queries = settings.queries.iter().map(|query| {
        let known = kept.iter().find(|known| known.name == query.name);
        known.cloned().unwrap_or_else(|| beginning(&query.name))
    });
    queries.collect()
}

fn beginning(name: &str) -> QueryEvidence {
    QueryEvidence {
        name: name.to_owned(),
        ..QueryEvidence::default()
    }
}

/// A row of intervals is of one step, and so is the number that a pass rests on.
pub(super) fn enter_step(kept: &mut [QueryEvidence]) {
    for query in kept {
        *query = beginning(&query.name);
    }
}

/// Folds an interval that counts for the step.
pub(super) fn fold(kept: &mut [QueryEvidence], interval: &Interval, settings: &Settings) {
    let read = interval.metrics.get(settings.metrics.len()..).unwrap_or_default();
    for (at, (kept, query)) in kept.iter_mut().zip(&settings.queries).enumerate() {
        match number(read.get(at)) {
            Ok(value) => {
                kept.failures = if query.holds(value) {
                    0
                } else {
                    kept.failures.saturating_add(1)
                };
                kept.value = Some(written(value));
                kept.trouble = None;
                kept.trouble_kind = Trouble::default();
            }
            Err(DataError { kind, detail }) => {
                kept.trouble = Some(shortened(&detail));
                kept.trouble_kind = kind;
            }
        }
    }
}

fn number(read: Option<&Observation>) -> Result<f64, DataError> {
    match read {
        Some(Observation::Value(value)) if value.is_finite() => Ok(*value),
        Some(Observation::Value(value)) => Err(DataError {
            kind: Trouble::QueryNotFinite,
            detail: format!("the query gives {value}, which is no finite number"),
        }),
        Some(Observation::Error(error)) => Err(error.clone()),
        Some(Observation::Counts(_) | Observation::CanarySilent { .. } | Observation::Silent) => Err(
            DataError::unreadable("the sampler returned counts in place of one number"),
        ),
        None => Err(DataError::unreadable("the sampler returned nothing for this query")),
    }
}

/// The first query that was out of its bounds for too long.
pub(super) fn failed(kept: &[QueryEvidence], settings: &Settings, moment: &Moment) -> Option<Rule> {
    let mut queries = kept.iter().zip(&settings.queries);
    let (kept, query) = queries.find(|(kept, query)| kept.failures >= query.failure_limit.max(1))?;
    (speak(moment) && !moment.taken_away).then(|| Rule::OwnQuery {
        said: said(kept, query),
        intervals: kept.failures,
    })
}

/// Why a query does not let a step pass: without a number before out of its bounds, since that needs another remedy.
pub(super) fn objection(kept: &[QueryEvidence], settings: &Settings, moment: &Moment) -> Option<HoldReason> {
    let queries = || kept.iter().zip(&settings.queries).filter(|_| speak(moment));
    let silent = queries().find_map(|(kept, query)| Some(no_number(query, kept.trouble_kind, kept.trouble.as_ref()?)));
    let out = || queries().find(|(kept, _)| kept.failures > 0);
    silent.or_else(|| {
        let (kept, query) = out()?;
        Some(HoldReason::QueryOutOfBounds {
            said: said(kept, query),
            intervals: kept.failures,
            limit: query.failure_limit.max(1),
        })
    })
}

/// Why a step that passes by all else does not: a query has not been read at it.
pub(super) fn unread(kept: &[QueryEvidence], settings: &Settings, moment: &Moment) -> Option<HoldReason> {
    let mut queries = kept.iter().zip(&settings.queries).filter(|_| speak(moment));
    let (_, query) = queries.find(|(kept, _)| kept.value.is_none())?;
    Some(no_number(
        query,
        Trouble::QueryNoData,
        "no interval of this step has been read yet",
    ))
}

fn no_number(query: &QuerySettings, kind: Trouble, why: &str) -> HoldReason {
    HoldReason::MetricsUnavailable(DataError {
        kind,
        detail: format!("query {}: {why}", query.name),
    })
}

/// The numbers of each query, in the order of the settings.
pub(super) fn explain(kept: &[QueryEvidence], settings: &Settings) -> Vec<QueryExplanation> {
    let queries = kept.iter().zip(&settings.queries);
    let explained = queries.map(|(kept, query)| QueryExplanation {
        settings: query.clone(),
        value: kept.value.clone(),
        failures: kept.failures,
        trouble: kept.trouble.clone(),
    });
    explained.collect()
}

/// `queue-depth: 120 is over the max of 100`.
fn said(kept: &QueryEvidence, query: &QuerySettings) -> String {
    let value = kept.value.as_deref().unwrap_or_default();
    let number = value.parse::<f64>().ok();
    let over = query.max.filter(|max| number.is_none_or(|number| number > *max));
    let bound = match (over, query.min) {
        (Some(max), _) => format!("over the max of {}", written(max)),
        (None, Some(min)) => format!("under the min of {}", written(min)),
        (None, None) => "out of its bounds".to_owned(),
    };
    format!("{}: {value} is {bound}", query.name)
}

fn bounds(query: &QuerySettings) -> String {
    let bound =
        |word: &str, bound: Option<f64>| bound.map_or_else(String::new, |bound| format!(", {word} {}", written(bound)));
    bound("max", query.max) + &bound("min", query.min)
}

/// A number with all its digits, short also where it is huge or tiny.
fn written(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 || (1e-4..1e15).contains(&size) {
        value.to_string()
    } else {
        format!("{value:e}")
    }
}
