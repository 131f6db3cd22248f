//! As many inputs as are asked for: 10,000 that are the same each time, or `STEPGATE_FUZZ_CASES` others.

use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngSeed, TestRunner};

/// Runs a target on so many inputs.
pub(crate) fn fuzz<S: Strategy>(inputs: S, target: impl Fn(S::Value)) {
    let asked = std::env::var("STEPGATE_FUZZ_CASES").ok();
    let config = Config {
        cases: asked
            .as_ref()
            .map_or(10_000, |cases| cases.parse().expect("STEPGATE_FUZZ_CASES is a number")),
        rng_seed: if asked.is_some() {
            RngSeed::Random
        } else {
            RngSeed::Fixed(11)
        },
        failure_persistence: None,
        ..Config::default()
    };
    let ran = TestRunner::new(config).run(&inputs, |input| {
        target(input);
        Ok(())
    });
    if let Err(error) = ran {
        panic!("{error}");
    }
}
