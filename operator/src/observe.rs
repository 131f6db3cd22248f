//! Gathers what is known about one Rollout into the core's `Input`: from the mirrors, and by the few requests that a decision asked for.
//!
//! Decides nothing and writes nothing.

use std::{collections::BTreeMap, sync::Arc};

use kube::ResourceExt;
use serde_json::Value;
use stepgate_core::{
    canary,
    input::{
        Before, ClaimView, OwnedView, ReplicaSetView, RolloutView, RouteView, Seen, ServicePolicyView, SourceHealth,
        Survey, TemplateView, VolumeClaimView, WorkloadView,
    },
    object, preflight, state,
    verdict::{DataError, Interval, Restarts},
};
use stepgate_crds::{
    Rollout,
    command::Command,
    evidence::Trouble,
    names,
    query::CountQuery,
    rollout::OwnQuery,
    status::RunState,
    units::{Span, Timestamp},
};

use crate::{
    execute::{RequestError, Requests},
    kinds::{
        BackendTlsPolicy, Deployment, DisruptionBudget, NetworkPolicy, Pod, ReplicaSet, Service, VolumeClaim,
        WholeTemplate,
    },
    provider::{self, Arms, Provider, Providers, Query},
    source::{
        TENANT_LABEL,
        sampler::{self, BaselineWant, Sampler, Want},
    },
    world::World,
};

/// Longest run id and nonce of a command: they are kept in `status`.
const LONGEST_WORD: usize = 100;

/// So many error exits of canary containers make it worth a request to look at stable's.
const SUSPICIOUS_EXITS: u32 = 2;

/// What one pass knows; `Input` borrows from it.
#[derive(Debug)]
pub struct Observed {
    /// The Rollout.
    pub rollout: RolloutView,
    /// The user's Deployment.
    pub workload: Seen<WorkloadView>,
    /// The canary's Deployment.
    pub canary: Seen<WorkloadView>,
    /// The canary's Service.
    pub canary_service: Seen<OwnedView>,
    /// Ready endpoints of the stable Service.
    pub stable_ready: i32,
    /// Those of them that are the Deployment's, but not of stable's ReplicaSet.
    pub strange_ready: i32,
    /// Ready endpoints of the canary's.
    pub canary_ready: i32,
    /// The routes.
    pub routes: Vec<(String, Seen<RouteView>)>,
    /// The recorded templates.
    pub templates: BTreeMap<String, TemplateView>,
    /// Restarts, where there are canary pods.
    pub restarts: Option<Restarts>,
    /// When the youngest pod of the canary was started.
    pub canary_youngest: Option<Timestamp>,
    /// The counts.
    pub samples: Vec<Interval>,
    /// What they are asked for by, one for each metric.
    pub queries: Vec<Option<CountQuery>>,
    /// What stable did before the run.
    pub baseline: Before,
    /// What the user's own queries are asked as.
    pub asked: Vec<Option<String>>,
    /// The metrics source.
    pub source: SourceHealth,
}

/// What observing needs.
#[derive(Debug)]
pub struct Observer {
    /// What is watched.
    pub world: Arc<World>,
    /// What is asked for.
    pub requests: Requests,
    /// The metrics.
    pub sampler: Sampler,
    /// The sets of queries.
    pub providers: Providers,
    /// The metrics sources.
    pub sources: Vec<SourceView>,
}

/// What the sampler has for a run, and by what it asked.
struct Samples {
    intervals: Vec<Interval>,
    queries: Vec<Option<CountQuery>>,
    asked: Vec<Option<String>>,
    source: SourceHealth,
}

impl Samples {
    fn none(source: SourceHealth) -> Self {
        Self {
            intervals: Vec::new(),
            queries: Vec::new(),
            asked: Vec::new(),
            source,
        }
    }
}

