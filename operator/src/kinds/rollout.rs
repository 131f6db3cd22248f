//! Rollouts as the watch brings them: read, or told why they cannot be.
//!
//! A Rollout is read strictly, for it is acted upon: a state or a reason that this version does not know must not be taken for another.
//! One that cannot be read stops no other, is not managed, and is never written to, so that nothing of its status is lost; what it
//! lays claim to stays its own.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash, Hasher},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, ResourceExt};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use stepgate_core::{input::ClaimView, report::short};
use stepgate_crds::{
    Rollout, RolloutSpec, RolloutStatus, names, rollout::RouteReference, status::Note, units::Timestamp,
};

use super::{Raw, items, text};

/// Largest status that is read, in bytes: four times what the operator ever writes.
const LARGEST_STATUS: usize = 65_536;
/// Longest command that is read, in bytes: ten times what one has.
const LONGEST_COMMAND: usize = 4_096;
/// From here on an f64 does not hold every integer.
const EXACT: i64 = 9_007_199_254_740_992;
/// Most of anything that a status counts one by one.
const LARGEST_COUNT: i32 = 1_000_000_000;
/// Most routes of a Rollout: the schema's.
const MOST_ROUTES: usize = 8;

/// A Rollout as the watch brings it.
#[derive(Clone, Debug)]
pub enum Watched {
    /// It was read.
    Read(Box<Rollout>),
    /// It could not be.
    Unreadable(Box<Unreadable>),
}

/// A Rollout that this version cannot read.
#[derive(Clone, Debug)]
pub struct Unreadable {
    metadata: ObjectMeta,
    /// The part that cannot be read.
    pub part: Part,
    /// The field, and what is wrong with it.
    pub why: String,
    /// What it lays claim to, as far as that can be told.
    pub claim: Option<ClaimView>,
}

/// A part of a Rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the user wrote.
    Spec,
    /// What was committed.
    Status,
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Value::deserialize(deserializer).map(Self::of)
    }
}

impl Watched {
    /// The Rollout in this JSON.
    fn of(object: Value) -> Self {
        let status = object.get("status").unwrap_or(&Value::Null);
        let size = size(status);
        if size > LARGEST_STATUS {
            let why = format!("status: {size} bytes, and the operator writes at most 16,384");
            return Self::unreadable(object, Part::Status, why);
        }
        match serde_path_to_error::deserialize::<_, Rollout>(&object) {
            Ok(mut rollout) => {
                if let Some(field) = implausible(status, rollout.status.as_ref()) {
                    let why = format!("{field}: a number that the operator does not write");
                    return Self::unreadable(object, Part::Status, why);
                }
                trim(&mut rollout);
                Self::Read(Box::new(rollout))
            }
            Err(error) => {
                let spec = object.get("spec").unwrap_or(&Value::Null);
                let status_reads = status.is_null() || RolloutStatus::deserialize(status).is_ok();
                let part = if status_reads && RolloutSpec::deserialize(spec).is_err() {
                    Part::Spec
                } else {
                    Part::Status
                };
                let why = short(&format!("{}: {}", error.path(), error.inner()));
                Self::unreadable(object, part, why)
            }
        }
    }

    fn unreadable(object: Value, part: Part, why: String) -> Self {
        Self::Unreadable(Box::new(Unreadable::of(object, part, why)))
    }
}

impl Unreadable {
    fn of(object: Value, part: Part, why: String) -> Self {
        let raw = Raw(object);
        Self {
            claim: claim(&raw),
            metadata: raw.metadata(),
            part,
            why,
        }
    }

    /// The Event that says so, and what to do. Its name is the same for the same mistake, whichever process finds it.
    pub fn note(&self) -> Note {
        let (reason, what, mend) = match self.part {
            Part::Status => (
                "StatusUnreadable",
                "status",
                "run the version of Stepgate that wrote it; or, where no run is under way (the route gives the canary no weight), \
                 remove the status with `kubectl patch --subresource=status --type=json -p '[{\"op\":\"remove\",\"path\":\"/status\"}]'`, \
                 and it is found anew",
            ),
            Part::Spec => (
                "SpecUnreadable",
                "spec",
                "run a version of Stepgate that knows this field, or take it back",
            ),
        };
        let mut hasher = DefaultHasher::new();
        (self.uid(), &self.why).hash(&mut hasher);
        Note {
            id: format!("unreadable-{:x}", hasher.finish()),
            warning: true,
            reason: reason.to_owned(),
            text: format!(
                "this version of Stepgate cannot read the {what} ({}): nothing of this Rollout is managed or written until it can, \
                 weights stay as they are, and a deletion waits; {mend}",
                self.why
            ),
        }
    }
}

