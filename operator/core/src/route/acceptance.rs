//! Which parents have accepted a route as it is.

use crate::input::RouteView;

/// A parent of a route as preflight notes it.
pub fn parent_key(route: &str, parent: &str, controller: &str) -> String {
    format!("{route} {parent} {controller}")
}

/// The parents that accepted the route before the run and do not report this generation as accepted, each with what it says. One that the
/// route does not name any more serves it no longer.
pub fn pending(route: &RouteView, expected: &[String]) -> Vec<String> {
    let is_named = |key: &str| {
        let parent = key.split(' ').nth(1).unwrap_or_default();
        route.parent_refs.iter().any(|named| named == parent)
    };
    expected
        .iter()
        .filter(|key| key.split(' ').next() == Some(route.name.as_str()) && is_named(key))
        .filter_map(|key| {
            let parent = route
                .parents
                .iter()
                .find(|seen| &parent_key(&route.name, &seen.parent, &seen.controller) == key);
            match parent {
                Some(parent) if parent.accepted == Some(route.generation) => None,
                Some(parent) if !parent.message.is_empty() => Some(format!("{}: {}", parent.parent, parent.message)),
                Some(parent) => Some(parent.parent.clone()),
                None => Some(key.split(' ').nth(1).unwrap_or(key).to_owned()),
            }
        })
        .collect()
}
