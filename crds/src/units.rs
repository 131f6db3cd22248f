//! Units as they stand in a manifest: durations (`90s`, `1m30s`), shares (`1%`) and points in time.
//!
//! Each type keeps what it parsed, prints it back in one canonical form and brings its own JSON Schema, so that the API server
//! refuses what this module could not read.

use std::{borrow::Cow, fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// What was wrong with a unit; its text says what a right one looks like.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("`{0}` is no duration: write whole numbers with units, such as 500ms, 30s, 2m or 1h30m")]
    Duration(String),
    /// Not a share.
    #[error("`{0}` is no share: write a number from 0 to 100 with a percent sign, such as 1% or 0.5%")]
    Share(String),
    /// Neither a share nor `auto`.
    #[error("`{0}` is no max: write a share such as 1%, or auto for one that is made of stable's own history")]
    Max(String),
}

/// A span of time with millisecond resolution, never negative. Written as whole numbers with the units `ms`, `s`, `m`, `h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(Duration);

impl Span {
    /// A span of whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A span of milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// A tenth of it.
    #[must_use]
    pub fn tenth(self) -> Self {
        Self(self.0 / 10)
    }

    /// Two of it.
    #[must_use]
    pub fn twice(self) -> Self {
        Self(self.0.saturating_mul(2))
    }

    /// The same span for the standard library.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Milliseconds, saturating.
    pub fn as_millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let bad = || UnitError::Duration(text.to_owned());
        let mut rest = text;
        let mut total: u64 = 0;
        if rest.is_empty() {
            return Err(bad());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let scale: u64 = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(bad()),
            };
            let number: u64 = number.parse().map_err(|_| bad())?;
            total = number
                .checked_mul(scale)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(bad)?;
            rest = tail;
        }
        Ok(Self::millis(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (scale, unit) in [(3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")] {
            if millis >= scale {
                write!(f, "{}{unit}", millis / scale)?;
                millis %= scale;
            }
        }
        Ok(())
    }
}

/// A share of a whole, 0 to 1, written as a percentage (`1%`).
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Share(f64);

impl Share {
    /// A share from a number; what lies outside 0..=1 (or is no number) is brought inside.
    pub fn new(share: f64) -> Self {
        Self(if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) })
    }

    /// The share as a number from 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let percent: f64 = text
            .strip_suffix('%')
            .filter(|number| number.chars().all(|c| c.is_ascii_digit() || c == '.'))
            .and_then(|number| number.parse().ok())
            .filter(|percent| (0.0..=100.0).contains(percent))
            .ok_or_else(|| UnitError::Share(text.to_owned()))?;
        Ok(Self(percent / 100.0))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Nine decimals are more than any manifest has, and hide that 0.07 * 100 is not 7.
        let text = format!("{:.9}", self.0 * 100.0);
        write!(f, "{}%", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// The most that is tolerated: a share, or `auto` where it is made of what stable did before the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Max {
    /// From stable's history.
    Auto,
    /// So much.
    Share(Share),
}

impl Max {
    /// The share, where it says one.
    pub fn share(self) -> Option<Share> {
        match self {
            Self::Auto => None,
            Self::Share(share) => Some(share),
        }
    }
}

impl FromStr for Max {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        match text {
            "auto" => Ok(Self::Auto),
            text => text
                .parse()
                .map(Self::Share)
                .map_err(|_| UnitError::Max(text.to_owned())),
        }
    }
}

impl fmt::Display for Max {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Share(share) => share.fmt(f),
        }
    }
}

/// A point in time with millisecond resolution, written in RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded up: the first grid point that does not lie before this moment.
    pub const fn ceil_seconds(self) -> i64 {
        self.0.div_euclid(1_000) + (self.0.rem_euclid(1_000) > 0) as i64
    }

    /// This moment and a span later.
    #[must_use]
    pub fn after(self, span: Span) -> Self {
        Self(self.0.saturating_add(span.as_millis()))
    }

    /// The span since an earlier moment; zero where it lies in the future.
    pub fn since(self, earlier: Self) -> Span {
        Span::millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl From<jiff::Timestamp> for Timestamp {
    fn from(time: jiff::Timestamp) -> Self {
        Self(time.as_millisecond())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(time) => write!(f, "{time:.3}"),
            Err(_) => write!(f, "1970-01-01T00:00:00.000Z"),
        }
    }
}

impl FromStr for Timestamp {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, jiff::Error> {
        Ok(text.parse::<jiff::Timestamp>()?.into())
    }
}

/// Serde and schema by way of `Display` and `FromStr`.
macro_rules! as_string {
    ($type:ty, $name:literal, $schema:tt) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Cow::<'de, str>::deserialize(deserializer)?
                    .parse()
                    .map_err(D::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

as_string!(Span, "Span", {"type": "string", "maxLength": 32, "pattern": "^([0-9]{1,6}(ms|s|m|h))+$"});
as_string!(Max, "Max", {"type": "string", "maxLength": 16, "pattern": "^(auto|[0-9]{1,3}(\\.[0-9]{1,6})?%)$"});
as_string!(Share, "Share", {"type": "string", "maxLength": 16, "pattern": "^[0-9]{1,3}(\\.[0-9]{1,6})?%$"});
as_string!(Timestamp, "Timestamp", {"type": "string", "format": "date-time"});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_reads_back_as_what_was_written() {
        for text in ["500ms", "30s", "2m", "1h30m", "1m30s250ms", "0s"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Span>().unwrap().to_string(), "1m30s");
    }

    #[test]
    fn a_bad_duration_is_refused_with_an_example() {
        for text in ["", "5", "s", "-5s", "5 s", "1.5s", "5d", "99999999999999999999s"] {
            assert!(text.parse::<Span>().unwrap_err().to_string().contains("30s"), "{text}");
        }
    }

    #[test]
    fn a_share_is_a_percentage() {
        assert!(("0.5%".parse::<Share>().unwrap().get() - 0.005).abs() < 1e-12);
        for text in ["7%", "0.5%", "100%", "0.000001%"] {
            assert_eq!(text.parse::<Share>().unwrap().to_string(), text);
            assert_eq!(text.parse::<Max>().unwrap().to_string(), text);
        }
        for text in ["", "%", "1", "-1%", "101%", "1e1%", "NaN%", "inf%"] {
            assert!(text.parse::<Share>().is_err(), "{text}");
            assert!(text.parse::<Max>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_keeps_milliseconds() {
        let time: Timestamp = "2026-11-24T14:00:00.123456Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-24T14:00:00.123Z");
        assert_eq!(time.ceil_seconds(), time.as_millis() / 1000 + 1);
        assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
    }
}
