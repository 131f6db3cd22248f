//! How counts, shares and times read in a sentence.
//!
//! Only words: nothing decides here.

use super::observation::Arm;

/// `23 of 450 bad (5.1 %)`.
pub(super) fn of(arm: Arm) -> String {
    if arm.requests > 0.0 {
        format!(
            "{} of {} bad ({})",
            grouped(arm.bad),
            grouped(arm.requests),
            percent(arm.bad / arm.requests)
        )
    } else {
        "without requests".to_owned()
    }
}

/// A share in per cent, with two digits below 0.1 %.
pub(super) fn percent(share: f64) -> String {
    let value = 100.0 * share;
    if value == 0.0 || value >= 99.95 || (value - value.round()).abs() < 1e-9 {
        format!("{value:.0} %")
    } else if value < 0.095 {
        format!("{value:.3} %")
    } else {
        format!("{value:.1} %")
    }
}

/// A count with a comma between thousands.
pub(super) fn grouped(count: f64) -> String {
    let digits = format!("{count:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `40 s`, `12 min`, `3 h`.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        7200..172_800 => format!("{} h", seconds.div_ceil(3600)),
        _ => format!("{} days", seconds.div_ceil(86_400)),
    }
}
