//! What is seen of a workload that is waited for, for whoever is to end that: the controller, and a person.
//!
//! It is read in the order in which nothing can slip through: the workload, what makes its pods, the pods. The Lease has to be read before.

use std::collections::BTreeMap;

use kube::{Client, api::DynamicObject};

use super::{
    Entry, Seen, Set, Verdict, Which, Workload, belongs, elected_container, list, may_make_pods, object, pod_called,
    sets, workloads,
};
use crate::inject::Wanted;

/// The workload as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Its template takes part in the election; why pods may be made that do not, where they may.
    Elected {
        /// Why.
        makes_plain_pods: Option<String>,
    },
    /// Its template takes part, but reviews decided that another container is to be wrapped: one of those may be stored yet.
    Undecided {
        /// The one that is wrapped.
        container: String,
    },
    /// Its template takes no part: what the review decided is not stored yet, or never will be, or was taken back since.
    Otherwise,
    /// It is not there.
    Absent,
}

/// What the API server says at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight {
    /// The workload.
    pub stored: Stored,
    /// Its pods by uid.
    pub pods: BTreeMap<String, Seen>,
    /// Pods that take part may be made, whatever the stored template is.
    pub makes_elected_pods: bool,
}

impl Sight {
    /// Whether an elected pod of this workload may begin to lead: one is there, or may be made though the stored template makes others.
    pub fn has_candidates(&self) -> bool {
        self.makes_elected_pods || self.pods.values().any(|pod| pod.takes_part)
    }
}

/// All that was looked at.
#[derive(Clone, Debug)]
pub struct Looked {
    /// What it comes to.
    pub sight: Sight,
    /// What makes the workload's pods.
    pub sets: Vec<Set>,
    /// The workload, where it is there.
    pub object: Option<DynamicObject>,
}

/// Looks at a workload and its pods as they are now.
pub async fn look(
    client: &Client,
    namespace: &str,
    id: &str,
    workload: &Workload,
    entry: &Entry,
) -> Result<Looked, kube::Error> {
    let object = object(client, namespace, workload).await?;
    let stored = object.as_ref().and_then(|object| elected_container(workload, object, id));
    let mut wanted = entry.wanted(id);
    // As long as it is not known which of them will be wrapped, none of them may run bare.
    wanted.containers.extend(stored.clone());
    let sets = sets(client, namespace, workload, &entry.selector, &wanted).await?;
    let (_, seen) = list(client, namespace, &entry.selector, &wanted).await?;
    let mut ours: Vec<Seen> = seen.into_iter().filter(|pod| belongs(pod.owner.as_ref(), workload, &sets)).collect();
    // Whoever takes a pod's labels away does not end it.
    for (uid, name) in &entry.pods {
        if !ours.iter().any(|pod| pod.uid == *uid)
            && let Some(pod) = pod_called(client, namespace, name, &wanted).await?
            && pod.uid == *uid
        {
            ours.push(pod);
        }
    }
    let may_make = |which: Which| may_make_pods(workload, object.as_ref(), &sets, &ours, which);
    let stored = match (&object, stored) {
        (None, _) => Stored::Absent,
        (Some(_), None) => Stored::Otherwise,
        // One that does not name containers was written without knowing of them.
        (Some(_), Some(container)) if entry.containers.iter().any(|other| *other != container) => {
            Stored::Undecided { container }
        }
        (Some(_), Some(_)) => Stored::Elected { makes_plain_pods: may_make(Which::Plain) },
    };
    let makes_elected_pods = may_make(Which::Elected).is_some();
    let pods = ours.into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
    Ok(Looked { sight: Sight { stored, pods, makes_elected_pods }, sets, object })
}

/// The workloads that take part in the election, each with the pods that run without it: for when nobody knows whom to wait for.
pub async fn look_for_workloads(
    client: &Client,
    namespace: &str,
    id: &str,
) -> Result<Vec<(Workload, Entry)>, kube::Error> {
    let mut found = Vec::new();
    for (workload, object) in workloads(client, namespace, id).await? {
        let containers = elected_container(&workload, &object, id).into_iter().collect();
        let wanted = Wanted { containers, ..Wanted::id(id) };
        // Of one that cannot be read all pods are looked at.
        let selector = workload.selector(&object.data).unwrap_or_default();
        let sets = sets(client, namespace, &workload, &selector, &wanted).await?;
        let (version, seen) = list(client, namespace, &selector, &wanted).await?;
        let ours = seen
            .into_iter()
            .filter(|pod| pod.verdict == Verdict::Waited && belongs(pod.owner.as_ref(), &workload, &sets));
        let pods = ours.map(|pod| (pod.uid, pod.name)).collect();
        let entry = Entry::new(selector, version, String::new(), pods);
        found.push((workload, Entry { containers: wanted.containers, ..entry }));
    }
    Ok(found)
}
