//! Turns a decision into what a person and `kubectl wait` read: phase, message, conditions, Events. And decides when numbers alone
//! are worth a write.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use stepgate_crds::{
    RolloutStatus,
    status::{Note, Phase},
    units::Timestamp,
};

use crate::{
    input::Input,
    plan::{Plan, Wake},
    state,
};

/// Most bytes of a message. It stands in `status` up to seven times, which has at most 4 KiB at rest.
const LONGEST: usize = 500;

/// Most bytes of a status in a run with the queries of its metrics, which are left out where they do not fit. It has at most 16 KiB, and
/// the answer to a command is still to come.
const MOST: usize = 15 * 1_024;

/// Most bytes of a status at rest with the counts of the last run, which are left out where they do not fit: it has at most 4 KiB.
const MOST_AT_REST: usize = 4_000;

/// What is to be said of a Rollout now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Where it is.
    pub phase: Phase,
    /// One word for conditions: what it waits for, or why it cannot go on.
    pub reason: &'static str,
    /// In words and numbers.
    pub message: String,
    /// Whether only a person (or a repair of the world) can help.
    pub stalled: bool,
    /// Whether a person would want to see this reason at once, and not with the next refresh.
    pub urgent: bool,
}

impl Said {
    /// Something that passes by itself.
    pub fn passing(phase: Phase, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            phase,
            reason,
            message: message.into(),
            stalled: false,
            urgent: false,
        }
    }

    /// Something that a person should see at once.
    pub fn urgent(phase: Phase, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            urgent: true,
            ..Self::passing(phase, reason, message)
        }
    }

    /// Something that does not pass by itself.
    pub fn stalled(phase: Phase, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            stalled: true,
            ..Self::urgent(phase, reason, message)
        }
    }
}

/// The status with everything that is derived from its state brought up to date.
pub fn say(mut status: RolloutStatus, input: &Input<'_>, said: &Said) -> RolloutStatus {
    status.observed_generation = Some(input.rollout.generation);
    status.phase = Some(said.phase);
    let edited = status.run.is_some()
        && status
            .found
            .as_ref()
            .is_some_and(|found| found.generation != input.rollout.generation);
    status.message = Some(if edited {
        format!(
            "{}; the spec was edited: the edit goes for the next run",
            short(&said.message)
        )
    } else {
        short(&said.message)
    });
    status.step = status.run.as_ref().map(|run| {
        format!(
            "{}/{}",
            (run.step + 1).min(i32::try_from(run.spec.steps.len()).unwrap_or(i32::MAX)),
            run.spec.steps.len()
        )
    });
    status.weight = status.run.as_ref().map(|run| run.accepted_weight);
    if let Some(run) = &mut status.run {
        run.refreshed = input.now;
    }
    // At most one of the three holds: kstatus takes what is reconciling to be on its way, stalled or not.
    let ready = said.phase == Phase::Healthy && !said.stalled;
    let at_rest = matches!(
        said.phase,
        Phase::Healthy | Phase::Failed | Phase::Blocked | Phase::Suspended
    );
    let reconciling = !at_rest && !said.stalled;
    for (kind, holds) in [
        ("Ready", ready),
        ("Reconciling", reconciling),
        ("Stalled", said.stalled),
    ] {
        set_condition(&mut status.conditions, kind, holds, said, input);
    }
    fit(&mut status);
    status
}

/// Leaves out what can be spared: the counts of the last run, what the user's own queries are asked as, the queries of the metrics, from the
/// last on, and at last what is told of the user's own queries.
fn fit(status: &mut RolloutStatus) {
    let most = if status.run.is_some() { MOST } else { MOST_AT_REST };
    let fits = |status: &RolloutStatus| serde_json::to_string(status).is_ok_and(|text| text.len() <= most);
    let has_counts = status.history.first().is_some_and(|past| past.counts.is_some());
    if has_counts
        && !fits(status)
        && let Some(past) = status.history.first_mut()
    {
        past.counts = None;
    }
    let own = status.run.as_ref().map_or(0, |run| run.queries.len());
    for at in (0..own).rev() {
        if fits(status) {
            return;
        }
        if let Some(query) = status.run.as_mut().and_then(|run| run.queries.get_mut(at)) {
            query.asked = None;
        }
    }
    let metrics = status.run.as_ref().map_or(0, |run| run.metrics.len());
    for at in (0..metrics).rev() {
        if fits(status) {
            return;
        }
        if let Some(metric) = status.run.as_mut().and_then(|run| run.metrics.get_mut(at)) {
            metric.query = None;
        }
    }
    // What is wrong with each query stands in the evidence, too.
    if !fits(status)
        && let Some(run) = &mut status.run
    {
        run.queries.clear();
    }
}

