//! The table of `docs/commands.md`, cell by cell: in each state every verb that it calls `no` is refused and changes nothing, through the
//! plugin and by an annotation written by hand; one that it does not is carried out.

use std::collections::BTreeMap;

use stepgate_tests::scene::Scene;
use stepgate_tests::states::{self, Kept, State};

use super::*;

const PAGE: &str = include_str!("../../../docs/commands.md");
/// The columns, as they are typed.
const VERBS: [(&str, Verb, bool); 7] = [
    ("promote", Verb::Promote, false),
    ("promote --full", Verb::Promote, true),
    ("abort", Verb::Abort, false),
    ("pause", Verb::Pause, false),
    ("resume", Verb::Resume, false),
    ("retry", Verb::Retry, false),
    ("undo", Verb::Undo, false),
];
const LONG: Duration = Duration::from_mins(2);

/// State, column, cell.
fn table() -> BTreeMap<String, BTreeMap<String, String>> {
    let cells = |line: &str| -> Vec<String> {
        let inner = line.trim().trim_matches('|');
        inner.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = PAGE.lines().skip_while(|line| !line.starts_with("| state |"));
    let header = cells(lines.next().unwrap_or_default());
    lines
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let row = cells(line);
            let columns = header.iter().skip(1).cloned().zip(row.iter().skip(1).cloned());
            (row[0].clone(), columns.collect())
        })
        .collect()
}

/// A row of the table, how its state comes about, and the verb that is carried out in it with the phase that follows.
struct Case {
    row: &'static str,
    reach: Reach,
    then: Option<Then>,
}

