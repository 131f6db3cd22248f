//! How long requests take, as classic histograms count it: which buckets lie within a threshold, and which boundaries there are.
//!
//! Pure. A threshold is never moved to a boundary near it: slow requests are counted exactly, or not at all.

use serde::Deserialize;
use stepgate_crds::units::Span;

/// So many boundaries a message lists at most: those nearest to the threshold.
const MOST_LISTED: usize = 20;

/// Templates of a histogram.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Histogram {
    /// The unit of its boundaries.
    pub(super) unit: Unit,
    /// Requests.
    pub(super) requests: String,
    /// Those in the bucket that `${le}` matches.
    pub(super) within: String,
}

/// The unit of bucket boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// As the Prometheus convention has it.
    Seconds,
    /// As Envoy has it.
    Milliseconds,
}

impl Unit {
    /// The matcher of the bucket up to a threshold. Client libraries write a whole number with `.0` or without.
    pub(super) fn matcher(self, threshold: Span) -> String {
        let millis = threshold.as_millis();
        let (whole, rest) = match self {
            Self::Milliseconds => (millis, 0),
            Self::Seconds => (millis / 1_000, millis % 1_000),
        };
        if rest == 0 {
            format!("le=~\"{whole}|{whole}\\\\.0\"")
        } else {
            let rest = format!("{rest:03}");
            format!("le=\"{whole}.{}\"", rest.trim_end_matches('0'))
        }
    }

    /// A boundary as a span; none where no threshold can be written like it.
    fn span(self, boundary: f64) -> Option<Span> {
        let millis = match self {
            Self::Milliseconds => boundary,
            Self::Seconds => boundary * 1_000.0,
        };
        let whole = millis.round();
        if !(1.0..1e12).contains(&whole) || (millis - whole).abs() > 1e-6 {
            return None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 10^12")]
        Some(Span::millis(whole as u64))
    }

    /// What a person is told where a threshold is none of these boundaries.
    pub fn no_boundary(self, threshold: Span, boundaries: &[f64]) -> String {
        let mut spans: Vec<Span> = boundaries.iter().filter_map(|boundary| self.span(*boundary)).collect();
        spans.sort_by_key(|span| (span.as_millis() - threshold.as_millis()).abs());
        spans.truncate(MOST_LISTED);
        spans.sort();
        spans.dedup();
        let listed = spans.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if listed.is_empty() {
            format!("{threshold} is no bucket boundary of the histogram, which has none at all")
        } else {
            format!(
                "{threshold} is no bucket boundary of the histogram; there are {listed}: set spec.analysis.latency.threshold to one"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_matches_its_boundary_however_it_is_written() {
        let matcher = |unit: Unit, millis| unit.matcher(Span::millis(millis));
        assert_eq!(matcher(Unit::Milliseconds, 500), r#"le=~"500|500\\.0""#);
        assert_eq!(matcher(Unit::Seconds, 1_000), r#"le=~"1|1\\.0""#);
        assert_eq!(matcher(Unit::Seconds, 500), r#"le="0.5""#);
        assert_eq!(matcher(Unit::Seconds, 2_500), r#"le="2.5""#);
        assert_eq!(matcher(Unit::Seconds, 1), r#"le="0.001""#);
    }

    #[test]
    fn boundaries_are_listed_as_thresholds_are_written() {
        let seconds = [0.0025, 0.005, 0.1, 1.0, 2.5, f64::INFINITY];
        assert_eq!(
            Unit::Seconds.no_boundary(Span::millis(300), &seconds),
            "300ms is no bucket boundary of the histogram; there are 5ms, 100ms, 1s, 2s500ms: set spec.analysis.latency.threshold to one"
        );
        assert_eq!(
            Unit::Milliseconds.no_boundary(Span::millis(300), &[]),
            "300ms is no bucket boundary of the histogram, which has none at all"
        );
        let many: Vec<f64> = (1..1_000).map(f64::from).collect();
        let told = Unit::Milliseconds.no_boundary(Span::millis(2_000), &many);
        assert!(
            told.contains("there are 980ms, ") && told.contains(", 999ms:"),
            "{told}"
        );
    }
}
