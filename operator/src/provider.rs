//! Providers: what a gateway implementation calls the requests of a backend, as data, and the PromQL made of it.
//!
//! Pure. Each provider is a YAML file of templates under `operator/providers`, compiled in. A query asks for both arms at once, so that
//! they are counted at one time, and counts in whole numbers from counters, never from `rate` or `increase()`, because those guess at
//! the edges of a window. Whatever is put into a template is escaped for PromQL.

mod baseline;
mod folder;
mod question;
mod scrapes;

use std::fmt;

use serde::Deserialize;
use thiserror::Error;

use stepgate_core::input::{Instead, ProviderView};
use stepgate_crds::provider::ProviderName;
use stepgate_crds::query::CountQuery;
use stepgate_crds::units::Span;

mod histogram;

pub use histogram::Histogram;

pub use baseline::Of;
pub use folder::Providers;
pub use question::{QuestionError, asked};
pub use scrapes::{Scrapes, Target};
pub use stepgate_core::input::{Arms, Measure};
pub use stepgate_crds::query::{SERIES_LABEL, Series};

/// Kubernetes shortens a generated name's base to this many characters before it appends five random ones
/// (`MaxGeneratedNameLength` of `k8s.io/apiserver/pkg/storage/names`).
const GENERATED_NAME_BASE: usize = 58;

/// The label of the series of a query that is made of several: the number of the one that they belong to, from 0.
pub const QUESTION_LABEL: &str = "stepgate_question";

/// One PromQL expression; its result has only series of [`Series`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    expression: String,
    parts: Option<CountQuery>,
    slow: Option<Slow>,
}

/// What a query for slow requests rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slow {
    /// What takes longer is slow.
    pub threshold: Span,
    /// The expression that gives one series for each bucket boundary that there is, by its label `le`.
    pub boundaries: String,
    /// Of which unit a boundary is.
    pub unit: histogram::Unit,
}

impl Query {
    /// An expression as it stands; it has to give the series that [`Series`] names, bad requests as they were counted.
    pub fn new(expression: impl Into<String>) -> Self {
        Self {
            expression: expression.into(),
            parts: None,
            slow: None,
        }
    }

    /// The counts that these parts select, over intervals of so many seconds.
    pub fn counting(parts: CountQuery, interval_seconds: u32) -> Self {
        Self {
            expression: parts.promql(interval_seconds),
            parts: Some(parts),
            slow: None,
        }
    }

    /// An expression that gives those within the threshold in place of bad ones.
    pub fn of_slow(expression: impl Into<String>, slow: Slow) -> Self {
        Self {
            expression: expression.into(),
            parts: None,
            slow: Some(slow),
        }
    }

    /// The parts that it is made of, where it is one of a provider's.
    pub fn parts(&self) -> Option<&CountQuery> {
        self.parts.as_ref()
    }

    /// The expression.
    pub fn as_str(&self) -> &str {
        &self.expression
    }

    /// What it rests on, where it asks for slow requests.
    pub fn slow(&self) -> Option<&Slow> {
        self.slow.as_ref()
    }
}

impl fmt::Display for Query {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.expression)
    }
}

/// The matcher of every bucket.
const ANY_LE: &str = "le=~\".+\"";

/// What a provider's counters see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sees {
    /// Requests through the gateway: the measured share is the route's.
    Gateway,
    /// Other callers too: the measured share is a hint.
    Everything,
}

/// Where an implementation counts what is not a plain response.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Counted {
    /// No endpoint was left for the backend.
    pub no_endpoints: String,
    /// No connection to an endpoint.
    pub connect_failures: String,
    /// The backend did not answer in time.
    pub timeouts: String,
    /// The gateway tried again.
    pub retries: String,
    /// The client went away before the answer.
    pub client_gone: String,
}

/// Label matchers of the two versions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ArmTemplates {
    stable: String,
    canary: String,
}

/// The provider that takes the place of one that cannot tell the two backends apart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InsteadOf {
    /// Its name.
    pub provider: ProviderName,
    /// True: only where a backendRef has no filter of its own. False: always, and the file has no templates.
    #[serde(default)]
    pub unless_filtered: bool,
    /// Why, in a few words: it stands in the status of a Rollout.
    pub why: String,
}

