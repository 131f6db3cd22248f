//! Reads the replies of Prometheus' HTTP API: four counts for each interval, or what is wrong with that interval.
//!
//! Pure and strict. A reply that is no Prometheus reply is a [`Refusal`], and nothing was learnt; a reply with a number that cannot be a count is a
//! [`DataError`] of the interval that it stands in, and spoils no other. Nothing is guessed, clamped or replaced by zero, but for one
//! rule: where there are requests, no series of bad ones means that there were none. Slow ones are no such series: they are the requests
//! that no bucket up to the threshold has, and without that bucket they are not known.

mod number;
mod scrapes;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use stepgate_core::verdict::dispersion::Pods;
use stepgate_core::verdict::{Arm, Counts, Observation};
use stepgate_crds::evidence::Trouble;

pub use number::{Number, NumberError, number, numbers};
pub use scrapes::{Labels, numbers_by_labels, times_by_labels};

use crate::provider::{Of, QUESTION_LABEL, SERIES_LABEL, Series};

/// From here on an f64 does not hold every integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Furthest that a sample's time may be from the time that was asked for, seconds.
const SAME_TIME: f64 = 0.5;

/// The four counts of one interval; `None` where the source has no such series at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuadSample {
    /// Completed requests of the canary.
    pub canary_requests: Option<u64>,
    /// Bad ones; may exceed the requests where a scrape fell between the two (the judge decides what to make of it).
    pub canary_bad: Option<u64>,
    /// Completed requests of stable.
    pub stable_requests: Option<u64>,
    /// Bad ones, likewise.
    pub stable_bad: Option<u64>,
}

impl From<QuadSample> for Observation {
    /// As the judge takes it. Stable without series beside a canary with some has no requests: that is so once the canary carries all.
    fn from(sample: QuadSample) -> Self {
        match (
            arm(sample.canary_requests, sample.canary_bad),
            arm(sample.stable_requests, sample.stable_bad),
        ) {
            (Some(canary), stable) => Self::Counts(Counts {
                canary,
                stable: stable.unwrap_or_default(),
            }),
            (None, Some(stable)) => Self::CanarySilent { stable },
            (None, None) => Self::Silent,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts are below 2^53")]
fn arm(requests: Option<u64>, bad: Option<u64>) -> Option<Arm> {
    Some(Arm {
        requests: requests? as f64,
        bad: bad.unwrap_or(0) as f64,
    })
}

/// What was read for one interval.
pub type Sample = Result<QuadSample, DataError>;

/// Why the data of one interval cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DataError {
    /// NaN or infinite.
    #[error("{} is not a finite number", .0.label())]
    NotFinite(Series),
    /// Below zero: not a counter.
    #[error("{} is negative", .0.label())]
    Negative(Series),
    /// 2^53 and more.
    #[error("{} is too large for a count", .0.label())]
    TooLarge(Series),
    /// The value is no number at all.
    #[error("{} has no value that can be read", .0.label())]
    Unreadable(Series),
    /// Two series where one is expected.
    #[error("{} has two series", .0.label())]
    TwoSeries(Series),
    /// Bad requests, but no requests.
    #[error("{} has a value where the requests have none", .0.label())]
    BadAlone(Series),
    /// Requests, but no bucket up to the threshold.
    #[error("{} has no value where the requests have one", .0.label())]
    NoBucket(Series),
    /// More requests up to the threshold than requests.
    #[error("{} is more than all requests", .0.label())]
    TooMany(Series),
    /// A series that the query does not ask for.
    #[error("a series is labelled with none of the counts asked for")]
    UnknownSeries,
    /// A scalar, a string, a histogram, a matrix where a vector is expected, or the other way about.
    #[error("the reply is of another type than the query's")]
    WrongType,
    /// The sample is of another time than was asked for.
    #[error("the sample is of another time than the interval's end")]
    WrongTime,
    /// The source warned that the reply may be partial.
    #[error("the source warned that its reply is not complete")]
    Warned,
}

impl DataError {
    /// Of what kind this is for those whose interval cannot be read.
    pub const fn trouble(self) -> Trouble {
        match self {
            Self::NotFinite(_) | Self::Negative(_) | Self::TooLarge(_) | Self::Unreadable(_) | Self::TooMany(_) => {
                Trouble::NotACount
            }
            Self::TwoSeries(_) | Self::BadAlone(_) | Self::UnknownSeries => Trouble::QueryResultSeries,
            Self::NoBucket(_) => Trouble::NoBucketBoundary,
            Self::WrongType | Self::WrongTime => Trouble::QueryResultType,
            Self::Warned => Trouble::SourceReplyPartial,
        }
    }

    /// Whether it is said of the reply as a whole: where a query is made of several, one of them may be to blame for all.
    pub const fn is_of_the_reply(self) -> bool {
        matches!(self, Self::WrongType | Self::Warned)
    }

    /// A constant word for metrics and status.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NotFinite(_) => "not_finite",
            Self::Negative(_) => "negative",
            Self::TooLarge(_) => "too_large",
            Self::Unreadable(_) => "unreadable",
            Self::TwoSeries(_) => "two_series",
            Self::BadAlone(_) => "bad_alone",
            Self::NoBucket(_) => "no_bucket",
            Self::TooMany(_) => "too_many",
            Self::UnknownSeries => "unknown_series",
            Self::WrongType => "wrong_type",
            Self::WrongTime => "wrong_time",
            Self::Warned => "warned",
        }
    }
}

