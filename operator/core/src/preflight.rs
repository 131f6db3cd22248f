//! Finds what the spec leaves open (Service, labels, provider, parents) and says what stands in the way of a rollout.
//!
//! Pure: reads the routes and the survey. What does not fit is one sentence that names the object and the way out; what is
//! ambiguous lists the candidates.

use std::collections::BTreeSet;

use serde_json::Value;
use stepgate_crds::{
    rollout::{ProviderName, RouteReference},
    status::Found,
};

use crate::{
    apart,
    input::{Input, RouteView, Seen, ServiceView, Survey},
    route,
};

/// Everything that the spec leaves open, or why no rollout is possible.
pub fn find(input: &Input<'_>, survey: &Survey) -> Result<Found, String> {
    let traffic = &input.rollout.spec.traffic;
    let routes = routes(input)?;
    let stable = stable_service(input, survey, &routes)?;
    let canary_service = traffic
        .canary_service
        .clone()
        .unwrap_or_else(|| format!("{}-canary", stable.name));
    if canary_service.len() > 63 {
        return Err(format!(
            "Service {canary_service}: the name has more than 63 characters; set spec.traffic.canaryService"
        ));
    }
    if let Some(taken) = survey.services.iter().find(|service| service.name == canary_service)
        && taken.canary_of.as_deref() != Some(input.rollout.uid.as_str())
    {
        return Err(format!(
            "Service {canary_service} is there already and not made by this Rollout; set spec.traffic.canaryService to a name that is free"
        ));
    }
    refuse_template(survey)?;
    for (reference, view) in &routes {
        check_rules(reference, view, &stable.name, &canary_service)?;
    }
    let parents = parents(&routes)?;
    let apart = apart::choose(survey, stable, traffic.canary_labels.as_ref())?;
    let analysis = input.rollout.spec.analysis.clone().unwrap_or_default();
    let source = analysis.source.unwrap_or_else(|| DEFAULT_SOURCE.to_owned());
    if !survey.sources.contains(&source) {
        return Err(format!(
            "metrics source {source} is not set up; name one of [{}] in spec.analysis.source, or ask the administrator to add it (--metrics-source {source}=URL)",
            survey.sources.join(", ")
        ));
    }
    let interval = analysis.interval.unwrap_or(input.limits.interval);
    if interval < input.limits.scrape.twice() {
        return Err(format!(
            "spec.analysis.interval is {interval}, and the metrics sources scrape every {}: an interval has at least two scrapes",
            input.limits.scrape
        ));
    }
    Ok(Found {
        generation: input.rollout.generation,
        stable_service: stable.name.clone(),
        canary_service,
        canary_labels: apart.labels,
        apart: apart.how,
        provider: provider(analysis.provider.unwrap_or_default(), &parents, survey),
        port: port(&routes, &stable.name)?,
        parents,
    })
}

/// The name of the metrics source where the Rollout does not say one.
pub const DEFAULT_SOURCE: &str = "default";

type Routes<'a> = Vec<(&'a RouteReference, &'a RouteView)>;

fn routes<'a>(input: &Input<'a>) -> Result<Routes<'a>, String> {
    input
        .rollout
        .spec
        .traffic
        .routes
        .iter()
        .map(|reference| {
            let namespace = &input.rollout.namespace;
            let name = &reference.name;
            match input.routes.iter().find(|(seen, _)| seen == name).map(|(_, seen)| seen) {
                Some(Seen::At(view)) => Ok((reference, view)),
                Some(Seen::Unknown(why)) => Err(format!("HTTPRoute {namespace}/{name} could not be read: {why}")),
                Some(Seen::Absent) | None => Err(format!(
                    "HTTPRoute {namespace}/{name} does not exist; create it, or name another in spec.traffic.routes"
                )),
            }
        })
        .collect()
}

fn stable_service<'a>(input: &Input<'_>, survey: &'a Survey, routes: &Routes<'_>) -> Result<&'a ServiceView, String> {
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

