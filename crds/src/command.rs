//! A person's command to a run: the JSON in the annotation `stepgate.dev/command`, written by the plugin and cleared by the operator.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a person asks for.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Go on to the next step without waiting for evidence or approval.
    Promote,
    /// Take all traffic back to stable and end the run as failed.
    Abort,
    /// Try a failed version again.
    Retry,
    /// Stay at the present weight until somebody resumes.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Put stable's template back in place of the version that failed.
    Undo,
}

impl Verb {
    /// The verb as it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promote => "promote",
            Self::Abort => "abort",
            Self::Retry => "retry",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Undo => "undo",
        }
    }
}

/// One command, addressed to one run at one step: a command that was meant for another is refused.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Command {
    /// What to do.
    pub verb: Verb,
    /// The run it is meant for (`status.run.id`; for `retry` and `undo` the failed run's, `status.failed.run`).
    pub run: String,
    /// The step it is meant for, counted from 1. Needed by `promote` alone: the others mean the run wherever it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// With `promote`: skip all steps that are left.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// Tells this command from an earlier one with the same words.
    pub nonce: String,
}