/// A successful reply, its result not yet looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    kind: String,
    result: Value,
    warned: bool,
}

/// A body that is no successful reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// `status: error`, with Prometheus' words.
    Error {
        /// Its errorType.
        kind: String,
        /// Its error.
        message: String,
    },
    /// Not Prometheus' JSON; what is amiss.
    Malformed(&'static str),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    status: String,
    data: Option<Inner>,
    error_type: Option<String>,
    error: Option<String>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Inner {
    result_type: String,
    result: Value,
}

/// Reads a body. Unknown fields are allowed: newer versions add some (`infos`, `stats`).
pub fn parse(body: &[u8]) -> Result<Data, Refusal> {
    let envelope: Envelope = serde_json::from_slice(body).map_err(|error| {
        Refusal::Malformed(match error.classify() {
            serde_json::error::Category::Eof => "it ends too early",
            serde_json::error::Category::Data => "a field is missing or of another type",
            _ => "it is not JSON",
        })
    })?;
    match (envelope.status.as_str(), envelope.data) {
        ("success", Some(data)) => Ok(Data {
            kind: data.result_type,
            result: data.result,
            warned: envelope.warnings.is_some_and(|warnings| !warnings.is_empty()),
        }),
        ("error", _) => Err(Refusal::Error {
            kind: envelope.error_type.unwrap_or_default(),
            message: envelope.error.unwrap_or_default(),
        }),
        ("success", None) => Err(Refusal::Malformed("it has no data")),
        _ => Err(Refusal::Malformed("its status is neither success nor error")),
    }
}

/// The number of a scalar reply, `None` where it is anything else or not finite.
pub fn scalar(data: &Data) -> Option<f64> {
    if data.kind != "scalar" {
        return None;
    }
    let (_, value) = point(&data.result)?;
    value.filter(|value| value.is_finite())
}

/// The bucket boundaries that a reply names by its label `le`; none where it is no vector.
pub fn boundaries(data: &Data) -> Option<Vec<f64>> {
    let list = usable(data, "vector").ok()?;
    let le = |series: &Value| -> Option<f64> { series.get("metric")?.get("le")?.as_str()?.parse().ok() };
    Some(list.iter().filter_map(le).filter(|le| !le.is_nan()).collect())
}

/// The replies to each of the questions that one query was made of, by the number that [`QUESTION_LABEL`] gives their series. What has no
/// such number is in all of them, where it is known for what it is.
pub fn split(data: Data, questions: usize) -> Vec<Data> {
    let Some(list) = data.result.as_array().filter(|_| questions > 1) else {
        return vec![data; questions];
    };
    let question = |series: &Value| -> Option<usize> {
        let number = series.get("metric")?.get(QUESTION_LABEL)?.as_str()?.parse().ok()?;
        (number < questions).then_some(number)
    };
    let mut results = vec![Vec::new(); questions];
    for series in list {
        match question(series).and_then(|number| results.get_mut(number)) {
            Some(result) => result.push(series.clone()),
            None => results.iter_mut().for_each(|result| result.push(series.clone())),
        }
    }
    let reply = |result| Data {
        kind: data.kind.clone(),
        result: Value::Array(result),
        warned: data.warned,
    };
    results.into_iter().map(reply).collect()
}

/// What the query's second count of a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Second {
    /// The bad requests.
    Bad,
    /// The requests that are not slow.
    Within,
}

