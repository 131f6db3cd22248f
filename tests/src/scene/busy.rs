//! A scene under traffic: what clients saw of it, with each failure put down to a bad version, to pods that the test killed, or to nobody.
//!
//! A failure is a bad version's where the version made it on purpose (`x-injected`). It is a killed pod's where the gateway itself answered,
//! or nobody did (a pod's address is gone with it), or a pod that had more than it carries, and the request was due between the kill and
//! the moment when the Services that are sent traffic had all their pods again, or no traffic any more. Somebody else who takes the canary off
//! the route under its traffic kills its pods as far as clients can tell. Every other failure is foreign: Stepgate's own.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::sleep;

use super::witness::Witness;
use super::{Scene, quick_behind};
use crate::cluster::gateway::Gateway;
use crate::cluster::{Cluster, Counters, GATEWAY_URL, Prometheus, STATS_PORT};
use crate::load::{GATEWAY, LoadHandle, LoadOptions, OVER_CAPACITY, Report};
use crate::operator::OperatorOptions;
use crate::record::status_line;
use crate::shop::{self, NAME, Shop};
use crate::until::{Seen, until};

/// Requests a second.
pub const RATE: f64 = 200.0;
/// How long clients wait for an answer. Longer than a busy machine may stand still: that is nobody's failure.
const PATIENCE: Duration = Duration::from_secs(15);
/// In so long a gateway has heard of an endpoint, also on a busy machine.
const HEARD: Duration = Duration::from_secs(1);
/// Scenes of one process that are busy at the same time: gateway, pods and load share two cores.
const PLACES: usize = 4;
/// The longest that a request which a killed pod took with it may have been under way before.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// How long after the API server has an object the gateway may still not know of it.
pub(super) const GATEWAY_LAG: Duration = Duration::from_secs(1);

static FREE: Semaphore = Semaphore::const_new(PLACES);

/// How new versions are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judged {
    /// By nobody: commands lead the run.
    ByCommands,
    /// By a Prometheus of the scene's own, in intervals of 5 s.
    ByCounts,
}

/// A scene under [`RATE`] requests a second.
#[derive(Debug)]
pub struct Busy {
    /// The scene.
    pub scene: Scene,
    /// What the traffic was sent to.
    pub witness: Witness,
    /// The Prometheus of its own, where counts judge.
    pub prometheus: Option<Prometheus>,
    /// The gateway of its own, where the shop wants one.
    pub gateway: Option<Gateway>,
    load: LoadHandle,
    kills: Mutex<Vec<(Timestamp, Timestamp)>>,
    _place: SemaphorePermit<'static>,
}

/// What clients saw of one situation.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// The situation.
    pub name: String,
    /// Requests.
    pub requests: u64,
    /// Errors that a bad version made on purpose.
    pub bad_version: u64,
    /// Requests lost with the pods that the test killed.
    pub killed_pods: u64,
    /// What became of those, by kind.
    pub lost: BTreeMap<String, u64>,
    /// Failures that neither explains, with how long after the load's start they were due.
    pub foreign: Vec<(Duration, String)>,
}

/// Waits until every pod of the shop is a ready endpoint, and the gateway has heard of it: a load that begins before goes to some of them alone,
/// and is more than they carry.
async fn has_all_pods(witness: &Witness, wanted: i64) -> Result<()> {
    until(
        "every pod of the shop to be ready",
        Duration::from_mins(1),
        async || {
            let ready = witness.moments().last().map_or(0, |moment| moment.ready(NAME));
            Ok(if ready >= wanted {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{ready} of {wanted}"))
            })
        },
    )
    .await?;
    sleep(HEARD).await;
    Ok(())
}

impl Busy {
    /// Opens a shop, watched and under traffic.
    pub async fn open(name: &str, shop: &Shop, judged: Judged) -> Result<Self> {
        let place = FREE.acquire().await?;
        let cluster = Cluster::attach().await?;
        let namespace = cluster.namespace(name).await?;
        let gateway = if shop.own_gateway.is_some() {
            Some(Gateway::start(&namespace).await?)
        } else {
            None
        };
        let witness = Witness::start(&namespace);
        let (prometheus, options) = match judged {
            Judged::ByCounts => {
                let counters = gateway.as_ref().map_or(STATS_PORT, Gateway::stats_port);
                let (prometheus, mut options) = quick_behind(&namespace, Counters::of_envoy(counters)).await?;
                // Where a machine is too busy to scrape for two intervals a canary with all of the traffic looks silent: it is tried again soon.
                options.flags.push("--retreat-silence=5s".to_owned());
                (Some(prometheus), options)
            }
            Judged::ByCommands => (None, OperatorOptions::led_by_commands()),
        };
        let scene = Scene::open_in(namespace, shop, options).await?;
        let load = LoadOptions {
            url: gateway.as_ref().map_or_else(|| GATEWAY_URL.to_owned(), Gateway::url),
            rate: RATE,
            timeout: PATIENCE,
            ..shop::load(&scene.namespace)
        };
        scene.told(has_all_pods(&witness, i64::from(shop.replicas)).await)?;
        let load = scene.load_with(load).await;
        let load = scene.told(load)?;
        Ok(Self {
            scene,
            witness,
            prometheus,
            gateway,
            load,
            kills: Mutex::default(),
            _place: place,
        })
    }

