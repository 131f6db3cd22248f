//! A storm over a busy shop: something is broken again and again while a version is shipped under real traffic.
//!
//! Clients are accounted for as in `scene::busy`, every stored version is held against the rules that stored versions alone can show, and
//! the end is one line for a table: what was done and how often, what clients saw of it, and what the run came to.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{Outcome, Phase, RunState};
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::Cluster;
use crate::faults::check::{check_stored, told_apart};
use crate::faults::observer::Observer;
use crate::operator::install_chart;
use crate::scene::busy::{Busy, Judged, Tally};
use crate::shop::{self, NAME, Shop};

pub mod many;

/// The weights of a run's steps where nothing else is said.
pub const STEPS: [i64; 4] = [10, 30, 50, 100];
/// How long the operators of busy scenes that are judged by counts let canary pods stay.
pub const DRAIN: Duration = Duration::from_secs(2);
/// The longest that a run may take.
const BOUND: Duration = Duration::from_mins(4);

/// A busy shop of four pods in a storm.
#[derive(Debug)]
pub struct Storm {
    /// The shop, judged by counts: at most 5 % of errors.
    pub busy: Busy,
    observer: Observer,
    shipped: Instant,
}

/// A shop that is judged by its error rate alone.
pub fn judged() -> Shop {
    Shop {
        rollout: "  analysis: {errorRate: {max: 5%}}\n".to_owned(),
        ..Shop::default()
    }
}

/// Opens a shop under traffic, lets `act` ship and break what it breaks, which says how often, and accounts for all of it.
pub async fn weather(
    short: &str,
    what: &str,
    shop: Shop,
    act: impl AsyncFnOnce(&mut Storm) -> Result<u32>,
) -> Result<Tally> {
    // On the heap: it holds everything that a storm is made of.
    Box::pin(async move {
        let cluster = Cluster::attach().await?;
        install_chart(&cluster).await?;
        let observer = Observer::start(&cluster).await?;
        let mut storm = Storm {
            busy: Busy::open(short, &shop, Judged::ByCounts).await?,
            observer,
            shipped: Instant::now(),
        };
        let acted = act(&mut storm).await;
        Box::pin(storm.end(what, acted)).await
    })
    .await
}

impl Storm {
    /// Ships v2, which fails this share of its requests.
    pub async fn ship(&mut self, error_share: &str) -> Result<()> {
        self.shipped = Instant::now();
        shop::ship(&self.busy.scene.namespace, "v2", error_share).await
    }

    /// Whether the run has ended; the status as it is then.
    pub async fn ended(&self) -> Result<Option<RolloutStatus>> {
        let status = shop::status(&self.busy.scene.namespace).await?;
        Ok((status.run.is_none() && !status.history.is_empty()).then_some(status))
    }

    /// Breaks something every `pause`, the first time after one, until the run ends or is paused by the operator; gives how often.
    pub async fn again_and_again(
        &mut self,
        pause: Duration,
        mut breaks: impl AsyncFnMut(&mut Busy) -> Result<()>,
    ) -> Result<u32> {
        let mut times = 0;
        let all = async {
            loop {
                sleep(pause).await;
                if self.ended().await?.is_some() {
                    return anyhow::Ok(());
                }
                breaks(&mut self.busy).await?;
                times += 1;
            }
        };
        let ended = timeout(BOUND, all).await;
        ended.with_context(|| format!("the run did not end within {} s", BOUND.as_secs()))??;
        Ok(times)
    }

    /// The first run is over and the only one, and ended like this.
    pub async fn ensure_ended(&self, outcome: Outcome) -> Result<RolloutStatus> {
        let status = self.ended().await?.context("the run has not ended")?;
        let outcomes: Vec<Outcome> = status.history.iter().map(|past| past.outcome).collect();
        ensure!(outcomes == [outcome], "{:?}", status.history);
        Ok(status)
    }

    /// How often the run retreated.
    pub fn retreats(&self) -> usize {
        let phases = self.busy.scene.record.phases();
        phases.iter().filter(|phase| **phase == Phase::Retreated).count()
    }

    /// The weights that every parent accepted, from the route as its user wrote it to the same at the end. A machine that is too busy to scrape
    /// adds retreats to those that are meant, after each of which everything is tried again: then others may lie between.
    pub fn ensure_weights(&self, between: &[i64], retreats: usize) -> Result<()> {
        let seen = self.busy.scene.record.accepted_weights();
        let between = between.iter().copied().map(Some);
        let wanted: Vec<Option<i64>> = std::iter::once(None).chain(between).chain([None]).collect();
        let mut rest = seen.iter();
        let in_order = wanted.iter().all(|weight| rest.any(|seen| seen == weight));
        let is_so = if self.retreats() > retreats {
            in_order
        } else {
            seen == wanted
        };
        ensure!(is_so, "accepted weights {seen:?} and not {wanted:?}");
        Ok(())
    }

    /// Ends the traffic and prints the table's line. Errors where a client saw what nothing explains, or where a rule of safety was broken.
    #[expect(clippy::print_stdout, reason = "a test prints what it measured")]
    async fn end(self, what: &str, acted: Result<u32>) -> Result<Tally> {
        let took = self.shipped.elapsed();
        let namespace = self.busy.scene.namespace.name().to_owned();
        let status = self.busy.scene.record.last_status().unwrap_or_default();
        let times = acted.as_ref().copied().unwrap_or_default();
        let history = told_apart(self.observer.history(&namespace));
        let broken = check_stored(&history, &STEPS, DRAIN);
        let played = acted.and_then(|_| {
            ensure!(broken.is_empty(), "{what}: {broken:#?}");
            self.busy.ensure_known_before_sent()
        });
        let retreats = self.retreats();
        let tally = self.busy.end(what, played).await?;
        println!(
            "| {what} | {times} | {} | {} | {} | {} | {}, {retreats} retreats | {:.0} s | {} of {} stored versions |",
            tally.requests,
            tally.bad_version,
            tally.killed_pods,
            tally.foreign.len(),
            told(&status),
            took.as_secs_f64(),
            broken.len(),
            history.len(),
        );
        Ok(tally)
    }
}

/// What a run came to, in a word or two.
fn told(status: &RolloutStatus) -> String {
    let phase = status.phase.map_or("-", Phase::as_str);
    match (&status.run, status.history.first()) {
        (Some(run), _) => match &run.state {
            RunState::Paused { why, .. } => format!("{phase} ({why:?})"),
            _ => phase.to_owned(),
        },
        (None, Some(past)) => format!("{:?}", past.outcome),
        (None, None) => format!("{phase}: no run of {NAME}"),
    }
}
