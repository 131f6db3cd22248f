//! The operator as a library.

pub mod lease;
pub mod provider;
pub mod serve;
pub mod source;
pub mod telemetry;
