//! No state waits for ever and asks nobody: where nothing comes from outside any more, it ends by a deadline, or says what a person has to do.

use stepgate_crds::{RolloutStatus, status::Phase};

use super::states::STATES;

/// Longer than any deadline, in seconds.
const FOREVER: i64 = 3 * 3_600;

/// What is wrong with a Rollout that stands so for ever.
fn asks(status: &RolloutStatus) -> Result<(), String> {
    let (phase, message) = (status.phase, status.message.as_deref().unwrap_or_default());
    if status.run.is_none() && matches!(phase, Some(Phase::Healthy | Phase::Failed | Phase::Suspended)) {
        return Ok(());
    }
    let mut conditions = status.conditions.iter();
    let stalled = conditions.find(|one| one.type_ == "Stalled" && one.status == "True");
    // A pause that a person asked for is none that anything stalls in: how to end it is said all the same.
    let says = stalled.map_or(message.contains("kubectl stepgate"), |stalled| {
        !stalled.message.is_empty() && !message.is_empty()
    });
    if stalled.is_none() && phase != Some(Phase::Paused) {
        return Err(format!("{phase:?} has no deadline and is not stalled: {message}"));
    }
    if says {
        Ok(())
    } else {
        Err(format!("{phase:?} says nothing to a person: {message}"))
    }
}

#[test]
fn every_state_ends_by_itself_or_says_what_a_person_has_to_do() {
    let mut wrong = Vec::new();
    for state in STATES {
        let mut simulator = (state.enter)();
        let begin = simulator.cluster.now;
        while simulator.cluster.now - begin < FOREVER && asks(&simulator.status()).is_err() {
            simulator.tick();
        }
        if let Err(why) = asks(&simulator.status()) {
            wrong.push(format!("{}: {why}", state.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn of_a_state_that_waits_for_nobody() {
    let state = STATES.iter().find(|state| state.name == "Returning").unwrap();
    let mut simulator = (state.enter)();
    simulator.run_for(FOREVER);
    let status = simulator.status();
    assert_eq!(asks(&status), Ok(()));
    let mut silent = status.clone();
    silent.conditions.retain(|one| one.type_ != "Stalled");
    assert!(
        asks(&silent)
            .unwrap_err()
            .contains("has no deadline and is not stalled")
    );
    let mut speechless = status;
    speechless.message = None;
    assert!(asks(&speechless).unwrap_err().contains("says nothing to a person"));
}
