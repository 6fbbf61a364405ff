//! The Lease of an election, read and swapped: a request is stored with the very Lease that it was decided by, or not at all.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use leader_agent::{id::LeaderId, lease::record::micro_time, names};
use serde_json::{Map, Value, json};

use crate::cli::{
    api,
    objects::{annotation, time},
};

/// Who wrote, in the Lease's `managedFields`.
const MANAGER: &str = "kubectl-leader";

/// A Lease as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen(pub(super) Value);

impl Seen {
    pub(super) async fn read(client: &Client, namespace: &str, id: &LeaderId) -> Result<Option<Self>, kube::Error> {
        let path = api::path(api::COORDINATION, Some(namespace), "leases");
        Ok(api::find(client, &format!("{path}/{id}")).await?.map(Self))
    }

    pub(super) fn holder(&self) -> Option<&str> {
        self.0["spec"]["holderIdentity"].as_str().filter(|holder| !holder.is_empty())
    }

    pub(super) fn uid(&self) -> &str {
        self.0["metadata"]["uid"].as_str().unwrap_or_default()
    }

    pub(super) fn transitions(&self) -> i64 {
        self.0["spec"]["leaseTransitions"].as_i64().unwrap_or_default()
    }

    /// L in seconds.
    pub(super) fn lasts(&self) -> u64 {
        self.0["spec"]["leaseDurationSeconds"].as_u64().unwrap_or(names::DEFAULT_LEASE_SECONDS)
    }

    pub(super) fn hold(&self) -> Option<&str> {
        annotation(&self.0, names::HOLD)
    }

    pub(super) fn annotation(&self, key: &str) -> Option<&str> {
        annotation(&self.0, key)
    }

    pub(super) fn term(&self) -> Option<String> {
        term(&self.0)
    }

    /// Writes these annotations (null takes one off), if the Lease is still the one that was read; whether it was.
    ///
    /// A merge patch changes nothing but these, and never makes a Lease.
    pub(super) async fn swap(
        &self,
        client: &Client,
        namespace: &str,
        annotations: Map<String, Value>,
    ) -> Result<bool, kube::Error> {
        let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let metadata = &self.0["metadata"];
        let patch = json!({ "metadata": {
            "uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"], "annotations": annotations,
        } });
        let parameters = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let name = metadata["name"].as_str().unwrap_or_default();
        match leases.patch(name, &parameters, &Patch::Merge(patch)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The term of a Lease that somebody holds, as the annotation of a release writes it.
pub(in crate::cli) fn term(lease: &Value) -> Option<String> {
    let (uid, spec) = (lease["metadata"]["uid"].as_str()?, &lease["spec"]);
    let holder = spec["holderIdentity"].as_str().filter(|holder| !holder.is_empty())?;
    let acquired: Timestamp = time(&spec["acquireTime"])?;
    let transitions = spec["leaseTransitions"].as_i64().unwrap_or_default();
    Some(format!("{uid}/{holder}/{transitions}/{}", micro_time(acquired)))
}

#[cfg(test)]
mod tests {
    use leader_agent::lease::record::{Record, Term};

    use super::*;

    fn lease() -> Value {
        json!({
            "metadata": { "name": "billing", "uid": "u1", "resourceVersion": "7" },
            "spec": { "holderIdentity": "billing-1_p1_app", "leaseTransitions": 3, "leaseDurationSeconds": 5,
                "acquireTime": "2026-11-21T12:00:00.000000Z", "renewTime": "2026-11-21T12:01:00.000000Z" },
        })
    }

    /// The agent compares the two.
    #[test]
    fn a_term_is_written_as_the_agent_writes_it_at_its_end() {
        let record = Record::parse(lease()).unwrap();
        let acquire_time = record.acquire_time.unwrap();
        let term_of_record = Term { uid: record.uid.clone(), transitions: record.transitions, acquire_time };
        let released = record.released("billing-1_p1_app", &term_of_record, acquire_time);
        assert_eq!(term(&lease()).as_deref(), annotation(&released, names::RELEASED));
    }

    #[test]
    fn without_a_holder_there_is_no_term() {
        for holder in [json!(""), Value::Null] {
            let mut lease = lease();
            lease["spec"]["holderIdentity"] = holder;
            assert_eq!((term(&lease), Seen(lease).holder()), (None, None));
        }
    }
}
