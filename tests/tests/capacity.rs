//! Back by capacity: an autoscaler shrank stable while the canary had the traffic, and whatever sends the run back moves only what stable's
//! ready pods carry.
//!
//! 200 requests a second against pods that answer 503 beyond what they carry; all pods together have 30 % to spare.

#![expect(clippy::print_stdout, reason = "a test prints what it measured")]

use anyhow::{Result, ensure};
use stepgate_tests::scene::busy::play;
use stepgate_tests::scene::situations::{Way, back_by_capacity, bounded};

async fn back(name: &str, way: Way, base: u32, left: i64) -> Result<()> {
    let (shop, base) = (bounded(base), i64::from(base));
    let mut seen = None;
    play(name, shop, way.judged(), async |busy| {
        seen = Some(back_by_capacity(busy, way, base, left).await?);
        Ok(())
    })
    .await?;
    let (took, shares) = seen.unwrap_or_default();
    println!(
        "{name}: first write {:.0} ms after the event, then the canary's shares {shares:?}",
        took.as_secs_f64() * 1e3
    );
    // What two pods do not carry was not taken from the canary in one go; pods that come back from none may all come at once.
    let at_once = shares.len() == 1 && left > 0;
    ensure!(
        shares.last() == Some(&0) && !at_once,
        "{name}: the canary's shares {shares:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_verdict_gives_a_shrunk_stable_what_its_pods_carry() -> Result<()> {
    back("verdict, stable 10 to 2", Way::Verdict, 10, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_gives_a_shrunk_stable_what_its_pods_carry() -> Result<()> {
    back("abort, stable 10 to 2", Way::Abort, 10, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_template_put_back_gives_a_shrunk_stable_what_its_pods_carry() -> Result<()> {
    back("template back, stable 10 to 2", Way::PutBack, 10, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_gives_a_shrunk_stable_what_its_pods_carry() -> Result<()> {
    back("deletion, stable 10 to 2", Way::Deletion, 10, 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_verdict_waits_for_a_stable_at_zero() -> Result<()> {
    back("verdict, stable 4 to 0", Way::Verdict, 4, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_waits_for_a_stable_at_zero() -> Result<()> {
    back("abort, stable 4 to 0", Way::Abort, 4, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_template_put_back_waits_for_a_stable_at_zero() -> Result<()> {
    back("template back, stable 4 to 0", Way::PutBack, 4, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_waits_for_a_stable_at_zero() -> Result<()> {
    back("deletion, stable 4 to 0", Way::Deletion, 4, 0).await
}
