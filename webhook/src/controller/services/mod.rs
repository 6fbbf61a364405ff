//! Leader-only Services: their slices are there, the Lease names them, the id's pods may write them, and nothing else stands behind those
//! Services.
//!
//! Who is in a slice is the agents' alone, so that traffic follows the leader without this controller; only a pod that is gone, or has ended,
//! is taken out here, because nobody else can, and its address may be another pod's tomorrow. And whatever is no pod by its own address:
//! an agent's right over a slice is none over the traffic of others. What is wanted is decided by
//! [`crate::services`]; what is there is seen in the view, so that an id in order costs no request.

mod leftover;
mod told;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        coordination::v1::Lease,
        core::v1::{Pod, Service},
        discovery::v1::{Endpoint, EndpointSlice},
        rbac::v1::Role,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use leader_agent::names;
use serde::de::DeserializeOwned;
use serde_json::json;

use self::told::Told;
use super::{Context, Error, Key, Requeue, reconcile::Memory};
use crate::{
    access::{slices_of, with_slices},
    services::slices::{
        NamedPort, ServiceFacts, addresses, is_at, is_managed, is_ours, named_ports, pod_of, put_right, to_annotation,
        wanted,
    },
};

/// When something that somebody else changed in between is looked at again.
const AGAIN: Duration = Duration::from_millis(200);
/// How often it is looked whether a Service that was given back has endpoints of its selector.
const GIVING_BACK: Duration = Duration::from_secs(1);

/// What is remembered of an id's Services.
#[derive(Debug, Default)]
pub(super) struct Known {
    leftover: leftover::Progress,
    told: Told,
}

pub(super) async fn reconcile(context: &Context, key: &Key, memory: &mut Memory) -> Result<Requeue, Error> {
    let view = &context.view;
    memory.services.told.tell(context, key);
    let services: Vec<Arc<ServiceFacts>> =
        view.leader_only_services(key).into_iter().filter(|service| service.is_taken_over()).collect();
    let ours = view.slices(key);
    let (lease, role) = (view.lease(key), view.role(key));
    if services.is_empty()
        && ours.is_empty()
        && named(lease.as_deref()).is_none()
        && granted(role.as_deref()).is_empty()
    {
        memory.services.leftover = leftover::Progress::default();
        return Ok(Requeue::OnChange);
    }
    let mut requeue = Requeue::OnChange;
    let ports = ports(context, key, &services, lease.as_deref()).await?;
    let mut there = BTreeSet::new();
    for service in &services {
        for slice in wanted(service, &key.namespace, &key.id, &ports) {
            let name = slice.name_any();
            let existing = ours.iter().find(|existing| existing.name_any() == name);
            match make(context, key, existing.map(Arc::as_ref), slice).await? {
                Made::There => drop(there.insert(name)),
                Made::Later => requeue = requeue.sooner(Requeue::After(AGAIN)),
                Made::Foreign => memory.services.told.foreign(context, key, service, &name),
            }
        }
    }
    for slice in &ours {
        requeue = requeue.sooner(if there.contains(&slice.name_any()) {
            without_strangers(context, key, slice).await?
        } else {
            no_longer_wanted(context, key, slice).await?
        });
    }
    // The right before the word: an agent that reads the word uses the right.
    if let Some(role) = role {
        requeue = requeue.sooner(grant(context, key, &role, &there).await?);
    }
    if let Some(lease) = lease {
        requeue = requeue.sooner(name_on_lease(context, key, &lease, &there).await?);
    }
    let left = memory.services.leftover.remove(context, key, &services, &ours).await?;
    Ok(requeue.sooner(left))
}

/// What became of a slice that is wanted.
enum Made {
    There,
    /// Somebody else was faster.
    Later,
    /// Somebody else's has the name.
    Foreign,
}

