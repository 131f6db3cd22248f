//! Why a request had no effect, or is not known to have had one, and what to do about it.

use thiserror::Error;

use super::REQUEST_DEADLINE;

/// Why a request had no effect, or is not known to have had one.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The API server said no.
    #[error("{verb} {what}: {source}")]
    Refused {
        /// What was asked for.
        verb: &'static str,
        /// On which object.
        what: String,
        /// The answer.
        #[source]
        source: Box<kube::Error>,
    },
    /// Somebody else's object has the name.
    #[error("{what} is there already and was not made by this Rollout; rename or remove it")]
    Taken {
        /// The object.
        what: String,
    },
    /// No answer in time: it may still take effect.
    #[error("{verb} {what}: no answer within {REQUEST_DEADLINE:?}")]
    Late {
        /// What was asked for.
        verb: &'static str,
        /// On which object.
        what: String,
    },
    /// This process does not lead any more.
    #[error("{verb} {what}: this process does not lead any more")]
    NotLeading {
        /// What was not asked for.
        verb: &'static str,
        /// On which object.
        what: String,
    },
}

/// What to do after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The world has moved on: read it again, at once.
    Conflict,
    /// Try again, with growing patience.
    Transient,
    /// We may not: an administrator has to act.
    Forbidden,
    /// What we asked for is refused for what it is.
    Invalid,
}

impl RequestError {
    /// What to do after it.
    pub fn class(&self) -> Class {
        match self {
            Self::Refused { source, .. } => match source.as_ref() {
                kube::Error::Api(status) if matches!(status.code, 404 | 409 | 410) => Class::Conflict,
                // A JSON Patch whose test failed is answered 422 without a word about which.
                kube::Error::Api(status) if status.code == 422 => Class::Invalid,
                kube::Error::Api(status) if matches!(status.code, 401 | 403) => Class::Forbidden,
                _ => Class::Transient,
            },
            Self::Taken { .. } => Class::Invalid,
            Self::Late { .. } | Self::NotLeading { .. } => Class::Transient,
        }
    }

    /// A word for metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Refused { .. } => match self.class() {
                Class::Conflict => "conflict",
                Class::Invalid => "invalid",
                Class::Forbidden => "forbidden",
                Class::Transient => "error",
            },
            Self::Taken { .. } => "taken",
            Self::Late { .. } => "timeout",
            Self::NotLeading { .. } => "not_leading",
        }
    }

    /// The HTTP status of the answer, where there was one.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Taken { .. } | Self::Late { .. } | Self::NotLeading { .. } => None,
        }
    }
}

pub(super) fn refused(verb: &'static str, what: &str, source: kube::Error) -> RequestError {
    RequestError::Refused {
        verb,
        what: what.to_owned(),
        source: Box::new(source),
    }
}
