//! Wires the operator: watches into mirrors, their changes into one queue, the queue into passes; and lets it all end in order.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use kube::{
    Api, Client, Resource,
    runtime::{
        Controller, WatchStreamExt,
        controller::Config as ControllerConfig,
        reflector::{self, ObjectRef},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use stepgate_core::Limits;
use stepgate_crds::{names, units::Span};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    execute::Requests,
    hold::HoldCheck,
    kinds::rollout::Watched,
    lease::{Leadership, Term},
    mirror::Mirror,
    observe::{Observer, SourceView},
    provider::Providers,
    reconcile::Reconciler,
    serve::Readiness,
    source::{
        MetricsSource,
        sampler::{Key, Sampler, SamplerOptions},
    },
    telemetry::Metrics,
    world::{Handle, World},
};

/// Passes under way at once.
const CONCURRENCY: u16 = 16;
/// How often the phases are counted for our own metrics.
const CENSUS: Duration = Duration::from_secs(5);

/// What the operator is made of.
pub struct Operator {
    /// The Kubernetes client, its own retry switched off.
    pub client: Client,
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// The constants.
    pub limits: Limits,
    /// The admission policy that holds managed Deployments.
    pub hold_policy: String,
    /// The metrics sources.
    pub sources: Vec<MetricsSource>,
    /// How they are read.
    pub sampling: SamplerOptions,
    /// Our own metrics.
    pub metrics: Metrics,
    /// Set once every watch has brought its first list.
    pub ready: Readiness,
    /// The name of this process.
    pub instance: String,
}

