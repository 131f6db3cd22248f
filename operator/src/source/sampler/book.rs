//! What was read for one run and not yet used, shared by the task that reads and the passes that use it.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use stepgate_core::input::SourceHealth;
use stepgate_core::verdict::Interval;
use tokio::sync::Notify;

use super::Snapshot;
use super::feed::Problem;

/// What the task of a run and its passes share.
#[derive(Debug)]
pub(super) struct Book {
    pages: Mutex<Pages>,
    /// Told when `from` moves.
    pub(super) moved: Notify,
}

#[derive(Debug)]
pub(super) struct Pages {
    from: i64,
    pub(super) intervals: VecDeque<Interval>,
    health: SourceHealth,
    /// The kind of trouble that `health` tells of.
    trouble: Option<&'static str>,
}

impl Book {
    /// Empty, for intervals that end after `from`.
    pub(super) fn new(from: i64) -> Self {
        let pages = Pages {
            from,
            intervals: VecDeque::new(),
            health: SourceHealth::Untried,
            trouble: None,
        };
        Self {
            pages: Mutex::new(pages),
            moved: Notify::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let pages = self.pages();
        Snapshot {
            intervals: pages.intervals.iter().cloned().collect(),
            health: pages.health.clone(),
        }
    }

    /// The source answers; true where that is news.
    pub(super) fn answers(&self) -> bool {
        let mut pages = self.pages();
        pages.trouble = None;
        std::mem::replace(&mut pages.health, SourceHealth::Answers) != SourceHealth::Answers
    }

    /// The source does not answer; true where that, or the kind of trouble, is news. The first failure's time stays.
    pub(super) fn fails(&self, problem: &Problem) -> bool {
        let mut pages = self.pages();
        let since = match &pages.health {
            SourceHealth::Down { since, .. } => *since,
            SourceHealth::Untried | SourceHealth::Answers => jiff::Timestamp::now().into(),
        };
        pages.health = SourceHealth::Down {
            since,
            kind: problem.kind,
            why: problem.message.clone(),
        };
        pages.trouble.replace(problem.label) != Some(problem.label)
    }

    pub(super) fn pages(&self) -> MutexGuard<'_, Pages> {
        lock(&self.pages)
    }

    pub(super) fn forget_through(&self, from: i64) {
        let mut pages = self.pages();
        if from > pages.from {
            pages.from = from;
            while pages.intervals.front().is_some_and(|interval| interval.end <= from) {
                pages.intervals.pop_front();
            }
            drop(pages);
            self.moved.notify_one();
        }
    }
}

impl Pages {
    /// Whether nothing that ends after `from` has been thrown away.
    pub(super) fn reaches_back_to(&self, from: i64) -> bool {
        self.from <= from
    }

    /// The end of the first interval that is missing: on the grid, after the last that was read, or after `from`.
    pub(super) fn next_end(&self, interval: i64) -> i64 {
        let last = self.intervals.back().map_or(self.from, |read| read.end).max(self.from);
        last.div_euclid(interval).saturating_add(1).saturating_mul(interval)
    }
}

/// The lock, also after a panic elsewhere: every change under it is complete.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
