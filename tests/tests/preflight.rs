//! Bad input: each mistake has a condition and an Event that say what is wrong and what to do, nothing else is written (by the audit
//! log), and as soon as it is mended the Rollout is Healthy.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stepgate_crds::RolloutStatus;
use stepgate_crds::status::Phase;
use stepgate_tests::cluster::audit::{Mark, Request};
use stepgate_tests::cluster::{Cluster, Namespace};
use stepgate_tests::operator::{ACCOUNT, Operator, OperatorOptions, SYSTEM};
use stepgate_tests::shop::{self, NAME, Shop};
use stepgate_tests::until::{Seen, until};

const BOUND: Duration = Duration::from_mins(1);

/// A namespace with an operator, from whose start on requests are counted.
struct Scene {
    namespace: Namespace,
    _operator: Operator,
    mark: Mark,
}

impl Scene {
    async fn begin() -> Result<Self> {
        let cluster = Cluster::attach().await?;
        let namespace = cluster.namespace("preflight").await?;
        let operator = Operator::start(&namespace, OperatorOptions::led_by_commands()).await?;
        Ok(Self {
            mark: cluster.audit()?,
            namespace,
            _operator: operator,
        })
    }

    async fn apply(&self, manifests: &[String]) -> Result<()> {
        for manifest in manifests {
            self.namespace.apply(manifest).await?;
        }
        Ok(())
    }

    /// The operator's writes in this namespace, those of the named resources aside.
    fn writes_but(&self, aside: &[&str]) -> Result<Vec<Request>> {
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
    async fn blocked(&self, reason: &str, words: &[&str]) -> Result<RolloutStatus> {
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

    async fn healthy(&self) -> Result<()> {
        let status = shop::wait(&self.namespace, Phase::Healthy, BOUND).await?;
        let ready = condition(&status, "Ready").context("no condition Ready")?;
        ensure!(ready.status == "True", "{ready:?}");
        Ok(())
    }

    /// The manifests, in which something is wrong; then what mends it.
    async fn case(&self, wrong: &[String], reason: &str, words: &[&str], mend: &[String]) -> Result<()> {
        self.apply(wrong).await?;
        self.blocked(reason, words).await?;
        self.apply(mend).await?;
        self.healthy().await
    }

    fn shop(&self, shop: &Shop) -> [String; 3] {
        [shop.application(), shop.route(&self.namespace), shop.rollout()]
    }
}

fn condition<'s>(
    status: &'s RolloutStatus,
    kind: &str,
) -> Option<&'s k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

fn why(status: &RolloutStatus) -> &str {
    condition(status, "Ready").map_or("", |condition| condition.reason.as_str())
}

/// A Service that selects by one label.
fn service(name: &str, selector: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{{selector}}}, ports: [{{name: http, port: 80, targetPort: http}}]}}\n"
    )
}

/// A network policy that lets everything in, and selects by the label `app`.
fn network_policy() -> String {
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: open}\nspec: {podSelector: {matchLabels: {app: checkout}}, ingress: [{}]}\n"
        .to_owned()
}

fn with_rollout(rollout: &str) -> Shop {
    Shop {
        rollout: rollout.to_owned(),
        ..Shop::small()
    }
}

fn with_rules(rules: &str) -> Shop {
    Shop {
        rules: rules.to_owned(),
        ..Shop::small()
    }
}

