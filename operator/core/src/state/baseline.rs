//! What a run takes from stable's history, before its first weight and never again: φ, and the max of `max: auto`.

use stepgate_crds::{
    status::{Baseline, Run},
    units::Share,
};

use super::Pass;
use crate::{
    input::{Before, Input},
    plan::{Plan, Wake},
    report,
};

/// Waits for it where it is being read, for a while. That is over before there would be anything to say of it.
pub(super) fn wait(pass: &Pass<'_>) -> Option<Plan> {
    let input = pass.input;
    let Before::Awaited { since, .. } = input.baseline else {
        return None;
    };
    let until = pass.since().max(*since).after(input.limits.baseline);
    (input.now < until).then(|| {
        Plan::Wait(Wake {
            at: Some(until),
            ..Wake::default()
        })
    })
}

/// The run with what is known of it by now; without, the defaults hold, and the run says why.
pub(super) fn freeze(mut run: Run, input: &Input<'_>) -> Run {
    let spec = &mut run.spec;
    match input.baseline {
        Before::Untold => {}
        Before::Awaited { found: None, .. } => {
            spec.no_baseline = Some("the metrics source had not answered in time".to_owned());
        }
        Before::Unreadable(why) => spec.no_baseline = Some(report::short(why)),
        Before::Known(known) | Before::Awaited { found: Some(known), .. } => {
            spec.phi = up(known.phi, 100.0);
            if spec.auto_max {
                match known.max() {
                    Some(max) => spec.max_error_rate = Share::new(up(max, 100_000.0)),
                    None => spec.no_baseline = Some(format!("stable had only {} requests", known.requests)),
                }
            }
            spec.baseline = Some(written(known));
        }
    }
    run
}

/// Rounded up to so many parts of one: people read it, and it never makes a test bolder.
fn up(value: f64, parts: f64) -> f64 {
    // What is on a part already stays there, whatever the last bit says.
    (value * parts - 1e-6).ceil() / parts
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "counts are below 2^53, and `as` keeps what is no count within bounds"
)]
fn written(known: &crate::verdict::Baseline) -> Baseline {
    Baseline {
        hours: i32::try_from(known.hours).unwrap_or(i32::MAX),
        requests: known.requests as i64,
        bad: known.bad as i64,
        pods: known.pods as i32,
    }
}
