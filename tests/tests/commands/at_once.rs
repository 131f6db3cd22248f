//! Two commands at once, by two people or by one who asks twice: one is carried out, whoever asked for the other is told.

use super::*;

/// Both at once: one is done, the other one is told.
async fn at_once(namespace: &Namespace, verb: &str, words: &[&str]) -> Result<()> {
    let words_of = [verb, NAME];
    let (first, second) = tokio::join!(shop::plugin(namespace, &words_of), shop::plugin(namespace, &words_of));
    let (first, second) = (first?, second?);
    let (won, told) = if first.code == Some(0) {
        (first, second)
    } else {
        (second, first)
    };
    ensure!(won.code == Some(0), "{verb}: nobody won: {won:?}, {told:?}");
    ensure!(
        told.code == Some(1) && words.iter().any(|words| told.complained.contains(words)),
        "{verb}: {won:?}, {told:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_commands_at_once_one_wins_and_the_other_is_told() -> Result<()> {
    let (namespace, mut operator) = scene(&Shop::small()).await?;
    shop::ship(&namespace, "v2", "0%").await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    let waits = "was not taken up yet";
    at_once(&namespace, "pause", &[waits, "is paused already"]).await?;
    at_once(&namespace, "resume", &[waits, "it is not paused"]).await?;
    // The same command twice by hand, as one that was sent again after a timeout: once for the step, and no step is skipped.
    let id = run(&shop::status(&namespace).await?)?.id.clone();
    for (nonce, done) in [("first", true), ("second", false)] {
        let answer = by_hand(&namespace, &command(Verb::Promote, &id, Some(1), nonce)?).await?;
        let stale = answer
            .message
            .contains("promote was meant for step 1, and the run is at step 2");
        ensure!(answer.done == done && (done || stale), "{answer:?}");
        shop::wait_for_weight(&namespace, 30, BOUND).await?;
    }
    // Nobody leads: both abort, and get one answer when somebody does.
    operator.kill().await?;
    let both = [["abort", NAME, "--wait=50s"], ["abort", NAME, "--wait=50s"]];
    let (first, second, restarted) = tokio::join!(
        shop::plugin(&namespace, &both[0]),
        shop::plugin(&namespace, &both[1]),
        async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            operator.restart_at_once().await
        }
    );
    restarted?;
    let (first, second) = (first?, second?);
    ensure!(
        first.code == Some(0) && first.said == second.said && first.said.contains("all traffic goes back to stable"),
        "{first:?}, {second:?}"
    );
    shop::wait(&namespace, Phase::Failed, BOUND).await?;
    at_once(
        &namespace,
        "retry",
        &[waits, "only a version that failed", "went on while"],
    )
    .await?;
    shop::wait_for_weight(&namespace, 10, BOUND).await?;
    // Nobody leads: a promote waits, an abort takes its place, and who waits for the promote is told.
    operator.kill().await?;
    let (promote, abort) = tokio::join!(shop::plugin(&namespace, &["promote", NAME, "--wait=20s"]), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        shop::plugin(&namespace, &["abort", NAME, "--wait=0s"]).await
    });
    let (promote, abort) = (promote?, abort?);
    ensure!(abort.code == Some(0), "{abort:?}");
    ensure!(
        promote.code == Some(1)
            && promote
                .complained
                .contains("another command (abort) took the place of promote"),
        "{promote:?}"
    );
    Ok(())
}
