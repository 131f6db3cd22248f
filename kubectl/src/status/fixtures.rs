//! Rollouts in the states that the plugin's tests need.

use serde_json::{Value, json};
use stepgate_crds::Rollout;
use stepgate_crds::status::PauseReason;
use stepgate_crds::units::Timestamp;

/// The time at which all of them are looked at: a minute after the run began.
pub(crate) fn now() -> Timestamp {
    "2026-11-24T14:01:00Z".parse().unwrap()
}

fn rollout(status: &Value) -> Rollout {
    serde_json::from_value(json!({
        "apiVersion": "stepgate.dev/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": "checkout", "namespace": "shop", "generation": 1, "creationTimestamp": "2026-11-24T11:00:00Z"},
        "spec": {"workload": {"name": "checkout"}, "traffic": {"routes": [{"name": "checkout"}]}},
        "status": status,
    }))
    .unwrap()
}

fn at_rest() -> Value {
    json!({
        "observedGeneration": 1,
        "phase": "Healthy",
        "message": "checkout-7d4 serves",
        "revisions": 7,
        "stable": {"replicaSet": "checkout-7d4", "uid": "u1", "workloadUid": "u0", "template": "checkout-r6"},
        "found": {
            "generation": 1,
            "stableService": "checkout", "canaryService": "checkout-canary", "canaryLabels": {"app": "checkout-canary"},
            "apart": "Service checkout selects by app", "provider": "contour", "port": 80,
            "parents": ["checkout gateway-system/shared projectcontour.io/gateway-controller"],
        },
        "history": [{
            "run": "r6", "started": "2026-11-24T12:00:00Z", "ended": "2026-11-24T12:05:30Z", "outcome": "Promoted",
        }],
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "Healthy", "message": "stable serves", "lastTransitionTime": "2026-11-24T12:05:30Z",
        }],
    })
}

fn running(step: i32, weight: i32, accepted: i32, phase: &str, state: &Value) -> Value {
    let mut status = at_rest();
    status["phase"] = json!(phase);
    status["step"] = json!(format!("{}/4", step + 1));
    status["weight"] = json!(accepted);
    status["verdict"] = json!("InsufficientTraffic");
    status["message"] = json!("1,204 of about 3,000 requests");
    status["run"] = json!({
        "id": "r7", "seq": 4, "term": 2, "started": "2026-11-24T14:00:00Z", "revision": "checkout-r7",
        "spec": {
            "routes": [{"kind": "HTTPRoute", "name": "checkout"}],
            "steps": [
                {"weight": 10, "bake": "60s"}, {"weight": 30, "bake": "60s"},
                {"weight": 50, "bake": "2m", "approval": "Required"}, {"weight": 100, "bake": "60s"},
            ],
            "settle": "5s", "drain": "30s", "interval": "30s", "source": "default", "maxErrorRate": "1%", "phi": 2.0,
        },
        "base": 4, "step": step, "weight": weight, "acceptedWeight": accepted, "state": state,
        "inForce": {"seq": 4, "step": step, "weight": accepted, "since": "2026-11-24T14:00:15Z"}, "pauseHours": 0,
        "metrics": [{
            "name": "errors", "canaryRequests": 1204, "canaryBad": 3, "stableRequests": 2801, "stableBad": 3,
            "measuredWeight": 30.06, "failEvidence": 1.5, "failThreshold": 6.0, "passEvidence": 1.5, "passThreshold": 3.0,
        }],
        "refreshed": "2026-11-24T14:01:00Z",
    });
    status
}

/// At rest, with one run behind it.
pub(crate) fn healthy() -> Rollout {
    rollout(&at_rest())
}

/// In a step, counted from 0.
pub(crate) fn stepping(step: i32) -> Rollout {
    let state = json!({"stepping": {"since": "2026-11-24T14:00:10Z"}});
    rollout(&running(step, 30, 30, "Stepping", &state))
}

/// Paused at the third step.
pub(crate) fn paused(why: PauseReason) -> Rollout {
    let state = json!({"paused": {"since": "2026-11-24T14:00:50Z", "why": why}});
    rollout(&running(2, 50, 50, "Paused", &state))
}

/// Before the first step.
pub(crate) fn preparing() -> Rollout {
    let state = json!({"preparing": {"since": "2026-11-24T14:00:02Z"}});
    rollout(&running(0, 0, 0, "Preparing", &state))
}

/// In the second step, without its traffic: all pods of the canary went, for the second time.
pub(crate) fn retreated() -> Rollout {
    let state = json!({"retreated": {"since": "2026-11-24T14:00:40Z", "why": "PodsLost"}});
    let mut status = running(1, 0, 0, "Retreated", &state);
    status["run"]["retreats"] = json!({"all": 2, "podsLost": 2});
    rollout(&status)
}

/// Past the last step, with a newer version that waits.
pub(crate) fn promoting() -> Rollout {
    let state = json!({"promoting": {"since": "2026-11-24T14:00:40Z"}});
    let mut status = running(3, 100, 100, "Promoting", &state);
    status["run"]["newer"] = json!("checkout-r8");
    rollout(&status)
}

/// Aborted while it was promoted.
pub(crate) fn restoring() -> Rollout {
    let cause = json!({"reason": "Aborted", "detail": "aborted by a person"});
    let state = json!({"restoring": {"since": "2026-11-24T14:00:50Z", "cause": cause, "then": "Failed"}});
    let mut status = running(3, 100, 100, "Restoring", &state);
    status["mends"] = json!({"open": "checkout-r6", "times": ["2026-11-24T14:00:50Z"]});
    rollout(&status)
}

/// Promoted, the traffic on its way back.
pub(crate) fn returning() -> Rollout {
    let state = json!({"returning": {"since": "2026-11-24T14:00:50Z"}});
    rollout(&running(3, 0, 100, "Returning", &state))
}

/// Promoted, the canary going.
pub(crate) fn draining() -> Rollout {
    let state = json!({"draining": {"since": "2026-11-24T14:00:50Z", "then": "Promoted"}});
    rollout(&running(3, 0, 0, "Draining", &state))
}

/// On its way back from the first step.
pub(crate) fn rolling_back() -> Rollout {
    let cause = json!({"reason": "Verdict", "detail": "errors: 5.0 % against 0.1 %"});
    let state = json!({"rollingBack": {"since": "2026-11-24T14:00:58Z", "cause": cause, "then": "Failed"}});
    rollout(&running(0, 0, 10, "RollingBack", &state))
}

/// Failed, and at rest.
pub(crate) fn failed() -> Rollout {
    let mut status = at_rest();
    status["phase"] = json!("Failed");
    status["failed"] = json!({
        "run": "r7", "template": "checkout-r7", "cause": {"reason": "Verdict", "detail": "errors: 5.0 % against 0.1 %"},
    });
    status["command"] = json!({"verb": "promote", "nonce": "n", "done": false, "message": "step 1 is over"});
    rollout(&status)
}
