//! Every constant of a rollout's life in one place: the operator's flags set them, tests scale them.

use stepgate_crds::units::Span;

/// The constants of a rollout's life. `Default` has the values that the documentation states.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The bake of a step that does not say its own.
    pub bake: Span,
    /// How long after acceptance a weight is in force, where the Rollout does not say.
    pub settle: Span,
    /// How long canary pods stay after weight 0 was accepted, where the Rollout does not say.
    pub drain: Span,
    /// How long after the canary grew its latency does not count: caches are cold.
    pub warm_up: Span,
    /// The length of an interval of the counts, where the Rollout does not say.
    pub interval: Span,
    /// How long a run waits for pods or a gateway, where the Rollout does not say.
    pub progress_deadline: Span,
    /// How often the metrics source scrapes.
    pub scrape: Span,
    /// How long after the end of an interval its counts are complete, beside `scrape`.
    pub lag: Span,
    /// The least time between two refreshes of a status in which nothing but numbers changed.
    pub refresh: Span,
    /// So much later the numbers may be written where nobody looks before: the next counts take them along.
    pub refresh_slack: Span,
    /// The least time between two writes that only change the reason for waiting.
    pub calm: Span,
    /// How long until the world is looked at again for something that no watch reports.
    pub mend: Span,
    /// How many intervals, after weight 0 and `drain`, may still show requests to the canary before its pods go all the same.
    pub quiet_intervals: u32,
    /// How many ended runs the history keeps.
    pub history: usize,
    /// How long stable may be without a ready endpoint before a version whose pods are ready is let roll natively.
    pub bare: Span,
    /// How long a way back goes by capacity; after that all of the traffic goes.
    pub by_capacity: Span,
    /// How long a silent canary has no traffic before it is tried again.
    pub silence: Span,
    /// So many intervals stable has to be well after a fault of both before the run goes on.
    pub well_intervals: u32,
    /// After so many losses of all canary pods the run has failed, and after so many retreats a person decides.
    pub patience: i32,
    /// How long weights that somebody took toward stable are obeyed, by how often it happened; after that a person decides.
    pub brake: [Span; 3],
    /// For how long such a change is remembered.
    pub brake_memory: Span,
    /// How long a step waits for a verdict before `onInconclusive` acts, where that does not say.
    pub inconclusive: Span,
    /// How long there have to be no data before `onNoData` acts, where that does not say.
    pub no_data: Span,
    /// So many canary requests of a step it takes before `onInconclusive: Advance` goes on without a verdict.
    pub advance_requests: u64,
    /// How often in an hour a template may be put into the user's Deployment.
    pub mends: usize,
    /// How long a run whose pods are ready waits for stable's history.
    pub baseline: Span,
    /// The dispersion that evidence is divided by where stable's history does not tell it.
    pub phi: f64,
    /// The tolerated share of bad requests, where the Rollout does not say.
    pub max_error_rate: f64,
    /// The weights of the steps, where the Rollout does not say.
    pub ladder: Vec<i32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bake: Span::seconds(60),
            settle: Span::seconds(5),
            drain: Span::seconds(30),
            warm_up: Span::seconds(60),
            interval: Span::seconds(30),
            progress_deadline: Span::seconds(600),
            scrape: Span::seconds(15),
            lag: Span::seconds(2),
            refresh: Span::seconds(60),
            refresh_slack: Span::seconds(0),
            calm: Span::seconds(2),
            mend: Span::seconds(5),
            quiet_intervals: 4,
            history: 10,
            bare: Span::seconds(120),
            by_capacity: Span::seconds(120),
            silence: Span::seconds(300),
            well_intervals: 10,
            patience: 3,
            brake: [Span::seconds(1), Span::seconds(10), Span::seconds(60)],
            inconclusive: Span::seconds(1_800),
            no_data: Span::seconds(600),
            advance_requests: 50,
            brake_memory: Span::seconds(600),
            mends: 3,
            baseline: Span::seconds(15),
            phi: 2.0,
            max_error_rate: 0.01,
            ladder: vec![10, 30, 50, 100],
        }
    }
}

impl Limits {
    /// How long after its end an interval's counts can be read.
    pub fn readable_after(&self) -> Span {
        Span::millis(u64::try_from(self.scrape.as_millis() + self.lag.as_millis()).unwrap_or(0))
    }
}
