//! Leadership against an API server of the test's own making, which keeps one Lease and compares resourceVersions; time is tokio's, paused.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests and what they start from"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use stepgate::lease::{Elector, Leadership, LeaseError, LeaseOptions, Term};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, advance, sleep};
use tokio_util::sync::CancellationToken;

/// How the server treats the next requests.
#[derive(Clone, Copy, PartialEq)]
enum Mood {
    Well,
    /// Never answers, and does nothing.
    Deaf,
    /// Does what it is asked, and never answers.
    Mute,
    Broken,
}

struct Server {
    lease: Option<Value>,
    version: u32,
    /// It keeps a record of who wrote which field when, by its own clock.
    stamps: bool,
    mood: Mood,
    /// Method, path and body of each request.
    seen: Vec<(String, String, Value)>,
}

type Shared = Arc<Mutex<Server>>;

fn status(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}

impl Server {
    fn answer(&mut self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.seen.push((method.into(), path.into(), body.clone()));
        if self.mood == Mood::Broken {
            return status(500, "InternalError");
        }
        if self.mood == Mood::Deaf {
            return (0, Value::Null);
        }
        match (method, &self.lease) {
            ("GET", Some(lease)) => (200, lease.clone()),
            ("GET" | "PUT", None) => status(404, "NotFound"),
            ("POST", Some(_)) => status(409, "AlreadyExists"),
            ("PUT", Some(lease)) if body["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"] => {
                status(409, "Conflict")
            }
            ("POST" | "PUT", _) => (200, self.store(body)),
            _ => status(405, "MethodNotAllowed"),
        }
    }

    fn store(&mut self, mut lease: Value) -> Value {
        self.version += 1;
        lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if self.stamps {
            let seconds = jiff::Timestamp::now().as_second();
            let now = jiff::Timestamp::from_second(seconds).unwrap();
            lease["metadata"]["managedFields"][0]["time"] = json!(now.to_string());
        }
        self.lease = Some(lease.clone());
        lease
    }

    fn holder(&self) -> String {
        self.lease.as_ref().unwrap()["spec"]["holderIdentity"]
            .as_str()
            .unwrap()
            .into()
    }
}

/// A client of that server; each has its own wire.
fn client(server: &Shared) -> Client {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let server = Arc::clone(server);
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let body = if body.is_empty() {
                Value::Null
            } else {
                serde_json::from_slice(&body).unwrap()
            };
            if parts.method == "PUT" || parts.method == "POST" {
                assert_eq!(parts.headers["content-type"], "application/json");
            }
            let path = parts.uri.path_and_query().unwrap().to_string();
            let (mood, (code, body)) = {
                let mut server = server.lock().unwrap();
                (server.mood, server.answer(parts.method.as_str(), &path, body))
            };
            if matches!(mood, Mood::Deaf | Mood::Mute) {
                unanswered.push(send);
            } else {
                let body = Body::from(serde_json::to_vec(&body).unwrap());
                send.send_response(Response::builder().status(code).body(body).unwrap());
            }
        }
    });
    Client::new(service, "default")
}

fn server() -> Shared {
    Arc::new(Mutex::new(Server {
        lease: None,
        version: 0,
        stamps: false,
        mood: Mood::Well,
        seen: Vec::new(),
    }))
}

struct Process {
    leadership: watch::Receiver<Leadership>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), LeaseError>>,
}

fn start(server: &Shared, identity: &str) -> Process {
    let (elector, leadership) = Elector::new(
        client(server),
        LeaseOptions::new("stepgate-system", "stepgate", identity),
    )
    .unwrap();
    let stop = CancellationToken::new();
    Process {
        leadership,
        task: tokio::spawn(elector.run(stop.clone())),
        stop,
    }
}

impl Process {
    fn leads(&self) -> bool {
        self.leadership.borrow().leads()
    }

