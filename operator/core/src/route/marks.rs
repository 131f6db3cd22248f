//! The annotation by which a route says whose run it is in: `<run>.<intent>`, one for each Rollout in a run, with a space between.

use stepgate_crds::status::Run;

use crate::input::RouteView;

/// The mark that a route carries for a run's present intent.
pub fn mark(run: &Run) -> String {
    format!("{}.{}", run.id, run.seq)
}

/// What the runs of a Rollout of this uid begin with.
pub fn mark_prefix(uid: &str) -> String {
    uid.chars().take(8).collect()
}

/// The mark on a route of the same Rollout as `mark` is. The annotation holds one for each Rollout in a run, with a space between.
pub fn own_mark<'r>(route: &'r RouteView, mark: &str) -> Option<&'r str> {
    marks(route).find(|other| rollout_of(other) == rollout_of(mark))
}

/// The marks of other Rollouts.
pub(super) fn others_marks<'r>(route: &'r RouteView, mark: &str) -> Vec<&'r str> {
    marks(route)
        .filter(|other| rollout_of(other) != rollout_of(mark))
        .collect()
}

fn marks(route: &RouteView) -> impl Iterator<Item = &str> {
    route.run.iter().flat_map(|run| run.split_whitespace())
}

/// What all marks of one Rollout begin with: see [`mark_prefix`].
fn rollout_of(mark: &str) -> &str {
    mark.split_once('-').map_or(mark, |(rollout, _)| rollout)
}

/// Whether a mark is one of this run's, whatever the intent.
pub fn is_mark_of_run(mark: &str, run: &Run) -> bool {
    mark.rsplit_once('.').is_some_and(|(id, _)| id == run.id)
}

/// The intent that a mark of this run speaks of, where it is a later one than the run's.
pub fn later_intent(mark: &str, run: &Run) -> Option<i32> {
    let (id, intent) = mark.rsplit_once('.')?;
    let intent: i32 = intent.parse().ok()?;
    (id == run.id && intent > run.seq && intent < i32::MAX).then_some(intent)
}
