//! Generates plans from the fault-free courses: one for each place where a fault can strike.

use std::collections::{BTreeMap, BTreeSet};

use super::fault::{Fault, Kind, View};
use super::malady::Malady;
use super::run::{Outcome, Plan};
use super::workload::Workload;

/// The faults that are tried at every write.
pub const AT_EVERY_WRITE: [Kind; 3] = [Kind::CrashAfter, Kind::Lost, Kind::Unheard];

/// The faults of which a sample is tried, and all of them in the long form. The illnesses of a source take turns from one write to the next.
pub const SAMPLED: [Kind; 20] = [
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
    Kind::GoneOnConnect,
    Kind::Stale(View::All, 1_500),
    Kind::Stale(View::Rollouts, 1_500),
    Kind::Stale(View::Routes, 1_500),
    Kind::Stale(View::Endpoints, 1_500),
    Kind::Stale(View::Deployments, 1_500),
    Kind::HalfOpen(1_500),
    Kind::Doubled(4_000),
    Kind::Unspoken(1_500),
    Kind::Source(Malady::Down, ILL),
];

/// A process ends after every so many writes.
const CRASH_EVERY: std::ops::RangeInclusive<u32> = 1..=20;

/// How long a source is ill.
const ILL: u32 = 1_500;

/// One plan for each write of each course and each kind of fault, and for each illness of a source.
pub fn all(oracles: &BTreeMap<Workload, Outcome>) -> Vec<Plan> {
    let kinds = AT_EVERY_WRITE.into_iter().chain(SAMPLED);
    let mut plans: Vec<Plan> = kinds.flat_map(|kind| each_write(oracles, kind)).collect();
    plans.extend(each_illness(oracles));
    plans.extend(crashes_again_and_again(oracles));
    plans
}

/// About so many plans: four in five are distinct places by each fault that is tried at every write, spread evenly where there are more;
/// one is of each illness of a source; and the rest is spread evenly over kinds, workloads and places.
pub fn stratified(oracles: &BTreeMap<Workload, Outcome>, count: usize) -> Vec<Plan> {
    let places = distinct_places(oracles);
    let every = AT_EVERY_WRITE.into_iter().flat_map(|kind| {
        places.iter().map(move |(workload, at)| Plan {
            workload: *workload,
            faults: vec![Fault { at: *at, kind }],
        })
    });
    let mut plans = evenly(every.collect(), count * 4 / 5);
    // One here and there: a reply of 100 MB keeps the others waiting as well.
    let gap = plans.len() / Malady::ALL.len() + 1;
    for (number, plan) in each_illness(oracles).into_iter().enumerate() {
        plans.insert((number * gap).min(plans.len()), plan);
    }
    let mut rest: Vec<Plan> = SAMPLED.into_iter().flat_map(|kind| each_write(oracles, kind)).collect();
    rest.extend(crashes_again_and_again(oracles));
    plans.extend(evenly(rest, count.saturating_sub(plans.len())));
    plans
}

/// Each place that a write of any course is at, once: in the shortest course that comes by.
fn distinct_places(oracles: &BTreeMap<Workload, Outcome>) -> Vec<(Workload, usize)> {
    let mut courses: Vec<(&Workload, &Outcome)> = oracles.iter().collect();
    courses.sort_by_key(|(_, outcome)| outcome.writes);
    let mut seen = BTreeSet::new();
    let mut places = Vec::new();
    for (workload, outcome) in courses {
        for (at, place) in (1..).zip(&outcome.places) {
            if seen.insert(place) {
                places.push((*workload, at));
            }
        }
    }
    places
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
                let at = below(writes) + 1;
                let kind = in_turn(*kinds.get(below(kinds.len()))?, at);
                faults.push(Fault { at, kind });
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
            (1..=outcome.writes).map(move |at| Plan {
                workload: *workload,
                faults: vec![Fault {
                    at,
                    kind: in_turn(kind, at),
                }],
            })
        })
        .collect()
}

/// The source falls ill when the first weight has been written, by turns of a version that is good, and of one that is bad.
fn each_illness(oracles: &BTreeMap<Workload, Outcome>) -> Vec<Plan> {
    let courses = [Workload::Promote, Workload::Rollback].into_iter().cycle();
    let plan = |(workload, malady): (Workload, Malady)| {
        let places = &oracles.get(&workload)?.places;
        let mut weights = (1..)
            .zip(places)
            .filter(|(_, place)| place.target.ends_with(" httproutes/checkout"));
        // The first write of the route gives the canary 0.
        let (at, _) = weights.nth(1)?;
        Some(Plan {
            workload,
            faults: vec![Fault {
                at,
                kind: Kind::Source(malady, ILL),
            }],
        })
    };
    courses.zip(Malady::ALL).filter_map(plan).collect()
}

/// The source is ill with each in turn.
fn in_turn(kind: Kind, at: usize) -> Kind {
    match kind {
        Kind::Source(_, how_long) => {
            let malady = Malady::ALL.into_iter().cycle().nth(at).unwrap_or(Malady::Down);
            Kind::Source(malady, how_long)
        }
        other => other,
    }
}

fn crashes_again_and_again(oracles: &BTreeMap<Workload, Outcome>) -> Vec<Plan> {
    oracles
        .keys()
        .flat_map(|workload| {
            CRASH_EVERY.filter_map(move |every| {
                let at = usize::try_from(every).ok()?;
                Some(Plan {
                    workload: *workload,
                    faults: vec![Fault {
                        at,
                        kind: Kind::CrashEvery(every),
                    }],
                })
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
