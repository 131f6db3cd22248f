//! How a simulated rollout ended, and many of them together.

pub(crate) use stepgate_core::rehearsal::End;

/// One rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// How it ended.
    pub(crate) end: End,
    /// Seconds from its first traffic to its end; for what breaks at full weight, from there.
    pub(crate) seconds: i64,
    /// Bad requests that the new version served until then.
    pub(crate) bad: u64,
    /// How often all traffic went back to stable without a verdict against the version.
    pub(crate) retreats: u32,
    /// The weight that it ended at, in per cent.
    pub(crate) weight: u32,
    /// Where it was rolled back: whole intervals at that weight that were counted until then.
    pub(crate) intervals: u64,
}

/// Many rollouts of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    outcomes: Vec<Outcome>,
}

impl Summary {
    /// Adds some more.
    pub(crate) fn extend(&mut self, outcomes: Vec<Outcome>) {
        self.outcomes.extend(outcomes);
    }

    /// How many there are.
    pub(crate) fn runs(&self) -> usize {
        self.outcomes.len()
    }

    /// The share of them that fit.
    pub(crate) fn share(&self, fits: impl Fn(&Outcome) -> bool) -> f64 {
        let number = self.outcomes.iter().filter(|outcome| fits(outcome)).count();
        number as f64 / self.outcomes.len().max(1) as f64
    }

    /// The share that ended so.
    pub(crate) fn ended(&self, end: End) -> f64 {
        self.share(|outcome| outcome.end == end)
    }

    /// The median time to such an end in seconds; none where there was none.
    pub(crate) fn median_seconds(&self, end: End) -> Option<f64> {
        let ended = self.outcomes.iter().filter(|outcome| outcome.end == end);
        median(ended.map(|outcome| outcome.seconds as f64).collect())
    }

    /// The median number of bad requests served until such an end.
    pub(crate) fn median_bad(&self, end: End) -> Option<f64> {
        let ended = self.outcomes.iter().filter(|outcome| outcome.end == end);
        median(ended.map(|outcome| outcome.bad as f64).collect())
    }

    /// Retreats a rollout, on average.
    pub(crate) fn mean_retreats(&self) -> f64 {
        let retreats: u32 = self.outcomes.iter().map(|outcome| outcome.retreats).sum();
        f64::from(retreats) / self.outcomes.len().max(1) as f64
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len().is_multiple_of(2) {
        let lower = *values.get(middle.checked_sub(1)?)?;
        Some(f64::midpoint(lower, upper))
    } else {
        Some(upper)
    }
}