/// What is known of a metrics source without asking it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceView {
    /// Its name.
    pub name: String,
    /// How often it scrapes, where that is known.
    pub scrape: Option<Span>,
    /// By which label it tells namespaces apart, where it is to.
    pub tenant_label: Option<String>,
}

impl Observer {
    /// What is known now.
    pub async fn observe(&self, rollout: &Rollout) -> Observed {
        let world = &self.world;
        let view = rollout_view(rollout);
        let namespace = view.namespace.as_str();
        let workload = self.workload(namespace, &view.spec.workload.name).await;
        let found = view.status.found.as_ref();
        let canary_name = canary::name(&view.spec.workload.name);
        let ours = |canary: &WorkloadView, labels: Option<&BTreeMap<String, String>>| {
            labels.and_then(|labels| labels.get(names::CANARY_OF)) == Some(&view.uid) && canary.name == canary_name
        };
        let canary = world
            .canaries
            .get(namespace, &canary_name)
            .filter(|canary| ours(&canary.view, canary.metadata.labels.as_ref()));
        // What was found is forgotten in a suspension, and a Service that was made late is ours all the same.
        let is_named = |name: &str| found.is_none_or(|found| found.canary_service == name);
        let services = world.services.group(namespace, &view.uid);
        let service = services.into_iter().find(|service| is_named(&service.view.name));
        let this_run = |run: Option<&String>| run.is_some() && run == view.status.run.as_ref().map(|run| &run.id);
        let canary_ready = service
            .as_ref()
            .filter(|service| this_run(service.view.run.as_ref()))
            .map_or(0, |service| world.ready(namespace, &service.view.name));
        let routes = view.routes().iter().map(|route| {
            let seen = world.routes.get(namespace, &route.name);
            (
                route.name.clone(),
                seen.map_or(Seen::Absent, |route| Seen::At(route.view.clone())),
            )
        });
        let templates = world.templates.group(namespace, &view.uid);
        let Samples {
            intervals: samples,
            queries,
            asked,
            source,
        } = self.samples(&view);
        let stable_set = view.status.stable.as_ref().map(|stable| stable.replica_set.as_str());
        Observed {
            strange_ready: found.zip(stable_set).map_or(0, |(found, set)| {
                world.strange(namespace, &found.stable_service, &view.spec.workload.name, set)
            }),
            stable_ready: found.map_or(0, |found| world.ready(namespace, &found.stable_service)),
            canary_ready,
            routes: routes.collect(),
            templates: templates
                .iter()
                .map(|template| (template.name_any(), template.view.clone()))
                .collect(),
            restarts: self.restarts(&view).await,
            canary_youngest: self.canary_youngest(&view),
            samples,
            queries,
            baseline: self.baseline(&view),
            asked,
            source,
            workload,
            canary: canary.map_or(Seen::Absent, |canary| Seen::At(canary.view.clone())),
            canary_service: service.map_or(Seen::Absent, |service| Seen::At(service.view.clone())),
            rollout: view,
        }
    }

    /// The user's Deployment: watched once it carries our label, and asked for until then.
    async fn workload(&self, namespace: &str, name: &str) -> Seen<WorkloadView> {
        if let Some(workload) = self.world.workloads.get(namespace, name) {
            return Seen::At(workload.view.clone());
        }
        match self.requests.get::<Deployment>(namespace, name).await {
            Ok(Some(workload)) => Seen::At(workload.view),
            Ok(None) => Seen::Absent,
            Err(error) => Seen::Unknown(error.to_string()),
        }
    }

