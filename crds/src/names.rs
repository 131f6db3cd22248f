//! The labels and annotations by which Stepgate marks objects. One place, so that operator, plugin, chart and tests agree.

/// Label on a managed Deployment (its only mark at rest): the name of its Rollout.
pub const ROLLOUT: &str = "stepgate.dev/rollout";
/// Annotation that the hold policy puts on a Deployment whose template changed: `waiting`, or `released` by a person.
pub const HOLD: &str = "stepgate.dev/hold";
/// Label of canary pods, and annotation of the route in a run: which run they belong to.
pub const RUN: &str = "stepgate.dev/run";
/// Label of the canary's Deployment and Service: the uid of the Rollout.
pub const CANARY_OF: &str = "stepgate.dev/canary-of";
/// Label of recorded `PodTemplate`s: the uid of the Rollout.
pub const TEMPLATE_OF: &str = "stepgate.dev/template-of";
/// Annotation on a Rollout: a command of a person.
pub const COMMAND: &str = "stepgate.dev/command";
/// The finalizer of a Rollout.
pub const FINALIZER: &str = "stepgate.dev/traffic";
/// The field manager of all our writes, and the reporting controller of our Events.
pub const MANAGER: &str = "stepgate";