/// A verb as it is typed, and what follows it.
type Then = (&'static str, fn(&RolloutStatus) -> bool);

enum Reach {
    State(State),
    /// Somebody else keeps taking the weights back.
    Contention,
}

fn case(row: &'static str, state: State, then: Option<Then>) -> Case {
    Case {
        row,
        reach: Reach::State(state),
        then,
    }
}

fn is(status: &RolloutStatus, phase: Phase) -> bool {
    status.phase == Some(phase)
}

fn cases() -> [Case; 12] {
    [
        case("Healthy", State::Healthy, None),
        case(
            "Preparing",
            State::Preparing,
            Some(("abort", |status| is(status, Phase::Failed))),
        ),
        case(
            "Stepping",
            State::Stepping,
            Some(("promote --full", |status| {
                status
                    .run
                    .as_ref()
                    .is_some_and(|run| run.step == 1 && run.weight == 100)
            })),
        ),
        case(
            "Paused: Command",
            State::Paused,
            Some(("resume", |status| is(status, Phase::Stepping))),
        ),
        Case {
            row: "Paused: Contention",
            reach: Reach::Contention,
            then: Some(("resume", |status| {
                is(status, Phase::Stepping) && status.weight == Some(50)
            })),
        },
        case(
            "Retreated",
            State::Retreated,
            Some(("abort", |status| is(status, Phase::Failed))),
        ),
        case(
            "Promoting",
            State::Promoting,
            Some(("abort", |status| is(status, Phase::Restoring))),
        ),
        case("Restoring", State::Restoring, None),
        case("Returning", State::Returning, None),
        case("RollingBack", State::RollingBack, None),
        case("Draining", State::Draining, None),
        case(
            "Failed",
            State::Failed,
            Some(("undo", |status| is(status, Phase::Healthy))),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_verb_in_each_state_means_what_the_page_says() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let table = table();
    let cases = cases();
    let tries = cases.iter().map(|case| {
        let tried = in_state(&cluster, case, &table[case.row]);
        (case.row, Box::pin(tried))
    });
    states::all(tries).await
}

async fn in_state(cluster: &Cluster, case: &Case, row: &BTreeMap<String, String>) -> Result<()> {
    let options = OperatorOptions {
        // Long enough for every verb to be tried.
        drain: if case.row == "Draining" { "90s" } else { "2s" },
        flags: vec!["--brake=1s,1s,1s".to_owned()],
        ..OperatorOptions::led_by_commands()
    };
    let scene = Scene::open(cluster, "table", &states::shop(), options).await?;
    let outcome = tried(&scene, case, row).await;
    scene.told(outcome)
}

async fn tried(scene: &Scene, case: &Case, row: &BTreeMap<String, String>) -> Result<()> {
    let namespace = &scene.namespace;
    let mut kept = match case.reach {
        Reach::State(state) => state.reach(scene).await?,
        Reach::Contention => contend(scene).await?,
    };
    let before = shop::status(namespace).await?;
    for (typed, verb, full) in VERBS {
        if row[typed] != "no" {
            continue;
        }
        let words: Vec<&str> = typed.split(' ').chain([NAME]).collect();
        let answer = shop::plugin(namespace, &words).await?;
        ensure!(
            answer.code == Some(1) && answer.complained.starts_with("refused: "),
            "{typed}: {answer:?}"
        );
        let run = before.run.as_ref().map(|run| run.id.clone());
        let failed = before.failed.as_ref().map(|failed| failed.run.clone());
        let command = Command {
            verb,
            run: run.or(failed).unwrap_or_else(|| "nobody-1".to_owned()),
            step: before.run.as_ref().and_then(|run| u32::try_from(run.step + 1).ok()),
            full,
            nonce: format!("by-hand-{typed}"),
        };
        let answer = by_hand(namespace, &serde_json::to_string(&command)?).await?;
        ensure!(
            !answer.done && answer.message.starts_with(verb.as_str()),
            "{typed} by hand: {answer:?}"
        );
    }
    let after = shop::status(namespace).await?;
    let place = |status: &RolloutStatus| {
        let run = status.run.as_ref();
        (status.phase, run.map(|run| (run.id.clone(), run.step)))
    };
    ensure!(place(&before) == place(&after), "{before:?}\n{after:?}");
    if let Some((typed, wanted)) = case.then {
        ensure!(row[typed] != "no", "the page says no to {typed}");
        let words: Vec<&str> = typed.split(' ').chain([NAME]).collect();
        let answer = shop::plugin(namespace, &words).await?;
        ensure!(answer.code == Some(0), "{typed}: {answer:?}");
        if case.row != "Promoting" {
            kept.let_go(namespace).await?;
        }
        scene.wait_for(&format!("what follows {typed}"), LONG, wanted).await?;
    }
    kept.let_go(namespace).await
}

/// Takes the weights to stable, as often as it takes until the run waits for a person.
async fn contend(scene: &Scene) -> Result<Kept> {
    let kept = State::Stepping.reach(scene).await?;
    let weights = json!([
        {"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 1},
        {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 0},
    ])
    .to_string();
    until("a pause for contention", LONG, async || {
        let status = shop::status(&scene.namespace).await?;
        let run = run(&status)?;
        if let RunState::Paused { why, .. } = run.state {
            ensure!(why == PauseReason::Contention, "{why:?}");
            return Ok(Seen::Done(()));
        }
        if status.weight == Some(50) {
            let patch = ["patch", "httproute", NAME, "--type=json", "--patch", &weights];
            scene.namespace.kubectl(&patch).await?;
        }
        Ok(Seen::NotYet(format!("{:?} {:?}", run.state, run.drift)))
    })
    .await?;
    Ok(kept)
}

#[test]
fn every_state_has_a_row_and_every_cell_a_meaning() {
    let table = table();
    let rows: Vec<&str> = table.keys().map(String::as_str).collect();
    let mut wanted: Vec<&str> = cases().map(|case| case.row).to_vec();
    // The first has a test of its own, the second is the core's alone: it takes three retreats of different kinds.
    wanted.extend(["Paused: Approval", "Paused: Retreats"]);
    wanted.sort_unstable();
    assert_eq!(rows, wanted);
    for (state, row) in &table {
        let verbs: Vec<&str> = VERBS.map(|(typed, ..)| typed).to_vec();
        assert_eq!(row.len(), verbs.len(), "{state}");
        for verb in verbs {
            assert!(row.get(verb).is_some_and(|cell| !cell.is_empty()), "{state}: {verb}");
        }
    }
}
