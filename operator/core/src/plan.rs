//! What a decision is: commit a status, act on the world, or wait.
//!
//! An effect is absolute, carries its preconditions inside its patch, and is not asked for when it is already true. The shell has no
//! choice left: it turns each into one HTTP request.

use serde::Serialize;
use serde_json::{Value, json};
use stepgate_crds::{RolloutStatus, names, units::Timestamp};

use crate::input::{RolloutView, WorkloadView};

/// A decision.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Write this status under the Rollout's resourceVersion, then decide again.
    Commit(Box<RolloutStatus>),
    /// Do this, each following from the committed status, then decide again.
    Act(Vec<Effect>),
    /// Nothing to do until something changes, or the wake comes.
    Wait(Wake),
}

/// When to look again, and what to bring.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wake {
    /// At the latest at this time.
    pub at: Option<Timestamp>,
    /// What the next decision needs.
    pub need: Need,
}

/// What a decision needs besides the watched objects. Where one is asked for, the shell brings it at once and decides again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// The lists of preflight.
    pub survey: bool,
    /// The Deployment's ReplicaSets.
    pub replica_sets: bool,
    /// The recorded templates, whole.
    pub recorded: bool,
}

impl Need {
    /// The lists of preflight.
    pub const SURVEY: Self = Self {
        survey: true,
        replica_sets: false,
        recorded: false,
    };
    /// The Deployment's ReplicaSets.
    pub const REPLICA_SETS: Self = Self {
        survey: false,
        replica_sets: true,
        recorded: false,
    };
    /// The recorded templates, whole.
    pub const RECORDED: Self = Self {
        survey: false,
        replica_sets: false,
        recorded: true,
    };
}

/// One request that changes the world.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// On what kind of object.
    pub kind: Kind,
    /// Its name, in the Rollout's namespace.
    pub name: String,
    /// What to do.
    pub act: Act,
}

/// The kinds of objects that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum Kind {
    /// The Rollout's metadata.
    Rollout,
    /// The user's Deployment or the canary's.
    Deployment,
    /// A ReplicaSet of a version that failed, left empty.
    ReplicaSet,
    /// The canary's Service.
    Service,
    /// A recorded template.
    PodTemplate,
    /// The user's route.
    HttpRoute,
}

/// What to do with an object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub enum Act {
    /// Make it; that it is there already is as good.
    Create(Value),
    /// A JSON merge patch that names the uid and resourceVersion it was decided on.
    Merge(Value),
    /// A JSON Patch whose first operations test what it was decided on.
    Patch(Vec<Value>),
    /// Delete the object of this uid; that it is gone already is as good.
    Delete {
        /// Its uid.
        uid: String,
    },
}

impl Act {
    /// What it brings about, without what it was decided on.
    pub fn goal(&self) -> Value {
        match self {
            Self::Create(object) => json!({"create": object}),
            Self::Delete { uid } => json!({"delete": uid}),
            Self::Merge(patch) => {
                let mut goal = patch.clone();
                if let Some(metadata) = goal.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("resourceVersion");
                }
                goal
            }
            Self::Patch(operations) => {
                let is_test = |operation: &Value| operation.get("op").and_then(Value::as_str) == Some("test");
                operations
                    .iter()
                    .filter(|operation| !is_test(operation))
                    .cloned()
                    .collect()
            }
        }
    }
}

impl Effect {
    /// A merge patch under the precondition of uid and resourceVersion.
    pub fn merge(kind: Kind, name: &str, uid: &str, version: &str, mut patch: Value) -> Self {
        if let Some(metadata) = patch
            .as_object_mut()
            .map(|fields| fields.entry("metadata").or_insert_with(|| json!({})))
            .and_then(Value::as_object_mut)
        {
            metadata.insert("uid".to_owned(), json!(uid));
            metadata.insert("resourceVersion".to_owned(), json!(version));
        }
        Self {
            kind,
            name: name.to_owned(),
            act: Act::Merge(patch),
        }
    }

    /// A merge patch on a Deployment.
    pub fn on_deployment(deployment: &WorkloadView, patch: Value) -> Self {
        let WorkloadView { name, uid, version, .. } = deployment;
        Self::merge(Kind::Deployment, name, uid, version, patch)
    }

    /// Puts a whole template into a Deployment: rolling, or held and stamped.
    pub fn put_template(deployment: &WorkloadView, template: &Value, hold: Option<&str>) -> Self {
        let test = |path: &str, value: Value| json!({"op": "test", "path": path, "value": value});
        let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
        let stamp = format!("/metadata/annotations/{}", names::HOLD.replace('/', "~1"));
        let mut patch = vec![
            test("/metadata/uid", json!(deployment.uid)),
            test("/metadata/resourceVersion", json!(deployment.version)),
            add("/spec/template", template.clone()),
            add("/spec/paused", json!(hold.is_some())),
        ];
        match hold {
            Some(hold) if deployment.annotated => patch.push(add(&stamp, json!(hold))),
            Some(hold) => patch.push(add("/metadata/annotations", json!({ names::HOLD: hold }))),
            None if deployment.hold.is_some() => patch.push(json!({"op": "remove", "path": stamp})),
            None => {}
        }
        Self {
            kind: Kind::Deployment,
            name: deployment.name.clone(),
            act: Act::Patch(patch),
        }
    }

    /// A merge patch on the Rollout's own metadata.
    pub fn on_rollout(rollout: &RolloutView, patch: Value) -> Self {
        Self::merge(Kind::Rollout, &rollout.name, &rollout.uid, &rollout.version, patch)
    }

    /// A deletion under the precondition of uid.
    pub fn delete(kind: Kind, name: &str, uid: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            act: Act::Delete { uid: uid.to_owned() },
        }
    }

    /// A creation.
    pub fn create(kind: Kind, name: &str, object: Value) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            act: Act::Create(object),
        }
    }
}

impl Plan {
    /// One effect.
    pub fn act(effect: Effect) -> Self {
        Self::Act(vec![effect])
    }

    /// Wait for what `need` brings.
    pub fn need(need: Need) -> Self {
        Self::Wait(Wake {
            need,
            ..Wake::default()
        })
    }
}
