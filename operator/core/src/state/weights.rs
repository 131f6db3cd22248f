//! The routes of a run: how far they are from the run's weight, what brings them there, and what stands in the way.
//!
//! On the way up every managed rule gets the canary; on the way back nothing is added to a rule, whatever a person made of it. No weight
//! rises without the pods that carry it, and none falls while stable has no ready pod and the canary has.

use stepgate_crds::{
    status::{Run, RunState},
    units::Timestamp,
};

use super::Pass;
use crate::{
    canary,
    input::{RouteView, Seen},
    plan::{Effect, Plan},
    report::Said,
    route::{self, Managed, Position},
    side,
    verdict::Judgement,
};

impl<'a> Pass<'a> {
    /// The managed rules of a route.
    fn managed(&self, name: &str) -> Managed<'a> {
        let routes = &self.run.spec.routes;
        let rules = routes
            .iter()
            .find(|route| route.name == name)
            .and_then(|route| route.rules.as_deref());
        route::managed(self.found, rules)
    }

    /// The routes that are there.
    fn routes(&self) -> impl Iterator<Item = &'a RouteView> + use<'a> {
        self.input.routes.iter().filter_map(|(_, seen)| seen.get())
    }

    fn is_on_the_way_back(&self) -> bool {
        matches!(
            self.run.state,
            RunState::Returning { .. } | RunState::RollingBack { .. } | RunState::Draining { .. }
        )
    }

    /// The routes that are not at the run's weight under the mark of its present intent.
    fn off_weight(&self) -> Vec<(&'a RouteView, Managed<'a>)> {
        let mark = route::mark(self.run);
        let back = self.is_on_the_way_back();
        self.routes()
            .map(|view| (view, self.managed(&view.name)))
            .filter(|(view, managed)| {
                if back {
                    return !managed.is_back(view, &mark);
                }
                // Where no rule is left to manage nothing can be done to it: `unmanageable` says so.
                let is_there = managed.position(view) == Position::Weight(self.run.weight)
                    && view.run.as_deref() == Some(mark.as_str());
                managed.rules_of(view).next().is_some() && !is_there
            })
            .collect()
    }

    /// Whether every route stands at the weight that is in force; what somebody changed by hand does not.
    pub fn is_at_weight(&self) -> bool {
        self.off_weight().is_empty()
    }

    /// Whether any route sends anything to the canary, accepted or not.
    pub fn is_exposed(&self) -> bool {
        self.routes().any(|view| self.managed(&view.name).sent(view) > 0)
    }

    /// Whether traffic has to stay on the canary: stable has no ready pod, and the canary has. Not for ever, where the Rollout is to go.
    pub fn has_to_stay(&self, weight: i32) -> bool {
        let given_up = self.input.rollout.deleting && self.is_overdue();
        side::bearable(self.input, weight) > 0 && !given_up
    }

    /// Whether the Rollout is to go and has waited for so long that it goes whatever a gateway says.
    pub fn is_abandoned(&self) -> bool {
        let second = self.deadline().after(self.deadline().since(self.since()));
        self.input.rollout.deleting && self.input.now >= second
    }

    /// When the wait for stable is over: only where the Rollout is to go.
    pub fn gives_up_at(&self) -> Option<Timestamp> {
        self.input.rollout.deleting.then(|| self.deadline())
    }

    /// What brings every route to the run's weight; none where all are there.
    pub fn toward_weight(&self, judgement: Option<&Judgement>) -> Option<Plan> {
        let off = self.off_weight();
        if off.is_empty() {
            return None;
        }
        if !self.is_on_the_way_back() {
            let original: Vec<_> = self
                .routes()
                .flat_map(|view| self.managed(&view.name).original_now(view, &self.run.original))
                .collect();
            let seen = |name: &str| self.routes().any(|view| view.name == name);
            let unseen = self.run.original.iter().filter(|rule| !seen(&rule.route));
            let original: Vec<_> = original.into_iter().chain(unseen.cloned()).collect();
            if original != self.run.original {
                let run = Run {
                    original,
                    ..self.run.clone()
                };
                return Some(Plan::Commit(Box::new(self.with(run))));
            }
        }
        let mark = route::mark(self.run);
        let weight = self.run.weight;
        let mut why = String::new();
        let effects: Vec<Effect> = off
            .into_iter()
            .filter_map(|(view, managed)| {
                let sent = managed.sent(view);
                if i64::from(weight) > sent && !self.carries(weight) {
                    why = format!(
                        "HTTPRoute {} gives the canary {sent} %: {weight} % wait for its pods, of which {} are ready",
                        view.name, self.input.canary_ready
                    );
                    None
                } else if i64::from(weight) < sent && self.has_to_stay(1) {
                    why = format!(
                        "HTTPRoute {} gives the canary {sent} %: {weight} % wait for a ready pod of stable",
                        view.name
                    );
                    None
                } else if self.is_on_the_way_back() {
                    Some(managed.take_back(view, &mark))
                } else {
                    Some(managed.set_weight(view, weight, &mark))
                }
            })
            .collect();
        Some(if effects.is_empty() {
            self.wait(
                judgement,
                &Said::urgent(self.phase(), "WeightWaits", why),
                self.gives_up_at(),
            )
        } else {
            Plan::Act(effects)
        })
    }

    /// Whether the canary's ready pods carry this percentage.
    fn carries(&self, weight: i32) -> bool {
        self.input.canary_ready >= canary::size(self.run.base, weight)
    }

    /// Why the routes cannot be managed as they are, on the way up.
    pub fn unmanageable(&self) -> Option<String> {
        let (stable, canary) = (&self.found.stable_service, &self.found.canary_service);
        self.input.routes.iter().find_map(|(name, seen)| {
            let view = match seen {
                Seen::At(view) => view,
                Seen::Absent => return Some(format!("HTTPRoute {name} is gone; create it again, or abort the run")),
                Seen::Unknown(why) => return Some(format!("HTTPRoute {name} could not be read: {why}")),
            };
            let busy = view.run.as_ref().filter(|mark| !route::is_mark_of(mark, &self.input.rollout.uid));
            if let Some(mark) = busy {
                return Some(format!(
                    "HTTPRoute {name} is in run {} of another Rollout; wait for its end, or abort one of the two",
                    route::run_of_mark(mark)
                ));
            }
            let managed = self.managed(name);
            if let Some(index) = managed.astray(view) {
                return Some(format!(
                    "HTTPRoute {name}, rule {index}: it refers to Service {canary} and no longer to {stable}; put {stable} back, or abort the run"
                ));
            }
            managed.rules_of(view).next().is_none().then(|| {
                format!("HTTPRoute {name}: no rule refers to Service {stable} any more; put it back, or abort the run")
            })
        })
    }

    /// The parents that have not accepted the routes as they are. A route that cannot be read has not been accepted; one that is gone
    /// sends nothing to anybody.
    pub fn pending_parents(&self) -> Vec<String> {
        if self.is_abandoned() {
            return Vec::new();
        }
        let routes = self.input.routes.iter();
        routes
            .flat_map(|(name, seen)| match seen {
                Seen::At(view) => route::pending(view, &self.found.parents),
                Seen::Unknown(why) => vec![format!("HTTPRoute {name}, which could not be read: {why}")],
                Seen::Absent if self.is_on_the_way_back() => Vec::new(),
                Seen::Absent => vec![format!("HTTPRoute {name}, which is gone")],
            })
            .collect()
    }

    /// What it takes to make every route what it was before the run.
    pub fn restore_effects(&self) -> Vec<Effect> {
        self.routes()
            .filter_map(|view| {
                let ours = |mark: &str| route::is_mark_of(mark, &self.input.rollout.uid);
                self.managed(&view.name).restore(view, &self.run.original, ours)
            })
            .collect()
    }
}
