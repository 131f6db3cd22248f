//! What a search may end in, where nothing moves any more.

use serde_json::Value;
use stepgate_crds::status::{Outcome, Phase};

use super::world::World;

/// Whether the world is at rest, with nothing of a run left in it.
pub(super) fn is_at_rest(world: &World) -> Result<(), String> {
    let status = world.status();
    let api = &world.cluster.api;
    if let Some(run) = &status.run {
        return Err(format!(
            "nothing moves, and the run is in {:?}: {:?}",
            run.state, status.message
        ));
    }
    for kind in ["Deployment", "Service"] {
        if api.get(kind, "checkout-canary").is_some() {
            return Err(format!("{kind} checkout-canary is left"));
        }
    }
    let (route, meant) = (api.get("HTTPRoute", "checkout"), world.cluster.meant.as_ref());
    let spec = |route: Option<&Value>| route.map(|route| route["spec"].clone());
    if spec(route) != spec(meant) {
        return Err(format!("at rest the route is {route:?}"));
    }
    if route.is_some_and(|route| route["metadata"]["annotations"].get("stepgate.dev/run").is_some()) {
        return Err("a mark is left on the route".to_owned());
    }
    Ok(())
}

fn outcome(world: &World) -> Option<Outcome> {
    world.status().history.first().map(|past| past.outcome)
}

/// The good version is stable, unless there was so little time that a deadline passed.
pub(super) fn is_promoted(world: &World) -> Result<(), String> {
    is_at_rest(world)?;
    let status = world.status();
    match outcome(world) {
        Some(Outcome::Promoted) if status.phase == Some(Phase::Healthy) => Ok(()),
        other => Err(format!(
            "the end is {other:?} in {:?}: {:?}",
            status.phase, status.message
        )),
    }
}

/// The bad version has failed, and stable serves.
pub(super) fn has_failed(world: &World) -> Result<(), String> {
    is_at_rest(world)?;
    let status = world.status();
    match outcome(world) {
        Some(Outcome::Failed) if status.phase == Some(Phase::Failed) => Ok(()),
        other => Err(format!(
            "the end is {other:?} in {:?}: {:?}",
            status.phase, status.message
        )),
    }
}

/// The run ends at stable, unless the version was promoted before.
pub(super) fn is_back(world: &World) -> Result<(), String> {
    is_at_rest(world)?;
    let status = world.status();
    match (outcome(world), status.phase) {
        (Some(Outcome::Failed), Some(Phase::Failed | Phase::Healthy))
        | (Some(Outcome::Promoted), Some(Phase::Healthy)) => Ok(()),
        other => Err(format!("the end is {other:?}: {:?}", status.message)),
    }
}
