//! Requests under way: which of them could still change anything, and what is checked when one arrives.

use std::rc::Rc;

use stepgate_core::{Act, Effect, Kind};
use stepgate_crds::{RolloutStatus, command::Command, status::RunState};

use super::world::{Rules, World, status_in};
use crate::fixtures::{
    api::kind_name,
    checker::{Checker, canary_weight},
    cluster::Cluster,
};

/// A request under way, with what it was decided on.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub what: What,
    /// The world as it was believed to be.
    pub view: Rc<Cluster>,
    /// The status in it.
    pub status: Rc<RolloutStatus>,
    /// What the rules remembered then.
    pub checker: Rc<Checker>,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// A status under this resourceVersion, with the command that it answers.
    Commit {
        version: String,
        status: Rc<RolloutStatus>,
        command: Option<Command>,
    },
    Effect(Effect),
}

impl World {
    /// Whether a request could still change anything, whenever it arrives: no version of an object ever comes again.
    pub(super) fn is_alive(&self, rules: &Rules, request: &Request) -> bool {
        let (kind, name) = match &request.what {
            What::Commit { .. } => ("Rollout", "checkout"),
            What::Effect(effect) => (kind_name(effect.kind), effect.name.as_str()),
        };
        let object = self.cluster.api.get(kind, name);
        let is =
            |field: &str, value: &serde_json::Value| object.is_some_and(|object| object["metadata"][field] == *value);
        match &request.what {
            What::Commit { version, .. } => {
                is("resourceVersion", &serde_json::json!(version)) || (rules.rebases && object.is_some())
            }
            What::Effect(effect) => match &effect.act {
                Act::Create(_) => object.is_none(),
                Act::Delete { uid } if effect.kind == Kind::ReplicaSet => {
                    self.cluster.controllers.sets.iter().any(|set| set.uid == *uid)
                }
                Act::Delete { uid } => {
                    is("uid", &serde_json::json!(uid))
                        && object.is_some_and(|object| object["metadata"].get("deletionTimestamp").is_none())
                }
                Act::Merge(_) | Act::Patch(_) => {
                    version_of(&effect.act).is_some_and(|version| is("resourceVersion", version))
                        || (rules.rebases && object.is_some())
                }
            },
        }
    }

    /// Forgets requests that will be refused.
    pub(super) fn forget_dead(&mut self, rules: &Rules) {
        let mut operators = std::mem::take(&mut self.operators);
        for operator in &mut operators {
            operator.requests.retain(|request| self.is_alive(rules, request));
        }
        self.operators = operators;
        let mut orphans = std::mem::take(&mut self.orphans);
        orphans.retain(|request| self.is_alive(rules, request));
        self.orphans = orphans;
    }

    /// A request arrives. Says which rule was broken by it.
    pub(super) fn land(&mut self, rules: &Rules, request: &Request) -> Result<(), String> {
        let before = Rc::clone(&self.cluster);
        match &request.what {
            What::Commit {
                version,
                status,
                command,
            } => {
                let mut cluster = (*before).clone();
                let current = before
                    .api
                    .get("Rollout", "checkout")
                    .map(|object| object["metadata"]["resourceVersion"].clone());
                let version = if rules.rebases {
                    current
                        .as_ref()
                        .and_then(|version| version.as_str())
                        .unwrap_or_default()
                } else {
                    version
                };
                let written = serde_json::to_value(&**status).unwrap();
                if cluster.api.commit("checkout", version, written).is_err() {
                    return Ok(());
                }
                let old = status_in(&before);
                let mut checker = (*self.checker).clone();
                if let Err(why) = checker.commit(&before, &old, status, command.as_ref()) {
                    checker = (*self.checker).clone();
                    checker
                        .commit(&request.view, &old, status, command.as_ref())
                        .map_err(|_| why)?;
                }
                self.checker = Rc::new(checker);
                self.become_cluster(cluster);
            }
            What::Effect(effect) => {
                let effect = if rules.rebases {
                    rebased(effect, &before)
                } else {
                    effect.clone()
                };
                let mut cluster = (*before).clone();
                if cluster.execute(&effect).is_err() {
                    return Ok(());
                }
                let mut checker = (*self.checker).clone();
                if let Err(why) = checker.effect(&before, &cluster, &effect, &request.status) {
                    // What changed between what was looked at and the arrival nobody could have known.
                    let pinned = matches!(effect.act, Act::Merge(_) | Act::Patch(_));
                    let mut believed = (*request.view).clone();
                    let mut then = request.checker.known_by(&request.status);
                    if !pinned || believed.execute(&effect).is_err() {
                        return Err(why);
                    }
                    then.effect(&request.view, &believed, &effect, &request.status)
                        .map_err(|_| why)?;
                    checker = (*self.checker).clone();
                }
                self.checker = Rc::new(checker);
                self.is_fenced(&effect, &request.status, (&before, &cluster))?;
                self.become_cluster(cluster);
            }
        }
        Ok(())
    }

