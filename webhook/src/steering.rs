//! Judging a Service that is, or was, leader-only: what [`crate::services`] decides, with what is looked up for the person who wrote it.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, core::admission::AdmissionResponse};
use leader_agent::id::LeaderId;
use serde_json::Value;

use crate::{
    access, metrics,
    review::Review,
    services::{self, ServiceOutcome},
};

/// The answer to the review of a Service. Only a warning needs the cluster, so that it never fails for that.
pub(crate) async fn answer(client: &Client, review: &Review) -> (metrics::Result, AdmissionResponse) {
    let object = review.object.as_ref().unwrap_or(&Value::Null);
    let ServiceOutcome { object: stored, id, is_change, mut warnings } =
        match services::review(object, review.old.as_ref()) {
            Ok(outcome) => outcome,
            Err(refusal) => return (metrics::Result::Refused, review.refuse(&refusal.to_string())),
        };
    let result = match (&id, is_change) {
        (Some(_), true) => metrics::Result::Injected,
        (Some(_), false) => metrics::Result::Kept,
        (None, true) => metrics::Result::Ejected,
        (None, false) => metrics::Result::Passed,
    };
    let mut audit = BTreeMap::new();
    if let Some(id) = &id {
        audit.extend(
            [("action", "leader-only"), ("id", id.as_str())].map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        if is_change && !is_known(client, review.namespace(), id).await {
            warnings.push(format!(
                "nobody is elected under `{id}` in namespace {} yet: until a workload there is annotated with leader.io/id: {id}, this Service \
                 has no endpoints",
                review.namespace()
            ));
        }
    }
    let response = review.store(&stored, &warnings, audit);
    (if response.allowed { result } else { metrics::Result::Failed }, response)
}

/// Whether the namespace has a Lease of this id. What cannot be looked up is as if it had.
async fn is_known(client: &Client, namespace: &str, id: &LeaderId) -> bool {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    match leases.get_opt(id.as_str()).await {
        Ok(lease) => lease.is_some_and(|lease| access::is_for(&lease, id)),
        Err(error) => {
            tracing::warn!(namespace, %id, %error, "cannot look up whether anybody is elected under the id of a Service");
            true
        }
    }
}
