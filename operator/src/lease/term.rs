//! Leadership in words: whose Lease, for how long, and what can become of it.

use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;
use tokio::time::Instant;

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

    pub(super) fn check(&self) -> Result<(), LeaseError> {
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

    /// namespace/name, for messages.
    pub(super) fn label(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
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
    /// The clock of the leader before was another one than ours: its times mean nothing here.
    pub clocks_differ: bool,
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
