//! The user's HTTPRoute: in a run nothing of it changes but weights, the canary's backendRef and the run annotation, and afterwards it
//! is byte by byte what it was. Every version of it that the API server ever had is looked at.

#[cfg(test)]
mod route {
    mod beside;
    mod imitation;
    mod parents;
    mod rollouts;
    mod untouched;
    mod versions;
}
