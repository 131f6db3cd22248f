//! The way to the API server, and errors of it in words that help.

use anyhow::{Context, Error, Result, anyhow};
use k8s_openapi::api::apps::v1::Deployment;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use stepgate_crds::Rollout;

use crate::args::Target;

/// A client, and the namespace that is meant.
pub(crate) struct Connection {
    client: Client,
    /// From the flag, else from the context.
    pub(crate) namespace: String,
}

impl Connection {
    /// Reads the kubeconfig. Nothing is sent yet.
    pub(crate) async fn open(target: &Target) -> Result<Self> {
        // Fails only where a provider is installed already, which is as good.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
        let options = KubeConfigOptions {
            context: target.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = if let Some(path) = &target.kubeconfig {
            let file = Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &options)
                .await
                .with_context(|| format!("kubeconfig {}", path.display()))?
        } else if target.context.is_some() {
            Config::from_kubeconfig(&options).await.context("kubeconfig")?
        } else {
            Config::infer()
                .await
                .context("no cluster is configured: set KUBECONFIG, or give --kubeconfig FILE")?
        };
        let namespace = target
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).context("setting up the connection to the API server")?;
        Ok(Self { client, namespace })
    }

    /// The Rollouts of the namespace.
    pub(crate) fn rollouts(&self) -> Api<Rollout> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The Rollouts of all namespaces.
    pub(crate) fn all_rollouts(&self) -> Api<Rollout> {
        Api::all(self.client.clone())
    }

    /// The Deployments of the namespace.
    pub(crate) fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The HTTPRoutes of the namespace, as they come.
    pub(crate) fn http_routes(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
        Api::namespaced_with(self.client.clone(), &self.namespace, &ApiResource::from_gvk(&kind))
    }

    /// Objects of any kind (group, version, kind) in a namespace, as they come.
    pub(crate) fn objects(&self, (group, version, kind): (&str, &str, &str), namespace: &str) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        Api::namespaced_with(self.client.clone(), namespace, &resource)
    }

    /// Rollouts as they come.
    pub(crate) fn dynamic(&self, all_namespaces: bool) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<Rollout>(&());
        if all_namespaces {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
        }
    }

    /// Says what an error means for the reader: a Rollout that is not there, a CRD that is not installed, a right that is missing.
    pub(crate) async fn explain(&self, error: kube::Error, name: Option<&str>) -> Error {
        let kube::Error::Api(answer) = &error else {
            return Error::new(error).context("asking the API server");
        };
        if answer.is_forbidden() {
            return anyhow!(
                "{}; ask for the role `edit` (or `view`, to look) in namespace {}",
                answer.message,
                self.namespace
            );
        }
        // A group that is not served is answered in plain text, without a reason.
        if answer.code != 404 {
            return Error::new(error).context("asking the API server");
        }
        let Some(name) = name else {
            return anyhow!(
                "this cluster has no kind Rollout: Stepgate is not installed there (helm install stepgate charts/stepgate)"
            );
        };
        match self.rollouts().list(&ListParams::default()).await {
            Ok(list) if list.items.is_empty() => {
                anyhow!(
                    "no Rollout {name} in namespace {0}, and no other; `kubectl stepgate status -A` shows all",
                    self.namespace
                )
            }
            Ok(list) => {
                let names: Vec<_> = list.items.iter().map(ResourceExt::name_any).collect();
                anyhow!(
                    "no Rollout {name} in namespace {}; there are: {}",
                    self.namespace,
                    names.join(", ")
                )
            }
            Err(kube::Error::Api(answer)) if answer.code == 404 => {
                anyhow!(
                    "this cluster has no kind Rollout: Stepgate is not installed there (helm install stepgate charts/stepgate)"
                )
            }
            Err(_) => anyhow!("no Rollout {name} in namespace {}", self.namespace),
        }
    }
}
