//! The live timeline: one line for each look at a run, and the operator's message below it whenever it says something new.
//!
//! Pure: takes the status and what clients saw, gives lines of at most `WIDTH` characters. It repeats a line that says nothing new
//! only when it is asked to.

use std::time::Duration;

use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{MetricReport, Phase};

use super::figures::{clock, errors, grouped, percent};
use crate::load::Answers;

/// The widest line, in characters.
pub const WIDTH: usize = 140;
/// Where messages begin.
const MARGIN: &str = "       │ ";
/// What the columns of weights are, for the first time they are shown.
pub const LEGEND: &str = "  Weights: want is what the operator means to have, set what every parent gateway accepted, seen what clients \
    got in the last 3 s,\n  gauged what the operator measured through Prometheus. Evidence is a logarithm; at its threshold it decides.";

/// What clients saw of a run's two versions since the new one was shipped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clients {
    /// Answers of the version that served before.
    pub stable: Answers,
    /// Answers of the new one.
    pub canary: Answers,
    /// The new one's share of the answers of the last seconds, in percent.
    pub share: Option<f64>,
}

/// The timeline of one run.
#[derive(Debug)]
pub struct Timeline {
    stable: String,
    canary: String,
    shown: Option<RolloutStatus>,
}

impl Timeline {
    /// A timeline of `canary` beside `stable`.
    pub fn new(stable: &str, canary: &str) -> Self {
        Self {
            stable: stable.to_owned(),
            canary: canary.to_owned(),
            shown: None,
        }
    }

    /// The two lines above the columns.
    pub fn heading(&self) -> [String; 2] {
        let (stable, canary) = (&self.stable, &self.canary);
        let above = [
            &format!("weight of {canary} in percent"),
            &format!("{stable} at clients"),
            &format!("{canary} at clients"),
            "evidence and its threshold",
        ];
        let [weight, stable, canary, evidence] = above;
        let columns = columns([
            "time",
            "phase",
            "step",
            "want",
            "set",
            "seen",
            "gauged",
            "requests",
            "errors",
            "requests",
            "errors",
            "against it",
            "for it",
            "verdict",
        ]);
        let groups = format!("{:26}{weight:^24}   {stable:^16}   {canary:^16}   {evidence:^27}", "");
        [groups.trim_end().to_owned(), columns]
    }

    /// The lines for one look: none where nothing that matters has changed, unless a line is `due` anyhow.
    pub fn look(&mut self, at: Duration, status: &RolloutStatus, clients: Clients, due: bool) -> Vec<String> {
        let before = self.shown.as_ref();
        let said = before.and_then(|before| before.message.clone());
        let mut lines = Vec::new();
        if due || before.is_none_or(|before| key(before) != key(status)) {
            lines.push(row(at, status, clients));
        }
        if status.message != said
            && let Some(message) = &status.message
        {
            lines.extend(wrapped(MARGIN, message, 0));
        }
        self.shown = Some(status.clone());
        lines
    }
}

/// What a person wants to hear of at once.
fn key(status: &RolloutStatus) -> (Option<Phase>, Option<i32>, Option<i32>, Option<&str>) {
    let run = status.run.as_ref();
    (
        status.phase,
        run.map(|run| run.weight),
        run.map(|run| run.accepted_weight),
        status.verdict.as_deref(),
    )
}

