//! Reads the reply to one of the user's own queries: one finite number for each time, or what it is instead.
//!
//! Pure and strict, as its parent is.

use serde_json::Value;
use thiserror::Error;

use stepgate_crds::evidence::Trouble;

use super::{Data, point, same};

/// What a query gave at one time.
pub type Number = Result<f64, NumberError>;

/// Why there is no number that can be judged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NumberError {
    /// An empty vector.
    #[error("the query gives no series")]
    NoSeries,
    /// More than one.
    #[error("the query gives {0} series, and one number is expected; bring them together, say by sum(…) or max(…)")]
    Several(usize),
    /// NaN or infinite.
    #[error("the query gives {0}, which is no finite number")]
    NotFinite(String),
    /// A string, a range vector, a histogram.
    #[error("the query gives a {0}, and a scalar or a vector of one series is expected")]
    WrongType(&'static str),
    /// The reply is not of the form that its type has, or of another time.
    #[error("the reply has no value of the time that was asked for")]
    Unreadable,
    /// The source warned that the reply may be partial.
    #[error("the source warned that its reply is not complete")]
    Warned,
}

impl NumberError {
    /// Of what kind this is.
    pub const fn trouble(&self) -> Trouble {
        match self {
            Self::NoSeries => Trouble::QueryNoData,
            Self::Several(_) => Trouble::QueryResultSeries,
            Self::NotFinite(_) => Trouble::QueryNotFinite,
            Self::WrongType(_) | Self::Unreadable => Trouble::QueryResultType,
            Self::Warned => Trouble::SourceReplyPartial,
        }
    }
}

/// The number of an instant query at `end`.
pub fn number(data: &Data, end: i64) -> Number {
    if data.warned {
        return Err(NumberError::Warned);
    }
    match (data.kind.as_str(), data.result.as_array().map(Vec::as_slice)) {
        ("scalar", Some(_)) => value(&data.result, end),
        ("vector", Some([])) => Err(NumberError::NoSeries),
        ("vector", Some([series])) => match series.get("value") {
            Some(sample) => value(sample, end),
            None if series.get("histogram").is_some() => Err(NumberError::WrongType("histogram")),
            None => Err(NumberError::Unreadable),
        },
        ("vector", Some(several)) => Err(NumberError::Several(several.len())),
        ("matrix", _) => Err(NumberError::WrongType("range of samples (a matrix)")),
        ("string", _) => Err(NumberError::WrongType("string")),
        _ => Err(NumberError::Unreadable),
    }
}

/// The numbers of a range query at each of `ends`: what is wrong with one time is wrong with it alone.
pub fn numbers(data: &Data, ends: &[i64]) -> Vec<Number> {
    let all = |error: NumberError| ends.iter().map(|_| Err(error.clone())).collect();
    if data.warned {
        return all(NumberError::Warned);
    }
    let Some(list) = data.result.as_array().filter(|_| data.kind == "matrix") else {
        return all(NumberError::Unreadable);
    };
    let at = |end: i64| {
        let found: Vec<Number> = list.iter().filter_map(|series| of_series(series, end)).collect();
        match found.as_slice() {
            [] => Err(NumberError::NoSeries),
            [one] => one.clone(),
            several => Err(NumberError::Several(several.len())),
        }
    };
    ends.iter().map(|end| at(*end)).collect()
}

/// What a series has at a time; none where it has nothing then.
fn of_series(series: &Value, end: i64) -> Option<Number> {
    let of = |field: &str| {
        let samples = series.get(field).and_then(Value::as_array)?;
        let is_there = |sample: &&Value| {
            let time = sample.get(0).and_then(Value::as_f64);
            time.is_some_and(|time| same(time, end))
        };
        samples.iter().find(is_there)
    };
    let histogram = || of("histograms").map(|_| Err(NumberError::WrongType("histogram")));
    of("values").map(|sample| value(sample, end)).or_else(histogram)
}

fn value(sample: &Value, end: i64) -> Number {
    match point(sample) {
        Some((time, Some(value))) if same(time, end) => {
            if value.is_finite() {
                Ok(value)
            } else {
                Err(NumberError::NotFinite(value.to_string()))
            }
        }
        _ => Err(NumberError::Unreadable),
    }
}
