//! The record: what an injection remembers, JSON in an annotation of the pod template.
//!
//! The agent reads `id`, `container`, `mode`, `statusFile`, `leaseDuration`, `stopGrace`, `stopSignal`, `port`, `probes`, `hooks`,
//! `terminationGrace`, `prefer`, `unhealthyStepDown`, `follow` and `followers`; the rest is what ejecting needs. It only grows: fields that this version does not know are kept.

use std::collections::BTreeMap;

use leader_agent::{id::LeaderId, mode::Mode, names};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ImageFacts, Refusal, entry::Entry, follow::Follower, json::is_empty, status};

/// The version of the record that this program writes.
const VERSION: u32 = 1;
/// The longest record, in bytes. The agent gets it as an environment string, and Linux takes at most 128 KiB of those
/// (`MAX_ARG_STRLEN`, execve(2)).
pub(super) const LIMIT: usize = 100_000;

/// What an injection remembers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    version: u32,
    /// The id, a valid one.
    pub id: String,
    /// The wrapped container; in mode `observe` the one that the election is about.
    pub container: String,
    /// How the election concerns the app.
    #[serde(default, skip_serializing_if = "Mode::is_default")]
    pub mode: Mode,
    /// Where the status file is, in the modes that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_file: Option<String>,
    /// The status file's folder is a volume of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub status_volume: bool,
    /// Where the leader had better be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefer: Option<String>,
    /// For how long a leader may be unready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy_step_down: Option<String>,
    /// The containers that run and stop with the app.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub follow: Vec<String>,
    /// What is known of those, by their names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub followers: BTreeMap<String, Follower>,
    /// L as the user or the default gave it, e.g. `15s`.
    pub lease_duration: String,
    /// The stop grace that the user gave; the agent knows the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_grace: Option<String>,
    /// Whose service account the pods use.
    pub service_account: AccountMode,
    /// The entry point, as it stands in the container's command after `--`.
    pub command: Vec<String>,
    /// The wrapped container's image at the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The image of the agent at the time.
    pub agent_image: String,
    /// `lifecycle.stopSignal`, else the image's `STOPSIGNAL` as it is written there; absent means TERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// The agent's port; absent where it opens none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The user's probes, ready to be carried out: `liveness`, `readiness`, `startup`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub probes: Map<String, Value>,
    /// The user's lifecycle hooks, ready to be carried out: `postStart`, `preStop`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub hooks: Map<String, Value>,
    /// The pod's `terminationGracePeriodSeconds`, where it is stated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_grace: Option<i64>,
    /// Digest of the manifest or index that the image led to, when its registry was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What the image's configuration said then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_config: Option<ImageFacts>,
    /// The image's `CMD` as it stands in the container's `args`, where injection put it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// The pull secrets that injection put into the pods' list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pull_secrets: Vec<String>,
    /// The options as the user wrote them, by key without prefix.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// What stood in the places that injection changed.
    #[serde(default)]
    pub original: Original,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Whose service account the pods use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum AccountMode {
    /// `leader-<id>`.
    Dedicated,
    /// The template's own, or `default`.
    Keep,
}

/// What stood in the places that injection changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Original {
    /// The container set `command` itself, to what [`Record::command`] says.
    pub sets_command: bool,
    /// The account that the template named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// The deprecated twin, where it named another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// Annotations of ours that stood on the template as on the workload: their position, key and value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<(usize, String, Value)>,
    /// The cluster autoscaler's list of volumes that may be evicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safe_to_evict_local_volumes: Option<String>,
    /// The user's probes and hooks as they stood, by the name of the field (`livenessProbe`, `postStart`): handlers only.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub handlers: Map<String, Value>,
    /// Fields that were present and empty (`[]`, `{}`, `""`, null): the API server drops those, files have them.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub empty: Map<String, Value>,
    /// The same of containers beside the wrapped one, by their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub beside: BTreeMap<String, Map<String, Value>>,
    /// Fields of a newer version.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What an injection is made of, and with it most of its record.
#[derive(Clone, Debug)]
pub(super) struct Injection {
    pub id: LeaderId,
    pub container: String,
    pub mode: Mode,
    pub status_file: Option<String>,
    pub prefer: Option<String>,
    pub unhealthy_step_down: Option<String>,
    pub follow: Vec<String>,
    pub lease_duration: String,
    pub stop_grace: Option<String>,
    pub account: AccountMode,
    pub entry: Entry,
    pub agent_image: String,
    pub port: Option<u16>,
    pub probes: Map<String, Value>,
    pub hooks: Map<String, Value>,
    pub termination_grace: Option<i64>,
    pub pull_secrets: Vec<String>,
    pub options: BTreeMap<String, String>,
    pub rest: Map<String, Value>,
}

