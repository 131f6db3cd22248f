//! What is simulated: every scenario at every rate under every tool, in parallel, the same by the same seed.

use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rand_pcg::Pcg64Mcg;
use stepgate_core::verdict::baseline::HOURS;
use stepgate_core::verdict::settings::PHI;
use stepgate_core::verdict::{Baseline, MetricSettings, Settings};

use crate::outcome::{Outcome, Summary};
use crate::rollout::{INTERVAL, Rollouts, limits};
use crate::threshold::{argo, flagger};
use crate::traffic::{Course, Scenario, Service, Shares};

/// Requests a second.
pub(crate) const RATES: [f64; 4] = [1.0, 10.0, 100.0, 1000.0];
/// Rollouts that one thread takes at a time.
const CHUNK: u64 = 250;
/// What a generator is seeded with beside the seed of all: nothing depends on what ran before.
const STRIDE: u64 = 0x9E37_79B9_7F4A_7C15;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Tool {
    /// The operator's verdict, with a dispersion that is given.
    Stepgate(f64),
    /// The operator's verdict, with the dispersion of stable's last hours.
    StepgateFromHistory,
    /// Flagger's rules, with the settings of its tutorial.
    Flagger,
    /// Argo Rollouts' rules, with the settings of its documentation.
    Argo,
}

impl Tool {
    /// As the tables call it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Stepgate(phi) => format!("Stepgate, φ = {phi}"),
            Self::StepgateFromHistory => "Stepgate, φ from history".to_owned(),
            Self::Flagger => "Flagger's tutorial".to_owned(),
            Self::Argo => "Argo Rollouts' example".to_owned(),
        }
    }
}

/// One kind of rollout under one tool.
#[derive(Debug)]
pub(crate) struct Cell {
    /// What happens.
    pub(crate) scenario: &'static Scenario,
    /// Requests a second.
    pub(crate) rate: f64,
    /// Who decides.
    pub(crate) tool: Tool,
    /// How often it is simulated.
    pub(crate) runs: u64,
    /// What came out.
    pub(crate) found: Summary,
}

const fn shares(errors: f64, slow: f64) -> Shares {
    Shares { errors, slow }
}

const fn scenario(name: &'static str, healthy: bool, stable: Shares, canary: Shares) -> Scenario {
    Scenario {
        name,
        healthy,
        stable,
        canary,
        max_errors: 0.01,
        clumped: false,
        course: Course::Steady,
    }
}

/// Slow requests where a scenario is about errors: the second metric is judged and quiet.
const QUIET: f64 = 0.0001;

/// The kinds of rollout.
pub(crate) static SCENARIOS: [Scenario; 11] = [
    scenario("healthy 0.1 %", true, shares(0.001, QUIET), shares(0.001, QUIET)),
    scenario("healthy 0.5 %", true, shares(0.005, QUIET), shares(0.005, QUIET)),
    Scenario {
        clumped: true,
        ..scenario("clumps, 0.1 %", true, shares(0.001, QUIET), shares(0.001, QUIET))
    },
    Scenario {
        clumped: true,
        ..scenario("clumps, 0.2 %", true, shares(0.002, QUIET), shares(0.002, QUIET))
    },
    Scenario {
        course: Course::SharedOutage,
        ..scenario("shared outage", true, shares(0.001, QUIET), shares(0.001, QUIET))
    },
    scenario("0.1 → 1 %", false, shares(0.001, QUIET), shares(0.01, QUIET)),
    scenario("0.1 → 2 %", false, shares(0.001, QUIET), shares(0.02, QUIET)),
    Scenario {
        max_errors: 0.02,
        ..scenario("1 → 5 %, max 2 %", false, shares(0.01, QUIET), shares(0.05, QUIET))
    },
    scenario("slow, 0.1 → 2 %", false, shares(0.001, 0.001), shares(0.001, 0.02)),
    Scenario {
        course: Course::BreaksAtFullWeight,
        ..scenario(
            "0.1 → 5 % at 100 % only",
            false,
            shares(0.001, QUIET),
            shares(0.05, QUIET),
        )
    },
    Scenario {
        course: Course::SourceFails,
        ..scenario("metrics fail", false, shares(0.001, QUIET), shares(0.001, QUIET))
    },
];

/// All cells. Those that tell how often a healthy version is rolled back have `healthy` runs, the others `runs`: with φ = 2 it is seldomer
/// than with 1, and clumps are not what a φ of 1 or 2 is for.
pub(crate) fn all(runs: u64, healthy: u64) -> Vec<Cell> {
    let mut cells = Vec::new();
    for scenario in &SCENARIOS {
        let mut tools = vec![Tool::Stepgate(1.0), Tool::Stepgate(2.0), Tool::Flagger, Tool::Argo];
        if scenario.clumped {
            tools.insert(0, Tool::StepgateFromHistory);
        }
        for tool in tools {
            let often = match tool {
                Tool::Stepgate(phi) => scenario.healthy && !scenario.clumped && phi <= 1.0,
                _ => scenario.healthy,
            };
            cells.extend(RATES.map(|rate| Cell {
                scenario,
                rate,
                tool,
                runs: if often { healthy } else { runs },
                found: Summary::default(),
            }));
        }
    }
    cells
}

