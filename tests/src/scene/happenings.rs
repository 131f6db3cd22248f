//! What happens to a busy shop from outside: people, autoscalers and nodes that do what they do, and waiting for where a run is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;
use stepgate_crds::names;
use stepgate_crds::status::{Outcome, Phase, RunState};
use stepgate_crds::{RolloutStatus, Verb};
use tokio::time::sleep;

use super::busy::{Busy, GATEWAY_LAG, RATE};
use super::witness::{CANARY, Moment};
use crate::record::status_line;
use crate::shop::{self, NAME};
use crate::until::{Seen, until};

/// How long anything may take.
pub const BOUND: Duration = Duration::from_mins(2);
/// Within this the route is written after whatever sends a run back.
pub const FIRST_WRITE: Duration = Duration::from_secs(2);

impl Busy {
    /// Ships v2 with these environment variables besides, and waits until the canary has this weight.
    pub async fn ship_to(&self, variables: &[&str], weight: i32) -> Result<()> {
        let variables: Vec<&str> = ["VERSION=v2"].into_iter().chain(variables.iter().copied()).collect();
        shop::ship_with(&self.scene.namespace, &variables).await?;
        self.at_weight(weight).await
    }

    /// Waits until the canary has this weight, accepted.
    pub async fn at_weight(&self, weight: i32) -> Result<()> {
        self.status(&format!("{weight} % in force"), |status| {
            status.run.as_ref().is_some_and(|run| {
                matches!(run.state, RunState::Stepping { .. })
                    && run.weight == weight
                    && run.in_force.as_ref().is_some_and(|force| force.seq == run.seq)
            })
        })
        .await?;
        Ok(())
    }

    /// Waits until a status is as wanted, by watch: none is missed that passes in moments.
    pub async fn status(&self, what: &str, wanted: impl Fn(&RolloutStatus) -> bool) -> Result<RolloutStatus> {
        until(what, BOUND, async || {
            Ok(match self.scene.record.last_status() {
                Some(status) if wanted(&status) => Seen::Done(status),
                Some(status) => Seen::NotYet(status_line(&status)),
                None => Seen::NotYet("no status".to_owned()),
            })
        })
        .await
    }

    /// Promotes from the last step, and waits until the Deployment is in the middle of its roll: pods of both versions, or none of the old
    /// one and not yet all of the new one.
    pub async fn to_mid_promotion(&self) -> Result<()> {
        let before = self.witness.now().context("nothing was seen of the shop")?;
        self.scene.command(Verb::Promote).await?;
        self.status("Promoting", |status| status.phase == Some(Phase::Promoting))
            .await?;
        self.moment("the Deployment to roll", |moment| {
            let new = |name: &String| !before.sets.contains_key(name);
            !moment.is_whole() && moment.sets.iter().any(|(name, set)| new(name) && set.pods > 0)
        })
        .await
        .map(drop)
    }

    /// Waits until the shop is as wanted, and gives that moment.
    pub async fn moment(&self, what: &str, wanted: impl Fn(&Moment) -> bool) -> Result<Moment> {
        until(what, BOUND, async || {
            Ok(match self.witness.now() {
                Some(moment) if wanted(&moment) => Seen::Done(moment),
                Some(moment) => Seen::NotYet(moment.to_string()),
                None => Seen::NotYet("nothing was seen of the shop".to_owned()),
            })
        })
        .await
    }

    /// Waits until no run is under way, and the newest one in the history ended like this.
    pub async fn ended(&self, outcome: Outcome) -> Result<RolloutStatus> {
        let status = self
            .status("the run's end", |status| {
                status.run.is_none() && !status.history.is_empty()
            })
            .await?;
        let past = status.history.first().context("no history")?;
        ensure!(past.outcome == outcome, "ended as {past:?} and not as {outcome:?}");
        Ok(status)
    }

    /// Waits until this version alone has answered for a second.
    pub async fn serves(&self, version: &str) -> Result<()> {
        until(&format!("{version} alone to answer"), BOUND, async || {
            let recent = self.report().recent(1);
            let alone = recent.len() == 1 && recent.contains_key(version);
            Ok(if alone {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{recent:?}"))
            })
        })
        .await
    }

    /// Sets the number of the Deployment's pods, as an autoscaler does: by the scale subresource.
    pub async fn scale(&self, replicas: i64) -> Result<()> {
        let deployments: Api<Deployment> = self.scene.namespace.api();
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments
            .patch_scale(NAME, &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("scaling Deployment {NAME} to {replicas}"))?;
        Ok(())
    }

    /// Scales the Deployment down to what an autoscaler leaves of it, and waits until its endpoints are as few.
    pub async fn shrink(&self, replicas: i64) -> Result<()> {
        self.scale(replicas).await?;
        self.moment("stable to shrink", |moment| moment.ready(NAME) == replicas)
            .await?;
        Ok(())
    }

    /// Acts as an autoscaler that sees only the load on stable's pods, and wants each to have `per_pod` requests a second: looks every
    /// two seconds, never lowers, and ends when `most` pods are asked for.
    pub async fn autoscale(&self, per_pod: i64, most: i64) -> Result<()> {
        #[expect(clippy::cast_possible_truncation, reason = "a small whole number")]
        let rate = RATE as i64;
        until("the autoscaler to grow stable", BOUND, async || {
            sleep(Duration::from_secs(2)).await;
            let moment = self.witness.now().context("nothing was seen of the shop")?;
            let asked = moment.wanted.unwrap_or(0);
            let load = rate * moment.stable_share / 100;
            let wanted = ((load + per_pod - 1) / per_pod).min(most);
            if wanted > asked {
                self.scale(wanted).await?;
            }
            Ok(if asked.max(wanted) >= most {
                Seen::Done(())
            } else {
                Seen::NotYet(moment.to_string())
            })
        })
        .await
    }

