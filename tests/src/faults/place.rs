//! Where in its course a write is: what it goes to, what was written before it, how far the run had come, and what it commits. A fault that
//! strikes at one place is the same fault in each course that comes by.

use serde_json::Value;
use stepgate_crds::RolloutStatus;

use super::layer::Write;

/// What a commit is written to.
const STATUS: &str = "rollouts/checkout/status";

/// The place of one write.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Its method and target, such as `PATCH httproutes/checkout`.
    pub target: String,
    /// The same of the write before it; empty for the first.
    before: String,
    /// Step, state and cause of the run in the status that was stored last; empty where there was no run.
    run: String,
    /// The same in what is written, where that is a status.
    to: Option<String>,
}

/// The place of each write of a course.
pub fn of(writes: &[Write]) -> Vec<Place> {
    let (mut before, mut run) = (String::new(), String::new());
    let mut places = Vec::new();
    for write in writes {
        let target = format!("{} {}", write.method, general(&write.target()));
        let status = write.body.get("status").filter(|_| write.target() == STATUS);
        let to = status.map(run_in);
        places.push(Place {
            target: target.clone(),
            before: std::mem::replace(&mut before, target),
            run: run.clone(),
            to: to.clone(),
        });
        if let Some(to) = to {
            run = to;
        }
    }
    places
}

/// A target as it is in each course: records of templates are named by their run and number, and how many there were is what counts.
pub(super) fn general(target: &str) -> &str {
    target
        .split('/')
        .next()
        .filter(|kind| *kind == "podtemplates")
        .unwrap_or(target)
}

fn run_in(status: &Value) -> String {
    let status: RolloutStatus = serde_json::from_value(status.clone()).unwrap_or_default();
    let Some(run) = status.run else {
        return String::new();
    };
    let mut state = serde_json::to_value(&run.state).unwrap_or_default();
    for said in state.as_object_mut().into_iter().flat_map(|state| state.values_mut()) {
        if let Some(said) = said.as_object_mut() {
            said.remove("since");
        }
    }
    format!("{} {} {state}", run.step, run.in_force.is_some())
}
