//! What people do in a plan, step by step: each waits for what the Rollout says before it goes on, as a person would.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::json;
use stepgate_crds::status::{Phase, Run, RunState};
use stepgate_crds::{Command, Rollout, RolloutStatus, Verb, names};

use super::observer::{Observer, World};
use super::site;
use super::source::Source;
use crate::cluster::Namespace;
use crate::shop::NAME;
use crate::until::{Seen, until};

/// The longest that anything may take, faults included.
const BOUND: Duration = Duration::from_mins(1);

/// A course that people take a Rollout through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Workload {
    /// A good version goes through.
    Promote,
    /// A bad one is found at the first step.
    Rollback,
    /// A person aborts at the first step.
    Abort,
    /// A newer version comes at the first step, and goes through.
    NewTemplate,
    /// The Rollout is deleted at the first step.
    Deletion,
    /// A good version goes through while another Rollout asks for the same Deployment and route.
    Rival,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Promote,
        Self::Rollback,
        Self::Abort,
        Self::NewTemplate,
        Self::Deletion,
        Self::Rival,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Rollback => "rollback",
            Self::Abort => "abort",
            Self::NewTemplate => "new-template",
            Self::Deletion => "deletion",
            Self::Rival => "rival",
        }
    }

    /// Whether the first step waits for a person, so that what comes next comes there.
    pub fn waits_at_the_first_step(self) -> bool {
        matches!(self, Self::Abort | Self::NewTemplate | Self::Deletion)
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

impl FromStr for Workload {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|workload| workload.word() == text);
        found.with_context(|| format!("there is no workload {text}"))
    }
}

/// What happened when, for the checks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// When the abort was written.
    pub aborted: Option<Timestamp>,
}

/// Takes the Rollout through its course, to its end.
///
/// It looks through the observer: what many courses at once ask the API server ten times a second is a third of its work.
pub async fn drive(workload: Workload, namespace: &Namespace, observer: &Observer, source: &Source) -> Result<Times> {
    let seen = Eyes { observer, namespace };
    let mut times = Times::default();
    let (application, rollout) = site::manifests(namespace, workload.waits_at_the_first_step());
    for manifest in application {
        site::apply(namespace, &manifest).await?;
    }
    seen.serves().await?;
    site::apply(namespace, &rollout).await?;
    seen.reach("Healthy", |status| status.phase == Some(Phase::Healthy))
        .await?;
    if workload == Workload::Rival {
        site::apply(namespace, &site::rival()).await?;
        seen.refused().await?;
    }
    site::apply(namespace, &site::deployment(namespace, "v2")).await?;
    match workload {
        Workload::Promote | Workload::Rival => {}
        Workload::Rollback => {
            seen.reach("the first weight", in_force).await?;
            source.turn_bad();
            seen.reach("Failed", |status| status.phase == Some(Phase::Failed))
                .await?;
            return Ok(times);
        }
        Workload::Abort => {
            seen.reach("Paused", is_paused).await?;
            times.aborted = Some(Timestamp::now());
            command(&seen, Verb::Abort).await?;
            seen.reach("Failed", |status| status.phase == Some(Phase::Failed))
                .await?;
            return Ok(times);
        }
        Workload::NewTemplate => {
            let first = seen.reach("Paused", is_paused).await?;
            let first = first.run.map(|run| run.id);
            site::apply(namespace, &site::deployment(namespace, "v3")).await?;
            seen.reach("the newer version's pause", |status| {
                is_paused(status) && status.run.as_ref().map(|run| run.id.clone()) != first
            })
            .await?;
            command(&seen, Verb::Promote).await?;
        }
        Workload::Deletion => {
            seen.reach("Paused", is_paused).await?;
            let rollouts: Api<Rollout> = namespace.api();
            rollouts.delete(NAME, &DeleteParams::background()).await?;
            return seen.gone().await.map(|()| times);
        }
    }
    seen.reach("Healthy after a promotion", |status| {
        let promoted = status
            .history
            .first()
            .is_some_and(|past| past.outcome.as_str() == "Promoted");
        status.phase == Some(Phase::Healthy) && status.run.is_none() && promoted
    })
    .await?;
    Ok(times)
}

