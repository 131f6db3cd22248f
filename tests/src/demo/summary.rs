//! The end of the demo: what each version's run was, what clients got, and whether all of it was as it has to be.
//!
//! Pure. The demo has succeeded only if `Told::complaints` is empty.

use std::time::Duration;

use stepgate_crds::status::{Outcome, Phase};

use super::figures::{errors, grouped, percent};
use super::ledger::Ledger;
use super::timeline::wrapped;
use crate::load::Report;

/// The share of requests that the bad version fails.
pub const BAD_SHARE: f64 = 0.05;

/// Everything that was seen.
#[derive(Debug)]
pub struct Told {
    /// The run of v2, the good version.
    pub good: Ledger,
    /// The run of v3, the bad one.
    pub bad: Ledger,
    /// Whether the route's spec was what the user wrote after each of them.
    pub route_at_rest: [bool; 2],
    /// Answers of v3 in the last seconds, some seconds after it was taken back.
    pub bad_afterwards: u64,
    /// All that clients saw.
    pub clients: Report,
    /// The length of an interval of the analysis.
    pub interval: Duration,
}

impl Told {
    /// What is not as it has to be, in sentences.
    pub fn complaints(&self) -> Vec<String> {
        let good = self.good.ended == Some((Outcome::Promoted, Some(Phase::Healthy)));
        let bad = self.bad.ended == Some((Outcome::Failed, Some(Phase::Failed)));
        let others = self.clients.other_failures();
        let complaint = |holds: bool, text: String| (!holds).then_some(text);
        [
            complaint(good, format!("v2 was not promoted, but: {:?}", self.good.ended)),
            complaint(bad, format!("v3 did not fail, but: {:?}", self.bad.ended)),
            complaint(
                self.bad.accepted == 0,
                format!("v3 still has an accepted weight of {} %", self.bad.accepted),
            ),
            complaint(
                self.bad_afterwards == 0,
                format!("v3 still gave {} answers after it was taken back", self.bad_afterwards),
            ),
            complaint(
                self.route_at_rest == [true, true],
                "the route at rest is not what the user wrote".to_owned(),
            ),
            complaint(
                others == 0,
                format!("{others} requests failed for another reason than a version's own errors"),
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The summary's lines.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = run_lines("v2, the good version (0.1 % errors, as v1)", "v2", &self.good);
        lines.push(String::new());
        lines.extend(run_lines("v3, the bad version (5 % errors)", "v3", &self.bad));
        lines.extend(self.exposure());
        lines.push(String::new());
        lines.extend(self.what_clients_saw());
        lines
    }

    fn exposure(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(exposed) = self.bad.exposed() {
            lines.push(format!(
                "  from {} % in force to weight 0 accepted: {:.1} s, which is {:.1} intervals of {} s",
                self.bad.highest,
                exposed.as_secs_f64(),
                exposed.as_secs_f64() / self.interval.as_secs_f64(),
                self.interval.as_secs()
            ));
        }
        if let Some(cause) = &self.bad.cause {
            lines.extend(wrapped("  ", &format!("why: {}: {}", cause.reason, cause.detail), 5));
        }
        lines
    }

    fn what_clients_saw(&self) -> Vec<String> {
        let clients = &self.clients;
        let mut lines = vec![format!(
            "What clients saw: {} requests in {} s",
            grouped(clients.requests),
            clients.seconds.len()
        )];
        for (version, answers) in &clients.versions {
            let name = if version.is_empty() { "no version" } else { version };
            let share = percent(errors(*answers), answers.total).unwrap_or_default();
            lines.push(format!(
                "  {name:10} {:>9} answers {:>6} of its own errors ({share:.2} %)",
                grouped(answers.total),
                grouped(answers.injected),
            ));
        }
        lines.push(format!(
            "  failures for any other reason: {} (no connection, timeouts, the gateway's own 502, 503, 504 …)",
            clients.other_failures()
        ));
        for (kind, number) in &clients.failures {
            lines.push(format!("    {kind}: {number}"));
        }
        for failure in clients.samples.iter().take(5) {
            let after = failure.after.as_secs_f64();
            lines.push(format!(
                "    e.g. at second {after:.1} of the load: {}: {}",
                failure.kind, failure.detail
            ));
        }
        let (requests, seconds) = self.while_bad_served();
        let caused = clients.version("v3").injected;
        #[expect(clippy::cast_precision_loss, reason = "some thousands of requests")]
        let everywhere = requests as f64 * BAD_SHARE;
        lines.push(format!(
            "  v3 failed {} requests in the {seconds} s it was served; at 100 % it would have failed {everywhere:.0} of {} in the same time{}",
            grouped(caused),
            grouped(requests),
            times(everywhere, caused)
        ));
        lines
    }

    /// Requests of all versions in the seconds from v3's first answer to its last, and how many seconds those are.
    fn while_bad_served(&self) -> (u64, usize) {
        let seconds = &self.clients.seconds;
        let served = |second: &&crate::load::Second| second.versions.contains_key("v3");
        let skipped = seconds.iter().take_while(|second| !served(second)).count();
        let length = seconds
            .iter()
            .rposition(|second| served(&second))
            .map_or(0, |last| last + 1 - skipped);
        let span = seconds.iter().skip(skipped).take(length);
        let requests = span
            .flat_map(|second| second.versions.values())
            .map(|answers| answers.total);
        (requests.sum(), length)
    }
}

fn times(everywhere: f64, caused: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "some dozens of errors")]
    match caused {
        0 => String::new(),
        _ => format!(": {:.0} times as many", everywhere / caused as f64),
    }
}

