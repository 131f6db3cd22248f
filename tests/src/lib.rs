//! A real control plane for tests, demo and benchmarks: the local cluster, the stand-in node and the load generator.
//!
//! Everything runs as plain processes inside one network namespace that the program `local-cluster` makes; what is in here attaches to
//! it by the folder that `STEPGATE_CLUSTER` names. Nothing in here reaches beyond that namespace.

pub mod cluster;
pub mod demo;
pub mod faults;
pub mod gitops;
pub mod holding;
pub mod interceptor;
pub mod load;
pub mod node;
pub mod operator;
pub mod record;
pub mod refusal;
pub mod scene;
pub mod shop;
pub mod states;
pub mod storm;
pub mod until;
