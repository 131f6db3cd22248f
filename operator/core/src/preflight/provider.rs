//! The set of queries: the one that the spec names, or the one that fits the controllers that serve the routes; and what takes its place
//! where that one cannot tell the two backends apart.

use serde_json::Value;
use stepgate_crds::provider::ProviderName;

use super::Routes;
use crate::{
    input::{Input, ProviderView, Survey},
    route,
};

/// The set of queries of a run.
pub(super) struct Chosen<'a> {
    pub(super) provider: &'a ProviderView,
    /// Why it is not the one that was asked for, or that fits the gateway.
    pub(super) why: Option<String>,
}

/// The set of queries for these routes, which these parents accept.
pub(super) fn choose<'a>(
    input: &Input<'_>,
    survey: &'a Survey,
    routes: &Routes<'_>,
    parents: &[String],
    (stable, canary): (&str, &str),
) -> Result<Chosen<'a>, String> {
    let analysis = input.rollout.spec.analysis.as_ref();
    let wanted = analysis
        .and_then(|analysis| analysis.provider.clone())
        .unwrap_or_default();
    let provider = if wanted == ProviderName::AUTO {
        let fitting = survey.providers.iter().find(|provider| fits(provider, parents));
        fitting.map_or_else(|| named(survey, &ProviderName::PODS), Ok)?
    } else {
        named(survey, &wanted)?
    };
    match &provider.instead {
        Some(instead) if !(instead.unless_filtered && all_filtered(routes, stable, canary)) => Ok(Chosen {
            provider: named(survey, &instead.provider)?,
            why: Some(format!(
                "{} cannot tell the two backends apart: {}",
                provider.name, instead.why
            )),
        }),
        _ => Ok(Chosen { provider, why: None }),
    }
}

/// Whether every parent is one of its controllers'.
fn fits(provider: &ProviderView, parents: &[String]) -> bool {
    parents.iter().all(|key| {
        key.rsplit(' ')
            .next()
            .is_some_and(|name| provider.controllers.iter().any(|own| own == name))
    })
}

/// Whether each rule that refers to the stable Service has it first and the canary's, if anything, second, and a filter in each of these
/// backendRefs (one that is added for the canary is a copy of stable's); and no other rule has such a filter, or it would be counted too.
fn all_filtered(routes: &Routes<'_>, stable: &str, canary: &str) -> bool {
    let filtered = |reference: &Value| {
        let filters = reference.get("filters").and_then(Value::as_array);
        filters.is_some_and(|filters| !filters.is_empty())
    };
    let is = |reference: &Value, service: &str| route::service_of(reference) == Some(service) && filtered(reference);
    let mut rules = routes.iter().flat_map(|(_, view)| &view.rules);
    rules.all(|rule| match rule.backend_refs.as_slice() {
        others if route::find_ref(rule, stable).is_none() => !others.iter().any(filtered),
        [first] => is(first, stable),
        [first, second] => is(first, stable) && is(second, canary),
        _ => false,
    })
}

fn named<'a>(survey: &'a Survey, name: &ProviderName) -> Result<&'a ProviderView, String> {
    survey
        .providers
        .iter()
        .find(|provider| provider.name == *name)
        .ok_or_else(|| {
            let known: Vec<&str> = survey.providers.iter().map(|provider| provider.name.as_str()).collect();
            format!(
                "there is no set of queries {name}; name one of [auto, {}] in spec.analysis.provider, or ask the administrator to add it (--providers-folder)",
                known.join(", ")
            )
        })
}
