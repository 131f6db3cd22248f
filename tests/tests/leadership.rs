//! Several operators for one namespace: the leader is killed, hangs past its lease, or is cut off from the API server in mid-run, and
//! another goes on with the same run. Every stored version is held against the rules of safety.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::Cluster;
use stepgate_tests::faults::check::check_stored;
use stepgate_tests::faults::observer::Observer;
use stepgate_tests::interceptor::Interceptor;
use stepgate_tests::operator::{Operator, OperatorOptions, SYSTEM};
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, Shop};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

/// How long a leader is believed to lead after its last sign of life.
const LEASE: Duration = Duration::from_secs(15);
/// Failover takes at most the lease and this.
const SLACK: Duration = Duration::from_secs(2);
/// What a busy machine may add.
const BUSY: Duration = Duration::from_secs(6);
const BOUND: Duration = Duration::from_mins(1);
const STEPS: [i64; 4] = [10, 30, 50, 100];

/// A shop with several operators; the first leads.
struct Several {
    observer: Observer,
    scene: Scene,
    others: Vec<Operator>,
}

async fn several(name: &str, others: usize, kubeconfig: Option<&Interceptor>) -> Result<Several> {
    let cluster = Cluster::attach().await?;
    let observer = Observer::start(&cluster).await?;
    let options = OperatorOptions::led_by_commands();
    let first = OperatorOptions {
        kubeconfig: kubeconfig.map(|network| network.kubeconfig().to_owned()),
        ..options.clone()
    };
    let scene = Scene::open(&cluster, name, &Shop::small(), first).await?;
    let mut standbys = Vec::new();
    for _ in 0..others {
        standbys.push(Operator::start(&scene.namespace, options.clone()).await?);
    }
    shop::ship(&scene.namespace, "v2", "0%").await?;
    shop::wait_for_weight(&scene.namespace, 10, BOUND).await?;
    Ok(Several {
        observer,
        scene,
        others: standbys,
    })
}

async fn holder(scene: &Scene) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(scene.namespace.cluster().client(), SYSTEM);
    let lease = leases.get(scene.namespace.name()).await?;
    Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
}

impl Several {
    /// Waits until another than the first leads, and gives how long that took since `lost`.
    async fn another_leads(&self, lost: Instant) -> Result<Duration> {
        self.another_leads_than(&[self.scene.operator.name()], lost).await
    }

    async fn another_leads_than(&self, dead: &[&str], lost: Instant) -> Result<Duration> {
        until("another operator to lead", LEASE + SLACK + BUSY, async || {
            let holder = holder(&self.scene).await?;
            Ok(if holder.is_empty() || dead.contains(&holder.as_str()) {
                Seen::NotYet(holder)
            } else {
                Seen::Done(())
            })
        })
        .await?;
        Ok(lost.elapsed())
    }

    /// Leads the run to its end by commands, as the same run, and holds everything that was stored against the rules.
    async fn end_well(&self, run: &RolloutStatus) -> Result<()> {
        let namespace = &self.scene.namespace;
        shop::promote_through(namespace, BOUND).await?;
        let status = shop::status(namespace).await?;
        let same = run.run.as_ref().map(|run| run.id.clone());
        let ended = status.history.first().map(|past| past.run.clone());
        ensure!(same.is_some() && same == ended, "run {same:?} became {ended:?}");
        ensure!(status.phase == Some(Phase::Healthy), "{:?}", status.phase);
        let history = self.observer.history(namespace.name());
        let broken = check_stored(&history, &STEPS, Duration::from_secs(1));
        ensure!(broken.is_empty(), "{broken:?}");
        Ok(())
    }
}

#[expect(clippy::print_stdout, reason = "the figures are kept with the test's output")]
fn tell(what: &str, took: Duration) {
    println!("{what}: another leads after {:.1} s", took.as_secs_f64());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_operators_another_leads_when_the_leader_is_killed_and_again() -> Result<()> {
    let mut several = several("lead-killed", 2, None).await?;
    let outcome = async {
        let run = shop::status(&several.scene.namespace).await?;
        several.scene.operator.kill().await?;
        let lost = Instant::now();
        let took = several.another_leads(lost).await?;
        tell("killed", took);
        ensure!(took <= LEASE + SLACK + BUSY, "failover took {took:?}");
        let second = holder(&several.scene).await?;
        let leader = several.others.iter_mut().find(|operator| operator.name() == second);
        leader.context("the leader is none of ours")?.kill().await?;
        let lost = Instant::now();
        let dead = [several.scene.operator.name(), &second];
        tell("killed again", several.another_leads_than(&dead, lost).await?);
        several.end_well(&run).await
    }
    .await;
    several.scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_past_its_lease_writes_nothing_more_and_ends() -> Result<()> {
    let mut several = several("lead-hangs", 1, None).await?;
    let outcome = async {
        let run = shop::status(&several.scene.namespace).await?;
        several.scene.operator.freeze()?;
        let lost = Instant::now();
        let took = several.another_leads(lost).await?;
        tell("stopped", took);
        several.scene.operator.thaw()?;
        let status = several.scene.operator.ended(BOUND).await?;
        ensure!(!status.success(), "a leader that lost its lease ended with {status}");
        several.end_well(&run).await
    }
    .await;
    several.scene.told(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_gives_up_before_another_leads() -> Result<()> {
    let cluster = Cluster::attach().await?;
    stepgate_tests::operator::install_chart(&cluster).await?;
    let network = Interceptor::start(&cluster).await?;
    let mut several = several("lead-cut", 1, Some(&network)).await?;
    let outcome = async {
        let run = shop::status(&several.scene.namespace).await?;
        network.cut(true);
        let lost = Instant::now();
        let ended = several.scene.operator.ended(LEASE).await?;
        ensure!(!ended.success(), "a leader that was cut off ended with {ended}");
        let gave_up = lost.elapsed();
        let took = several.another_leads(lost).await?;
        tell(&format!("cut off, gave up after {:.1} s", gave_up.as_secs_f64()), took);
        ensure!(
            gave_up <= took,
            "it gave up after {gave_up:?}, and another led after {took:?}"
        );
        network.cut(false);
        sleep(Duration::from_secs(1)).await;
        several.end_well(&run).await
    }
    .await;
    several.scene.told(outcome)
}
