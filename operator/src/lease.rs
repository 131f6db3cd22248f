//! Leadership of one process by a Lease of `coordination.k8s.io`.
//!
//! Another holder's time stamps are never compared with our clock: a lease has run out when it was seen unchanged for its whole duration, on
//! our monotonic clock. Every write carries the resourceVersion that it was decided on. A leader that could not renew for
//! `renew_deadline`, which is less than the lease's duration, says so before anyone else can lead; the caller then ends the process. The
//! Kubernetes client's own retry has to be off, or a write could land late.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Whose lease, and how long things last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOptions {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who we are: never the same for two processes, nor for one before and after a restart.
    pub identity: String,
    /// So long a leader is believed to lead after its last sign of life. Whole seconds.
    pub lease: Duration,
    /// So long a leader tries to renew before it gives up; below `lease`.
    pub renew_deadline: Duration,
    /// Between two tries to renew or to acquire; below `renew_deadline`.
    pub retry: Duration,
    /// For one request; below `retry`.
    pub request: Duration,
}

impl LeaseOptions {
    /// 15 s, given up after 10 s, renewed every 2 s, 1.5 s a request.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
            request: Duration::from_millis(1500),
        }
    }

    fn check(&self) -> Result<(), LeaseError> {
        let bad = |what| Err(LeaseError::Options { what });
        if self.identity.is_empty() {
            return bad("the identity is empty");
        }
        if self.lease.subsec_nanos() != 0 || i32::try_from(self.lease.as_secs()).is_err() {
            return bad("the lease's duration is not a whole number of seconds");
        }
        if self.request.is_zero() || self.request >= self.retry {
            return bad("a request may take as long as the time between two tries, or longer");
        }
        if self.retry >= self.renew_deadline {
            return bad("the time between two tries is not below the renew deadline");
        }
        if self.renew_deadline >= self.lease {
            return bad("the renew deadline is not below the lease's duration");
        }
        Ok(())
    }
}

/// Who leads, as far as this process is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// Not this process.
    Standby,
    /// This process.
    Leader(Term),
}

/// One time of leading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    /// The Lease's transitions: another number for every term.
    pub number: i32,
    /// When it began, our clock.
    pub since: Timestamp,
    /// How long nobody had led before it, as well as can be known: since the last sign of life of the leader before.
    pub absent: Duration,
    /// No write may begin after this. Moves on with every renewal, without waking whoever watches.
    pub deadline: Instant,
}

impl Leadership {
    /// Whether this process leads at this moment, also after it was stopped for a while.
    pub fn leads(&self) -> bool {
        matches!(self, Self::Leader(term) if Instant::now() < term.deadline)
    }
}

/// Why leading, or trying to, has ended.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// The durations do not fit together.
    #[error("lease options: {what}")]
    Options {
        /// What does not fit.
        what: &'static str,
    },
    /// Another process holds the Lease.
    #[error("Lease {lease}: {holder} holds it now; this process led and has to end")]
    Taken {
        /// namespace/name.
        lease: String,
        /// Who.
        holder: String,
    },
    /// Renewing failed for too long.
    #[error("Lease {lease} could not be renewed for {seconds} s ({reason}); this process led and has to end")]
    Lost {
        /// namespace/name.
        lease: String,
        /// The deadline.
        seconds: f64,
        /// The last failure.
        reason: String,
    },
}

impl LeaseError {
    /// A constant word for logs.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Options { .. } => "options",
            Self::Taken { .. } => "taken",
            Self::Lost { .. } => "lost",
        }
    }
}

/// Why one request did not do.
enum Failure {
    /// Someone else wrote in between.
    Conflict,
    /// It is not there.
    NotFound,
    /// Anything else, an unknown outcome among it.
    Other(String),
}

/// A Lease as it was first seen in this state.
struct Sighting {
    lease: Lease,
    /// When it was first seen so, our monotonic clock.
    at: Instant,
    /// It was seen to change: `at` is near the moment of the change.
    fresh: bool,
}

/// Tries to lead, and leads.
pub struct Elector {
    api: Api<Lease>,
    options: LeaseOptions,
    state: watch::Sender<Leadership>,
}

impl Elector {
    /// An elector and what it will report; it asks for nothing yet.
    pub fn new(client: Client, options: LeaseOptions) -> Result<(Self, watch::Receiver<Leadership>), LeaseError> {
        options.check()?;
        let (state, seen) = watch::channel(Leadership::Standby);
        Ok((
            Self {
                api: Api::namespaced(client, &options.namespace),
                options,
                state,
            },
            seen,
        ))
    }

    /// Waits for the Lease, holds it, and gives it back at `stop`. An error means that this process led and no longer may.
    pub async fn run(self, stop: CancellationToken) -> Result<(), LeaseError> {
        let Some((mut lease, renewed)) = stop.run_until_cancelled(self.acquire()).await else {
            return Ok(());
        };
        let ended = stop.run_until_cancelled(self.hold(&mut lease, renewed)).await;
        self.state.send_replace(Leadership::Standby);
        if let Some(error) = ended {
            return Err(error);
        }
        self.release(lease).await;
        Ok(())
    }