impl Injection {
    /// The record of this injection into a container of `image`; `status_volume` says that the status file's folder is a volume of ours.
    pub(super) fn record(
        self,
        image: Option<String>,
        status_volume: bool,
        followers: BTreeMap<String, Follower>,
        mut original: Original,
    ) -> Record {
        original.sets_command = self.entry.sets_command;
        Record {
            version: VERSION,
            id: self.id.to_string(),
            container: self.container,
            mode: self.mode,
            status_file: self.status_file,
            status_volume,
            prefer: self.prefer,
            unhealthy_step_down: self.unhealthy_step_down,
            follow: self.follow,
            followers,
            lease_duration: self.lease_duration,
            stop_grace: self.stop_grace,
            service_account: self.account,
            command: self.entry.command,
            image,
            agent_image: self.agent_image,
            stop_signal: self.entry.stop_signal,
            port: self.port,
            probes: self.probes,
            hooks: self.hooks,
            termination_grace: self.termination_grace,
            digest: self.entry.image.as_ref().map(|facts| facts.digest.clone()).filter(|digest| !digest.is_empty()),
            image_config: self.entry.image,
            args: self.entry.args,
            pull_secrets: self.pull_secrets,
            options: self.options,
            original,
            rest: self.rest,
        }
    }
}

impl Record {
    /// The record that a pod template carries; `Err` says why the annotation is not one.
    pub(super) fn of(template: &Value) -> Result<Option<Self>, String> {
        let Some(annotation) = template.pointer("/metadata/annotations").and_then(|all| all.get(names::INJECTED))
        else {
            return Ok(None);
        };
        Self::parse(annotation.as_str().ok_or("it is not a text")?).map(Some)
    }

    /// Reads the value of the annotation.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut record: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if record.version == 0 {
            return Err("its version is 0".to_owned());
        }
        record.id.parse::<LeaderId>().map_err(|error| error.to_string())?;
        // What is put back as empty is: somebody else may have written the record.
        record.original.empty.retain(|_, value| is_empty(value));
        for notes in record.original.beside.values_mut() {
            notes.retain(|_, value| is_empty(value));
        }
        Ok(record)
    }

    /// What was known about the wrapped container's image, if it was this one.
    pub(super) fn knows(&self, image: &str) -> Option<ImageFacts> {
        let facts = self.image_config.as_ref().filter(|_| self.image.as_deref() == Some(image))?;
        Some(ImageFacts { digest: self.digest.clone().unwrap_or_default(), ..facts.clone() })
    }

    /// The value of the annotation; the same record gives the same bytes.
    pub(super) fn to_annotation(&self) -> Result<String, Refusal> {
        // A record holds texts, numbers and JSON values only, which cannot fail to serialise; `Value` never does.
        let text = serde_json::to_value(self).map(|value| value.to_string()).unwrap_or_default();
        if text.len() > LIMIT {
            return Err(Refusal::RecordTooLarge { size: text.len(), limit: LIMIT, container: self.container.clone() });
        }
        Ok(text)
    }

    /// Whether whose account the pods use was decided by injection: nobody had asked for one or named one.
    pub(super) fn decided_account(&self) -> bool {
        let original = &self.original;
        // Pods have `default` from the API server, and nobody else asks for it and gets another one.
        let is_free = |name: &Option<String>| name.as_deref().is_none_or(|name| name == "default");
        !self.options.contains_key("service-account")
            && is_free(&original.service_account_name)
            && is_free(&original.service_account)
    }

    /// The names of our volumes.
    pub(super) fn volumes(&self) -> Vec<&'static str> {
        volumes(self.mode, self.status_volume)
    }

    /// The account of a dedicated injection.
    pub(super) fn dedicated_account(&self) -> Option<String> {
        (self.service_account == AccountMode::Dedicated).then(|| dedicated_name(&self.id))
    }
}

/// The names of our volumes in a template that is injected in this mode.
pub(super) fn volumes(mode: Mode, status_volume: bool) -> Vec<&'static str> {
    let agent = (mode != Mode::Observe).then_some(names::VOLUME);
    agent.into_iter().chain([names::TOKEN_VOLUME]).chain(status_volume.then_some(status::VOLUME)).collect()
}

/// The name of the service account that is made for an id.
pub(super) fn dedicated_name(id: &str) -> String {
    format!("leader-{id}")
}
