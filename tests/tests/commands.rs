//! A person's commands through the real plugin: carried out where they apply, refused in words where they do not, never meant for
//! another run or step than the one that the person saw.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON and tables are looked into by their names; what is not there reads as null or ends the test"
)]

#[path = "commands/at_once.rs"]
mod at_once;
#[path = "commands/explain.rs"]
mod explain;
#[path = "commands/preview.rs"]
mod preview;
#[path = "commands/table.rs"]
mod table;
#[path = "commands/undo.rs"]
mod undo;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use stepgate_crds::names::COMMAND;
use stepgate_crds::status::{CommandOutcome, Outcome, PauseReason, Phase, Run, RunState};
use stepgate_crds::{Command, RolloutStatus, Verb};
use stepgate_tests::cluster::{Cluster, Namespace};
use stepgate_tests::load::{Load, LoadOptions};
use stepgate_tests::operator::{Operator, OperatorOptions};
use stepgate_tests::record::Record;
use stepgate_tests::scene::quick;
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};

const BOUND: Duration = Duration::from_mins(1);

async fn scene(shop: &Shop) -> Result<(Namespace, Operator)> {
    shop::led_by_commands("commands", shop).await
}

/// The command is carried out, and the plugin says it in these words.
async fn done(namespace: &Namespace, verb: &str, words: &str) -> Result<()> {
    let answer = shop::plugin(namespace, &[verb, NAME]).await?;
    let named = format!("Rollout {}/{NAME}: ", namespace.name());
    ensure!(
        answer.code == Some(0) && answer.said.starts_with(&named) && answer.said.contains(words),
        "{verb}: wanted `{words}`: {answer:?}"
    );
    Ok(())
}

/// The command is refused with exit code 1, and the plugin says why.
async fn refused(namespace: &Namespace, verb: &str, words: &str) -> Result<()> {
    let answer = shop::plugin(namespace, &[verb, NAME]).await?;
    ensure!(
        answer.code == Some(1) && answer.complained.starts_with("refused: ") && answer.complained.contains(words),
        "{verb}: wanted `{words}`: {answer:?}"
    );
    Ok(())
}

fn run(status: &RolloutStatus) -> Result<&Run> {
    status.run.as_ref().context("no run")
}

/// Writes the annotation by hand, and waits until it is answered and taken off.
async fn by_hand(namespace: &Namespace, text: &str) -> Result<CommandOutcome> {
    let before = shop::status(namespace).await?.command;
    let annotation = format!("{COMMAND}={text}");
    namespace
        .kubectl(&["annotate", "rollout", NAME, &annotation, "--overwrite"])
        .await?;
    until("the answer, and the annotation gone", BOUND, async || {
        let rollout = shop::rollout(namespace).await?;
        let annotated = rollout
            .metadata
            .annotations
            .is_some_and(|annotations| annotations.contains_key(COMMAND));
        let answer = rollout.status.and_then(|status| status.command);
        Ok(match answer {
            Some(answer) if !annotated && Some(&answer) != before.as_ref() => Seen::Done(answer),
            answer => Seen::NotYet(format!("annotated: {annotated}, {answer:?}")),
        })
    })
    .await
}

