//! Works out what a container runs: program, arguments and environment, from the pod's spec as the kubelet reads it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod};

use super::NODE_NAME;
use crate::cluster::{API_SERVER_ADDRESS, API_SERVER_PORT};

/// One command to run.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
}

/// Errors name the field that cannot be met, as the kubelet's CreateContainerConfigError does.
pub(super) fn of(pod: &Pod, container: &Container, image_program: &Path, address: &str) -> Result<Settings> {
    let mut environment = BTreeMap::from(
        [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/"),
            ("KUBERNETES_SERVICE_HOST", API_SERVER_ADDRESS),
            ("KUBERNETES_SERVICE_PORT", &API_SERVER_PORT.to_string()),
            ("HOSTNAME", pod.metadata.name.as_deref().unwrap_or_default()),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    if container.env_from.as_ref().is_some_and(|sources| !sources.is_empty()) {
        bail!("envFrom is not supported by the stand-in node");
    }
    for variable in container.env.iter().flatten() {
        let value = match &variable.value {
            Some(value) => expand(value, &environment),
            None => from_source(pod, variable, address)?,
        };
        environment.insert(variable.name.clone(), value);
    }
    let expanded = |words: Option<&Vec<String>>| {
        words
            .into_iter()
            .flatten()
            .map(|word| expand(word, &environment))
            .collect::<Vec<_>>()
    };
    let mut words = expanded(container.command.as_ref()).into_iter();
    let program = match words.next() {
        None => image_program.to_owned(),
        // The image's own program, by whatever path the image would have it.
        Some(first) if Path::new(&first).file_name() == image_program.file_name() => image_program.to_owned(),
        Some(first) => PathBuf::from(first),
    };
    let arguments = words.chain(expanded(container.args.as_ref())).collect();
    Ok(Settings {
        program,
        arguments,
        environment,
    })
}

fn from_source(pod: &Pod, variable: &EnvVar, address: &str) -> Result<String> {
    let Some(source) = &variable.value_from else {
        return Ok(String::new());
    };
    let field = source.field_ref.as_ref().with_context(|| {
        format!(
            "env {}: the stand-in node supports plain values and fieldRef only",
            variable.name
        )
    })?;
    let metadata = &pod.metadata;
    let account = || pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    let quoted = |map: Option<&BTreeMap<String, String>>, key: &str| {
        map.and_then(|map| map.get(key.trim_end_matches("']")).cloned())
            .unwrap_or_default()
    };
    Ok(match field.field_path.as_str() {
        "status.podIP" => address.to_owned(),
        "status.hostIP" => "10.244.0.2".to_owned(),
        "spec.nodeName" => NODE_NAME.to_owned(),
        "spec.serviceAccountName" => account().unwrap_or_default(),
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => metadata.uid.clone().unwrap_or_default(),
        path => match path.split_once("['") {
            Some(("metadata.labels", key)) => quoted(metadata.labels.as_ref(), key),
            Some(("metadata.annotations", key)) => quoted(metadata.annotations.as_ref(), key),
            _ => bail!(
                "env {}: the stand-in node does not know fieldPath {path}",
                variable.name
            ),
        },
    })
}

/// Replaces `$(NAME)` by the variable; unknown names stay as they are, `$$` is a dollar.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out += before;
        let name = after.strip_prefix('(').and_then(|after| after.split_once(')'));
        rest = match (
            after.strip_prefix('$'),
            name.and_then(|(name, tail)| environment.get(name).map(|value| (value, tail))),
        ) {
            (Some(tail), _) => {
                out.push('$');
                tail
            }
            (None, Some((value, tail))) => {
                out += value;
                tail
            }
            (None, None) => {
                out.push('$');
                after
            }
        };
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_variables_are_expanded_and_others_left_alone() {
        let environment = BTreeMap::from([("POD_IP".to_owned(), "10.244.1.1".to_owned())]);
        assert_eq!(
            expand("--listen=$(POD_IP):80 $$(POD_IP) $(NO) $x", &environment),
            "--listen=10.244.1.1:80 $(POD_IP) $(NO) $x"
        );
    }
}
