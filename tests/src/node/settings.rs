//! Works out what a pod's container runs and how its readiness is asked, from the spec as the kubelet reads it. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::{API_SERVER_ADDRESS, API_SERVER_PORT};

/// One command to run.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    /// None: ready as soon as it runs.
    pub(super) readiness: Option<Readiness>,
}

/// An httpGet probe.
#[derive(Debug)]
pub(super) struct Readiness {
    pub(super) url: String,
    pub(super) period: Duration,
    /// So many failures in a row mean not ready any more.
    pub(super) failure_threshold: i32,
}

impl Settings {
    /// Errors name the field that cannot be met, as the kubelet's CreateContainerConfigError does.
    pub(super) fn new(pod: &Pod, container: &Container, image_program: &Path, address: &str) -> Result<Self> {
        let mut environment = BTreeMap::from([
            ("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("KUBERNETES_SERVICE_HOST".to_owned(), API_SERVER_ADDRESS.to_owned()),
            ("KUBERNETES_SERVICE_PORT".to_owned(), API_SERVER_PORT.to_string()),
        ]);
        for variable in container.env.iter().flatten() {
            environment.insert(variable.name.clone(), value(pod, variable, address)?);
        }
        let words = [&container.command, &container.args];
        let mut words: Vec<String> = words
            .into_iter()
            .flatten()
            .flatten()
            .map(|word| expand(word, &environment))
            .collect();
        let program = match &container.command {
            Some(command) if !command.is_empty() => PathBuf::from(words.remove(0)),
            _ => image_program.to_owned(),
        };
        let readiness = container.readiness_probe.as_ref();
        Ok(Self {
            program,
            arguments: words,
            environment,
            readiness: readiness
                .map(|probe| Readiness::new(probe, container, address))
                .transpose()?,
        })
    }
}

impl Readiness {
    fn new(probe: &Probe, container: &Container, address: &str) -> Result<Self> {
        let get = probe
            .http_get
            .as_ref()
            .context("readinessProbe: the stand-in node asks httpGet only")?;
        let port = match &get.port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => {
                container
                    .ports
                    .iter()
                    .flatten()
                    .find(|port| port.name.as_ref() == Some(name))
                    .with_context(|| format!("readinessProbe: the container has no port named {name}"))?
                    .container_port
            }
        };
        let path = get.path.as_deref().unwrap_or("/");
        let period = probe.period_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Ok(Self {
            url: format!("http://{address}:{port}{path}"),
            period: Duration::from_secs(period.unwrap_or(10)),
            failure_threshold: probe.failure_threshold.unwrap_or(3),
        })
    }
}

fn value(pod: &Pod, variable: &EnvVar, address: &str) -> Result<String> {
    let Some(source) = &variable.value_from else {
        return Ok(variable.value.clone().unwrap_or_default());
    };
    let path = source.field_ref.as_ref().map(|field| field.field_path.as_str());
    let value = match path {
        Some("status.podIP") => Some(address.to_owned()),
        Some("metadata.name") => pod.metadata.name.clone(),
        Some("metadata.namespace") => pod.metadata.namespace.clone(),
        _ => bail!(
            "env {}: the stand-in node knows plain values and fieldRef of podIP, name and namespace only",
            variable.name
        ),
    };
    Ok(value.unwrap_or_default())
}

/// Replaces `$(NAME)` by the variable; unknown names stay as they are.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    environment.iter().fold(text.to_owned(), |text, (name, value)| {
        text.replace(&format!("$({name})"), value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_variables_are_expanded_and_others_left_alone() {
        let environment = BTreeMap::from([("POD_IP".to_owned(), "10.244.1.1".to_owned())]);
        let expanded = expand("--listen=$(POD_IP):80 $(NO) $x", &environment);
        assert_eq!(expanded, "--listen=10.244.1.1:80 $(NO) $x");
    }
}
