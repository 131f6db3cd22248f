//! GitOps: another manager that applies the user's manifests again and again. Where it takes the managed weights back it is obeyed a few
//! times and then named; with the settings of `docs/gitops.md` it disturbs nothing.

#[cfg(test)]
mod gitops {
    mod brake;
    mod settings;
    mod watching;
    mod workload;
}
