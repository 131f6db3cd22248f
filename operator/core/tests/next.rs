//! What the core decides, against a small world in memory: objects as JSON behind an API server's rules, with a Deployment
//! controller, a gateway, endpoints and counts that follow a script.
//!
//! `lives`, `latency`, `mishaps` and `strangers` run whole rollouts, `crashes` kills the operator at every write of one, `invariants`
//! does all of it at random, `exhaustive` searches every interleaving of a small one; each write of each of them is checked against the
//! safety rules (`fixtures::checker`), which `rules` breaks one by one. `lost`, `drift`, `clockwork`, `waiting`, `making` and
//! `letting_go` go through the forms of single rules, `late` is about a status that is read late, `baseline` about what is read before
//! a run, `patience` is what follows from waiting. `behaviour` lives through every event in every state, as `docs/behaviour.md` says.
//! `steps`, `commands`, `ends`, `rest`, `routes`, `preflight` and `apart` are tables over single decisions, `golden` is what is written,
//! byte by byte.

#[cfg(test)]
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
mod decisions {
    mod apart;
    mod baseline;
    mod behaviour;
    mod budget;
    mod clockwork;
    mod commands;
    mod crashes;
    mod deadlines;
    mod drift;
    mod edges;
    mod ends;
    mod exhaustive;
    mod explain;
    mod fields;
    mod golden;
    mod invariants;
    mod late;
    mod latency;
    mod letting_go;
    mod lives;
    mod lost;
    mod making;
    mod mishaps;
    mod objects;
    mod own;
    mod parents;
    mod patience;
    mod preflight;
    mod rest;
    mod routes;
    mod rules;
    mod steps;
    mod strangers;
    mod trickle;
    mod waiting;
}
