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
        if let Some(why) = overtaking(verb, &rollout) {
            return Ok(Answer::Refused(format!("Rollout {full_name}: {why}")));
        }
        let command = Command {
            verb,
            run: address.run,
            step: address.step,
            full,
            nonce: nonce.clone(),
        };
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
    match answer(rollouts, name, &nonce, wait)
        .await
        .with_context(|| format!("waiting for the answer to {what}"))?
    {
        Some((true, message)) => Ok(Answer::Done(format!("Rollout {full_name}: {message}"))),
        Some((false, message)) => Ok(Answer::Refused(format!("Rollout {full_name}: {message}"))),
        None => Ok(Answer::Silence(format!(
            "Rollout {full_name}: {what} was written, but the operator did not take it up within {} s. It will once it runs \
             (kubectl get deployments -A -l app.kubernetes.io/name=stepgate); to take the command back: \
             kubectl -n {} annotate rollout {name} {}-",
            wait.as_secs(),
            connection.namespace,
            names::COMMAND
        ))),
    }
}

/// A command that nobody took up yet is not written over, except by `abort`: that is the safe side.
fn overtaking(verb: Verb, rollout: &Rollout) -> Option<String> {
    let pending = rollout.annotations().get(names::COMMAND)?;
    if verb == Verb::Abort {
        return None;
    }
    let earlier = serde_json::from_str::<Command>(pending).map_or("unreadable", |command| command.verb.as_str());
    Some(format!(
        "an earlier command ({earlier}) was not taken up yet; wait for it, or take it back: kubectl -n {} annotate rollout {} {}-",
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

/// Whether it was done, and the operator's words; none where there was no answer in time.
async fn answer(rollouts: &Api<Rollout>, name: &str, nonce: &str, wait: Duration) -> Result<Option<(bool, String)>> {
    let end = Instant::now() + wait;
    loop {
        let rollout = rollouts.get(name).await.map_err(Error::new)?;
        let outcome = rollout
            .status
            .and_then(|status| status.command)
            .filter(|outcome| outcome.nonce == nonce);
        if let Some(outcome) = outcome {
            return Ok(Some((outcome.done, outcome.message)));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        sleep(POLL).await;
    }
}

/// 16 hexadecimal digits from the seed that the standard library draws for each of its hash maps.
fn nonce() -> String {
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::fixtures;

    #[test]
    fn a_nonce_is_never_the_same() {
        assert_ne!(nonce(), nonce());
        assert_eq!(nonce().len(), 16);
    }

    #[test]
    fn a_command_in_waiting_is_overtaken_by_abort_alone() {
        let mut rollout = fixtures::stepping(0);
        assert_eq!(overtaking(Verb::Pause, &rollout), None);
        let waiting = Command {
            verb: Verb::Abort,
            run: "r7".into(),
            step: None,
            full: false,
            nonce: "1".into(),
        };
        rollout
            .annotations_mut()
            .insert(names::COMMAND.to_owned(), serde_json::to_string(&waiting).unwrap());
        assert!(overtaking(Verb::Resume, &rollout).unwrap().contains("(abort)"));
        assert_eq!(overtaking(Verb::Abort, &rollout), None);
    }
}
