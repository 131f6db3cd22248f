//! Every interleaving of a small instance: two steps, two pods, two operators that may both believe that they lead, each with one request
//! under way for as long as the search likes. Each write that takes effect keeps the safety rules (`fixtures::checker`), and from each world
//! that is reached the run comes to the rest that is asked for once nothing goes wrong any more.
//!
//! What may go wrong is bounded by each instance's [`Budget`]. Pairs of faults are looked at only for their first worlds:
//! `make exhaustive` searches all of them, which takes an hour or more (`STEPGATE_EXHAUSTIVE_STATES` is the bound of every search), or with
//! `ONLY=people` those alone that have this in their name (`STEPGATE_EXHAUSTIVE_ONLY`). `bugs` shows that the search can fail.

mod beginning;
mod bugs;
mod ends;
mod key;
mod requests;
mod search;
mod world;

use beginning::{Beginning, begin, limits};
use ends::{has_failed, is_at_rest, is_back, is_promoted};
use search::{Happening, Instance, search};
use world::{Budget, Rules, World};

/// What is asked for in a world in which nothing moves any more.
type Asked = fn(&World) -> Result<(), String>;

fn instance(
    name: &'static str,
    beginning: Beginning,
    errors: f64,
    budget: Budget,
    happenings: &'static [Happening],
    is_asked_for: Asked,
) -> Instance {
    let simulator = begin(beginning, errors);
    Instance {
        name,
        world: World::new(simulator.cluster, simulator.checker, budget),
        rules: Rules {
            limits: limits(),
            decide: stepgate_core::next,
            rebases: false,
        },
        happenings,
        is_asked_for,
    }
}

const ABORT: &[Happening] = &[Happening {
    name: "a person aborts",
    happens: |world| world.command("abort", false),
}];

/// What else people do to a run.
const OTHERS: &[Happening] = &[
    Happening {
        name: "a person promotes fully",
        happens: |world| world.command("promote", true),
    },
    Happening {
        name: "the Rollout is deleted",
        happens: |world| {
            world.change(|cluster| cluster.api.delete("Rollout", "checkout"));
        },
    },
];

/// The same, with what begins another run or takes longer.
const MORE: &[Happening] = &[
    Happening {
        name: "a person promotes",
        happens: |world| world.command("promote", false),
    },
    OTHERS[0],
    OTHERS[1],
    Happening {
        name: "a newer version is shipped",
        happens: |world| {
            world.change(|cluster| cluster.ship("v3"));
        },
    },
    Happening {
        name: "the old version is put back",
        happens: |world| {
            world.change(|cluster| cluster.ship("v1"));
        },
    },
];

#[expect(
    clippy::disallowed_methods,
    reason = "a person asks for a larger search, and no decision rests on it"
)]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<usize> {
    let text = text(name)?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text}, and should be a number")),
    )
}

/// Searches all of it, and says how much there was.
fn run(instance: &Instance) {
    run_within(instance, usize::MAX);
}

/// The same within so many worlds, where nobody asks for another number.
#[expect(clippy::disallowed_methods, reason = "how long it took is only told")]
fn run_within(instance: &Instance, most: usize) {
    let most = number("STEPGATE_EXHAUSTIVE_STATES").unwrap_or(most);
    let begun = std::time::Instant::now();
    let visited = search(instance, most).unwrap_or_else(|why| panic!("{why}"));
    println!(
        "{}: {} worlds, {} transitions, {} ends, {}, {:.1} s",
        instance.name,
        visited.states,
        visited.transitions,
        visited.ends,
        if visited.complete { "complete" } else { "cut short" },
        begun.elapsed().as_secs_f32()
    );
    assert!(visited.ends > 0 || !visited.complete, "no end was reached");
}

const NONE: Budget = Budget {
    crashes: 0,
    lost: 0,
    elections: 0,
    stale: 0,
    slow: 0,
    happenings: 0,
};
const CRASH: Budget = Budget { crashes: 1, ..NONE };
const LOST: Budget = Budget { lost: 1, ..NONE };
const STALE: Budget = Budget { stale: 1, ..NONE };
const SLOW: Budget = Budget { slow: 1, ..NONE };
const TWO_LEADERS: Budget = Budget { elections: 1, ..NONE };
const PERSON: Budget = Budget { happenings: 1, ..NONE };