    /// No write takes effect after the first one of a newer intent, before its own was committed, or once the canary drains.
    fn is_fenced(
        &mut self,
        effect: &Effect,
        decided: &RolloutStatus,
        (before, after): (&Cluster, &Cluster),
    ) -> Result<(), String> {
        if effect.kind != Kind::HttpRoute {
            return Ok(());
        }
        let Some(run) = &decided.run else {
            return Err("a route is written at rest".to_owned());
        };
        let key = (kind_name(effect.kind), effect.name.clone());
        let intent = (run.id.clone(), run.seq);
        if let Some((id, seq)) = self.landed.get(&key)
            && (number(id), *seq) > (number(&run.id), run.seq)
        {
            return Err(format!(
                "a write of intent {intent:?} takes effect after one of {:?}",
                (id, seq)
            ));
        }
        self.landed.insert(key, intent);
        let now = status_in(before).run;
        let weight = |cluster: &Cluster| {
            let route = cluster.api.get("HTTPRoute", &effect.name);
            route.map_or(0, |route| canary_weight(&route["spec"]))
        };
        let committed = now.as_ref().is_some_and(|now| now.id == run.id && now.seq >= run.seq);
        let draining = now
            .as_ref()
            .is_none_or(|now| matches!(now.state, RunState::Draining { .. }));
        if weight(after) > weight(before) && !committed {
            return Err(format!(
                "intent {:?} is written and was never committed",
                (&run.id, run.seq)
            ));
        }
        if weight(after) > weight(before) && draining {
            return Err(format!(
                "from {} % to {} % while the canary drains",
                weight(before),
                weight(after)
            ));
        }
        Ok(())
    }
}

/// The number of a run in its id.
fn number(id: &str) -> u64 {
    id.rsplit_once('-')
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

/// The resourceVersion that a write names.
fn version_of(act: &Act) -> Option<&serde_json::Value> {
    match act {
        Act::Merge(patch) => patch.pointer("/metadata/resourceVersion"),
        Act::Patch(operations) => {
            let tests = operations
                .iter()
                .find(|one| one["op"] == "test" && one["path"] == "/metadata/resourceVersion");
            tests.and_then(|one| one.get("value"))
        }
        Act::Create(_) | Act::Delete { .. } => None,
    }
}

/// The write under whatever resourceVersion the object has.
fn rebased(effect: &Effect, cluster: &Cluster) -> Effect {
    let mut effect = effect.clone();
    let Some(object) = cluster.api.get(kind_name(effect.kind), &effect.name) else {
        return effect;
    };
    let version = object["metadata"]["resourceVersion"].clone();
    match &mut effect.act {
        Act::Merge(patch) => patch["metadata"]["resourceVersion"] = version,
        Act::Patch(operations) => {
            for one in operations
                .iter_mut()
                .filter(|one| one["path"] == "/metadata/resourceVersion")
            {
                one["value"] = version.clone();
            }
        }
        Act::Create(_) | Act::Delete { .. } => {}
    }
    effect
}

impl What {
    /// In words, for the path to a broken rule.
    pub(super) fn tell(&self) -> String {
        match self {
            Self::Commit { status, .. } => {
                let run = status.run.as_ref().map(|run| {
                    format!(
                        "intent {}, step {}, {} %, {:?}",
                        run.seq, run.step, run.weight, run.state
                    )
                });
                format!("status ({})", run.unwrap_or_else(|| format!("{:?}", status.phase)))
            }
            Self::Effect(effect) => {
                let goal: String = effect.act.goal().to_string().chars().take(160).collect();
                format!("{:?} {} {goal}", effect.kind, effect.name)
            }
        }
    }
}