/// Simulates all of them on as many threads.
pub(crate) fn simulate(cells: &mut [Cell], seed: u64, threads: usize) {
    let mut chunks = Vec::new();
    for (at, cell) in cells.iter().enumerate() {
        chunks.extend((0..cell.runs.div_ceil(CHUNK)).map(|chunk| (at, chunk * CHUNK)));
    }
    // The longest come first, so that no thread is left alone with one.
    chunks.sort_by(|(one, _), (other, _)| rate(cells, *one).total_cmp(&rate(cells, *other)));
    let next = AtomicUsize::new(0);
    let shared: &[Cell] = cells;
    let work = || {
        let mut done = Vec::new();
        while let Some((at, first)) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Some(cell) = shared.get(*at) {
                let runs = *first..cell.runs.min(first + CHUNK);
                done.push((*at, outcomes(cell, runs, seed, false)));
            }
        }
        done
    };
    let done: Vec<(usize, Vec<Outcome>)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        // A thread that fails takes the program with it: figures of fewer rollouts would be wrong ones.
        let joined = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|cause| resume_unwind(cause)));
        joined.flatten().collect()
    });
    for (at, outcomes) in done {
        if let Some(cell) = cells.get_mut(at) {
            cell.found.extend(outcomes);
        }
    }
}

fn rate(cells: &[Cell], at: usize) -> f64 {
    cells.get(at).map_or(0.0, |cell| cell.rate)
}

/// Some of a cell's rollouts. `always`: the verdict is asked for after every interval, also where it cannot have changed.
pub(crate) fn outcomes(cell: &Cell, runs: Range<u64>, seed: u64, always: bool) -> Vec<Outcome> {
    let limits = limits();
    let steps = limits.ladder.iter().filter(|weight| **weight < 100).count() as u64;
    let mut settings = settings(cell.scenario, PHI);
    if let Tool::Stepgate(phi) = cell.tool {
        settings.phi = phi;
    }
    let known = Rollouts::new(settings.clone(), &limits, always);
    let service = |run: u64, steps: u64| {
        // The same traffic for every tool, as far as their weights are the same.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number from 1 to 1000"
        )]
        let rate = cell.rate as u64;
        let place = (u64::from(place(cell.scenario)) << 40) | (rate << 24);
        let state = seed.wrapping_add((place + run + 1).wrapping_mul(STRIDE));
        Service::new(
            cell.scenario,
            cell.rate,
            steps,
            Pcg64Mcg::new((u128::from(mixed(state)) << 64) | u128::from(mixed(!state))),
        )
    };
    runs.map(|run| match cell.tool {
        Tool::Flagger => flagger::run(cell.scenario, service(run, flagger::STEPS)),
        Tool::Argo => argo::run(cell.scenario, service(run, argo::STEPS)),
        Tool::Stepgate(_) => known.one(cell.scenario, service(run, steps)),
        Tool::StepgateFromHistory => {
            let mut service = service(run, steps);
            let settings = Settings {
                phi: from_history(&mut service),
                ..settings.clone()
            };
            Rollouts::new(settings, &limits, always).one(cell.scenario, service)
        }
    })
    .collect()
}

/// As an operator finds it: from the last four hours, or a whole day where those have too few errors.
fn from_history(service: &mut Service<'_>) -> f64 {
    let mut found = PHI;
    for hours in HOURS {
        let baseline = Baseline::of(hours, &service.history(hours, INTERVAL));
        found = baseline.phi;
        if !baseline.is_short() {
            break;
        }
    }
    found
}

/// Errors and slow requests, over the default ladder.
fn settings(scenario: &Scenario, phi: f64) -> Settings {
    let errors = MetricSettings {
        max: scenario.max_errors,
        ..MetricSettings::errors()
    };
    let latency = MetricSettings {
        name: "latency".to_owned(),
        min_effect: 0.01,
        ratio: 1.25,
        ..MetricSettings::errors()
    };
    let steps = u32::try_from(limits().ladder.len()).unwrap_or(1);
    Settings {
        phi,
        ..Settings::new(vec![errors, latency], steps)
    }
}

fn place(scenario: &Scenario) -> u32 {
    let at = SCENARIOS.iter().position(|known| known == scenario);
    at.and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX)
}

/// SplitMix64's last step: near states give far numbers.
fn mixed(state: u64) -> u64 {
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
