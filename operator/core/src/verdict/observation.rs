//! What one interval of the source's grid said about one metric, and what of it may be believed.
//!
//! The sampler hands over what the queries returned; this decides whether it is a count. Never a guess: what is not a finite,
//! non-negative number takes the interval out.

use stepgate_crds::evidence::{Tally, Trouble};

/// Counts are exact in a double, and in JSON, up to here.
const LARGEST_COUNT: f64 = 9_007_199_254_740_992.0; // 2^53

/// Requests and bad requests of one version in one interval, as the source returned them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Arm {
    /// Completed requests; fractions are rounded half to even.
    pub requests: f64,
    /// The bad ones among them.
    pub bad: f64,
}

impl From<Tally> for Arm {
    fn from(tally: Tally) -> Self {
        Self {
            requests: as_f64(tally.requests),
            bad: as_f64(tally.bad),
        }
    }
}

/// Both versions in one interval.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// The new version.
    pub canary: Arm,
    /// The version it is compared with.
    pub stable: Arm,
}

/// Why an interval of a metric could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct DataError {
    /// Of what kind the trouble is.
    pub kind: Trouble,
    /// A sentence for a person: what was asked of which source, and what it answered.
    pub detail: String,
}

impl DataError {
    /// Of no kind of its own.
    pub fn unreadable(detail: impl Into<String>) -> Self {
        Self {
            kind: Trouble::Unreadable,
            detail: detail.into(),
        }
    }
}

/// What one interval said about one metric.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// Both totals were there. A query for bad requests that came back empty beside a total is `bad: 0`.
    Counts(Counts),
    /// The canary's total came back empty, stable's did not.
    CanarySilent {
        /// Stable in this interval.
        stable: Arm,
    },
    /// Both totals came back empty.
    Silent,
    /// The number that one of the user's own queries gave.
    Value(f64),
    /// A failed query, a warning, a partial or senseless answer.
    Error(DataError),
}

/// One interval of the source's grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Interval {
    /// Its end, in Unix seconds on the source's clock.
    pub end: i64,
    /// Its length.
    pub seconds: u32,
    /// One observation for each metric, in the order of the settings, and then one for each of the user's own queries.
    pub metrics: Vec<Observation>,
}

/// What of an observation may be counted.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Reading {
    /// Counts; stable's may be none, the canary's too if stable's are not.
    Counts {
        canary: Tally,
        stable: Tally,
        inconsistent: bool,
    },
    /// No total for the canary: not a count of zero, but requests of stable that should have had company.
    CanarySilent { stable: Tally },
    /// No request anywhere.
    Silent,
    /// Nothing that could be believed, and why.
    Unreadable(DataError),
}

impl Reading {
    /// Reads an observation. With `canary_only` stable counts for nothing.
    pub(super) fn of(observation: Option<&Observation>, canary_only: bool) -> Self {
        let read = match observation {
            None => Err(DataError::unreadable("the sampler returned nothing for this metric")),
            Some(Observation::Error(DataError { kind, detail })) => Err(DataError {
                kind: *kind,
                detail: shortened(detail),
            }),
            Some(Observation::Value(_)) => Err(DataError::unreadable(
                "the sampler returned one number in place of counts",
            )),
            Some(Observation::Silent) => Ok(Self::Silent),
            Some(Observation::CanarySilent { stable }) => {
                tally("stable", *stable).map(|(stable, _)| match stable.requests {
                    0 => Self::Silent,
                    _ if canary_only => Self::Silent,
                    _ => Self::CanarySilent { stable },
                })
            }
            Some(Observation::Counts(counts)) => both(counts, canary_only),
        };
        read.unwrap_or_else(Self::Unreadable)
    }
}

fn both(counts: &Counts, canary_only: bool) -> Result<Reading, DataError> {
    let (canary, canary_cut) = tally("canary", counts.canary)?;
    let (stable, stable_cut) = if canary_only {
        (Tally::default(), false)
    } else {
        tally("stable", counts.stable)?
    };
    Ok(if canary.requests == 0 && stable.requests == 0 {
        Reading::Silent
    } else {
        Reading::Counts {
            canary,
            stable,
            inconsistent: canary_cut || stable_cut,
        }
    })
}

/// The counts of an arm, and whether bad had to be cut to the requests.
fn tally(name: &str, arm: Arm) -> Result<(Tally, bool), DataError> {
    let requests = count(name, "requests", arm.requests)?;
    let bad = count(name, "bad requests", arm.bad)?;
    Ok((
        Tally {
            requests,
            bad: bad.min(requests),
        },
        bad > requests,
    ))
}

fn count(name: &str, what: &str, value: f64) -> Result<u64, DataError> {
    if !value.is_finite() || value < 0.0 {
        return Err(DataError {
            kind: Trouble::NotACount,
            detail: format!("the query for {name} {what} returned {value}, which is not a count"),
        });
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative, and at most 2^53"
    )]
    Ok(value.min(LARGEST_COUNT).round_ties_even() as u64)
}

/// A count as a double.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts stay below 2^53 in all that is written here; above, a double is near enough"
)]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

/// At most 240 bytes or so: it is kept in status.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 240;
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let mut short: String = text
        .char_indices()
        .take_while(|(at, _)| *at < LONGEST)
        .map(|(_, letter)| letter)
        .collect();
    short.push('…');
    short
}
