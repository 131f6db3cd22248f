//! The picture for docs/analysis.md: how a regression is caught, by rate and tool.
//!
//! A plain SVG, written by hand of this program: two panels, one line a tool, every point with its number. Readable on a light and on a
//! dark page.

use crate::cells::{Cell, RATES, Tool};
use crate::outcome::{End, Summary};
use crate::report::{duration, percent};

/// What the picture shows.
const SCENARIOS: [&str; 2] = ["0.1 → 1 %", "0.1 → 2 %"];
/// Tools with colour, and how far their numbers stand below their points.
const TOOLS: [(Tool, &str, f64); 3] = [
    (Tool::Stepgate(1.0), "#1a7f64", -10.0),
    (Tool::Flagger, "#b3541e", 20.0),
    (Tool::Argo, "#6a5acd", -10.0),
];
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 64.0;
const GAP: f64 = 76.0;

/// The picture of all cells.
pub(crate) fn svg(cells: &[Cell]) -> String {
    let (wide, high) = (LEFT + 2.0 * WIDTH + GAP + 24.0, TOP + HEIGHT + 96.0);
    let mut text = vec![format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {wide:.0} {high:.0}\" width=\"{wide:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    )];
    let [barely, clearly] = SCENARIOS;
    text.push(panel(
        LEFT,
        &format!("Errors {barely}: rollouts that are taken back"),
        &[0.0, 0.25, 0.5, 0.75, 1.0].map(|share| (share, format!("{} %", 100.0 * share))),
        &lines(cells, barely, false, |found| Some(found.ended(End::RolledBack))),
        |share| format!("{} %", percent(share)),
    ));
    let minutes = [15.0, 60.0, 240.0, 900.0, 3_600.0, 14_400.0];
    text.push(panel(
        LEFT + WIDTH + GAP,
        &format!("Errors {clearly}: median time until then"),
        &minutes.map(|seconds: f64| (seconds.ln(), duration(Some(seconds)))),
        &lines(cells, clearly, true, |found| {
            // A median of a few lucky ones says nothing of a tool.
            let often = found.ended(End::RolledBack) >= 0.5;
            found.median_seconds(End::RolledBack).filter(|_| often).map(f64::ln)
        }),
        |value| duration(Some(value.exp())),
    ));
    for ((tool, colour, _), at) in TOOLS.iter().zip(0_u8..) {
        let x = LEFT + 250.0 * f64::from(at);
        let y = TOP + HEIGHT + 74.0;
        text.push(format!(
            "<circle cx=\"{x:.0}\" cy=\"{:.0}\" r=\"5\" fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{y:.0}\" fill=\"#222222\">{}</text>\n",
            y - 4.0,
            x + 12.0,
            tool.name()
        ));
    }
    text.concat() + "</svg>\n"
}

/// One tool's value at each rate; none where there is none.
struct Line {
    colour: &'static str,
    below: f64,
    values: [Option<f64>; 4],
}

/// Where the lower line is the better one, numbers stand on the other side of their points.
fn lines(cells: &[Cell], scenario: &str, turned: bool, of: impl Fn(&Summary) -> Option<f64>) -> Vec<Line> {
    let line = |(tool, colour, below): &(Tool, &'static str, f64)| {
        #[expect(clippy::float_cmp, reason = "one of the rates as they stand in a list")]
        let values = RATES.map(|rate| {
            let cell = cells
                .iter()
                .find(|cell| cell.scenario.name == scenario && cell.tool == *tool && cell.rate == rate)?;
            of(&cell.found)
        });
        Line {
            colour,
            below: if turned { 10.0 - below } else { *below },
            values,
        }
    };
    TOOLS.iter().map(line).collect()
}

fn panel(left: f64, title: &str, marks: &[(f64, String)], lines: &[Line], number: impl Fn(f64) -> String) -> String {
    let (low, high) = match marks {
        [first, .., last] => (first.0, last.0),
        _ => (0.0, 1.0),
    };
    let y = |value: f64| TOP + HEIGHT * (1.0 - ((value - low) / (high - low)).clamp(0.0, 1.0));
    let x = |at: u8| left + WIDTH * (0.08 + 0.28 * f64::from(at));
    let mut text = vec![format!(
        "<text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\" fill=\"#222222\">{title}</text>\n",
        TOP - 28.0
    )];
    for (value, label) in marks {
        let y = y(*value);
        text.push(format!(
            "<line x1=\"{left:.0}\" y1=\"{y:.1}\" x2=\"{:.0}\" y2=\"{y:.1}\" stroke=\"#dddddd\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555555\">{label}</text>\n",
            left + WIDTH,
            left - 8.0,
            y + 4.0
        ));
    }
    for (rate, at) in RATES.iter().zip(0..) {
        text.push(format!(
            "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#555555\">{rate}/s</text>\n",
            x(at),
            TOP + HEIGHT + 40.0
        ));
    }
    for line in lines {
        let points: Vec<(f64, f64, f64)> = line
            .values
            .iter()
            .zip(0..)
            .filter_map(|(value, at)| value.map(|value| (x(at), y(value), value)))
            .collect();
        let path: Vec<String> = points.iter().map(|(x, y, _)| format!("{x:.1},{y:.1}")).collect();
        text.push(format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>\n",
            path.join(" "),
            line.colour
        ));
        for (x, y, value) in points {
            text.push(format!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{0}\"/><text x=\"{x:.1}\" y=\"{1:.1}\" text-anchor=\"middle\" font-size=\"11\" fill=\"{0}\">{2}</text>\n",
                line.colour,
                y + line.below,
                number(value)
            ));
        }
    }
    text.concat()
}
