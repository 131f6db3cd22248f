//! Whether the targets of a Rollout's series are scraped as often as the administrator says: two questions, and what is made of the answers.
//!
//! Pure. The first asks the Rollout's own counters how many samples they have in their best five minutes of an hour: few series, which share
//! their targets' scrapes. A counter has at most one sample a scrape, so that enough of them settle it. Too few prove nothing, for a counter
//! may come and go; then `up` of those targets alone is asked when it was written, which it is at every scrape, failed ones too.

use std::collections::BTreeMap;

use stepgate_crds::query::CountQuery;

use super::{any_of, in_string};

/// A window of the first question, seconds, and so many scrapes at least: with five a window's edges are no quarter of a scrape.
const WINDOW: u64 = 300;
const SCRAPES: f64 = 5.0;
/// So many of the targets that are scraped least are looked at.
const SUSPECTS: usize = 5;
/// Scraped more seldom than so many times of what is said is too seldom.
const TOLERANCE: f64 = 1.25;
/// Fewer gaps between two scrapes tell nothing.
const GAPS: usize = 4;

/// The labels of a target, by name.
pub type Target = BTreeMap<String, String>;

/// What a check asks.
#[derive(Debug, Clone, PartialEq)]
pub struct Scrapes {
    selector: String,
    targets: Vec<String>,
    /// As it is said, seconds.
    every: f64,
    /// Seconds.
    window: u64,
}

impl Scrapes {
    /// Of the targets of stable's requests, which are said to be scraped every so many seconds.
    pub fn of(parts: &CountQuery, every: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "as many seconds as an administrator writes"
        )]
        let scrapes = (every * SCRAPES).ceil() as u64;
        Self {
            selector: parts.stable_requests.clone(),
            targets: parts.targets.clone(),
            every,
            window: WINDOW.max(scrapes),
        }
    }

    /// The PromQL for those targets that are scraped least: the samples of each in its best window of twelve. A target has to be there now and
    /// two windows ago, so that one of the twelve lies within its life.
    pub fn least(&self) -> String {
        let Self { selector, window, .. } = self;
        let targets = self.targets.join(", ");
        format!(
            "bottomk({SUSPECTS}, max by ({targets}) (max_over_time(count_over_time({selector}[{window}s])[{}s:{window}s])) \
             and on ({targets}) ({selector} offset {}s) and on ({targets}) {selector})",
            12 * window,
            2 * window
        )
    }

    /// Those of them that may be scraped too seldom.
    pub fn suspects(&self, samples: Vec<(Target, f64)>) -> Vec<Target> {
        #[expect(clippy::cast_precision_loss, reason = "an hour of seconds or so")]
        let too_few = |samples: f64| self.window as f64 / samples > self.every * TOLERANCE;
        let few = samples.into_iter().filter(|(_, samples)| too_few(*samples));
        few.map(|(target, _)| target).collect()
    }

    /// The labels of a target among those of one of its series; none where one is missing.
    pub fn target(&self, labels: &Target) -> Option<Target> {
        let label = |name: &String| Some((name.clone(), labels.get(name)?.clone()));
        self.targets.iter().map(label).collect()
    }

    /// The PromQL for every sample of `up` of these targets in six windows (and maybe of a few others: each label is matched by itself).
    pub fn up(&self, suspects: &[Target]) -> String {
        let matchers = self.targets.iter().map(|name| {
            let mut values: Vec<String> = suspects.iter().filter_map(|target| target.get(name).cloned()).collect();
            values.sort();
            values.dedup();
            format!("{name}=~\"{}\"", in_string(&any_of(&values)))
        });
        let matchers: Vec<String> = matchers.collect();
        format!("up{{{}}}[{}s]", matchers.join(","), 6 * self.window)
    }

    /// The suspect that is scraped most seldom, and every how many seconds, where that is too seldom. `scrapes`: the labels of each series of
    /// `up` and the times of its samples, in order.
    ///
    /// By the median of the gaps between them: an outage is one long gap.
    pub fn too_seldom(&self, suspects: &[Target], scrapes: &[(Target, Vec<f64>)]) -> Option<(Target, f64)> {
        let mut found: BTreeMap<Target, f64> = BTreeMap::new();
        for (labels, times) in scrapes {
            let target = self.target(labels).filter(|target| suspects.contains(target));
            if let (Some(target), Some(gap)) = (target, median_gap(times)) {
                // Two that scrape one target each say how often they do.
                found
                    .entry(target)
                    .and_modify(|least| *least = least.min(gap))
                    .or_insert(gap);
            }
        }
        let seldom = found.into_iter().filter(|(_, gap)| *gap > self.every * TOLERANCE);
        seldom.max_by(|(_, one), (_, other)| one.total_cmp(other))
    }
}

