//! A shop with several operators, the first of which leads, under the eyes of an observer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::{Outcome, Phase};
use stepgate_tests::cluster::{Cluster, Namespace};
use stepgate_tests::faults::check::{check_stored, told_apart};
use stepgate_tests::faults::observer::Observer;
use stepgate_tests::operator::{Operator, OperatorOptions, SYSTEM, install_chart};
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};

/// How long a leader is believed to lead after its last sign of life.
pub(super) const LEASE: Duration = Duration::from_secs(15);
/// Failover takes at most the lease and this.
const SLACK: Duration = Duration::from_secs(2);
/// What a busy machine may add.
const BUSY: Duration = Duration::from_secs(6);
pub(super) const BOUND: Duration = Duration::from_mins(1);
const STEPS: [i64; 4] = [10, 30, 50, 100];

pub(super) struct Several {
    observer: Observer,
    pub(super) scene: Scene,
    pub(super) others: Vec<Operator>,
    drain: Duration,
}

impl Several {
    /// Opens a small shop; the operators are told the same drain, and each of the others may have anything else.
    pub(super) async fn open(
        name: &str,
        shop: &Shop,
        first: OperatorOptions,
        others: Vec<OperatorOptions>,
    ) -> Result<Self> {
        let namespace = Cluster::attach().await?.namespace(name).await?;
        Self::open_in(namespace, shop, first, others).await
    }

    /// The same in a namespace that is there already.
    pub(super) async fn open_in(
        namespace: Namespace,
        shop: &Shop,
        first: OperatorOptions,
        others: Vec<OperatorOptions>,
    ) -> Result<Self> {
        install_chart(namespace.cluster()).await?;
        let observer = Observer::start(namespace.cluster()).await?;
        let drain = first.drain.trim_end_matches('s').parse().map(Duration::from_secs)?;
        let scene = Scene::open_in(namespace, shop, first).await?;
        let mut several = Self {
            observer,
            scene,
            others: Vec::new(),
            drain,
        };
        for options in others {
            let started = Operator::start(&several.scene.namespace, options).await;
            several.others.push(several.scene.told(started)?);
        }
        Ok(several)
    }

    /// Opens one that is led by commands, with v2 at 10 %.
    pub(super) async fn at_ten(name: &str, first: OperatorOptions, others: usize) -> Result<Self> {
        let others = vec![OperatorOptions::led_by_commands(); others];
        let several = Self::open(name, &Shop::small(), first, others).await?;
        let namespace = &several.scene.namespace;
        shop::ship(namespace, "v2", "0%").await?;
        let there = shop::wait_for_weight(namespace, 10, BOUND).await;
        several.scene.told(there)?;
        Ok(several)
    }

    pub(super) async fn status(&self) -> Result<RolloutStatus> {
        shop::status(&self.scene.namespace).await
    }

    /// Who leads.
    pub(super) async fn holder(&self) -> Result<String> {
        let leases: Api<Lease> = Api::namespaced(self.scene.namespace.cluster().client(), SYSTEM);
        let lease = leases.get(self.scene.namespace.name()).await?;
        Ok(lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default())
    }

    /// The operator that leads, where it is not the first.
    pub(super) async fn leader(&mut self) -> Result<&mut Operator> {
        let holder = self.holder().await?;
        let leader = self.others.iter_mut().find(|operator| operator.name() == holder);
        leader.context("the leader is none of the others")
    }

    /// Waits until another than the first leads, and tells how long that took since `lost`, which has to be little more than the lease.
    pub(super) async fn another_leads(&self, what: &str, lost: Instant) -> Result<Duration> {
        self.another_leads_than(&[self.scene.operator.name()], what, lost).await
    }

    pub(super) async fn another_leads_than(&self, dead: &[&str], what: &str, lost: Instant) -> Result<Duration> {
        until("another operator to lead", LEASE + SLACK + BUSY, async || {
            let holder = self.holder().await?;
            Ok(if holder.is_empty() || dead.contains(&holder.as_str()) {
                Seen::NotYet(holder)
            } else {
                Seen::Done(())
            })
        })
        .await?;
        let took = lost.elapsed();
        println!("{what}: another leads after {:.1} s", took.as_secs_f64());
        Ok(took)
    }

    /// Commands the run on at this weight.
    pub(super) async fn promote(&self) -> Result<()> {
        let answer = shop::plugin(&self.scene.namespace, &["promote", NAME]).await?;
        ensure!(answer.code == Some(0), "{answer:?}");
        Ok(())
    }

    /// Waits until this weight is in force.
    pub(super) async fn at_weight(&self, weight: i32) -> Result<RolloutStatus> {
        shop::wait_for_weight(&self.scene.namespace, weight, BOUND).await
    }

    /// Leads the run from the step of this weight to its end by commands, as the same run, and holds all that was stored against the rules.
    pub(super) async fn end_well(&self, run: &RolloutStatus, from: i32) -> Result<()> {
        let weights = [10, 30, 50, 100].into_iter().filter(|weight| *weight >= from);
        for weight in weights {
            self.at_weight(weight).await?;
            self.promote().await?;
        }
        self.ended(run, Outcome::Promoted, Phase::Healthy).await
    }

    /// Waits until this run has ended like this, and holds all that was stored against the rules.
    pub(super) async fn ended(&self, run: &RolloutStatus, outcome: Outcome, phase: Phase) -> Result<()> {
        let namespace = &self.scene.namespace;
        let status = shop::wait(namespace, phase, BOUND).await?;
        let same = run.run.as_ref().map(|run| run.id.clone());
        let past = status.history.first().context("no history")?;
        ensure!(same.as_ref() == Some(&past.run), "run {same:?} became {past:?}");
        ensure!(past.outcome == outcome, "{past:?}");
        self.ensure_safe()
    }

    /// No stored version broke a rule.
    pub(super) fn ensure_safe(&self) -> Result<()> {
        let namespace = self.scene.namespace.name();
        let history = told_apart(self.observer.history(namespace));
        let broken = check_stored(&history, &STEPS, self.drain);
        println!(
            "{namespace}: {} of {} stored versions broke a rule",
            broken.len(),
            history.len()
        );
        ensure!(broken.is_empty(), "{broken:#?}");
        Ok(())
    }
}
