//! Generates plans from the fault-free courses: one for each place where a fault can strike.

use std::collections::BTreeMap;

use super::fault::{Fault, Kind};
use super::run::{Outcome, Plan};
use super::workload::Workload;

/// The faults that are tried at every write.
pub const AT_EVERY_WRITE: [Kind; 3] = [Kind::CrashAfter, Kind::Lost, Kind::Unheard];

/// The faults of which a sample is tried, and all of them in the long form.
pub const SAMPLED: [Kind; 12] = [
    Kind::CrashBefore,
    Kind::Answer(403),
    Kind::Answer(409),
    Kind::Answer(422),
    Kind::Answer(429),
    Kind::Answer(500),
    Kind::Answer(503),
    Kind::Late(700),
    Kind::CutWatches,
    Kind::GoneWatches,
    Kind::StaleWatches(1_500),
    Kind::SourceDown(1_500),
];

/// One plan for each write of each course and each kind of fault.
pub fn all(oracles: &BTreeMap<Workload, Outcome>) -> Vec<Plan> {
    let kinds = AT_EVERY_WRITE.into_iter().chain(SAMPLED);
    kinds.flat_map(|kind| each_write(oracles, kind)).collect()
}

/// About so many plans, spread evenly over kinds, workloads and places: first those that are tried at every write, then a sample.
pub fn stratified(oracles: &BTreeMap<Workload, Outcome>, count: usize) -> Vec<Plan> {
    let every: Vec<Plan> = AT_EVERY_WRITE
        .into_iter()
        .flat_map(|kind| each_write(oracles, kind))
        .collect();
    let rest: Vec<Plan> = SAMPLED.into_iter().flat_map(|kind| each_write(oracles, kind)).collect();
    let for_rest = count / 4;
    let mut plans = evenly(every, count - for_rest);
    plans.extend(evenly(rest, for_rest));
    plans
}

/// Plans of two faults, by a seed.
pub fn random(oracles: &BTreeMap<Workload, Outcome>, count: usize, seed: u64) -> Vec<Plan> {
    let workloads: Vec<(Workload, usize)> = oracles
        .iter()
        .map(|(workload, outcome)| (*workload, outcome.writes))
        .collect();
    let kinds: Vec<Kind> = AT_EVERY_WRITE.into_iter().chain(SAMPLED).collect();
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut below = move |most: usize| {
        // SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % u64::try_from(most.max(1)).unwrap_or(1)).unwrap_or(0)
    };
    (0..count)
        .filter_map(|_| {
            let (workload, writes) = *workloads.get(below(workloads.len()))?;
            let mut faults = Vec::new();
            for _ in 0..2 {
                faults.push(Fault {
                    at: below(writes) + 1,
                    kind: *kinds.get(below(kinds.len()))?,
                });
            }
            faults.sort();
            Some(Plan { workload, faults })
        })
        .collect()
}

fn each_write(oracles: &BTreeMap<Workload, Outcome>, kind: Kind) -> Vec<Plan> {
    oracles
        .iter()
        .flat_map(|(workload, outcome)| {
            (1..=outcome.writes).map(|at| Plan {
                workload: *workload,
                faults: vec![Fault { at, kind }],
            })
        })
        .collect()
}

fn evenly(plans: Vec<Plan>, count: usize) -> Vec<Plan> {
    let all = plans.len();
    if all <= count {
        return plans;
    }
    let taken = |at: usize| (at + 1) * count / all > at * count / all;
    plans
        .into_iter()
        .enumerate()
        .filter(|(at, _)| taken(*at))
        .map(|(_, plan)| plan)
        .collect()
}
