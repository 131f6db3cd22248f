//! Runs plans, many at once, each in a namespace of its own, and says what was wrong with each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::{Client, Config};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::bug::{Bug, Saboteur};
use super::check::{Course, Ears, HUSH, Rule, Violation, canary_weight, liveness, safety};
use super::fault::{Fault, Kind};
use super::layer::Tap;
use super::observer::{Observer, Version, World};
use super::oracle::End;
use super::place::{self, Place};
use super::process::{self, Life};
use super::proxy::Proxy;
use super::site::{self, STEPS};
use super::source::Source;
use super::workload::{self, Workload};
use crate::cluster::{Cluster, Namespace};
use crate::operator::install_chart;

/// How long nothing may be written once a course has come to its end.
const REST: Duration = Duration::from_millis(1_200);
/// How long a crashed operator stays away.
const OUTAGE: Duration = Duration::from_millis(100);
/// The longest that a run of a plan may take.
const BOUND: Duration = Duration::from_secs(150);

/// The longest from an abort to the first write that lowers the weight, where nothing hinders it: 2 s, and as much again twice for a busy
/// machine.
const AT_ONCE: Duration = Duration::from_secs(6);
/// How long a course is followed after its bug.
const BUG_BOUND: Duration = Duration::from_secs(45);

/// A workload and what goes wrong in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What people do.
    pub workload: Workload,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Plan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.workload)?;
        for fault in &self.faults {
            write!(formatter, ",{fault}")?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Plan {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut words = text.split(',');
        let workload = words.next().unwrap_or_default().parse()?;
        let faults = words.map(str::parse).collect::<Result<_>>()?;
        Ok(Self { workload, faults })
    }
}

/// What one run of a plan came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The plan.
    pub plan: Plan,
    /// The end; none where it did not come to one.
    pub end: Option<End>,
    /// What was wrong.
    pub wrong: Vec<String>,
    /// Rules of safety that were broken.
    pub violations: Vec<Violation>,
    /// Writes in all, accepted or not.
    pub writes: usize,
    /// Where in the course each was.
    pub places: Vec<Place>,
    /// Requests in all.
    pub requests: usize,
    /// From an abort to the first write that lowers the canary's weight.
    pub answer: Option<Duration>,
    /// From an abort to the accepted weight 0.
    pub way_back: Option<Duration>,
    /// How long it took.
    pub took: Duration,
    /// Faults that found no place to strike.
    pub left: usize,
    /// Every write, for a failure's report.
    pub timeline: String,
}

impl Outcome {
    fn break_rule(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }

    /// Nothing was wrong.
    pub fn is_well(&self) -> bool {
        self.wrong.is_empty() && self.violations.is_empty()
    }
}

/// Everything that runs of plans share.
#[derive(Debug)]
pub struct Range {
    cluster: Cluster,
    observer: Observer,
    config: Config,
    ears: Ears,
}

impl Range {
    /// Attaches to the cluster. The operators of all runs are listened to; `log`: what they say at this level is also printed.
    pub async fn open(log: Option<&str>) -> Result<Self> {
        let cluster = Cluster::attach().await?;
        install_chart(&cluster).await?;
        Ok(Self {
            observer: Observer::start(&cluster).await?,
            config: process::config(&cluster).await?,
            ears: Ears::open(log.unwrap_or("info"), log.is_some()),
            cluster,
        })
    }

    /// The fault-free course of each workload.
    pub async fn oracles(&self, workloads: &[Workload]) -> Result<BTreeMap<Workload, Outcome>> {
        let plans: Vec<Plan> = workloads
            .iter()
            .map(|workload| Plan {
                workload: *workload,
                faults: Vec::new(),
            })
            .collect();
        let outcomes = self.run_all(plans, &BTreeMap::new(), workloads.len(), |_| {}).await;
        let mut oracles = BTreeMap::new();
        for outcome in outcomes {
            if !outcome.is_well() {
                anyhow::bail!(
                    "{} without a fault: {:?} {:?}\n{}",
                    outcome.plan,
                    outcome.wrong,
                    outcome.violations,
                    outcome.timeline
                );
            }
            oracles.insert(outcome.plan.workload, outcome);
        }
        Ok(oracles)
    }

