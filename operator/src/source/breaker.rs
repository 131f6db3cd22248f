//! When a source may be asked: as often as anybody wants while it answers, and now and then after it has failed again and again.
//!
//! Pure: it is told the time. Closed, it lets every question through. After some failures in a row it opens, and for a while nobody asks; then
//! one question is let through to see (half open), and by its answer the source is asked by all again, or left alone twice as long.
//! What a source says of one query (that it cannot evaluate it) is an answer: the source is well.

use std::time::{Duration, Instant};

/// So many failures in a row open it.
const PATIENCE: u32 = 5;
/// How long it stays open first.
const FIRST: Duration = Duration::from_secs(1);
/// How long it stays open at most.
const LONGEST: Duration = Duration::from_secs(30);

/// Whether a question may be asked now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leave {
    /// Yes, by anybody.
    Ask,
    /// Yes, by the one who is told this, and by nobody else until it is known how it went.
    Probe,
    /// No, for so long.
    Wait(Duration),
}

/// The state of one source.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: u32,
    open: Option<Open>,
    /// How long the next opening lasts.
    next: Duration,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    /// When somebody was let through to see.
    probe: Option<Instant>,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            failures: 0,
            open: None,
            next: FIRST,
        }
    }

    /// Whether a question may be asked at this time. A probe of which nothing was heard within `lost` counts as lost, and another may go.
    pub(super) fn leave(&mut self, now: Instant, lost: Duration) -> Leave {
        let Some(open) = &mut self.open else {
            return Leave::Ask;
        };
        let until = open.probe.map_or(open.until, |probe| probe + lost);
        match until.checked_duration_since(now) {
            Some(wait) if !wait.is_zero() => Leave::Wait(wait),
            _ => {
                open.probe = Some(now);
                Leave::Probe
            }
        }
    }

    /// It can be reached; whether it answers questions about counts is not known.
    pub(super) fn reached(&mut self) {
        self.failures = 0;
        self.open = None;
    }

    /// It answered a question about counts.
    pub(super) fn answered(&mut self) {
        self.reached();
        self.next = FIRST;
    }

    /// It did not answer.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let probed = self.open.as_ref().is_some_and(|open| open.probe.is_some());
        // Others who asked before it opened may come back later; they do not make it wait longer.
        if probed || (self.open.is_none() && self.failures >= PATIENCE) {
            self.open = Some(Open {
                until: now + self.next,
                probe: None,
            });
            self.next = self.next.saturating_mul(2).min(LONGEST);
        }
    }

    /// Whether questions are held back.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST: Duration = Duration::from_secs(10);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn open(now: Instant) -> Breaker {
        let mut breaker = Breaker::new();
        for _ in 0..PATIENCE {
            assert_eq!(breaker.leave(now, LOST), Leave::Ask);
            breaker.failed(now);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_lets_one_through_to_see() {
        let now = Instant::now();
        let mut breaker = open(now);
        assert!(breaker.is_open());
        assert_eq!(breaker.leave(now, LOST), Leave::Wait(FIRST));
        let later = now + FIRST;
        assert_eq!(breaker.leave(later, LOST), Leave::Probe);
        assert_eq!(breaker.leave(later, LOST), Leave::Wait(LOST));
        breaker.answered();
        assert!(!breaker.is_open());
        assert_eq!(breaker.leave(later, LOST), Leave::Ask);
    }

    #[test]
    fn an_answer_between_failures_keeps_it_closed() {
        let now = Instant::now();
        let mut breaker = Breaker::new();
        for _ in 0..10 {
            for _ in 1..PATIENCE {
                breaker.failed(now);
            }
            breaker.answered();
        }
        assert!(!breaker.is_open());
    }

    #[test]
    fn each_failed_probe_doubles_the_wait_up_to_a_bound() {
        let mut now = Instant::now();
        let mut breaker = open(now);
        for wait in [1, 2, 4, 8, 16, 30, 30, 30] {
            assert_eq!(breaker.leave(now, LOST), Leave::Wait(seconds(wait)));
            now += seconds(wait);
            assert_eq!(breaker.leave(now, LOST), Leave::Probe);
            breaker.failed(now);
        }
        breaker.answered();
        let mut again = open(now);
        assert_eq!(again.leave(now, LOST), Leave::Wait(FIRST));
    }

    #[test]
    fn a_source_that_can_be_reached_and_answers_no_query_waits_longer_each_time() {
        let mut now = Instant::now();
        let mut breaker = open(now);
        for wait in [1, 2, 4, 8] {
            assert_eq!(breaker.leave(now, LOST), Leave::Wait(seconds(wait)));
            now += seconds(wait);
            assert_eq!(breaker.leave(now, LOST), Leave::Probe);
            breaker.reached();
            for _ in 0..PATIENCE {
                assert_eq!(breaker.leave(now, LOST), Leave::Ask);
                breaker.failed(now);
            }
        }
    }

    #[test]
    fn failures_of_those_who_asked_before_do_not_make_it_wait_longer() {
        let now = Instant::now();
        let mut breaker = open(now);
        for _ in 0..50 {
            breaker.failed(now);
        }
        assert_eq!(breaker.leave(now + FIRST, LOST), Leave::Probe);
    }

    #[test]
    fn a_probe_of_which_nothing_is_heard_is_followed_by_another() {
        let now = Instant::now();
        let mut breaker = open(now);
        assert_eq!(breaker.leave(now + FIRST, LOST), Leave::Probe);
        assert_eq!(breaker.leave(now + FIRST + LOST, LOST), Leave::Probe);
    }
}
