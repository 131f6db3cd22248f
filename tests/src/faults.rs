//! Faults on purpose: the operator in this process, on the real API server, with a layer in its client that loses, delays and refuses
//! requests, or ends the process, at one chosen place; and an observer that holds every write against the rules of safety.
//!
//! A plan is a workload and a few faults. The workload's course without any fault is the oracle: with them it has to come to the same end
//! by the same writes. `run` runs many at once, each in a namespace of its own.

pub mod bug;
pub mod check;
pub mod fault;
pub mod generate;
pub mod layer;
pub mod malady;
pub mod observer;
pub mod oracle;
pub mod place;
pub mod process;
pub mod proxy;
pub mod report;
pub mod run;
pub mod site;
pub mod source;
mod strike;
mod watches;
pub mod workload;