    /// Runs plans, so many at once, and tells each outcome as it comes.
    pub async fn run_all(
        &self,
        plans: Vec<Plan>,
        oracles: &BTreeMap<Workload, Outcome>,
        at_once: usize,
        mut told: impl FnMut(&Outcome),
    ) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let mut running = stream::iter(plans)
            .map(|plan| {
                let oracle = oracles.get(&plan.workload).and_then(|outcome| outcome.end.clone());
                self.run(plan, oracle)
            })
            .buffer_unordered(at_once.max(1));
        while let Some(outcome) = running.next().await {
            told(&outcome);
            outcomes.push(outcome);
        }
        outcomes
    }

    /// The smallest form of a plan that failed: without each fault that it fails without.
    pub async fn smallest(&self, failed: &Plan, oracles: &BTreeMap<Workload, Outcome>) -> Plan {
        let mut smallest = failed.clone();
        let oracle = oracles.get(&failed.workload).and_then(|outcome| outcome.end.clone());
        for fault in &failed.faults {
            if smallest.faults.len() < 2 {
                break;
            }
            let mut fewer = smallest.clone();
            fewer.faults.retain(|other| other != fault);
            if !self.run(fewer.clone(), oracle.clone()).await.is_well() {
                smallest = fewer;
            }
        }
        smallest
    }

    /// Runs one plan.
    pub async fn run(&self, plan: Plan, oracle: Option<End>) -> Outcome {
        self.run_with(plan, oracle, None).await
    }

    /// Runs the course of a bug, with the bug.
    pub async fn run_bug(&self, bug: Bug) -> Outcome {
        let plan = Plan {
            workload: bug.workload,
            faults: Vec::new(),
        };
        self.run_with(plan, None, Some(bug)).await
    }

    async fn run_with(&self, plan: Plan, oracle: Option<End>, bug: Option<Bug>) -> Outcome {
        let began = Instant::now();
        let mut outcome = Outcome {
            plan: plan.clone(),
            end: None,
            wrong: Vec::new(),
            violations: Vec::new(),
            writes: 0,
            places: Vec::new(),
            requests: 0,
            answer: None,
            way_back: None,
            took: Duration::ZERO,
            left: 0,
            timeline: String::new(),
        };
        // On the heap: many of these are one future of a test, whose thread has a small stack.
        if let Err(error) = Box::pin(self.live(&plan, oracle.as_ref(), bug, &mut outcome)).await {
            outcome.wrong.push(format!("{error:#}"));
        }
        outcome.took = began.elapsed();
        outcome
    }

    async fn live(&self, plan: &Plan, oracle: Option<&End>, bug: Option<Bug>, outcome: &mut Outcome) -> Result<()> {
        let namespace = self.cluster.namespace("fault").await?;
        let client = Client::try_from(self.config.clone())?;
        let secret = site::secret(namespace.name());
        let source = Source::default();
        let script = source.serve().await?;
        let proxy = Proxy::new(script.url.clone(), &secret);
        let served = proxy.serve().await?;
        let tap = Tap::new(&plan.faults, proxy, bug.map(|bug| bug.place));
        let ends = EndOfLife(Arc::clone(&tap));
        let saboteur = bug.map(|bug| {
            let task = tokio::spawn(Saboteur::new(client, &namespace, bug).act(Arc::clone(&tap)));
            AbortOnDrop(task)
        });
        let followed = Box::pin(self.follow(plan, &tap, &source, (&namespace, &served.url), oracle, bug, outcome));
        let lived = timeout(BOUND, followed)
            .await
            .unwrap_or_else(|_| Err(anyhow::anyhow!("it did not end within {} s", BOUND.as_secs())));
        let writes = tap.writes();
        outcome.left = tap.left().len();
        outcome.requests = tap.requests();
        outcome.writes = writes.len();
        outcome.places = place::of(&writes);
        outcome.timeline = timeline(&writes);
        for line in self.ears.heard(&secret) {
            outcome.break_rule(safety(15), format!("the log says {line}"));
        }
        if let Some(task) = saboteur
            && task.0.is_finished()
        {
            task.join().await?.context("the bug")?;
        }
        drop(ends);
        namespace.clear().await?;
        lived
    }

    #[expect(clippy::too_many_arguments, reason = "what one course is made of")]
    async fn follow(
        &self,
        plan: &Plan,
        tap: &Arc<Tap>,
        source: &Source,
        (namespace, address): (&Namespace, &str),
        oracle: Option<&End>,
        bug: Option<Bug>,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let mut crashes = tap.crashes();
        let mut term = 1;
        let begin = |term, absent| Life::begin(&self.config, namespace, tap, address, term, absent);
        let mut life = begin(term, Duration::ZERO)?;
        let driven = workload::drive(plan.workload, namespace, &self.observer, source);
        tokio::pin!(driven);
        let bound = async {
            tap.at_its_place().await;
            sleep(BUG_BOUND).await;
        };
        tokio::pin!(bound);
        let driven = loop {
            tokio::select! {
                driven = &mut driven => break driven,
                () = &mut bound, if bug.is_some() => break Err(anyhow::anyhow!("no end within {} s of the bug", BUG_BOUND.as_secs())),
                one = crashes.changed() => {
                    one.context("the tap is gone")?;
                    life.kill();
                    sleep(OUTAGE).await;
                    term += 1;
                    life = begin(term, OUTAGE)?;
                }
            }
        };
        tap.go_on();
        // What may still be under way when the course has come to its end: templates that are cleared away, a command that is, an
        // Event.
        let is_there = || {
            let end = || End::of(&self.observer.world(namespace.name()), &[]);
            oracle.is_none_or(|oracle| end().has_all_of(oracle))
        };
        let ended = self
            .come_to_rest(tap, &mut crashes, &mut life, &mut term, (&begin, &is_there))
            .await;
        let writes = tap.writes();
        if life.scrape().contains(HUSH) {
            outcome.break_rule(safety(15), "the metrics have a secret in them".to_owned());
        }
        // One that is stuck because the plan let it crash has not panicked.
        if let Err(error) = life.end().await
            && !crashes.has_changed().unwrap_or(true)
        {
            outcome.break_rule(safety(16), format!("{error:#}"));
        }
        let history = self.observer.history(namespace.name());
        self.observer.forget(namespace.name());
        let course = Course {
            history: &history,
            writes: &writes,
            told: Some(&tap.source().told()),
            steps: &STEPS,
            drain: process::limits().drain.duration(),
        };
        outcome.violations.extend(course.check());
        if let Err(error) = ended {
            outcome.break_rule(safety(11), format!("{error:#}"));
        }
        let times = match driven {
            Ok(times) => times,
            Err(error) => {
                let rule = match plan.workload {
                    Workload::Rival => liveness(4),
                    Workload::Deletion => liveness(5),
                    _ => liveness(1),
                };
                outcome.break_rule(rule, format!("{error:#}"));
                return Ok(());
            }
        };
        if let Some(aborted) = times.aborted {
            outcome.answer = first_fall(&history, aborted);
            outcome.way_back = way_back(&history, aborted);
            let bound = AT_ONCE + plan.faults.iter().map(|fault| fault.kind.lasts()).sum::<Duration>();
            if outcome.answer.is_none_or(|answer| answer > bound) {
                let answer = outcome.answer;
                outcome.break_rule(
                    liveness(2),
                    format!("the first write after the abort came after {answer:?}, and {bound:?} is the most"),
                );
            }
        }
        let mut world = World::default();
        for version in &history {
            world.take(version);
        }
        let end = End::of(&world, &writes);
        if let Some(oracle) = oracle {
            let slack = slack(&plan.faults);
            outcome.wrong.extend(end.differs(oracle, slack));
        }
        outcome.end = Some(end);
        Ok(())
    }

    /// Waits until nothing was written for some time, and for the end that the oracle came to where it is still to come.
    async fn come_to_rest(
        &self,
        tap: &Arc<Tap>,
        crashes: &mut tokio::sync::watch::Receiver<usize>,
        life: &mut Life,
        term: &mut i32,
        (begin, is_there): (&impl Fn(i32, Duration) -> Result<Life>, &impl Fn() -> bool),
    ) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            // On a busy machine one answer takes as long as rest does elsewhere.
            let asked = Instant::now();
            self.cluster.client().apiserver_version().await?;
            let rest = REST + 4 * asked.elapsed();
            // What has just come to be may rest on a write whose answer is still under way.
            let (before, was_there) = (tap.writes().len(), is_there());
            tokio::select! {
                () = sleep(rest) => {}
                one = crashes.changed() => {
                    one.context("the tap is gone")?;
                    sleep(OUTAGE).await;
                    *term += 1;
                    std::mem::replace(life, begin(*term, OUTAGE)?).kill();
                    continue;
                }
            }
            let late = Instant::now() >= deadline;
            if tap.writes().len() == before && (late || (was_there && is_there())) {
                return Ok(());
            }
            if tap.writes().len() == before {
                continue;
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "it goes on writing:\n{}",
                timeline(&tap.writes())
            );
        }
    }
}

