//! Looking at a workload and its pods as they are at the API server now. Never at a cache: a request that names no resourceVersion is
//! answered from the newest state.

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DynamicObject, ListParams},
};

use super::{Kind, Owner, Verdict, Workload, has_ended, owner, pods::is_lost, verdict};
use crate::inject::{self, Wanted};

/// How many pods one request lists: a few megabytes.
pub(super) const PAGE: u32 = 500;
/// How often a list begins again that took longer than the API server remembers where it was.
const ATTEMPTS: usize = 3;
/// What the API server answers then.
const EXPIRED: u16 = 410;
/// The label that a StatefulSet puts on its pods.
const REVISION: &str = "controller-revision-hash";

/// A pod with the labels of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// What controls it.
    pub owner: Option<Owner>,
    /// What it means to the election.
    pub verdict: Verdict,
    /// It has not ended, and its agent takes part under the id, whatever container that one wraps.
    pub takes_part: bool,
    /// It is waited for, and nobody will report its end any more.
    pub is_lost: bool,
    /// The revision of a StatefulSet's template that it was made of.
    pub revision: Option<String>,
}

impl Seen {
    /// What is seen of `pod` for an election.
    pub fn of(pod: &Pod, wanted: &Wanted) -> Self {
        let verdict = verdict(pod, wanted);
        Self {
            uid: pod.uid().unwrap_or_default(),
            name: pod.name_any(),
            owner: owner(pod),
            verdict,
            takes_part: inject::pod_is_elected(pod, &Wanted::id(&wanted.id)) && !has_ended(pod),
            is_lost: verdict == Verdict::Waited && is_lost(pod),
            revision: pod.labels().get(REVISION).cloned(),
        }
    }
}

/// All pods with these labels, and the resourceVersion at which they are so.
pub async fn list(
    client: &Client,
    namespace: &str,
    selector: &str,
    wanted: &Wanted,
) -> Result<(String, Vec<Seen>), kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut attempt = 0;
    'again: loop {
        attempt += 1;
        let mut parameters = ListParams::default().labels(selector).limit(PAGE);
        let mut seen = Vec::new();
        loop {
            let page = match pods.list(&parameters).await {
                Err(kube::Error::Api(status)) if status.code == EXPIRED && attempt < ATTEMPTS => continue 'again,
                page => page?,
            };
            seen.extend(page.items.iter().map(|pod| Seen::of(pod, wanted)));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
                // All pages are of one moment.
                _ => return Ok((page.metadata.resource_version.unwrap_or_default(), seen)),
            }
        }
    }
}

/// The pod of this name, whatever its labels are by now.
pub async fn pod_called(
    client: &Client,
    namespace: &str,
    name: &str,
    wanted: &Wanted,
) -> Result<Option<Seen>, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods.list(&ListParams::default().fields(&format!("metadata.name={name}"))).await?;
    Ok(list.items.first().map(|pod| Seen::of(pod, wanted)))
}

/// The workload itself.
pub async fn object(
    client: &Client,
    namespace: &str,
    workload: &Workload,
) -> Result<Option<DynamicObject>, kube::Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &workload.kind.resource());
    // A list, which is a right that is needed anyway.
    let list = api.list(&ListParams::default().fields(&format!("metadata.name={}", workload.name))).await?;
    Ok(list.items.into_iter().next())
}

/// All workloads of the namespace whose pods take part in the election `id`. For when nobody knows which: whole objects are read.
pub async fn workloads(
    client: &Client,
    namespace: &str,
    id: &str,
) -> Result<Vec<(Workload, DynamicObject)>, kube::Error> {
    let mut found = Vec::new();
    for kind in Kind::ALL {
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind.resource());
        let mut parameters = ListParams::default().limit(PAGE);
        loop {
            let page = api.list(&parameters).await?;
            for item in page.items {
                let workload = Workload { kind, name: item.name_any() };
                // What another one makes takes part as that one does.
                let made = item.owner_references().iter().any(|owner| owner.controller == Some(true));
                if !made && elected_container(&workload, &item, id).is_some() {
                    found.push((workload, item));
                }
            }
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
                _ => break,
            }
        }
    }
    Ok(found)
}

/// The container that the pods of a workload's template wrap in the election `id`; `None` where they take no part.
pub fn elected_container(workload: &Workload, object: &DynamicObject, id: &str) -> Option<String> {
    let spec = &object.data["spec"];
    let template = match workload.kind {
        Kind::CronJob => &spec["jobTemplate"]["spec"]["template"],
        _ => &spec["template"],
    };
    inject::elected_container(template, id)
}
