//! Injection: decides what shall be stored for an annotated workload, as a function from JSON values to a JSON value.
//!
//! It does no I/O and reads no clock. Asking registries and making the objects around an id is the server's part, files and
//! output are [`crate::cli`]'s; both call [`workload`].

mod account;
mod add;
mod advice;
mod agents;
mod ahead;
mod check;
mod decide;
mod eject;
mod elect;
mod entry;
mod follow;
mod handlers;
mod json;
mod keep;
mod observer;
mod off;
mod options;
mod parts;
mod patch;
mod progress;
mod pull_secrets;
mod record;
mod recorded;
mod refusal;
mod root;
mod shape;
mod stated;
mod status;

use std::collections::BTreeMap;

use leader_agent::id::LeaderId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use agents::{EVERYWHERE, Wanted, elected_container, pod_is_elected, template_is_elected};
pub use decide::workload;
pub use off::off;
pub use patch::patch;
pub use recorded::Recorded;
pub use refusal::Refusal;

/// What is configured for the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// The image of the injected init container, e.g. `ghcr.io/leader-io/leader-agent:0.1.0`.
    pub agent_image: String,
    /// The secret that this image is pulled with, in the namespace of each workload.
    pub agent_pull_secret: Option<String>,
}

/// What the caller looked up in the cluster, because a function without I/O cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The namespace's service account `default` gives pods something that another account would not: it is the subject of a
    /// `RoleBinding` or `ClusterRoleBinding`, or has annotations or `secrets` of its own. Its `imagePullSecrets` another one has too.
    pub default_account_in_use: bool,
    /// The namespace does not have the secret [`Defaults::agent_pull_secret`].
    pub lacks_agent_pull_secret: bool,
    /// The pull secrets that the pods' account gives them, where they name none.
    pub account_pull_secrets: Vec<String>,
    /// What is known about the image that a [`Decision::NeedsImage`] asked for; `None` until it asked.
    pub image: Option<ImageAnswer>,
    /// The record (the annotation `leader.io/injected`) of another pod of the same owner: it may tell the entry point of an
    /// image when the registry does not.
    pub sibling_record: Option<String>,
    /// Other workloads of the namespace that carry the same id, as `Deployment/billing`.
    pub other_workloads: Vec<String>,
    /// Services of the namespace that send traffic to all of the workload's pods.
    pub reaching_services: Vec<String>,
}

/// What became of asking for an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageAnswer {
    /// Its registry answered.
    Found(ImageFacts),
    /// It did not; why, in one clause.
    Failed(String),
    /// Nobody may ask registries here.
    NotAsked,
}

/// What an image's configuration says about how a container of it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageFacts {
    /// Digest of the manifest or index that the reference led to, e.g. `sha256:...`.
    #[serde(skip)]
    pub digest: String,
    /// `ENTRYPOINT`, empty where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// `CMD`, empty where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// `STOPSIGNAL`, as it is written in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

/// An image that must be looked up before anything can be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRequest {
    /// The reference, as it stands in the container.
    pub image: String,
    /// Names of the pods' own `imagePullSecrets`.
    pub pull_secrets: Vec<String>,
    /// The account under which the pods pull; its `imagePullSecrets` count when the pods have none of their own.
    pub service_account: String,
    /// Labels of the nodes on which the pods may run.
    pub node_selector: BTreeMap<String, String>,
    /// The entry point is wanted; otherwise only the stop signal is, which there is a default for.
    pub required: bool,
}

/// The answer to a workload that is not refused.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It is decided.
    Done(Outcome),
    /// Decide again with [`Facts::image`].
    NeedsImage(ImageRequest),
}

/// What is decided about a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What shall be stored.
    pub object: Value,
    /// The election that the stored template takes part in; `None` when it was ejected or never was injected.
    pub election: Option<Election>,
    /// For the person who wrote the object, in the order of importance; one sentence each.
    pub warnings: Vec<String>,
    /// Audit annotations: a name without prefix, and its value.
    pub audit: BTreeMap<String, String>,
}

/// The election that an injected template takes part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// The id: the Lease's name.
    pub id: LeaderId,
    /// The account under which its pods run, and which needs the right to use the Lease.
    pub account: Account,
    /// The template was made in this review; `false` when the live one or an arriving injected one was kept.
    pub injected_afresh: bool,
    /// The container that is wrapped, or [`EVERYWHERE`] where the app runs in every pod.
    pub container: String,
    /// The live template is injected with this very id and wraps this very container; `false` while the id is being turned on or
    /// changed, when another container is wrapped from now on, and when there is no live object.
    pub live_before: bool,
    /// The live template is injected with this very id, and its pods run under this very account: what this election needs was made by
    /// the review that brought it about, and is the controller's to keep.
    pub granted_before: bool,
}

/// The service account of an injected template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Account {
    /// `leader-<id>`, made for this id.
    Dedicated(String),
    /// An account of the user's, which stays.
    Keep(String),
}

impl Account {
    /// The account's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Dedicated(name) | Self::Keep(name) => name,
        }
    }
}