fn run_lines(title: &str, version: &str, ledger: &Ledger) -> Vec<String> {
    let outcome = ledger.ended.map_or("no end seen", |(outcome, _)| outcome.as_str());
    let mut lines = vec![
        format!("{title}: {outcome} after {:.0} s", ledger.took().as_secs_f64()),
        format!(
            "  {:12} {:>7}   {:>11}   {:>6}",
            "stage",
            "took",
            format!("{version} answers"),
            "errors"
        ),
    ];
    lines.extend(ledger.stages.iter().map(|stage| {
        format!(
            "  {:12} {:>5.1} s   {:>11}   {:>6}",
            stage.name,
            stage.end.saturating_sub(stage.begin).as_secs_f64(),
            grouped(stage.canary.total),
            grouped(errors(stage.canary))
        )
    }));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{Answers, Second};

    fn answers(total: u64, injected: u64) -> Answers {
        Answers {
            total,
            injected,
            ..Answers::default()
        }
    }

    fn told() -> Told {
        let second = |parts: &[(&str, u64)]| Second {
            versions: parts
                .iter()
                .map(|(name, total)| ((*name).to_owned(), answers(*total, 0)))
                .collect(),
            failures: 0,
        };
        let clients = Report {
            requests: 1_200,
            versions: [("v2".to_owned(), answers(1_140, 1)), ("v3".to_owned(), answers(60, 3))].into(),
            seconds: vec![
                second(&[("v2", 300)]),
                second(&[("v2", 270), ("v3", 30)]),
                second(&[("v2", 270), ("v3", 30)]),
                second(&[("v2", 300)]),
            ],
            ..Report::default()
        };
        let ended = |outcome, phase| Ledger {
            ended: Some((outcome, Some(phase))),
            ..Ledger::default()
        };
        Told {
            good: ended(Outcome::Promoted, Phase::Healthy),
            bad: ended(Outcome::Failed, Phase::Failed),
            route_at_rest: [true, true],
            bad_afterwards: 0,
            clients,
            interval: Duration::from_secs(5),
        }
    }

    #[test]
    fn a_whole_demo_has_no_complaint() {
        assert_eq!(told().complaints(), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_went_wrong_is_a_complaint() {
        let mut told = told();
        told.bad.ended = told.good.ended;
        told.route_at_rest = [true, false];
        told.clients.failures.insert("HTTP 503".to_owned(), 2);
        let complaints = told.complaints().join("\n");
        assert_eq!(complaints.lines().count(), 3, "{complaints}");
        assert!(complaints.contains("2 requests failed"), "{complaints}");
    }

    #[test]
    fn the_comparison_counts_the_requests_of_the_seconds_the_bad_version_served() {
        let told = told();
        assert_eq!(told.while_bad_served(), (600, 2));
        let lines = told.lines().join("\n");
        assert!(
            lines.contains("v3 failed 3 requests in the 2 s it was served; at 100 % it would have failed 30 of 600 in the same time: 10 times"),
            "{lines}"
        );
    }
}
