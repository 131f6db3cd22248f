//! Random lives: whatever people, tools and the cluster do, in whatever order, each write keeps the safety rules (`fixtures::checker`
//! looks at all of them), and once it is quiet the Rollout comes to rest.

use proptest::{prelude::*, test_runner::RngSeed};
use serde_json::json;
use stepgate_crds::{command::Verb, status::Phase, units::Span};

use crate::fixtures::{
    checker::users_part,
    controllers::{Metrics, Weather},
    simulator::Simulator,
};

#[derive(Clone, Debug)]
enum Happening {
    Wait(i64),
    Ship(&'static str),
    Command(Verb),
    PromoteFully,
    OldCommand,
    Nonsense,
    Errors(&'static str, f64),
    Requests(f64),
    Broken(&'static str, bool),
    Gateway(Option<i64>),
    Metrics(Metrics),
    Crash(u64),
    CrashAfter(usize),
    Stale,
    Weigh(i64),
    DropCanaryRef,
    Revert,
    RuleInFront,
    RenameBackend,
    Scale(i64),
    Release,
    PauseByHand,
    DeleteCanary,
    DeleteRoute,
    DeleteWorkload,
    DeleteRollout,
    EditSpec,
    Suspend(bool),
    ScaleToNothingAndBack,
    DeleteReplicaSet(&'static str, bool),
    RecreateWorkload(&'static str),
    KillCanary,
    KillStable,
    CrashLoop(&'static str, bool),
    GitopsRoute(Option<i64>),
    GitopsWorkload(Option<(i64, &'static str)>),
    Autoscaler(Option<f64>),
    Quota(Option<usize>),
    Capacity(Option<f64>),
    Strategy(usize),
    HistoryLimit(i64),
    Unreadable(&'static str, bool),
    LoseWrite,
    LateLands,
}

const SOURCES: [Metrics; 6] = [
    Metrics::Up,
    Metrics::Down,
    Metrics::Empty,
    Metrics::Nonsense,
    Metrics::Failing,
    Metrics::Deaf,
];

/// How a Deployment may roll.
fn strategies() -> [serde_json::Value; 4] {
    [
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}),
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 4}}),
        json!({"type": "RollingUpdate", "rollingUpdate": null}),
        json!({"type": "Recreate", "rollingUpdate": null}),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let versions = || prop::sample::select(vec!["v1", "v2", "v3"]);
    prop_oneof![
        10 => (1_i64..120).prop_map(Wait),
        3 => (200_i64..400).prop_map(Wait),
        4 => versions().prop_map(Ship),
        7 => prop::sample::select(vec![Verb::Promote, Verb::Abort, Verb::Retry, Verb::Pause, Verb::Resume, Verb::Undo]).prop_map(Command),
        2 => Just(PromoteFully),
        1 => Just(OldCommand),
        1 => Just(Nonsense),
        2 => (versions(), prop::sample::select(vec![0.0, 0.05, 1.0])).prop_map(|(version, share)| Errors(version, share)),
        1 => prop::sample::select(vec![0.0, 1.0, 300.0]).prop_map(Requests),
        3 => (versions(), any::<bool>()).prop_map(|(version, broken)| Broken(version, broken)),
        2 => prop::sample::select(vec![None, Some(0), Some(20)]).prop_map(Gateway),
        2 => prop::sample::select(SOURCES.to_vec()).prop_map(Metrics),
        3 => (0_u64..90).prop_map(Crash),
        3 => (1_usize..4).prop_map(CrashAfter),
        2 => Just(Stale),
        2 => (0_i64..=100).prop_map(Weigh),
        1 => Just(DropCanaryRef),
        2 => Just(Revert),
        1 => Just(RuleInFront),
        1 => Just(RenameBackend),
        2 => (0_i64..8).prop_map(Scale),
        1 => Just(Release),
        1 => Just(PauseByHand),
        1 => Just(DeleteCanary),
        1 => Just(DeleteRoute),
        1 => Just(DeleteWorkload),
        1 => Just(DeleteRollout),
        1 => Just(EditSpec),
        2 => any::<bool>().prop_map(Suspend),
        2 => Just(ScaleToNothingAndBack),
        2 => (versions(), any::<bool>()).prop_map(|(version, with_pods)| DeleteReplicaSet(version, with_pods)),
        1 => versions().prop_map(RecreateWorkload),
        2 => Just(KillCanary),
        1 => Just(KillStable),
        2 => (versions(), any::<bool>()).prop_map(|(version, crashing)| CrashLoop(version, crashing)),
        1 => prop::sample::select(vec![None, Some(5), Some(60)]).prop_map(GitopsRoute),
        1 => prop::sample::select(vec![None, Some((5, "v2")), Some((60, "v1")), Some((7, "v3"))]).prop_map(GitopsWorkload),
        1 => prop::sample::select(vec![None, Some(25.0), Some(10.0)]).prop_map(Autoscaler),
        1 => prop::sample::select(vec![None, Some(8), Some(9), Some(13)]).prop_map(Quota),
        1 => prop::sample::select(vec![None, Some(40.0)]).prop_map(Capacity),
        1 => (0_usize..4).prop_map(Strategy),
        1 => prop::sample::select(vec![0_i64, 1, 10]).prop_map(HistoryLimit),
        1 => (prop::sample::select(vec!["Deployment", "HTTPRoute"]), any::<bool>()).prop_map(|(kind, blind)| Unreadable(kind, blind)),
        2 => Just(LoseWrite),
        2 => Just(LateLands),
    ]
}

#[expect(clippy::too_many_lines, reason = "one arm for each thing that can happen")]
fn happen(simulator: &mut Simulator, what: &Happening) {
    let cluster = &mut simulator.cluster;
    match what {
        Happening::Wait(seconds) => simulator.run_for(*seconds),
        Happening::Ship(version) => simulator.ship(version),
        Happening::Command(verb) => simulator.command(*verb),
        Happening::PromoteFully => simulator.promote_fully(),
        Happening::OldCommand => cluster.command(r#"{"verb":"abort","run":"0-0","nonce":"old"}"#),
        Happening::Nonsense => cluster.command("{"),
        Happening::Errors(version, share) => {
            cluster.weather.errors.insert((*version).to_owned(), *share);
        }
        Happening::Requests(rate) => cluster.weather.requests = *rate,
        Happening::Broken(version, broken) => {
            cluster.weather.broken.retain(|one| one != version);
            if *broken {
                cluster.weather.broken.push((*version).to_owned());
            }
        }
        Happening::Gateway(delay) => cluster.weather.gateway_delay = *delay,
        Happening::Metrics(metrics) => cluster.weather.metrics = *metrics,
        Happening::Crash(outage) => simulator.crash(*outage),
        Happening::CrashAfter(writes) => simulator.crash_after = Some(simulator.writes.len() + writes),
        Happening::Stale => simulator.stale = true,
        Happening::Weigh(canary) => cluster.weigh_by_hand(*canary),
        Happening::DropCanaryRef => cluster.edit_route(|spec| {
            for rule in spec["rules"].as_array_mut().unwrap() {
                rule["backendRefs"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|one| one["name"] != "checkout-canary");
            }
        }),
        Happening::Revert => cluster.revert_route(),
        Happening::RuleInFront => {
            let rule = json!({"backendRefs": [{"name": "checkout", "port": 80, "weight": 1}], "matches": [{"path": {"value": "/new"}}]});
            if let Some(meant) = &mut cluster.meant {
                meant["spec"]["rules"].as_array_mut().unwrap().insert(0, rule.clone());
            }
            cluster.edit_route(|spec| spec["rules"].as_array_mut().unwrap().insert(0, rule));
        }
        Happening::RenameBackend => {
            let rename = |spec: &mut serde_json::Value| {
                for one in spec["rules"].as_array_mut().into_iter().flatten() {
                    for one in one["backendRefs"].as_array_mut().unwrap() {
                        if one["name"] == "checkout" {
                            one["name"] = json!("elsewhere");
                        } else if one["name"] == "elsewhere" {
                            one["name"] = json!("checkout");
                        }
                    }
                }
            };
            if let Some(meant) = &mut cluster.meant {
                rename(&mut meant["spec"]);
            }
            cluster.edit_route(rename);
        }
        Happening::Scale(replicas) => cluster.change_deployment(&json!({"spec": {"replicas": replicas}})),
        Happening::Release => {
            cluster.change_deployment(
                &json!({"metadata": {"annotations": {"stepgate.dev/hold": "released"}}, "spec": {"paused": null}}),
            );
        }
        Happening::PauseByHand => cluster.change_deployment(&json!({"spec": {"paused": true}})),
        Happening::DeleteCanary => cluster.api.delete("Deployment", "checkout-canary"),
        Happening::DeleteRoute => {
            cluster.api.delete("HTTPRoute", "checkout");
            cluster.meant = None;
        }
        Happening::DeleteWorkload => cluster.api.delete("Deployment", "checkout"),
        Happening::DeleteRollout => cluster.api.delete("Rollout", "checkout"),
        Happening::EditSpec => {
            if cluster.api.get("Rollout", "checkout").is_some() {
                cluster.api.update("Rollout", "checkout", |object| {
                    object["spec"]["progressDeadline"] = json!(if object["spec"]["progressDeadline"] == "5m" {
                        "10m"
                    } else {
                        "5m"
                    });
                });
            }
        }
        Happening::Suspend(suspend) => cluster.suspend(*suspend),
        Happening::ScaleToNothingAndBack => {
            cluster.change_deployment(&json!({"spec": {"replicas": 0}}));
            simulator.run_for(5);
            simulator.cluster.change_deployment(&json!({"spec": {"replicas": 4}}));
        }
        Happening::DeleteReplicaSet(version, with_pods) => cluster.delete_replica_set(version, *with_pods),
        Happening::RecreateWorkload(version) => cluster.recreate_deployment(version),
        Happening::KillCanary => cluster.kill_pods("checkout-canary"),
        Happening::KillStable => cluster.kill_pods("checkout"),
        Happening::CrashLoop(version, crashing) => {
            cluster.weather.crashing.retain(|one| one != version);
            if *crashing {
                cluster.weather.crashing.push((*version).to_owned());
            }
        }
        Happening::GitopsRoute(every) => cluster.weather.gitops_route = *every,
        Happening::GitopsWorkload(every) => {
            cluster.weather.gitops_deployment = every.map(|(every, version)| (every, version.to_owned()));
        }
        Happening::Autoscaler(each) => cluster.weather.autoscaler = *each,
        Happening::Quota(quota) => cluster.weather.quota = *quota,
        Happening::Capacity(each) => cluster.weather.capacity = *each,
        Happening::Strategy(which) => {
            cluster.change_deployment(&json!({"spec": {"strategy": strategies()[*which].clone()}}));
        }
        Happening::HistoryLimit(limit) => {
            cluster.change_deployment(&json!({"spec": {"revisionHistoryLimit": limit}}));
        }
        Happening::Unreadable(kind, blind) => {
            cluster.weather.unreadable.retain(|one| one != kind);
            if *blind {
                cluster.weather.unreadable.push(*kind);
            }
        }
        Happening::LoseWrite => simulator.lose_next = true,
        Happening::LateLands => simulator.land_late(),
    }
    simulator.tick();
}

/// The world becomes kind again: does the Rollout come to rest, and leave nothing behind?
fn settle(simulator: &mut Simulator, happenings: &[Happening]) {
    simulator.lose_next = false;
    simulator.land_late();
    simulator.cluster.suspend(false);
    // A route whose own Service is not there no gateway accepts.
    let put_right = |spec: &mut serde_json::Value| {
        for rule in spec["rules"].as_array_mut().into_iter().flatten() {
            for one in rule["backendRefs"].as_array_mut().into_iter().flatten() {
                if one["name"] == "elsewhere" {
                    one["name"] = json!("checkout");
                }
            }
        }
    };
    if let Some(meant) = &mut simulator.cluster.meant {
        put_right(&mut meant["spec"]);
    }
    simulator.cluster.edit_route(put_right);
    let weather = &mut simulator.cluster.weather;
    *weather = Weather {
        policy: weather.policy,
        ..Weather::default()
    };
    let workload = simulator.cluster.api.get("Deployment", "checkout");
    if workload.is_some_and(|workload| workload["metadata"]["annotations"].get("stepgate.dev/hold").is_none()) {
        // Whoever paused it lets it go on.
        simulator.cluster.change_deployment(&json!({"spec": {"paused": null}}));
    }
    for _ in 0..18 {
        simulator.run_for(100);
        if simulator.status().run.is_none() {
            break;
        }
    }
    if simulator.status().run.is_some() {
        // What waits for a person is told to go back, as a person could.
        simulator.command(Verb::Abort);
    }
    simulator.run_for(300);
    let written = simulator.writes.len();
    simulator.run_for(300);
    let status = simulator.status();
    if status.run.is_some() {
        // Where nothing but the canary serves, or the template was fought over for an hour, a person has to do more than that.
        if simulator.cluster.ready("checkout") > 0 && status.mends.times.len() < simulator.limits.mends {
            simulator.fail("the run does not end");
        }
        return;
    }
    if simulator.writes.len() > written {
        simulator.fail("it does not come to rest");
    }
    for kind in ["Deployment", "Service"] {
        if simulator.cluster.api.get(kind, "checkout-canary").is_some() {
            simulator.fail(&format!("{kind} checkout-canary is left"));
        }
    }
    let gone = simulator.cluster.api.get("Rollout", "checkout").is_none();
    if gone && simulator.cluster.api.list("PodTemplate").next().is_some() {
        simulator.fail("a recorded template is left");
    }
    // A Rollout that goes, or is suspended, does not wait for ever for a route that cannot be read.
    let happened = |what: fn(&Happening) -> bool| happenings.iter().any(what);
    let unread = happened(|one| matches!(one, Happening::Unreadable("HTTPRoute", true)));
    let left = gone || happened(|one| matches!(one, Happening::Suspend(true)));
    if !(left && unread) {
        is_as_its_user_wrote(simulator, happenings);
    }
}

fn is_as_its_user_wrote(simulator: &Simulator, happenings: &[Happening]) {
    let (Some(route), Some(meant)) = (
        simulator.cluster.api.get("HTTPRoute", "checkout"),
        &simulator.cluster.meant,
    ) else {
        return;
    };
    let dropped = happenings
        .iter()
        .any(|one| matches!(one, Happening::DropCanaryRef | Happening::RenameBackend));
    // Whoever takes the canary out by hand may leave a weight of ours behind, and nobody can tell what was meant.
    let same = if dropped {
        let weightless = |route: &serde_json::Value| {
            let mut spec = users_part(route)["spec"].clone();
            for rule in spec["rules"].as_array_mut().into_iter().flatten() {
                for one in rule["backendRefs"].as_array_mut().into_iter().flatten() {
                    one["weight"] = json!(null);
                }
            }
            spec
        };
        weightless(route) == weightless(meant)
    } else {
        route["spec"] == meant["spec"]
    };
    if !same || route["metadata"]["annotations"].get("stepgate.dev/run").is_some() {
        simulator.fail(&format!("at rest the route is {route:#}"));
    }
}

/// Where a life begins.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    /// A version was shipped this moment; the steps want an approval, or not.
    Shipped {
        approval: bool,
    },
    Stepping,
    Retreated,
    Promoting,
    Restoring,
    Returning,
    Failed,
}

fn beginning() -> impl Strategy<Value = Beginning> {
    use Beginning::*;
    prop_oneof![
        any::<bool>().prop_map(|approval| Shipped { approval }),
        prop::sample::select(vec![Stepping, Retreated, Promoting, Restoring, Returning, Failed]),
    ]
}

/// Begins a life behind a gateway that forgets a backend of weight 0, or behind another.
fn begin(beginning: Beginning, forgetful: bool) -> Simulator {
    let approval = matches!(beginning, Beginning::Shipped { approval: true });
    let mut spec = if approval {
        json!({"steps": [{"weight": 0}, {"weight": 20, "approval": "Required"}, {"weight": 100}]})
    } else {
        json!({})
    };
    if forgetful {
        spec["analysis"] = json!({"provider": "forgetful"});
    }
    let mut simulator = Simulator::adopted(&spec);
    simulator.limits.progress_deadline = Span::seconds(120);
    simulator.ship("v2");
    if matches!(beginning, Beginning::Shipped { .. }) {
        return simulator;
    }
    simulator.until("10 %", 60, |simulator| simulator.status().weight == Some(10));
    if matches!(
        beginning,
        Beginning::Promoting | Beginning::Restoring | Beginning::Returning
    ) {
        simulator.promote_fully();
        simulator.until_phase(Phase::Promoting, 60);
    }
    match beginning {
        Beginning::Shipped { .. } | Beginning::Stepping => {}
        Beginning::Retreated => {
            simulator.cluster.weather.broken.push("v2".to_owned());
            simulator.until_phase(Phase::Retreated, 5);
        }
        Beginning::Promoting => simulator.run_for(4),
        Beginning::Restoring => {
            simulator.run_for(4);
            simulator.command(Verb::Abort);
            simulator.until_phase(Phase::Restoring, 5);
        }
        Beginning::Returning => {
            simulator.cluster.weather.gateway_delay = Some(20);
            simulator.until_phase(Phase::Returning, 120);
        }
        Beginning::Failed => {
            simulator.command(Verb::Abort);
            simulator.until_phase(Phase::Failed, 60);
        }
    }
    simulator
}

proptest! {
    #![proptest_config(lives())]

    #[test]
    fn every_write_of_any_life_is_safe_and_every_life_comes_to_rest(
        beginning in beginning(),
        forgetful in any::<bool>(),
        happenings in prop::collection::vec(happening(), 1..25),
    ) {
        let mut simulator = begin(beginning, forgetful);
        for one in &happenings {
            happen(&mut simulator, one);
        }
        settle(&mut simulator, &happenings);
    }
}

/// The same lives each time, so that nobody is stopped by a find of chance; others, and as many, where `PROPTEST_CASES` says how many.
fn lives() -> ProptestConfig {
    const UNSAID: u32 = 256;
    let usual = ProptestConfig {
        max_shrink_iters: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if usual.cases == UNSAID {
        ProptestConfig {
            cases: 100,
            rng_seed: RngSeed::Fixed(7),
            ..usual
        }
    } else {
        usual
    }
}
