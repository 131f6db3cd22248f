//! Replays counts from a file: what the operator would have said after each interval, and by which evidence.
//!
//! The numbers and the verdicts are the operator's own (`stepgate_core::verdict`); nothing is computed a second time here. Pure: text
//! in, text out, no cluster. A case is judged as one metric over one step. The file does not say the weight, so the share check is off
//! and the canary's measured share stands for it.

mod document;
mod past;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result};
use stepgate_core::verdict::eprocess::{ALTERNATIVES, ln_e_absolute, ln_e_pass, ln_mean, relative_increments};
use stepgate_core::verdict::settings::ALPHA;
use stepgate_core::verdict::{self, Arm, Counts, Interval, MetricSettings, Moment, Observation, Settings, Verdict};
use stepgate_crds::evidence::Tally;

use crate::figures::grouped;
use crate::table::{Side, table};
use document::{Case, Document};
pub(crate) use past::of_run;

/// A document, replayed.
#[derive(Debug)]
pub(crate) struct Replay {
    document: Document,
    /// What was found of each case, interval by interval.
    found: Vec<Vec<Found>>,
}

/// What is known after an interval.
#[derive(Debug)]
struct Found {
    /// ln E that the canary is worse than stable, divided by φ.
    relative: f64,
    /// ln E that the canary is over the tolerance, not divided.
    absolute: f64,
    /// ln E that the canary is under the tolerance, not divided.
    pass: f64,
    /// What the operator says: with all three divided by φ, and with its restarts.
    verdict: Verdict,
}

/// Replays a document of counts; `name` is what messages call it, an interval takes so many seconds.
pub(crate) fn replay(text: &str, name: &str, seconds: u32) -> Result<Replay> {
    let document = Document::read(text, name)?;
    let found = document.cases.iter().map(|case| judge(case, seconds)).collect();
    Ok(Replay { document, found })
}

fn judge(case: &Case, seconds: u32) -> Vec<Found> {
    let metric = MetricSettings {
        max: case.max,
        ratio: case.ratio,
        ..MetricSettings::errors()
    };
    let settings = Settings {
        phi: case.phi,
        alpha: ALPHA / f64::from(case.metrics),
        check_share: false,
        ..Settings::new(vec![metric], 1)
    };
    let mut evidence = verdict::begin(&settings, 0);
    let mut sums = [0.0; ALTERNATIVES];
    let (mut canary, mut stable) = (Tally::default(), Tally::default());
    let after = case.intervals.iter().zip(1_i64..).map(|(seen, number)| {
        canary = plus(canary, seen.0);
        stable = plus(stable, seen.1);
        for (sum, increment) in sums.iter_mut().zip(relative_increments(seen.0, seen.1, case.ratio)) {
            *sum += increment;
        }
        let interval = Interval {
            end: number * i64::from(seconds),
            seconds,
            metrics: vec![Observation::Counts(Counts {
                canary: seen.0.into(),
                stable: seen.1.into(),
            })],
        };
        let moment = Moment {
            weight_percent: measured_percent(canary, stable),
            accepted: Some(0),
            ..Moment::default()
        };
        let judgement = verdict::judge(&evidence, &[interval], &settings, &moment, None);
        evidence = judgement.evidence;
        let Arm { requests, bad } = canary.into();
        Found {
            relative: ln_mean(&sums, case.phi),
            absolute: ln_e_absolute(requests, bad, case.max, 1.0),
            pass: ln_e_pass(requests, bad, case.max, 1.0),
            verdict: judgement.verdict,
        }
    });
    after.collect()
}

/// The canary's share in whole percent: 100 only without any request to stable, and never 0, which would say that nothing is sent.
fn measured_percent(canary: Tally, stable: Tally) -> u32 {
    if stable.requests == 0 {
        return 100;
    }
    let (part, all) = (
        u128::from(canary.requests),
        u128::from(canary.requests) + u128::from(stable.requests),
    );
    u32::try_from((100 * part + all / 2) / all).unwrap_or(100).clamp(1, 99)
}

fn plus(one: Tally, other: Tally) -> Tally {
    Tally {
        requests: one.requests.saturating_add(other.requests),
        bad: one.bad.saturating_add(other.bad),
    }
}

impl Replay {
    /// The same document with evidence and verdicts filled in.
    pub(crate) fn json(mut self) -> Result<String> {
        for (case, found) in self.document.cases.iter_mut().zip(&self.found) {
            let numbers = |of: fn(&Found) -> f64| found.iter().map(of).collect::<Vec<_>>();
            case.set("ln_e_relative", &numbers(|found| found.relative))?;
            case.set("ln_e_absolute", &numbers(|found| found.absolute))?;
            case.set("ln_e_pass", &numbers(|found| found.pass))?;
            let names =
                |of: fn(&Verdict) -> &'static str| found.iter().map(|found| of(&found.verdict)).collect::<Vec<_>>();
            case.set("verdict", &names(Verdict::name))?;
            case.set("reason", &names(Verdict::reason))?;
        }
        let text = serde_json::to_string_pretty(&self.document).context("writing JSON")?;
        Ok(text + "\n")
    }

    /// A table for each case, and its last verdict in words.
    pub(crate) fn text(&self) -> String {
        let cases = self.document.cases.iter().zip(&self.found).zip(1..);
        let parts = cases.map(|((case, found), number)| of_case(number, case, found));
        format!(
            "Evidence is ln E of all intervals up to here: that the canary is worse than stable (divided by φ), over the max, and \
             under the max (neither divided).\nThe verdict is the operator's: all three divided, and with its restarts.\n{}",
            parts.collect::<String>()
        )
    }
}

fn of_case(number: usize, case: &Case, found: &[Found]) -> String {
    let head = [
        "", "CANARY", "BAD", "STABLE", "BAD", "WORSE", "OVER", "UNDER", "VERDICT", "REASON",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let count = |count: u64| grouped(i64::try_from(count).unwrap_or(i64::MAX));
    rows.extend(
        case.intervals
            .iter()
            .zip(found)
            .zip(1..)
            .map(|(((canary, stable), found), at)| {
                vec![
                    format!("{at}"),
                    count(canary.requests),
                    count(canary.bad),
                    count(stable.requests),
                    count(stable.bad),
                    format!("{:.2}", found.relative),
                    format!("{:.2}", found.absolute),
                    format!("{:.2}", found.pass),
                    found.verdict.name().to_owned(),
                    found.verdict.reason().to_owned(),
                ]
            }),
    );
    let sides = [[Side::Right; 8].as_slice(), &[Side::Left; 2]].concat();
    let last = found.last().map_or_else(
        || "no interval, no verdict".to_owned(),
        |found| format!("{}: {}", found.verdict.name(), found.verdict),
    );
    format!(
        "\nCase {number}   max {} %   φ {}   ρ0 {}\n{}  {last}\n",
        case.max * 100.0,
        case.phi,
        case.ratio,
        table("  ", &sides, &rows)
    )
}