/// A set of query templates for one gateway implementation.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provider {
    /// Its name in `spec.analysis.provider`.
    pub name: ProviderName,
    /// GatewayClass controllerNames that it fits.
    pub controller_names: Vec<String>,
    /// True when the counts were compared with a load generator's on the real implementation; else written from documentation.
    pub verified: bool,
    /// What was looked at, and in which versions.
    pub verified_on: Option<String>,
    /// What its counters see.
    pub sees: Sees,
    /// Whether its gateway forgets a backend of weight 0: then one that has pods keeps a millionth of the traffic.
    #[serde(default)]
    pub trickle: bool,
    /// Labels that a series shares with its target's `up`: by them the birth rule asks whether the target was there one interval earlier.
    #[serde(default)]
    pub target_labels: Vec<String>,
    /// The label of stable's series that tells its pods apart; none where they do not: from several pods' counts φ is known.
    pub pod_label: Option<String>,
    /// What it was written from: upstream sources and documentation.
    #[serde(default)]
    pub written_from: Vec<String>,
    /// What has to be set up for its metrics to be there.
    pub needs: Option<String>,
    /// What takes its place where it cannot tell the two backends apart.
    pub instead: Option<InsteadOf>,
    /// Labels by which the two versions are told apart.
    #[serde(default)]
    pub separated_by: Vec<String>,
    /// Where the special cases are counted.
    pub counted: Counted,
    #[serde(default)]
    requests: String,
    #[serde(default)]
    bad: String,
    latency: Option<Histogram>,
    #[serde(default)]
    arms: ArmTemplates,
}

/// Why a provider file or name is no good.
#[derive(Debug, Error)]
pub enum ProviderError {
    /// Not YAML, a field missing, or a field unknown.
    #[error("provider file {file} cannot be read; compare it with operator/providers/contour.yaml")]
    Syntax {
        /// The file.
        file: String,
        /// What the parser says.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// A placeholder that nothing fills.
    #[error(
        "provider {provider}: template `{template}` has the unknown or unclosed placeholder `{placeholder}`; known are namespace, stableService, canaryService, port, routes, stablePods, canaryPods, arm in requests, bad and latency, and le in latency.within"
    )]
    Placeholder {
        /// The provider.
        provider: String,
        /// The template.
        template: String,
        /// The placeholder.
        placeholder: String,
    },
    /// No histogram of how long requests take.
    #[error(
        "provider {provider} has no histogram of how long requests take; take spec.analysis.latency out, or choose another provider"
    )]
    NoLatency {
        /// The provider.
        provider: String,
    },
    /// No target label: the birth rule would match every target.
    #[error(
        "provider {provider}: targetLabels is empty; name the labels that a series shares with its target's `up`, say [job, instance]"
    )]
    NoTargetLabels {
        /// The provider.
        provider: String,
    },
    /// A template is missing.
    #[error(
        "provider {provider}: {field} is missing or empty; only a provider with `instead` and without `unlessFiltered` has no templates"
    )]
    Missing {
        /// The provider.
        provider: String,
        /// The field.
        field: &'static str,
    },
    /// The folder, or a file in it, is no good.
    #[error("--providers-folder: {file}: {why}")]
    Folder {
        /// The file, or the folder.
        file: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// No provider has this name.
    #[error("no provider is named {name}; there are: {known}, and auto")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
}

impl ProviderError {
    /// A constant word for metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax",
            Self::Placeholder { .. } => "placeholder",
            Self::NoLatency { .. } => "no_latency",
            Self::NoTargetLabels { .. } => "no_target_labels",
            Self::Missing { .. } => "missing",
            Self::Folder { .. } => "folder",
            Self::Unknown { .. } => "unknown",
        }
    }
}

