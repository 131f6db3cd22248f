//! Finds what the spec leaves open (Service, labels, provider, parents) and says what stands in the way of a rollout.
//!
//! Pure: reads the routes and the survey. What does not fit is one sentence that names the object and the way out; what is
//! ambiguous lists the candidates.

use std::collections::BTreeSet;

use stepgate_crds::{
    rollout::RouteReference,
    status::{Found, OriginalRule},
};

use crate::{
    apart,
    input::{Input, ParentView, RouteView, Seen, Survey},
    route,
};

mod provider;
mod rules;
mod service;
mod template;

pub use template::claims;

/// Everything that the spec leaves open, or why no rollout is possible.
pub fn find(input: &Input<'_>, survey: &Survey) -> Result<Found, String> {
    let traffic = &input.rollout.spec.traffic;
    let routes = routes(input)?;
    let stable = service::stable(input, survey, &routes)?;
    let canary_service = service::canary_name(input, &stable.name)?;
    // First, for the run of another Rollout on the same rule shows in much of what follows.
    rules::check_claims(input, survey, &routes, &stable.name, &canary_service)?;
    service::check_names(input, survey, &canary_service)?;
    template::refuse(survey, &input.rollout.namespace)?;
    for (reference, view) in &routes {
        rules::check(reference, view, &stable.name, &canary_service)?;
    }
    let parents = parents(survey, &routes, &canary_service)?;
    service::check_policies(survey, &stable.name, &canary_service)?;
    let apart = apart::choose(survey, stable, traffic.canary_labels.as_ref())?;
    let analysis = input.rollout.spec.analysis.clone().unwrap_or_default();
    let source = analysis.source.unwrap_or_else(|| DEFAULT_SOURCE.to_owned());
    if !survey.sources.contains(&source) {
        return Err(format!(
            "metrics source {source} is not set up; name one of [{}] in spec.analysis.source, or ask the administrator to add it (--metrics-source {source}=URL)",
            survey.sources.join(", ")
        ));
    }
    if let Some((name, why)) = survey.refused_queries.first() {
        return Err(format!("spec.analysis.queries, query {name}: {why}"));
    }
    let interval = analysis.interval.unwrap_or(input.limits.interval);
    if interval < input.limits.scrape.twice() {
        return Err(format!(
            "spec.analysis.interval is {interval}, and the metrics sources scrape every {}: an interval has at least two scrapes",
            input.limits.scrape
        ));
    }
    let chosen = provider::choose(input, survey, &routes, &parents, (&stable.name, &canary_service))?;
    let found = Found {
        generation: input.rollout.generation,
        stable_service: stable.name.clone(),
        canary_service,
        canary_labels: apart.labels,
        apart: match survey.service_policies {
            Some(_) => apart.how,
            None => format!("{}, BackendTLSPolicies (v1 is not served)", apart.how),
        },
        provider: chosen.provider.name.clone(),
        counts_all_callers: chosen.provider.counts_all_callers,
        trickle: chosen.provider.trickle,
        provider_why: chosen.why,
        port: port(&routes, &stable.name)?,
        parents,
    };
    has_room(input, &routes, &found)?;
    Ok(found)
}

/// Most bytes of `status` for what a run keeps of spec, rules and parents. Counts, words and history take up to 10 of its 16 KiB.
const ROOM: usize = 6_144;

/// Most bytes of `status` for a query of the user's own, besides its text: its name, its number and what is said of it.
const ROOM_OF_A_QUERY: usize = 300;

/// Whether a status has room for what a run keeps.
fn has_room(input: &Input<'_>, routes: &Routes<'_>, found: &Found) -> Result<(), String> {
    let spec = &input.rollout.spec;
    let original: Vec<OriginalRule> = routes
        .iter()
        .flat_map(|(reference, view)| route::managed(found, reference.rules.as_deref()).original(view))
        .collect();
    let kept = (found, &spec.traffic.routes, &spec.steps, &original);
    let bytes = serde_json::to_string(&kept).map_or(usize::MAX, |text| text.len());
    let own = spec.analysis.as_ref().map_or(&[][..], |analysis| &analysis.queries);
    let queries = serde_json::to_string(own).map_or(usize::MAX, |text| text.len());
    let queries = queries.saturating_add(own.len().saturating_mul(ROOM_OF_A_QUERY));
    if bytes.saturating_add(queries) <= ROOM {
        return Ok(());
    }
    if bytes <= ROOM {
        return Err(format!(
            "status has room for {ROOM} bytes of what a run keeps; rules, parents and routes of this Rollout take {bytes}, and the {} of spec.analysis.queries {queries}: give fewer or shorter queries",
            own.len()
        ));
    }
    Err(format!(
        "status has room for {ROOM} bytes of what a run keeps, and the {} rules, {} parents and {} routes of this Rollout take {bytes}; name fewer in spec.traffic.routes, or give them shorter names",
        original.len(),
        found.parents.len(),
        routes.len()
    ))
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

/// The parents that accept the routes now. One that misses nothing but the canary's Service counts as well: a route may list it at
/// weight 0 at all times, and it is made for a run.
fn parents(survey: &Survey, routes: &Routes<'_>, canary: &str) -> Result<Vec<String>, String> {
    let canary_is_there = survey.services.iter().any(|service| service.name == canary);
    let mut keys = Vec::new();
    for (_, view) in routes {
        let lists_canary = view.rules.iter().any(|rule| route::find_ref(rule, canary).is_some());
        let accepts = |parent: &&ParentView| {
            parent.accepted.is_some() || (parent.lacks_backend && lists_canary && !canary_is_there)
        };
        let before = keys.len();
        for parent in view.parents.iter().filter(accepts) {
            let key = route::parent_key(&view.name, &parent.parent, &parent.controller);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
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
        .flat_map(|(reference, view)| route::Managed::new(reference.rules.as_deref(), stable, "").rules_of(view))
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
