//! The query for what stable did before a run, by its pods where a provider's series tell them apart.

use stepgate_crds::query::{SERIES_LABEL, increase};

use super::{Arms, Provider, ProviderError};

/// One of the series of [`Provider::baseline`], over stable's pods: the fields of `Pods`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Their requests.
    Requests,
    /// The bad ones of them.
    Bad,
    /// How many of them had requests.
    Serving,
    /// The sum of x²/n, x bad ones of n requests.
    Squares,
}

impl Of {
    const ALL: [Self; 4] = [Self::Requests, Self::Bad, Self::Serving, Self::Squares];

    const fn label(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Bad => "bad",
            Self::Serving => "serving",
            Self::Squares => "squares",
        }
    }

    /// The series of a label value, `None` for any other text.
    pub fn parse(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|of| of.label() == label)
    }
}

impl Provider {
    /// The query for what stable did over (t − step, t], to be evaluated at each t; its series are those of [`Of`].
    ///
    /// None where it would tell nothing but sums, and `sums` are not asked for.
    pub fn baseline(&self, arms: &Arms, step_seconds: u32, sums: bool) -> Result<Option<String>, ProviderError> {
        if self.has_no_templates() || (self.pod_label.is_none() && !sums) {
            return Ok(None);
        }
        let stable = self.fill(&self.arms.stable, arms, &[])?;
        let by_pod = |template: &str| {
            let selector = self.fill(template, arms, &[("arm", &stable)])?;
            let counted = increase(&selector, &self.target_labels, step_seconds);
            Ok(self.pod_label.as_ref().map_or_else(
                || format!("sum({counted})"),
                |label| format!("sum by ({label}) ({counted})"),
            ))
        };
        let (requests, bad) = (by_pod(&self.requests)?, by_pod(&self.bad)?);
        let mut series = vec![
            (Of::Requests, format!("sum({requests})")),
            (Of::Bad, format!("sum({bad})")),
        ];
        if self.pod_label.is_some() {
            series.push((Of::Serving, format!("count({requests} > 0)")));
            series.push((Of::Squares, format!("sum(({bad}) ^ 2 / ({requests} > 0))")));
        }
        let labelled = series.into_iter().map(|(of, expression)| {
            format!(
                "label_replace({expression}, \"{SERIES_LABEL}\", \"{}\", \"\", \"\")",
                of.label()
            )
        });
        Ok(Some(labelled.collect::<Vec<_>>().join("\nor\n")))
    }
}
