//! Leadership of one process by a Lease of `coordination.k8s.io`.
//!
//! Another holder's time stamps are never compared with our clock: a lease has run out when it was seen unchanged for its whole duration, on
//! our monotonic clock. Every write carries the resourceVersion that it was decided on. A leader that could not renew for
//! `renew_deadline`, which is less than the lease's duration, says so before anyone else can lead; the caller then ends the process. The
//! Kubernetes client's own retry has to be off, or a write could land late.

mod record;
mod term;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use record::{apart, holder, is_free, released, transitions, unseen};
pub use term::{Leadership, LeaseError, LeaseOptions, Term};

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

/// A Lease that we have come to hold.
struct Claimed {
    lease: Lease,
    /// The time before which it was written.
    renewed: Instant,
    /// How long nobody had led before.
    absent: Duration,
    /// How far our clock is ahead of that of the holder before us, where they differ.
    apart: Option<SignedDuration>,
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
                Ok(Some(Claimed {
                    lease,
                    renewed,
                    absent,
                    apart,
                })) => {
                    let number = transitions(&lease);
                    let deadline = renewed + self.options.renew_deadline;
                    let term = Term {
                        number,
                        since: Timestamp::now(),
                        absent,
                        clocks_differ: apart.is_some(),
                        deadline,
                    };
                    tracing::info!(lease = %self.options.label(), term = number, absent = absent.as_secs(), "leading");
                    if let Some(apart) = apart {
                        let seconds = apart.as_secs();
                        tracing::warn!(
                            seconds,
                            "the clock of the leader before was another one: what its runs wait for begins anew"
                        );
                    }
                    self.state.send_replace(Leadership::Leader(term));
                    return (lease, renewed);
                }
                Ok(None) => complaint.clear(),
                Err(reason) => {
                    if reason != complaint {
                        tracing::warn!(lease = %self.options.label(), "cannot try to lead: {reason}");
                        complaint = reason;
                    }
                }
            }
            sleep(self.pause(sighting.as_ref())).await;
        }
    }

    /// How long until the next look: no longer than until the Lease may be taken.
    fn pause(&self, sighting: Option<&Sighting>) -> Duration {
        let left = sighting.map(|seen| {
            let free = seen.at + self.options.patience(&seen.lease);
            free.saturating_duration_since(Instant::now())
        });
        let retry = self.options.retry;
        left.filter(|left| !left.is_zero())
            .map_or(retry, |left| left.min(retry))
    }

    /// One look at the Lease, and one write if it is free.
    async fn attempt(&self, sighting: &mut Option<Sighting>) -> Result<Option<Claimed>, String> {
        let name = self.options.name.as_str();
        let found = match self.bounded(self.api.get(name)).await {
            Ok(lease) => lease,
            Err(Failure::NotFound) => {
                *sighting = None;
                let metadata = ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                };
                let lease = self.options.held(Lease { metadata, spec: None }, 1, Timestamp::now());
                let created = self.claim(self.api.create(&PostParams::default(), &lease)).await?;
                return Ok(created.map(|(lease, renewed)| Claimed {
                    lease,
                    renewed,
                    absent: Duration::ZERO,
                    apart: None,
                }));
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
        if !is_free(&seen.lease) && now.duration_since(seen.at) < self.options.patience(&seen.lease) {
            return Ok(None);
        }
        let number = transitions(&seen.lease).saturating_add(1);
        let lease = self.options.held(seen.lease.clone(), number, Timestamp::now());
        let claimed = self
            .claim(self.api.replace(name, &PostParams::default(), &lease))
            .await?;
        Ok(claimed.map(|(lease, renewed)| {
            let apart = apart(&seen.lease, &lease);
            let absent = if seen.fresh {
                now.duration_since(seen.at)
            } else {
                unseen(&seen.lease, apart)
            };
            Claimed {
                lease,
                renewed,
                absent,
                apart,
            }
        }))
    }

    async fn claim(
        &self,
        write: impl Future<Output = kube::Result<Lease>>,
    ) -> Result<Option<(Lease, Instant)>, String> {
        let before = Instant::now();
        match self.bounded(write).await {
            Ok(lease) => Ok(Some((lease, before))),
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
                        lease: self.options.label(),
                        holder,
                    };
                }
                Ok((_, Err(failure))) => {
                    tracing::warn!(lease = %self.options.label(), "cannot renew: {failure}");
                    reason = failure;
                }
                Err(_) => {
                    let seconds = self.options.renew_deadline.as_secs_f64();
                    return LeaseError::Lost {
                        lease: self.options.label(),
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
            let next = self.options.held(
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
                Ok(found) if self.options.is_ours(&found, transitions(lease)) => *lease = found,
                Ok(found) if is_free(&found) => return Ok(Renewal::Taken("nobody".to_owned())),
                Ok(found) => return Ok(Renewal::Taken(holder(&found).to_owned())),
                Err(Failure::NotFound) => return Ok(Renewal::Taken("nobody, it was deleted".to_owned())),
                Err(failure) => return Err(failure.reason().to_owned()),
            }
        }
        Err("others write it all the time".to_owned())
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
                    tracing::info!(lease = %self.options.label(), "released");
                    return;
                }
                // A renewal that was under way may have landed.
                Err(Failure::Conflict) => match self.bounded(self.api.get(name)).await {
                    Ok(found) if self.options.is_ours(&found, term) => lease = found,
                    _ => return,
                },
                Err(failure) => {
                    tracing::warn!(lease = %self.options.label(), "could not be released: {}", failure.reason());
                    return;
                }
            }
        }
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