/// The application with one more line in its pod template's spec.
fn with_pod_line(line: &str) -> String {
    Shop::small().application().replace(
        "      terminationGracePeriodSeconds: 10\n",
        &format!("      terminationGracePeriodSeconds: 10\n      {line}\n"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_that_does_not_exist() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let name = format!(
        "Deployment {}/checkout does not exist; create it",
        scene.namespace.name()
    );
    scene
        .case(&[route, rollout], "WorkloadNotFound", &[&name], &[application])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_exist() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let (deployment, service) = application.split_once("---").context("two objects")?;
    let words = [
        format!("Service {}/checkout does not exist", scene.namespace.name()),
        "create it with a selector that matches the pods of Deployment checkout".to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let wrong = [deployment.to_owned(), route, rollout];
    scene
        .case(&wrong, "PreflightFailed", &words, &[service.to_owned()])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_does_not_exist() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let words = format!(
        "HTTPRoute {}/checkout does not exist; create it, or name another in spec.traffic.routes",
        scene.namespace.name()
    );
    scene
        .case(&[application, rollout], "PreflightFailed", &[&words], &[route])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metrics_source_that_nobody_set_up() -> Result<()> {
    let scene = Scene::begin().await?;
    let wrong = scene.shop(&with_rollout("  analysis: {source: datacentre}\n"));
    let words = [
        "metrics source datacentre is not set up",
        "name one of [default] in spec.analysis.source",
        "--metrics-source datacentre=URL",
    ];
    scene
        .case(&wrong, "PreflightFailed", &words, &[Shop::small().rollout()])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_that_is_too_short_for_the_scrapes() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let namespace = cluster.namespace("preflight").await?;
    let scene = Scene {
        _operator: Operator::start(&namespace, OperatorOptions::default()).await?,
        mark: cluster.audit()?,
        namespace,
    };
    let wrong = scene.shop(&with_rollout("  analysis: {interval: 9s}\n"));
    let words = ["spec.analysis.interval is 9s", "scrape every 5s"];
    scene
        .case(&wrong, "PreflightFailed", &words, &[Shop::small().rollout()])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_matches_no_pod() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let wrong = [application, service(NAME, "app: chekout"), route, rollout];
    let words = [
        "no Service in the route (checkout) selects a pod of Deployment checkout",
        "the selector has to match the labels of the pod template",
    ];
    scene
        .case(&wrong, "PreflightFailed", &words, &[service(NAME, "app: checkout")])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_a_rule_for_the_service() -> Result<()> {
    let scene = Scene::begin().await?;
    let elsewhere = with_rules("[{backendRefs: [{name: other, port: 80}]}]");
    let [application, route, _] = scene.shop(&elsewhere);
    let named = Shop::small()
        .rollout()
        .replace("traffic: {", "traffic: {stableService: checkout, ");
    let wrong = [application, service("other", "app: other"), route, named];
    let words = ["HTTPRoute checkout: no rule refers to Service checkout; add it as a backendRef"];
    let mend = [Shop::small().route(&scene.namespace)];
    scene.case(&wrong, "PreflightFailed", &words, &mend).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_that_could_both_be_meant() -> Result<()> {
    let scene = Scene::begin().await?;
    let both = with_rules(
        "[{matches: [{path: {value: /a}}], backendRefs: [{name: checkout, port: 80}]}, {backendRefs: [{name: checkout-too, port: 80}]}]",
    );
    let [application, route, rollout] = scene.shop(&both);
    // By two labels, so that the one that would have to differ is not the other's alone.
    let prepared = Shop {
        prepared: true,
        ..Shop::small()
    };
    let wrong = [
        application,
        service("checkout-too", "app: checkout"),
        route,
        rollout.clone(),
    ];
    let words = [
        "several Services in the route select the pods of Deployment checkout: checkout, checkout-too",
        "name one in spec.traffic.stableService",
    ];
    let named = rollout.replace("traffic: {", "traffic: {stableService: checkout, ");
    scene
        .case(&wrong, "PreflightFailed", &words, &[prepared.application(), named])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_backend_with_a_weight() -> Result<()> {
    let scene = Scene::begin().await?;
    let rules = |weight| {
        with_rules(&format!(
            "[{{name: main, backendRefs: [{{name: checkout, port: 80, weight: 9}}, {{name: other, port: 80, weight: {weight}}}]}}]"
        ))
    };
    let mut wrong = scene.shop(&rules(1)).to_vec();
    wrong.insert(0, service("other", "app: other"));
    let words = [
        "HTTPRoute checkout, rule main: it also sends traffic to other",
        "weight 0 or a rule of its own",
    ];
    let mend = [rules(0).route(&scene.namespace)];
    scene.case(&wrong, "PreflightFailed", &words, &mend).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_name_that_the_route_does_not_have() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] =
        scene.shop(&with_rules("[{name: web, backendRefs: [{name: checkout, port: 80}]}]"));
    let wrong = rollout.replace("{name: checkout}]", "{name: checkout, rules: [wbe]}]");
    let mend = rollout.replace("{name: checkout}]", "{name: checkout, rules: [web]}]");
    let words = ["HTTPRoute checkout has no rule named wbe; name one that it has"];
    scene
        .case(&[application, route, wrong], "PreflightFailed", &words, &[mend])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_no_gateway_accepts() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let wrong = [application, route.replace("name: shared", "name: nowhere"), rollout];
    let words = [
        "HTTPRoute checkout: no parent accepts it",
        "check spec.parentRefs and the Gateway",
    ];
    scene.case(&wrong, "PreflightFailed", &words, &[route]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_service_name_that_is_taken() -> Result<()> {
    let scene = Scene::begin().await?;
    let mut wrong = scene.shop(&Shop::small()).to_vec();
    wrong.insert(0, service("checkout-canary", "app: somebody-else"));
    let words = [
        "Service checkout-canary is there already and not made by this Rollout",
        "spec.traffic.canaryService",
    ];
    let mend = [Shop::small()
        .rollout()
        .replace("traffic: {", "traffic: {canaryService: checkout-next, ")];
    scene.case(&wrong, "PreflightFailed", &words, &mend).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_claim_that_two_versions_would_share() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let volume = "volumes: [{name: data, persistentVolumeClaim: {claimName: checkout-data}}]";
    let words = [
        "Deployment checkout mounts the PersistentVolumeClaim checkout-data",
        "not rolled out by steps",
    ];
    scene
        .case(
            &[with_pod_line(volume), route, rollout],
            "PreflightFailed",
            &words,
            &[application],
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_port_that_two_versions_would_share() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let bound = application.replace("containerPort: 8080}", "containerPort: 8080, hostPort: 8080}");
    let words = [
        "Deployment checkout binds the host port 8080",
        "not rolled out by steps",
    ];
    // `apply` would not take a port of the list away that differs by its host port: the whole Deployment is replaced.
    scene.apply(&[bound, route, rollout]).await?;
    scene.blocked("PreflightFailed", &words).await?;
    scene
        .namespace
        .kubectl_and_warnings(&["replace", "-f", "-"], &application)
        .await?;
    scene.healthy().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_policy_by_the_same_label_and_the_prepared_way_out() -> Result<()> {
    let scene = Scene::begin().await?;
    let mut wrong = scene.shop(&Shop::small()).to_vec();
    wrong.insert(0, network_policy());
    let words = [
        "NetworkPolicy open selects by the label app",
        "a label such as track: stable",
    ];
    let prepared = Shop {
        prepared: true,
        ..Shop::small()
    };
    scene
        .case(&wrong, "PreflightFailed", &words, &[prepared.application()])
        .await?;
    let found = shop::status(&scene.namespace).await?.found.context("what was found")?;
    ensure!(found.apart.starts_with("prepared: track=canary"), "{}", found.apart);
    // And it carries: a whole run, with the policy in place.
    shop::ship(&scene.namespace, "v2", "0%").await?;
    shop::promote_through(&scene.namespace, BOUND).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_service_by_the_same_label() -> Result<()> {
    let scene = Scene::begin().await?;
    let mut wrong = scene.shop(&Shop::small()).to_vec();
    wrong.insert(0, service("checkout-admin", "app: checkout"));
    let words = [
        "Service checkout-admin selects by the label app",
        "a label such as track: stable",
    ];
    let prepared = Shop {
        prepared: true,
        ..Shop::small()
    };
    scene
        .case(&wrong, "PreflightFailed", &words, &[prepared.application()])
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn affinity_by_the_same_label() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let affinity = "affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 1, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: checkout}}}}]}}";
    let words = [
        "affinity in the pod template selects by the label app",
        "a label such as track: stable",
    ];
    scene
        .case(
            &[with_pod_line(affinity), route, rollout],
            "PreflightFailed",
            &words,
            &[application],
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_of_ones_own_that_do_not_set_the_canary_apart() -> Result<()> {
    let scene = Scene::begin().await?;
    let [application, route, rollout] = scene.shop(&Shop::small());
    let labels = |labels: &str| rollout.replace("traffic: {", &format!("traffic: {{canaryLabels: {{{labels}}}, "));
    let words = [
        "Service checkout would still select the canary's pods",
        "spec.traffic.canaryLabels",
    ];
    scene
        .case(
            &[application, route, labels("tier: canary")],
            "PreflightFailed",
            &words,
            &[labels("app: checkout-next")],
        )
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_rollout_for_the_same_deployment_writes_nothing() -> Result<()> {
    let scene = Scene::begin().await?;
    scene.apply(&scene.shop(&Shop::small())).await?;
    scene.healthy().await?;
    let before = shop::deployment(&scene.namespace).await?;
    let second = Shop::small()
        .rollout()
        .replace("metadata: {name: checkout}", "metadata: {name: second}");
    let mark = scene.namespace.cluster().audit()?;
    scene.apply(&[second]).await?;
    let kubectl = [
        "wait",
        "rollout/second",
        "--for=jsonpath={.status.phase}=Blocked",
        "--timeout=60s",
    ];
    scene.namespace.kubectl(&kubectl).await?;
    let second = shop::object(&scene.namespace, "stepgate.dev/v1alpha1", "Rollout", "second").await?;
    let message = second["status"]["message"].as_str().unwrap_or_default();
    let words = format!(
        "Deployment {}/checkout is managed by Rollout checkout; delete one of the two",
        scene.namespace.name()
    );
    ensure!(message.starts_with(&words), "{message}");
    until("the Event", BOUND, async || {
        let events = shop::events(&scene.namespace, "second").await?;
        let told = events
            .iter()
            .any(|(why, text)| why == "WorkloadTaken" && text == message);
        Ok(if told {
            Seen::Done(())
        } else {
            Seen::NotYet(format!("{events:?}"))
        })
    })
    .await?;
    let account = format!("system:serviceaccount:{SYSTEM}:{ACCOUNT}");
    let written = mark.requests(|request| {
        let of_second = |name: &str| name == "second" || name.is_empty();
        request.user.username == account
            && request.is_write()
            && request.object_ref.as_ref().is_some_and(|target| {
                let own = target.subresource == "status" && of_second(&target.name);
                target.namespace == scene.namespace.name() && !own && target.resource != "events"
            })
    })?;
    ensure!(written.is_empty(), "{written:?}");
    ensure!(
        shop::deployment(&scene.namespace).await? == before,
        "the Deployment was touched"
    );
    // The first one gone, the second takes over.
    scene
        .namespace
        .kubectl(&["delete", "rollout", NAME, "--timeout=60s"])
        .await?;
    let kubectl = ["wait", "rollout/second", "--for=condition=Ready", "--timeout=60s"];
    scene.namespace.kubectl(&kubectl).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_that_comes_before_a_new_version_keeps_it_held_until_it_is_mended() -> Result<()> {
    let scene = Scene::begin().await?;
    scene.apply(&scene.shop(&Shop::small())).await?;
    scene.healthy().await?;
    scene.apply(&[network_policy()]).await?;
    shop::ship(&scene.namespace, "v2", "0%").await?;
    shop::wait_for(&scene.namespace, "the new version to be blocked", BOUND, |status| {
        status.phase == Some(Phase::Blocked)
            && status
                .message
                .as_ref()
                .is_some_and(|message| message.contains("NetworkPolicy open"))
    })
    .await?;
    let deployment = shop::deployment(&scene.namespace).await?;
    ensure!(deployment["spec"]["paused"] == true, "{deployment}");
    scene.namespace.kubectl(&["delete", "networkpolicy", "open"]).await?;
    shop::wait_for_weight(&scene.namespace, 10, BOUND).await?;
    Ok(())
}
