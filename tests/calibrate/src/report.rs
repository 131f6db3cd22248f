//! What was found, as Markdown: for people, and for docs/analysis.md.

use crate::cells::{Cell, RATES, Tool};
use crate::outcome::{End, Summary};
use crate::targets::Target;
use crate::traffic::{Course, Scenario};

/// The tables of all cells, and whether the targets were met.
pub(crate) fn markdown(cells: &[Cell], targets: &[Target], seed: u64) -> String {
    let runs = |healthy: bool| {
        cells
            .iter()
            .find(|cell| cell.scenario.healthy == healthy)
            .map_or(0, |cell| cell.runs)
    };
    let mut text = format!(
        "Simulated: intervals of 15 s, scrapes every 5 s, bake 60 s, steps 10/30/50/100 %, errors and slow requests judged, max 1 %, at most 4 h; \
         {} rollouts a cell ({} of bad versions), seed {seed}.\n\
         Each entry is for {} requests/s.\n",
        grouped(runs(true)),
        grouped(runs(false)),
        RATES.map(|rate| format!("{rate}")).join(" / "),
    );
    text += "\n**Versions that are no worse than stable**\n\n\
             | scenario | who decides | rolled back, % | promoted, % | retreats a rollout | median to promotion |\n|---|---|---|---|---|---|\n";
    for (scenario, tool, found) in rows(cells, |scenario| scenario.healthy) {
        add(
            &mut text,
            &[
                scenario.name.to_owned(),
                tool.name(),
                by_rate(&found, |found| percent(found.ended(End::RolledBack))),
                by_rate(&found, |found| percent(found.ended(End::Promoted))),
                by_rate(&found, |found| number(found.mean_retreats())),
                by_rate(&found, |found| duration(found.median_seconds(End::Promoted))),
            ],
        );
    }
    text += "\n**Versions that are worse**\n\n\
             | scenario | who decides | missed, % | rolled back, % | median to rollback | bad requests served, median |\n|---|---|---|---|---|---|\n";
    for (scenario, tool, found) in rows(cells, |scenario| {
        !scenario.healthy && scenario.course != Course::SourceFails
    }) {
        add(
            &mut text,
            &[
                scenario.name.to_owned(),
                tool.name(),
                by_rate(&found, |found| percent(found.ended(End::Promoted))),
                by_rate(&found, |found| percent(found.ended(End::RolledBack))),
                by_rate(&found, |found| duration(found.median_seconds(End::RolledBack))),
                by_rate(&found, |found| {
                    let bad = found.median_bad(End::RolledBack);
                    bad.map_or_else(|| "–".to_owned(), |bad| format!("{bad:.0}"))
                }),
            ],
        );
    }
    text += "\n**The metrics cannot be read any more from some moment before 100 % on**\n\n\
             | who decides | promoted without data, % | rolled back without data, % | held, % |\n|---|---|---|---|\n";
    for (_, tool, found) in rows(cells, |scenario| scenario.course == Course::SourceFails) {
        add(
            &mut text,
            &[
                tool.name(),
                by_rate(&found, |found| percent(found.ended(End::Promoted))),
                by_rate(&found, |found| percent(found.ended(End::RolledBack))),
                by_rate(&found, |found| {
                    percent(found.ended(End::Undecided) + found.ended(End::Person))
                }),
            ],
        );
    }
    text += "\n**Targets**\n\n| target | found | met |\n|---|---|---|\n";
    for target in targets {
        let met = if target.met { "yes" } else { "**no**" };
        add(&mut text, &[target.what.clone(), target.found.clone(), met.to_owned()]);
    }
    text
}

/// Each scenario under each tool, at all rates.
fn rows(cells: &[Cell], wanted: impl Fn(&Scenario) -> bool) -> Vec<(&Scenario, Tool, Vec<&Summary>)> {
    let mut rows: Vec<(&Scenario, Tool, Vec<&Summary>)> = Vec::new();
    for cell in cells.iter().filter(|cell| wanted(cell.scenario)) {
        match rows.last_mut() {
            Some((scenario, tool, found)) if *scenario == cell.scenario && *tool == cell.tool => {
                found.push(&cell.found);
            }
            _ => rows.push((cell.scenario, cell.tool, vec![&cell.found])),
        }
    }
    rows
}

fn add(text: &mut String, cells: &[String]) {
    *text += "| ";
    *text += &cells.join(" | ");
    *text += " |\n";
}

fn by_rate(found: &[&Summary], of: impl Fn(&Summary) -> String) -> String {
    let entries: Vec<String> = found.iter().map(|found| of(found)).collect();
    match entries.as_slice() {
        [first, rest @ ..] if rest.iter().all(|other| other == first) => format!("{first} each"),
        _ => entries.join(" / "),
    }
}

/// A share in per cent, with as many digits as it is worth.
pub(crate) fn percent(share: f64) -> String {
    let value = 100.0 * share;
    match value {
        0.0 => "0".to_owned(),
        _ if value < 10.0 => format!("{value:.2}"),
        _ if value < 99.95 => format!("{value:.1}"),
        _ if value < 100.0 => format!("{value:.2}"),
        _ => "100".to_owned(),
    }
}

/// Seconds as a person reads them.
pub(crate) fn duration(seconds: Option<f64>) -> String {
    match seconds {
        None => "–".to_owned(),
        Some(seconds) if seconds < 90.0 => format!("{seconds:.0} s"),
        Some(seconds) if seconds < 600.0 => format!("{:.1} min", seconds / 60.0),
        Some(seconds) => format!("{:.0} min", seconds / 60.0),
    }
}

fn number(value: f64) -> String {
    if value == 0.0 {
        "0".to_owned()
    } else {
        format!("{value:.2}")
    }
}

fn grouped(number: u64) -> String {
    if number < 1_000 {
        number.to_string()
    } else {
        format!("{},{:03}", number / 1_000, number % 1_000)
    }
}
