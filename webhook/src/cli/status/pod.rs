//! A pod of an election: whose it is, and what part it takes.

use leader_agent::{mode::Mode, names};
use serde::Serialize;
use serde_json::Value;

use crate::cli::objects::{annotation, is_living, name};

/// The id under which a pod takes part.
pub(super) fn id_of(pod: &Value) -> Option<&str> {
    pod["metadata"]["labels"][names::ID].as_str()
}

/// A pod of an election.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::cli) struct Member {
    /// Its name.
    pub(in crate::cli) pod: String,
    /// Where it runs; nothing before it was scheduled.
    pub(in crate::cli) node: Option<String>,
    /// Whether it is Ready; of a standby, whether it can take over, as far as that is seen from outside.
    pub(in crate::cli) ready: bool,
}

/// Where a pod stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Part {
    /// Its agent runs.
    Candidate,
    /// It has no agent yet, or not any more.
    Starting,
    /// It was asked to end.
    Ending,
    /// It has ended.
    Ended,
    /// It takes no part: it was not injected.
    None,
}

/// What is read of a pod.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Pod<'a> {
    object: &'a Value,
    record: Value,
}

impl<'a> Pod<'a> {
    pub(in crate::cli) fn new(object: &'a Value) -> Self {
        let record = annotation(object, names::INJECTED).and_then(|text| serde_json::from_str(text).ok());
        Self { object, record: record.unwrap_or_default() }
    }

    pub(in crate::cli) fn name(&self) -> &'a str {
        name(self.object)
    }

    pub(in crate::cli) fn uid(&self) -> &'a str {
        self.object["metadata"]["uid"].as_str().unwrap_or_default()
    }

    /// The id under which it takes part.
    pub(in crate::cli) fn id(&self) -> Option<&'a str> {
        id_of(self.object)
    }

    /// Whether `identity` is that of an agent in this very pod.
    pub(in crate::cli) fn is(&self, identity: &str) -> bool {
        identity.starts_with(&format!("{}_{}_", self.name(), self.uid()))
    }

    /// How election concerns the app, as the record of the injection says.
    pub(in crate::cli) fn mode(&self) -> Mode {
        self.record["mode"].as_str().and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// The container that has the app, as the record of the injection says.
    pub(in crate::cli) fn container(&self) -> Option<&str> {
        self.record["container"].as_str()
    }

    fn node(&self) -> Option<String> {
        self.object["spec"]["nodeName"].as_str().map(str::to_owned)
    }

    fn is_ready(&self) -> bool {
        let conditions = self.object["status"]["conditions"].as_array().into_iter().flatten();
        conditions.filter(|condition| condition["type"] == "Ready").any(|ready| ready["status"] == "True")
    }

    /// Whether the container in which the agent elects runs: the app's, or the agent's own.
    fn is_campaigning(&self) -> bool {
        let status = &self.object["status"];
        let all = ["containerStatuses", "initContainerStatuses"];
        let all = all.iter().flat_map(|field| status[field].as_array().into_iter().flatten());
        let elects = |name: &Value| Some(name) == self.record.get("container") || name == names::INIT_CONTAINER;
        all.filter(|container| elects(&container["name"])).any(|container| !container["state"]["running"].is_null())
    }

    pub(in crate::cli) fn part(&self) -> Part {
        if self.record.is_null() {
            Part::None
        } else if !self.object["metadata"]["deletionTimestamp"].is_null() {
            Part::Ending
        } else if !is_living(self.object) {
            Part::Ended
        } else if self.is_campaigning() {
            Part::Candidate
        } else {
            Part::Starting
        }
    }

    pub(in crate::cli) fn member(&self) -> Member {
        Member { pod: self.name().to_owned(), node: self.node(), ready: self.is_ready() }
    }

    /// As a standby: where only the leader is Ready, or the app says so itself, being Ready tells nothing about taking over.
    pub(in crate::cli) fn standby(&self) -> Member {
        let ready = self.mode() != Mode::Run || self.is_ready();
        Member { ready, ..self.member() }
    }

    /// What made it, as kubectl names it. The Deployment of a `ReplicaSet` is told by the names of the two, so that nobody needs the
    /// right to read those.
    pub(in crate::cli) fn workload(&self) -> Option<String> {
        let owners = self.object["metadata"]["ownerReferences"].as_array()?;
        let owner = owners.iter().find(|owner| owner["controller"] == true)?;
        let (kind, name) = (owner["kind"].as_str()?, owner["name"].as_str()?);
        let hash = self.object["metadata"]["labels"]["pod-template-hash"].as_str();
        let deployment =
            hash.filter(|_| kind == "ReplicaSet").and_then(|hash| name.strip_suffix(hash)?.strip_suffix('-'));
        Some(match deployment {
            Some(deployment) => format!("deployment/{deployment}"),
            None => format!("{}/{name}", kind.to_lowercase()),
        })
    }
}
