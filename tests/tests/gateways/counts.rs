//! Requests of both versions: as a set of queries counts them, and as clients saw them.

use std::fmt;
use std::ops::Sub;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use stepgate::provider::{Arms, Measure, Providers};
use stepgate_crds::RolloutStatus;
use stepgate_crds::query::CountQuery;
use stepgate_tests::cluster::Prometheus;
use stepgate_tests::load::Report;
use stepgate_tests::shop::NAME;
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

/// Requests, and those of them that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) canary: i64,
    pub(crate) canary_bad: i64,
    pub(crate) stable: i64,
    pub(crate) stable_bad: i64,
}

impl Counts {
    /// What clients saw of the two versions.
    pub(crate) fn seen(report: &Report, stable: &str, canary: &str) -> Self {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let (stable, canary) = (report.version(stable), report.version(canary));
        Self {
            canary: number(canary.total),
            canary_bad: number(canary.injected + canary.failed),
            stable: number(stable.total),
            stable_bad: number(stable.injected + stable.failed),
        }
    }
}

impl Sub for Counts {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            canary: self.canary - other.canary,
            canary_bad: self.canary_bad - other.canary_bad,
            stable: self.stable - other.stable,
            stable_bad: self.stable_bad - other.stable_bad,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} of the canary, {} of them bad, {} of stable, {} of them bad",
            self.canary, self.canary_bad, self.stable, self.stable_bad
        )
    }
}

/// The selectors by which a provider counts the run that is under way: `bad` are the failed ones, or of a latency those that were not slow.
pub(crate) fn query(provider: &str, namespace: &str, status: &RolloutStatus, measure: &Measure) -> Result<CountQuery> {
    let found = status.found.as_ref().context("nothing was found")?;
    let stable = status.stable.as_ref().context("no stable version")?;
    let arms = Arms {
        namespace: namespace.to_owned(),
        stable_service: found.stable_service.clone(),
        canary_service: found.canary_service.clone(),
        port: found.port,
        routes: vec![NAME.to_owned()],
        stable_replica_set: stable.replica_set.clone(),
        canary_deployment: format!("{NAME}-canary"),
    };
    let providers = Providers::built_in()?;
    let query = providers.named(provider)?.query(&arms, 15, measure)?;
    query.parts().cloned().context("a query of no parts")
}

/// What is counted once nothing changes any more for some scrapes.
pub(crate) async fn at_rest(prometheus: &Prometheus, query: &CountQuery) -> Result<Counts> {
    until("counters at rest", Duration::from_mins(1), async || {
        let before = now(prometheus, query).await?;
        sleep(Duration::from_secs(3)).await;
        let after = now(prometheus, query).await?;
        Ok(if before == after {
            Seen::Done(after)
        } else {
            Seen::NotYet(format!("{before}, then {after}"))
        })
    })
    .await
}

async fn now(prometheus: &Prometheus, query: &CountQuery) -> Result<Counts> {
    Ok(Counts {
        canary: sum(prometheus, &query.canary_requests).await?,
        canary_bad: sum(prometheus, &query.canary_bad).await?,
        stable: sum(prometheus, &query.stable_requests).await?,
        stable_bad: sum(prometheus, &query.stable_bad).await?,
    })
}

/// The sum of all series that a selector matches; 0 where there are none.
async fn sum(prometheus: &Prometheus, selector: &str) -> Result<i64> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .build()?;
    let answer: Value = client
        .post(format!("{}/api/v1/query", prometheus.url()))
        .form(&[("query", format!("sum({selector}) or vector(0)"))])
        .send()
        .await?
        .json()
        .await?;
    let value = answer.pointer("/data/result/0/value/1").and_then(Value::as_str);
    let value = value.with_context(|| format!("{selector}: {answer}"))?;
    value.parse().with_context(|| format!("{selector}: {value}"))
}
