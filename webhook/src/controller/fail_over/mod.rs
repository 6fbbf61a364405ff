//! Fast fail-over: a Lease whose holder has provably ended is freed at once, so that nobody waits for L. Only agents that cannot free it
//! themselves need this: killed for want of memory, by a node under pressure, by a crash.
//!
//! The order of the reads is part of the proof. The Lease is read first, then the pod, as the API server has it now, and the write holds
//! only for the very Lease that was read: a container that was started after the one that the pod's status tells of writes the Lease before
//! its app may run. If it did so before the first read, the record is younger than the end ([`proof`] refuses); if after it, the write fails.

#[cfg(test)]
mod interleavings;
pub mod proof;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use leader_agent::lease::record::Record;
use serde_json::{Map, Value, json};

use self::proof::{Ended, Holder, Unproven, prove};
use super::{
    Context, Error, Key, Requeue,
    reconcile::Memory,
    repair::{subjects, tell},
};
use crate::{
    access::is_for,
    events::{self, EventType},
};

/// A leader's container ended without having given leadership back.
pub const ENDED: &str = "LeaderEnded";
/// How often somebody else may write the Lease in between before it is left for a moment.
const RACES: u32 = 3;
/// That moment.
const AGAIN: Duration = Duration::from_millis(200);
/// Who writes, in the Lease's managed fields.
const MANAGER: &str = "leader-webhook";

/// What was looked at in vain: the term, and the containers that had ended. As long as both are the same, there is nothing new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tried {
    lease: Option<String>,
    transitions: Option<i32>,
    ended: Vec<String>,
}

/// What became of a try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The term is over, and the Lease says so.
    Freed(Ended),
    /// It is not proved to be over.
    Unproven(Unproven),
    /// Others kept writing the Lease.
    Raced,
}

pub(super) async fn reconcile(context: &Context, key: &Key, memory: &mut Memory) -> Result<Requeue, Error> {
    let Some(lease) = context.view.lease(key) else { return Ok(Requeue::OnChange) };
    let Some(holder) = Holder::of(&lease) else { return Ok(Requeue::OnChange) };
    let pods = context.view.pods(key);
    let Some(pod) = pods.iter().find(|pod| pod.name == holder.pod && pod.uid == holder.uid) else {
        return Ok(Requeue::OnChange);
    };
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions);
    let tried = Tried { lease: lease.uid(), transitions, ended: pod.ended_containers.clone() };
    if tried.ended.is_empty() || memory.fail_over.as_ref() == Some(&tried) {
        return Ok(Requeue::OnChange);
    }
    match free(context, key).await? {
        Outcome::Freed(Ended { how, .. }) => {
            let id = &key.id;
            let note =
                format!("pod {} ended while it led `{id}` ({how}): nobody has to wait for its Lease", holder.pod);
            let mut about = vec![events::reference(&*lease)];
            about.extend(subjects(&context.view.workloads(key), None));
            tell(context, &about, EventType::Warning, ENDED, &note);
            tracing::info!(%key, pod = holder.pod, %how, "the leader's container has ended: its Lease is freed");
        }
        Outcome::Unproven(reason) => {
            tracing::info!(%key, pod = holder.pod, %reason, "the leader's term is not proved to be over: it is waited for");
        }
        Outcome::Raced => return Ok(Requeue::After(AGAIN)),
    }
    memory.fail_over = Some(tried);
    Ok(Requeue::OnChange)
}

