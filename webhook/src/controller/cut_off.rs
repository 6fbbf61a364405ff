//! Agents that network policies keep from the API server: the one cause of "nobody leads" that no agent can tell, because what it tells
//! reaches nobody.
//!
//! Policies are looked at only where nobody leads for a while although pods are there, and then seldom: as long as somebody leads, they
//! let through whatever they say. What they say is judged by [`crate::network_policy`].

use std::{
    env,
    net::IpAddr,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::{
    coordination::v1::Lease, core::v1::Pod, discovery::v1::EndpointSlice, networking::v1::NetworkPolicy,
};
use kube::{Api, ResourceExt, api::ListParams};
use leader_agent::names;
use serde_json::Value;

use super::{
    Context, Error, Key, Requeue,
    reconcile::Memory,
    repair::{subjects, tell},
};
use crate::{
    events::{EventType, reason},
    network_policy,
};

/// How long nobody leads before it is asked why, beside the Lease's duration: pods are scheduled, images pulled.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often policies are looked at while nobody leads.
const PAUSE: Duration = Duration::from_mins(5);
/// L where the Lease does not say it.
const USUAL: Duration = Duration::from_secs(names::DEFAULT_LEASE_SECONDS);

/// Whether anybody leads, and what is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Somebody leads, or nobody should.
    Nothing,
    /// Somebody led when the Lease was renewed last: it is looked at again, because a Lease that is not renewed tells nothing.
    Look(Duration),
    /// Nobody leads; after this long it is asked why.
    Ask(Duration),
}

/// What the Lease says at `now`.
fn next(lease: Option<&Lease>, now: Timestamp) -> Next {
    let Some(lease) = lease else { return Next::Ask(USUAL + PATIENCE) };
    let annotations = lease.annotations();
    if [names::HOLD, names::TURNING_ON].iter().any(|key| annotations.contains_key(*key)) {
        return Next::Nothing;
    }
    let patience = duration(lease) + PATIENCE;
    let spec = lease.spec.as_ref();
    let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).filter(|holder| !holder.is_empty());
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).filter(|_| holder.is_some());
    let Some(renewed) = renewed else { return Next::Ask(patience) };
    let silent = Duration::try_from(now.duration_since(renewed.0)).unwrap_or_default();
    match patience.saturating_sub(silent) {
        Duration::ZERO => Next::Ask(Duration::ZERO),
        left => Next::Look(left),
    }
}

fn duration(lease: &Lease) -> Duration {
    let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
    seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(USUAL, Duration::from_secs)
}

/// Looks for policies that keep the id's agents from the API server, and tells about them.
pub(super) async fn reconcile(
    context: &Context,
    key: &Key,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<Requeue, Error> {
    let (lease, pods) = (context.view.lease(key), context.view.pods(key));
    let has_pods = pods.iter().any(|pod| pod.is_injected && !pod.has_ended && !pod.is_being_deleted);
    let next = if has_pods { next(lease.as_deref(), now) } else { Next::Nothing };
    match next {
        Next::Nothing => {
            memory.leaderless = None;
            Ok(Requeue::OnChange)
        }
        Next::Look(later) => {
            memory.leaderless = None;
            Ok(Requeue::After(later))
        }
        Next::Ask(patience) => {
            let at = *memory.leaderless.get_or_insert_with(|| Instant::now() + patience);
            let left = at.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Ok(Requeue::After(left));
            }
            memory.leaderless = Some(Instant::now() + PAUSE);
            let blocking = blocking(context, key).await?;
            if !blocking.is_empty() {
                let note = format!(
                    "nobody leads `{}`, and NetworkPolicy {} keeps its agents from the API server: allow egress from these pods to it, TCP to \
                     the addresses in `kubectl get endpointslice -n default kubernetes`",
                    key.id,
                    blocking.join(", ")
                );
                let about = subjects(&context.view.workloads(key), lease.as_deref());
                tell(context, &about, EventType::Warning, reason::NETWORK_POLICY, &note);
            }
            Ok(Requeue::After(PAUSE))
        }
    }
}

