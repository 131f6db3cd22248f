//! Recovery: a paused Deployment does not heal itself. Whatever takes stable's pods away while a new version is held, stable serves again,
//! the failed version never starts, and nobody writes against a GitOps tool that goes on applying its manifest.

#[cfg(test)]
mod recovery {
    mod anew;
    mod lost;
    mod older;
    mod scaled;
    mod watching;
}
