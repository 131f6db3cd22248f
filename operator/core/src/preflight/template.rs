//! What of a pod template two versions at a time cannot share: volumes of one node, and ports of the host.

use serde_json::Value;

use crate::input::Survey;

/// Access modes of a volume that pods of two versions may mount at the same time, whatever nodes they are on.
const SHARED_MODES: [&str; 2] = ["ReadWriteMany", "ReadOnlyMany"];

/// Refuses what a second Deployment of the same template cannot share.
pub(super) fn refuse(survey: &Survey, namespace: &str) -> Result<(), String> {
    let spec = survey.workload.pointer("/spec/template/spec").unwrap_or(&Value::Null);
    let name = survey
        .workload
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    for claim in claims(&survey.workload) {
        let Some(view) = survey.volume_claims.iter().find(|view| view.name == claim) else {
            return Err(format!(
                "Deployment {name} mounts the PersistentVolumeClaim {namespace}/{claim}, which does not exist; create it: whether two versions at a time can share it is read from its access modes"
            ));
        };
        if !view
            .access_modes
            .iter()
            .any(|mode| SHARED_MODES.contains(&mode.as_str()))
        {
            return Err(format!(
                "Deployment {name} mounts the PersistentVolumeClaim {claim} ({}): two versions at a time cannot share it, so it is not rolled out by steps; mount one of ReadWriteMany or ReadOnlyMany, or delete the Rollout",
                view.access_modes.join(", ")
            ));
        }
    }
    if spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) {
        return Err(format!(
            "Deployment {name} runs in its hosts' network (hostNetwork): a canary cannot listen on the same ports at the same time, so it is not rolled out by steps; take hostNetwork out of the pod template, or delete the Rollout"
        ));
    }
    let containers = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|field| list(spec, field));
    let mut host_ports = containers
        .flat_map(|container| list(container, "ports"))
        .filter_map(|port| port.get("hostPort").and_then(Value::as_i64));
    if let Some(port) = host_ports.find(|port| *port != 0) {
        return Err(format!(
            "Deployment {name} binds the host port {port}; a canary cannot have it at the same time, so it is not rolled out by steps; take hostPort out of the pod template, or delete the Rollout"
        ));
    }
    Ok(())
}

/// The PersistentVolumeClaims that a workload's pod template mounts. Claims that each pod makes for itself are none of them.
pub fn claims(workload: &Value) -> impl Iterator<Item = &str> {
    let spec = workload.pointer("/spec/template/spec").unwrap_or(&Value::Null);
    list(spec, "volumes").filter_map(|volume| volume.pointer("/persistentVolumeClaim/claimName")?.as_str())
}

fn list<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> + use<'v> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}