/// The counts of the interval that ends at `end`, of an instant query's reply.
pub fn instant(data: &Data, end: i64, second: Second) -> Sample {
    let mut gathered = Gathered::default();
    for series in usable(data, "vector")? {
        let which = which(series)?;
        let (time, value) = series.get("value").and_then(point).ok_or(DataError::WrongType)?;
        if !same(time, end) {
            return Err(DataError::WrongTime);
        }
        gathered.add(which, value)?;
    }
    gathered.finish(second)
}

/// The counts of each of the intervals that end at `ends`, of one range query's reply. What is wrong with the reply as a whole is wrong with
/// every interval; what is wrong with one value, with its interval alone.
pub fn range(data: &Data, ends: &[i64], second: Second) -> Vec<(i64, Sample)> {
    let list = match usable(data, "matrix") {
        Ok(list) => list,
        Err(error) => return ends.iter().map(|end| (*end, Err(error))).collect(),
    };
    let mut gathered: Vec<Result<Gathered, DataError>> = ends.iter().map(|_| Ok(Gathered::default())).collect();
    let mut whole = None;
    for series in list {
        let read = which(series).and_then(|which| {
            series
                .get("values")
                .and_then(Value::as_array)
                .map(|values| (which, values))
                .ok_or(DataError::WrongType)
        });
        match read {
            Ok((which, values)) => {
                for value in values {
                    let Some((time, number)) = point(value) else {
                        whole.get_or_insert(DataError::WrongType);
                        continue;
                    };
                    // Intervals that lie between two missed ones come along in the reply, and were read before.
                    let at = ends.iter().zip(&mut gathered).find(|(end, _)| same(time, **end));
                    if let Some((_, slot)) = at
                        && let Ok(open) = slot
                        && let Err(error) = open.add(which, number)
                    {
                        *slot = Err(error);
                    }
                }
            }
            Err(error) => {
                whole.get_or_insert(error);
            }
        }
    }
    ends.iter()
        .zip(gathered)
        .map(|(end, slot)| {
            let sample = whole.map_or_else(|| slot.and_then(|gathered| gathered.finish(second)), Err);
            (*end, sample)
        })
        .collect()
}

/// What stable's pods did in each of a range query's intervals, oldest first; those without requests are left out.
pub fn pods(data: &Data) -> Result<Vec<Pods>, DataError> {
    let mut found: BTreeMap<i64, Pods> = BTreeMap::new();
    for series in usable(data, "matrix")? {
        let label = series
            .get("metric")
            .and_then(|metric| metric.get(SERIES_LABEL)?.as_str());
        let of = label.and_then(Of::parse).ok_or(DataError::UnknownSeries)?;
        let values = series
            .get("values")
            .and_then(Value::as_array)
            .ok_or(DataError::WrongType)?;
        for value in values {
            let (time, Some(number)) = point(value).ok_or(DataError::WrongType)? else {
                continue;
            };
            if !number.is_finite() || !(0.0..EXACT).contains(&number) {
                continue;
            }
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a time in seconds, or one that no interval has"
            )]
            let pods = found.entry(time.round() as i64).or_default();
            match of {
                Of::Requests => pods.requests = number,
                Of::Bad => pods.bad = number,
                Of::Serving => pods.serving = number,
                Of::Squares => pods.squares = number,
            }
        }
    }
    let counted = |pods: &Pods| pods.requests > 0.0 && pods.bad <= pods.requests;
    Ok(found.into_values().filter(counted).collect())
}