    /// The lists of preflight.
    pub async fn survey(&self, rollout: &Rollout) -> Result<Option<Survey>, RequestError> {
        let namespace = rollout.namespace().unwrap_or_default();
        let name = &rollout.spec.workload.name;
        let Some(workload) = self.requests.get_raw(&namespace, name).await? else {
            return Ok(None);
        };
        let canary_name = canary::name(name);
        // On the heap: six requests at once are more than a pass should carry about.
        let lists = Box::pin(async {
            tokio::try_join!(
                self.requests.list::<Service>(&namespace, None),
                self.requests.list::<NetworkPolicy>(&namespace, None),
                self.requests.list::<DisruptionBudget>(&namespace, None),
                self.service_policies(&namespace),
                self.volume_claims(&namespace, &workload),
                self.canary_workload(&namespace, &canary_name),
            )
        });
        let (services, network_policies, disruption_budgets, service_policies, volume_claims, canary_workload) =
            lists.await?;
        Ok(Some(Survey {
            workload,
            canary_workload,
            services: services.into_iter().map(|service| service.view).collect(),
            network_policies: network_policies.into_iter().map(|policy| policy.view).collect(),
            disruption_budgets: disruption_budgets.into_iter().map(|budget| budget.view).collect(),
            service_policies,
            volume_claims,
            rollouts: self.claims(rollout),
            sources: self.sources.iter().map(|source| source.name.clone()).collect(),
            refused_queries: self.refused_queries(rollout),
            providers: self.providers.iter().map(Provider::view).collect(),
        }))
    }