    /// Lets every pod of the canary fail this share of its requests from now on, such as `20%`.
    pub async fn spoil_canary(&self, share: &'static str) -> Result<()> {
        let addresses: Vec<String> = self
            .canary_pods()
            .await?
            .into_iter()
            .filter_map(|pod| pod.status?.pod_ip)
            .collect();
        ensure!(!addresses.is_empty(), "there is no canary pod to spoil");
        let client = reqwest::Client::builder().no_proxy().build()?;
        try_join_all(addresses.iter().map(async |address| {
            let url = format!("http://{address}:8080/demo/error-share");
            client.post(url).body(share).send().await?.error_for_status()
        }))
        .await
        .context("spoiling the canary's pods")?;
        Ok(())
    }

    /// Kills every pod of the canary at once, without grace, as a node that loses power.
    pub async fn kill_canary(&self) -> Result<Timestamp> {
        let pods: Api<Pod> = self.scene.namespace.api();
        let names = self
            .canary_pods()
            .await?
            .into_iter()
            .filter_map(|pod| pod.metadata.name)
            .collect::<Vec<_>>();
        ensure!(!names.is_empty(), "there is no canary pod to kill");
        let at = Timestamp::now();
        try_join_all(
            names
                .iter()
                .map(async |name| pods.delete(name, &DeleteParams::default().grace_period(0)).await),
        )
        .await
        .context("killing the canary's pods")?;
        Ok(at)
    }

    async fn canary_pods(&self) -> Result<Vec<Pod>> {
        let pods: Api<Pod> = self.scene.namespace.api();
        let ours = ListParams::default().labels(names::RUN);
        Ok(pods.list(&ours).await.context("listing the canary's pods")?.items)
    }

    /// Traffic was never on a Deployment that was not whole: at no write of any object, from the first moment that it was whole on.
    pub fn ensure_never_on_a_part(&self) -> Result<()> {
        let moments = self.witness.moments();
        let whole = moments.iter().skip_while(|moment| !moment.is_whole());
        let part = whole
            .clone()
            .find(|moment| moment.stable_share > 0 && !moment.is_whole());
        ensure!(whole.count() > 0, "the Deployment was never whole");
        ensure!(
            part.is_none(),
            "traffic on a Deployment that is not whole: {}",
            part.map(ToString::to_string).unwrap_or_default()
        );
        Ok(())
    }

    /// No write gave traffic to a canary that the route did not refer to before: a gateway that is told of a Service and of requests for it in
    /// one breath may send them before it knows the Service.
    pub fn ensure_known_before_sent(&self) -> Result<()> {
        let moments = self.witness.moments();
        let early = moments.windows(2).find_map(|pair| match pair {
            [before, moment] if !before.refers_to_canary && moment.canary_share > 0 => Some(moment),
            _ => None,
        });
        ensure!(
            early.is_none(),
            "the write that made the canary known to the gateway gave it traffic: {}",
            early.map(ToString::to_string).unwrap_or_default()
        );
        Ok(())
    }

    /// From a moment on every weight was covered by ready pods as it was written, `base` of which carry all of the traffic; gives the shares
    /// of the canary in order.
    pub fn ensure_covered(&self, from: Timestamp, base: i64) -> Result<Vec<i64>> {
        let moments = self.witness.moments();
        let mut shares: Vec<i64> = Vec::new();
        for pair in moments.windows(2) {
            let [before, moment] = pair else { continue };
            let written = moment.kind == "HTTPRoute" && moment.stable_share != before.stable_share;
            if moment.at < from || !written {
                continue;
            }
            ensure!(
                moment.stable_share < before.stable_share || moment.is_covered(base),
                "more traffic on stable than its ready pods carry: {moment}"
            );
            shares.push(moment.canary_share);
        }
        Ok(shares)
    }

    /// The route was written within two seconds of what sent the run back; gives how long it took.
    pub fn ensure_first_write(&self, event: Timestamp) -> Result<Duration> {
        let moments = self.witness.moments();
        let before = moments.iter().rev().find(|moment| moment.at < event);
        let mark = before.and_then(|moment| moment.mark.clone());
        let first = moments
            .iter()
            .find(|moment| moment.at >= event && moment.kind == "HTTPRoute" && moment.mark != mark)
            .context("the route was not written after the event")?;
        let took = Duration::try_from(first.at.duration_since(event))?;
        ensure!(
            took <= FIRST_WRITE,
            "{took:?} from the event to the first write: {first}"
        );
        Ok(took)
    }

    /// When stable and canary had this many ready pods again, as far as traffic is sent to them, and the gateway knew.
    pub async fn made_good(&self, stable: i64, canary: i64) -> Result<Timestamp> {
        let moment = self
            .moment("the lost pods to be made good", |moment| {
                (moment.stable_share == 0 || moment.ready(NAME) >= stable)
                    && (moment.canary_share == 0 || moment.ready(CANARY) >= canary)
            })
            .await?;
        Ok(moment.at.checked_add(GATEWAY_LAG)?)
    }
}