/// Frees an id's Lease if its holder has provably ended.
///
/// # Errors
/// When a request fails: nothing is known then, and nothing has happened, or the Lease is freed.
pub async fn free(context: &Context, key: &Key) -> Result<Outcome, Error> {
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), &key.namespace);
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    for _ in 0..RACES {
        let lease = leases.get_opt(key.id.as_str()).await.map_err(Error::request(format!("reading Lease {key}")))?;
        let Some(lease) = lease.filter(|lease| is_for(lease, &key.id)) else {
            return Ok(Outcome::Unproven(Unproven::NoHolder));
        };
        let Some(holder) = Holder::of(&lease) else {
            let held = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
            let reason = if held.is_empty() { Unproven::NoHolder } else { Unproven::NoPod(held) };
            return Ok(Outcome::Unproven(reason));
        };
        let place = format!("{}/{}", key.namespace, holder.pod);
        // Without a resourceVersion the answer is no older than the question.
        let pod = pods.get_opt(holder.pod).await.map_err(Error::request(format!("reading pod {place}")))?;
        let Some(pod) = pod else { return Ok(Outcome::Unproven(Unproven::Gone(holder.pod.to_owned()))) };
        let ended = match prove(&lease, &pod) {
            Ok(ended) => ended,
            Err(reason) => return Ok(Outcome::Unproven(reason)),
        };
        // Nothing that the API server stores is no Lease; if it were, nobody could say whose term it is.
        let Some(patch) = release(&lease, &ended, Timestamp::now()) else {
            return Ok(Outcome::Unproven(Unproven::NoTime("uid and resourceVersion")));
        };
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        match leases.patch(key.id.as_str(), &parameters, &Patch::Merge(patch)).await {
            Ok(_) => return Ok(Outcome::Freed(ended)),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {}
            Err(error) => return Err(Error::request(format!("writing Lease {key}"))(error)),
        }
    }
    Ok(Outcome::Raced)
}

/// The write that releases `ended`'s term of this very Lease, as its agent would have written it: a merge patch, which never makes a Lease
/// and leaves alone what this program does not know.
fn release(lease: &Lease, ended: &Ended, now: Timestamp) -> Option<Value> {
    let (uid, version) = (lease.uid()?, lease.resource_version()?);
    let held = serde_json::to_value(lease).ok()?;
    let released = Record::parse(held.clone()).ok()?.released(&ended.identity, &ended.term, now);
    let written = ["holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaseTransitions"];
    let spec: Map<String, Value> =
        written.into_iter().map(|field| (field.to_owned(), released["spec"][field].clone())).collect();
    Some(json!({
        "metadata": { "uid": uid, "resourceVersion": version, "annotations": annotations(&held, &released) },
        "spec": spec,
    }))
}

/// What a merge patch has to say of the annotations, which turns one object's into the other's.
fn annotations(before: &Value, after: &Value) -> Map<String, Value> {
    let of = |object: &Value| object["metadata"]["annotations"].as_object().cloned().unwrap_or_default();
    let (before, after) = (of(before), of(after));
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let written = after.iter().filter(|(key, value)| before.get(*key) != Some(*value));
    written.map(|(key, value)| (key.clone(), value.clone())).chain(gone).collect()
}

#[cfg(test)]
mod tests {
    use leader_agent::{lease::record::Term, names};

    use super::*;

    fn lease() -> Lease {
        let object = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": "billing", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
                "annotations": { "leader.io/turning-on": "{}", (names::STEP_DOWN): "asked of this term" } },
            "spec": { "holderIdentity": "billing-1_p1_app", "leaseDurationSeconds": 15, "leaseTransitions": 3,
                "acquireTime": "2026-11-21T12:00:00.123456Z", "renewTime": "2026-11-21T12:00:10.000001Z" },
        });
        serde_json::from_value(object).unwrap()
    }

    /// What an agent believes is decided by the agent's own code.
    #[test]
    fn what_is_written_is_a_release_of_this_very_term() {
        let lease = lease();
        let term =
            Term { uid: "u1".to_owned(), transitions: 3, acquire_time: "2026-11-21T12:00:00.123456Z".parse().unwrap() };
        let ended = Ended { identity: "billing-1_p1_app".to_owned(), term, how: String::new() };
        let patch = release(&lease, &ended, "2026-11-21T12:00:12Z".parse().unwrap()).unwrap();
        assert_eq!(
            patch["metadata"],
            json!({ "uid": "u1", "resourceVersion": "7", "annotations": {
                "leader.io/released": "u1/billing-1_p1_app/3/2026-11-21T12:00:00.123456Z",
                (names::STEP_DOWN): null } })
        );
        let mut stored = serde_json::to_value(&lease).unwrap();
        json_patch::merge(&mut stored, &patch);
        let record = Record::parse(stored.clone()).unwrap();
        assert!(record.is_free() && record.holder.is_none() && record.transitions == 3);
        assert_eq!((record.annotation(names::TURNING_ON), record.annotation(names::STEP_DOWN)), (Some("{}"), None));
        // Not of the next term.
        stored["spec"]["leaseTransitions"] = json!(4);
        assert!(!Record::parse(stored).unwrap().is_free());
    }
}
