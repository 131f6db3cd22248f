//! The settings of `docs/gitops.md`: what Argo CD and Flux send with them disturbs nothing, and what of Git gets through.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures::FutureExt;
use serde_json::json;
use stepgate_crds::status::Phase;
use stepgate_crds::{Verb, names};
use stepgate_tests::cluster::Cluster;
use stepgate_tests::gitops::{ARGO_CD, FLUX, Ignored, Rounds, Site, Tool, argo_cd, manifest};
use stepgate_tests::scene::Scene;
use stepgate_tests::shop;
use stepgate_tests::states::{self, State};
use stepgate_tests::until::{Seen, until};
use tokio::time::sleep;

use super::watching::{go_through, options, route_in_git, told, writes};

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
        let rounds = Rounds::start(&scene.namespace, tool.clone(), &git, Duration::from_secs(1));
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
        // A tool that looked before a write of ours and applies after it takes one weight back: no tool tests what it read.
        let overtaken = scene.record.first_run(|run| run.drift.is_some());
        let times = overtaken
            .and_then(|(_, run)| run.drift)
            .map_or(0, |drift| drift.times.len());
        let seen = scene.record.accepted_weights();
        let undisturbed = seen == [None, Some(0), Some(50), Some(100), Some(0), None];
        ensure!(undisturbed || times == 1, "{times} times, accepted weights {seen:?}");
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
    states::all(tools.map(|tool| (format!("{tool:?}"), set_as_documented(&cluster, tool).boxed_local()))).await
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
