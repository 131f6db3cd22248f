//! GitOps: another manager that applies the user's manifests again and again. Where it takes the managed weights back it is obeyed a few
//! times and then named; with the settings of `docs/gitops.md` it disturbs nothing.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON is looked into by its fields; what is not there reads as null"
)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use stepgate_crds::status::{Outcome, PauseReason, Phase, RunState};
use stepgate_crds::{Rollout, RolloutStatus, Verb, names};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::cluster::audit::{Mark, Request};
use stepgate_tests::gitops::{ARGO_CD, FLUX, Ignored, Rounds, Site, Tool, argo_cd, manifest};
use stepgate_tests::operator::OperatorOptions;
use stepgate_tests::record::status_line;
use stepgate_tests::scene::Scene;
use stepgate_tests::shop::{self, NAME};
use stepgate_tests::states::{self, State};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

/// The longest wait: a tool that comes once a minute is given four of them.
const LONG: Duration = Duration::from_mins(5);

fn options() -> OperatorOptions {
    OperatorOptions::led_by_commands()
}

async fn told(scene: &Scene, case: impl Future<Output = Result<()>>) -> Result<()> {
    scene.told(case.await)
}

/// The user's route as it stands in Git.
fn route_in_git(scene: &Scene) -> Result<Value> {
    manifest(&states::shop().route(&scene.namespace), "HTTPRoute")
}

/// The user's Deployment as it stands in Git: this version, and the number of pods left to an autoscaler.
fn deployment_in_git(version: &str, slow_start: Option<&str>) -> Result<Value> {
    let text = states::shop()
        .application()
        .replace("value: v1", &format!("value: {version}"));
    let mut manifest = manifest(&text, "Deployment")?;
    manifest["spec"].as_object_mut().context("a spec")?.remove("replicas");
    manifest["spec"]["strategy"] =
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}});
    if let Some(slow) = slow_start {
        let environment = manifest.pointer_mut("/spec/template/spec/containers/0/env");
        let variables = environment.and_then(Value::as_array_mut).context("an environment")?;
        variables.push(json!({"name": "SLOW_START", "value": slow}));
    }
    Ok(manifest)
}

/// The operator's writes since the mark, whatever they are about.
fn writes(scene: &Scene, since: &Mark) -> Result<Vec<String>> {
    let requests = scene.requests(since)?;
    Ok(requests
        .iter()
        .filter(|request| request.is_write())
        .map(Request::what)
        .collect())
}

fn is_contended(status: &RolloutStatus) -> bool {
    let state = status.run.as_ref().map(|run| &run.state);
    matches!(
        state,
        Some(RunState::Paused {
            why: PauseReason::Contention,
            ..
        })
    )
}

async fn wait_long(scene: &Scene, what: &str, wanted: impl Fn(&RolloutStatus) -> bool) -> Result<RolloutStatus> {
    until(what, LONG, async || {
        let last = scene.record.last_status().context("no status yet")?;
        Ok(if wanted(&last) {
            Seen::Done(last)
        } else {
            Seen::NotYet(status_line(&last))
        })
    })
    .await
}

/// How long each change of the canary's weight away from `weight` stood before it was put right, in order.
fn stood(scene: &Scene, weight: i64, from: Timestamp) -> Vec<Duration> {
    let mut stood = Vec::new();
    let mut since: Option<Timestamp> = None;
    for (at, route) in scene.record.routes().into_iter().filter(|(at, _)| *at >= from) {
        match (route.weight == Some(weight), since) {
            (false, None) => since = Some(at),
            (true, Some(begin)) => {
                stood.push(at.duration_since(begin).unsigned_abs());
                since = None;
            }
            _ => {}
        }
    }
    stood
}

/// From the last step to the end, and the route as its user wrote it.
async fn go_through(scene: &Scene, before: &Value) -> Result<()> {
    scene.command(Verb::Promote).await?;
    states::in_force(scene, 100).await?;
    scene.command(Verb::Promote).await?;
    let ended = states::seen(scene, Phase::Healthy).await?;
    ensure!(
        ended
            .history
            .first()
            .is_some_and(|past| past.outcome == Outcome::Promoted),
        "{ended:?}"
    );
    let route = shop::route(&scene.namespace).await?;
    ensure!(route["spec"] == before["spec"], "{}", route["spec"]);
    Ok(())
}