impl Provider {
    /// Reads one provider file. `file` is for messages.
    pub fn parse(file: &str, text: &str) -> Result<Self, ProviderError> {
        let provider: Self = serde_saphyr::from_str(text).map_err(|source| ProviderError::Syntax {
            file: file.to_owned(),
            source: Box::new(source),
        })?;
        if provider.has_no_templates() {
            return Ok(provider);
        }
        if provider.target_labels.is_empty() {
            return Err(ProviderError::NoTargetLabels {
                provider: provider.name.to_string(),
            });
        }
        let templates = [
            ("requests", &provider.requests),
            ("bad", &provider.bad),
            ("arms.stable", &provider.arms.stable),
            ("arms.canary", &provider.arms.canary),
        ];
        if let Some((field, _)) = templates.iter().find(|(_, template)| template.is_empty()) {
            return Err(ProviderError::Missing {
                provider: provider.name.to_string(),
                field,
            });
        }
        let probe = Arms {
            namespace: "n".into(),
            stable_service: "s".into(),
            canary_service: "c".into(),
            port: 1,
            routes: vec!["h".into()],
            stable_replica_set: "r".into(),
            canary_deployment: "d".into(),
        };
        provider.query(&probe, 1, &Measure::Errors)?;
        provider.baseline(&probe, 1, true)?;
        if provider.latency.is_some() {
            let threshold = Span::seconds(1);
            provider.query(&probe, 1, &Measure::Latency { threshold })?;
        }
        Ok(provider)
    }

    /// What a decision needs to know of it.
    pub fn view(&self) -> ProviderView {
        ProviderView {
            name: self.name.clone(),
            controllers: self.controller_names.clone(),
            counts_all_callers: self.sees == Sees::Everything,
            trickle: self.trickle,
            instead: self.instead.as_ref().map(|instead| Instead {
                provider: instead.provider.clone(),
                unless_filtered: instead.unless_filtered,
                why: instead.why.clone(),
            }),
        }
    }

    /// Whether another one takes its place at all times.
    fn has_no_templates(&self) -> bool {
        self.instead.as_ref().is_some_and(|instead| !instead.unless_filtered)
    }

    /// The query for both versions over (t − interval, t], to be evaluated at t.
    ///
    /// What it counts, and why so, is [`CountQuery::promql`]'s.
    ///
    /// Slow requests are those that are in no bucket up to the threshold: the buckets are asked for by the same form.
    pub fn query(&self, arms: &Arms, interval_seconds: u32, measure: &Measure) -> Result<Query, ProviderError> {
        if self.has_no_templates() {
            return Err(ProviderError::Missing {
                provider: self.name.to_string(),
                field: "requests",
            });
        }
        let arm = |template: &str| self.fill(template, arms, &[]);
        let (canary, stable) = (arm(&self.arms.canary)?, arm(&self.arms.stable)?);
        let of = |template: &str, arm: &str| self.fill(template, arms, &[("arm", arm)]);
        match measure {
            Measure::Errors => Ok(Query::counting(
                CountQuery {
                    canary_requests: of(&self.requests, &canary)?,
                    canary_bad: of(&self.bad, &canary)?,
                    stable_requests: of(&self.requests, &stable)?,
                    stable_bad: of(&self.bad, &stable)?,
                    targets: self.target_labels.clone(),
                    within: false,
                },
                interval_seconds,
            )),
            Measure::Latency { threshold } => {
                let histogram = self.latency.as_ref().ok_or_else(|| ProviderError::NoLatency {
                    provider: self.name.to_string(),
                })?;
                let bucket = |arm: &str, le: &str| self.fill(&histogram.within, arms, &[("arm", arm), ("le", le)]);
                let up_to = histogram.unit.matcher(*threshold);
                let parts = CountQuery {
                    canary_requests: of(&histogram.requests, &canary)?,
                    canary_bad: bucket(&canary, &up_to)?,
                    stable_requests: of(&histogram.requests, &stable)?,
                    stable_bad: bucket(&stable, &up_to)?,
                    targets: self.target_labels.clone(),
                    within: true,
                };
                let (of_canary, of_stable) = (bucket(&canary, ANY_LE)?, bucket(&stable, ANY_LE)?);
                let slow = Slow {
                    threshold: *threshold,
                    boundaries: format!("count by (le) ({of_canary} or {of_stable})"),
                    unit: histogram.unit,
                };
                Ok(Query {
                    slow: Some(slow),
                    ..Query::counting(parts, interval_seconds)
                })
            }
        }
    }

