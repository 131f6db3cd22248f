//! What the tests of GitOps share: the route in Git, what the operator writes, and a run's way to its end.

use anyhow::{Result, ensure};
use serde_json::Value;
use stepgate_crds::Verb;
use stepgate_crds::status::{Outcome, Phase};
use stepgate_tests::cluster::audit::{Mark, Request};
use stepgate_tests::gitops::manifest;
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop;
use stepgate_tests::states;

pub(super) fn options() -> OperatorOptions {
    OperatorOptions::led_by_commands()
}

pub(super) async fn told(scene: &Scene, case: impl Future<Output = Result<()>>) -> Result<()> {
    scene.told(case.await)
}

/// The user's route as it stands in Git.
pub(super) fn route_in_git(scene: &Scene) -> Result<Value> {
    manifest(&states::shop().route(&scene.namespace), "HTTPRoute")
}

/// The operator's writes to objects of this namespace since the mark, Events and its own Rollout apart.
pub(super) fn writes(scene: &Scene, since: &Mark) -> Result<Vec<String>> {
    let requests = scene.requests(since)?;
    let to_objects = requests.iter().filter(|request| {
        let target = request.object_ref.clone().unwrap_or_default();
        request.is_write() && !["events", "rollouts"].contains(&target.resource.as_str())
    });
    Ok(to_objects.map(Request::what).collect())
}

/// From the last step to the end, and the route as its user wrote it.
pub(super) async fn go_through(scene: &Scene, before: &Value) -> Result<()> {
    scene.command(Verb::Promote).await?;
    states::in_force(scene, 100).await?;
    scene.command(Verb::Promote).await?;
    let ended = states::seen(scene, Phase::Healthy).await?;
    ensure!(
        ended
            .history
            .first()
            .is_some_and(|past| past.outcome == Outcome::Promoted),
        "{ended:?}"
    );
    let route = shop::route(&scene.namespace).await?;
    ensure!(route["spec"] == before["spec"], "{}", route["spec"]);
    Ok(())
}
