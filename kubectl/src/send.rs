//! Writes a command to a Rollout and waits for the operator's answer.
//!
//! One merge patch of one annotation, with the resourceVersion that the decision was made on. A conflict is read again, and tried
//! again only where the command would still be for the same run and step.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use anyhow::{Context, Error, Result};
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use stepgate_crds::{Command, Rollout, Verb, names};
use tokio::time::{Instant, sleep};

use crate::args::Request;
use crate::command::{Address, address};
use crate::connect::Connection;

/// Conflicts with the operator's own writes are rare and short.
const TRIES: u32 = 8;
const POLL: Duration = Duration::from_millis(200);

/// What became of a command.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The operator did it.
    Done(String),
    /// It makes no sense, or the operator refused it.
    Refused(String),
    /// Written; nobody waited.
    NotAwaited(String),
    /// Written, but nobody answered in time.
    Silence(String),
}

/// Sends a command and waits for its answer at most so long.
pub(crate) async fn send(connection: &Connection, request: Request, name: &str, wait: Duration) -> Result<Answer> {
    let Request { verb, full } = request;
    let rollouts = &connection.rollouts();
    let nonce = nonce();
    let full_name = format!("{}/{name}", connection.namespace);
    let mut meant: Option<Address> = None;
    let mut tries = 0;
    let command = loop {
        let rollout = match rollouts.get(name).await {
            Ok(rollout) => rollout,
            Err(error) => return Err(connection.explain(error, Some(name)).await),
        };
        let address = match address(verb, &rollout) {
            Ok(address) => address,
            Err(why) => return Ok(Answer::Refused(format!("Rollout {full_name}: {why}"))),
        };
        if *meant.get_or_insert_with(|| address.clone()) != address {
            return Ok(Answer::Refused(format!(
                "Rollout {full_name} went on while the command was written: look again with `kubectl stepgate status {name}`"
            )));
        }
        let command = Command {
            verb,
            run: address.run,
            step: address.step,
            full,
            nonce: nonce.clone(),
        };
        match overtaking(&command, &rollout) {
            Overtaking::Free => {}
            // Somebody asks for the same already: what becomes of that is the answer to both.
            Overtaking::Same(earlier) => break earlier,
            Overtaking::Refused(why) => return Ok(Answer::Refused(format!("Rollout {full_name}: {why}"))),
        }
        match write(rollouts, &rollout, &command).await {
            Ok(()) => break command,
            Err(kube::Error::Api(answer)) if answer.is_conflict() && tries < TRIES => {
                tries += 1;
                sleep(POLL / 4 * tries).await;
            }
            Err(error) => return Err(connection.explain(error, Some(name)).await),
        }
    };
    let what = match command.step {
        Some(step) => format!("{} of step {step} of run {}", verb.as_str(), command.run),
        None => format!("{} of run {}", verb.as_str(), command.run),
    };
    if wait.is_zero() {
        return Ok(Answer::NotAwaited(format!(
            "Rollout {full_name}: {what} was written; `kubectl stepgate status {name}` shows what becomes of it"
        )));
    }
    match answer(rollouts, name, &command.nonce, wait)
        .await
        .with_context(|| format!("waiting for the answer to {what}"))?
    {
        Heard::Done(message) => Ok(Answer::Done(format!("Rollout {full_name}: {message}"))),
        Heard::Refused(message) => Ok(Answer::Refused(format!("Rollout {full_name}: {message}"))),
        Heard::Overtaken(other) => Ok(Answer::Refused(format!(
            "Rollout {full_name}: another command ({other}) took the place of {what} before its answer was read: look with \
             `kubectl stepgate status {name}`"
        ))),
        Heard::Nothing => Ok(Answer::Silence(format!(
            "Rollout {full_name}: {what} was written, but the operator did not take it up within {} s. It will once it runs \
             (kubectl get deployments -A -l app.kubernetes.io/name=stepgate); to take the command back: \
             kubectl -n {} annotate rollout {name} {}-",
            wait.as_secs(),
            connection.namespace,
            names::COMMAND
        ))),
    }
}

/// Whether a command may be written where another may stand already.
#[derive(Debug, PartialEq)]
enum Overtaking {
    /// It may.
    Free,
    /// The same command stands there: this one.
    Same(Command),
    /// It may not: why.
    Refused(String),
}

/// A command that nobody took up yet is not written over, except by `abort`: that is the safe side.
fn overtaking(command: &Command, rollout: &Rollout) -> Overtaking {
    let Some(pending) = rollout.annotations().get(names::COMMAND) else {
        return Overtaking::Free;
    };
    let earlier = serde_json::from_str::<Command>(pending).ok();
    if command.verb == Verb::Abort {
        let same = |earlier: &Command| earlier.verb == Verb::Abort && earlier.run == command.run;
        return earlier.filter(same).map_or(Overtaking::Free, Overtaking::Same);
    }
    Overtaking::Refused(format!(
        "an earlier command ({}) was not taken up yet; wait for it, or take it back: kubectl -n {} annotate rollout {} {}-",
        earlier.map_or("unreadable", |earlier| earlier.verb.as_str()),
        rollout.namespace().unwrap_or_default(),
        rollout.name_any(),
        names::COMMAND
    ))
}

