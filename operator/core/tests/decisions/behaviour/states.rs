//! The states of `docs/behaviour.md`: how a Rollout comes into each, held there by the weather, and how the weather clears up.

use serde_json::json;
use stepgate_crds::{command::Verb, status::Phase};

use crate::fixtures::{cluster, simulator::Simulator};

/// A state: its name in the document, how to come into it, and what lets it go on.
pub(super) struct State {
    pub name: &'static str,
    pub enter: fn() -> Simulator,
    pub clear: fn(&mut Simulator),
}

fn nothing(_: &mut Simulator) {}

/// The application at version 1, after version 0, and no Rollout.
fn ground() -> Simulator {
    let mut simulator = Simulator::new();
    for version in ["v0", "v1"] {
        simulator.cluster.ship(version);
        simulator.run_for(40);
    }
    // One more pod at a time, and none less: what a quota stops stands still.
    simulator
        .cluster
        .change_deployment(&json!({"spec": {"strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}}}));
    simulator.run_for(5);
    simulator
}

fn adopted(spec: &serde_json::Value) -> Simulator {
    let mut simulator = ground();
    simulator.cluster.api.create("Rollout", cluster::rollout(spec));
    simulator.until_phase(Phase::Healthy, 60);
    simulator
}

fn at_half(approval: bool) -> Simulator {
    let half = if approval {
        json!({"weight": 50, "approval": "Required"})
    } else {
        json!({"weight": 50})
    };
    let mut simulator = adopted(&json!({"steps": [{"weight": 10}, half, {"weight": 100}]}));
    simulator.ship("v2");
    simulator.until("half of the traffic is in force", 400, |simulator| {
        simulator.status().weight == Some(50)
    });
    simulator
}

fn stepping() -> Simulator {
    let mut simulator = at_half(false);
    simulator.cluster.weather.requests = 2.0;
    simulator
}

fn promoting() -> Simulator {
    let mut simulator = at_half(false);
    simulator.until_phase(Phase::Promoting, 400);
    simulator.until("the Deployment rolls", 60, |simulator| {
        let workload = simulator.cluster.api.get("Deployment", "checkout").unwrap();
        workload["status"]["updatedReplicas"] == 1
    });
    let pods: usize = simulator
        .cluster
        .controllers
        .sets
        .iter()
        .map(|set| set.pods.len())
        .sum();
    // One pod is of the new version, and there is no room for another beside the old ones.
    simulator.cluster.weather.quota = Some(pods - 1);
    simulator.run_for(10);
    simulator
}

/// All states, in the order of the document.
pub(super) const STATES: [State; 17] = [
    State {
        name: "Blocked",
        enter: || {
            let mut simulator = ground();
            simulator.cluster.weather.broken.push("v2".to_owned());
            simulator.ship("v2");
            simulator.cluster.api.create("Rollout", cluster::rollout(&json!({})));
            simulator.until_phase(Phase::Blocked, 60);
            simulator.cluster.weather.broken.clear();
            simulator.cluster.weather.pod_delay = 30;
            simulator
        },
        clear: |simulator| simulator.cluster.weather.pod_delay = 2,
    },
    State {
        name: "Healthy",
        enter: || adopted(&json!({})),
        clear: nothing,
    },
    State {
        name: "Preparing",
        enter: || {
            let mut simulator = adopted(&json!({}));
            simulator.cluster.weather.broken.push("v2".to_owned());
            simulator.ship("v2");
            simulator.until_phase(Phase::Preparing, 10);
            simulator.run_for(5);
            simulator
        },
        clear: |simulator| simulator.cluster.weather.broken.clear(),
    },
    State {
        name: "Stepping",
        enter: stepping,
        clear: |simulator| simulator.cluster.weather.requests = 100.0,
    },
    State {
        name: "Paused for an approval",
        enter: || {
            let mut simulator = at_half(true);
            simulator.until_phase(Phase::Paused, 400);
            simulator
        },
        clear: nothing,
    },
    State {
        name: "Paused by a person",
        enter: || {
            let mut simulator = stepping();
            simulator.command(Verb::Pause);
            simulator.until_phase(Phase::Paused, 5);
            simulator.run_for(3);
            simulator
        },
        clear: |simulator| simulator.cluster.weather.requests = 100.0,
    },
    State {
        name: "Paused after contention",
        enter: || {
            let mut simulator = stepping();
            simulator.cluster.weather.gitops_route = Some(5);
            simulator.until_phase(Phase::Paused, 400);
            simulator.cluster.weather.gitops_route = None;
            simulator
        },
        clear: |simulator| simulator.cluster.weather.requests = 100.0,
    },
    State {
        name: "Paused after retreats",
        enter: || {
            let mut simulator = stepping();
            simulator.cluster.weather.requests = 100.0;
            simulator.cluster.weather.metrics = crate::fixtures::controllers::Metrics::Deaf;
            simulator.until_phase(Phase::Paused, 1_200);
            simulator.run_for(10);
            simulator.cluster.weather.metrics = crate::fixtures::controllers::Metrics::Up;
            simulator
        },
        clear: nothing,
    },
    State {
        name: "Retreated",
        enter: || {
            let mut simulator = stepping();
            simulator.cluster.weather.broken.push("v2".to_owned());
            simulator.until_phase(Phase::Retreated, 5);
            simulator.run_for(10);
            simulator
        },
        clear: |simulator| {
            simulator.cluster.weather.broken.clear();
            simulator.cluster.weather.requests = 100.0;
        },
    },
    State {
        name: "Promoting",
        enter: promoting,
        clear: |simulator| simulator.cluster.weather.quota = None,
    },
    State {
        name: "Restoring",
        enter: || {
            let mut simulator = promoting();
            simulator.command(Verb::Abort);
            simulator.until_phase(Phase::Restoring, 5);
            simulator.run_for(10);
            simulator
        },
        clear: |simulator| simulator.cluster.weather.quota = None,
    },
    State {
        name: "Returning",
        enter: || {
            let mut simulator = at_half(false);
            simulator.until_phase(Phase::Promoting, 400);
            simulator.cluster.weather.gateway_delay = None;
            simulator.until_phase(Phase::Returning, 400);
            simulator.run_for(5);
            simulator
        },
        clear: |simulator| simulator.cluster.weather.gateway_delay = Some(1),
    },
    State {
        name: "RollingBack",
        enter: || {
            let mut simulator = stepping();
            simulator.cluster.weather.gateway_delay = None;
            simulator.command(Verb::Abort);
            simulator.until_phase(Phase::RollingBack, 5);
            simulator.run_for(5);
            simulator
        },
        clear: |simulator| {
            simulator.cluster.weather.gateway_delay = Some(1);
            simulator.cluster.weather.requests = 100.0;
        },
    },
    State {
        name: "Draining after a rollback",
        enter: || {
            let mut simulator = stepping();
            simulator.command(Verb::Abort);
            simulator.until_phase(Phase::Draining, 20);
            simulator
        },
        clear: |simulator| simulator.cluster.weather.requests = 100.0,
    },
    State {
        name: "Draining after a promotion",
        enter: || {
            let mut simulator = at_half(false);
            simulator.until_phase(Phase::Returning, 400);
            simulator.until_phase(Phase::Draining, 60);
            simulator
        },
        clear: nothing,
    },
    State {
        name: "Failed",
        enter: || {
            let mut simulator = stepping();
            simulator.command(Verb::Abort);
            simulator.until_phase(Phase::Failed, 120);
            simulator.run_for(10);
            simulator
        },
        clear: |simulator| simulator.cluster.weather.requests = 100.0,
    },
    State {
        name: "Suspended",
        enter: || {
            let mut simulator = adopted(&json!({}));
            simulator.cluster.suspend(true);
            simulator.until_phase(Phase::Suspended, 60);
            simulator.run_for(5);
            simulator
        },
        clear: nothing,
    },
];