    /// The policies that name Services. None where the kind is not served.
    async fn service_policies(&self, namespace: &str) -> Result<Option<Vec<ServicePolicyView>>, RequestError> {
        match self.requests.list::<BackendTlsPolicy>(namespace, None).await {
            Ok(policies) => Ok(Some(policies.into_iter().map(|policy| policy.view).collect())),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Those of the claims that a workload mounts which are there.
    async fn volume_claims(&self, namespace: &str, workload: &Value) -> Result<Vec<VolumeClaimView>, RequestError> {
        let mut claims = Vec::new();
        for name in preflight::claims(workload) {
            let claim: Option<VolumeClaim> = self.requests.get(namespace, name).await?;
            claims.extend(claim.map(|claim| claim.view));
        }
        Ok(claims)
    }

    /// Whatever Deployment has the canary's name. Those with our label are watched.
    async fn canary_workload(&self, namespace: &str, name: &str) -> Result<Option<OwnedView>, RequestError> {
        let found = match self.world.canaries.get(namespace, name) {
            Some(canary) => Some(canary.as_ref().clone()),
            None => self.requests.get::<Deployment>(namespace, name).await?,
        };
        Ok(found.map(|found| OwnedView {
            canary_of: found
                .metadata
                .labels
                .and_then(|labels| labels.get(names::CANARY_OF).cloned()),
            name: found.view.name,
            uid: found.view.uid,
            run: found.view.run,
        }))
    }

    /// What the other Rollouts of the namespace lay claim to.
    fn claims(&self, rollout: &Rollout) -> Vec<ClaimView> {
        let mut claims = Vec::new();
        self.world.rollouts.for_each(|other| {
            if other.namespace() == rollout.namespace() && other.uid() != rollout.uid() {
                claims.extend(ClaimView::of(&rollout_view(other)));
            }
        });
        // What cannot be read is not let go by that.
        self.world.unreadable.for_each(|other| {
            if other.namespace() == rollout.namespace() && other.uid() != rollout.uid() {
                claims.extend(other.claim.clone());
            }
        });
        claims.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
        claims
    }

    /// The ReplicaSets in the Deployment's namespace that it may control.
    pub async fn replica_sets(
        &self,
        rollout: &Rollout,
        workload: &Seen<WorkloadView>,
    ) -> Result<Vec<ReplicaSetView>, RequestError> {
        let namespace = rollout.namespace().unwrap_or_default();
        let Seen::At(workload) = workload else {
            return Ok(Vec::new());
        };
        let sets: Vec<ReplicaSet> = self.requests.list(&namespace, None).await?;
        Ok(sets
            .into_iter()
            .map(|set| set.view)
            .filter(|set| set.owner.as_ref() == Some(&workload.uid))
            .collect())
    }

    /// The recorded templates of a Rollout, whole, by name.
    pub async fn recorded(&self, rollout: &Rollout) -> Result<BTreeMap<String, Value>, RequestError> {
        let namespace = rollout.namespace().unwrap_or_default();
        let label = format!("{}={}", names::TEMPLATE_OF, rollout.uid().unwrap_or_default());
        let templates: Vec<WholeTemplate> = self.requests.list(&namespace, Some(&label)).await?;
        Ok(templates
            .into_iter()
            .map(|template| (template.name_any(), template.view.0))
            .collect())
    }

    /// How often the metrics source of a Rollout scrapes, where that is known.
    pub fn scrape(&self, rollout: &RolloutView) -> Option<Span> {
        let analysis = rollout.spec.analysis.as_ref();
        let wanted = analysis
            .and_then(|analysis| analysis.source.as_deref())
            .unwrap_or(preflight::DEFAULT_SOURCE);
        let run = rollout.status.run.as_ref();
        let name = run.map_or(wanted, |run| run.spec.source.as_str());
        self.source(name)?.scrape
    }

    fn source(&self, name: &str) -> Option<&SourceView> {
        self.sources.iter().find(|source| source.name == name)
    }

    /// By which label a source tells namespaces apart: one that is not known as every other.
    fn tenant_label(&self, source: &str) -> Option<&str> {
        self.source(source)
            .map_or(Some(TENANT_LABEL), |source| source.tenant_label.as_deref())
    }

    /// Those of a Rollout's own queries that cannot be asked, and why. What tells the versions apart is not known yet, but that it is names.
    fn refused_queries(&self, rollout: &Rollout) -> Vec<(String, String)> {
        let Some(analysis) = &rollout.spec.analysis else {
            return Vec::new();
        };
        let source = analysis.source.as_deref().unwrap_or(preflight::DEFAULT_SOURCE);
        let name = || "name".to_owned();
        let arms = Arms {
            namespace: rollout.namespace().unwrap_or_default(),
            stable_service: name(),
            canary_service: name(),
            port: 1,
            routes: vec![name()],
            stable_replica_set: name(),
            canary_deployment: name(),
        };
        let refusal = |query: &OwnQuery| {
            let error = provider::asked(&query.query, &arms, self.tenant_label(source)).err()?;
            Some((query.name.clone(), error.to_string()))
        };
        analysis.queries.iter().filter_map(refusal).collect()
    }

    /// The counts that the run lives on, as far as they were read, and by which queries.
    fn samples(&self, rollout: &RolloutView) -> Samples {
        let Some(window) = state::window(rollout) else {
            return Samples::none(SourceHealth::Untried);
        };
        let key = key(rollout, &window.run);
        let want = self
            .providers
            .named(window.provider.as_str())
            .and_then(|provider| Want::of(&window, provider, self.tenant_label(&window.source)))
            .map_err(|error| error.to_string());
        match want {
            Ok(want) => {
                let parts = |query: &Result<Query, DataError>| query.as_ref().ok()?.parts().cloned();
                let queries = want.queries.iter().map(parts).collect();
                let asked = want.own.iter().map(|query| query.as_ref().ok().cloned()).collect();
                let snapshot = self.sampler.want(&key, want);
                Samples {
                    intervals: snapshot.intervals,
                    queries,
                    asked,
                    source: snapshot.health,
                }
            }
            Err(why) => Samples::none(SourceHealth::Down {
                since: Timestamp::from(jiff::Timestamp::now()),
                kind: Trouble::default(),
                why,
            }),
        }
    }

    /// What stable did before the run, where that is still to be told.
    fn baseline(&self, rollout: &RolloutView) -> Before {
        let Some(window) = state::baseline_window(rollout) else {
            return Before::Untold;
        };
        let provider = self.providers.named(window.provider.as_str());
        match provider.and_then(|provider| BaselineWant::of(&window, provider)) {
            Ok(Some(want)) => self.sampler.baseline(&key(rollout, &window.run), want),
            Ok(None) => Before::Untold,
            Err(why) => Before::Unreadable(why.to_string()),
        }
    }

    /// Stops reading for all runs but those that are under way.
    pub fn forget_ended(&self) {
        self.sampler.retain(|key| {
            self.world
                .rollouts
                .get(&key.namespace, &key.name)
                .is_some_and(|rollout| {
                    rollout.uid().as_deref() == Some(key.uid.as_str())
                        && rollout
                            .status
                            .as_ref()
                            .and_then(|status| status.run.as_ref())
                            .is_some_and(|run| run.id == key.run)
                })
        });
    }

    /// When the youngest of the run's canary pods was started.
    fn canary_youngest(&self, rollout: &RolloutView) -> Option<Timestamp> {
        let run = rollout.status.run.as_ref()?;
        let pods = self.world.pods.group(&rollout.namespace, &run.id);
        let youngest = pods.iter().filter_map(|pod| pod.view.started).max()?;
        Some(Timestamp::from_millis(youngest.saturating_mul(1_000)))
    }

    /// Error exits of the run's canary pods; stable's are asked for only where that many are suspicious.
    async fn restarts(&self, rollout: &RolloutView) -> Option<Restarts> {
        let run = rollout.status.run.as_ref()?;
        let stable = rollout.status.stable.as_ref()?;
        // On the way back nothing is judged, and nothing may stand before the next write.
        if matches!(run.state, RunState::RollingBack { .. } | RunState::Draining { .. }) {
            return None;
        }
        let canary = self.world.pods.group(&rollout.namespace, &run.id);
        let (canary_error_exits, canary_pod_hours) = totals(canary.iter().map(AsRef::as_ref));
        if canary_error_exits < SUSPICIOUS_EXITS {
            return Some(Restarts {
                canary_error_exits,
                canary_pod_hours,
                ..Restarts::default()
            });
        }
        // A ReplicaSet is named after its Deployment and the hash that its pods carry.
        let hash = stable.replica_set.rsplit('-').next()?;
        let pods: Vec<Pod> = self
            .requests
            .list(&rollout.namespace, Some(&format!("pod-template-hash={hash}")))
            .await
            .ok()?;
        let (stable_error_exits, stable_pod_hours) = totals(pods.iter());
        Some(Restarts {
            canary_error_exits,
            canary_pod_hours,
            stable_error_exits,
            stable_pod_hours,
        })
    }
}

fn totals<'p>(pods: impl Iterator<Item = &'p Pod>) -> (u32, f64) {
    let now = jiff::Timestamp::now().as_second();
    pods.fold((0, 0.0), |(exits, hours), pod| {
        let seconds = pod.view.started.map_or(0, |started| (now - started).max(0));
        let seconds = f64::from(u32::try_from(seconds).unwrap_or(u32::MAX));
        (pod.view.error_exits.saturating_add(exits), hours + seconds / 3_600.0)
    })
}

/// What the readings of a run are known by.
fn key(rollout: &RolloutView, run: &str) -> sampler::Key {
    sampler::Key {
        namespace: rollout.namespace.clone(),
        name: rollout.name.clone(),
        uid: rollout.uid.clone(),
        run: run.to_owned(),
    }
}

/// A command as it was written, or what is wrong with it.
fn command(text: &str) -> Result<Command, String> {
    let command = serde_json::from_str::<Command>(text).map_err(|error| error.to_string())?;
    if command.nonce.len() > LONGEST_WORD || command.run.len() > LONGEST_WORD {
        return Err(format!("run and nonce have at most {LONGEST_WORD} characters"));
    }
    Ok(command)
}

/// The Rollout as decisions read it.
pub fn rollout_view(rollout: &Rollout) -> RolloutView {
    RolloutView {
        command: rollout.annotations().get(names::COMMAND).map(|text| command(text)),
        ..object::rollout(rollout)
    }
}
