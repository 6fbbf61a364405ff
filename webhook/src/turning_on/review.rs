//! Turning on at a review: what has to stand on the Lease before the review is answered.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use leader_agent::{id::LeaderId, names};
use serde_json::{Value, json};

use super::{BadSelector, Entry, Kind, TurningOn, Verdict, Workload, belongs, list, sets};
use crate::{
    access::is_for,
    inject::{EVERYWHERE, Election, Wanted},
    review::Review,
};

/// How often a write begins again because somebody else wrote first: a leader renews its Lease every few hundred milliseconds at most.
const RACES: u32 = 8;
/// The pause before the first of them; it doubles.
const RACE_PAUSE: Duration = Duration::from_millis(5);

/// Whose pods an election has to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The workload.
    pub workload: Workload,
    /// What is waited for.
    pub entry: Entry,
    /// Pods of before are gone at once when they are deleted, so that nobody reports their end.
    pub unreported: bool,
}

impl Waiting {
    /// For the person at kubectl; nothing where nobody has to wait.
    pub fn warnings(&self, namespace: &str, id: &LeaderId) -> Vec<String> {
        let count = self.entry.pods.len() + self.entry.more;
        let pods = if count == 1 { "1 pod of before has".to_owned() } else { format!("{count} pods of before have") };
        let mut warnings = Vec::new();
        if count > 0 {
            let why = "they run the app without this election";
            warnings.push(format!("nobody begins to lead `{id}` until {pods} ended: {why}"));
        }
        if count > 0 && self.unreported {
            warnings.push(format!(
                "terminationGracePeriodSeconds: 0: nobody reports the end of the pods of before; once they are gone, say so by `kubectl \
                 leader resume {id} -n {namespace}`"
            ));
        }
        warnings
    }
}

/// What a review asks of the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// What has to stand there.
    pub waiting: Option<Waiting>,
    /// The annotation of a Lease that has to be made, where it needs one.
    pub of_new_lease: Option<String>,
}

/// Why it is not known what has to be waited for.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// A request failed.
    #[error("looking up the pods that run without the election failed: {}", crate::api_error::reason(.0))]
    Request(#[from] Box<kube::Error>),
    /// There is no telling which are its pods.
    #[error(transparent)]
    Selector(#[from] BadSelector),
}

/// What `election`, which the review came to, has to wait for.
///
/// An object that was there before, and whose template did not take part in this election, has pods that run the app without it, or may
/// make some before what this review decides is stored. One that is being made may find pods of an earlier one, which it adopts, or
/// which are still shutting down.
pub async fn asked(client: &Client, namespace: &str, review: &Review, election: &Election) -> Result<Asked, AskError> {
    let object = review.object.as_ref().unwrap_or(&Value::Null);
    // Where a Lease is missing that was there, nobody here knows what it said.
    let lost = Asked { waiting: None, of_new_lease: TurningOn::of_a_lost_lease().to_annotation() };
    let may_go_back = |workload: &Workload| review.old.as_ref().is_some_and(|old| workload.may_go_back(old, object));
    let workload = Workload::of(object).filter(|workload| !election.live_before || may_go_back(workload));
    let Some(workload) = workload else { return Ok(lost) };
    if election.container == EVERYWHERE {
        // The app runs in every pod, so those of before may as well.
        let is_first = !has_pods(client, namespace, &election.id).await.map_err(Box::new)?;
        return Ok(if is_first { Asked::default() } else { lost });
    }
    let selector = workload.selector(object)?;
    let wanted = Wanted { containers: [election.container.clone()].into(), ..Wanted::id(election.id.as_str()) };
    let (version, seen) = list(client, namespace, &selector, &wanted).await.map_err(Box::new)?;
    let plain = || seen.iter().filter(|pod| pod.verdict == Verdict::Waited);
    let is_made = review.old.is_none();
    let needs_sets = match workload.kind {
        // One that is made adopts sets that are left, which may not have made their pods yet.
        Kind::Deployment => is_made || plain().next().is_some(),
        Kind::CronJob => plain().next().is_some(),
        _ => false,
    };
    let sets = if needs_sets {
        sets(client, namespace, &workload, &selector, &wanted).await.map_err(Box::new)?
    } else {
        Vec::new()
    };
    let ours = plain().filter(|pod| belongs(pod.owner.as_ref(), &workload, &sets));
    let pods: BTreeMap<String, String> = ours.map(|pod| (pod.uid.clone(), pod.name.clone())).collect();
    let makes_more = sets.iter().any(|set| set.is_of(&workload) && set.is_plain && set.makes_pods.is_some());
    if is_made && pods.is_empty() && !makes_more {
        // Where pods take part already, a Lease that is missing was lost.
        let is_first = !has_pods(client, namespace, &election.id).await.map_err(Box::new)?;
        return Ok(if is_first { Asked::default() } else { lost });
    }
    let entry = Entry::new(selector, version, review.request.uid.clone(), pods);
    let entry = Entry { containers: wanted.containers, created: is_made, ..entry };
    let grace = |object: &Value| object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_i64();
    let unreported = review.old.as_ref().and_then(grace) == Some(0);
    let waiting = Waiting { workload, entry, unreported };
    let mut said = TurningOn::default();
    said.add(waiting.workload.clone(), waiting.entry.clone());
    // Others may take part under the id, of whom a Lease that was lost said more.
    said.unknown = true;
    Ok(Asked { of_new_lease: said.to_annotation(), waiting: Some(waiting) })
}

/// Whether pods carry the label of an id.
async fn has_pods(client: &Client, namespace: &str, id: &LeaderId) -> Result<bool, kube::Error> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods.list_metadata(&ListParams::default().labels(&format!("{}={id}", names::ID)).limit(1)).await?;
    Ok(!list.items.is_empty())
}