/// So many more commits than without faults are explained: each new leader takes the run over, a refusal is said and taken back, and while
/// a view is old or a source down the numbers are refreshed.
fn slack(faults: &[Fault]) -> usize {
    faults
        .iter()
        .map(|fault| match fault.kind {
            // As many lives as there were.
            Kind::CrashEvery(_) => usize::MAX / 2,
            kind if kind.ends_the_process() => 3,
            Kind::Answer(_) | Kind::Source(..) | Kind::Stale(..) | Kind::HalfOpen(_) => 4,
            _ => 2,
        })
        .fold(0, usize::saturating_add)
}

/// The versions of the route that were stored after this moment.
fn routes_after(history: &[Version], moment: Timestamp) -> impl Iterator<Item = (Timestamp, &Value)> {
    history
        .iter()
        .filter(move |version| version.kind == "HTTPRoute" && version.at > moment)
        .filter_map(|version| Some((version.at, version.object.as_deref()?)))
}

/// From the abort to the first weight of the canary that is lower than the one before it.
fn first_fall(history: &[Version], aborted: Timestamp) -> Option<Duration> {
    let before = history
        .iter()
        .rev()
        .find(|version| version.kind == "HTTPRoute" && version.at <= aborted)?;
    let before = canary_weight(before.object.as_deref()?);
    let (at, _) = routes_after(history, aborted).find(|(_, route)| canary_weight(route) < before)?;
    Some(at.duration_since(aborted).unsigned_abs())
}

