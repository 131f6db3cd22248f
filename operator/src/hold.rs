//! Whether a managed Deployment would be held, and whether the operator itself may un-pause one: asked at the start, and again from
//! time to time, for what is missing may come and what is there may go.
//!
//! Reads the hold policy, its binding, and the operator's own user name; writes nothing. No answer is not a no: the last one stands.

use std::time::Duration;

use http::Request;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use serde_json::Value;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

/// The API group of admission policies.
const GROUP: &str = "admissionregistration.k8s.io";
/// Its versions with MutatingAdmissionPolicy, the newest first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];
const POLICIES: &str = "mutatingadmissionpolicies";
const BINDINGS: &str = "mutatingadmissionpolicybindings";
/// The match condition of the policy that lists the users who are let through.
const CONDITION: &str = "not-the-operator";
/// The longest that one question may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often it is asked at the start before the first answer is waited for no longer.
const FIRST_TRIES: u32 = 3;
/// How soon it is asked again after a no, at first; doubled with each.
const SOON: Duration = Duration::from_secs(5);
/// How often it is asked while the answer is no.
const WHILE_MISSING: Duration = Duration::from_mins(1);
/// How often it is asked while the answer is yes.
const WHILE_THERE: Duration = Duration::from_mins(10);

/// Asks whether the hold is in place.
pub struct HoldCheck {
    client: Client,
    policy: String,
    said: watch::Sender<Option<String>>,
}

/// What was found under a name.
enum Found {
    At(Value),
    Absent,
    /// The API server has no such kind in this version.
    NotServed,
}

impl HoldCheck {
    /// Asks for the first time about the policy of this name.
    pub async fn begin(client: Client, policy: &str) -> Self {
        let check = Self {
            client,
            policy: policy.to_owned(),
            said: watch::Sender::new(None),
        };
        for _ in 0..FIRST_TRIES {
            match check.ask().await {
                Ok(answer) => {
                    check.say(answer);
                    return check;
                }
                Err(why) => check.say(Some(format!("whether {why}; it is asked again"))),
            }
        }
        check
    }

    /// Why no Deployment would be held; none where the hold is in place.
    pub fn answers(&self) -> watch::Receiver<Option<String>> {
        self.said.subscribe()
    }

    /// Asks again and again, and never ends.
    pub async fn run(self) {
        let mut soon = SOON;
        loop {
            if self.said.borrow().is_none() {
                soon = SOON;
                sleep(WHILE_THERE).await;
            } else {
                sleep(soon).await;
                soon = (soon * 2).min(WHILE_MISSING);
            }
            match self.ask().await {
                Ok(answer) => self.say(answer),
                Err(why) => warn!("it is not known whether {why}"),
            }
        }
    }

    fn say(&self, answer: Option<String>) {
        let policy = &self.policy;
        self.said.send_if_modified(|said| {
            if *said == answer {
                return false;
            }
            if let Some(why) = &answer {
                warn!(policy, "no Deployment would be held, so nothing is managed: {why}");
            } else {
                info!(policy, "the hold is in place again");
            }
            *said = answer;
            true
        });
    }

    /// Why no Deployment would be held, or what could not be found out, to complete "whether".
    async fn ask(&self) -> Result<Option<String>, String> {
        let policy = &self.policy;
        let Some((version, found)) = self.served().await? else {
            return Ok(Some(format!(
                "this API server has no MutatingAdmissionPolicy (v1 from Kubernetes 1.36; v1beta1 with its feature gate and \
                 --runtime-config={GROUP}/v1beta1=true); enable it, then upgrade the chart, which installs {policy}"
            )));
        };
        let install = "install it: helm upgrade with hold.enabled=true";
        let Some(found) = found else {
            return Ok(Some(format!(
                "MutatingAdmissionPolicy {policy} is not there; {install}"
            )));
        };
        let Found::At(binding) = self.get(version, BINDINGS).await? else {
            return Ok(Some(format!(
                "MutatingAdmissionPolicyBinding {policy} is not there, without which the policy of that name does nothing; {install}"
            )));
        };
        let bound = binding.pointer("/spec/policyName").and_then(Value::as_str);
        if bound != Some(policy) {
            return Ok(Some(format!(
                "MutatingAdmissionPolicyBinding {policy} binds {} and not the policy {policy}; {install}",
                bound.unwrap_or("nothing")
            )));
        }
        let user = self.user().await?;
        Ok((!lets_through(&found, &user)).then(|| {
            format!(
                "MutatingAdmissionPolicy {policy} does not let the operator's own user {user} through, so it could un-pause nothing; add \
                 that user to the chart's value hold.additionalOperators, or run the operator as one that its match condition \
                 {CONDITION} lists"
            )
        }))
    }

    /// The version that is served, and the policy where it is there. None where no version is served.
    async fn served(&self) -> Result<Option<(&'static str, Option<Value>)>, String> {
        for version in VERSIONS {
            match self.get(version, POLICIES).await? {
                Found::At(policy) => return Ok(Some((version, Some(policy)))),
                Found::Absent => return Ok(Some((version, None))),
                Found::NotServed => {}
            }
        }
        Ok(None)
    }

    async fn get(&self, version: &str, resource: &str) -> Result<Found, String> {
        let failed = |why: &dyn std::fmt::Display| format!("{resource}/{} is in place: {why}", self.policy);
        let path = format!("/apis/{GROUP}/{version}/{resource}/{}", self.policy);
        let request = Request::get(path).body(Vec::new()).map_err(|error| failed(&error))?;
        match timeout(DEADLINE, self.client.request(request)).await {
            Ok(Ok(object)) => Ok(Found::At(object)),
            // The answer about an object names it; that about a kind which is not served is no Status at all.
            Ok(Err(kube::Error::Api(answer))) if answer.code == 404 => {
                let named = answer
                    .details
                    .as_ref()
                    .is_some_and(|details| details.name == self.policy);
                Ok(if named { Found::Absent } else { Found::NotServed })
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(late) => Err(failed(&late)),
        }
    }

    /// The name that the API server knows the operator by.
    async fn user(&self) -> Result<String, String> {
        let failed = |why: &dyn std::fmt::Display| format!("the hold lets the operator's own user through: {why}");
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let review = SelfSubjectReview {
            metadata: ObjectMeta::default(),
            status: None,
        };
        let answer = match timeout(DEADLINE, reviews.create(&PostParams::default(), &review)).await {
            Ok(answer) => answer.map_err(|error| failed(&error))?,
            Err(late) => return Err(failed(&late)),
        };
        let user = answer.status.and_then(|status| status.user_info);
        user.and_then(|user| user.username)
            .ok_or_else(|| failed(&"the API server named no user"))
    }
}

/// Whether the policy leaves the writes of this user alone: its match condition lists the name as a CEL string.
fn lets_through(policy: &Value, user: &str) -> bool {
    let conditions = policy.pointer("/spec/matchConditions").and_then(Value::as_array);
    let expression = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.get("name").and_then(Value::as_str) == Some(CONDITION))
        .and_then(|condition| condition.get("expression")?.as_str());
    expression.is_some_and(|expression| {
        [format!("\"{user}\""), format!("'{user}'")]
            .iter()
            .any(|listed| expression.contains(listed))
    })
}
