//! Numbers and times of the demo as people read them. Pure.

use std::time::Duration;

use crate::load::Answers;

/// `m:ss` since the beginning, six characters wide.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{:>3}:{:02}", seconds / 60, seconds % 60)
}

/// A whole number with its thousands apart: `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `part` of `whole` in percent; none of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^53")]
pub fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 * 100.0 / whole as f64)
}

/// Errors of a version as its clients saw them: those made on purpose and all others.
pub fn errors(answers: Answers) -> u64 {
    answers.injected + answers.failed
}

/// What was counted between two looks.
pub fn between(then: Answers, now: Answers) -> Answers {
    Answers {
        total: now.total.saturating_sub(then.total),
        injected: now.injected.saturating_sub(then.injected),
        failed: now.failed.saturating_sub(then.failed),
        over_capacity: now.over_capacity.saturating_sub(then.over_capacity),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!([999, 1_000, 1_234_567].map(grouped), ["999", "1,000", "1,234,567"]);
        assert_eq!(clock(Duration::from_secs(125)), "  2:05");
        assert_eq!(percent(1, 0), None);
        assert_eq!(percent(1, 8), Some(12.5));
    }
}
