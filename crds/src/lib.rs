//! The kinds of the API group `stepgate.dev`, with their schemas.
//!
//! Types only: nothing here decides anything or talks to anybody. `rollouts.yaml` beside this crate's sources is generated from
//! them (`make gen`) and checked for drift by a test.

pub mod command;
pub mod evidence;
pub mod names;
pub mod provider;
pub mod query;
pub mod rollout;
pub mod status;
pub mod units;

use kube::CustomResourceExt;

pub use command::{Command, Verb};
pub use rollout::{Rollout, RolloutSpec};
pub use status::RolloutStatus;

/// The CustomResourceDefinition of `Rollout` as YAML, as `kubectl apply` takes it.
///
/// # Errors
/// Only if the schema cannot be written as YAML, which the drift test would show.
pub fn rollouts_yaml() -> Result<String, serde_saphyr::ser::Error> {
    let body = serde_saphyr::to_string(&Rollout::crd())?;
    Ok(format!("# Generated from crds/src by `make gen`. Do not edit.\n{body}"))
}
