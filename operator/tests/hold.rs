//! The question whether the hold is in place, against an API server of the test's own making; time is tokio's, paused.

#![expect(clippy::unwrap_used, reason = "tests and what they start from")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use stepgate::hold::HoldCheck;
use tokio::time::{Instant, advance};

const USER: &str = "system:serviceaccount:stepgate-system:stepgate";
const POLICY: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies/stepgate-hold";
const BINDING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings/stepgate-hold";

/// What is at each path, with the code that goes with it, and which requests came.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, (u16, Value)>,
    seen: Vec<String>,
}

type Shared = Arc<Mutex<Server>>;

impl Server {
    fn answer(&mut self, method: &str, path: &str) -> (u16, Value) {
        self.seen.push(format!("{method} {path}"));
        let (kind, name) = path.rsplit_once('/').unwrap();
        let served = kind.starts_with("/apis/admissionregistration.k8s.io/v1/");
        match self.objects.get(path) {
            Some((code, object)) => (*code, object.clone()),
            None if path.ends_with("selfsubjectreviews") => (201, review(USER)),
            None if served => (404, not_found(name)),
            None => (404, json!("404 page not found")),
        }
    }
}

fn not_found(name: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
        "message": format!("\"{name}\" not found"), "details": {"name": name},
    })
}

fn review(user: &str) -> Value {
    json!({
        "kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
        "status": {"userInfo": {"username": user}},
    })
}

fn policy(users: &str) -> Value {
    let expression = format!("!(request.userInfo.username in {users})");
    json!({"spec": {"matchConditions": [{"name": "not-the-operator", "expression": expression}]}})
}

/// All as the chart installs it.
fn installed() -> Shared {
    let mut server = Server::default();
    let users = format!("[\"{USER}\",\"jane@example.com\"]");
    server.objects.insert(POLICY.into(), (200, policy(&users)));
    let binding = json!({"spec": {"policyName": "stepgate-hold"}});
    server.objects.insert(BINDING.into(), (200, binding));
    Arc::new(Mutex::new(server))
}

fn client(server: &Shared) -> Client {
    let (service, mut handle) = tower_test::mock::pair::<Request<Body>, Response<Body>>();
    let server = Arc::clone(server);
    tokio::spawn(async move {
        while let Some((request, send)) = handle.next_request().await {
            let path = request.uri().path().to_owned();
            let (code, body) = server.lock().unwrap().answer(request.method().as_str(), &path);
            let body = match body {
                Value::String(plain) => plain.into_bytes(),
                object => serde_json::to_vec(&object).unwrap(),
            };
            send.send_response(Response::builder().status(code).body(Body::from(body)).unwrap());
        }
    });
    Client::new(service, "default")
}

/// The first answer of a check on this server.
async fn first(server: &Shared) -> Option<String> {
    let check = HoldCheck::begin(client(server), "stepgate-hold").await;
    check.answers().borrow().clone()
}

#[tokio::test]
async fn as_the_chart_installs_it_the_hold_is_in_place_for_three_requests() {
    let server = installed();
    assert_eq!(first(&server).await, None);
    let seen = server.lock().unwrap().seen.clone();
    let expected = [
        format!("GET {POLICY}"),
        format!("GET {BINDING}"),
        "POST /apis/authentication.k8s.io/v1/selfsubjectreviews".to_owned(),
    ];
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn v1beta1_is_as_good_where_v1_is_not_served() {
    let server = installed();
    {
        let mut server = server.lock().unwrap();
        let moved: Vec<_> = [POLICY, BINDING]
            .into_iter()
            .map(|path| (path, server.objects[path].clone()))
            .collect();
        for (path, object) in moved {
            server.objects.insert(path.into(), (404, json!("404 page not found")));
            server.objects.insert(path.replace("/v1/", "/v1beta1/"), object);
        }
    }
    assert_eq!(first(&server).await, None);
}

#[tokio::test]
async fn what_is_missing_is_named_with_what_to_do() {
    let not_served = (404, json!("404 page not found"));
    let other = json!({"spec": {"policyName": "other"}});
    let lists = |users: &str| (200, policy(users));
    let cases: [(&str, (u16, Value), &[&str]); 6] = [
        (
            POLICY,
            not_served,
            &["has no MutatingAdmissionPolicy", "1.36", "upgrade the chart"],
        ),
        (
            POLICY,
            (404, not_found("stepgate-hold")),
            &[
                "MutatingAdmissionPolicy stepgate-hold is not there",
                "hold.enabled=true",
            ],
        ),
        (
            BINDING,
            (404, not_found("stepgate-hold")),
            &[
                "MutatingAdmissionPolicyBinding stepgate-hold is not there",
                "hold.enabled=true",
            ],
        ),
        (
            BINDING,
            (200, other),
            &["MutatingAdmissionPolicyBinding stepgate-hold binds other"],
        ),
        (
            POLICY,
            lists("[\"jane@example.com\"]"),
            &["does not let the operator's own user", USER, "hold.additionalOperators"],
        ),
        // A longer name that begins as ours does is another user.
        (
            POLICY,
            lists(&format!("[\"{USER}-2\"]")),
            &["does not let the operator's own user"],
        ),
    ];
    for (path, answer, words) in cases {
        let server = installed();
        server.lock().unwrap().objects.insert(path.into(), answer);
        let said = first(&server).await.unwrap();
        for words in words {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_no_is_asked_again_soon_then_every_minute_and_clears() {
    let server = installed();
    let gone = server.lock().unwrap().objects.remove(POLICY).unwrap();
    let check = HoldCheck::begin(client(&server), "stepgate-hold").await;
    let mut answers = check.answers();
    assert!(answers.borrow_and_update().is_some());
    let task = tokio::spawn(check.run());
    let begin = Instant::now();
    let asked = || {
        server
            .lock()
            .unwrap()
            .seen
            .iter()
            .filter(|seen| seen.contains("policies/"))
            .count()
    };
    while begin.elapsed() < Duration::from_mins(10) {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    // After 5, 15, 35, 75 s, and then each minute.
    assert!((11..=14).contains(&asked()), "{}", asked());
    assert!(!answers.has_changed().unwrap());
    server.lock().unwrap().objects.insert(POLICY.into(), gone);
    answers.changed().await.unwrap();
    assert_eq!(*answers.borrow_and_update(), None);
    // And what is there is asked for no more than every ten minutes.
    let (before, begin) = (asked(), Instant::now());
    while begin.elapsed() < Duration::from_mins(9) {
        advance(Duration::from_secs(1)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(asked(), before);
    server.lock().unwrap().objects.remove(POLICY);
    answers.changed().await.unwrap();
    assert!(answers.borrow_and_update().is_some());
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_not_a_no() {
    let server = installed();
    let check = HoldCheck::begin(client(&server), "stepgate-hold").await;
    let answers = check.answers();
    server
        .lock()
        .unwrap()
        .objects
        .insert(POLICY.into(), (500, json!("broken")));
    let task = tokio::spawn(check.run());
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_mins(25) {
        advance(Duration::from_secs(10)).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(*answers.borrow(), None);
    assert!(server.lock().unwrap().seen.len() > 4);
    task.abort();
    // At the start there is no last answer: nothing is managed before one comes.
    let said = first(&server).await.unwrap();
    assert!(
        said.contains("whether mutatingadmissionpolicies/stepgate-hold is in place"),
        "{said}"
    );
}