/// Why an entry does not stand on the Lease.
#[derive(Debug, thiserror::Error)]
pub enum SetError {
    /// A request failed.
    #[error("{}", crate::api_error::reason(.0))]
    Request(#[from] Box<kube::Error>),
    /// The Lease is not there: somebody deletes it.
    #[error("the Lease is not there")]
    Gone,
    /// Others kept writing it.
    #[error("the Lease was changed by others {RACES} times in a row: try again")]
    Race,
}

/// Puts the entry on the Lease, which exists. When it returns, the entry is stored.
pub async fn set(client: &Client, namespace: &str, id: &LeaderId, waiting: &Waiting) -> Result<(), SetError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    for race in 0..RACES {
        let lease = leases.get_opt(id.as_str()).await.map_err(Box::new)?;
        let lease = lease.filter(|lease| is_for(lease, id)).ok_or(SetError::Gone)?;
        let mut said = TurningOn::of(&lease).unwrap_or_default();
        let stands = said.workloads.get(&waiting.workload);
        if stands.is_some_and(|entry| !entry.review.is_empty() && entry.review == waiting.entry.review) {
            return Ok(());
        }
        said.add(waiting.workload.clone(), waiting.entry.clone());
        if swap(client, namespace, &lease, &said).await.map_err(Box::new)? {
            return Ok(());
        }
        tokio::time::sleep(RACE_PAUSE * (1 << race)).await;
    }
    Err(SetError::Race)
}

/// Writes what the Lease says, if it is still the one that was read; whether it was.
///
/// A merge patch changes nothing but this annotation, and never makes a Lease.
pub async fn swap(client: &Client, namespace: &str, lease: &Lease, said: &TurningOn) -> Result<bool, kube::Error> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let patch = json!({ "metadata": {
        "uid": lease.uid(),
        "resourceVersion": lease.resource_version(),
        "annotations": { (names::TURNING_ON): said.to_annotation() },
    } });
    let parameters = PatchParams { field_manager: Some("leader-webhook".to_owned()), ..PatchParams::default() };
    match leases.patch(&lease.name_any(), &parameters, &Patch::Merge(patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error),
    }
}
