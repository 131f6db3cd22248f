//! The operator as a library: the thin shell around `stepgate-core`.
//!
//! How an event becomes a patch: [`operate`] puts watch events into [`world`] and a queue; [`reconcile`] takes a Rollout from it,
//! lets [`observe`] gather the core's `Input`, calls `next`, and lets [`execute`] carry the plan out.

pub mod args;
pub mod execute;
pub mod hold;
pub mod kinds;
pub mod lease;
pub mod mirror;
pub mod observe;
pub mod operate;
pub mod promql;
pub mod provider;
pub mod reconcile;
pub mod run;
pub mod serve;
pub mod source;
pub mod telemetry;
pub mod world;
