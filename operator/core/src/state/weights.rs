//! The routes of a run: how far they are from the run's weight, what brings them there, and what stands in the way.
//!
//! On the way up every managed rule gets the canary; on the way back nothing is added to a rule, whatever a person made of it. No weight
//! rises without the pods that carry it, and none falls by more than the Deployment's ready pods cover (`side::lowest`).

use stepgate_crds::{
    status::{PauseReason, Run, RunState},
    units::Timestamp,
};

use super::Pass;
use crate::{
    canary,
    input::{RouteView, Seen},
    plan::{Effect, Plan},
    report::{self, Said},
    route::{self, Managed, Position, Trickles},
    side::{self, WayBack},
    verdict::Judgement,
};

impl<'a> Pass<'a> {
    /// The managed rules of a route.
    pub(super) fn managed(&self, name: &str) -> Managed<'a> {
        let routes = &self.run.spec.routes;
        let rules = routes
            .iter()
            .find(|route| route.name == name)
            .and_then(|route| route.rules.as_deref());
        // One without a ready pod could answer nothing.
        let trickles = Trickles {
            stable: self.found.trickle && self.input.stable_ready > 0,
            canary: self.found.trickle && self.input.canary_ready > 0,
        };
        Managed {
            trickles,
            ..route::managed(self.found, rules)
        }
    }

    /// The routes that are there.
    pub(super) fn routes(&self) -> impl Iterator<Item = &'a RouteView> + use<'a> {
        self.input.routes.iter().filter_map(|(_, seen)| seen.get())
    }

    fn is_on_the_way_back(&self) -> bool {
        matches!(
            self.run.state,
            RunState::Returning { .. }
                | RunState::RollingBack { .. }
                | RunState::Retreated { .. }
                | RunState::Draining { .. }
                | RunState::Paused {
                    why: PauseReason::Retreats,
                    ..
                }
        )
    }

    /// The routes that are not at the run's weight under the mark of its present intent.
    pub(super) fn off_weight(&self) -> Vec<(&'a RouteView, Managed<'a>)> {
        let mark = route::mark(self.run);
        let back = self.is_on_the_way_back();
        self.routes()
            .map(|view| (view, self.managed(&view.name)))
            .filter(|(view, managed)| {
                if self.rises_next() && managed.lacks_trickle(view) {
                    return true;
                }
                if back {
                    return !managed.is_back(view, self.run.weight, &mark);
                }
                // Where no rule is left to manage nothing can be done to it: `unmanageable` says so.
                let is_there = managed.position(view) == Position::Weight(self.run.weight)
                    && route::own_mark(view, &mark) == Some(mark.as_str());
                managed.rules_of(view).next().is_some() && !is_there
            })
            .collect()
    }

    /// Whether the canary has no traffic and gets some next.
    fn rises_next(&self) -> bool {
        self.run.weight == 0
            && matches!(
                self.run.state,
                RunState::Preparing { .. } | RunState::Retreated { .. } | RunState::Paused { .. }
            )
    }

    /// Whether every route stands at the weight that is in force; what somebody changed by hand does not.
    pub fn is_at_weight(&self) -> bool {
        self.off_weight().is_empty()
    }

    /// The highest weight that any rule of any route gives the canary now, accepted or not.
    pub fn sent(&self) -> i32 {
        let sent = self.routes().map(|view| self.managed(&view.name).sent(view)).max();
        i32::try_from(sent.unwrap_or(0)).unwrap_or(i32::MAX)
    }

    /// Whether any route sends anything to the canary, accepted or not.
    pub fn is_exposed(&self) -> bool {
        self.sent() > 0
    }

    /// The lowest weight that the canary may have now, on a way back that began then. Never above what it has.
    pub fn lowest(&self, since: Timestamp, at_once: bool) -> i32 {
        if self.has_given_up() {
            return 0;
        }
        let unknown = self
            .input
            .routes
            .iter()
            .any(|(_, seen)| matches!(seen, Seen::Unknown(_)));
        let sent = if unknown { self.run.weight } else { self.sent() };
        let way = WayBack {
            weight: self.run.weight.min(sent),
            base: self.base(),
            since,
            at_once,
        };
        side::lowest(self.input, way)
    }

    /// On a way back: the next lower intent, where the Deployment's ready pods cover more than they did.
    pub fn descend(&self, judgement: Option<&Judgement>, at_once: bool) -> Option<Plan> {
        let lowest = self.lowest(self.since(), at_once);
        if lowest >= self.run.weight {
            return None;
        }
        let mut status = self.with(self.intend(lowest, self.run.state.clone()));
        if let Some(judgement) = judgement {
            self.record(&mut status, judgement);
        }
        let message = format!(
            "{lowest} % stay on the canary: the Deployment has {} ready pods of the {} that all of the traffic takes",
            self.input.stable_ready,
            self.base()
        );
        let said = Said::passing(self.phase(), "TrafficReturns", message);
        Some(report::commit(status, self.input, &said, None))
    }

    /// What is said where a way back waits for ready pods of the Deployment.
    pub fn wait_for_pods(&self, judgement: Option<&Judgement>, why: &str) -> Plan {
        let (weight, ready) = (self.run.weight, self.input.stable_ready);
        if ready == 0 {
            let message =
                format!("the Deployment has no ready pod: the canary serves on at {weight} % until it has{why}");
            let said = Said::stalled(self.phase(), "StableNotReady", message);
            return self.wait(judgement, &said, self.gives_up_at());
        }
        let all = self.since().after(self.input.limits.by_capacity);
        let message = format!(
            "{weight} % stay on the canary: the Deployment has {ready} ready pods of the {} that all of the traffic takes; all of it goes back at {all}{why}",
            self.base()
        );
        self.wait(
            judgement,
            &Said::urgent(self.phase(), "TrafficReturns", message),
            Some(all),
        )
    }

    /// Whether nothing waits for stable any more: only where the Rollout is to go, past its deadline.
    fn has_given_up(&self) -> bool {
        self.input.rollout.is_leaving() && self.is_overdue()
    }

    /// Whether the Rollout is to go and has waited for so long that it goes whatever a gateway says.
    pub fn is_abandoned(&self) -> bool {
        self.abandoned_at().is_some_and(|second| self.input.now >= second)
    }

    /// When that is: only where the Rollout is to go.
    pub fn abandoned_at(&self) -> Option<Timestamp> {
        let second = self.deadline().after(self.deadline().since(self.since()));
        self.input.rollout.is_leaving().then_some(second)
    }

    /// When the wait for stable is over: only where the Rollout is to go.
    pub fn gives_up_at(&self) -> Option<Timestamp> {
        self.input.rollout.is_leaving().then(|| self.deadline())
    }

    /// What brings every route to the run's weight; none where all are there.
    pub fn toward_weight(&self, judgement: Option<&Judgement>) -> Option<Plan> {
        let off = self.off_weight();
        if off.is_empty() {
            return None;
        }
        // A later intent was written than the one committed here: this status is read late, or an old one was put back. The first is
        // refused by the Rollout's resourceVersion, and no write of an old intent follows a newer one's.
        if let Some(later) = self.later_intent() {
            let run = Run {
                seq: later.saturating_add(1),
                ..self.run.clone()
            };
            return Some(Plan::Commit(Box::new(self.with(run))));
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
        // After an abort no intent rises again, so nothing is taken away first that would have to come back.
        let rises_again = !self.is_on_the_way_back() && !matches!(self.run.state, RunState::Restoring { .. });
        if weight > 0 && rises_again && !self.is_known() {
            let message =
                "the canary's backendRef was removed: it is put back at 0 % first, until every parent knows it again";
            let said = Said::urgent(self.phase(), "WeightsChanged", message);
            return Some(self.commit(self.intend(0, self.run.state.clone()), &said, None));
        }
        let mut why = String::new();
        // What falls falls first: two routes together never send more than is meant.
        let mut off = off;
        off.sort_by_key(|(view, managed)| managed.sent(view) < i64::from(weight));
        let effects: Vec<Effect> = off
            .into_iter()
            .filter_map(|(view, managed)| {
                let sent = managed.sent(view);
                if i64::from(weight) > sent && !self.is_on_the_way_back() && !self.carries(weight) {
                    why = format!(
                        "HTTPRoute {} gives the canary {sent} %: {weight} % wait for its pods, of which {} are ready",
                        view.name, self.input.canary_ready
                    );
                    None
                } else if i64::from(weight) < sent && self.is_alone() {
                    why = format!(
                        "HTTPRoute {} gives the canary {sent} %: {weight} % wait for a ready pod of stable",
                        view.name
                    );
                    // Nothing falls, but what an older intent still has under way is shut out.
                    let fenced = !self.is_on_the_way_back() || route::own_mark(view, &mark) == Some(mark.as_str());
                    let sent = i32::try_from(sent).unwrap_or(100);
                    (!fenced).then(|| managed.take_back(view, sent, &mark))
                } else if self.is_on_the_way_back() {
                    Some(managed.take_back(view, weight, &mark))
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

    /// The latest intent of this run that any route is marked with, where it is later than the committed one.
    fn later_intent(&self) -> Option<i32> {
        let mark = route::mark(self.run);
        let marks = self.routes().filter_map(|view| route::own_mark(view, &mark));
        marks.filter_map(|own| route::later_intent(own, self.run)).max()
    }

    /// Whether any route refers to the canary: a gateway that had forgotten it answers for it itself until it knows its pods again.
    fn is_known(&self) -> bool {
        self.routes().any(|view| self.managed(&view.name).knows_canary(view))
    }

    /// Back to the step's weight once every parent knows the canary again; none where the run has that weight.
    pub fn regain(&self, judgement: Option<&Judgement>) -> Option<Plan> {
        if matches!(self.run.state, RunState::Restoring { .. }) {
            return None;
        }
        let step = usize::try_from(self.run.step).ok();
        let goal = step.and_then(|step| self.run.spec.steps.get(step))?.weight;
        if self.run.weight != 0 || goal == 0 || !self.carries(goal) {
            return None;
        }
        let pending = self.pending_parents();
        if pending.is_empty() {
            let message = format!("every parent knows the canary: {goal} % again");
            let said = Said::urgent(self.phase(), "WeightsChanged", message);
            // The canary does not grow any more: what it was sized by still holds.
            let run = Run {
                base: self.run.base,
                ..self.intend(goal, self.run.state.clone())
            };
            return Some(self.commit(run, &said, None));
        }
        let message = format!("the canary's backendRef is not accepted yet by {}", pending.join(", "));
        Some(if self.is_overdue() {
            let said = Said::stalled(self.phase(), "RouteNotAccepted", message);
            self.wait(judgement, &said, self.gives_up_at())
        } else {
            let said = Said::passing(self.phase(), "RouteNotAccepted", message);
            self.wait(judgement, &said, Some(self.deadline()))
        })
    }

    /// Whether the canary alone has ready pods: then nothing is taken from it, unless nothing waits for stable any more.
    fn is_alone(&self) -> bool {
        self.input.stable_ready == 0 && self.input.canary_ready > 0 && !self.has_given_up()
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
                Seen::Absent if self.is_on_the_way_back() || self.input.rollout.is_leaving() => Vec::new(),
                Seen::Absent => vec![format!("HTTPRoute {name}, which is gone")],
            })
            .collect()
    }

    /// What it takes to make every route what it was before the run.
    pub fn restore_effects(&self) -> Vec<Effect> {
        self.routes()
            .filter_map(|view| {
                let mark = route::mark(self.run);
                self.managed(&view.name).restore(view, &self.run.original, &mark)
            })
            .collect()
    }
}
