//! What the verdict has to reach, and whether it did.

use crate::cells::{Cell, Tool};
use crate::outcome::{End, Summary};
use crate::report::{duration, percent};

/// One thing to reach.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// What, with its bound.
    pub(crate) what: String,
    /// What was found.
    pub(crate) found: String,
    /// Whether it is reached.
    pub(crate) met: bool,
}

/// All targets, checked.
pub(crate) fn check(cells: &[Cell]) -> Vec<Target> {
    let found = Found(cells);
    let (one, two, history) = (Tool::Stepgate(1.0), Tool::Stepgate(2.0), Tool::StepgateFromHistory);
    let mut targets = Vec::new();
    for (scenario, tool, most) in [
        ("healthy 0.1 %", one, 0.01),
        ("healthy 0.5 %", one, 0.01),
        ("healthy 0.1 %", two, 0.01),
        ("healthy 0.5 %", two, 0.01),
        ("clumps, 0.1 %", history, 0.025),
        ("clumps, 0.2 %", history, 0.025),
    ] {
        let what = format!("{scenario}, {}: rolled back at most {} %", phi(tool), percent(most));
        targets.push(found.at_most(&what, scenario, tool, most, |found| found.ended(End::RolledBack)));
    }
    for tool in [one, two] {
        let what = format!(
            "shared outage, {}: rolled back at weights under 100 % at most 0.5 %",
            phi(tool)
        );
        targets.push(found.at_most(&what, "shared outage", tool, 0.005, |found| {
            found.share(|outcome| outcome.end == End::RolledBack && outcome.weight < 100)
        }));
        let what = format!("metrics fail, {}: promoted 0 %", phi(tool));
        targets.push(found.at_most(&what, "metrics fail", tool, 0.0, |found| found.ended(End::Promoted)));
    }
    for (rate, seconds) in [(10.0, 900.0), (100.0, 150.0), (1000.0, 45.0)] {
        targets.push(found.at(
            &format!("0.1 → 1 % at {rate}/s, φ = 1: rolled back at least 99 %"),
            ("0.1 → 1 %", rate, one),
            |found| Some(found.ended(End::RolledBack)),
            |share| share >= 0.99,
            |share| format!("{} %", percent(share.unwrap_or(0.0))),
        ));
        targets.push(found.median("0.1 → 1 %", rate, End::RolledBack, seconds));
    }
    targets.push(found.at(
        "0.1 → 5 % at 100 % only, 100/s, φ = 1: in at most 2 intervals",
        ("0.1 → 5 % at 100 % only", 100.0, one),
        |found| {
            Some(
                found
                    .share(|outcome| outcome.end == End::RolledBack && outcome.weight == 100 && outcome.intervals <= 2),
            )
        },
        |share| share >= 0.99,
        |share| format!("{} % of the rollouts", percent(share.unwrap_or(0.0))),
    ));
    for (rate, seconds) in [(10.0, 900.0), (100.0, 360.0)] {
        targets.push(found.median("healthy 0.1 %", rate, End::Promoted, seconds));
    }
    targets
}

struct Found<'a>(&'a [Cell]);

impl Found<'_> {
    fn cells(&self, scenario: &str, tool: Tool) -> impl Iterator<Item = &Cell> {
        let fits = move |cell: &&Cell| cell.scenario.name == scenario && cell.tool == tool && cell.found.runs() > 0;
        self.0.iter().filter(fits)
    }

    /// A share that has to be small at every rate.
    fn at_most(&self, what: &str, scenario: &str, tool: Tool, most: f64, of: impl Fn(&Summary) -> f64) -> Target {
        let shares: Vec<f64> = self.cells(scenario, tool).map(|cell| of(&cell.found)).collect();
        let texts: Vec<String> = shares.iter().map(|share| percent(*share)).collect();
        Target {
            what: what.to_owned(),
            found: format!("{} %", texts.join(" / ")),
            met: !shares.is_empty() && shares.iter().all(|share| *share <= most),
        }
    }

    /// A median that has to be short at one rate, with φ = 1.
    fn median(&self, scenario: &str, rate: f64, end: End, most: f64) -> Target {
        let word = if end == End::Promoted { "promotion" } else { "rollback" };
        self.at(
            &format!(
                "{scenario} at {rate}/s, φ = 1: median to {word} at most {}",
                duration(Some(most))
            ),
            (scenario, rate, Tool::Stepgate(1.0)),
            |found| found.median_seconds(end),
            |seconds| seconds <= most,
            duration,
        )
    }

    fn at(
        &self,
        what: &str,
        (scenario, rate, tool): (&str, f64, Tool),
        of: impl Fn(&Summary) -> Option<f64>,
        meets: impl Fn(f64) -> bool,
        text: impl Fn(Option<f64>) -> String,
    ) -> Target {
        #[expect(clippy::float_cmp, reason = "one of the rates as they stand in a list")]
        let cell = self.cells(scenario, tool).find(|cell| cell.rate == rate);
        let value = cell.and_then(|cell| of(&cell.found));
        Target {
            what: what.to_owned(),
            found: text(value),
            met: value.is_some_and(meets),
        }
    }
}

fn phi(tool: Tool) -> String {
    match tool {
        Tool::Stepgate(phi) => format!("φ = {phi}"),
        Tool::StepgateFromHistory => "φ from history".to_owned(),
        Tool::Flagger | Tool::Argo => tool.name(),
    }
}