impl Operator {
    /// Leads until `stop`: comes back when every pass under way has ended.
    pub async fn lead(
        self,
        providers: Providers,
        term: Term,
        leadership: watch::Receiver<Leadership>,
        stop: CancellationToken,
    ) {
        let hold = HoldCheck::begin(self.client.clone(), &self.hold_policy).await;
        let world = Arc::new(World::default());
        let requests = Requests::new(
            self.client.clone(),
            self.metrics.clone(),
            self.instance.clone(),
            move || leadership.borrow().leads(),
        );
        let (notify, notified) = mpsc::unbounded_channel();
        let sources = self.sources.iter().map(|source| SourceView {
            name: source.name().to_owned(),
            scrape: source.scrape(),
            tenant_label: source.tenant_label().map(str::to_owned),
        });
        let sources = sources.collect();
        let sampler = Sampler::new(self.sources, self.sampling, self.metrics.clone(), notify);
        let observer = Observer {
            world: Arc::clone(&world),
            requests,
            sampler,
            providers,
            sources,
        };
        let reconciler = Arc::new(Reconciler {
            observer,
            limits: self.limits,
            no_hold: hold.answers(),
            metrics: self.metrics.clone(),
            term: i64::from(term.number),
            absent: Span::from(term.absent),
            clocks_differ: term.clocks_differ,
            failures: std::sync::Mutex::default(),
            told: std::sync::Mutex::default(),
        });
        let swept = Arc::clone(&reconciler);
        let watches = Watches {
            client: self.client,
            namespace: self.namespace,
            world: Arc::clone(&world),
        };
        let controller = watches
            .controller(notified)
            .reconcile_all_on(changes(hold.answers()))
            .graceful_shutdown_on(stop.clone().cancelled_owned());
        let ready = self.ready;
        let passes = controller
            .run(
                {
                    let (world, ready) = (Arc::clone(&world), ready.clone());
                    move |handle, reconciler: Arc<Reconciler>| {
                        let (world, ready) = (Arc::clone(&world), ready.clone());
                        async move {
                            // Few wait here at once, as few passes run at once.
                            world.synced().await;
                            ready.set(true);
                            Ok::<_, std::convert::Infallible>(reconciler.reconcile(handle).await)
                        }
                    }
                },
                |_, error: &std::convert::Infallible, _| match *error {},
                reconciler,
            )
            .for_each(|ended| async move {
                // A Rollout that was deleted while it stood in the queue is no error; the rest has been logged where it happened.
                if let Err(error) = ended {
                    tracing::debug!("{error}");
                }
            });
        // Before all is known no pass does anything, and once this is to stop nobody fetches the rest: the passes would wait for it for ever.
        let unbegun = {
            let world = Arc::clone(&world);
            async move {
                stop.cancelled().await;
                if world.missing().is_empty() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let census = census(world, swept, self.metrics, ready);
        tokio::select! {
            () = passes => {}
            () = unbegun => {}
            () = census => {}
            () = hold.run() => {}
        }
        info!("every pass has ended");
    }
}

/// An item for each change.
fn changes(answers: watch::Receiver<Option<String>>) -> impl Stream<Item = ()> + Send + 'static {
    futures::stream::unfold(answers, |mut answers| async {
        let changed = answers.changed().await;
        changed.ok().map(|()| ((), answers))
    })
}

/// Counts the phases for our own metrics, clears away what ended Rollouts left, and says which watch has not brought its first list.
async fn census(world: Arc<World>, reconciler: Arc<Reconciler>, metrics: Metrics, ready: Readiness) {
    // That it takes longer is said below.
    let _ = tokio::time::timeout(CENSUS, world.synced()).await;
    loop {
        let missing = world.missing();
        if missing.is_empty() {
            ready.set(true);
            metrics.set_rollouts(world.phases());
            reconciler.sweep();
        } else {
            warn!(
                "nothing is managed before all is known; not yet: {}",
                missing.join(", ")
            );
        }
        tokio::time::sleep(CENSUS).await;
    }
}

struct Watches {
    client: Client,
    namespace: Option<String>,
    world: Arc<World>,
}

impl Watches {
    /// The queue: Rollouts that changed, or whose objects did, or for which the metrics source has answered.
    fn controller(&self, notified: mpsc::UnboundedReceiver<Key>) -> Controller<Handle> {
        let (reader, writer) = reflector::store();
        let world = Arc::clone(&self.world);
        let rollouts = watcher(self.api::<Watched>(), watcher::Config::default())
            .filter_map(move |event| std::future::ready(event.map(|event| world.observe_rollout(event)).transpose()));
        let rollouts = reflector::reflector(writer, rollouts)
            .default_backoff()
            .touched_objects();
        let sampled =
            UnboundedReceiverStream::new(notified).map(|key| ObjectRef::new(&key.name).within(&key.namespace));
        let world = &self.world;
        let to = |world: &Arc<World>| Arc::clone(world);
        Controller::for_stream(log_errors("rollouts", rollouts), reader)
            .with_config(ControllerConfig::default().concurrency(CONCURRENCY))
            .watches_stream(
                self.watch("managed deployments", Some(names::ROLLOUT), |world| &world.workloads),
                |workload| World::of_workload(&workload),
            )
            .watches_stream(
                self.watch("canary deployments", Some(names::CANARY_OF), |world| &world.canaries),
                {
                    let world = to(world);
                    move |canary| world.of_owned(&canary.metadata, names::CANARY_OF)
                },
            )
            .watches_stream(
                self.watch("canary services", Some(names::CANARY_OF), |world| &world.services),
                {
                    let world = to(world);
                    move |service| world.of_owned(&service.metadata, names::CANARY_OF)
                },
            )
            .watches_stream(
                self.watch("recorded templates", Some(names::TEMPLATE_OF), |world| &world.templates),
                {
                    let world = to(world);
                    move |template| world.of_owned(&template.metadata, names::TEMPLATE_OF)
                },
            )
            .watches_stream(self.watch("routes", None, |world| &world.routes), {
                let world = to(world);
                move |route| world.of_route(&route)
            })
            .watches_stream(self.watch("endpoint slices", None, |world| &world.slices), {
                let world = to(world);
                move |slice| world.of_slice(&slice)
            })
            .watches_stream(self.watch("canary pods", Some(names::RUN), |world| &world.pods), {
                let world = to(world);
                move |pod| world.of_pod(&pod)
            })
            .reconcile_on(sampled)
    }

    /// A watch that fills its mirror, and then tells which objects changed.
    fn watch<K>(
        &self,
        what: &'static str,
        label: Option<&str>,
        mirror: fn(&World) -> &Mirror<K>,
    ) -> impl Stream<Item = Result<K, watcher::Error>> + Send + 'static
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let config = label.map_or_else(watcher::Config::default, |label| {
            watcher::Config::default().labels(label)
        });
        let world = Arc::clone(&self.world);
        let events = watcher(self.api::<K>(), config)
            .inspect(move |event| {
                if let Ok(event) = event {
                    mirror(&world).observe(event);
                }
            })
            .default_backoff()
            .touched_objects();
        log_errors(what, events)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

/// A watch that fails is tried again by its own backoff, and here it is said, once for each change of what it says. The queue does not hear
/// of it: it would wait longer with each failure of any watch, and answer to none of them meanwhile.
fn log_errors<K>(
    what: &'static str,
    stream: impl Stream<Item = Result<K, watcher::Error>> + Send + 'static,
) -> impl Stream<Item = Result<K, watcher::Error>> + Send + 'static
where
    K: Send + 'static,
{
    let mut said = String::new();
    stream.filter(move |item| {
        match item {
            Ok(_) => said.clear(),
            Err(error) => {
                let text = error.to_string();
                if text != said {
                    warn!(watch = what, "the watch failed and is tried again: {text}");
                    said = text;
                }
            }
        }
        std::future::ready(item.is_ok())
    })
}
