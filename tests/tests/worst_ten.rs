//! The worst ten situations of a rollout's life, and one more, end to end: a real gateway, real pods, 200 requests a second in each, and not one client
//! error that neither a bad version nor a killed pod explains.
//!
//! What explains a failure stands in `scene::busy`; a table says what clients saw in each.

use anyhow::{Result, ensure};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use stepgate_tests::scene::busy::{Busy, Judged, Tally, play};
use stepgate_tests::scene::situations::{
    Way, abort_in_promotion, back_by_capacity, bounded, canary_killed, deleted_in_the_foreground, deployment_made_anew,
    failed_verdict_in_promotion, gitops_every_five_seconds, newer_template_in_promotion, promoted, stable_set_deleted,
    with_a_half,
};
use stepgate_tests::shop::Shop;

type Situation = LocalBoxFuture<'static, Result<Tally>>;

fn led(name: &'static str, shop: Shop, act: impl AsyncFnOnce(&Busy) -> Result<()> + 'static) -> Situation {
    async move { play(name, shop, Judged::ByCommands, act).await }.boxed_local()
}

fn judged(name: &'static str, shop: Shop, act: impl AsyncFnOnce(&Busy) -> Result<()> + 'static) -> Situation {
    async move { play(name, shop, Judged::ByCounts, act).await }.boxed_local()
}

/// The situations; what takes longest comes first, as only so many are played at a time.
fn situations() -> Vec<Situation> {
    let recreate = Shop {
        deployment: "  strategy: {type: Recreate}\n".to_owned(),
        ..bounded(4)
    };
    vec![
        judged("verdict after stable went from 10 to 2", bounded(10), async |busy| {
            back_by_capacity(busy, Way::Verdict, 10, 2).await.map(drop)
        }),
        led("newer template in promotion", bounded(4), async |busy| {
            newer_template_in_promotion(busy).await
        }),
        judged("verdict in promotion", bounded(4), async |busy| {
            failed_verdict_in_promotion(busy).await
        }),
        led("GitOps apply every 5 s at 50 %", with_a_half(), async |busy| {
            gitops_every_five_seconds(busy).await
        }),
        led("abort in promotion", bounded(4), async |busy| {
            abort_in_promotion(busy).await
        }),
        led("abort after stable went from 4 to 0", bounded(4), async |busy| {
            back_by_capacity(busy, Way::Abort, 4, 0).await.map(drop)
        }),
        led("all canary pods killed at 50 %", with_a_half(), async |busy| {
            canary_killed(busy).await
        }),
        led("Deployment made anew at 50 %", with_a_half(), async |busy| {
            deployment_made_anew(busy, &with_a_half()).await
        }),
        led("stable's ReplicaSet deleted at 50 %", with_a_half(), async |busy| {
            stable_set_deleted(busy).await
        }),
        led("Recreate promoted", recreate, async |busy| {
            promoted(busy, &["SLOW_START=3s"]).await
        }),
        led(
            "Rollout deleted in the foreground at 50 %",
            with_a_half(),
            async |busy| deleted_in_the_foreground(busy).await,
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worst_ten_cost_no_request_that_nothing_explains() -> Result<()> {
    let outcomes = join_all(situations()).await;
    let mut failed = Vec::new();
    println!("the worst situations at 200 requests a second each:");
    for outcome in outcomes {
        match outcome {
            Ok(tally) => println!("  {tally}"),
            Err(error) => failed.push(format!("{error:#}")),
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
