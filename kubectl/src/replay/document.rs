//! The document of counts: what stands in it, where it is wrong, and how it is written back with nothing lost.
//!
//! Reads text, opens nothing. Fields that are not ours keep their place and their text to the letter; ours are checked strictly, since
//! what is taken for a count decides. Every message names the place and what to write there.

use std::fmt;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use stepgate_crds::evidence::Tally;

const CASES: &str = "cases";
const INTERVALS: &str = "intervals_nc_xc_ns_xs";
/// JSON numbers are exact up to here in any reader.
const LARGEST_COUNT: u64 = 1 << 53;

/// A JSON object whose fields keep their order, and their text as it was.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, Box<RawValue>)>);

/// Counts of some runs, and whatever else stands beside them.
#[derive(Debug)]
pub(super) struct Document {
    fields: Fields,
    /// The runs.
    pub(super) cases: Vec<Case>,
}

/// The counts of one run, and by which parameters they are judged.
#[derive(Debug)]
pub(super) struct Case {
    fields: Fields,
    /// How many times as bad as stable the canary may be (ρ0).
    pub(super) ratio: f64,
    /// The dispersion (φ).
    pub(super) phi: f64,
    /// The tolerated share of bad requests.
    pub(super) max: f64,
    /// How many metrics the run judged: they share its chance of a false alarm.
    pub(super) metrics: u32,
    /// Canary and stable in each interval.
    pub(super) intervals: Vec<(Tally, Tally)>,
}

impl Document {
    /// Reads a document; `name` is what messages call it.
    pub(super) fn read(text: &str, name: &str) -> Result<Self> {
        let fields: Fields = serde_json::from_str(text).with_context(|| {
            format!(
                "{name}: not a JSON object such as {{\"cases\": [{{\"rho0\": 1.2, \"phi\": 2.0, \"tolerance\": 0.01, \"{INTERVALS}\": [[450, 3, 4050, 4]]}}]}}"
            )
        })?;
        let cases = fields.get(CASES).ok_or_else(|| {
            anyhow!("{name}: no field `{CASES}`; put the runs there, as a list of objects, each with `{INTERVALS}`")
        })?;
        let cases: Vec<Box<RawValue>> = serde_json::from_str(cases.get()).map_err(|_| {
            anyhow!("{name}: `{CASES}` is no list; put the runs there, as a list of objects, each with `{INTERVALS}`")
        })?;
        let cases = cases.iter().enumerate().map(|(at, case)| {
            Case::read(case.get()).with_context(|| format!("{name}: case {} ({CASES}[{at}])", at + 1))
        });
        Ok(Self {
            cases: cases.collect::<Result<_>>()?,
            fields,
        })
    }
}

impl Case {
    fn read(text: &str) -> Result<Self> {
        let fields: Fields = serde_json::from_str(text).map_err(|error| {
            anyhow!("not an object with each field once ({error}); write {{\"rho0\": …, \"phi\": …, \"tolerance\": …, \"{INTERVALS}\": …}}")
        })?;
        // Core takes what is outside to the nearest edge: a file that asks for it gets an error and not another number.
        let ratio = fields.number("rho0", "from 1 to 100", |ratio| (1.0..=100.0).contains(&ratio))?;
        let phi = fields.number("phi", "from 1 to 1000000", |phi| (1.0..=1e6).contains(&phi))?;
        let max = fields.number("tolerance", "over 0 (0.000001) and at most 0.5", |max| {
            (1e-6..=0.5).contains(&max)
        })?;
        let metrics = if fields.get("metrics").is_some() {
            fields.number("metrics", "from 1 to 100, how many metrics the run judged", |metrics| {
                metrics.fract() == 0.0 && (1.0..=100.0).contains(&metrics)
            })?
        } else {
            1.0
        };
        let form = "a list of intervals, each [canary requests, canary bad, stable requests, stable bad]";
        let intervals = fields
            .get(INTERVALS)
            .ok_or_else(|| anyhow!("no field `{INTERVALS}`; give {form}"))?;
        let intervals: Vec<Value> =
            serde_json::from_str(intervals.get()).map_err(|_| anyhow!("`{INTERVALS}` is no list; give {form}"))?;
        let intervals = intervals.iter().enumerate().map(|(at, interval)| {
            read_interval(interval).with_context(|| format!("interval {} ({INTERVALS}[{at}])", at + 1))
        });
        Ok(Self {
            ratio,
            phi,
            max,
            metrics: whole(metrics),
            intervals: intervals.collect::<Result<_>>()?,
            fields,
        })
    }

