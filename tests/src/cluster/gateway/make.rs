//! A gateway of any make, started for one test in its namespace; its programs end with the test.

use anyhow::Result;

use super::{Gateway, OWN_GATEWAY, envoy_gateway, traefik};
use crate::cluster::namespace::Namespace;
use crate::cluster::process::Process;
use crate::cluster::prometheus::Counters;

/// Who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Make {
    /// Contour, with an Envoy.
    Contour,
    /// Traefik, one program.
    Traefik,
    /// Envoy Gateway, with an Envoy.
    EnvoyGateway,
}

impl Make {
    /// The name of its Gateway.
    pub fn gateway(self) -> &'static str {
        match self {
            Self::Contour => OWN_GATEWAY,
            Self::Traefik => traefik::NAME,
            Self::EnvoyGateway => envoy_gateway::NAME,
        }
    }
}

/// A gateway that runs until this is dropped.
#[derive(Debug)]
pub struct OwnGateway {
    /// Where its listener answers, without a slash at the end.
    pub url: String,
    /// Where it counts.
    pub counters: Counters,
    _programs: Programs,
}

#[derive(Debug)]
#[expect(dead_code, reason = "they are held, and end when they are dropped")]
enum Programs {
    Contour(Box<Gateway>),
    One(Box<Process>),
}

impl OwnGateway {
    /// Makes the Gateway and starts its programs; comes back when they serve. One of Contour at a time.
    pub async fn start(make: Make, namespace: &Namespace) -> Result<Self> {
        match make {
            Make::Contour => {
                let gateway = Gateway::start(namespace).await?;
                Ok(Self {
                    url: gateway.url(),
                    counters: Counters::of_envoy(gateway.stats_port()),
                    _programs: Programs::Contour(Box::new(gateway)),
                })
            }
            Make::Traefik => traefik::start(namespace).await,
            Make::EnvoyGateway => envoy_gateway::start(namespace).await,
        }
    }

    pub(super) fn of_one(url: String, counters: Counters, program: Process) -> Self {
        Self {
            url,
            counters,
            _programs: Programs::One(Box::new(program)),
        }
    }
}