/// A number that cannot have been counted: the first such field. The schema knows only how wide it is, and whoever calculates with it
/// would have to look out at every step.
fn implausible(written: &Value, status: Option<&RolloutStatus>) -> Option<&'static str> {
    let status = status?;
    if !is_counted(written) {
        return Some("status");
    }
    let counts = |fields: &[(&'static str, i32)]| {
        let bad = fields.iter().find(|(_, number)| !(0..=LARGEST_COUNT).contains(number));
        bad.map(|(name, _)| *name)
    };
    let of_status = counts(&[
        ("status.revisions", status.revisions),
        ("status.weight", status.weight.unwrap_or(0)),
    ]);
    if let (None, Some(run)) = (of_status, &status.run) {
        let in_steps = |step: i32| usize::try_from(step).is_ok_and(|step| step < run.spec.steps.len());
        let percent = |weight: i32| (0..=100).contains(&weight);
        let force = run.in_force.as_ref();
        let share = run.spec.phi.is_finite() && run.spec.phi >= 0.0;
        return counts(&[
            ("status.run.seq", run.seq),
            ("status.run.base", run.base),
            ("status.run.pauseHours", run.pause_hours),
            ("status.run.retreats.all", run.retreats.all),
            ("status.run.retreats.podsLost", run.retreats.pods_lost),
            ("status.run.retreats.silent", run.retreats.silent),
            ("status.run.retreats.noData", run.retreats.no_data),
            ("status.run.retreats.inconclusive", run.retreats.inconclusive),
        ])
        .or_else(|| (!in_steps(run.step)).then_some("status.run.step"))
        .or_else(|| (!percent(run.weight)).then_some("status.run.weight"))
        .or_else(|| (!percent(run.accepted_weight)).then_some("status.run.acceptedWeight"))
        .or_else(|| {
            force
                .is_some_and(|force| !percent(force.weight))
                .then_some("status.run.inForce.weight")
        })
        .or_else(|| (!share).then_some("status.run.spec.phi"));
    }
    of_status
}

/// Whether every whole number of it is one that can be counted up to.
fn is_counted(value: &Value) -> bool {
    match value {
        Value::Number(number) => {
            number.is_f64() || number.as_i64().is_some_and(|number| (-EXACT..EXACT).contains(&number))
        }
        Value::Array(items) => items.iter().all(is_counted),
        Value::Object(fields) => fields.values().all(is_counted),
        Value::Null | Value::Bool(_) | Value::String(_) => true,
    }
}

/// What it lays claim to, as `ClaimView::of` has it.
fn claim(raw: &Raw) -> Option<ClaimView> {
    let (spec, status) = (raw.body("spec"), raw.body("status"));
    let run = status.get("run").filter(|run| run.is_object());
    let found = status.get("found").filter(|found| found.is_object());
    let service = |name: &str| text(found?, name);
    let (stable_service, canary_service) = (service("stableService")?, service("canaryService").unwrap_or_default());
    let held = run.and_then(|run| run.get("spec")).or_else(|| spec.get("traffic"));
    let routes = held.into_iter().flat_map(|held| items(held, "routes"));
    let created = text(raw.body("metadata"), "creationTimestamp").and_then(|time| time.parse().ok());
    Some(ClaimView {
        name: raw.name(),
        created: created.unwrap_or(Timestamp::from_millis(0)),
        in_run: run.is_some(),
        stable_service,
        canary_service,
        routes: routes
            .filter_map(|route| RouteReference::deserialize(route).ok())
            .take(MOST_ROUTES)
            .collect(),
    })
}

/// Takes off what no decision reads: a manifest in an annotation is the user's to keep, and the API server keeps it in every write of ours.
pub fn trim(rollout: &mut Rollout) {
    let metadata = &mut rollout.metadata;
    metadata.managed_fields = None;
    metadata.labels = None;
    metadata.owner_references = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, text| {
            // One that is longer is none of ours, cut or not.
            text.truncate(text.floor_char_boundary(LONGEST_COMMAND));
            name == names::COMMAND
        });
    }
}

/// About as many bytes as its JSON has.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 4,
        Value::Number(_) => 8,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::Object(fields) => {
            fields
                .iter()
                .map(|(name, field)| name.len() + size(field) + 4)
                .sum::<usize>()
                + 2
        }
    }
}

/// Each is a Rollout, whether it can be read or not.
macro_rules! resource {
    ($type:ty) => {
        impl Resource for $type {
            type DynamicType = ();
            type Scope = kube::core::NamespaceResourceScope;

            fn kind((): &()) -> Cow<'_, str> {
                Rollout::kind(&())
            }
            fn group((): &()) -> Cow<'_, str> {
                Rollout::group(&())
            }
            fn version((): &()) -> Cow<'_, str> {
                Rollout::version(&())
            }
            fn plural((): &()) -> Cow<'_, str> {
                Rollout::plural(&())
            }
            fn meta(&self) -> &ObjectMeta {
                self.metadata()
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                self.metadata_mut()
            }
        }
    };
}

resource!(Watched);
resource!(Unreadable);

impl Watched {
    fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Read(rollout) => &rollout.metadata,
            Self::Unreadable(unreadable) => &unreadable.metadata,
        }
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Read(rollout) => &mut rollout.metadata,
            Self::Unreadable(unreadable) => &mut unreadable.metadata,
        }
    }
}

impl Unreadable {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
