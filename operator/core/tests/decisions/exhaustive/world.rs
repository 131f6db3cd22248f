//! The small world that is searched: a cluster, two operators with their requests under way, and what may still go wrong.
//!
//! Time stands still but for [`World::pass_time`]; controllers and gateways move only by a step of their own. Each operator decides by the
//! real `next` on a view that it composes of the objects as they are, or as they were one version ago.

use std::{collections::BTreeMap, rc::Rc};

use stepgate_core::{Input, Limits, Plan};
use stepgate_crds::{RolloutStatus, units::Span};

use super::requests::{Request, What};
use crate::fixtures::{
    api::kind_name,
    checker::Checker,
    cluster::Cluster,
    observed::{self, Observed},
};

/// What decides: the real `next`, or one with a bug.
pub(super) type Decide = fn(&Input<'_>) -> Plan;

/// How much may still go wrong on the way to a world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    /// The process that leads dies.
    pub crashes: u8,
    /// A request is lost, or applied without an answer, or answered with a timeout and applied later.
    pub lost: u8,
    /// Another one leads while the first still believes that it does.
    pub elections: u8,
    /// A decision on a view that is one version behind.
    pub stale: u8,
    /// Time passes while there is something to do.
    pub slow: u8,
    /// Something that a person or the world does.
    pub happenings: u8,
}

/// A part of the world that an operator may see one version behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Rollout,
    Route,
    /// Deployments, their pods and with them all endpoints, Services and recorded templates.
    Workloads,
}

/// All of them.
pub(super) const PARTS: [Part; 3] = [Part::Rollout, Part::Route, Part::Workloads];

impl Part {
    pub(super) fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Rollout => &["Rollout"],
            Self::Route => &["HTTPRoute"],
            Self::Workloads => &["Deployment", "Service", "PodTemplate"],
        }
    }
}

/// A process of the operator.
#[derive(Clone, Debug, Default)]
pub(super) struct Operator {
    /// The term in which it believes that it leads.
    pub leads: Option<i64>,
    /// How long nobody had led when it was elected, in seconds.
    pub absent: i64,
    /// The world when another one was elected while it led: its watch of the Rollout may stand still since then.
    pub stuck: Option<Rc<Cluster>>,
    /// The parts that it has seen as they are: it does not see them as they were before any more.
    pub knows: [bool; 3],
    /// The requests of its last decision that were not answered yet; only the first one is under way.
    pub requests: Vec<Request>,
}

/// A state of the search.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub cluster: Rc<Cluster>,
    pub checker: Rc<Checker>,
    /// The world before the last change of each part, where that can still be seen.
    pub older: [Option<Rc<Cluster>>; 3],
    pub operators: [Operator; 2],
    /// Requests that nobody waits for any more and that may still arrive.
    pub orphans: Vec<Request>,
    pub term: i64,
    /// When the last one that led died, where nobody leads.
    pub leaderless: i64,
    pub budget: Budget,
    /// By object: the run and intent of the last write that arrived.
    pub landed: BTreeMap<(&'static str, String), (String, i32)>,
    /// What happened, in order.
    pub happened: Vec<&'static str>,
}

/// What stays the same through a search.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub limits: Limits,
    pub decide: Decide,
    /// A bug of the client: it writes under whatever resourceVersion the object has when the request arrives.
    pub rebases: bool,
}

/// How many seconds pass at once: an interval of counts.
pub(super) const LEAP: i64 = 10;
/// Time in this world is always so many seconds after a grid point.
pub(super) const OFFSET: i64 = 5;

impl World {
    pub(super) fn new(cluster: Cluster, checker: Checker, budget: Budget) -> Self {
        assert_eq!(cluster.now % LEAP, OFFSET, "time is off its grid");
        let mut world = Self {
            cluster: Rc::new(cluster),
            checker: Rc::new(checker),
            older: [None, None, None],
            operators: Default::default(),
            orphans: Vec::new(),
            term: 1,
            leaderless: 0,
            budget,
            landed: BTreeMap::new(),
            happened: Vec::new(),
        };
        world.operators[0].leads = Some(1);
        world
    }

    /// The committed status; empty where the Rollout is gone.
    pub(super) fn status(&self) -> RolloutStatus {
        status_in(&self.cluster)
    }

