//! The Services and the Deployment of a run: which is the stable one, whether the canary's names are free, and what is attached to the
//! stable Service by its name.

use std::collections::BTreeSet;

use super::Routes;
use crate::{
    apart, canary,
    input::{Input, ServicePolicyView, ServiceView, Survey},
    route,
};

/// The user's Service: the one that the spec names, else the one in the routes that selects the Deployment's pods.
pub(super) fn stable<'a>(
    input: &Input<'_>,
    survey: &'a Survey,
    routes: &Routes<'_>,
) -> Result<&'a ServiceView, String> {
    let namespace = &input.rollout.namespace;
    let pods = apart::string_map(survey.workload.pointer("/spec/template/metadata/labels"));
    let workload = &input.rollout.spec.workload.name;
    let find = |name: &str| survey.services.iter().find(|service| service.name == name);
    if let Some(name) = &input.rollout.spec.traffic.stable_service {
        let service = find(name).ok_or_else(|| {
            format!(
                "Service {namespace}/{name} does not exist; create it, or name another in spec.traffic.stableService"
            )
        })?;
        if !apart::selects(&service.selector, &pods) {
            return Err(format!(
                "Service {namespace}/{name} selects no pod of Deployment {workload}; its selector has to match the labels of the pod template"
            ));
        }
        return Ok(service);
    }
    let canary = input.rollout.spec.traffic.canary_service.as_deref();
    let named: BTreeSet<&str> = routes
        .iter()
        .flat_map(|(_, view)| &view.rules)
        .flat_map(|rule| &rule.backend_refs)
        .filter_map(route::service_of)
        .filter(|name| Some(*name) != canary)
        .collect();
    let candidates: Vec<&ServiceView> = named
        .iter()
        .filter_map(|name| find(name))
        .filter(|service| service.canary_of.is_none() && apart::selects(&service.selector, &pods))
        .collect();
    match candidates.as_slice() {
        [one] => Ok(one),
        [] => {
            let all = named.iter().copied().collect::<Vec<_>>().join(", ");
            let missing: Vec<&str> = named.iter().copied().filter(|name| find(name).is_none()).collect();
            Err(if named.is_empty() {
                format!(
                    "HTTPRoute {namespace}/{}: no rule refers to a Service of this namespace; add the Service of Deployment {workload} as a backendRef",
                    routes.first().map_or("", |(_, view)| view.name.as_str())
                )
            } else if missing.len() == named.len() {
                format!(
                    "Service {namespace}/{} does not exist; create it with a selector that matches the pods of Deployment {workload}",
                    missing.join(", ")
                )
            } else {
                format!(
                    "no Service in the route ({all}) selects a pod of Deployment {workload}; the selector has to match the labels of the pod template"
                )
            })
        }
        several => Err(format!(
            "several Services in the route select the pods of Deployment {workload}: {}; name one in spec.traffic.stableService",
            several
                .iter()
                .map(|service| service.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        )),
    }
}

/// The name of the canary's Service.
pub(super) fn canary_name(input: &Input<'_>, stable: &str) -> Result<String, String> {
    let wanted = &input.rollout.spec.traffic.canary_service;
    let service = wanted.clone().unwrap_or_else(|| format!("{stable}-canary"));
    if service.len() > 63 {
        return Err(format!(
            "Service {service}: the name has more than 63 characters; set spec.traffic.canaryService"
        ));
    }
    Ok(service)
}

/// Whether the names of the canary's Service and of its Deployment are free, or taken by this Rollout's own.
pub(super) fn check_names(input: &Input<'_>, survey: &Survey, service: &str) -> Result<(), String> {
    let ours = |canary_of: Option<&str>| canary_of == Some(input.rollout.uid.as_str());
    if let Some(taken) = survey.services.iter().find(|taken| taken.name == service)
        && !ours(taken.canary_of.as_deref())
    {
        return Err(format!(
            "Service {service} is there already and not made by this Rollout; set spec.traffic.canaryService to a name that is free"
        ));
    }
    if let Some(taken) = &survey.canary_workload
        && !ours(taken.canary_of.as_deref())
    {
        return Err(format!(
            "Deployment {} is there already and not made by this Rollout: canaries of Deployment {} run under this name; rename that Deployment, or delete it where nobody needs it",
            canary::name(&input.rollout.spec.workload.name),
            input.rollout.spec.workload.name
        ));
    }
    Ok(())
}

/// Refuses policies that say by the stable Service's name how it is spoken to, where none says so of the canary's.
pub(super) fn check_policies(survey: &Survey, stable: &str, canary: &str) -> Result<(), String> {
    let policies = survey.service_policies.as_deref().unwrap_or_default();
    let names = |policy: &ServicePolicyView, service: &str| policy.services.iter().any(|named| named == service);
    let Some(policy) = policies.iter().find(|policy| names(policy, stable)) else {
        return Ok(());
    };
    let covers = |other: &ServicePolicyView| other.kind == policy.kind && names(other, canary);
    if policies.iter().any(covers) {
        return Ok(());
    }
    Err(format!(
        "{} {} names Service {stable} and not Service {canary}: the gateway would speak to canary pods in another way; add Service {canary} to its targetRefs",
        policy.kind, policy.name
    ))
}
