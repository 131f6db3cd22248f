//! `kubectl stepgate`: shows rollouts, and passes a person's commands to the operator.
//!
//! It decides nothing about traffic and writes nothing but one annotation on a Rollout; what becomes of it, the operator says in
//! `status.command`. `release` needs no operator: it lets a held Deployment go. `replay` judges counts, of a file without a cluster.
//! `preview` foretells what a manifest would do.
//! Exit code 0: done; 1: refused or failed; 2: wrong usage; 3: the operator did not answer in time.

mod args;
mod command;
mod connect;
mod explain;
mod figures;
mod preview;
mod release;
mod replay;
mod send;
mod status;
mod table;

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use kube::api::{DynamicObject, ListParams};
use stepgate_core::state::interval_seconds;
use stepgate_crds::units::Timestamp;

use args::{Action, Arguments, ExplainArguments, Output, PreviewArguments, ReplayArguments, StatusArguments};
use connect::Connection;
use send::Answer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to report to when stderr is closed.
            drop(writeln!(io::stderr(), "error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode> {
    let connect = Connection::open(&arguments.target);
    let answer = match &arguments.action {
        Action::Replay(wanted) => {
            match (&wanted.counts, &wanted.name) {
                (Some(counts), _) => replay(counts, wanted)?,
                (None, name) => replay_run(&connect.await?, name.as_deref().unwrap_or_default(), wanted.output).await?,
            }
            return Ok(ExitCode::SUCCESS);
        }
        Action::Status(wanted) => {
            show(&connect.await?, wanted).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Explain(wanted) => {
            explain(&connect.await?, wanted).await?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Preview(wanted) => {
            let connection = connect
                .await
                .map_err(|error| format!("{error} ({})", error.root_cause()));
            return preview(connection, wanted, arguments.target.namespace.as_deref()).await;
        }
        Action::Release(wanted) => release::release(&connect.await?, &wanted.name).await?,
        Action::Ask(ask) => {
            let (request, wanted) = ask.request();
            send::send(
                &connect.await?,
                request,
                args::bare(&wanted.name),
                wanted.wait.duration(),
            )
            .await?
        }
    };
    match answer {
        Answer::Done(message) | Answer::NotAwaited(message) => {
            say(&format!("{message}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Answer::Refused(message) => {
            writeln!(io::stderr(), "refused: {message}")?;
            Ok(ExitCode::FAILURE)
        }
        Answer::Silence(message) => {
            writeln!(io::stderr(), "no answer: {message}")?;
            Ok(ExitCode::from(3))
        }
    }
}

async fn replay_run(connection: &Connection, name: &str, output: Option<Output>) -> Result<()> {
    let name = args::bare(name);
    let rollout = match connection.rollouts().get(name).await {
        Ok(rollout) => rollout,
        Err(error) => return Err(connection.explain(error, Some(name)).await),
    };
    let run = replay::of_run(&rollout, Timestamp::from(jiff::Timestamp::now()))?;
    say(&match output {
        Some(Output::Json) => run.replay.json()?,
        None => run.head + &run.replay.text(),
    })
}

fn replay(counts: &Path, wanted: &ReplayArguments) -> Result<()> {
    let (text, name) = read(counts, "--counts a file of JSON")?;
    let replay = replay::replay(&text, &name, interval_seconds(wanted.interval))?;
    say(&match wanted.output {
        Some(Output::Json) => replay.json()?,
        None => replay.text(),
    })
}

/// A file's text and its name; `-` is standard input.
fn read(file: &Path, wanted: &str) -> Result<(String, String)> {
    let name = file.display().to_string();
    let text = if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    let text = text.with_context(|| format!("{name}: cannot be read; give {wanted} that you may read"))?;
    Ok((text, name))
}

async fn preview(
    connection: Result<Connection, String>,
    wanted: &PreviewArguments,
    namespace: Option<&str>,
) -> Result<ExitCode> {
    let (text, name) = read(&wanted.filename, "-f a manifest")?;
    let previews = preview::preview(&text, &name, connection, wanted, namespace).await?;
    say(&match wanted.output {
        Some(Output::Json) => previews.json()?,
        None => previews.text(),
    })?;
    Ok(if previews.is_refused() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

async fn show(connection: &Connection, wanted: &StatusArguments) -> Result<()> {
    let name = wanted.name.as_deref().map(args::bare);
    if let Some(Output::Json) = wanted.output {
        // As the server has it, with fields that this version does not know.
        let objects = connection.dynamic(wanted.all_namespaces);
        let text = match name {
            Some(name) => {
                let object: DynamicObject = match objects.get(name).await {
                    Ok(object) => object,
                    Err(error) => return Err(connection.explain(error, Some(name)).await),
                };
                serde_json::to_string_pretty(&object)
            }
            None => match objects.list(&ListParams::default()).await {
                Ok(list) => serde_json::to_string_pretty(&list),
                Err(error) => return Err(connection.explain(error, None).await),
            },
        };
        return say(&(text.context("writing JSON")? + "\n"));
    }
    let now = Timestamp::from(jiff::Timestamp::now());
    if let Some(name) = name {
        return match connection.rollouts().get(name).await {
            Ok(rollout) => say(&status::detail(&rollout, now)),
            Err(error) => Err(connection.explain(error, Some(name)).await),
        };
    }
    let rollouts = if wanted.all_namespaces {
        connection.all_rollouts()
    } else {
        connection.rollouts()
    };
    match rollouts.list(&ListParams::default()).await {
        Ok(list) if list.items.is_empty() => {
            let place = if wanted.all_namespaces {
                "any namespace".to_owned()
            } else {
                format!("namespace {}", connection.namespace)
            };
            writeln!(io::stderr(), "no Rollouts in {place}")?;
            Ok(())
        }
        Ok(list) => say(&status::overview(&list.items, wanted.all_namespaces, now)),
        Err(error) => Err(connection.explain(error, None).await),
    }
}

async fn explain(connection: &Connection, wanted: &ExplainArguments) -> Result<()> {
    let name = args::bare(&wanted.name);
    let rollout = match connection.rollouts().get(name).await {
        Ok(rollout) => rollout,
        Err(error) => return Err(connection.explain(error, Some(name)).await),
    };
    say(&match wanted.output {
        Some(Output::Json) => explain::json(&rollout)?,
        None => explain::text(&rollout, Timestamp::from(jiff::Timestamp::now())),
    })
}

/// Writes to standard output. A reader that has left (`| head`) is no error.
fn say(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("writing to standard output"),
    }
}