/// The user's manifest every `period`: obeyed for 1 s, 10 s and 60 s, and the fourth time in ten minutes left to a person.
async fn applied_every(cluster: &Cluster, period: Duration) -> Result<()> {
    let (scene, _kept) = State::Stepping.scene(cluster, "gitops", options()).await?;
    told(&scene, async {
        let before = route_in_git(&scene)?;
        let from = Timestamp::now();
        let rounds = Rounds::start(&scene.namespace, Tool::Plain("some-git-ops"), &before, period);
        let paused = wait_long(&scene, "TrafficContention", is_contended).await?;
        let stood = stood(&scene, 50, from);
        let least = [1, 10, 60].map(Duration::from_secs);
        ensure!(stood.len() == 3, "obeyed {stood:?}");
        for (stood, least) in stood.iter().zip(least) {
            ensure!(
                *stood >= least && *stood < least + Duration::from_secs(5),
                "{stood:?}, and not {least:?}"
            );
        }
        let message = paused.message.clone().unwrap_or_default();
        for part in [
            "some-git-ops",
            "HTTPRoute checkout",
            "RespectIgnoreDifferences",
            "kustomize.toolkit.fluxcd.io/ssa",
            "resume",
        ] {
            ensure!(message.contains(part), "no {part} in: {message}");
        }
        let reason = |kind: &str| {
            paused
                .conditions
                .iter()
                .find(|condition| condition.type_ == kind)
                .map(|condition| &condition.reason)
        };
        ensure!(
            reason("Stalled").is_some_and(|reason| reason == "TrafficContention"),
            "{:?}",
            paused.conditions
        );
        // The route as it was found, and nothing is written against the tool any more.
        let mark = cluster.audit()?;
        sleep(Duration::from_secs(12)).await;
        let route = shop::route(&scene.namespace).await?;
        ensure!(
            !route["spec"].to_string().contains("checkout-canary"),
            "{}",
            route["spec"]
        );
        ensure!(writes(&scene, &mark)?.is_empty(), "{:?}", writes(&scene, &mark)?);
        rounds.end(4)?;
        // The person has seen to it.
        let original = shop::route(&scene.namespace).await?;
        scene.command(Verb::Resume).await?;
        states::in_force(&scene, 50).await?;
        go_through(&scene, &original).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_route_applied_again_and_again_is_a_brake_and_then_a_matter_for_a_person() -> Result<()> {
    let cluster = Cluster::attach().await?;
    states::all([5, 60].map(|seconds| (seconds, applied_every(&cluster, Duration::from_secs(seconds))))).await
}

/// An operator that lets brakes stand long enough to be told from what is put right at once.
async fn with_a_long_brake(cluster: &Cluster) -> Result<Scene> {
    let options = OperatorOptions {
        flags: vec!["--brake=8s,8s,8s".to_owned()],
        ..options()
    };
    Ok(State::Stepping.scene(cluster, "gitops", options).await?.0)
}

/// One change of the route by somebody: how long it stood, and that the run goes on as if nothing had been.
async fn changed_once(
    cluster: &Cluster,
    toward_stable: bool,
    change: impl AsyncFnOnce(&Scene) -> Result<()>,
) -> Result<()> {
    let scene = with_a_long_brake(cluster).await?;
    told(&scene, async {
        let original = route_in_git(&scene)?;
        let seq = shop::status(&scene.namespace).await?.run.context("a run")?.seq;
        let from = Timestamp::now();
        change(&scene).await?;
        states::follow(&scene, "50 % in force once more", |status| {
            status.run.as_ref().is_some_and(|run| {
                run.weight == 50 && run.seq > seq && run.in_force.as_ref().is_some_and(|force| force.seq == run.seq)
            })
        })
        .await?;
        let stood = stood(&scene, 50, from);
        let obeyed = stood.iter().any(|stood| *stood >= Duration::from_secs(8));
        ensure!(stood.len() == 1 && obeyed == toward_stable, "stood {stood:?}");
        let statuses = scene.record.statuses();
        let told = |status: &RolloutStatus| {
            status
                .message
                .as_ref()
                .is_some_and(|message| message.contains("somebody-else"))
        };
        ensure!(statuses.iter().any(|(_, status)| told(status)), "nobody was named");
        let live = shop::route(&scene.namespace).await?;
        let names: Vec<&Value> = live["spec"]["rules"][0]["backendRefs"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|found| &found["name"])
            .collect();
        ensure!(names.len() == 2, "{names:?}");
        scene.command(Verb::Promote).await?;
        states::in_force(&scene, 100).await?;
        scene.command(Verb::Promote).await?;
        states::seen(&scene, Phase::Healthy).await?;
        let after = shop::route(&scene.namespace).await?;
        ensure!(
            !after["spec"].to_string().contains("checkout-canary"),
            "{}",
            after["spec"]
        );
        ensure!(after["spec"]["hostnames"] == original["spec"]["hostnames"], "{after}");
        Ok(())
    })
    .await
}

/// A JSON patch on the route, as a person's.
async fn by_hand(scene: &Scene, patch: &str) -> Result<()> {
    let arguments = [
        "patch",
        "httproute",
        NAME,
        "--type=json",
        "--field-manager=somebody-else",
        "--patch",
        patch,
    ];
    scene.namespace.kubectl(&arguments).await?;
    Ok(())
}

fn weights(stable: u8, canary: u8) -> String {
    let replace = |place: usize, weight: u8| json!({"op": "replace", "path": format!("/spec/rules/0/backendRefs/{place}/weight"), "value": weight});
    json!([replace(0, stable), replace(1, canary)]).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_taken_toward_stable_are_obeyed_first() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (one, two, three) = tokio::join!(
        changed_once(&cluster, true, async |scene| by_hand(scene, &weights(80, 20)).await),
        changed_once(&cluster, true, async |scene| {
            by_hand(scene, r#"[{"op": "remove", "path": "/spec/rules/0/backendRefs/1"}]"#).await
        }),
        changed_once(&cluster, true, async |scene| {
            let original = route_in_git(scene)?;
            Site::of(&scene.namespace).apply("somebody-else", &original).await?;
            Ok(())
        }),
    );
    one.context("by hand")?;
    two.context("the canary's ref removed")?;
    three.context("the manifest applied once")
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_taken_toward_the_canary_are_put_right_at_once() -> Result<()> {
    let cluster = Cluster::attach().await?;
    changed_once(&cluster, false, async |scene| by_hand(scene, &weights(20, 80)).await).await
}

/// A tool with the settings of `docs/gitops.md` makes its rounds through a whole run, with a commit in the middle of it.
async fn set_as_documented(cluster: &Cluster, tool: Tool) -> Result<()> {
    let scene = Scene::open(cluster, "gitops", &states::shop(), options()).await?;
    told(&scene, async {
        let original = shop::route(&scene.namespace).await?;
        let mut git = route_in_git(&scene)?;
        if let Tool::FluxAnnotated(policy) = tool {
            git["metadata"]["annotations"] = json!({"kustomize.toolkit.fluxcd.io/ssa": policy});
        }
        let applied = !matches!(tool, Tool::FluxAnnotated(_));
        let rounds = Rounds::start(&scene.namespace, tool.clone(), &git, Duration::from_millis(500));
        // What else is in Git, as it is there.
        let application = states::shop().application();
        let others = [
            manifest(&application, "Service")?,
            manifest(&states::shop().rollout(), "Rollout")?,
        ]
        .map(|other| Rounds::start(&scene.namespace, Tool::Plain(FLUX), &other, Duration::from_secs(1)));
        State::Stepping.reach(&scene).await?;
        // A commit in mid-run, so that there is something to apply.
        git["metadata"]["labels"] = json!({"team": "shop"});
        rounds.commit(&git);
        if applied {
            until("the commit to be applied", states::BOUND, async || {
                let live = shop::route(&scene.namespace).await?;
                let label = live["metadata"]["labels"]["team"] == "shop";
                Ok(if label {
                    Seen::Done(())
                } else {
                    Seen::NotYet(live["metadata"].to_string())
                })
            })
            .await?;
        }
        sleep(Duration::from_secs(3)).await;
        go_through(&scene, &original).await?;
        let seen = scene.record.accepted_weights();
        ensure!(
            seen == [None, Some(0), Some(50), Some(100), Some(0), None],
            "accepted weights {seen:?}"
        );
        let drift = scene.record.first_run(|run| run.drift.is_some());
        ensure!(drift.is_none(), "{drift:?}");
        let route = shop::route(&scene.namespace).await?;
        ensure!(
            route["metadata"]["annotations"].get(names::RUN).is_none(),
            "{}",
            route["metadata"]
        );
        // At rest: which edits in Git get through.
        git["spec"]["rules"][0]["matches"] = json!([{"path": {"type": "PathPrefix", "value": "/new"}}]);
        git["spec"]["hostnames"] = json!(["new.local"]);
        rounds.commit(&git);
        sleep(Duration::from_secs(3)).await;
        let live = shop::route(&scene.namespace).await?;
        let host = live["spec"]["hostnames"][0] == "new.local";
        let rule = live["spec"]["rules"][0]["matches"][0]["path"]["value"] == "/new";
        // With `.spec.rules[].backendRefs` Argo CD leaves the whole rule alone: argo-cd issue 25284.
        let expected = match tool {
            Tool::ArgoCd(Ignored::BackendRefs) => (true, false),
            Tool::FluxAnnotated(_) => (false, false),
            _ => (true, true),
        };
        ensure!(
            (host, rule) == expected,
            "hostnames {host}, rules {rule}: {}",
            live["spec"]
        );
        for other in others {
            other.end(5)?;
        }
        rounds.end(10)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_documented_settings_argo_cd_and_flux_disturb_nothing() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let tools = [
        Tool::ArgoCd(Ignored::BackendRefs),
        Tool::ArgoCd(Ignored::RulesInRun),
        Tool::Flux(&["/spec/rules/0/backendRefs"]),
        Tool::FluxAnnotated("IfNotPresent"),
        Tool::FluxAnnotated("Ignore"),
    ];
    states::all(tools.map(|tool| (format!("{tool:?}"), Box::pin(set_as_documented(&cluster, tool))))).await
}

/// Argo CD without `ServerSideApply=true` sends the same by `kubectl apply`.
#[tokio::test(flavor = "multi_thread")]
async fn with_the_documented_settings_client_side_apply_disturbs_nothing() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (scene, _kept) = State::Stepping.scene(&cluster, "gitops", options()).await?;
    told(&scene, async {
        let mut git = route_in_git(&scene)?;
        let mark = cluster.audit()?;
        for round in 0..3 {
            git["metadata"]["labels"] = json!({"round": round.to_string()});
            let live = Site::of(&scene.namespace).live(&git).await?;
            scene
                .namespace
                .apply(&argo_cd(&git, &live, Ignored::RulesInRun).to_string())
                .await?;
            sleep(Duration::from_secs(1)).await;
        }
        ensure!(writes(&scene, &mark)?.is_empty(), "{:?}", writes(&scene, &mark)?);
        let status = shop::status(&scene.namespace).await?;
        ensure!(
            status.phase == Some(Phase::Stepping) && status.weight == Some(50),
            "{status:?}"
        );
        // Without those settings the very same command takes the weights away.
        scene.namespace.apply(&route_in_git(&scene)?.to_string()).await?;
        states::follow(&scene, "the brake", |status| {
            status.run.as_ref().is_some_and(|run| run.drift.is_some())
        })
        .await?;
        states::in_force(&scene, 50).await
    })
    .await
}

/// What a sync that was computed from an older look leaves behind when it comes after the run's end, and that the next one clears it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_comes_after_the_end_of_a_run_sends_nobody_to_the_canary() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (scene, _kept) = State::Stepping.scene(&cluster, "gitops", options()).await?;
    told(&scene, async {
        let git = route_in_git(&scene)?;
        let site = Site::of(&scene.namespace);
        let original = shop::route(&scene.namespace).await?["spec"]["hostnames"].clone();
        scene.command(Verb::Abort).await?;
        let draining = states::seen(&scene, Phase::Draining).await?;
        ensure!(draining.weight == Some(0), "{draining:?}");
        let late = argo_cd(&git, &site.live(&git).await?, Ignored::RulesInRun);
        states::seen(&scene, Phase::Failed).await?;
        site.apply(ARGO_CD, &late).await?;
        let load = scene.load(50.0).await?;
        sleep(Duration::from_secs(4)).await;
        let next = argo_cd(&git, &site.live(&git).await?, Ignored::RulesInRun);
        site.apply(ARGO_CD, &next).await?;
        sleep(Duration::from_secs(2)).await;
        let report = load.stop().await?;
        ensure!(
            report.version("v1").total > 0 && report.other_failures() == 0,
            "{report}"
        );
        let route = shop::route(&scene.namespace).await?;
        ensure!(
            route["spec"]["hostnames"] == original && !route["spec"].to_string().contains("checkout-canary"),
            "{}",
            route["spec"]
        );
        Ok(())
    })
    .await
}

/// The Deployment as it is in Git, again and again in this state: nothing changes by it, and nobody writes.
async fn deployment_applied_in(cluster: &Cluster, state: State) -> Result<()> {
    let (scene, mut kept) = state.scene(cluster, "gitops", options()).await?;
    told(&scene, async {
        let version = if state == State::Healthy { "v1" } else { "v2" };
        let slow = (state == State::Preparing).then_some("60m");
        let git = deployment_in_git(version, slow)?;
        let rounds = Rounds::start(&scene.namespace, Tool::Plain(FLUX), &git, Duration::from_secs(1));
        if state != State::Draining {
            let mark = cluster.audit()?;
            sleep(Duration::from_secs(6)).await;
            let seen = writes(&scene, &mark)?;
            // A refused write is tried again; that is no matter of the tool.
            let refused = matches!(state, State::Returning | State::RollingBack);
            ensure!(
                seen.is_empty() || (refused && seen.iter().all(|what| what == "patch httproutes")),
                "{seen:?}"
            );
            let phase = shop::status(&scene.namespace).await?.phase;
            ensure!(phase == Some(state.phase()), "{phase:?}");
        }
        kept.let_go(&scene.namespace).await?;
        let end = match state {
            State::Healthy | State::Promoting | State::Returning => Phase::Healthy,
            State::Preparing => Phase::Preparing,
            State::Stepping | State::Retreated => Phase::Stepping,
            State::Paused => Phase::Paused,
            _ => Phase::Failed,
        };
        states::seen(&scene, end).await?;
        let deployment = shop::deployment(&scene.namespace).await?;
        ensure!(deployment["spec"]["replicas"] == 2, "{deployment}");
        ensure!(deployment["metadata"]["labels"][names::ROLLOUT] == NAME, "{deployment}");
        rounds.end(5)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployment_applied_again_and_again_disturbs_no_state() -> Result<()> {
    let cluster = Cluster::attach().await?;
    // Restoring is the one in which Git asks for something else than what is being done.
    let states = State::ALL.into_iter().filter(|state| *state != State::Restoring);
    states::all(states.map(|state| (state, Box::pin(deployment_applied_in(&cluster, state))))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_version_applied_again_and_again_is_held_without_a_write() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (scene, _kept) = State::Failed.scene(&cluster, "gitops", options()).await?;
    told(&scene, async {
        let rounds = Rounds::start(
            &scene.namespace,
            Tool::Plain(FLUX),
            &deployment_in_git("v2", None)?,
            Duration::from_secs(2),
        );
        let mark = cluster.audit()?;
        sleep(Duration::from_mins(1)).await;
        ensure!(writes(&scene, &mark)?.is_empty(), "{:?}", writes(&scene, &mark)?);
        let status = shop::status(&scene.namespace).await?;
        ensure!(
            status.phase == Some(Phase::Failed) && status.run.is_none(),
            "{status:?}"
        );
        // The next commit is the way out.
        rounds.commit(&deployment_in_git("v3", None)?);
        states::in_force(&scene, 50).await?;
        rounds.end(20)
    })
    .await
}

/// A promotion is taken back while Git goes on asking for the version that failed: that is said, not fought over, and a revert in Git ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_puts_the_failed_version_back_while_stable_is_restored_is_not_fought_for_ever() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let (scene, mut kept) = State::Promoting.scene(&cluster, "gitops", options()).await?;
    told(&scene, async {
        let mark = cluster.audit()?;
        let rounds = Rounds::start(
            &scene.namespace,
            Tool::Plain(FLUX),
            &deployment_in_git("v2", None)?,
            Duration::from_secs(1),
        );
        scene.command(Verb::Abort).await?;
        let stuck = states::follow(&scene, "TemplateContention", |status| {
            status
                .conditions
                .iter()
                .any(|condition| condition.type_ == "Stalled" && condition.reason == "TemplateContention")
        })
        .await?;
        let message = stuck.message.clone().unwrap_or_default();
        ensure!(
            message.contains("canary serves on") && message.contains("GitOps"),
            "{message}"
        );
        let quiet = cluster.audit()?;
        sleep(Duration::from_secs(10)).await;
        ensure!(writes(&scene, &quiet)?.is_empty(), "{:?}", writes(&scene, &quiet)?);
        let on_deployment = scene.requests(&mark)?.into_iter().filter(|request| {
            request.is_write()
                && request
                    .object_ref
                    .as_ref()
                    .is_some_and(|target| target.resource == "deployments" && target.name == NAME)
        });
        let count = on_deployment.count();
        ensure!(count <= 6, "{count} writes to the Deployment");
        kept.let_go(&scene.namespace).await?;
        rounds.commit(&deployment_in_git("v1", None)?);
        let ended = states::follow(&scene, "the end of the run", |status| status.run.is_none()).await?;
        ensure!(
            ended
                .history
                .first()
                .is_some_and(|past| past.outcome == Outcome::Failed),
            "{ended:?}"
        );
        ensure!(ended.phase == Some(Phase::Healthy), "{ended:?}");
        rounds.end(5)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tool_finds_the_canary_among_its_own_and_a_held_deployment_reads_as_in_progress() -> Result<()> {
    let cluster = Cluster::attach().await?;
    let scene = Scene::open(&cluster, "gitops", &states::shop(), options()).await?;
    told(&scene, async {
        let track = json!({"metadata": {
            "labels": {"app.kubernetes.io/instance": "shop", "kustomize.toolkit.fluxcd.io/name": "shop", "kustomize.toolkit.fluxcd.io/namespace": "flux-system"},
            "annotations": {"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/checkout"},
        }});
        for kind in ["deployment", "service"] {
            scene.namespace.kubectl(&["patch", kind, NAME, "--type=merge", "--patch", &track.to_string()]).await?;
        }
        State::Stepping.reach(&scene).await?;
        for (version, kind) in [("apps/v1", "Deployment"), ("v1", "Service")] {
            let canary = shop::object(&scene.namespace, version, kind, "checkout-canary").await?;
            let metadata = format!("{} {}", canary["metadata"]["labels"], canary["metadata"]["annotations"]);
            for mark in ["instance", "kustomize", "argocd"] {
                ensure!(!metadata.contains(mark), "{kind}: {metadata}");
            }
        }
        // What Flux's `wait` and Argo CD's health go by.
        let held = shop::deployment(&scene.namespace).await?;
        ensure!(held["spec"]["paused"] == true, "{}", held["spec"]);
        let updated = held["status"]["updatedReplicas"].as_i64().unwrap_or(0);
        ensure!(updated == 0, "{}", held["status"]);
        // A command of the plugin is not in Git either, and an apply of the Rollout leaves it alone.
        let rollouts: Api<Rollout> = scene.namespace.api();
        let note = Patch::Merge(json!({"metadata": {"annotations": {"example.com/note": "kept"}}}));
        rollouts.patch(NAME, &PatchParams::default(), &note).await?;
        Site::of(&scene.namespace).apply(FLUX, &manifest(&states::shop().rollout(), "Rollout")?).await?;
        let after = rollouts.get(NAME).await?;
        let kept = after.metadata.annotations.is_some_and(|found| found.contains_key("example.com/note"));
        ensure!(kept && after.metadata.finalizers.is_some_and(|found| found.len() == 1), "taken off");
        Ok(())
    })
    .await
}