    async fn term(&mut self) -> Term {
        let seen = self
            .leadership
            .wait_for(|state| matches!(state, Leadership::Leader(_)))
            .await
            .unwrap();
        match *seen {
            Leadership::Leader(term) => term,
            Leadership::Standby => unreachable!(),
        }
    }

    /// As SIGKILL does: nothing is given back.
    fn kill(self) {
        self.task.abort();
    }
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/stepgate-system/leases";

#[tokio::test(start_paused = true)]
async fn the_first_process_makes_the_lease_and_renews_it() {
    let server = server();
    let mut first = start(&server, "a");
    let term = first.term().await;
    assert_eq!((term.number, term.absent), (1, Duration::ZERO));
    sleep(Duration::from_mins(1)).await;
    assert!(first.leads());
    let server = server.lock().unwrap();
    let (method, path, body) = &server.seen[1];
    assert_eq!((method.as_str(), path.split('?').next().unwrap()), ("POST", LEASE));
    assert_eq!(body["metadata"], json!({"name": "stepgate"}));
    assert_eq!(body["spec"]["holderIdentity"], "a");
    assert_eq!(body["spec"]["leaseDurationSeconds"], 15);
    assert_eq!(body["spec"]["leaseTransitions"], 1);
    assert_eq!(
        body["spec"]["renewTime"].as_str().unwrap().len(),
        "2026-01-01T00:00:00.000000Z".len()
    );
    // One look, one creation, and then nothing but one write every two seconds.
    let mut renewals = server.seen[2..].iter();
    assert!(renewals.all(|(method, path, body)| {
        method == "PUT"
            && path.split('?').next().unwrap() == format!("{LEASE}/stepgate")
            && body["metadata"]["resourceVersion"].is_string()
            && body["spec"]["leaseTransitions"] == 1
    }));
    assert!((28..=30).contains(&(server.seen.len() - 2)), "{}", server.seen.len());
}

#[tokio::test(start_paused = true)]
async fn a_standby_only_looks_and_takes_over_when_the_lease_is_given_back() {
    let server = server();
    let mut first = start(&server, "a");
    first.term().await;
    let mut second = start(&server, "b");
    sleep(Duration::from_secs(100)).await;
    assert!(first.leads() && !second.leads());
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
    assert!(!first.leadership.borrow().leads());
    let given_back =
        |(method, _, body): &(String, String, Value)| method == "PUT" && body["spec"]["holderIdentity"] == "";
    assert_eq!(
        server
            .lock()
            .unwrap()
            .seen
            .iter()
            .filter(|request| given_back(request))
            .count(),
        1
    );
    let released = Instant::now();
    let term = second.term().await;
    assert!(released.elapsed() <= Duration::from_secs(3), "{:?}", released.elapsed());
    assert_eq!(term.number, 2);
    assert!(term.absent <= Duration::from_secs(3), "{:?}", term.absent);
    assert_eq!(server.lock().unwrap().holder(), "b");
}

#[tokio::test(start_paused = true)]
async fn a_dead_leaders_lease_is_waited_out_on_our_own_clock() {
    let server = server();
    let mut first = start(&server, "a");
    first.term().await;
    // Its clock is an hour behind: by time stamps the lease ran out long ago.
    let mut second = start(&server, "b");
    sleep(Duration::from_secs(10)).await;
    first.kill();
    server.lock().unwrap().lease.as_mut().unwrap()["spec"]["renewTime"] = json!("2001-01-01T00:00:00.000000Z");
    let died = Instant::now();
    let term = second.term().await;
    let waited = died.elapsed();
    assert!(
        (Duration::from_secs(12)..=Duration::from_secs(19)).contains(&waited),
        "{waited:?}"
    );
    assert_eq!(term.number, 2);
    assert!(
        (Duration::from_secs(12)..=Duration::from_secs(19)).contains(&term.absent),
        "{:?}",
        term.absent
    );
}

/// A Lease whose holder died so many seconds ago by its own clock, where the API server stored its last word at another time.
fn left_behind(renewed: jiff::Timestamp, stored: jiff::Timestamp) -> Value {
    let entry = json!({
        "manager": "stepgate", "operation": "Update", "apiVersion": "coordination.k8s.io/v1", "time": stored.to_string(),
        "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:holderIdentity": {}, "f:renewTime": {}}},
    });
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "stepgate", "namespace": "stepgate-system", "managedFields": [entry]},
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 15, "leaseTransitions": 1, "renewTime": renewed.to_string()},
    })
}

