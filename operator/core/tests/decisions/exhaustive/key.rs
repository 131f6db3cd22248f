//! What makes two worlds the same: everything that a decision or a rule rests on, with times by how long ago they were, intents by how
//! far they are from the present one, and without uids, resourceVersions and words.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use super::{
    requests::{Request, What},
    world::{LEAP, Operator, PARTS, Part, World, pods},
};
use crate::fixtures::{cluster::Cluster, controllers::Metrics};

/// Longer ago is all the same: no limit of this world is longer.
const LONG: i64 = 200;

/// Fields that no decision rests on, or only by whether they are the ones of the object that is there.
const WORDS: [&str; 8] = [
    "resourceVersion",
    "uid",
    "generation",
    "message",
    "note",
    "refreshed",
    "history",
    "lastTransitionTime",
];

/// The name of a world's class.
pub(super) fn key(world: &World) -> u128 {
    let mut two = [DefaultHasher::new(), DefaultHasher::new()];
    1_u8.hash(&mut two[1]);
    for hasher in &mut two {
        hash_world(world, hasher);
    }
    (u128::from(two[0].finish()) << 64) | u128::from(two[1].finish())
}

fn hash_world(world: &World, hasher: &mut DefaultHasher) {
    let cluster = &world.cluster;
    let scale = Scale::of(world);
    for part in PARTS {
        scale.part(cluster, part, hasher);
    }
    for (at, older) in world.older.iter().enumerate() {
        older.is_some().hash(hasher);
        if let Some(older) = older {
            scale.part(older, PARTS[at], hasher);
        }
    }
    for spec in cluster.controllers.serving.values() {
        scale.value("", spec, hasher);
    }
    // The counts that may not have been looked at yet.
    let grid = &cluster.controllers.grid;
    for (end, (totals, metrics)) in grid.range(cluster.now - 5 * LEAP..) {
        (cluster.now - end, *metrics == Metrics::Up).hash(hasher);
        let Some((before, _)) = grid.get(&(end - LEAP)) else {
            continue;
        };
        for (name, total) in totals {
            let before = before.get(name).copied().unwrap_or_default();
            let requests = total.requests.floor() - before.requests.floor();
            let bad = total.bad.floor() - before.bad.floor();
            (name, requests.to_bits(), bad.to_bits()).hash(hasher);
        }
    }
    (cluster.now - world.checker.quiet_since).clamp(0, LONG).hash(hasher);
    format!("{:?}", cluster.weather).hash(hasher);
    // Which of the two it is does not matter.
    let mut operators = world
        .operators
        .each_ref()
        .map(|operator| scale.operator(operator, world.term));
    operators.sort_unstable();
    operators.hash(hasher);
    for request in &world.orphans {
        scale.request(request, hasher);
    }
    let is_led = world.operators.iter().any(|operator| operator.leads.is_some());
    (!is_led).then(|| scale.ago(world.leaderless)).hash(hasher);
    world.budget.hash(hasher);
    world.happened.hash(hasher);
}

/// What times and intents are measured from.
struct Scale {
    now: i64,
    seq: i64,
    term: i64,
}

impl Scale {
    fn of(world: &World) -> Self {
        let cluster = &world.cluster;
        let rollout = cluster.api.get("Rollout", "checkout");
        let seq = rollout
            .and_then(|rollout| rollout.pointer("/status/run/seq"))
            .and_then(Value::as_i64);
        Self {
            now: cluster.now,
            seq: seq.unwrap_or(0),
            term: world.term,
        }
    }

    fn part(&self, cluster: &Cluster, part: Part, hasher: &mut DefaultHasher) {
        for object in part.kinds().iter().flat_map(|kind| cluster.api.list(kind)) {
            self.value("", object, hasher);
            // Whether a controller or a gateway has seen it as it is.
            let generation = object["metadata"]["generation"].as_i64();
            let seen = [
                object.pointer("/status/observedGeneration"),
                object.pointer("/status/parents/0/conditions/0/observedGeneration"),
                object.pointer("/status/found/generation"),
            ];
            seen.map(|seen| seen.and_then(Value::as_i64) == generation).hash(hasher);
        }
        if part == Part::Workloads {
            pods(cluster).hash(hasher);
        }
    }

    fn operator(&self, operator: &Operator, term: i64) -> u64 {
        let mut hasher = DefaultHasher::new();
        operator.leads.map(|leads| term - leads).hash(&mut hasher);
        // What one that does not lead has seen it sees anew, or not, when it leads.
        let knows = operator.leads.map(|_| (operator.absent, operator.knows));
        knows.hash(&mut hasher);
        if let Some(stuck) = &operator.stuck {
            self.part(stuck, Part::Rollout, &mut hasher);
        }
        for request in &operator.requests {
            self.request(request, &mut hasher);
        }
        hasher.finish()
    }

    fn request(&self, request: &Request, hasher: &mut DefaultHasher) {
        let run = request.status.run.as_ref();
        run.map(|run| (&run.id, i64::from(run.seq) - self.seq, run.weight))
            .hash(hasher);
        match &request.what {
            What::Commit { status, command, .. } => {
                command.is_some().hash(hasher);
                self.value("status", &serde_json::to_value(&**status).unwrap(), hasher);
            }
            What::Effect(effect) => {
                effect.name.hash(hasher);
                (effect.kind as u8).hash(hasher);
                self.value("", &effect.act.goal(), hasher);
            }
        }
    }

    fn value(&self, field: &str, value: &Value, hasher: &mut DefaultHasher) {
        match value {
            Value::Null => 0_u8.hash(hasher),
            Value::Bool(is) => is.hash(hasher),
            Value::Number(number) => self.number(field, number, hasher),
            Value::String(text) => self.text(text, hasher),
            Value::Array(items) => {
                items.len().hash(hasher);
                for item in items {
                    self.value(field, item, hasher);
                }
            }
            Value::Object(fields) => {
                for (name, value) in fields {
                    let known = WORDS.contains(&name.as_str()) || name == "observedGeneration" || name == "generations";
                    // Those of a run are a report on its evidence.
                    let report = name == "metrics" && fields.contains_key("seq");
                    if !known && !report {
                        name.hash(hasher);
                        self.value(name, value, hasher);
                    }
                }
            }
        }
    }

    fn number(&self, field: &str, number: &serde_json::Number, hasher: &mut DefaultHasher) {
        let Some(whole) = number.as_i64() else {
            number.to_string().hash(hasher);
            return;
        };
        let by = match field {
            "seq" => self.seq - whole,
            "term" => self.term - whole,
            _ if whole > 1_000_000_000_000 => self.ago(whole / 1_000),
            _ if whole > 1_000_000_000 => self.ago(whole),
            _ => whole,
        };
        by.hash(hasher);
    }

    fn text(&self, text: &str, hasher: &mut DefaultHasher) {
        if text.len() > 18
            && text.ends_with('Z')
            && let Ok(time) = text.parse::<stepgate_crds::units::Timestamp>()
        {
            self.ago(time.as_millis() / 1_000).hash(hasher);
            return;
        }
        // A mark: `<run>.<intent>`.
        if let Some((run, seq)) = text.rsplit_once('.')
            && run.contains('-')
            && let Ok(seq) = seq.parse::<i64>()
        {
            (run, self.seq - seq).hash(hasher);
            return;
        }
        text.hash(hasher);
    }

    fn ago(&self, second: i64) -> i64 {
        (self.now - second).clamp(-LONG, LONG)
    }
}
