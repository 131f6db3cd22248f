//! The operator looks whether it would be held, and whether it may un-pause: where not, it manages nothing, says what is missing and what to
//! do, and goes on by itself once it is there.

use stepgate_crds::RolloutStatus;
use stepgate_tests::holding::Holding;

use super::*;

/// A shop whose operator looks for this hold.
async fn open(namespace: &Namespace, holding: &Holding) -> Result<Operator> {
    let shop = Shop::small();
    namespace.apply(&shop.application()).await?;
    namespace.apply(&shop.route(namespace)).await?;
    namespace.apply(&shop.rollout()).await?;
    let options = OperatorOptions {
        flags: vec![format!("--hold-policy={}", holding.policy())],
        ..OperatorOptions::led_by_commands()
    };
    Operator::start(namespace, options).await
}

/// Waits until the Rollout says that it is not held, in all of these words.
async fn is_missing(namespace: &Namespace, words: &[&str]) -> Result<RolloutStatus> {
    shop::wait_for(namespace, "HoldMissing", BOUND, |status| {
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        ready.is_some_and(|ready| {
            ready.status == "False"
                && ready.reason == "HoldMissing"
                && words.iter().all(|words| ready.message.contains(words))
        })
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_policy_nothing_is_managed_until_it_is_installed() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    let holding = Holding::of(&namespace, ACCOUNT).await?;
    holding.allow().await?;
    let _operator = open(&namespace, &holding).await?;
    let policy = holding.policy();
    let missing = is_missing(
        &namespace,
        &[
            &format!("MutatingAdmissionPolicy {policy} is not there"),
            "helm upgrade with hold.enabled=true",
            &format!("Deployment {}/{NAME} would roll by itself", namespace.name()),
        ],
    )
    .await?;
    ensure!(missing.phase == Some(Phase::Blocked), "{missing:?}");
    let unmanaged = get(&namespace, NAME).await?;
    ensure!(label(&unmanaged).is_none(), "{unmanaged:?}");
    holding.install().await?;
    shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    let managed = get(&namespace, NAME).await?;
    ensure!(label(&managed) == Some(NAME), "{managed:?}");
    // And the copy holds as the chart's does.
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    holding.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_does_not_let_the_operator_through_is_as_good_as_none() -> Result<()> {
    let (_cluster, namespace) = world().await?;
    let holding = Holding::of(&namespace, "somebody-else").await?;
    holding.install().await?;
    let _operator = open(&namespace, &holding).await?;
    is_missing(
        &namespace,
        &[
            &format!(
                "MutatingAdmissionPolicy {} does not let the operator's own user {} through",
                holding.policy(),
                account()
            ),
            "hold.additionalOperators",
        ],
    )
    .await?;
    let unmanaged = get(&namespace, NAME).await?;
    ensure!(label(&unmanaged).is_none(), "{unmanaged:?}");
    let right = Holding::of(&namespace, ACCOUNT).await?;
    right.install().await?;
    shop::wait(&namespace, Phase::Healthy, BOUND).await?;
    right.end().await
}
