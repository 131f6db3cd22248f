//! What the operator would say of the Rollout when it first looks at it: its own decision (`stepgate_core::next`) on what was read.
//!
//! Pure. What only the operator knows (its flags, metrics sources and added providers, whether the hold policy is installed) is said to be
//! not known; defaults stand for it.

use std::collections::BTreeMap;

use serde::Serialize;
use stepgate_core::input::{Before, Input, ProviderView, RolloutView, Seen, SourceHealth, Survey, WorkloadView};
use stepgate_core::rest::start::run_spec;
use stepgate_core::{Limits, Plan, next, object, preflight};
use stepgate_crds::provider::ProviderName;
use stepgate_crds::status::{Found, Phase, RunSpec};
use stepgate_crds::units::{Span, Timestamp};
use stepgate_crds::{Rollout, RolloutStatus};

use super::look::Looked;
use super::providers;

/// What is found before a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Preflight {
    /// Why the operator would refuse it: its reason and its sentence. The first thing that stands in the way.
    pub(crate) refused: Option<Refusal>,
    /// Whether enough could be read to say that nothing refuses it.
    pub(crate) complete: bool,
    /// What was found for everything that the spec leaves open.
    pub(crate) found: Option<Found>,
    /// What is worth knowing.
    pub(crate) notes: Vec<String>,
    /// What was not looked at, and why.
    pub(crate) not_looked_at: Vec<String>,
    /// The spec of a run, with every default filled in.
    #[serde(skip)]
    pub(crate) spec: RunSpec,
    /// The constants that were taken.
    #[serde(skip)]
    pub(crate) limits: Limits,
}

/// Why something is refused.
#[derive(Debug, Serialize)]
pub(crate) struct Refusal {
    /// One word, as in conditions.
    pub(crate) reason: String,
    /// A sentence.
    pub(crate) message: String,
}

impl Preflight {
    /// Whether the counts are of other callers too.
    pub(crate) fn counts_all_callers(&self) -> bool {
        self.found.as_ref().is_some_and(|found| found.counts_all_callers)
    }
}

/// What stands in the way of this Rollout, as far as was looked.
pub(crate) fn preflight(rollout: &Rollout, looked: &Looked, now: Timestamp) -> Preflight {
    let mut notes = Vec::new();
    let mut unseen = looked.unseen.clone();
    let limits = limits(rollout, &mut unseen);
    let view = view(rollout, looked);
    let workload = workload(looked);
    let survey = survey(&view, looked, &mut unseen);
    unseen.push(format!(
        "the operator: whether it runs, whether it holds Deployments, whether its metrics source `{}` is set up and answers, and its flags (the documented defaults are taken)",
        source(&view)
    ));
    let nothing = BTreeMap::new();
    let input = Input {
        now,
        term: 0,
        absent: Span::default(),
        clocks_differ: false,
        limits: &limits,
        rollout: &view,
        workload: &workload,
        canary: &Seen::Absent,
        canary_service: &Seen::Absent,
        stable_ready: 0,
        strange_ready: 0,
        canary_ready: 0,
        routes: &looked.routes,
        templates: &nothing,
        survey: survey.as_ref(),
        replica_sets: looked.replica_sets.as_deref(),
        recorded: None,
        restarts: None,
        canary_youngest: None,
        samples: &[],
        queries: &[],
        asked: &[],
        baseline: &Before::Untold,
        source: &SourceHealth::Untried,
        no_hold: None,
        refused: None,
    };
    let running = looked.live.as_ref().and_then(|live| live.status.as_ref()?.run.as_ref());
    let mut refused = looked.invalid.as_ref().map(|(reason, message)| Refusal {
        reason: (*reason).to_owned(),
        message: message.clone(),
    });
    let mut complete = !looked.blind;
    if let Some(run) = running {
        notes.push(format!(
            "run {} of this Rollout is under way: what the file says goes for the next one, and preflight is made then",
            run.id
        ));
        complete = false;
    } else if view.is_suspended() {
        notes.push("spec.suspend is true: nothing is managed, and the Deployment rolls by itself".to_owned());
    } else if !looked.blind && refused.is_none() {
        refused = refusal(next(&input));
    }
    if workload.get().is_some_and(|workload| workload.replicas == 0) {
        notes.push(
            "the Deployment asks for no pods: there is nothing to protect, and a new version rolls natively".to_owned(),
        );
    }
    let found = survey.as_ref().and_then(|survey| preflight::find(&input, survey).ok());
    if looked.live.is_none() && complete && refused.is_none() {
        notes.push(
            "nothing is rolled out when it is applied: the version that serves is recorded, the next one goes by steps"
                .to_owned(),
        );
    }
    Preflight {
        spec: run_spec(&input),
        refused,
        complete,
        found,
        notes,
        not_looked_at: unseen,
        limits,
    }
}

