//! The rules of the routes: which of them a run would move, what stands beside the two Services in them, and who else moves them.

use serde_json::Value;
use stepgate_crds::rollout::RouteReference;

use super::Routes;
use crate::{
    input::{ClaimView, Input, RouteView, RuleView, Survey},
    route::{self, Managed},
};

/// Whether each managed rule has the stable Service and, beside the canary, nobody else with a weight.
pub(super) fn check(reference: &RouteReference, view: &RouteView, stable: &str, canary: &str) -> Result<(), String> {
    let managed = Managed::new(reference.rules.as_deref(), stable, canary);
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
        let place = place(index, rule);
        let refers = |service: &str| {
            let same = |reference: &&Value| route::service_of(reference) == Some(service);
            rule.backend_refs.iter().filter(same).count()
        };
        if refers(stable) > 1 || refers(canary) > 1 {
            return Err(format!(
                "HTTPRoute {name}, rule {place}: it refers to one Service twice; a managed rule has each once"
            ));
        }
        if managed.canary_percent(rule).is_some_and(|percent| percent > 0) {
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
                "HTTPRoute {name}, rule {place}: it also sends traffic to {}; a managed rule has the stable Service alone (give the other one weight 0 or a rule of its own)",
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

/// Whether no other Rollout lays claim to the same rule or to the canary's Service. Of two the older one has it, or the one whose run
/// is under way: they may share a route, not a rule.
pub(super) fn check_claims(
    input: &Input<'_>,
    survey: &Survey,
    routes: &Routes<'_>,
    stable: &str,
    canary: &str,
) -> Result<(), String> {
    let own = &input.rollout;
    let first = |other: &&ClaimView| {
        other.name != own.name && (other.in_run || (other.created, &other.name) < (own.created, &own.name))
    };
    for other in survey.rollouts.iter().filter(first) {
        let name = &other.name;
        for (reference, view) in routes {
            let managed = Managed::new(reference.rules.as_deref(), stable, canary);
            let theirs = other.routes.iter().filter(|route| route.name == view.name);
            let mut theirs = theirs.flat_map(|route| {
                let managed = Managed::new(route.rules.as_deref(), &other.stable_service, &other.canary_service);
                managed.rules_of(view)
            });
            let shared = theirs.find(|(index, _)| managed.rules_of(view).any(|(ours, _)| ours == *index));
            if let Some((index, rule)) = shared {
                return Err(format!(
                    "HTTPRoute {}, rule {}: Rollout {name} moves its weights{}, and two cannot; name other rules in spec.traffic.routes of one of them, or delete one",
                    view.name,
                    place(index, rule),
                    if other.in_run { " in a run" } else { "" },
                ));
            }
        }
        if other.canary_service == canary {
            return Err(format!(
                "Service {canary}: Rollout {name} makes one of this name for its runs; set spec.traffic.canaryService to a name that is free"
            ));
        }
    }
    Ok(())
}

/// A rule's name, else its place among the rules.
fn place(index: usize, rule: &RuleView) -> String {
    rule.name.clone().unwrap_or_else(|| index.to_string())
}