/// The ports that the leader's pod names; before there is a leader, those of any pod that takes part.
async fn ports(
    context: &Context,
    key: &Key,
    services: &[Arc<ServiceFacts>],
    lease: Option<&Lease>,
) -> Result<BTreeMap<NamedPort, i32>, Error> {
    if !services.iter().any(|service| service.names_ports()) {
        return Ok(BTreeMap::new());
    }
    let holder = lease.and_then(|lease| lease.spec.as_ref()?.holder_identity.as_deref());
    let pods = context.view.pods(key);
    let leads = |uid: &str| holder.is_some_and(|holder| holder.contains(&format!("_{uid}_")));
    let living = || pods.iter().filter(|pod| pod.is_injected && !pod.has_ended);
    let chosen = living().find(|pod| leads(&pod.uid)).or_else(|| living().max_by_key(|pod| pod.created));
    let Some(pod) = chosen else { return Ok(BTreeMap::new()) };
    let found = api::<Pod>(context, key).get_opt(&pod.name).await;
    let found = found.map_err(Error::request(format!("reading Pod {}/{}", key.namespace, pod.name)))?;
    Ok(found.and_then(|pod| pod.spec).map(|spec| named_ports(&spec)).unwrap_or_default())
}

/// Makes a slice, or puts it right.
async fn make(
    context: &Context,
    key: &Key,
    existing: Option<&EndpointSlice>,
    wanted: EndpointSlice,
) -> Result<Made, Error> {
    let (slices, name) = (api::<EndpointSlice>(context, key), wanted.name_any());
    if let Some(existing) = existing {
        return match put_right(existing, &wanted) {
            None => Ok(Made::There),
            Some(right) => replace(&slices, key, &right).await,
        };
    }
    match slices.create(&PostParams::default(), &wanted).await {
        Ok(_) => {
            tracing::info!(%key, slice = name, "made a slice of a leader-only Service");
            return Ok(Made::There);
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        // The Service is gone, and with it what would have owned the slice; or the namespace goes.
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(Made::Later),
        Err(error) => return Err(failed("making", key, &name)(error)),
    }
    let Some(found) = slices.get_opt(&name).await.map_err(failed("reading", key, &name))? else {
        return Ok(Made::Later);
    };
    if !is_managed(&found) {
        return Ok(Made::Foreign);
    }
    let is_same = is_ours(&found, &key.id);
    let Some(mut right) = put_right(&found, &wanted) else { return Ok(Made::There) };
    if !is_same {
        // It was another id's, whose leader is in it.
        right.endpoints.clear();
    }
    replace(&slices, key, &right).await
}

async fn replace(slices: &Api<EndpointSlice>, key: &Key, right: &EndpointSlice) -> Result<Made, Error> {
    let name = right.name_any();
    match slices.replace(&name, &PostParams::default(), right).await {
        Ok(_) => Ok(Made::There),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Made::Later),
        Err(error) => Err(failed("writing", key, &name)(error)),
    }
}

/// Empties a slice in which anything else is than a pod that runs, by its own address. A leader that was put into it meanwhile has changed
/// it.
async fn without_strangers(context: &Context, key: &Key, slice: &EndpointSlice) -> Result<Requeue, Error> {
    for endpoint in &slice.endpoints {
        let Some(why) = stranger(context, key, endpoint).await? else { continue };
        tracing::info!(%key, slice = slice.name_any(), ?endpoint, why, "emptying a slice");
        let empty = EndpointSlice { endpoints: Vec::new(), ..slice.clone() };
        return match replace(&api(context, key), key, &empty).await? {
            Made::There | Made::Foreign => Ok(Requeue::OnChange),
            Made::Later => Ok(Requeue::After(AGAIN)),
        };
    }
    Ok(Requeue::OnChange)
}

/// Why an endpoint cannot stay; `None` where it can. What the view does not show yet is asked for.
async fn stranger(context: &Context, key: &Key, endpoint: &Endpoint) -> Result<Option<&'static str>, Error> {
    let Some((name, uid)) = pod_of(endpoint) else { return Ok(Some("it is no pod's")) };
    let known = context.view.pods(key);
    if known.iter().any(|pod| pod.uid == uid && !pod.has_ended && is_at(endpoint, &pod.addresses)) {
        return Ok(None);
    }
    let found = api::<Pod>(context, key).get_opt(name).await;
    let found = found.map_err(Error::request(format!("reading Pod {}/{name}", key.namespace)))?;
    let Some(pod) = found.filter(|pod| pod.uid().as_deref() == Some(uid)) else { return Ok(Some("its pod is gone")) };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Ok(Some("its pod has ended"));
    }
    // A node may have addresses that it does not tell of; and its pods may use them all.
    let is_nodes = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
    let addresses = addresses(&pod);
    // Before they are reported, which is a change, the agent may be in already.
    let fits = is_nodes || addresses.is_empty() || is_at(endpoint, &addresses);
    Ok((!fits).then_some("it has an address that is not its pod's"))
}