fn row(at: Duration, status: &RolloutStatus, clients: Clients) -> String {
    let run = status.run.as_ref();
    // On the way out the last figures of the last step still stand there.
    let judged = !matches!(status.phase, Some(Phase::Draining | Phase::Returning));
    let metric = run.and_then(|run| run.metrics.first()).filter(|_| judged);
    let whole = |weight: Option<i32>| weight.map_or_else(|| "–".to_owned(), |weight| weight.to_string());
    let one_digit = |share: Option<f64>| share.map_or_else(|| "–".to_owned(), |share| format!("{share:.1}"));
    let rate = |answers| {
        percent(errors(answers), answers.total).map_or_else(|| "–".to_owned(), |percent| format!("{percent:.2} %"))
    };
    let evidence = |of: fn(&MetricReport) -> (f64, f64)| {
        metric.map_or_else(String::new, |metric| {
            let (value, threshold) = of(metric);
            format!("{value:.1} of {threshold:.1}")
        })
    };
    columns([
        &clock(at),
        status.phase.map_or("–", Phase::as_str),
        status.step.as_deref().unwrap_or("–"),
        &whole(run.map(|run| run.weight)),
        &whole(run.map(|run| run.accepted_weight)),
        &one_digit(clients.share),
        &one_digit(metric.and_then(|metric| metric.measured_weight)),
        &grouped(clients.stable.total),
        &rate(clients.stable),
        &grouped(clients.canary.total),
        &rate(clients.canary),
        &evidence(|metric| (metric.fail_evidence, metric.fail_threshold)),
        &evidence(|metric| (metric.pass_evidence, metric.pass_threshold)),
        status.verdict.as_deref().unwrap_or("–"),
    ])
}

fn columns(cells: [&str; 14]) -> String {
    let [time, phase, step, want, set, seen, gauged, .., verdict] = cells;
    let [.., stable, stable_errors, canary, canary_errors, against, good, _] = cells;
    format!(
        "{time:>6}   {phase:11} {step:4} {want:>4} {set:>5} {seen:>6} {gauged:>6}   {stable:>9} {stable_errors:>6}   \
         {canary:>9} {canary_errors:>6}   {against:>12}   {good:>12}   {verdict}"
    )
}

/// A text in lines that fit the width, the second and later ones indented by so many characters more.
pub fn wrapped(margin: &str, text: &str, more: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // A number is not parted from its unit.
    for word in text.replace(" %", "\u{a0}%").split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("{margin}{:more$}{word}", "")),
            None => lines.push(format!("{margin}{word}")),
        }
    }
    lines
        .iter()
        .map(|line| line.replace('\u{a0}', " ").trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(phase: Phase, message: &str) -> RolloutStatus {
        RolloutStatus {
            phase: Some(phase),
            message: Some(message.to_owned()),
            ..RolloutStatus::default()
        }
    }

    fn clients() -> Clients {
        let answers = |total, injected| Answers {
            total,
            injected,
            ..Answers::default()
        };
        Clients {
            stable: answers(1_234_567, 1_235),
            canary: answers(12_345, 617),
            share: Some(9.97),
        }
    }

    #[test]
    fn a_line_comes_on_change_or_when_it_is_due_and_a_message_only_once() {
        let mut timeline = Timeline::new("v1", "v2");
        let second = Duration::from_secs(1);
        let mut count = |phase, message, due| timeline.look(second, &status(phase, message), clients(), due).len();
        assert_eq!(count(Phase::Stepping, "here", false), 2);
        assert_eq!(count(Phase::Stepping, "here", false), 0);
        assert_eq!(count(Phase::Stepping, "here", true), 1);
        assert_eq!(count(Phase::Stepping, "there", false), 1);
        assert_eq!(count(Phase::Promoting, "there", false), 1);
    }

    #[test]
    fn lines_stand_under_their_heading_and_fit_the_width() {
        let mut timeline = Timeline::new("v1", "v2");
        let [_, heading] = timeline.heading();
        let status = RolloutStatus {
            verdict: Some("InsufficientTraffic".to_owned()),
            ..status(Phase::RollingBack, &"many words ".repeat(40))
        };
        let lines = timeline.look(Duration::from_mins(10), &status, clients(), true);
        let place = |line: &str, word: &str| line.find(word).map(|at| line.get(..at).unwrap_or("").chars().count());
        let row = lines.first().unwrap();
        assert_eq!(
            place(row, "InsufficientTraffic"),
            place(&heading, "verdict"),
            "{heading}\n{row}"
        );
        for line in &lines {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
    }
}