/// The names of the policies that keep one of the id's pods from the API server.
async fn blocking(context: &Context, key: &Key) -> Result<Vec<String>, Error> {
    let policies: Api<NetworkPolicy> = Api::namespaced(context.client.clone(), &key.namespace);
    let policies = policies.list(&ListParams::default()).await;
    let policies = policies.map_err(Error::request(format!("listing network policies of {}", key.namespace)))?.items;
    if policies.is_empty() {
        return Ok(Vec::new());
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let of_id = ListParams::default().labels(&format!("{}={}", names::ID, key.id)).limit(1);
    let pods = pods.list_metadata(&of_id).await.map_err(Error::request(format!("listing the pods of {key}")))?.items;
    let Some(pod) = pods.first() else { return Ok(Vec::new()) };
    let targets = api_server(context).await?;
    // Neither can fail to serialise: they were read from JSON.
    let policies: Vec<Value> = policies.iter().map(|policy| serde_json::json!(policy)).collect();
    let policies: Vec<&Value> = policies.iter().collect();
    let blocking = network_policy::blocking(&policies, &serde_json::json!(pod.labels()), &targets);
    Ok(blocking.into_iter().map(str::to_owned).collect())
}

/// Where pods reach the API server: the address of its Service, and what is behind that. Most networks apply policies to the latter.
async fn api_server(context: &Context) -> Result<Vec<(IpAddr, u16)>, Error> {
    let read = |name: &str| env::var(name).ok();
    let service = read("KUBERNETES_SERVICE_HOST").and_then(|host| host.parse().ok());
    let port = read("KUBERNETES_SERVICE_PORT").and_then(|port| port.parse().ok());
    let mut found: Vec<(IpAddr, u16)> = service.zip(port).into_iter().collect();
    let slices: Api<EndpointSlice> = Api::namespaced(context.client.clone(), "default");
    let slice = slices.get_opt("kubernetes").await;
    if let Some(slice) = slice.map_err(Error::request("reading EndpointSlice default/kubernetes"))? {
        let ports: Vec<u16> = slice.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok()).collect();
        let addresses = slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        for address in addresses.filter_map(|address| address.parse().ok()) {
            found.extend(ports.iter().map(|port| (address, *port)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lease(spec: &Value, annotations: &Value) -> Lease {
        serde_json::from_value(json!({ "metadata": { "name": "billing", "annotations": annotations }, "spec": spec }))
            .unwrap()
    }

    #[test]
    fn when_it_is_asked_why_nobody_leads() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let held = |renewed: &str| json!({ "holderIdentity": "billing-1_u_app", "leaseDurationSeconds": 15, "renewTime": renewed });
        let of = |spec: Value| next(Some(&lease(&spec, &json!({}))), now);
        let patience = |seconds| Next::Ask(Duration::from_secs(seconds));
        assert_eq!(next(None, now), patience(75));
        assert_eq!(of(json!({})), patience(75));
        assert_eq!(of(json!({ "leaseDurationSeconds": 5 })), patience(65));
        assert_eq!(of(json!({ "holderIdentity": "", "renewTime": "2026-11-21T11:59:59.000000Z" })), patience(75));
        assert_eq!(of(held("2026-11-21T11:59:55.000000Z")), Next::Look(Duration::from_secs(70)));
        assert_eq!(of(held("2026-11-21T11:58:45.000000Z")), patience(0));
        // A clock that is ahead.
        assert_eq!(of(held("2026-11-21T12:00:10.000000Z")), Next::Look(Duration::from_secs(75)));
        for key in [names::HOLD, names::TURNING_ON] {
            assert_eq!(next(Some(&lease(&json!({}), &json!({ key: "" }))), now), Next::Nothing);
        }
    }
}