/// What a second Deployment of the same template cannot share.
fn refuse_template(survey: &Survey) -> Result<(), String> {
    let list = |pointer: &str| {
        survey
            .workload
            .pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let name = survey
        .workload
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if let Some(claim) =
        list("/spec/template/spec/volumes").find_map(|volume| volume.pointer("/persistentVolumeClaim/claimName"))
    {
        return Err(format!(
            "Deployment {name} mounts the PersistentVolumeClaim {}; two versions at a time would share it, so it is not rolled out by steps",
            claim.as_str().unwrap_or_default()
        ));
    }
    let ports = list("/spec/template/spec/containers")
        .flat_map(|container| container.get("ports").and_then(Value::as_array).into_iter().flatten());
    if let Some(port) = ports
        .filter_map(|port| port.get("hostPort").and_then(Value::as_i64))
        .find(|port| *port != 0)
    {
        return Err(format!(
            "Deployment {name} binds the host port {port}; a canary cannot have it at the same time, so it is not rolled out by steps"
        ));
    }
    Ok(())
}

fn check_rules(reference: &RouteReference, view: &RouteView, stable: &str, canary: &str) -> Result<(), String> {
    let managed = route::Managed {
        rules: reference.rules.as_deref(),
        stable,
        canary,
    };
    let name = &view.name;
    for wanted in reference.rules.iter().flatten() {
        let rule = view
            .rules
            .iter()
            .find(|rule| rule.name.as_ref() == Some(wanted))
            .ok_or_else(|| {
                format!("HTTPRoute {name} has no rule named {wanted}; name one that it has in spec.traffic.routes")
            })?;
        if route::find_ref(rule, stable).is_none() {
            return Err(format!(
                "HTTPRoute {name}, rule {wanted}: no backendRef to Service {stable}; add it, or take the rule out of spec.traffic.routes"
            ));
        }
    }
    let mut any = false;
    for (index, rule) in managed.rules_of(view) {
        any = true;
        let place = rule.name.clone().unwrap_or_else(|| index.to_string());
        let refers = |service: &str| {
            let same = |reference: &&Value| route::service_of(reference) == Some(service);
            rule.backend_refs.iter().filter(same).count()
        };
        if refers(stable) > 1 || refers(canary) > 1 {
            return Err(format!(
                "HTTPRoute {name}, rule {place}: it refers to one Service twice; a managed rule has each once"
            ));
        }
        if route::find_ref(rule, canary).is_some_and(|(_, reference)| route::weight(reference) > 0) {
            return Err(format!(
                "HTTPRoute {name}, rule {place}: it already sends traffic to Service {canary}; give it weight 0 or take it out, or set spec.traffic.canaryService"
            ));
        }
        let other = rule.backend_refs.iter().find(|reference| {
            route::service_of(reference).is_none_or(|service| service != stable && service != canary)
                && route::weight(reference) > 0
        });
        if let Some(other) = other {
            return Err(format!(
                "HTTPRoute {name}, rule {}: it also sends traffic to {}; a managed rule has the stable Service alone (give the other one weight 0 or a rule of its own)",
                place,
                other.get("name").and_then(Value::as_str).unwrap_or("another backend")
            ));
        }
    }
    if any {
        Ok(())
    } else {
        Err(format!(
            "HTTPRoute {name}: no rule refers to Service {stable}; add it as a backendRef, or name another route in spec.traffic.routes"
        ))
    }
}

fn parents(routes: &Routes<'_>) -> Result<Vec<String>, String> {
    let mut keys = Vec::new();
    for (_, view) in routes {
        let before = keys.len();
        keys.extend(
            view.parents
                .iter()
                .filter(|parent| parent.accepted.is_some())
                .map(|parent| route::parent_key(&view.name, &parent.parent, &parent.controller)),
        );
        if keys.len() == before {
            let said = view.parents.iter().find(|parent| !parent.message.is_empty());
            return Err(format!(
                "HTTPRoute {}: no parent accepts it{}; check spec.parentRefs and the Gateway",
                view.name,
                said.map(|parent| format!(" ({}: {})", parent.parent, parent.message))
                    .unwrap_or_default()
            ));
        }
    }
    Ok(keys)
}

/// The port of the stable Service as the managed rules name it.
fn port(routes: &Routes<'_>, stable: &str) -> Result<i32, String> {
    let ports: BTreeSet<i64> = routes
        .iter()
        .flat_map(|(reference, view)| {
            route::Managed {
                rules: reference.rules.as_deref(),
                stable,
                canary: "",
            }
            .rules_of(view)
        })
        .filter_map(|(_, rule)| route::find_ref(rule, stable)?.1.get("port")?.as_i64())
        .collect();
    let mut ports = ports.into_iter();
    match (ports.next().and_then(|port| i32::try_from(port).ok()), ports.next()) {
        (Some(port), None) => Ok(port),
        (None, _) => Err(format!("the backendRef to Service {stable} has no port; add it")),
        (Some(port), Some(other)) => Err(format!(
            "the managed rules refer to Service {stable} by the ports {port} and {other}; name the rules of one port in spec.traffic.routes"
        )),
    }
}

/// The set of queries that fits every controller that serves the routes; the application's own counters where none does.
fn provider(wanted: ProviderName, parents: &[String], survey: &Survey) -> ProviderName {
    let fits = |controllers: &[String]| {
        parents.iter().all(|key| {
            key.rsplit(' ')
                .next()
                .is_some_and(|name| controllers.iter().any(|own| own == name))
        })
    };
    match wanted {
        ProviderName::Auto => survey
            .providers
            .iter()
            .find(|provider| fits(&provider.controllers))
            .map_or(ProviderName::Pods, |provider| provider.name),
        named => named,
    }
}
