//! Bad input: each mistake has a condition and an Event that say what is wrong and what to do, nothing else is written (by the audit
//! log), and as soon as it is mended the Rollout is Healthy.

#[cfg(test)]
mod preflight {
    mod apart;
    mod missing;
    mod rollouts;
    mod rules;
    mod scene;
    mod shared;
    mod ways;
}