async fn write(rollouts: &Api<Rollout>, rollout: &Rollout, command: &Command) -> Result<(), kube::Error> {
    let text = serde_json::to_string(command).map_err(kube::Error::SerdeError)?;
    let patch = json!({"metadata": {
        "resourceVersion": rollout.resource_version(),
        "uid": rollout.uid(),
        "annotations": {names::COMMAND: text},
    }});
    let parameters = PatchParams {
        field_manager: Some("kubectl-stepgate".to_owned()),
        ..PatchParams::default()
    };
    rollouts
        .patch(&rollout.name_any(), &parameters, &Patch::Merge(patch))
        .await
        .map(drop)
}

/// What was heard of a command that was written.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    /// It was done, in the operator's words.
    Done(String),
    /// It was refused, in the operator's words.
    Refused(String),
    /// Another command, of this verb, was written over it or answered after it.
    Overtaken(&'static str),
    /// Nothing yet.
    Nothing,
}

async fn answer(rollouts: &Api<Rollout>, name: &str, nonce: &str, wait: Duration) -> Result<Heard> {
    let end = Instant::now() + wait;
    loop {
        let heard = heard(&rollouts.get(name).await.map_err(Error::new)?, nonce);
        if heard != Heard::Nothing || Instant::now() >= end {
            return Ok(heard);
        }
        sleep(POLL).await;
    }
}

/// The operator answers in `status` first and takes the annotation off then: a command that is in neither has been overtaken.
fn heard(rollout: &Rollout, nonce: &str) -> Heard {
    let outcome = rollout.status.as_ref().and_then(|status| status.command.as_ref());
    match outcome {
        Some(outcome) if outcome.nonce == nonce && outcome.done => return Heard::Done(outcome.message.clone()),
        Some(outcome) if outcome.nonce == nonce => return Heard::Refused(outcome.message.clone()),
        _ => {}
    }
    let pending = rollout.annotations().get(names::COMMAND);
    match pending.map(|pending| serde_json::from_str::<Command>(pending)) {
        Some(Ok(command)) if command.nonce == nonce => Heard::Nothing,
        Some(Ok(command)) => Heard::Overtaken(command.verb.as_str()),
        Some(Err(_)) => Heard::Overtaken("unreadable"),
        None => Heard::Overtaken(outcome.and_then(|outcome| outcome.verb).map_or("none", Verb::as_str)),
    }
}

/// 16 hexadecimal digits from the seed that the standard library draws for each of its hash maps.
fn nonce() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod tests {
    use stepgate_crds::status::CommandOutcome;

    use super::*;
    use crate::status::fixtures;

    #[test]
    fn a_nonce_is_never_the_same() {
        assert_ne!(nonce(), nonce());
        assert_eq!(nonce().len(), 16);
    }

    fn command(verb: Verb, nonce: &str) -> Command {
        Command {
            verb,
            run: "r7".into(),
            step: None,
            full: false,
            nonce: nonce.into(),
        }
    }

    fn pending(command: &Command) -> Rollout {
        let mut rollout = fixtures::stepping(0);
        rollout
            .annotations_mut()
            .insert(names::COMMAND.to_owned(), serde_json::to_string(command).unwrap());
        rollout
    }

    #[test]
    fn a_command_in_waiting_is_overtaken_by_abort_alone() {
        let (pause, abort) = (command(Verb::Pause, "1"), command(Verb::Abort, "2"));
        assert_eq!(overtaking(&pause, &fixtures::stepping(0)), Overtaking::Free);
        assert_eq!(overtaking(&abort, &pending(&pause)), Overtaking::Free);
        let Overtaking::Refused(why) = overtaking(&pause, &pending(&abort)) else {
            panic!("a pause took the place of an abort")
        };
        assert!(why.contains("(abort)"), "{why}");
    }

    #[test]
    fn two_who_abort_wait_for_one_answer() {
        let (first, second) = (command(Verb::Abort, "1"), command(Verb::Abort, "2"));
        assert_eq!(overtaking(&second, &pending(&first)), Overtaking::Same(first));
    }

    #[test]
    fn what_becomes_of_a_command_is_read_from_status_and_annotation_together() {
        let mut rollout = pending(&command(Verb::Promote, "1"));
        assert_eq!(heard(&rollout, "1"), Heard::Nothing);
        assert_eq!(heard(&rollout, "2"), Heard::Overtaken("promote"));
        rollout.status.as_mut().unwrap().command = Some(CommandOutcome {
            verb: Some(Verb::Promote),
            nonce: "1".into(),
            done: true,
            message: "step 1 is promoted".into(),
        });
        assert_eq!(heard(&rollout, "1"), Heard::Done("step 1 is promoted".into()));
        rollout.annotations_mut().clear();
        assert_eq!(heard(&rollout, "2"), Heard::Overtaken("promote"));
        rollout.status.as_mut().unwrap().command.as_mut().unwrap().done = false;
        assert_eq!(heard(&rollout, "1"), Heard::Refused("step 1 is promoted".into()));
    }
}
