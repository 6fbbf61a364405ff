//! Who names an id, as the API server has it now: what is asked before something is taken away that whoever names it needs.

use std::fmt::Debug;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::Pod,
    },
};
use kube::{
    Api, Resource, ResourceExt,
    api::{ListParams, ObjectList, PartialObjectMeta},
};
use serde::de::DeserializeOwned;

use super::{
    Context, Error, Key,
    view::facts::{Workload, pod_names_id, workload_names_id},
};

/// How many objects one request lists.
const PAGE: u32 = 200;

/// What names the id, e.g. `Pod/billing-1`; `None` where nothing does.
pub(super) async fn by(context: &Context, key: &Key) -> Result<Option<String>, Error> {
    let (deployment, stateful_set, daemon_set, pod) = futures::try_join!(
        workload_that_names::<Deployment>(context, key),
        workload_that_names::<StatefulSet>(context, key),
        workload_that_names::<DaemonSet>(context, key),
        pod_that_names(context, key),
    )?;
    Ok(deployment.or(stateful_set).or(daemon_set).or(pod))
}

/// A workload of the namespace that names the id, anywhere in it, as the API server has it now.
async fn workload_that_names<K>(context: &Context, key: &Key) -> Result<Option<String>, Error>
where
    K: Workload + Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let what = || format!("listing {} in namespace {}", K::plural(&()), key.namespace);
        let page: ObjectList<K> = api.list(&parameters).await.map_err(Error::request(what()))?;
        if let Some(object) = page.items.iter().find(|object| workload_names_id(*object, key.id.as_str())) {
            return Ok(Some(format!("{}/{}", K::kind(&()), object.name_any())));
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
            _ => return Ok(None),
        }
    }
}

/// A pod of the namespace that names the id, by label, annotation or record, as the API server has it now. All pods are looked at:
/// labels can be edited.
async fn pod_that_names(context: &Context, key: &Key) -> Result<Option<String>, Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let what = || format!("listing pods in namespace {}", key.namespace);
        let page: ObjectList<PartialObjectMeta<Pod>> =
            api.list_metadata(&parameters).await.map_err(Error::request(what()))?;
        if let Some(pod) = page.items.iter().find(|pod| pod_names_id(pod, key.id.as_str())) {
            return Ok(Some(format!("Pod/{}", pod.name_any())));
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
            _ => return Ok(None),
        }
    }
}
