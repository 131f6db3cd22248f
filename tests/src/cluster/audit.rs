//! Reads the API server's audit log: every request by user, verb and resource, which is how request budgets are counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde::Deserialize;

/// One request, as it was when it was answered. A watch has two: at its start (`ResponseStarted`) and at its end.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// `ResponseStarted`, `ResponseComplete` or `Panic`.
    pub stage: String,
    /// The path with its query.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: String,
    /// Who asked.
    pub user: Asker,
    /// What was asked for; absent for paths such as `/readyz`.
    #[serde(default)]
    pub object_ref: Option<ObjectRef>,
    /// The answer's status code.
    #[serde(default)]
    pub response_status: Option<Answer>,
    /// When the request arrived.
    #[serde(rename = "requestReceivedTimestamp")]
    pub received: Timestamp,
    /// When this stage was reached.
    #[serde(rename = "stageTimestamp")]
    pub reached: Timestamp,
    /// The caller's program.
    #[serde(default)]
    pub user_agent: String,
}

/// Who asked.
#[derive(Debug, Clone, Deserialize)]
pub struct Asker {
    /// The user's name, `system:serviceaccount:<namespace>:<name>` for a pod.
    pub username: String,
}

/// What was asked for. Absent parts are empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ObjectRef {
    /// The plural, as in the path.
    pub resource: String,
    /// `status`, `scale` and so on.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The name; empty for lists and most creations.
    pub name: String,
    /// The API group; empty for core.
    pub api_group: String,
}

/// The answer.
#[derive(Debug, Clone, Deserialize)]
pub struct Answer {
    /// The HTTP status code.
    #[serde(default)]
    pub code: u16,
}

impl Request {
    /// Whether it changes something (or tries to).
    pub fn is_write(&self) -> bool {
        !matches!(self.verb.as_str(), "get" | "list" | "watch")
    }

    /// The code of the answer; 0 where there was none.
    pub fn code(&self) -> u16 {
        self.response_status.as_ref().map_or(0, |answer| answer.code)
    }

    /// `patch deployments/status`: verb and resource, for a table.
    pub fn what(&self) -> String {
        let target = self.object_ref.as_ref();
        match target.map(|target| (target.resource.as_str(), target.subresource.as_str())) {
            None | Some(("", _)) => format!("{} {}", self.verb, self.uri),
            Some((resource, "")) => format!("{} {resource}", self.verb),
            Some((resource, subresource)) => format!("{} {resource}/{subresource}", self.verb),
        }
    }
}

/// A place in the audit log from which on requests are read.
#[derive(Debug, Clone)]
pub struct Mark {
    file: PathBuf,
    offset: u64,
}

impl Mark {
    /// The log's end as it is now.
    pub fn now(file: &Path) -> Result<Self> {
        let offset = file
            .metadata()
            .with_context(|| format!("reading {}", file.display()))?
            .len();
        Ok(Self {
            file: file.to_owned(),
            offset,
        })
    }

    /// The requests since the mark that `wanted` takes, in the order they were answered: each once, a watch at its start.
    pub fn requests(&self, wanted: impl Fn(&Request) -> bool) -> Result<Vec<Request>> {
        let mut file = File::open(&self.file).with_context(|| format!("opening {}", self.file.display()))?;
        let length = file.metadata()?.len();
        ensure!(
            length >= self.offset,
            "{} is shorter than at the mark: it was rotated, and requests since the mark are lost",
            self.file.display()
        );
        file.seek(SeekFrom::Start(self.offset))?;
        let mut found = Vec::new();
        for line in BufReader::new(file).lines() {
            let line = line.with_context(|| format!("reading {}", self.file.display()))?;
            // The last line may be half written.
            let Ok(request) = serde_json::from_str::<Request>(&line) else {
                continue;
            };
            let counts = if request.verb == "watch" {
                request.stage == "ResponseStarted"
            } else {
                request.stage != "ResponseStarted"
            };
            if counts && wanted(&request) {
                found.push(request);
            }
        }
        Ok(found)
    }
}

/// Counts requests by verb and resource.
pub fn table(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut table = BTreeMap::new();
    for request in requests {
        *table.entry(request.what()).or_default() += 1;
    }
    table
}
