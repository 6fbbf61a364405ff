//! Leases that were not made for their id, and that somebody allows to be used as one (`leader.io/adopt`): they have no label by which a
//! watch would find them, and are followed by reading them.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;

use super::{Context, Error, Key, Requeue, reconcile::Memory};
use crate::access;

/// How often an adopted Lease is read.
const FOLLOW: Duration = Duration::from_secs(10);
/// How long a Lease must be missing before it is looked for: what a review has just made reaches the view a moment later.
const SETTLE: Duration = Duration::from_secs(1);

pub(super) async fn reconcile(context: &Context, key: &Key, memory: &mut Memory) -> Result<Requeue, Error> {
    let view = &context.view;
    if !view.is_named(key) {
        view.adopt(key, None);
        return Ok(Requeue::OnChange);
    }
    if view.is_adopted(key) {
        let since = memory.adopted_read.map(|read| Instant::now().saturating_duration_since(read));
        let left = since.map(|since| FOLLOW.saturating_sub(since)).filter(|left| !left.is_zero());
        if let Some(left) = left.filter(|_| !memory.has_changed) {
            return Ok(Requeue::After(left));
        }
    } else {
        match memory.lease_lost.map(|since| SETTLE.saturating_sub(Instant::now().saturating_duration_since(since))) {
            None => return Ok(Requeue::OnChange),
            Some(Duration::ZERO) => {}
            Some(wait) => return Ok(Requeue::After(wait)),
        }
    }
    let leases: Api<Lease> = Api::namespaced(context.client.clone(), &key.namespace);
    let lease = leases.get_opt(key.id.as_str()).await.map_err(Error::request(format!("reading Lease {key}")))?;
    let lease = lease.filter(access::is_adopted);
    let requeue = if lease.is_some() { Requeue::After(FOLLOW) } else { Requeue::OnChange };
    view.adopt(key, lease);
    memory.adopted_read = Some(Instant::now());
    Ok(requeue)
}
