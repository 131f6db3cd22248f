//! An Envoy Gateway of a test's own, with the Envoy that it starts itself.
//!
//! It listens on fixed ports of all addresses, 8080 among them, and reads `/certs`: so it gets a network of its own, joined to the cluster's
//! by a pair of interfaces, a root folder of its own that shows the machine's, and a process namespace, with which its Envoy ends.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::process::Command;

use super::make::OwnGateway;
use super::own_gateway;
use crate::cluster::facts::User;
use crate::cluster::namespace::Namespace;
use crate::cluster::process::{Process, answers};
use crate::cluster::prometheus::Counters;

/// The name of its Gateway. Contour takes every Gateway of its own one's name for its own, where a route does not say the namespace.
pub(super) const NAME: &str = "own-envoy-gateway";
/// The port of the Gateway's listener. Below 1024 Envoy Gateway would take another.
const LISTENER: u16 = 8888;
/// The port of Envoy's counters.
const ADMIN: u16 = 19_905;

/// The class that every Envoy Gateway of the cluster serves, each in its namespace and this one; and how their Envoys show their counters.
const CLASS_NAMESPACE: &str = "gateway-system";
const CLASS: &str = r"
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: counters, namespace: gateway-system}
spec:
  bootstrap:
    type: Merge
    value: 'admin: {address: {socket_address: {address: 0.0.0.0, port_value: 19905}}}'
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: envoy-gateway}
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
  parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: counters, namespace: gateway-system}
";

/// The first program in the namespaces: joins the networks, puts certificates at `/certs`, and becomes Envoy Gateway.
const INSIDE: &str = r#"
work=$1 cluster=$2 link=$3 near=$4 far=$5 program=$6
ip link set lo up
ip link add eth0 type veth peer name "$link" netns "$cluster"
nsenter --net="$cluster" ip addr add "$near/30" dev "$link"
nsenter --net="$cluster" ip link set "$link" up
ip addr add "$far/30" dev eth0
ip link set eth0 up
ip route add default via "$near"
root=$work/root
mkdir -p "$root"
mount -t tmpfs root "$root"
for entry in /*; do
  if [ -L "$entry" ]; then cp -P "$entry" "$root$entry"
  elif [ -d "$entry" ]; then mkdir "$root$entry"; mount --rbind "$entry" "$root$entry"
  fi
done
mkdir -p "$root/certs"
mount --bind "$work/config/certs/envoy-gateway" "$root/certs"
exec chroot "$root" "$program" server --config-path "$work/envoy-gateway.json"
"#;

/// Tells the networks of one test program apart.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Starts it for this namespace.
pub(super) async fn start(namespace: &Namespace) -> Result<OwnGateway> {
    let cluster = namespace.cluster();
    let facts = cluster.facts();
    let parts = &facts.parts.gateways;
    parts.check_envoy_gateway()?;
    let crds = parts.envoy_gateway_crds.display().to_string();
    cluster
        .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &crds])
        .await?;
    cluster
        .kubectl(&["wait", "--for=condition=Established", "--timeout=30s", "crd", "--all"])
        .await?;
    cluster.kubectl_with(&["apply", "-f", "-"], CLASS).await?;
    namespace.apply(&own_gateway(NAME, "envoy-gateway", LISTENER)).await?;

    let work = facts.path(&format!("{}-envoy-gateway", namespace.name()));
    prepare(namespace, &work).await?;
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let (near, far) = (format!("10.245.{number}.1"), format!("10.245.{number}.2"));
    let own = std::process::id();
    let arguments = [
        "--net".to_owned(),
        "--mount".to_owned(),
        "--pid".to_owned(),
        "--fork".to_owned(),
        "--kill-child".to_owned(),
        "--".to_owned(),
        "/usr/bin/env".to_owned(),
        format!("KUBECONFIG={}", facts.kubeconfig(User::EnvoyGateway).display()),
        format!("ENVOY_GATEWAY_NAMESPACE={}", namespace.name()),
        "/bin/sh".to_owned(),
        "-ec".to_owned(),
        INSIDE.to_owned(),
        "sh".to_owned(),
        work.display().to_string(),
        format!("/proc/{own}/ns/net"),
        format!("eg{own}x{number}"),
        near,
        far.clone(),
        parts.envoy_gateway.display().to_string(),
    ];
    let name = format!("{}-envoy-gateway", namespace.name());
    let mut program = Process::start(&name, &facts.logs, Path::new("unshare"), arguments)?;
    let ready = format!("http://{far}:{ADMIN}/ready");
    answers("Envoy Gateway's Envoy", &ready, &mut [&mut program]).await?;
    let gateway = format!("gateway/{NAME}");
    let accepted = ["wait", "--for=condition=Accepted", "--timeout=30s", &gateway];
    namespace.kubectl(&accepted).await?;
    let counters = Counters {
        target: format!("{far}:{ADMIN}"),
        path: "/stats/prometheus",
    };
    Ok(OwnGateway::of_one(
        format!("http://{far}:{LISTENER}"),
        counters,
        program,
    ))
}

/// Lays out its configuration, its certificates and its Envoy in a folder.
async fn prepare(namespace: &Namespace, work: &Path) -> Result<()> {
    let parts = &namespace.cluster().facts().parts.gateways;
    let place = |name: &str| work.join(name);
    // Where it looks for an Envoy before it would download one.
    let envoy = place("data")
        .join("envoy-versions")
        .join(&parts.envoy_version)
        .join("bin");
    fs::create_dir_all(&envoy).with_context(|| format!("making {}", envoy.display()))?;
    fs::hard_link(&parts.envoy, envoy.join("envoy"))
        .or_else(|_other_disk| fs::copy(&parts.envoy, envoy.join("envoy")).map(drop))
        .with_context(|| format!("laying {} into {}", parts.envoy.display(), envoy.display()))?;
    let configuration = json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
        "provider": {"type": "Custom", "custom": {
            "resource": {"type": "Kubernetes", "kubernetes": {
                "leaderElection": {"disable": true},
                "watch": {"type": "Namespaces", "namespaces": [namespace.name(), CLASS_NAMESPACE]},
            }},
            "infrastructure": {"type": "Host", "host": {
                "configHome": place("config"),
                "dataHome": place("data"),
                "stateHome": place("state"),
                "runtimeDir": place("run"),
            }},
        }},
    });
    let file = place("envoy-gateway.json");
    fs::write(&file, serde_json::to_vec_pretty(&configuration)?)
        .with_context(|| format!("writing {}", file.display()))?;
    let output = Command::new(&parts.envoy_gateway)
        .args(["certgen", "--local", "--config-home"])
        .arg(place("config"))
        .output()
        .await
        .context("running envoy-gateway certgen")?;
    if !output.status.success() {
        bail!("envoy-gateway certgen: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