    /// Comes back as leader, with the Lease as written and the time before which it was written.
    async fn acquire(&self) -> (Lease, Instant) {
        let mut sighting: Option<Sighting> = None;
        let mut complaint = String::new();
        loop {
            match self.attempt(&mut sighting).await {
                Ok(Some((lease, renewed, absent))) => {
                    let number = transitions(&lease);
                    let deadline = renewed + self.options.renew_deadline;
                    let term = Term {
                        number,
                        since: Timestamp::now(),
                        absent,
                        deadline,
                    };
                    tracing::info!(lease = %self.label(), term = number, absent = absent.as_secs(), "leading");
                    self.state.send_replace(Leadership::Leader(term));
                    return (lease, renewed);
                }
                Ok(None) => complaint.clear(),
                Err(reason) => {
                    if reason != complaint {
                        tracing::warn!(lease = %self.label(), "cannot try to lead: {reason}");
                        complaint = reason;
                    }
                }
            }
            sleep(self.options.retry).await;
        }
    }

    /// One look at the Lease, and one write if it is free.
    async fn attempt(&self, sighting: &mut Option<Sighting>) -> Result<Option<(Lease, Instant, Duration)>, String> {
        let name = self.options.name.as_str();
        let found = match self.bounded(self.api.get(name)).await {
            Ok(lease) => lease,
            Err(Failure::NotFound) => {
                *sighting = None;
                let metadata = ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                };
                let lease = self.held(Lease { metadata, spec: None }, 1, Timestamp::now());
                return self
                    .claim(self.api.create(&PostParams::default(), &lease), Duration::ZERO)
                    .await;
            }
            Err(Failure::Conflict) => return Err("the API server answered a read with a conflict".to_owned()),
            Err(Failure::Other(reason)) => return Err(reason),
        };
        let now = Instant::now();
        let changed = match sighting {
            Some(before) => before.lease.metadata.resource_version != found.metadata.resource_version,
            None => true,
        };
        if changed {
            *sighting = Some(Sighting {
                lease: found,
                at: now,
                fresh: sighting.is_some(),
            });
        }
        let Some(seen) = sighting else { return Ok(None) };
        if !is_free(&seen.lease) && now.duration_since(seen.at) < self.patience(&seen.lease) {
            return Ok(None);
        }
        let absent = if seen.fresh {
            now.duration_since(seen.at)
        } else {
            unseen(&seen.lease)
        };
        let number = transitions(&seen.lease).saturating_add(1);
        let lease = self.held(seen.lease.clone(), number, Timestamp::now());
        self.claim(self.api.replace(name, &PostParams::default(), &lease), absent)
            .await
    }

    async fn claim(
        &self,
        write: impl Future<Output = kube::Result<Lease>>,
        absent: Duration,
    ) -> Result<Option<(Lease, Instant, Duration)>, String> {
        let before = Instant::now();
        match self.bounded(write).await {
            Ok(lease) => Ok(Some((lease, before, absent))),
            // Someone was faster, or an earlier write of ours has landed: it is seen at the next look, and waited out.
            Err(Failure::Conflict | Failure::NotFound) => Ok(None),
            Err(Failure::Other(reason)) => Err(reason),
        }
    }

    /// Renews until it cannot.
    async fn hold(&self, lease: &mut Lease, mut renewed: Instant) -> LeaseError {
        let mut reason = "no answer".to_owned();
        loop {
            let deadline = renewed + self.options.renew_deadline;
            let attempt = async {
                sleep(self.options.retry).await;
                let before = Instant::now();
                (before, self.renew(lease).await)
            };
            match timeout_at(deadline, attempt).await {
                Ok((before, Ok(Renewal::Done))) => {
                    renewed = before;
                    self.state.send_if_modified(|state| {
                        if let Leadership::Leader(term) = state {
                            term.deadline = renewed + self.options.renew_deadline;
                        }
                        false
                    });
                }
                Ok((_, Ok(Renewal::Taken(holder)))) => {
                    return LeaseError::Taken {
                        lease: self.label(),
                        holder,
                    };
                }
                Ok((_, Err(failure))) => {
                    tracing::warn!(lease = %self.label(), "cannot renew: {failure}");
                    reason = failure;
                }
                Err(_) => {
                    let seconds = self.options.renew_deadline.as_secs_f64();
                    return LeaseError::Lost {
                        lease: self.label(),
                        seconds,
                        reason,
                    };
                }
            }
        }
    }

    /// One renewal; a second write where something else wrote in between and the Lease is still ours: a renewal that timed out has landed, or
    /// someone labelled it.
    async fn renew(&self, lease: &mut Lease) -> Result<Renewal, String> {
        let name = self.options.name.as_str();
        let acquired = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.acquire_time.as_ref())
            .map(|time| time.0);
        for _ in 0..2 {
            let next = self.held(
                lease.clone(),
                transitions(lease),
                acquired.unwrap_or_else(Timestamp::now),
            );
            match self
                .bounded(self.api.replace(name, &PostParams::default(), &next))
                .await
            {
                Ok(written) => {
                    *lease = written;
                    return Ok(Renewal::Done);
                }
                Err(Failure::Other(reason)) => return Err(reason),
                Err(Failure::Conflict | Failure::NotFound) => {}
            }
            match self.bounded(self.api.get(name)).await {
                Ok(found) if self.is_ours(&found, transitions(lease)) => *lease = found,
                Ok(found) if is_free(&found) => return Ok(Renewal::Taken("nobody".to_owned())),
                Ok(found) => return Ok(Renewal::Taken(holder(&found).to_owned())),
                Err(Failure::NotFound) => return Ok(Renewal::Taken("nobody, it was deleted".to_owned())),
                Err(failure) => return Err(failure.reason().to_owned()),
            }
        }
        Err("others write it all the time".to_owned())
    }

    fn is_ours(&self, lease: &Lease, term: i32) -> bool {
        holder(lease) == self.options.identity && transitions(lease) == term
    }

    /// Gives the Lease back, so that the next leader need not wait. Best effort: without it the next one waits for the lease's duration.
    async fn release(&self, mut lease: Lease) {
        let (name, term) = (self.options.name.as_str(), transitions(&lease));
        for _ in 0..2 {
            match self
                .bounded(self.api.replace(name, &PostParams::default(), &released(&lease)))
                .await
            {
                Ok(_) => {
                    tracing::info!(lease = %self.label(), "released");
                    return;
                }
                // A renewal that was under way may have landed.
                Err(Failure::Conflict) => match self.bounded(self.api.get(name)).await {
                    Ok(found) if self.is_ours(&found, term) => lease = found,
                    _ => return,
                },
                Err(failure) => {
                    tracing::warn!(lease = %self.label(), "could not be released: {}", failure.reason());
                    return;
                }
            }
        }
    }

    /// The Lease as held by us from now on; everything else of it stays.
    fn held(&self, mut lease: Lease, number: i32, acquired: Timestamp) -> Lease {
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: i32::try_from(self.options.lease.as_secs()).ok(),
            acquire_time: Some(MicroTime(acquired)),
            renew_time: Some(MicroTime(Timestamp::now())),
            lease_transitions: Some(number),
            ..lease.spec.unwrap_or_default()
        });
        lease
    }

    /// How long a Lease has to be seen unchanged before it is taken: as long as its holder says, and never less than we would have it.
    fn patience(&self, lease: &Lease) -> Duration {
        let theirs = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok());
        self.options.lease.max(Duration::from_secs(theirs.unwrap_or(0)))
    }

    async fn bounded<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        match timeout(self.options.request, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Err(Failure::NotFound),
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() || status.is_already_exists() => {
                Err(Failure::Conflict)
            }
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => Err(Failure::Other(format!(
                "{}; the ServiceAccount needs get, create and update on leases",
                status.message
            ))),
            Ok(Err(error)) => Err(Failure::Other(error.to_string())),
            Err(_) => Err(Failure::Other(format!(
                "no answer within {} s",
                self.options.request.as_secs_f64()
            ))),
        }
    }

    fn label(&self) -> String {
        format!("{}/{}", self.options.namespace, self.options.name)
    }
}