    /// What clients saw so far.
    pub fn report(&self) -> Report {
        self.load.snapshot()
    }

    /// Notes that pods were killed, or taken off the route under their traffic, at one moment, and that no request is sent to those that are
    /// missing from another one on.
    pub fn lost_pods(&self, from: Timestamp, to: Timestamp) {
        self.kills
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((from, to));
    }

    /// Notes each time that somebody else took the canary off the route under its traffic: the gateway forgets the canary before it forgets to
    /// send to it, and answers 503 itself. A removal by Stepgate changes the run's mark with it, and is no excuse.
    pub fn excuse_removals(&self) -> Result<()> {
        for pair in self.witness.moments().windows(2) {
            if let [before, after] = pair
                && before.canary_share > 0
                && !after.refers_to_canary
                && before.mark == after.mark
            {
                self.lost_pods(after.at, after.at.checked_add(GATEWAY_LAG)?);
            }
        }
        Ok(())
    }

    /// Ends the traffic and counts; where the play failed or a failure is foreign, prints everything and errors.
    #[expect(
        clippy::print_stdout,
        clippy::print_stderr,
        reason = "a test prints what it measured, and what it saw where it failed"
    )]
    pub async fn end(self, name: &str, played: Result<()>) -> Result<Tally> {
        let report = self.load.stop().await?;
        let kills = self.kills.into_inner().unwrap_or_else(PoisonError::into_inner);
        let tally = Tally::of(name, &report, &kills);
        println!("{tally}");
        let outcome = played.and_then(|()| {
            ensure!(
                tally.foreign.is_empty(),
                "{name}: clients saw foreign failures: {tally}"
            );
            Ok(())
        });
        if outcome.is_err() {
            eprintln!("=== {name}\n{report}{}", self.witness.told());
            if let Some(status) = self.scene.record.last_status() {
                eprintln!("last status: {}\n{status:#?}", status_line(&status));
            }
        }
        self.scene.told(outcome)?;
        Ok(tally)
    }
}

impl Tally {
    fn of(name: &str, report: &Report, kills: &[(Timestamp, Timestamp)]) -> Self {
        let begun = report.begun.unwrap_or(Timestamp::UNIX_EPOCH);
        let explained = |after: Duration, kind: &str| {
            let due = begun.checked_add(after).unwrap_or(Timestamp::MAX);
            let within = |(from, to): &(Timestamp, Timestamp)| {
                let from = from.checked_sub(UNDER_WAY).unwrap_or(Timestamp::MIN);
                (from..=*to).contains(&due)
            };
            let by_loss = kind.starts_with(GATEWAY) || kind == OVER_CAPACITY || kind == "timeout";
            by_loss && kills.iter().any(within)
        };
        let (killed, foreign): (Vec<_>, Vec<_>) = report
            .failed_at
            .iter()
            .cloned()
            .partition(|(after, kind)| explained(*after, kind));
        let mut lost = BTreeMap::new();
        for (_, kind) in killed {
            *lost.entry(kind).or_default() += 1;
        }
        Self {
            name: name.to_owned(),
            requests: report.requests,
            bad_version: report.injected(),
            killed_pods: lost.values().sum(),
            lost,
            foreign,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{:<52} {:>6} requests, {:>5} errors of a bad version, {:>4} lost with killed pods, {:>3} foreign",
            self.name,
            self.requests,
            self.bad_version,
            self.killed_pods,
            self.foreign.len()
        )?;
        for (kind, number) in &self.lost {
            write!(out, "\n    lost: {number} {kind}")?;
        }
        for (after, kind) in self.foreign.iter().take(8) {
            write!(out, "\n    at {:.2} s: {kind}", after.as_secs_f64())?;
        }
        Ok(())
    }
}

/// Opens a shop under traffic, plays, and counts.
pub async fn play(name: &str, shop: Shop, judged: Judged, act: impl AsyncFnOnce(&Busy) -> Result<()>) -> Result<Tally> {
    let short: String = name
        .split(|letter: char| !letter.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join("-")
        .to_lowercase()
        .chars()
        .take(24)
        .collect();
    let busy = Busy::open(short.trim_end_matches('-'), &shop, judged).await?;
    let played = act(&busy).await.and_then(|()| busy.ensure_known_before_sent());
    busy.end(name, played).await
}
