//! Where a search begins: an application of two pods, a rollout of two steps, and times of which a leap makes few.

use serde_json::json;
use stepgate_core::Limits;
use stepgate_crds::{status::Phase, units::Span};

use super::world::{LEAP, OFFSET};
use crate::fixtures::{cluster, simulator::Simulator};

/// Times of which a leap makes few: an interval of counts is one, and every deadline some.
pub(super) fn limits() -> Limits {
    Limits {
        bake: Span::default(),
        settle: Span::default(),
        drain: Span::seconds(8),
        interval: Span::seconds(10),
        scrape: Span::seconds(3),
        lag: Span::seconds(1),
        progress_deadline: Span::seconds(60),
        refresh: Span::seconds(86_400),
        calm: Span::default(),
        bare: Span::seconds(30),
        by_capacity: Span::seconds(30),
        ..Limits::default()
    }
}

/// Where a search begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Beginning {
    /// A version was shipped, and nobody has looked at it.
    Shipped,
    /// Its canary is there, and the route has its backendRef.
    Prepared,
    /// The first step is in force.
    Stepping,
}

/// The application with two pods that are ready at once, and a version that fails so many of its requests.
pub(super) fn begin(beginning: Beginning, errors: f64) -> Simulator {
    let mut simulator = Simulator::new();
    simulator.limits = limits();
    simulator.cluster.api.delete("Deployment", "static");
    let small = json!({"spec": {"replicas": 2, "minReadySeconds": 0}});
    simulator.cluster.change_deployment(&small);
    simulator.run_for(10);
    let steps = json!({"steps": [{"weight": 30}, {"weight": 100}]});
    simulator.cluster.api.create("Rollout", cluster::rollout(&steps));
    simulator.until_phase(Phase::Healthy, 60);
    on_time(&mut simulator);
    let weather = &mut simulator.cluster.weather;
    weather.pod_delay = 0;
    weather.requests = 2_000.0;
    weather.errors.insert("v2".to_owned(), errors);
    weather.gateway_delay = matches!(beginning, Beginning::Stepping).then_some(0);
    simulator.ship("v2");
    match beginning {
        Beginning::Shipped => {}
        Beginning::Prepared => simulator.until("the route is in a run", 60, |simulator| {
            let route = simulator.cluster.api.get("HTTPRoute", "checkout");
            route.is_some_and(|route| route["metadata"]["annotations"].get("stepgate.dev/run").is_some())
        }),
        Beginning::Stepping => simulator.until("30 % are in force", 60, |simulator| {
            let run = simulator.status().run;
            run.is_some_and(|run| run.in_force.is_some())
        }),
    }
    simulator.cluster.weather.gateway_delay = None;
    on_time(&mut simulator);
    simulator
}

fn on_time(simulator: &mut Simulator) {
    while simulator.cluster.now % LEAP != OFFSET {
        simulator.tick();
    }
}