/// A status to be committed, with an Event where there is something to tell.
pub fn commit(mut status: RolloutStatus, input: &Input<'_>, said: &Said, note: Option<Note>) -> Plan {
    if note.is_some() {
        status.note = note;
    }
    Plan::Commit(Box::new(say(status, input, said)))
}

/// An Event's content; its id is unique by the time of the decision.
pub fn note(input: &Input<'_>, warning: bool, reason: &str, text: impl Into<String>) -> Note {
    Note {
        id: format!("{:x}", input.now.as_millis()),
        warning,
        reason: reason.to_owned(),
        text: short(&text.into()),
    }
}

/// Waits, and writes what changed first where it is worth a write: at once for what a person would want to see, else once in
/// `Limits::refresh` (and as much later as `Limits::refresh_slack` where nothing else wakes it); that a new leader has taken the run over,
/// as soon as it has read what there is to count. `status` is the committed one with the newest numbers.
pub fn wait(status: RolloutStatus, input: &Input<'_>, said: &Said, mut wake: Wake) -> Plan {
    let committed = &input.rollout.status;
    let told = say(status, input, said);
    if same(&told, committed) {
        return Plan::Wait(wake);
    }
    let reason = |status: &RolloutStatus| condition(status, "Ready").map(|condition| condition.reason.clone());
    let calm = committed
        .run
        .as_ref()
        .is_none_or(|run| input.now >= run.refreshed.after(input.limits.calm));
    let term = |status: &RolloutStatus| status.run.as_ref().map(|run| run.term);
    let is_taken_over = term(&told) != term(committed);
    if is_taken_over && state::is_unread(input) {
        return Plan::Wait(wake);
    }
    let news = is_taken_over
        || told.phase != committed.phase
        || told.observed_generation != committed.observed_generation
        || condition(&told, "Stalled").map(|c| &c.status) != condition(committed, "Stalled").map(|c| &c.status)
        || (reason(&told) != reason(committed) && said.urgent && calm)
        || committed.run.is_none();
    let due = committed
        .run
        .as_ref()
        .map_or(input.now, |run| run.refreshed.after(input.limits.refresh));
    if news || input.now >= due {
        return Plan::Commit(Box::new(told));
    }
    let due = match &committed.run {
        Some(run) if said.urgent && reason(&told) != reason(committed) => run.refreshed.after(input.limits.calm),
        _ => due.after(input.limits.refresh_slack),
    };
    wake.at = Some(wake.at.map_or(due, |at| at.min(due)));
    Plan::Wait(wake)
}

/// A message that fits into conditions, an Event and the bounds of `status`, whatever a gateway or a server had to say.
pub fn short(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let mut end = LONGEST;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// The condition of this type.
pub fn condition<'s>(status: &'s RolloutStatus, kind: &str) -> Option<&'s Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

/// The earlier of two wakes.
pub fn earlier(one: Option<Timestamp>, other: Timestamp) -> Option<Timestamp> {
    Some(one.map_or(other, |one| one.min(other)))
}

/// Equal but for the time of writing.
fn same(one: &RolloutStatus, other: &RolloutStatus) -> bool {
    let refreshed = |status: &RolloutStatus| status.run.as_ref().map(|run| run.refreshed);
    if refreshed(one) == refreshed(other) {
        return one == other;
    }
    let mut one = one.clone();
    if let (Some(run), Some(other)) = (&mut one.run, &other.run) {
        run.refreshed = other.refreshed;
    }
    &one == other
}

fn set_condition(conditions: &mut Vec<Condition>, kind: &str, holds: bool, said: &Said, input: &Input<'_>) {
    let status = if holds { "True" } else { "False" };
    let new = |since: Time| Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: said.reason.to_owned(),
        message: short(&said.message),
        observed_generation: Some(input.rollout.generation),
        last_transition_time: since,
    };
    let now = || Time(jiff::Timestamp::from_second(input.now.as_millis().div_euclid(1_000)).unwrap_or_default());
    match conditions.iter_mut().find(|condition| condition.type_ == kind) {
        Some(condition) => {
            let since = if condition.status == status {
                condition.last_transition_time.clone()
            } else {
                now()
            };
            *condition = new(since);
        }
        None => conditions.push(new(now())),
    }
}