#[test]
fn a_good_version_is_promoted_whatever_goes_wrong() {
    use Beginning::Shipped;
    run(&instance("promotion, a crash", Shipped, 0.0, CRASH, &[], is_promoted));
    run(&instance(
        "promotion, two leaders",
        Beginning::Stepping,
        0.0,
        TWO_LEADERS,
        &[],
        is_promoted,
    ));
    run(&instance(
        "promotion, a lost request",
        Shipped,
        0.0,
        LOST,
        &[],
        is_promoted,
    ));
    run(&instance(
        "promotion, a stale view",
        Shipped,
        0.0,
        STALE,
        &[],
        is_promoted,
    ));
    run(&instance(
        "promotion, a slow leader",
        Shipped,
        0.0,
        SLOW,
        &[],
        is_promoted,
    ));
}

#[test]
fn a_bad_version_fails_whatever_goes_wrong() {
    use Beginning::Stepping;
    run(&instance("rollback, a crash", Stepping, 0.3, CRASH, &[], has_failed));
    run(&instance(
        "rollback, a lost request",
        Stepping,
        0.3,
        LOST,
        &[],
        has_failed,
    ));
    run(&instance(
        "rollback, a stale view",
        Stepping,
        0.3,
        STALE,
        &[],
        has_failed,
    ));
    run(&instance(
        "rollback, two leaders",
        Stepping,
        0.3,
        TWO_LEADERS,
        &[],
        has_failed,
    ));
}

#[test]
fn an_abort_ends_at_stable_whenever_it_comes() {
    run(&instance("abort", Beginning::Shipped, 0.0, PERSON, ABORT, is_back));
    let lost = Budget { lost: 1, ..PERSON };
    run(&instance(
        "abort, a lost request",
        Beginning::Stepping,
        0.0,
        lost,
        ABORT,
        is_back,
    ));
}

#[test]
fn whatever_a_person_does_the_run_comes_to_rest() {
    run(&instance(
        "people",
        Beginning::Stepping,
        0.0,
        PERSON,
        OTHERS,
        is_at_rest,
    ));
}

/// Two leaders from the beginning of a promotion, and pairs of faults: the first worlds of each, and all of them where that is asked for.
#[test]
fn more_goes_wrong() {
    let abort = |budget: Budget| Budget {
        happenings: 1,
        ..budget
    };
    let all = [
        (
            "promotion, two crashes",
            Beginning::Shipped,
            Budget { crashes: 2, ..NONE },
            NOBODY,
            is_promoted as Asked,
        ),
        (
            "promotion, a crash and a lost request",
            Beginning::Shipped,
            Budget { lost: 1, ..CRASH },
            NOBODY,
            is_promoted,
        ),
        (
            "promotion, two leaders from its beginning",
            Beginning::Shipped,
            TWO_LEADERS,
            NOBODY,
            is_promoted,
        ),
        (
            "promotion, two leaders and a lost request",
            Beginning::Shipped,
            Budget { lost: 1, ..TWO_LEADERS },
            NOBODY,
            is_promoted,
        ),
        (
            "promotion, two leaders and a stale view",
            Beginning::Shipped,
            Budget {
                stale: 1,
                ..TWO_LEADERS
            },
            NOBODY,
            is_promoted,
        ),
        ("abort, a crash", Beginning::Prepared, abort(CRASH), ABORT, is_back),
        ("abort, a lost request", Beginning::Shipped, abort(LOST), ABORT, is_back),
        (
            "abort, two leaders",
            Beginning::Prepared,
            abort(TWO_LEADERS),
            ABORT,
            is_back,
        ),
        (
            "abort, two leaders, one with a stale view",
            Beginning::Stepping,
            abort(Budget {
                stale: 1,
                ..TWO_LEADERS
            }),
            ABORT,
            is_back,
        ),
        ("people, a crash", Beginning::Stepping, abort(CRASH), OTHERS, is_at_rest),
        (
            "people, a lost request",
            Beginning::Stepping,
            abort(LOST),
            MORE,
            is_at_rest,
        ),
        (
            "people, two leaders",
            Beginning::Stepping,
            abort(TWO_LEADERS),
            MORE,
            is_at_rest,
        ),
    ];
    let only = text("STEPGATE_EXHAUSTIVE_ONLY").unwrap_or_default();
    for (name, beginning, budget, happenings, asked) in all.into_iter().filter(|(name, ..)| name.contains(&only)) {
        run_within(&instance(name, beginning, 0.0, budget, happenings, asked), GLANCE);
    }
}

/// So many worlds of each pair are looked at every time.
const GLANCE: usize = 300;

const NOBODY: &[Happening] = &[];