#[tokio::test(start_paused = true)]
async fn another_clock_is_told_by_the_api_servers_own_stamps() {
    let (now, hour) = (jiff::Timestamp::now(), jiff::SignedDuration::from_secs(3600));
    let minute = jiff::SignedDuration::from_secs(60);
    for (renewed, stored, differ) in [
        // It died a minute ago, and its clock was ours, an hour ahead, an hour behind.
        (now - minute, now - minute, false),
        (now - minute + hour, now - minute, true),
        (now - minute - hour, now - minute, true),
        // A long time without a leader is no other clock.
        (now - hour, now - hour, false),
    ] {
        let server = server();
        server.lock().unwrap().stamps = true;
        server.lock().unwrap().lease = Some(left_behind(renewed, stored));
        let term = start(&server, "b").term().await;
        let absent = i64::try_from(term.absent.as_secs()).unwrap();
        assert_eq!(
            term.clocks_differ, differ,
            "renewed {renewed}, stored {stored}, {absent} s"
        );
        let real = now.duration_since(stored).as_secs();
        assert!((real - 5..real + 10).contains(&absent), "{absent} s and not {real} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_after_a_crash_tells_how_long_nobody_led() {
    let server = server();
    let hour_ago = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(3600);
    server.lock().unwrap().store(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "stepgate", "namespace": "stepgate-system", "labels": {"app": "stepgate"}},
        "spec": {"holderIdentity": "dead", "leaseDurationSeconds": 15, "leaseTransitions": 41, "renewTime": hour_ago.to_string(), "strategy": "OldestEmulationVersion"},
    }));
    let begun = Instant::now();
    let term = start(&server, "b").term().await;
    assert!(begun.elapsed() >= Duration::from_secs(15));
    assert_eq!(term.number, 42);
    assert!((3590..3700).contains(&term.absent.as_secs()), "{:?}", term.absent);
    // What others put on the Lease stays.
    let server = server.lock().unwrap();
    assert_eq!(
        server.lease.as_ref().unwrap()["metadata"]["labels"],
        json!({"app": "stepgate"})
    );
    assert_eq!(
        server.lease.as_ref().unwrap()["spec"]["strategy"],
        "OldestEmulationVersion"
    );
}