    fn fill(&self, template: &str, arms: &Arms, matchers: &[(&str, &str)]) -> Result<String, ProviderError> {
        fill(template, arms, matchers).map_err(|placeholder| ProviderError::Placeholder {
            provider: self.name.to_string(),
            template: template.to_owned(),
            placeholder: placeholder.to_owned(),
        })
    }
}

/// Replaces `${name}`; values are escaped for a double-quoted PromQL string, and before that for a regular expression where the
/// string is one. Names of pods and of routes are regular expressions. `matchers` are put in as they are. An error is the placeholder that
/// nothing fills.
fn fill<'t>(template: &'t str, arms: &Arms, matchers: &[(&str, &str)]) -> Result<String, &'t str> {
    let mut filled = String::with_capacity(template.len() + 64);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("${") {
        filled.push_str(before);
        let (placeholder, tail) = after.split_once('}').ok_or(after)?;
        let plain = template.get(..template.len() - after.len()).unwrap_or_default();
        let name = |value: &str| {
            if is_regex(plain) {
                in_string(&in_regex(value))
            } else {
                in_string(value)
            }
        };
        let matcher = matchers.iter().find(|(name, _)| *name == placeholder);
        match (placeholder, matcher) {
            (_, Some((_, matcher))) => filled.push_str(matcher),
            ("namespace", _) => filled.push_str(&name(&arms.namespace)),
            ("stableService", _) => filled.push_str(&name(&arms.stable_service)),
            ("canaryService", _) => filled.push_str(&name(&arms.canary_service)),
            ("routes", _) => filled.push_str(&in_string(&any_of(&arms.routes))),
            ("port", _) => filled.push_str(&arms.port.to_string()),
            ("stablePods", _) => filled.push_str(&in_string(&pods_of_replicaset(&arms.stable_replica_set))),
            ("canaryPods", _) => filled.push_str(&in_string(&pods_of_deployment(&arms.canary_deployment))),
            _ => return Err(placeholder),
        }
        rest = tail;
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Whether what follows this part of a template stands in the string of `=~` or `!~`.
fn is_regex(before: &str) -> bool {
    let in_a_string = before.matches('"').count() % 2 == 1;
    let matcher = before.rsplit_once('"').map_or("", |(matcher, _)| matcher);
    in_a_string && (matcher.ends_with("=~") || matcher.ends_with("!~"))
}

/// A regular expression that matches each of these names.
fn any_of(names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| in_regex(name)).collect();
    format!("({})", names.join("|"))
}

/// Escapes for the inside of a double-quoted PromQL string.
fn in_string(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '"' => escaped.push_str("\\\""),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Escapes for a regular expression in RE2 syntax.
fn in_regex(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for character in value.chars() {
        if "\\.+*?()|[]{}^$".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// The names of a ReplicaSet's pods, as a regular expression (PromQL anchors it at both ends).
fn pods_of_replicaset(replicaset: &str) -> String {
    let base: String = format!("{replicaset}-").chars().take(GENERATED_NAME_BASE).collect();
    format!("{}[a-z0-9]{{5}}", in_regex(&base))
}

/// The names of the pods of all of a Deployment's ReplicaSets. Where the ReplicaSet's hash (at most ten characters) may have been cut off, it
/// is allowed to be short or missing; never a further dash, which would be another Deployment's name.
fn pods_of_deployment(deployment: &str) -> String {
    let base: String = format!("{deployment}-").chars().take(GENERATED_NAME_BASE).collect();
    let uncut = deployment.chars().count() + 1 + 10 < GENERATED_NAME_BASE;
    let hash = if uncut { "[a-z0-9]+-" } else { "[a-z0-9]*-?" };
    format!("{}{hash}[a-z0-9]{{5}}", in_regex(&base))
}