/// A slice of a Service that is not leader-only any more goes when there are others: until then it is all that traffic has.
async fn no_longer_wanted(context: &Context, key: &Key, slice: &EndpointSlice) -> Result<Requeue, Error> {
    let Some(owner) = slice.owner_references().iter().find(|owner| owner.kind == "Service") else {
        return delete(&api::<EndpointSlice>(context, key), key, &slice.metadata).await;
    };
    let service = api::<Service>(context, key).get_opt(&owner.name).await;
    let service = service.map_err(Error::request(format!("reading Service {}/{}", key.namespace, owner.name)))?;
    let facts = service.as_ref().map(ServiceFacts::of).filter(|facts| facts.uid == owner.uid);
    match facts {
        // Another id's by now, whose reconciliation takes it over; a family that the Service does not have is nobody's.
        Some(facts) if facts.leader_only.is_some() => {
            if facts.families.contains(&slice.address_type) {
                return Ok(Requeue::OnChange);
            }
        }
        Some(facts) if !facts.selector.is_empty() && !leftover::has_others(context, key, &facts.name).await? => {
            return Ok(Requeue::After(GIVING_BACK));
        }
        Some(_) | None => {}
    }
    delete(&api::<EndpointSlice>(context, key), key, &slice.metadata).await
}

/// Deletes an object, if it still is what it was.
async fn delete<K>(objects: &Api<K>, key: &Key, metadata: &ObjectMeta) -> Result<Requeue, Error>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let name = metadata.name.clone().unwrap_or_default();
    let preconditions =
        Preconditions { uid: metadata.uid.clone(), resource_version: metadata.resource_version.clone() };
    let parameters = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match objects.delete(&name, &parameters).await {
        Ok(_) => Ok(Requeue::OnChange),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Requeue::OnChange),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Requeue::After(AGAIN)),
        Err(error) => Err(Error::request(format!("deleting {} {}/{name}", K::kind(&()), key.namespace))(error)),
    }
}

/// The slices that the id's pods may write.
fn granted(role: Option<&Role>) -> BTreeSet<String> {
    role.map(slices_of).unwrap_or_default()
}

/// Lets the id's pods write these slices, and no others.
async fn grant(context: &Context, key: &Key, role: &Role, names: &BTreeSet<String>) -> Result<Requeue, Error> {
    if granted(Some(role)) == *names {
        return Ok(Requeue::OnChange);
    }
    let right = with_slices(role.clone(), names);
    let name = role.name_any();
    match api::<Role>(context, key).replace(&name, &PostParams::default(), &right).await {
        Ok(_) => Ok(Requeue::OnChange),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Requeue::After(AGAIN)),
        Err(error) => Err(Error::request(format!("writing Role {}/{name}", key.namespace))(error)),
    }
}

/// What the Lease says about slices.
fn named(lease: Option<&Lease>) -> Option<&String> {
    lease?.annotations().get(names::SLICES)
}

/// Names the slices on the Lease, where the agents read it. A merge patch changes nothing but this annotation, and never makes a Lease.
async fn name_on_lease(
    context: &Context,
    key: &Key,
    lease: &Lease,
    names: &BTreeSet<String>,
) -> Result<Requeue, Error> {
    let wanted = to_annotation(names);
    if named(Some(lease)) == wanted.as_ref() {
        return Ok(Requeue::OnChange);
    }
    let patch = json!({ "metadata": {
        "uid": lease.uid(),
        "resourceVersion": lease.resource_version(),
        "annotations": { (names::SLICES): wanted },
    } });
    let parameters = PatchParams { field_manager: Some("leader-webhook".to_owned()), ..PatchParams::default() };
    match api::<Lease>(context, key).patch(key.id.as_str(), &parameters, &Patch::Merge(patch)).await {
        Ok(_) => Ok(Requeue::OnChange),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Requeue::After(AGAIN)),
        Err(error) => Err(Error::request(format!("naming slices on Lease {key}"))(error)),
    }
}

fn api<K>(context: &Context, key: &Key) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(context.client.clone(), &key.namespace)
}

fn failed(action: &str, key: &Key, name: &str) -> impl FnOnce(kube::Error) -> Error + use<> {
    Error::request(format!("{action} EndpointSlice {}/{name}", key.namespace))
}