    /// Puts a field in, in place of what stood under its name.
    pub(super) fn set<T: Serialize>(&mut self, name: &str, value: &T) -> Result<()> {
        let value = to_raw_value(value).with_context(|| format!("writing `{name}`"))?;
        match self.fields.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, place)) => *place = value,
            None => self.fields.0.push((name.to_owned(), value)),
        }
        Ok(())
    }
}

fn whole(number: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole, and from 1 to 100"
    )]
    let number = number as u32;
    number
}

fn read_interval(interval: &Value) -> Result<(Tally, Tally)> {
    let form = "[canary requests, canary bad, stable requests, stable bad]";
    let Value::Array(numbers) = interval else {
        bail!("{} is no list; give {form}", short(interval));
    };
    let [canary, canary_bad, stable, stable_bad] = numbers.as_slice() else {
        bail!("{} numbers instead of 4; give {form}", numbers.len());
    };
    Ok((
        tally("canary", canary, canary_bad)?,
        tally("stable", stable, stable_bad)?,
    ))
}

fn tally(version: &str, requests: &Value, bad: &Value) -> Result<Tally> {
    let tally = Tally {
        requests: count(version, "requests", requests)?,
        bad: count(version, "bad requests", bad)?,
    };
    ensure!(
        tally.bad <= tally.requests,
        "{} bad requests of {} of the {version}; bad ones are counted among the requests, so give at most {}",
        tally.bad,
        tally.requests,
        tally.requests
    );
    Ok(tally)
}

fn count(version: &str, what: &str, value: &Value) -> Result<u64> {
    let whole = value.as_u64().or_else(|| {
        let number = value
            .as_f64()
            .filter(|number| number.fract() == 0.0 && *number >= 0.0)?;
        // 12.0 is twelve; a cast from a double saturates.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole, and not negative"
        )]
        Some(number as u64)
    });
    whole.filter(|count| *count <= LARGEST_COUNT).ok_or_else(|| {
        anyhow!(
            "the {version}'s {what} are {}; give a whole number from 0 to 2^53",
            short(value)
        )
    })
}

/// A value as it reads in a message.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 40 {
        return text;
    }
    text.chars().take(40).chain(['…']).collect()
}

impl Fields {
    fn get(&self, name: &str) -> Option<&RawValue> {
        let field = self.0.iter().find(|(known, _)| known == name);
        field.map(|(_, value)| value.as_ref())
    }

    fn number(&self, name: &str, range: &str, fits: impl Fn(f64) -> bool) -> Result<f64> {
        let value = self
            .get(name)
            .ok_or_else(|| anyhow!("no field `{name}`; give a number {range}"))?;
        let number = serde_json::from_str(value.get()).ok().filter(|number| fits(*number));
        number.ok_or_else(|| anyhow!("`{name}` is {}; give a number {range}", value.get()))
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Fields;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Fields::default();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if fields.get(&name).is_some() {
                        return Err(A::Error::custom(format!("`{name}` stands there twice")));
                    }
                    fields.0.push((name, value));
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl Serialize for Case {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.fields.serialize(serializer)
    }
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.0.len()))?;
        for (name, value) in &self.fields.0 {
            if name == CASES {
                map.serialize_entry(name, &self.cases)?;
            } else {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}
