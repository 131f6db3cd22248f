//! A namespace in which something is wrong, an operator from whose start on requests are counted, and the manifests of mistakes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::audit::{Mark, Request};
use stepgate_tests::cluster::{Cluster, Namespace};
use stepgate_tests::operator::{ACCOUNT, Operator, OperatorOptions, SYSTEM};
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};

pub(crate) const BOUND: Duration = Duration::from_mins(1);

/// A namespace with an operator, from whose start on requests are counted.
pub(crate) struct Scene {
    pub(crate) namespace: Namespace,
    pub(crate) _operator: Operator,
    pub(crate) mark: Mark,
}

impl Scene {
    pub(crate) async fn begin() -> Result<Self> {
        let cluster = Cluster::attach().await?;
        let namespace = cluster.namespace("preflight").await?;
        let operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
        Ok(Self {
            mark: cluster.audit()?,
            namespace,
            _operator: operator,
        })
    }

    pub(crate) async fn apply(&self, manifests: &[String]) -> Result<()> {
        for manifest in manifests {
            self.namespace.apply(manifest).await?;
        }
        Ok(())
    }

    /// The operator's writes in this namespace, those of the named resources aside.
    pub(crate) fn writes_but(&self, aside: &[&str]) -> Result<Vec<Request>> {
        let account = format!("system:serviceaccount:{SYSTEM}:{ACCOUNT}");
        self.mark.requests(|request| {
            let what = request.what();
            request.user.username == account
                && request.is_write()
                && !aside.iter().any(|aside| what.ends_with(&format!(" {aside}")))
                && request
                    .object_ref
                    .as_ref()
                    .is_some_and(|target| target.namespace == self.namespace.name())
        })
    }

    /// Waits until the Rollout is blocked for this reason, and looks at everything that a person or a program sees of it: message,
    /// conditions, Event, and that nothing but these was written.
    pub(crate) async fn blocked(&self, reason: &str, words: &[&str]) -> Result<RolloutStatus> {
        let status = shop::wait_for(&self.namespace, &format!("Blocked by {reason}"), BOUND, |status| {
            status.phase == Some(Phase::Blocked) && why(status) == reason
        })
        .await?;
        let message = status.message.clone().unwrap_or_default();
        for words in words {
            ensure!(message.contains(words), "wanted `{words}` in: {message}");
        }
        for (kind, wanted) in [("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True")] {
            let condition = condition(&status, kind).with_context(|| format!("no condition {kind}"))?;
            ensure!(
                condition.status == wanted && condition.message == message && condition.reason == reason,
                "{condition:?}"
            );
        }
        until("the Event", BOUND, async || {
            let events = shop::events(&self.namespace, NAME).await?;
            let told = events.iter().any(|(why, text)| why == reason && *text == message);
            Ok(if told {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{events:?}"))
            })
        })
        .await?;
        let written = self.writes_but(&["rollouts/status", "events"])?;
        ensure!(written.is_empty(), "{written:?}");
        Ok(status)
    }

    pub(crate) async fn healthy(&self) -> Result<()> {
        let status = shop::wait(&self.namespace, Phase::Healthy, BOUND).await?;
        let ready = condition(&status, "Ready").context("no condition Ready")?;
        ensure!(ready.status == "True", "{ready:?}");
        Ok(())
    }

    /// The manifests, in which something is wrong; then what mends it.
    pub(crate) async fn case(&self, wrong: &[String], reason: &str, words: &[&str], mend: &[String]) -> Result<()> {
        self.apply(wrong).await?;
        self.blocked(reason, words).await?;
        self.apply(mend).await?;
        self.healthy().await
    }

    pub(crate) fn shop(&self, shop: &Shop) -> [String; 3] {
        [shop.application(), shop.route(&self.namespace), shop.rollout()]
    }
}

pub(crate) fn condition<'s>(
    status: &'s RolloutStatus,
    kind: &str,
) -> Option<&'s k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

pub(crate) fn why(status: &RolloutStatus) -> &str {
    condition(status, "Ready").map_or("", |condition| condition.reason.as_str())
}

/// A Service that selects by one label.
pub(crate) fn service(name: &str, selector: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{{selector}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}\n"
    )
}

/// A network policy that lets everything in, and selects by the label `app`.
pub(crate) fn network_policy() -> String {
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: open}\nspec: {podSelector: {matchLabels: {app: checkout}}, ingress: [{}]}\n"
        .to_owned()
}

pub(crate) fn with_rollout(rollout: &str) -> Shop {
    Shop {
        rollout: rollout.to_owned(),
        ..Shop::small()
    }
}

pub(crate) fn with_rules(rules: &str) -> Shop {
    Shop {
        rules: rules.to_owned(),
        ..Shop::small()
    }
}

/// The application with one more line in its pod template's spec.
pub(crate) fn with_pod_line(line: &str) -> String {
    Shop::small().application().replace(
        "      terminationGracePeriodSeconds: 10\n",
        &format!("      terminationGracePeriodSeconds: 10\n      {line}\n"),
    )
}
