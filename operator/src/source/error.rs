//! Why a metrics source gave no reply that can be read, in words for a person and in constant words for metrics.

use stepgate_crds::evidence::Trouble;
use thiserror::Error;

/// Whether asking again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// It may be over in a moment.
    Transient,
    /// The source wants credentials, or others.
    Forbidden,
    /// The query or the address is wrong; the same question gets the same answer.
    Invalid,
}

/// Why a source gave no reply that can be read. Nothing of a body is repeated but a Prometheus' own error message, shortened.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The HTTP client could not be made.
    #[error("metrics source {name}: the HTTP client cannot be set up")]
    Client {
        /// The source.
        name: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// A file of a certificate, key or secret cannot be used.
    #[error("metrics source {name}: its {what} cannot be used")]
    Credentials {
        /// The source.
        name: String,
        /// The field.
        what: &'static str,
        /// Why, with the path.
        #[source]
        source: std::io::Error,
    },
    /// No connection.
    #[error("metrics source {name} cannot be reached at {address}; check its url and that Prometheus runs")]
    Connect {
        /// The source.
        name: String,
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The connection broke, or what came was not HTTP.
    #[error("metrics source {name} broke off its reply")]
    Broken {
        /// The source.
        name: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// Not done in time.
    #[error("metrics source {name} did not answer a query within {seconds} s")]
    Timeout {
        /// The source.
        name: String,
        /// The limit.
        seconds: f64,
    },
    /// A redirect, which is not followed.
    #[error(
        "metrics source {name} redirects to another address (HTTP {status}), which is not followed; the administrator has to name that one"
    )]
    Redirect {
        /// The source.
        name: String,
        /// HTTP status.
        status: u16,
    },
    /// HTTP 401 or 403.
    #[error(
        "metrics source {name} refuses the query (HTTP {status}); the administrator has to check its token, certificate and tenant"
    )]
    Unauthorized {
        /// The source.
        name: String,
        /// HTTP status.
        status: u16,
    },
    /// Any other HTTP error without a Prometheus error in it.
    #[error("metrics source {name} answers with HTTP {status}")]
    Status {
        /// The source.
        name: String,
        /// HTTP status.
        status: u16,
    },
    /// Prometheus says what is wrong with the query.
    #[error("metrics source {name} cannot evaluate the query: {kind}: {message}")]
    Rejected {
        /// The source.
        name: String,
        /// Prometheus' errorType.
        kind: String,
        /// Prometheus' error, shortened.
        message: String,
    },
    /// More bytes than the cap.
    #[error("metrics source {name} sent more than {limit} bytes for one query; is this a Prometheus?")]
    TooLarge {
        /// The source.
        name: String,
        /// The cap.
        limit: usize,
    },
    /// Not JSON, or not Prometheus' JSON.
    #[error("metrics source {name} sent a reply that is not a Prometheus API reply ({what}); is this a Prometheus?")]
    Malformed {
        /// The source.
        name: String,
        /// What is amiss.
        what: &'static str,
    },
    /// Its clock and ours disagree.
    #[error(
        "metrics source {name}: its clock is {skew:+.1} s from this one, more than the {limit} s of one scrape; set the clocks right"
    )]
    Skew {
        /// The source.
        name: String,
        /// Source minus ours, seconds.
        skew: f64,
        /// The limit, seconds.
        limit: f64,
    },
    /// No source of that name.
    #[error(
        "no metrics source is named {name}; there are: {known}. Name one of them in spec.analysis.source, or ask the administrator to add it"
    )]
    Unknown {
        /// The name.
        name: String,
        /// Those that exist.
        known: String,
    },
}

impl SourceError {
    /// Whether asking again can help.
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::Credentials { .. }
            | Self::Connect { .. }
            | Self::Broken { .. }
            | Self::Timeout { .. }
            | Self::Status { .. }
            | Self::Malformed { .. }
            | Self::Skew { .. } => ErrorClass::Transient,
            Self::Unauthorized { .. } => ErrorClass::Forbidden,
            Self::Client { .. }
            | Self::Redirect { .. }
            | Self::Rejected { .. }
            | Self::TooLarge { .. }
            | Self::Unknown { .. } => ErrorClass::Invalid,
        }
    }

    /// Whether it says something of the source, and not of the one query alone.
    pub fn is_of_the_source(&self) -> bool {
        match self {
            // Prometheus' words for a query that it was too busy, or too broken, to evaluate.
            Self::Rejected { kind, .. } => matches!(kind.as_str(), "timeout" | "internal" | "unavailable"),
            Self::Unknown { .. } => false,
            _ => true,
        }
    }

    /// Of what kind this is for those whose intervals cannot be read.
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Client { .. } => Trouble::Unreadable,
            Self::Credentials { .. } | Self::Unauthorized { .. } => Trouble::SourceUnauthorized,
            Self::Connect { .. } | Self::Broken { .. } => Trouble::SourceUnreachable,
            Self::Timeout { .. } => Trouble::SourceTimeout,
            Self::Redirect { .. } => Trouble::SourceRedirects,
            Self::Status { .. } => Trouble::SourceFails,
            Self::Rejected { .. } if self.is_of_the_source() => Trouble::SourceFails,
            Self::Rejected { .. } => Trouble::QueryRejected,
            Self::TooLarge { .. } => Trouble::SourceReplyTooLarge,
            Self::Malformed { .. } => Trouble::SourceReplyInvalid,
            Self::Skew { .. } => Trouble::SourceClockSkew,
            Self::Unknown { .. } => Trouble::SourceUnknown,
        }
    }

    /// A constant word for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Client { .. } => "client",
            Self::Credentials { .. } => "credentials",
            Self::Connect { .. } => "connect",
            Self::Broken { .. } => "broken",
            Self::Timeout { .. } => "timeout",
            Self::Redirect { .. } => "redirect",
            Self::Unauthorized { .. } => "unauthorized",
            Self::Status { .. } => "status",
            Self::Rejected { .. } => "rejected",
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::Skew { .. } => "skew",
            Self::Unknown { .. } => "unknown",
        }
    }
}