/// The list of series, if the reply is whole and of the type that the query gives.
fn usable<'a>(data: &'a Data, kind: &str) -> Result<&'a [Value], DataError> {
    if data.warned {
        return Err(DataError::Warned);
    }
    if data.kind != kind {
        return Err(DataError::WrongType);
    }
    data.result.as_array().map(Vec::as_slice).ok_or(DataError::WrongType)
}

fn which(series: &Value) -> Result<Series, DataError> {
    series
        .get("metric")
        .and_then(|metric| metric.get(SERIES_LABEL))
        .and_then(Value::as_str)
        .and_then(Series::parse)
        .ok_or(DataError::UnknownSeries)
}

/// `[time, "value"]`; the value is `None` where it is not a number in text.
fn point(value: &Value) -> Option<(f64, Option<f64>)> {
    match value.as_array()?.as_slice() {
        [time, number] => Some((time.as_f64()?, number.as_str().and_then(|text| text.parse().ok()))),
        _ => None,
    }
}

#[expect(clippy::cast_precision_loss, reason = "unix seconds are far below 2^53")]
fn same(time: f64, end: i64) -> bool {
    (time - end as f64).abs() <= SAME_TIME
}

/// What was found of an interval's series.
#[derive(Debug, Clone, Copy, Default)]
struct Gathered {
    counts: [Option<u64>; Series::ALL.len()],
}

impl Gathered {
    fn slot(&mut self, series: Series) -> Option<&mut Option<u64>> {
        let at = Series::ALL.iter().position(|one| *one == series)?;
        self.counts.get_mut(at)
    }

    fn take(&mut self, series: Series) -> Option<u64> {
        self.slot(series)?.take()
    }

    fn add(&mut self, series: Series, value: Option<f64>) -> Result<(), DataError> {
        let count = count(value.ok_or(DataError::Unreadable(series))?, series)?;
        match self.slot(series).and_then(|slot| slot.replace(count)) {
            None => Ok(()),
            Some(_) => Err(DataError::TwoSeries(series)),
        }
    }

    fn finish(mut self, second: Second) -> Sample {
        let canary_requests = self.take(Series::CanaryRequests);
        let stable_requests = self.take(Series::StableRequests);
        let (canary, stable) = match second {
            Second::Bad => (Series::CanaryBad, Series::StableBad),
            Second::Within => (Series::CanaryWithin, Series::StableWithin),
        };
        let canary_bad = bad(second, canary_requests, self.take(canary), canary)?;
        let stable_bad = bad(second, stable_requests, self.take(stable), stable)?;
        if self.counts.iter().any(Option::is_some) {
            return Err(DataError::UnknownSeries);
        }
        Ok(QuadSample {
            canary_requests,
            canary_bad,
            stable_requests,
            stable_bad,
        })
    }
}

/// The bad requests of a version, by its requests and the second count.
fn bad(second: Second, requests: Option<u64>, count: Option<u64>, series: Series) -> Result<Option<u64>, DataError> {
    match (second, requests, count) {
        (_, None, Some(_)) => Err(DataError::BadAlone(series)),
        (_, None, None) => Ok(None),
        (Second::Bad, Some(_), bad) => Ok(Some(bad.unwrap_or(0))),
        (Second::Within, Some(_), None) => Err(DataError::NoBucket(series)),
        (Second::Within, Some(requests), Some(within)) => match requests.checked_sub(within) {
            Some(slow) => Ok(Some(slow)),
            None => Err(DataError::TooMany(series)),
        },
    }
}

/// A number as a count: whole numbers as they are, others to the nearest, halves to the even one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked: finite, not negative, below 2^53"
)]
fn count(value: f64, series: Series) -> Result<u64, DataError> {
    if !value.is_finite() {
        Err(DataError::NotFinite(series))
    } else if value < 0.0 {
        Err(DataError::Negative(series))
    } else if value >= EXACT {
        Err(DataError::TooLarge(series))
    } else {
        Ok(value.round_ties_even() as u64)
    }
}