    /// Changes the cluster: what every part was before can be seen for a while.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Cluster)) -> bool {
        let mut cluster = (*self.cluster).clone();
        change(&mut cluster);
        self.become_cluster(cluster)
    }

    /// False where nothing changed.
    pub(super) fn become_cluster(&mut self, cluster: Cluster) -> bool {
        let before = std::mem::replace(&mut self.cluster, Rc::new(cluster));
        let mut changed = false;
        for (part, older) in PARTS.into_iter().zip(&mut self.older) {
            if differs(&before, &self.cluster, part) {
                *older = Some(Rc::clone(&before));
                changed = true;
                for operator in &mut self.operators {
                    operator.knows[part as usize] = false;
                }
            }
        }
        if changed || before.now != self.cluster.now || before.controllers.serving != self.cluster.controllers.serving {
            let mut checker = (*self.checker).clone();
            checker.observe(&self.cluster);
            self.checker = Rc::new(checker);
            changed = true;
        }
        changed
    }

    /// The world as an operator sees it that is one version behind in these parts.
    pub(super) fn view(&self, behind: &[Part]) -> Rc<Cluster> {
        let mut view = (*self.cluster).clone();
        for part in behind {
            let Some(older) = &self.older[*part as usize] else {
                continue;
            };
            for kind in part.kinds() {
                view.api.copy(&older.api, kind);
            }
            if *part == Part::Workloads {
                view.controllers.sets = older.controllers.sets.clone();
            }
        }
        Rc::new(view)
    }

    /// The world as this operator sees it whose watch of the Rollout stands still.
    pub(super) fn stuck(&self, operator: &Operator) -> Option<Rc<Cluster>> {
        let then = operator.stuck.as_ref()?;
        let mut view = (*self.cluster).clone();
        view.api.copy(&then.api, "Rollout");
        Some(Rc::new(view))
    }

    /// What this operator does next, seeing this; nothing where it does not lead.
    fn decision(&self, rules: &Rules, view: &Cluster, operator: &Operator) -> Option<(Observed, Plan)> {
        let absent = Span::seconds(u64::try_from(operator.absent).unwrap());
        let mut seen = observed::observe(view, "checkout", operator.leads?, absent, &rules.limits)?;
        loop {
            let plan = (rules.decide)(&seen.input());
            let Plan::Wait(wake) = &plan else {
                return Some((seen, plan));
            };
            let lists = (
                seen.survey.is_some(),
                seen.replica_sets.is_some(),
                seen.recorded.is_some(),
            );
            // Lists are read when they are asked for: they are never behind.
            if wake.need.survey && seen.survey.is_none() {
                seen.survey = observed::survey(&self.cluster, "checkout");
            }
            if wake.need.replica_sets && seen.replica_sets.is_none() {
                seen.replica_sets = Some(observed::replica_sets(&self.cluster));
            }
            if wake.need.recorded && seen.recorded.is_none() {
                seen.recorded = Some(observed::recorded(&self.cluster, "checkout"));
            }
            if lists
                == (
                    seen.survey.is_some(),
                    seen.replica_sets.is_some(),
                    seen.recorded.is_some(),
                )
            {
                return Some((seen, plan));
            }
        }
    }

    /// The requests that follow from a view, without those that will be refused whenever they arrive.
    pub(super) fn requests(&self, rules: &Rules, view: &Rc<Cluster>, operator: &Operator) -> Vec<Request> {
        let Some((seen, plan)) = self.decision(rules, view, operator) else {
            return Vec::new();
        };
        let status = Rc::new(seen.rollout.status.clone());
        let whats = match plan {
            Plan::Wait(_) => Vec::new(),
            Plan::Commit(status) => vec![What::Commit {
                version: seen.rollout.version.clone(),
                status: Rc::new(*status),
                command: seen.rollout.command.as_ref().and_then(|command| command.clone().ok()),
            }],
            Plan::Act(effects) => effects.into_iter().map(What::Effect).collect(),
        };
        let request = |what| Request {
            what,
            view: Rc::clone(view),
            status: Rc::clone(&status),
            checker: Rc::clone(&self.checker),
        };
        let all = whats.into_iter().map(request);
        all.filter(|request| self.is_alive(rules, request)).collect()
    }

    /// Ten seconds of requests, pods and clocks; what was one version behind is seen by now. Gateways take nothing up by themselves.
    pub(super) fn pass_time(&mut self) {
        let mut cluster = (*self.cluster).clone();
        let mut checker = (*self.checker).clone();
        for _ in 0..LEAP {
            cluster.tick();
            checker.observe(&cluster);
        }
        let kept = cluster.now - 20 * LEAP;
        cluster.controllers.grid.retain(|at, _| *at >= kept);
        self.cluster = Rc::new(cluster);
        self.checker = Rc::new(checker);
        self.older = [None, None, None];
    }

    /// One step of the Deployments' controllers; false where they have nothing to do.
    pub(super) fn roll(&mut self) -> bool {
        self.change(|cluster| {
            let weather = cluster.weather.clone();
            cluster.controllers.roll(&mut cluster.api, cluster.now, &weather);
        })
    }

    /// Every gateway accepts the routes as they are; false where all have.
    pub(super) fn accept(&mut self) -> bool {
        self.change(|cluster| {
            let weather = crate::fixtures::controllers::Weather {
                gateway_delay: Some(0),
                ..cluster.weather.clone()
            };
            // Once to take a new generation up, once to accept it.
            for _ in 0..2 {
                cluster
                    .controllers
                    .accept_routes(&mut cluster.api, cluster.now, &weather);
            }
        })
    }

    /// The answer to a request of this operator's: what it wrote it knows.
    pub(super) fn answer(&mut self, at: usize, request: &Request) {
        let kind = match &request.what {
            What::Commit { .. } => "Rollout",
            What::Effect(effect) => kind_name(effect.kind),
        };
        for part in PARTS.into_iter().filter(|part| part.kinds().contains(&kind)) {
            self.knows(at, part);
        }
    }

    /// This operator has seen this part as it is. A watch that stands still does so from here on: what was seen is not unseen.
    pub(super) fn knows(&mut self, at: usize, part: Part) {
        let operator = &mut self.operators[at];
        operator.knows[part as usize] = true;
        if part == Part::Rollout && operator.stuck.is_some() {
            operator.stuck = Some(Rc::clone(&self.cluster));
        }
    }

    /// An operator leads from now on, whatever the other one believes.
    pub(super) fn elect(&mut self, at: usize) {
        let is_led = self.operators.iter().any(|operator| operator.leads.is_some());
        self.term += 1;
        self.operators[at].leads = Some(self.term);
        self.operators[at].absent = if is_led { 0 } else { self.cluster.now - self.leaderless };
        for (other, operator) in self.operators.iter_mut().enumerate() {
            if other != at && operator.leads.is_some() {
                operator.stuck = Some(Rc::clone(&self.cluster));
            }
        }
    }

    /// An operator leads no more: it sends nothing from now on, and what is under way may still arrive.
    pub(super) fn depose(&mut self, at: usize) {
        let operator = std::mem::take(&mut self.operators[at]);
        self.orphans.extend(operator.requests.into_iter().take(1));
        self.leaderless = self.cluster.now;
    }

    /// Somebody gives a command for the present run and step.
    pub(super) fn command(&mut self, verb: &str, full: bool) {
        let status = self.status();
        let run = status.run.as_ref();
        let id = run
            .map(|run| run.id.clone())
            .or_else(|| status.failed.as_ref().map(|failed| failed.run.clone()));
        let mut command =
            serde_json::json!({"verb": verb, "run": id.unwrap_or_default(), "nonce": self.happened.len().to_string()});
        if let (Some(run), "promote") = (run, verb) {
            command["step"] = serde_json::json!(run.step + 1);
        }
        if full {
            command["full"] = serde_json::json!(true);
        }
        self.change(|cluster| cluster.command(&command.to_string()));
    }
}

pub(super) fn status_in(cluster: &Cluster) -> RolloutStatus {
    let status = cluster
        .api
        .get("Rollout", "checkout")
        .and_then(|rollout| rollout.get("status"));
    status
        .map(|status| serde_json::from_value(status.clone()).unwrap())
        .unwrap_or_default()
}

/// Of each ReplicaSet: its name, the pods asked for and those that are there.
pub(super) fn pods(cluster: &Cluster) -> Vec<(&str, usize, usize)> {
    let sets = cluster.controllers.sets.iter();
    sets.map(|set| (set.name.as_str(), set.wanted, set.pods.len()))
        .collect()
}

fn differs(one: &Cluster, other: &Cluster, part: Part) -> bool {
    let versions = |cluster: &Cluster| -> Vec<(String, String)> {
        let objects = part.kinds().iter().flat_map(|kind| cluster.api.list(kind));
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        objects
            .map(|object| {
                (
                    text(&object["metadata"]["uid"]),
                    text(&object["metadata"]["resourceVersion"]),
                )
            })
            .collect()
    };
    versions(one) != versions(other) || (part == Part::Workloads && pods(one) != pods(other))
}