#[tokio::test(start_paused = true)]
async fn of_two_that_race_one_leads() {
    let server = server();
    let processes: Vec<Process> = ["a", "b", "c", "d"]
        .iter()
        .map(|identity| start(&server, identity))
        .collect();
    for _ in 0..200 {
        sleep(Duration::from_millis(500)).await;
        assert!(processes.iter().filter(|process| process.leads()).count() <= 1);
    }
    assert_eq!(processes.iter().filter(|process| process.leads()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_gives_up_before_the_lease_runs_out() {
    for mood in [Mood::Deaf, Mood::Broken] {
        let server = server();
        let mut first = start(&server, "a");
        first.term().await;
        sleep(Duration::from_secs(20)).await;
        let deadline = first.term().await.deadline;
        server.lock().unwrap().mood = mood;
        let cut = Instant::now();
        let error = first.task.await.unwrap().unwrap_err();
        assert_eq!(error.label(), "lost");
        assert!(
            error
                .to_string()
                .contains("stepgate-system/stepgate could not be renewed for 10 s"),
            "{error}"
        );
        assert!(cut.elapsed() <= Duration::from_secs(10), "{:?}", cut.elapsed());
        assert!(Instant::now() <= deadline + Duration::from_secs(2));
        assert!(!first.leadership.borrow().leads());
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_rides_out_failures_shorter_than_its_deadline() {
    let server = server();
    let mut first = start(&server, "a");
    first.term().await;
    for mood in [Mood::Broken, Mood::Deaf, Mood::Mute] {
        server.lock().unwrap().mood = mood;
        sleep(Duration::from_secs(5)).await;
        server.lock().unwrap().mood = Mood::Well;
        sleep(Duration::from_secs(20)).await;
        assert!(first.leads());
    }
    assert_eq!(first.term().await.number, 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_finds_another_holder_ends_at_once() {
    let server = server();
    let mut first = start(&server, "a");
    first.term().await;
    {
        let mut server = server.lock().unwrap();
        let mut lease = server.lease.clone().unwrap();
        lease["spec"]["holderIdentity"] = json!("thief");
        server.store(lease);
    }
    let taken = Instant::now();
    let error = first.task.await.unwrap().unwrap_err();
    assert!(taken.elapsed() <= Duration::from_secs(3));
    assert!(error.to_string().contains("thief holds it now"), "{error}");
    assert!(!first.leadership.borrow().leads());
    assert_eq!(server.lock().unwrap().holder(), "thief");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_deleted_or_labelled_under_its_leader() {
    let server = server();
    let mut first = start(&server, "a");
    first.term().await;
    {
        let mut server = server.lock().unwrap();
        let mut lease = server.lease.clone().unwrap();
        lease["metadata"]["labels"] = json!({"seen": "yes"});
        server.store(lease);
    }
    sleep(Duration::from_secs(20)).await;
    assert!(first.leads());
    assert_eq!(
        server.lock().unwrap().lease.as_ref().unwrap()["metadata"]["labels"],
        json!({"seen": "yes"})
    );
    server.lock().unwrap().lease = None;
    assert_eq!(first.task.await.unwrap().unwrap_err().label(), "taken");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_past_its_deadline_knows_it_at_once() {
    let server = server();
    let mut first = start(&server, "a");
    first.term().await;
    sleep(Duration::from_secs(20)).await;
    // What a pass read before its process was stopped: no renewal reaches it any more.
    let read = *first.leadership.borrow();
    assert!(read.leads());
    advance(Duration::from_secs(11)).await;
    assert!(!read.leads());
}

#[tokio::test(start_paused = true)]
async fn a_standby_waits_for_an_api_server_that_is_down() {
    let server = server();
    server.lock().unwrap().mood = Mood::Broken;
    let mut first = start(&server, "a");
    sleep(Duration::from_mins(2)).await;
    assert!(!first.leads() && !first.task.is_finished());
    server.lock().unwrap().mood = Mood::Well;
    first.term().await;
    first.stop.cancel();
    first.task.await.unwrap().unwrap();
}

#[test]
fn durations_that_do_not_fit_together_are_refused() {
    let good = LeaseOptions::new("n", "l", "i");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _inside = runtime.enter();
    let refused = |options: LeaseOptions| Elector::new(client(&server()), options).err().unwrap().to_string();
    assert!(Elector::new(client(&server()), good.clone()).is_ok());
    assert!(
        refused(LeaseOptions {
            identity: String::new(),
            ..good.clone()
        })
        .contains("identity")
    );
    assert!(
        refused(LeaseOptions {
            request: good.retry,
            ..good.clone()
        })
        .contains("request")
    );
    assert!(
        refused(LeaseOptions {
            retry: good.renew_deadline,
            ..good.clone()
        })
        .contains("renew deadline")
    );
    assert!(
        refused(LeaseOptions {
            renew_deadline: good.lease,
            ..good.clone()
        })
        .contains("lease's duration")
    );
    assert!(
        refused(LeaseOptions {
            lease: Duration::from_millis(15_500),
            ..good
        })
        .contains("whole number")
    );
}
