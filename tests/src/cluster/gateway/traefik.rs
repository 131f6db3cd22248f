//! A Traefik of a test's own: one program, which is controller and proxy.

use std::path::Path;

use anyhow::Result;

use super::make::OwnGateway;
use super::{free_ports, own_gateway};
use crate::cluster::facts::User;
use crate::cluster::namespace::Namespace;
use crate::cluster::process::{Process, answers};
use crate::cluster::prometheus::Counters;

/// The name of its Gateway. Contour takes every Gateway of its own one's name for its own, where a route does not say the namespace.
pub(super) const NAME: &str = "own-traefik";
/// The class that every Traefik of the cluster serves, each in its namespace.
const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: traefik}\n\
    spec: {controllerName: traefik.io/gateway-controller}\n";

/// Starts it for this namespace.
pub(super) async fn start(namespace: &Namespace) -> Result<OwnGateway> {
    let facts = namespace.cluster().facts();
    facts.parts.gateways.check_traefik()?;
    // A listener is served where an entry point has its port.
    let [web, own] = free_ports()?;
    namespace
        .apply(&format!("{CLASS}---\n{}", own_gateway(NAME, "traefik", web)))
        .await?;
    let arguments = [
        format!("KUBECONFIG={}", facts.kubeconfig(User::Traefik).display()),
        facts.parts.gateways.traefik.display().to_string(),
        "--providers.kubernetesgateway=true".to_owned(),
        format!("--providers.kubernetesgateway.namespaces={}", namespace.name()),
        "--providers.kubernetesgateway.statusaddress.ip=127.0.0.1".to_owned(),
        // By default 2 s, as long as a pod of the tests serves on after it is told to end.
        "--providers.providersthrottleduration=200ms".to_owned(),
        format!("--entrypoints.web.address=127.0.0.1:{web}"),
        format!("--entrypoints.traefik.address=127.0.0.1:{own}"),
        "--ping=true".to_owned(),
        "--metrics.prometheus=true".to_owned(),
        "--global.checknewversion=false".to_owned(),
        "--global.sendanonymoususage=false".to_owned(),
        "--log.level=INFO".to_owned(),
    ];
    let name = format!("{}-traefik", namespace.name());
    let mut program = Process::start(&name, &facts.logs, Path::new("/usr/bin/env"), arguments)?;
    answers("Traefik", &format!("http://127.0.0.1:{own}/ping"), &mut [&mut program]).await?;
    let gateway = format!("gateway/{NAME}");
    let programmed = ["wait", "--for=condition=Programmed", "--timeout=30s", &gateway];
    namespace.kubectl(&programmed).await?;
    let counters = Counters {
        target: format!("127.0.0.1:{own}"),
        path: "/metrics",
    };
    Ok(OwnGateway::of_one(format!("http://127.0.0.1:{web}"), counters, program))
}
