//! Several shops side by side in one namespace: a Rollout each, one operator and one Prometheus for all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use stepgate_crds::status::Phase;
use stepgate_crds::{Rollout, RolloutStatus};

use super::{DRAIN, STEPS, judged};
use crate::cluster::{Cluster, Namespace, Prometheus};
use crate::faults::check::{Violation, check_stored, told_apart};
use crate::faults::observer::{Observer, Version};
use crate::load::{LoadHandle, LoadOptions, Report};
use crate::operator::{Operator, OperatorOptions, install_chart};
use crate::record::status_line;
use crate::scene::{load_when_served, quick};
use crate::shop::{self, NAME, Shop};
use crate::until::{Seen, until};

/// Lines of the operator's log that a failed test prints.
const LOG_LINES: usize = 60;

/// The shops.
#[derive(Debug)]
pub struct Many {
    /// The one Prometheus.
    pub prometheus: Prometheus,
    /// Their names.
    pub names: Vec<String>,
    observer: Observer,
    operator: Operator,
    namespace: Namespace,
}

impl Many {
    /// Opens so many shops of one pod each; all are Healthy.
    pub async fn open(prefix: &str, count: usize) -> Result<Self> {
        let cluster = Cluster::attach().await?;
        install_chart(&cluster).await?;
        let observer = Observer::start(&cluster).await?;
        let namespace = cluster.namespace(prefix).await?;
        let (prometheus, options) = quick(&namespace).await?;
        let options = OperatorOptions {
            flags: vec!["--status-refresh=3s".to_owned()],
            ..options
        };
        let operator = Operator::start(&namespace, options).await?;
        let many = Self {
            prometheus,
            names: (1..=count).map(|number| format!("kiosk{number}")).collect(),
            observer,
            operator,
            namespace,
        };
        let shop = Shop {
            replicas: 1,
            ..judged()
        };
        let all: Vec<String> = many.names.iter().map(|name| many.manifests(&shop, name)).collect();
        many.namespace.apply(&all.join("---\n")).await?;
        let opened = many
            .all_are("Healthy", |status| status.phase == Some(Phase::Healthy))
            .await;
        many.told(opened)?;
        Ok(many)
    }

    fn host(&self, name: &str) -> String {
        format!("{name}.{}.local", self.namespace.name())
    }

    fn manifests(&self, shop: &Shop, name: &str) -> String {
        let all = [shop.application(), shop.route(&self.namespace), shop.rollout()].join("---\n");
        let host = format!("{}.local", self.namespace.name());
        all.replace(NAME, name).replace(&host, &self.host(name))
    }

    /// Ships v2 to one of them.
    pub async fn ship(&self, name: &str, error_share: &str) -> Result<()> {
        let (deployment, errors) = (format!("deployment/{name}"), format!("ERROR_SHARE={error_share}"));
        let arguments = ["set", "env", &deployment, "VERSION=v2", &errors];
        self.namespace.kubectl(&arguments).await.map(drop)
    }

    /// Starts requests at this rate to each of them.
    pub async fn load(&self, rate: f64) -> Result<BTreeMap<String, LoadHandle>> {
        let mut loads = BTreeMap::new();
        for name in &self.names {
            let options = LoadOptions {
                rate,
                host: self.host(name),
                timeout: Duration::from_secs(15),
                ..shop::load(&self.namespace)
            };
            loads.insert(name.clone(), load_when_served(options).await?);
        }
        Ok(loads)
    }

    /// Every status, by name.
    pub async fn statuses(&self) -> Result<BTreeMap<String, RolloutStatus>> {
        let rollouts: Api<Rollout> = self.namespace.api();
        let list = rollouts
            .list(&ListParams::default())
            .await
            .context("listing the Rollouts")?;
        let named = |rollout: Rollout| (rollout.name_any(), rollout.status.unwrap_or_default());
        Ok(list.items.into_iter().map(named).collect())
    }

    /// Waits until every status is as wanted.
    pub async fn all_are(&self, what: &str, wanted: impl Fn(&RolloutStatus) -> bool) -> Result<()> {
        self.each_is(what, |_, status| wanted(status)).await
    }

    /// Waits until every status is as wanted of its name.
    pub async fn each_is(&self, what: &str, wanted: impl Fn(&str, &RolloutStatus) -> bool) -> Result<()> {
        until(what, Duration::from_mins(2), async || {
            let statuses = self.statuses().await?;
            let not_yet = statuses.iter().find(|(name, status)| !wanted(name, status));
            Ok(match not_yet {
                None if statuses.len() == self.names.len() => Seen::Done(()),
                None => Seen::NotYet(format!("{} Rollouts", statuses.len())),
                Some((name, status)) => Seen::NotYet(format!("{name}: {}", status_line(status))),
            })
        })
        .await
    }

    /// What is wrong with the stored versions of each, and how many there were.
    pub fn broken(&self) -> (usize, Vec<(String, Violation)>) {
        let history = told_apart(self.observer.history(self.namespace.name()));
        let (mut seen, mut broken) = (0, Vec::new());
        for name in &self.names {
            let own: Vec<Version> = history
                .iter()
                .filter(|version| version.name.starts_with(name))
                .map(|version| as_the_shop(version, name))
                .collect();
            seen += own.len();
            let found = check_stored(&own, &STEPS, DRAIN);
            broken.extend(found.into_iter().map(|violation| (name.clone(), violation)));
        }
        (seen, broken)
    }

    /// The outcome as it is; where it is an error, what a reader needs is printed first.
    #[expect(clippy::print_stderr, reason = "what a failed test saw belongs into its output")]
    pub fn told<T>(&self, outcome: Result<T>) -> Result<T> {
        if outcome.is_err() {
            eprintln!("{}{}", self.namespace.report(), self.operator.log(LOG_LINES));
        }
        outcome
    }
}

/// Ends the loads, and gives what each shop's clients saw.
pub async fn stop(loads: BTreeMap<String, LoadHandle>) -> Result<BTreeMap<String, Report>> {
    let mut reports = BTreeMap::new();
    for (name, load) in loads {
        reports.insert(name, load.stop().await?);
    }
    Ok(reports)
}

/// One of several under the name that the rules of safety look for.
fn as_the_shop(version: &Version, name: &str) -> Version {
    let object = version.object.as_ref().map(|object| {
        let renamed = object.to_string().replace(name, NAME);
        Arc::new(serde_json::from_str(&renamed).unwrap_or_default())
    });
    Version {
        name: version.name.replace(name, NAME),
        object,
        ..version.clone()
    }
}
