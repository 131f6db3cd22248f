//! The Lease as it is read and written. Pure but for the time stamps, which are for people and for other implementations.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::LeaseOptions;

impl LeaseOptions {
    /// The Lease as held by us from now on; everything else of it stays.
    pub(super) fn held(&self, mut lease: Lease, number: i32, acquired: Timestamp) -> Lease {
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.lease.as_secs()).ok(),
            acquire_time: Some(MicroTime(acquired)),
            renew_time: Some(MicroTime(Timestamp::now())),
            lease_transitions: Some(number),
            ..lease.spec.unwrap_or_default()
        });
        lease
    }

    /// Whether we hold it in this term.
    pub(super) fn is_ours(&self, lease: &Lease, term: i32) -> bool {
        holder(lease) == self.identity && transitions(lease) == term
    }

    /// How long a Lease has to be seen unchanged before it is taken: as long as its holder says, and never less than we would have it.
    pub(super) fn patience(&self, lease: &Lease) -> Duration {
        let theirs = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let theirs = theirs.and_then(|seconds| u64::try_from(seconds).ok());
        self.lease.max(Duration::from_secs(theirs.unwrap_or(0)))
    }
}

/// The Lease without a holder, as client-go leaves it: any candidate may take it at once.
pub(super) fn released(lease: &Lease) -> Lease {
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

pub(super) fn holder(lease: &Lease) -> &str {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default()
}

pub(super) fn is_free(lease: &Lease) -> bool {
    holder(lease).is_empty()
}

pub(super) fn transitions(lease: &Lease) -> i32 {
    lease
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_transitions)
        .unwrap_or_default()
}

/// Clocks that are no further apart than this are the same: a stamp of the API server has whole seconds, and a write takes its time.
const SAME: SignedDuration = SignedDuration::from_secs(5);

/// How far the holder's clock was ahead of the API server's when it wrote the Lease last, by the stamps of both; none where the API server
/// keeps no record of who wrote which field.
fn ahead(lease: &Lease) -> Option<SignedDuration> {
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    let entries = lease.metadata.managed_fields.as_ref()?;
    let stored = entries.iter().find_map(|entry| {
        let fields = entry.fields_v1.as_ref()?;
        fields.0.pointer("/f:spec/f:renewTime")?;
        entry.time.as_ref()
    })?;
    Some(renewed.duration_since(stored.0))
}

/// How far our clock is ahead of that of the holder before us, as far as it can be known and is not the same.
pub(super) fn apart(before: &Lease, ours: &Lease) -> Option<SignedDuration> {
    let apart = ahead(ours)?.saturating_sub(ahead(before)?);
    (apart.abs() > SAME).then_some(apart)
}

/// Since the holder before us last wrote, by its clock and ours, which may be known to be apart: good enough to shift deadlines, and nothing
/// else hangs on it.
pub(super) fn unseen(lease: &Lease, apart: Option<SignedDuration>) -> Duration {
    let renewed = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.renew_time.as_ref())
        .map(|time| time.0);
    renewed
        .map_or(SignedDuration::ZERO, |at| Timestamp::now().duration_since(at))
        .saturating_sub(apart.unwrap_or_default())
        .try_into()
        .unwrap_or_default()
}
