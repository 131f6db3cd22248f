//! `docs/behaviour.md` is true: each row of each of its tables is lived through, and none is missing.
//!
//! The first text in backticks of a row's second cell is what is compared: the phases that the Rollout goes through after the event, the
//! outcomes of the runs that end meanwhile, and why it is stalled at the end. The prose around it is for people.

mod events;
mod forever;
mod states;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use events::{EVENTS, Event};
use states::{STATES, State};
use stepgate_crds::status::Phase;

use crate::fixtures::simulator::Simulator;

const DOCUMENT: &str = include_str!("../../../../docs/behaviour.md");
/// How long after an event a Rollout is looked at, in seconds.
const HORIZON: i64 = 2_400;
/// Longer than any deadline: who has done nothing for so long does nothing more.
const QUIET: i64 = 700;
/// What a version does that nothing happens to.
const RUN: &str = "Preparing → Stepping → Promoting → Returning → Draining → Healthy";

/// A row of the document.
struct Row<'d> {
    event: &'d str,
    happens: &'d str,
    tests: Vec<&'d str>,
}

/// The rows of the table under this heading.
fn rows(state: &str) -> Vec<Row<'static>> {
    let (_, section) = DOCUMENT
        .split_once(&format!("\n## {state}\n"))
        .unwrap_or_else(|| panic!("docs/behaviour.md has no section {state}"));
    let section = section.split("\n## ").next().unwrap();
    let lines = section
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| event |"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
            let [event, happens, tests] = cells.as_slice() else {
                panic!("not three cells: {line}");
            };
            let quoted = |cell: &'static str| cell.split('`').skip(1).step_by(2).collect::<Vec<_>>();
            Row {
                event,
                happens: quoted(happens).first().copied().unwrap_or_default(),
                tests: quoted(tests),
            }
        })
        .collect()
}

/// Lives through an event in a state that was entered, and says what came of it.
fn live(state: &State, entered: &Simulator, event: &Event) -> String {
    let mut simulator = entered.clone();
    let status = simulator.status();
    let (mut phase, ended, nonce) = (
        status.phase,
        status.history,
        status.command.map(|command| command.nonce),
    );
    let (mut path, mut done, mut last) = (Vec::new(), 0, 0);
    (state.clear)(&mut simulator);
    for second in 0..HORIZON {
        for (_, happens) in event.parts.iter().filter(|(at, _)| *at == second) {
            happens(&mut simulator);
        }
        simulator.tick();
        let writes = simulator.writes.iter().filter(|write| !write.refresh).count();
        if writes > done || event.parts.iter().any(|(at, _)| *at >= second) {
            (done, last) = (writes, second);
        }
        if second - last > QUIET {
            break;
        }
        let Some(status) = simulator.known() else {
            path.push("gone".to_owned());
            return path.join(" → ");
        };
        let refused = status
            .command
            .as_ref()
            .filter(|command| !command.done && nonce.as_ref() != Some(&command.nonce));
        if let Some(command) = refused {
            let verb = command.verb.map_or("", |verb| verb.as_str());
            let why = command
                .message
                .strip_prefix(&format!("{verb}: "))
                .unwrap_or(&command.message);
            return format!("refused: {why}");
        }
        if status.phase != phase {
            phase = status.phase;
            path.push(phase.map_or("", Phase::as_str).to_owned());
        }
    }
    let status = simulator.status();
    let mut said = path.join(" → ").replace(RUN, "a run → Healthy");
    if said.is_empty() {
        "stays".clone_into(&mut said);
    }
    let before = ended.first().map(|past| past.run.clone());
    let new = status
        .history
        .iter()
        .take_while(|past| Some(&past.run) != before.as_ref());
    let outcomes: Vec<String> = new
        .map(|past| past.reason.clone().unwrap_or_else(|| past.outcome.as_str().to_owned()))
        .collect();
    if !outcomes.is_empty() {
        said = format!("{said} ({})", outcomes.into_iter().rev().collect::<Vec<_>>().join(", "));
    }
    let stalled = status
        .conditions
        .iter()
        .find(|one| one.type_ == "Stalled" && one.status == "True");
    match stalled {
        Some(stalled) if status.phase != Some(Phase::Failed) || stalled.reason != "Failed" => {
            format!("{said}; stalled: {}", stalled.reason)
        }
        _ => said,
    }
}

/// Whether the sources have this test: `behaviour::stepping` below, `recovery::…` in `tests/tests/recovery.rs` or the folder beside it.
fn exists(test: &str) -> bool {
    let Some((file, name)) = test.split_once("::") else {
        return false;
    };
    if file == "behaviour" {
        return TABLES.contains(&name);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tests");
    let beside = fs::read_dir(folder.join(file)).into_iter().flatten();
    let mut places: Vec<PathBuf> = beside.flatten().map(|entry| entry.path()).collect();
    places.push(folder.join(format!("{file}.rs")));
    let definition = format!("fn {name}(");
    places
        .iter()
        .any(|place| fs::read_to_string(place).is_ok_and(|text| text.contains(&definition)))
}

#[track_caller]
fn is_as_written(name: &str, test: &str) {
    let state = STATES.iter().find(|state| state.name == name).expect("a state");
    let rows = rows(name);
    let entered = (state.enter)();
    let undisturbed = live(state, &entered, &EVENTS[0]);
    let mut wrong = Vec::new();
    for event in EVENTS {
        let lived = live(state, &entered, event);
        let lived = if lived == undisturbed && event.name != "nothing" {
            "nothing".to_owned()
        } else {
            lived
        };
        let own: Vec<&Row<'_>> = rows.iter().filter(|row| row.event == event.name).collect();
        let written = own.first().map_or("", |row| row.happens);
        if own.len() != 1 || written != lived {
            wrong.push(format!("{name}\t{}\t{lived}\twritten: {written}", event.name));
        }
    }
    for row in &rows {
        if !EVENTS.iter().any(|event| event.name == row.event) {
            wrong.push(format!("{name}\t{}\tno such event", row.event));
        }
        let own = format!("behaviour::{test}");
        if !row.tests.contains(&own.as_str()) || row.tests.iter().any(|test| !exists(test)) {
            wrong.push(format!("{name}\t{}\tshown by {:?}", row.event, row.tests));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} rows are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_state_has_its_table_and_every_phase_its_state() {
    use Phase::{
        Blocked, Draining, Failed, Healthy, Paused, Preparing, Promoting, Restoring, Retreated, Returning, RollingBack,
        Stepping, Suspended,
    };
    let headings: BTreeSet<&str> = DOCUMENT.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let states: BTreeSet<&str> = STATES.iter().map(|state| state.name).collect();
    assert_eq!(headings.intersection(&states).count(), STATES.len(), "{headings:?}");
    for phase in [
        Blocked,
        Healthy,
        Preparing,
        Stepping,
        Paused,
        Retreated,
        Promoting,
        Restoring,
        Returning,
        RollingBack,
        Draining,
        Failed,
        Suspended,
    ] {
        // A phase that is added has to get its table: this match says where.
        let section = match phase {
            Paused => "Paused for an approval",
            Draining => "Draining after a rollback",
            Blocked | Healthy | Preparing | Stepping | Retreated | Promoting | Restoring | Returning | RollingBack
            | Failed | Suspended => phase.as_str(),
        };
        assert!(states.contains(section), "{section}");
    }
}

macro_rules! tables {
    ($($test:ident: $state:literal;)+) => {
        /// The tests below.
        const TABLES: &[&str] = &[$(stringify!($test)),+];
        $(
            #[test]
            fn $test() {
                is_as_written($state, stringify!($test));
            }
        )+
    };
}

tables! {
    blocked: "Blocked";
    healthy: "Healthy";
    preparing: "Preparing";
    stepping: "Stepping";
    paused_for_an_approval: "Paused for an approval";
    paused_by_a_person: "Paused by a person";
    paused_after_contention: "Paused after contention";
    paused_after_retreats: "Paused after retreats";
    retreated: "Retreated";
    promoting: "Promoting";
    restoring: "Restoring";
    returning: "Returning";
    rolling_back: "RollingBack";
    draining_after_a_rollback: "Draining after a rollback";
    draining_after_a_promotion: "Draining after a promotion";
    failed: "Failed";
    suspended: "Suspended";
}
