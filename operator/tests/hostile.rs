//! What no object can do: make a decision panic, grow without bound or take long, or keep the other Rollouts from being managed.
//!
//! `guard` is about Rollouts that cannot be read, `objects` mutates the objects of a real rollout's moments at every path and reads them
//! through the narrow types, `schema` makes Rollouts out of the schema that the API server checks. `STEPGATE_FUZZ_CASES=100000` makes
//! more of them.

#[cfg(test)]
#[path = "../core/tests/fixtures"]
#[expect(dead_code, unused_imports, reason = "the core's own tests use the rest of it")]
mod fixtures {
    pub(crate) mod api;
    pub(crate) mod checker;
    pub(crate) mod cluster;
    pub(crate) mod controllers;
    pub(crate) mod observed;
    pub(crate) mod patch;
    pub(crate) mod replicas;
    pub(crate) mod simulator;
    pub(crate) mod world;
}

#[cfg(test)]
mod hostile {
    mod bounds;
    mod guard;
    mod moments;
    mod mutation;
    mod objects;
    mod schema;
}
