//! Deliberate bugs, one for each rule of safety that stored versions can show: what an operator without that rule would write, sent in its
//! name at the moment when it would. Each shows that its rule can be broken, and that the check sees it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http::Request;
use jiff::Timestamp;
use kube::Client;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::check::{HUSH, Rule, liveness, safety};
use super::layer::{Place, Tap};
use super::malady::Malady;
use super::workload::Workload;
use crate::cluster::Namespace;
use crate::shop::NAME;

/// What an operator with the bug does there.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// It gives the canary this weight and stable that, under the mark that is there.
    Weigh(i64, i64),
    /// It puts this mark on the route; `RUN` stands for the run.
    Mark(&'static str),
    /// It deletes the canary's Deployment.
    DeleteCanary,
    /// It merges this into an object of the application.
    Merge(&'static str, fn() -> Value),
    /// It applies these operations to an object of the application.
    Patch(&'static str, fn() -> Value),
    /// It merges this while the metrics source cannot be read.
    MergeUnread(&'static str, fn() -> Value),
    /// It changes the route's hostname.
    Rename,
    /// It writes on and on.
    GoOn,
    /// It panics.
    Panic,
    /// It does nothing for so many seconds.
    Sleep(u64),
    /// It does nothing any more.
    Halt,
}

/// A bug, and the rule that finds it.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// The rule.
    pub rule: Rule,
    /// The course in which it shows.
    pub workload: Workload,
    /// Where.
    pub place: Place,
    /// What is done wrong.
    pub act: Act,
}

/// At least one bug for each rule that is checked on stored versions.
pub const BUGS: [Bug; 25] = [
    bug(safety(1), Workload::Promote, ROUTE, 2, Act::Weigh(30, 60)),
    bug(safety(2), Workload::Promote, ROUTE, 2, Act::Weigh(55, 45)),
    bug(safety(3), Workload::Abort, ROUTE, 2, Act::Merge(STATUS, skip_a_step)),
    bug(safety(4), Workload::Promote, ROUTE, 1, Act::Weigh(30, 70)),
    bug(safety(5), Workload::Promote, ROUTE, 2, Act::DeleteCanary),
    // Weight 0 is accepted, and the drain has just begun.
    bug(safety(5), Workload::Abort, DRAINING, 1, Act::DeleteCanary),
    bug(
        safety(6),
        Workload::Promote,
        ROUTE,
        2,
        Act::Merge(STATUS, pass_on_nothing),
    ),
    bug(safety(7), Workload::Abort, ROUTE, 3, Act::Weigh(30, 70)),
    bug(
        safety(8),
        Workload::Promote,
        ROUTE,
        2,
        Act::Merge(WORKLOAD, blind_label),
    ),
    bug(safety(9), Workload::Promote, ROUTE, 2, Act::Rename),
    bug(safety(10), Workload::Promote, ROUTE, 2, Act::Mark("RUN.99")),
    bug(safety(11), Workload::Abort, ROUTE, 4, Act::GoOn),
    bug(
        safety(12),
        Workload::Promote,
        ROUTE,
        2,
        Act::MergeUnread(STATUS, pass_on_nothing),
    ),
    bug(
        safety(13),
        Workload::Rival,
        ROUTE,
        2,
        Act::Merge(WORKLOAD, label_of_the_rival),
    ),
    bug(safety(14), Workload::Promote, ROUTE, 2, Act::Merge(WORKLOAD, replicas)),
    bug(safety(15), Workload::Promote, ROUTE, 2, Act::Merge(STATUS, told_secret)),
    bug(safety(16), Workload::Promote, ROUTE, 2, Act::Panic),
    bug(
        safety(17),
        Workload::Promote,
        ROUTE,
        2,
        Act::Merge(STATUS, long_message),
    ),
    bug(
        safety(18),
        Workload::Promote,
        ROUTE,
        3,
        Act::Patch(STATUS, invented_counts),
    ),
    // The Deployment is still the old version, and the operator is held before it lets it go.
    bug(safety(19), Workload::Promote, PROMOTING, 1, Act::Weigh(0, 100)),
    bug(safety(20), Workload::Promote, ROUTE, 3, Act::Mark("RUN.1")),
    bug(liveness(1), Workload::Promote, ROUTE, 2, Act::Halt),
    // The first commit after the pause's acceptance is the pause itself.
    bug(liveness(2), Workload::Abort, PAUSE, 1, Act::Sleep(8)),
    bug(liveness(4), Workload::Rival, RIVAL, 1, Act::Halt),
    bug(liveness(5), Workload::Deletion, ROUTE, 2, Act::Halt),
];

const ROUTE: &str = "PATCH httproutes/checkout";
const WORKLOAD: &str = "apis/apps/v1/namespaces/NAMESPACE/deployments/checkout";
const STATUS: &str = "apis/stepgate.dev/v1alpha1/namespaces/NAMESPACE/rollouts/checkout/status";
/// The commit of a pause.
const PAUSE: &str = "PUT rollouts/checkout/status Paused";
/// The commit of a promotion, before the Deployment is let go.
const PROMOTING: &str = "PUT rollouts/checkout/status Promoting";
/// The commit of a drain.
const DRAINING: &str = "PUT rollouts/checkout/status Draining";
/// What is said of the Rollout that comes too late.
const RIVAL: &str = "PUT rollouts/rival/status";
const CANARY: &str = "apis/apps/v1/namespaces/NAMESPACE/deployments/checkout-canary";
const HTTP_ROUTE: &str = "apis/gateway.networking.k8s.io/v1/namespaces/NAMESPACE/httproutes/checkout";

const fn bug(rule: Rule, workload: Workload, write: &'static str, count: usize, act: Act) -> Bug {
    Bug {
        rule,
        workload,
        place: Place { write, count },
        act,
    }
}

fn skip_a_step() -> Value {
    json!({"status": {"verdict": null, "run": {"step": 1}}})
}

fn pass_on_nothing() -> Value {
    json!({"status": {"verdict": "Pass", "run": {"step": 1}}})
}

fn label_of_the_rival() -> Value {
    json!({"metadata": {"labels": {"stepgate.dev/rollout": "rival"}}})
}

fn told_secret() -> Value {
    json!({"status": {"message": format!("the source says {HUSH}please")}})
}

fn invented_counts() -> Value {
    let path = "/status/run/evidence/metrics/0/processes/0/relative";
    json!([{"op": "replace", "path": path, "value": [7, 0, 7, 0, 0]}])
}

fn blind_label() -> Value {
    json!({"metadata": {"labels": {"blind": "yes"}}})
}

fn replicas() -> Value {
    json!({"spec": {"replicas": 2}})
}

fn long_message() -> Value {
    json!({"status": {"message": "x".repeat(17 << 10)}})
}

/// How long the source cannot be read while a bug says that a version passed.
const UNREAD: Duration = Duration::from_mins(2);

/// An operator with a bug: listens to the tap, and does what is wrong after its write.
pub struct Saboteur {
    client: Client,
    namespace: String,
    bug: Bug,
}

impl Saboteur {
    /// One that acts as the operator's user.
    pub fn new(client: Client, namespace: &Namespace, bug: Bug) -> Self {
        Self {
            client,
            namespace: namespace.name().to_owned(),
            bug,
        }
    }

    /// Waits for the place and does what is wrong there; each of its requests stands among the operator's writes.
    pub async fn act(self, tap: Arc<Tap>) -> Result<()> {
        tap.at_its_place().await;
        let run = tap
            .writes()
            .iter()
            .rev()
            .find_map(|write| write.body.pointer("/status/run/id")?.as_str().map(str::to_owned))
            .unwrap_or_default();
        let add = |path: &str, value: Value| json!({"op": "add", "path": path, "value": value});
        // The operator is held at the place until what is wrong is done, so that the bug strikes there however busy the machine is.
        let done = match self.bug.act {
            Act::Weigh(canary, stable) => {
                let patch = json!([
                    add("/spec/rules/0/backendRefs/0/weight", json!(stable)),
                    add("/spec/rules/0/backendRefs/1/weight", json!(canary)),
                ]);
                self.send(&tap, "PATCH", HTTP_ROUTE, Some(&patch)).await
            }
            Act::Mark(mark) => {
                let mark = mark.replace("RUN", &run);
                let patch = json!([add("/metadata/annotations/stepgate.dev~1run", json!(mark))]);
                self.send(&tap, "PATCH", HTTP_ROUTE, Some(&patch)).await
            }
            Act::Rename => {
                let patch = json!([add("/spec/hostnames", json!(["elsewhere.local"]))]);
                self.send(&tap, "PATCH", HTTP_ROUTE, Some(&patch)).await
            }
            Act::Patch(path, operations) => self.send(&tap, "PATCH", path, Some(&operations())).await,
            Act::MergeUnread(path, body) => {
                // Nothing can pass from here on, so the operator may go on and ask.
                tap.source().fall_ill(Malady::NotANumber, UNREAD);
                tap.go_on();
                let since = Timestamp::now();
                while !tap.source().told().iter().any(|told| told.at > since && !told.good) {
                    sleep(Duration::from_millis(20)).await;
                }
                sleep(Duration::from_secs(1)).await;
                self.send(&tap, "PATCH", path, Some(&body())).await
            }
            Act::Sleep(seconds) => {
                sleep(Duration::from_secs(seconds)).await;
                Ok(())
            }
            Act::Halt => std::future::pending().await,
            Act::DeleteCanary => self.send(&tap, "DELETE", CANARY, None).await,
            Act::Merge(path, body) => self.send(&tap, "PATCH", path, Some(&body())).await,
            Act::GoOn => loop {
                tap.go_on();
                let body = json!({"metadata": {"labels": {"restless": format!("n{}", tap.writes().len())}}});
                // One that is refused is followed by the next: it goes on.
                let _refused = self.send(&tap, "PATCH", WORKLOAD, Some(&body)).await;
                sleep(Duration::from_millis(300)).await;
            },
            Act::Panic => {
                tap.panic_at_the_next();
                Ok(())
            }
        };
        tap.go_on();
        done
    }

    async fn send(&self, tap: &Tap, method: &str, path: &str, body: Option<&Value>) -> Result<()> {
        let path = format!("/{}", path.replace("NAMESPACE", &self.namespace));
        let kind = match body {
            Some(Value::Array(_)) => "application/json-patch+json",
            _ => "application/merge-patch+json",
        };
        let bytes = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let request = Request::builder()
            .method(method)
            .uri(format!("{path}?fieldManager=stepgate"))
            .header("content-type", kind)
            .body(bytes)?;
        let answer: Value = self
            .client
            .request(request)
            .await
            .with_context(|| format!("{method} {path} of {NAME}"))?;
        tap.note_of_another(method, &path, body.cloned().unwrap_or_default(), &answer);
        Ok(())
    }
}
