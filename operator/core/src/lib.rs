//! Stepgate's decisions: what follows from the world as it was observed, without I/O, clock, async or panics.
//!
//! Start at [`next::next`].

pub mod apart;
pub mod canary;
pub mod command;
pub mod hold;
pub mod input;
pub mod limits;
pub mod mend;
pub mod next;
pub mod object;
pub mod plan;
pub mod preflight;
pub mod recovery;
pub mod rehearsal;
pub mod report;
pub mod rest;
pub mod route;
pub mod side;
pub mod state;
pub mod template;
pub mod verdict;

pub use input::{Input, Seen};
pub use limits::Limits;
pub use next::next;
pub use plan::{Act, Effect, Kind, Need, Plan, Wake};
