//! Numbers and times as people read them.

use stepgate_crds::units::{Span, Timestamp};

/// How long ago, in the one unit that matters: `45s`, `12m`, `5h`, `3d`.
pub(crate) fn ago(now: Timestamp, then: Timestamp) -> String {
    let seconds = now.since(then).as_millis() / 1_000;
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A span in whole seconds: `2m14s`.
pub(crate) fn lasted(end: Timestamp, begin: Timestamp) -> String {
    let seconds = u64::try_from(end.since(begin).as_millis() / 1_000).unwrap_or(0);
    Span::seconds(seconds).to_string()
}

/// A whole number with its thousands apart: `12,345`.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if number < 0 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The share of bad ones in percent, `0.25 %`; `–` where there was nothing.
pub(crate) fn rate(bad: i64, requests: i64) -> String {
    if requests <= 0 {
        return "–".to_owned();
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of requests are far below 2^53")]
    let percent = bad as f64 * 100.0 / requests as f64;
    format!("{percent:.2} %")
}

/// How far a value is on its way to a threshold, as a bar of so many characters.
pub(crate) fn bar(value: f64, threshold: f64, width: usize) -> String {
    let part = if threshold > 0.0 && value.is_finite() {
        (value / threshold).clamp(0.0, 1.0)
    } else {
        0.0
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "0 to width, a few dozen"
    )]
    let full = ((part * width as f64).floor() as usize).min(width);
    "█".repeat(full) + &"░".repeat(width - full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0, 999, 1_000, 12_345, 1_234_567, -1_000].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "12,345", "1,234,567", "-1,000"]);
    }

    #[test]
    fn an_age_has_one_unit() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        let ages = [0, 119, 120, 7_199, 7_200, 172_800].map(|seconds| ago(at(seconds), at(0)));
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "2d"]);
        assert_eq!(ago(at(0), at(5)), "0s");
        assert_eq!(lasted(at(134), at(0)), "2m14s");
    }

    #[test]
    fn a_rate_of_nothing_is_no_rate() {
        assert_eq!(rate(0, 0), "–");
        assert_eq!(rate(3, 1_200), "0.25 %");
    }

    #[test]
    fn a_bar_stays_between_its_ends() {
        assert_eq!(
            [(-1.0, 4.0), (2.0, 4.0), (9.0, 4.0), (1.0, 0.0)].map(|(value, end)| bar(value, end, 4)),
            ["░░░░", "██░░", "████", "░░░░"]
        );
    }
}
