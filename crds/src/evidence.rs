//! Placeholder until the evidence types land (owned by the verdict).
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
/// Evidence.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
pub struct Evidence {}
