//! The invariants by their numbers, and where each is checked.

use std::fmt;

/// One invariant: of safety, on every write; or of liveness, once faults have stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The n-th of safety.
    Safety(u8),
    /// The n-th of liveness.
    Liveness(u8),
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Safety(number) => write!(formatter, "S{number}"),
            Self::Liveness(number) => write!(formatter, "L{number}"),
        }
    }
}

/// The n-th rule of safety.
pub const fn safety(number: u8) -> Rule {
    Rule::Safety(number)
}

/// The n-th rule of liveness.
pub const fn liveness(number: u8) -> Rule {
    Rule::Liveness(number)
}

/// All rules that are held against stored versions in every run of a plan, each with one deliberate bug that it finds.
pub const RULES: [(Rule, &str); 24] = [
    (
        safety(1),
        "managed weights are percentages that sum to 100; before and after, the rule is the user's",
    ),
    (safety(2), "a rise goes to the weight of the run's step"),
    (safety(3), "the next step is preceded by a Pass or a person's word"),
    (
        safety(4),
        "no rise without ready canary endpoints, no fall while stable has none and the canary has",
    ),
    (safety(5), "no backend goes before weight 0 was accepted for the drain"),
    (
        safety(6),
        "a Pass rests on requests that were counted since the weight was accepted",
    ),
    (safety(7), "after an abort nothing rises"),
    (safety(8), "every write carries what it was decided on"),
    (safety(9), "the user's part of the route stays as it is"),
    (safety(10), "a route write follows a commit of the same intent"),
    (safety(11), "at rest nothing more is written"),
    (
        safety(12),
        "no Pass while the newest answer of the source cannot be read",
    ),
    (safety(13), "what one Rollout manages, no other one touches"),
    (safety(14), "replicas of the user's Deployment are never written"),
    (
        safety(15),
        "no secret and no reply's body in status, Events, logs and metrics",
    ),
    (safety(16), "no panic"),
    (
        safety(17),
        "status has at most 16 KiB, 4 at rest; at most steps + 6 Events a run",
    ),
    (
        safety(18),
        "the same intervals give the same evidence, whoever folds them and in whatever portions",
    ),
    (safety(19), "while the Deployment rolls, nothing sends traffic to it"),
    (safety(20), "no older intent takes effect after a newer one"),
    (liveness(1), "a course comes to the end that is asked for"),
    (liveness(2), "the way back begins at once"),
    (
        liveness(4),
        "a Rollout that is refused does not hold up the one beside it",
    ),
    (liveness(5), "a deletion ends"),
];

/// A rule that stored versions cannot show, and where it is held.
#[derive(Clone, Copy, Debug)]
pub struct Elsewhere {
    /// The rule.
    pub rule: Rule,
    /// What it says.
    pub says: &'static str,
    /// The tests that hold it.
    pub held: &'static [&'static str],
    /// The test that sees it broken.
    pub broken: &'static str,
}

/// The rules that one run of a plan cannot show.
pub const ELSEWHERE: [Elsewhere; 1] = [Elsewhere {
    rule: liveness(3),
    says: "every state has a deadline, or says what a person has to do",
    held: &["every_state_ends_by_itself_or_says_what_a_person_has_to_do"],
    broken: "of_a_state_that_waits_for_nobody",
}];
