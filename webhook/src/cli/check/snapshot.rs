//! The cluster at one moment, as far as it was read. [`super::gather`] fills it, [`super::judge`] reads it.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::version::Info;
use leader_agent::names;
use serde_json::Value;

pub(super) use crate::cli::objects::{id, is_injected, is_living, name, namespace, time, title};

/// Something that was read, or why it could not be.
pub(super) type Read<T> = Result<T, String>;

/// What became of the workload that was sent for a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It would be stored as it came out of the review.
    Stored(Box<Value>),
    /// It would not be, and this is what the API server said.
    Refused {
        /// The HTTP status.
        code: u16,
        /// The message.
        message: String,
    },
}

/// The cluster.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// The API server's clock.
    pub(super) now: Timestamp,
    /// The version of this program.
    pub(super) own_version: String,
    /// The namespace that the webhook runs in.
    pub(super) namespace: String,
    /// The namespace of the dry run.
    pub(super) review_namespace: String,
    pub(super) server: Read<Info>,
    /// `MutatingWebhookConfiguration leader-webhook`.
    pub(super) configuration: Read<Option<Value>>,
    /// Every `ValidatingAdmissionPolicy`.
    pub(super) policies: Read<Vec<Value>>,
    /// Every `ValidatingAdmissionPolicyBinding`.
    pub(super) policy_bindings: Read<Vec<Value>>,
    /// `Deployment leader-webhook`.
    pub(super) deployment: Read<Option<Value>>,
    /// Its pods.
    pub(super) webhook_pods: Read<Vec<Value>>,
    /// What each of its pods serves under `/metrics`, by the pod's name.
    pub(super) figures: BTreeMap<String, Read<String>>,
    /// The certificates (PEM) in the authority's Secret. Its key is not kept.
    pub(super) authority: Read<Option<String>>,
    /// `ClusterRole` and `ClusterRoleBinding leader-webhook`.
    pub(super) rights: Read<(Option<Value>, Option<Value>)>,
    /// The Roles and `RoleBindings` of its namespace.
    pub(super) own_rights: Read<(Vec<Value>, Vec<Value>)>,
    pub(super) answer: Read<Answer>,
    /// Workloads with an annotation of ours, on themselves or on their pod template.
    pub(super) workloads: Read<Vec<Value>>,
    /// Pods with the label of an id.
    pub(super) pods: Read<Vec<Value>>,
    /// Metadata of pods that are annotated with an id and lack its label.
    pub(super) bare_pods: Read<Vec<Value>>,
    /// Leases of ids.
    pub(super) leases: Read<Vec<Value>>,
    /// Service accounts with the label of an id.
    pub(super) accounts: Read<Vec<Value>>,
    /// Roles with the label of an id.
    pub(super) roles: Read<Vec<Value>>,
    /// Role bindings with the label of an id.
    pub(super) bindings: Read<Vec<Value>>,
    pub(super) network_policies: Read<Vec<Value>>,
    /// Every Service.
    pub(super) services: Read<Vec<Value>>,
    /// Addresses and ports under which pods reach the API server: its Service's, and what is behind that.
    pub(super) api_server: Read<Vec<(std::net::IpAddr, u16)>>,
}

/// All that belongs to one id.
#[derive(Clone, Debug, Default)]
pub(super) struct Election<'a> {
    pub(super) lease: Option<&'a Value>,
    pub(super) workloads: Vec<&'a Value>,
    pub(super) pods: Vec<&'a Value>,
}

impl Snapshot {
    /// The elections by namespace and id, and what could not be read of them.
    pub(super) fn elections(&self) -> Read<BTreeMap<(&str, &str), Election<'_>>> {
        let (workloads, pods, leases) = (listed(&self.workloads)?, listed(&self.pods)?, listed(&self.leases)?);
        let mut elections: BTreeMap<_, Election<'_>> = BTreeMap::new();
        for workload in workloads {
            if let Some(id) = id(workload) {
                elections.entry((namespace(workload), id)).or_default().workloads.push(workload);
            }
        }
        for pod in pods {
            if let Some(id) = pod["metadata"]["labels"][names::ID].as_str() {
                elections.entry((namespace(pod), id)).or_default().pods.push(pod);
            }
        }
        // A Lease alone is waiting to be collected.
        for lease in leases {
            if let Some(election) = elections.get_mut(&(namespace(lease), name(lease))) {
                election.lease = Some(lease);
            }
        }
        Ok(elections)
    }
}

impl Election<'_> {
    /// The accounts under which its pods run, or will.
    pub(super) fn accounts(&self) -> BTreeSet<&str> {
        let templates = self.workloads.iter().filter(|workload| is_injected(&workload["spec"]["template"]));
        let templates = templates.map(|workload| &workload["spec"]["template"]["spec"]);
        let living = self.pods.iter().filter(|pod| is_living(pod)).map(|pod| &pod["spec"]);
        templates.chain(living).map(|spec| spec["serviceAccountName"].as_str().unwrap_or("default")).collect()
    }

    /// Its pods that have not ended and are not ending.
    pub(super) fn living_pods(&self) -> impl Iterator<Item = &Value> {
        self.pods.iter().copied().filter(|pod| is_living(pod))
    }
}

fn listed(read: &Read<Vec<Value>>) -> Result<&[Value], String> {
    read.as_deref().map_err(Clone::clone)
}
