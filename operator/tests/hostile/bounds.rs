//! What every decision keeps to, whatever it was made on.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use proptest::test_runner::{Config, RngSeed};
use serde_json::Value;
use stepgate_core::Plan;

use crate::fixtures::observed::Observed;

/// Largest status that is written, in bytes of JSON.
const LARGEST_STATUS: usize = 16_384;
/// Most requests of one decision.
const MOST_EFFECTS: usize = 24;
/// So many commits in a row are followed.
const MOST_COMMITS: usize = 4;
/// Longest that a decision may take: a thousand times what it takes.
const LONGEST: Duration = Duration::from_secs(5);

/// The bytes of this as JSON.
pub(crate) fn bytes(value: &impl serde::Serialize) -> usize {
    serde_json::to_string(value).unwrap().len()
}

/// Decides on this, and on what is committed after it, and says what was out of bounds; the first decision. `given`: the bytes of what it
/// was made on.
pub(crate) fn decide(seen: &Observed, given: usize) -> Result<Plan, String> {
    let first = decide_once(seen, given)?;
    let mut plan = first.clone();
    let mut seen = seen.clone();
    for _ in 0..MOST_COMMITS {
        let Plan::Commit(status) = plan else { return Ok(first) };
        seen.rollout.status = *status;
        plan = decide_once(&seen, given)?;
    }
    Ok(first)
}

fn decide_once(seen: &Observed, given: usize) -> Result<Plan, String> {
    let began = Instant::now();
    let input = seen.input();
    let plan = catch_unwind(AssertUnwindSafe(|| stepgate_core::next(&input)))
        .map_err(|_| "the decision panicked".to_owned())?;
    let took = began.elapsed();
    if took > LONGEST {
        return Err(format!("the decision took {took:?}"));
    }
    match &plan {
        Plan::Commit(status) => {
            // What is larger than that already was not written by us, and does not grow.
            let largest = LARGEST_STATUS.max(bytes(&seen.rollout.status) + 2_048);
            let written = bytes(status);
            if written > largest {
                return Err(format!("a status of {written} bytes: {status:#?}"));
            }
        }
        Plan::Act(effects) => {
            if effects.is_empty() || effects.len() > MOST_EFFECTS {
                return Err(format!("{} requests at once", effects.len()));
            }
            let written = bytes(effects);
            if written > given + LARGEST_STATUS {
                return Err(format!("requests of {written} bytes made of {given}: {effects:#?}"));
            }
        }
        Plan::Wait(_) => {}
    }
    Ok(plan)
}

/// So many random cases, the same in each run; as many as `STEPGATE_FUZZ_CASES` says, where it does, and then others each time.
pub(crate) fn cases(usual: u32) -> Config {
    let asked = std::env::var("STEPGATE_FUZZ_CASES").ok();
    Config {
        cases: asked
            .as_ref()
            .map_or(usual, |cases| cases.parse().expect("STEPGATE_FUZZ_CASES is a number")),
        rng_seed: if asked.is_some() {
            RngSeed::Random
        } else {
            RngSeed::Fixed(7)
        },
        failure_persistence: None,
        max_shrink_iters: 2_000,
        max_local_rejects: u32::MAX,
        ..Config::default()
    }
}

/// Whether more was asked for than every test run does.
pub(crate) fn is_long_run() -> bool {
    std::env::var_os("STEPGATE_FUZZ_CASES").is_some()
}

/// An object as short as it can be printed.
pub(crate) fn brief(value: &Value) -> String {
    let text = value.to_string();
    text.chars().take(1_500).collect()
}
