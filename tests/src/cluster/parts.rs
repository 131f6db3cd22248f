//! Finds the programs and manifests of the cluster in the cache that `tests/cluster/build.sh` fills. Builds nothing itself.

use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The one list of versions, which `build.sh` reads too.
const VERSIONS: &str = include_str!("../../cluster/versions.env");

/// Where each program and manifest of the cluster lies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Parts {
    /// `etcd`.
    pub etcd: PathBuf,
    /// `kube-apiserver`.
    pub apiserver: PathBuf,
    /// `kube-controller-manager`.
    pub controller_manager: PathBuf,
    /// `kubectl` of the API server's version.
    pub kubectl: PathBuf,
    /// `helm`, version 4.
    pub helm: PathBuf,
    /// `contour`.
    pub contour: PathBuf,
    /// The manifest of Contour's own CRDs.
    pub contour_crds: PathBuf,
    /// The folder of the Gateway API's CRDs.
    pub gateway_crds: PathBuf,
    /// `envoy`.
    pub envoy: PathBuf,
    /// `prometheus`.
    pub prometheus: PathBuf,
    /// `promtool`.
    pub promtool: PathBuf,
    /// `libfaketime.so.1`, for programs whose clock is to be wrong.
    pub faketime: PathBuf,
    /// What only the tests of gateways start.
    pub gateways: GatewayParts,
}

/// The gateways beside Contour. A cluster starts without them; only who starts one of them asks whether they are there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GatewayParts {
    /// `traefik`.
    pub traefik: PathBuf,
    /// `envoy-gateway`.
    pub envoy_gateway: PathBuf,
    /// The folder of Envoy Gateway's own CRDs.
    pub envoy_gateway_crds: PathBuf,
    /// The `envoy` that Envoy Gateway starts.
    pub envoy: PathBuf,
    /// Its version, without a `v`: Envoy Gateway looks for it in a folder of this name.
    pub envoy_version: String,
}

impl GatewayParts {
    /// Errors with what Traefik misses and how to build it.
    pub fn check_traefik(&self) -> Result<()> {
        all_there(&[&self.traefik])
    }

    /// Errors with what Envoy Gateway misses and how to build it.
    pub fn check_envoy_gateway(&self) -> Result<()> {
        all_there(&[&self.envoy_gateway, &self.envoy_gateway_crds, &self.envoy])
    }
}

impl Parts {
    /// Finds every part; errors name what is missing and how to build it.
    pub fn find() -> Result<Self> {
        let cache = cache_folder()?;
        let folder = |name: &str| -> Result<PathBuf> {
            let version = version_of(name)?;
            Ok(cache.join(format!("{}-{version}", name.to_lowercase().replace('_', "-"))))
        };
        let kubernetes = folder("KUBERNETES")?;
        let assets = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
        let of_kubernetes = |program: &str| match assets.as_ref().map(|assets| assets.join(program)) {
            Some(path) if path.is_file() => path,
            _ => kubernetes.join(program),
        };
        let contour = folder("CONTOUR")?;
        let prometheus = folder("PROMETHEUS")?;
        let envoy_gateway = folder("ENVOY_GATEWAY")?;
        let envoy_version = version_of("ENVOY_OF_ENVOY_GATEWAY")?.to_owned();
        let parts = Self {
            etcd: folder("ETCD")?.join("etcd"),
            apiserver: of_kubernetes("kube-apiserver"),
            controller_manager: of_kubernetes("kube-controller-manager"),
            kubectl: of_kubernetes("kubectl"),
            helm: folder("HELM")?.join("helm"),
            contour: contour.join("contour"),
            contour_crds: contour.join("crds.yaml"),
            gateway_crds: folder("GATEWAY_API")?.join("crds"),
            envoy: folder("ENVOY")?.join("envoy"),
            prometheus: prometheus.join("prometheus"),
            promtool: prometheus.join("promtool"),
            faketime: folder("FAKETIME")?.join("libfaketime.so.1"),
            gateways: GatewayParts {
                traefik: folder("TRAEFIK")?.join("traefik"),
                envoy_gateway: envoy_gateway.join("envoy-gateway"),
                envoy_gateway_crds: envoy_gateway.join("crds"),
                envoy: cache.join(format!("envoy-{envoy_version}")).join("envoy"),
                envoy_version,
            },
        };
        parts.check()?;
        Ok(parts)
    }

    fn check(&self) -> Result<()> {
        all_there(&[
            &self.etcd,
            &self.apiserver,
            &self.controller_manager,
            &self.kubectl,
            &self.helm,
            &self.contour,
            &self.contour_crds,
            &self.gateway_crds,
            &self.envoy,
            &self.prometheus,
            &self.promtool,
            &self.faketime,
        ])
    }
}

fn all_there(paths: &[&PathBuf]) -> Result<()> {
    match paths.iter().find(|path| !path.exists()) {
        Some(missing) => bail!(
            "{} is missing: run tests/cluster/build.sh, which builds what the cluster needs",
            missing.display()
        ),
        None => Ok(()),
    }
}

/// `$STEPGATE_CACHE`, or `stepgate` in the user's cache folder, as in `build.sh`.
pub fn cache_folder() -> Result<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(cache) = set("STEPGATE_CACHE") {
        return Ok(cache);
    }
    let base = match set("XDG_CACHE_HOME") {
        Some(base) => base,
        None => Path::new(&env::var_os("HOME").context("neither STEPGATE_CACHE nor XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("stepgate"))
}

fn version_of(name: &str) -> Result<&'static str> {
    let versions: HashMap<&str, &str> = VERSIONS.lines().filter_map(|line| line.split_once('=')).collect();
    versions
        .get(name)
        .copied()
        .with_context(|| format!("tests/cluster/versions.env has no {name}"))
}