/// From the abort to the weight 0 that every parent has accepted.
fn way_back(history: &[Version], aborted: Timestamp) -> Option<Duration> {
    let is_back = |route: &Value| {
        let generation = route.pointer("/metadata/generation").and_then(Value::as_i64);
        let seen = route
            .pointer("/status/parents/0/conditions/0/observedGeneration")
            .and_then(Value::as_i64);
        canary_weight(route) == 0 && seen == generation
    };
    let (at, _) = routes_after(history, aborted).find(|(_, route)| is_back(route))?;
    Some(at.duration_since(aborted).unsigned_abs())
}

/// Ends a task with its test.
struct AbortOnDrop(tokio::task::JoinHandle<Result<()>>);

impl AbortOnDrop {
    /// What it came to, once it has ended.
    async fn join(mut self) -> Result<Result<()>> {
        Ok((&mut self.0).await?)
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whatever becomes of a course, no request of its operator leaves afterwards.
struct EndOfLife(Arc<Tap>);

impl Drop for EndOfLife {
    fn drop(&mut self) {
        self.0.end_life();
    }
}

fn timeline(writes: &[super::layer::Write]) -> String {
    let lines = writes.iter().map(|write| {
        let said = write
            .body
            .pointer("/status/message")
            .or_else(|| write.body.pointer("/metadata/name"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        format!(
            "  {:>3} {} {:<6} {:<40} {:<4} {said}\n",
            write.number,
            write.at.strftime("%T%.3f"),
            write.method,
            write.target(),
            write.status.map_or("-".to_owned(), |status| status.to_string()),
        )
    });
    lines.collect()
}