enum Renewal {
    Done,
    Taken(String),
}

impl Failure {
    fn reason(&self) -> &str {
        match self {
            Self::Conflict => "it was written in between",
            Self::NotFound => "it is gone",
            Self::Other(reason) => reason,
        }
    }
}

/// The Lease without a holder, as client-go leaves it: any candidate may take it at once.
fn released(lease: &Lease) -> Lease {
    let now = MicroTime(Timestamp::now());
    let spec = LeaseSpec {
        holder_identity: Some(String::new()),
        lease_duration_seconds: Some(1),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        ..lease.spec.clone().unwrap_or_default()
    };
    Lease {
        metadata: lease.metadata.clone(),
        spec: Some(spec),
    }
}

fn holder(lease: &Lease) -> &str {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default()
}

fn is_free(lease: &Lease) -> bool {
    holder(lease).is_empty()
}

fn transitions(lease: &Lease) -> i32 {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_transitions)
        .unwrap_or_default()
}

/// Since the holder before us last wrote, by its clock and ours: good enough to shift deadlines, and nothing else hangs on it.
fn unseen(lease: &Lease) -> Duration {
    let renewed = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.renew_time.as_ref())
        .map(|time| time.0);
    renewed
        .map_or(SignedDuration::ZERO, |at| Timestamp::now().duration_since(at))
        .try_into()
        .unwrap_or_default()
}
