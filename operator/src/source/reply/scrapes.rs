//! Reads the replies to the questions of a check of scrapes: series by their labels, with a number or with the times of their samples.
//!
//! Pure and strict, as its parent is; what is not of that form tells nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Data, point, usable};

/// A series' labels, by name.
pub type Labels = BTreeMap<String, String>;

/// The number of each series of an instant query.
pub fn numbers_by_labels(data: &Data) -> Option<Vec<(Labels, f64)>> {
    let number = |series: &Value| {
        let (_, number) = point(series.get("value")?)?;
        Some((labels(series)?, number.filter(|number| number.is_finite())?))
    };
    usable(data, "vector").ok()?.iter().map(number).collect()
}

/// The times of each series' samples, unix seconds, in order, of an instant query for a range of them.
pub fn times_by_labels(data: &Data) -> Option<Vec<(Labels, Vec<f64>)>> {
    let times = |series: &Value| {
        let samples = series.get("values")?.as_array()?.iter();
        let times: Option<Vec<f64>> = samples.map(|sample| Some(point(sample)?.0)).collect();
        Some((labels(series)?, times?))
    };
    usable(data, "matrix").ok()?.iter().map(times).collect()
}

fn labels(series: &Value) -> Option<Labels> {
    let labels = series.get("metric")?.as_object()?.iter();
    labels
        .map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}