/// The middle one of the gaps between these times; of an even number the smaller one.
fn median_gap(times: &[f64]) -> Option<f64> {
    let pairs = times.iter().zip(times.iter().skip(1));
    let mut gaps: Vec<f64> = pairs.map(|(earlier, later)| later - earlier).collect();
    if gaps.len() < GAPS {
        return None;
    }
    gaps.sort_by(f64::total_cmp);
    gaps.get((gaps.len() - 1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrapes(every: f64) -> Scrapes {
        let parts = CountQuery {
            canary_requests: "c".into(),
            canary_bad: "cb".into(),
            stable_requests: "s{a=\"b\"}".into(),
            stable_bad: "sb".into(),
            targets: vec!["job".into(), "instance".into()],
            within: false,
        };
        Scrapes::of(&parts, every)
    }

    fn target(instance: &str) -> Target {
        [("job", "envoy"), ("instance", instance)]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into()
    }

    fn every(seconds: i32, count: i32) -> Vec<f64> {
        (0..count).map(|index| f64::from(index * seconds)).collect()
    }

    #[test]
    fn a_quarter_more_than_what_is_said_is_allowed() {
        let suspects = |said: f64, samples: f64| scrapes(said).suspects(vec![(target("gw"), samples)]).len();
        assert_eq!(
            [suspects(15.0, 20.0), suspects(15.0, 16.0), suspects(15.0, 15.0)],
            [0, 0, 1]
        );
        assert_eq!(
            [suspects(60.0, 5.0), suspects(60.0, 4.0), suspects(60.0, 3.0)],
            [0, 0, 1]
        );
        // Five scrapes of two minutes are ten minutes: a window of five would hold two, or three.
        assert_eq!(
            [suspects(120.0, 5.0), suspects(120.0, 4.0), suspects(120.0, 3.0)],
            [0, 0, 1]
        );
    }

    #[test]
    fn an_outage_is_one_gap_and_few_scrapes_tell_nothing() {
        let seldom = |times: Vec<f64>| {
            let found = scrapes(15.0).too_seldom(&[target("gw")], &[(target("gw"), times)]);
            found.map(|(_, gap)| gap)
        };
        assert_eq!(seldom(every(60, 30)), Some(60.0));
        assert_eq!(seldom(every(60, 4)), None);
        let mut outage = every(15, 10);
        outage.extend(every(15, 10).into_iter().map(|time| time + 1_200.0));
        assert_eq!(seldom(outage), None);
    }

    #[test]
    fn the_most_seldom_scraped_suspect_is_named_and_others_are_not_looked_at() {
        let of = |instance: &str, seconds: i32| {
            let mut labels = target(instance);
            labels.insert("prometheus".into(), seconds.to_string());
            (labels, every(seconds, 20))
        };
        let series = [of("a", 30), of("b", 60), of("c", 300), of("twice", 90), of("twice", 15)];
        let suspects = [target("a"), target("b"), target("twice")];
        assert_eq!(scrapes(15.0).too_seldom(&suspects, &series), Some((target("b"), 60.0)));
        assert_eq!(scrapes(60.0).too_seldom(&suspects, &series), None);
    }

    #[test]
    fn up_is_asked_of_the_suspects_alone_and_their_names_are_escaped() {
        let suspects = [target("10.0.0.1:80"), target("a\"b")];
        assert_eq!(
            scrapes(15.0).up(&suspects),
            r#"up{job=~"(envoy)",instance=~"(10\\.0\\.0\\.1:80|a\"b)"}[1800s]"#
        );
    }
}