/// What `kubectl stepgate status` prints, with one space for each gap of the tables.
async fn seen_status(namespace: &Namespace) -> Result<String> {
    let answer = shop::plugin(namespace, &["status", NAME]).await?;
    ensure!(answer.code == Some(0), "{answer:?}");
    let lines = answer
        .said
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn command(verb: Verb, run: &str, step: Option<u32>, nonce: &str) -> Result<String> {
    let command = Command {
        verb,
        run: run.to_owned(),
        step,
        full: false,
        nonce: nonce.to_owned(),
    };
    Ok(serde_json::to_string(&command)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn promote_leads_a_version_through_and_status_shows_where_it_is() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let status = async || seen_status(&namespace).await;
    let says = |text: &str, words: &[&str]| -> Result<()> {
        for words in words {
            ensure!(text.contains(words), "wanted `{words}` in:\n{text}");
        }
        Ok(())
    };
    let name = format!("{}/{NAME} ", namespace.name());
    says(
        &status().await?,
        &[
            &format!("{name}Healthy"),
            "stable ReplicaSet checkout-",
            "contour",
            "Ready=True",
        ],
    )?;
    for verb in ["promote", "abort", "pause", "resume", "retry", "undo"] {
        refused(&namespace, verb, "there is nothing to").await?;
    }
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let text = status().await?;
    says(
        &text,
        &[
            &format!("{name}Stepping step 1/4"),
            "intended 10 % accepted 10 %",
            "▶ 10 %",
            "· 30 %",
            "Reconciling=True",
            "checkout and checkout-canary, port 80",
        ],
    )?;
    refused(&namespace, "resume", "it is not paused").await?;
    refused(&namespace, "retry", "only a version that failed can be retried").await?;
    done(&namespace, "promote", "step 1 at 10 % is promoted").await?;
    shop::wait_for_weight(&namespace, 30, BOUND).await?;
    says(
        &status().await?,
        &[
            "step 2/4",
            "✓ 10 %",
            "▶ 30 %",
            "promote: done: step 1 at 10 % is promoted",
        ],
    )?;
    done(&namespace, "promote", "step 2 at 30 % is promoted").await?;
    shop::wait_for_weight(&namespace, 50, BOUND).await?;
    let overview = shop::plugin(&namespace, &["status"]).await?.said;
    says(&overview, &["NAME", "PHASE", "checkout", "Stepping", "3/4", "50 %"])?;
    done(&namespace, "promote", "step 3 at 50 % is promoted").await?;
    shop::wait_for_weight(&namespace, 100, BOUND).await?;
    done(&namespace, "promote", "step 4 at 100 % is promoted").await?;
    shop::wait_for(&namespace, "the end of the last step", BOUND, |status| {
        !matches!(status.phase, Some(Phase::Stepping))
    })
    .await?;
    // Whichever of the three states it is in by now: a step is not to be had any more.
    refused(&namespace, "promote", "").await?;
    let after = shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    ensure!(after.history.first().map(|past| past.outcome) == Some(Outcome::Promoted));
    let deployment = shop::deployment(&namespace).await?;
    ensure!(deployment["spec"].get("paused").is_none(), "{deployment}");
    says(&status().await?, &["Healthy", "History", "Promoted"])?;
    let json = shop::plugin(&namespace, &["status", NAME, "--output", "json"])
        .await?
        .said;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(json["status"]["phase"] == "Healthy", "{json}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_takes_it_back_and_retry_tries_it_again() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    let first = shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let first = run(&first)?.id.clone();
    done(
        &namespace,
        "abort",
        "the run is aborted: all traffic goes back to stable",
    )
    .await?;
    refused(&namespace, "abort", "there is nothing to abort").await?;
    let failed = shop::wait(&namespace, Phase::Failed, BOUND).await?;
    let cause = &failed.failed.as_ref().context("what failed")?.cause;
    ensure!(
        cause.reason == "Aborted" && cause.detail == "aborted by a person",
        "{cause:?}"
    );
    let deployment = shop::deployment(&namespace).await?;
    ensure!(deployment["spec"]["paused"] == true, "{deployment}");
    for verb in ["promote", "abort", "pause", "resume"] {
        refused(&namespace, verb, &format!("the last one, {first}, failed (Aborted)")).await?;
    }
    done(
        &namespace,
        "retry",
        &format!("the version of run {first} is tried again"),
    )
    .await?;
    let second = shop::wait_for_weight(&namespace, 10, BOUND).await?;
    ensure!(run(&second)?.id != first, "the same run");
    done(&namespace, "abort", "aborted").await?;
    shop::wait(&namespace, Phase::Failed, BOUND).await?;
    // Stable's template put back: nothing is left to retry.
    shop::ship(&namespace, "v1", "0%").await?;
    shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    refused(&namespace, "retry", "no version has failed here").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_run_stays_until_it_is_resumed_promoted_or_aborted() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    done(&namespace, "pause", "paused at 10 % by a person").await?;
    let paused = shop::wait(&namespace, Phase::Paused, BOUND).await?;
    ensure!(
        matches!(
            run(&paused)?.state,
            RunState::Paused {
                why: PauseReason::Command,
                ..
            }
        ),
        "{paused:?}"
    );
    refused(&namespace, "pause", "is paused already").await?;
    refused(&namespace, "retry", "only a version that failed can be retried").await?;
    let text = seen_status(&namespace).await?;
    ensure!(
        text.contains("‖ 10 %") && text.contains("paused by a person (resume)"),
        "{text}"
    );
    done(&namespace, "resume", "10 %: goes on after a pause").await?;
    let resumed = shop::wait(&namespace, Phase::Stepping, BOUND).await?;
    ensure!(run(&resumed)?.weight == 10 && run(&resumed)?.step == 0, "{resumed:?}");
    done(&namespace, "pause", "paused").await?;
    done(&namespace, "promote", "step 1 at 10 % is promoted").await?;
    shop::wait_for_weight(&namespace, 30, BOUND).await?;
    done(&namespace, "pause", "paused at 30 %").await?;
    done(&namespace, "abort", "aborted").await?;
    shop::wait(&namespace, Phase::Failed, BOUND).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_for_another_run_or_step_or_one_that_cannot_be_read_is_answered_and_cleared() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    let answer = by_hand(&namespace, "make it so").await?;
    ensure!(
        !answer.done && answer.verb.is_none() && answer.message.contains("could not be read"),
        "{answer:?}"
    );
    let answer = by_hand(&namespace, &command(Verb::Abort, "nobody-1", None, "a")?).await?;
    ensure!(
        !answer.done && answer.message == "abort: no run is under way",
        "{answer:?}"
    );
    shop::ship(&namespace, "v2", "0%").await?;
    let status = shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let id = run(&status)?.id.clone();
    let cases = [
        (
            command(Verb::Promote, "nobody-1", Some(1), "b")?,
            format!("promote was meant for run nobody-1, and the present one is {id}"),
        ),
        (
            command(Verb::Promote, &id, Some(3), "c")?,
            "promote was meant for step 3, and the run is at step 1".to_owned(),
        ),
        (
            command(Verb::Promote, &id, None, "d")?,
            "promote: the command has to say for which step it is meant".to_owned(),
        ),
        (
            command(Verb::Retry, &id, None, "e")?,
            "retry: a run is under way; abort it first".to_owned(),
        ),
        (
            command(Verb::Undo, &id, None, "u")?,
            "undo: a run is under way; abort it first".to_owned(),
        ),
        (
            command(Verb::Resume, &id, None, "f")?,
            "resume: the run is Stepping, not paused".to_owned(),
        ),
        (
            json!({"verb": "explode", "run": id, "nonce": "g"}).to_string(),
            "unknown variant `explode`".to_owned(),
        ),
    ];
    for (text, words) in &cases {
        let answer = by_hand(&namespace, text).await?;
        ensure!(
            !answer.done && answer.message.contains(words),
            "wanted `{words}`: {answer:?}"
        );
    }
    let status = shop::status(&namespace).await?;
    ensure!(run(&status)?.weight == 10 && run(&status)?.step == 0, "{status:?}");
    until("the Events of the refusals", BOUND, async || {
        let events = shop::events(&namespace, NAME).await?;
        let missing: Vec<_> = cases
            .iter()
            .map(|(_, words)| words)
            .filter(|words| {
                !events
                    .iter()
                    .any(|(reason, text)| reason == "CommandRefused" && text.contains(*words))
            })
            .collect();
        Ok(if missing.is_empty() {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("not told: {missing:?}"))
        })
    })
    .await?;
    // And one that is right goes through, whoever wrote it.
    let answer = by_hand(&namespace, &command(Verb::Promote, &id, Some(1), "h")?).await?;
    ensure!(answer.done, "{answer:?}");
    shop::wait_for_weight(&namespace, 30, BOUND).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn promote_full_skips_all_steps_that_are_left() -> Result<()> {
    let (namespace, _operator) = scene(&Shop::small()).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let record = Record::start(&namespace);
    let answer = shop::plugin(&namespace, &["promote", "--full", NAME]).await?;
    ensure!(
        answer.code == Some(0) && answer.said.contains("promoted fully by a person"),
        "{answer:?}"
    );
    let after = shop::wait(&namespace, Phase::Healthy, BOUND * 2).await?;
    ensure!(
        after.history.first().map(|past| past.outcome) == Some(Outcome::Promoted),
        "{after:?}"
    );
    // From 10 to 100, with no step between.
    let mut weights: Vec<i32> = record
        .statuses()
        .iter()
        .filter_map(|(_, status)| status.run.as_ref())
        .filter(|run| matches!(run.state, RunState::Stepping { .. }))
        .map(|run| run.weight)
        .collect();
    weights.dedup();
    ensure!(weights == [10, 100], "{}", record.timeline());
    let events = shop::events(&namespace, NAME).await?;
    ensure!(events.iter().any(|(reason, _)| reason == "PromotedFully"), "{events:?}");
    let deployment = shop::deployment(&namespace).await?;
    ensure!(deployment["spec"].get("paused").is_none(), "{deployment}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_needs_an_approval_waits_for_it_with_its_evidence() -> Result<()> {
    let shop = Shop {
        replicas: 2,
        rollout: "  steps: [{weight: 50, approval: Required}, {weight: 100}]\n  analysis: {errorRate: {max: 50%}}\n"
            .to_owned(),
        ..Shop::default()
    };
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("commands").await?;
    let (_prometheus, quick) = quick(&namespace).await?;
    let options = OperatorOptions {
        sources: quick.sources,
        ..OperatorOptions::led_by_commands()
    };
    let _operator = Operator::start(&namespace, options).await?;
    shop.open(&namespace).await?;
    let load = Load::start(LoadOptions {
        rate: 40.0,
        ..shop::load(&namespace)
    })?;
    shop::ship(&namespace, "v2", "0%").await?;
    let status = shop::wait(&namespace, Phase::Paused, BOUND).await?;
    ensure!(
        matches!(
            run(&status)?.state,
            RunState::Paused {
                why: PauseReason::Approval,
                ..
            }
        ),
        "{status:?}"
    );
    ensure!(status.verdict.as_deref() == Some("Pass"), "{status:?}");
    let metric = run(&status)?.metrics.first().context("counts")?;
    ensure!(metric.canary_requests > 10 && metric.canary_bad == 0, "{metric:?}");
    let text = seen_status(&namespace).await?;
    for words in [
        "50 % waits for an approval: kubectl stepgate promote checkout",
        "needs approval",
        "Verdict Pass",
        "evidence for it",
        "intended 50 % accepted 50 % measured ",
    ] {
        ensure!(text.contains(words), "wanted `{words}` in:\n{text}");
    }
    let events = shop::events(&namespace, NAME).await?;
    ensure!(
        events.iter().any(|(reason, text)| {
            reason == "ApprovalRequired" && text.contains("checkout: passed (errors: canary 0 of ")
        }),
        "{events:?}"
    );
    refused(&namespace, "resume", "not for a resume: use `promote`").await?;
    done(&namespace, "promote", "step 1 at 50 % is promoted").await?;
    // The rest it goes by itself.
    shop::wait_for_weight(&namespace, 100, BOUND).await?;
    shop::wait(&namespace, Phase::Healthy, BOUND * 2).await?;
    let report = load.stop().await?;
    ensure!(report.other_failures() == 0, "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_waits_for_an_operator_that_is_away_and_abort_overtakes_it() -> Result<()> {
    let (namespace, mut operator) = scene(&Shop::small()).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    operator.kill().await?;
    let answer = shop::plugin(&namespace, &["promote", NAME, "--wait=1s"]).await?;
    ensure!(
        answer.code == Some(3) && answer.complained.contains("the operator did not take it up within 1 s"),
        "{answer:?}"
    );
    refused(&namespace, "pause", "an earlier command (promote) was not taken up yet").await?;
    let answer = shop::plugin(&namespace, &["abort", NAME, "--wait=0s"]).await?;
    ensure!(
        answer.code == Some(0) && answer.said.contains("was written"),
        "{answer:?}"
    );
    operator.restart().await?;
    let failed = shop::wait(&namespace, Phase::Failed, BOUND).await?;
    ensure!(
        failed
            .failed
            .as_ref()
            .is_some_and(|failed| failed.cause.reason == "Aborted"),
        "{failed:?}"
    );
    let left = shop::rollout(&namespace)
        .await?
        .metadata
        .annotations
        .unwrap_or_default();
    ensure!(!left.contains_key(COMMAND), "{left:?}");
    Ok(())
}