/// What a decision says that is no way on.
fn refusal(plan: Plan) -> Option<Refusal> {
    let Plan::Commit(status) = plan else {
        return None;
    };
    (status.phase == Some(Phase::Blocked)).then(|| Refusal {
        reason: status
            .conditions
            .iter()
            .find(|condition| condition.type_ == "Ready")
            .map(|condition| condition.reason.clone())
            .unwrap_or_default(),
        message: status.message.unwrap_or_default(),
    })
}

/// The Rollout as it would be after it was applied, before the operator has said anything.
fn view(rollout: &Rollout, looked: &Looked) -> RolloutView {
    let live = looked.live.as_ref().map(object::rollout);
    let (uid, created) = live.map_or_else(
        // Of two Rollouts the older one has a rule: this one is the youngest.
        || (String::new(), Timestamp::from_millis(i64::MAX)),
        |live| (live.uid, live.created),
    );
    RolloutView {
        uid,
        created,
        finalizer: true,
        deleting: false,
        status: RolloutStatus {
            // It has been seen: what is missing is said at once.
            phase: Some(Phase::Blocked),
            ..RolloutStatus::default()
        },
        ..object::rollout(rollout)
    }
}

fn workload(looked: &Looked) -> Seen<WorkloadView> {
    match &looked.workload {
        Seen::At(found) => Seen::At(object::workload(found)),
        Seen::Absent => Seen::Absent,
        Seen::Unknown(why) => Seen::Unknown(why.clone()),
    }
}

/// The lists of preflight; none where one of those is missing that all rests on.
fn survey(view: &RolloutView, looked: &Looked, unseen: &mut Vec<String>) -> Option<Survey> {
    let (Seen::At(workload), Some(services), false) = (&looked.workload, &looked.services, looked.blind) else {
        return None;
    };
    let mut providers = providers::built_in();
    let wanted = view
        .spec
        .analysis
        .as_ref()
        .and_then(|analysis| analysis.provider.clone());
    if let Some(wanted) = wanted
        .filter(|wanted| *wanted != ProviderName::AUTO && providers.iter().all(|provider| provider.name != *wanted))
    {
        unseen.push(format!(
            "provider {wanted}, which does not come with Stepgate: whether the administrator added it"
        ));
        providers.push(ProviderView {
            name: wanted,
            controllers: Vec::new(),
            counts_all_callers: false,
            trickle: false,
            instead: None,
        });
    }
    let queries = view.spec.analysis.iter().flat_map(|analysis| &analysis.queries);
    for query in queries {
        unseen.push(format!(
            "query {}: whether it can be asked, and what it gives; its number is taken to be within its bounds",
            query.name
        ));
    }
    Some(Survey {
        workload: workload.clone(),
        canary_workload: looked.canary_workload.clone(),
        services: services.clone(),
        network_policies: looked.network_policies.clone(),
        disruption_budgets: looked.disruption_budgets.clone(),
        service_policies: looked.service_policies.clone(),
        volume_claims: looked.volume_claims.clone(),
        rollouts: looked.claims.clone(),
        sources: vec![source(view).to_owned()],
        refused_queries: Vec::new(),
        providers,
    })
}

fn source(view: &RolloutView) -> &str {
    let analysis = view.spec.analysis.as_ref();
    analysis
        .and_then(|analysis| analysis.source.as_deref())
        .unwrap_or(preflight::DEFAULT_SOURCE)
}

/// The documented defaults. How often the source scrapes is not known: a shorter interval than that allows is taken at its word.
fn limits(rollout: &Rollout, unseen: &mut Vec<String>) -> Limits {
    let mut limits = Limits::default();
    let interval = rollout.spec.analysis.as_ref().and_then(|analysis| analysis.interval);
    if let Some(interval) = interval.filter(|interval| *interval < limits.scrape.twice()) {
        limits.scrape = Span::millis(u64::try_from(interval.as_millis() / 2).unwrap_or(0));
        unseen.push(format!(
            "how often the metrics source scrapes: an interval of {interval} takes every {} or less",
            limits.scrape
        ));
    }
    limits
}