fn is_paused(status: &RolloutStatus) -> bool {
    matches!(
        status.run,
        Some(Run {
            state: RunState::Paused { .. },
            ..
        })
    )
}

fn in_force(status: &RolloutStatus) -> bool {
    status
        .run
        .as_ref()
        .is_some_and(|run| run.weight > 0 && run.in_force.as_ref().is_some_and(|force| force.seq == run.seq))
}

/// What a course looks at.
struct Eyes<'a> {
    observer: &'a Observer,
    namespace: &'a Namespace,
}

impl Eyes<'_> {
    fn world(&self) -> World {
        self.observer.world(self.namespace.name())
    }

    /// The status of a Rollout; none where there is no such Rollout.
    fn status(&self, name: &str) -> Result<Option<RolloutStatus>> {
        let world = self.world();
        let Some(rollout) = world.get("Rollout", name) else {
            return Ok(None);
        };
        let status = rollout.get("status").cloned().map(serde_json::from_value).transpose()?;
        Ok(Some(status.unwrap_or_default()))
    }

    /// Waits until the application serves by itself: how often the Rollout would say that it does not yet is nobody's plan.
    async fn serves(&self) -> Result<()> {
        until("the application to serve", BOUND, async || {
            let world = self.world();
            let look = |kind, path| world.get(kind, NAME).and_then(|object| object.pointer(path)).cloned();
            let available = look("Deployment", "/status/availableReplicas");
            let accepted = look("HTTPRoute", "/status/parents/0/conditions/0/status");
            Ok(if available == Some(json!(1)) && accepted == Some(json!("True")) {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{available:?} pods, accepted: {accepted:?}"))
            })
        })
        .await
    }

    async fn reach(&self, what: &str, wanted: impl Fn(&RolloutStatus) -> bool) -> Result<RolloutStatus> {
        until(what, BOUND, async || {
            Ok(match self.status(NAME)? {
                Some(status) if wanted(&status) => Seen::Done(status),
                Some(status) => Seen::NotYet(said(&status)),
                None => Seen::NotYet("no Rollout".to_owned()),
            })
        })
        .await
    }

    async fn gone(&self) -> Result<()> {
        until("the Rollout to be gone", BOUND, async || {
            Ok(match self.status(NAME)? {
                None => Seen::Done(()),
                Some(status) => Seen::NotYet(said(&status)),
            })
        })
        .await
    }

    /// Waits until the rival knows that it came too late.
    async fn refused(&self) -> Result<()> {
        until("the rival's refusal", BOUND, async || {
            let status = self.status(site::RIVAL)?.unwrap_or_default();
            let is_refused = status
                .conditions
                .iter()
                .any(|condition| condition.reason == "WorkloadTaken");
            Ok(if is_refused {
                Seen::Done(())
            } else {
                Seen::NotYet(said(&status))
            })
        })
        .await
    }
}

fn said(status: &RolloutStatus) -> String {
    format!("{:?}: {}", status.phase, status.message.as_deref().unwrap_or_default())
}

async fn command(seen: &Eyes<'_>, verb: Verb) -> Result<()> {
    let Some(run) = seen.status(NAME)?.and_then(|status| status.run) else {
        bail!("{}: there is no run", verb.as_str());
    };
    let command = Command {
        verb,
        step: u32::try_from(run.step + 1).ok().filter(|_| verb == Verb::Promote),
        run: run.id,
        full: false,
        nonce: verb.as_str().to_owned(),
    };
    let patch = json!({"metadata": {"annotations": {names::COMMAND: serde_json::to_string(&command)?}}});
    let rollouts: Api<Rollout> = seen.namespace.api();
    rollouts
        .patch(NAME, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .with_context(|| format!("writing the command {}", verb.as_str()))?;
    Ok(())
}
