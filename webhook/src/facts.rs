//! What injection has to know about the cluster, looked up for one review.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        core::v1::{Pod, Secret, Service, ServiceAccount},
        rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::{ListMeta, Time},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Request},
};
use leader_agent::names;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    inject::{Facts, Recorded},
    services::{pointed::reaches_standbys, slices::ServiceFacts},
};

const DEFAULT_ACCOUNT: &str = "default";
/// The option that says which account pods run under.
const SERVICE_ACCOUNT: &str = "leader.io/service-account";
/// How many objects one request lists. The API server reads a page of this size in milliseconds.
const PAGE: u32 = 500;
/// How many pages of one kind are read for a warning.
const PAGES: usize = 10;
/// How long a review waits for what only a warning needs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks up what injecting `object` depends on, all at once. What a registry or another pod tells is asked for when it is needed.
/// `agent_pull_secret` is the secret that private agent images are pulled with.
pub async fn look_up(
    client: &Client,
    namespace: &str,
    object: &Value,
    agent_pull_secret: Option<&str>,
) -> Result<Facts, kube::Error> {
    let others = async {
        // Who makes pods reads no warnings, and their workload's own review has said it.
        match annotation(object, names::ID).filter(|id| object["kind"] != "Pod" && !has_been_injected(object, id)) {
            Some(id) => Ok(other_workloads(client, namespace, id, object).await),
            None => Ok(Vec::new()),
        }
    };
    let services = async {
        let is_asked =
            object["kind"] != "Pod" && annotation(object, names::ID).is_some_and(|id| !has_been_injected(object, id));
        Ok(if is_asked { Box::pin(reaching_services(client, namespace, object)).await } else { Vec::new() })
    };
    let default_account = async {
        if account_is_settled(object) || Recorded::decides_account(object) {
            return Ok(false);
        }
        default_account_in_use(client, namespace).await
    };
    let pull_secrets = async {
        match agent_pull_secret {
            Some(secret) => pull_secrets(client, namespace, object, secret).await,
            None => Ok((false, Vec::new())),
        }
    };
    let (default_account_in_use, other_workloads, reaching_services, (lacks_agent_pull_secret, account_pull_secrets)) =
        futures::try_join!(default_account, others, services, pull_secrets)?;
    Ok(Facts {
        default_account_in_use,
        lacks_agent_pull_secret,
        account_pull_secrets,
        other_workloads,
        reaching_services,
        ..Facts::default()
    })
}

/// Whether the namespace lacks `secret`, and the pull secrets of the account that the pods name; only its metadata are read of a secret.
async fn pull_secrets(
    client: &Client,
    namespace: &str,
    object: &Value,
    secret: &str,
) -> Result<(bool, Vec<String>), kube::Error> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let (found, account) =
        futures::try_join!(secrets.get_metadata_opt(secret), accounts.get_opt(named_account(object)))?;
    let given = account.and_then(|account| account.image_pull_secrets).unwrap_or_default();
    Ok((found.is_none(), given.into_iter().map(|secret| secret.name).filter(|name| !name.is_empty()).collect()))
}

/// The account that the pods of an object name.
fn named_account(object: &Value) -> &str {
    let (spec, job) = (&object["spec"], &object["spec"]["jobTemplate"]["spec"]);
    let named = [spec, &spec["template"]["spec"], &job["template"]["spec"]].into_iter().find_map(|spec| {
        let keys = ["serviceAccountName", "serviceAccount"].into_iter();
        keys.filter_map(|key| spec[key].as_str()).find(|name| !name.is_empty())
    });
    named.unwrap_or(DEFAULT_ACCOUNT)
}

/// Whether the pods' account does not depend on what `default` gives: it is asked for, or the pod names one. A template that names
/// one does not say so: it may be ours.
fn account_is_settled(object: &Value) -> bool {
    let named = object["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    annotation(object, SERVICE_ACCOUNT).is_some()
        || object["kind"] == "Pod" && !named.is_empty() && named != DEFAULT_ACCOUNT
}

/// Whether an earlier review injected the workload for this id, and said what there is to say about others then: it is stored already,
/// which its uid shows, and its template has the record. A rollout of everything would list every workload once for each otherwise.
fn has_been_injected(object: &Value, id: &str) -> bool {
    let record = object["spec"]["template"]["metadata"]["annotations"][names::INJECTED].as_str();
    object["metadata"]["uid"].is_string()
        && record.and_then(Recorded::parse).is_some_and(|recorded| recorded.id.as_str() == id)
}

/// An annotation of the object, or of its pod template.
fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    let (spec, job) = (&object["spec"], &object["spec"]["jobTemplate"]["spec"]);
    let holders = [&object["metadata"], &spec["template"]["metadata"], &job["template"]["metadata"]];
    holders.into_iter().find_map(|metadata| metadata["annotations"][key].as_str())
}

/// Whether the account `default` gives pods something that another one would not.
async fn default_account_in_use(client: &Client, namespace: &str) -> Result<bool, kube::Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let roles: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let cluster_roles: Api<ClusterRoleBinding> = Api::all(client.clone());
    let (account, bound, bound_everywhere) = futures::try_join!(
        accounts.get_opt(DEFAULT_ACCOUNT),
        any(client, &roles, |binding: &Binding| {
            !is_of_an_id(binding) && binding.subjects.as_deref().is_some_and(|list| names_default(list, namespace))
        }),
        any(client, &cluster_roles, |binding: &Binding| {
            binding.subjects.as_deref().is_some_and(|list| names_default(list, namespace))
        }),
    )?;
    Ok(bound || bound_everywhere || account.as_ref().is_some_and(has_its_own))
}

/// Other workloads of the namespace whose own metadata carry the id, as `Deployment/billing`. Ids on pod templates are not seen: a
/// list of metadata does not have them, and whole workloads may be megabytes.
///
/// It is for a warning, so that what cannot be looked up, or not within [`PATIENCE`], is as if it were not there.
pub async fn other_workloads(client: &Client, namespace: &str, id: &str, object: &Value) -> Vec<String> {
    let own = (object["kind"].as_str().unwrap_or_default(), object["metadata"]["name"].as_str().unwrap_or_default());
    let lists = async {
        futures::try_join!(
            annotated::<Deployment>(client, namespace, id, own),
            annotated::<StatefulSet>(client, namespace, id, own),
            annotated::<DaemonSet>(client, namespace, id, own),
        )
    };
    match tokio::time::timeout(PATIENCE, lists).await {
        Ok(Ok((deployments, stateful_sets, daemon_sets))) => [deployments, stateful_sets, daemon_sets].concat(),
        Ok(Err(error)) => {
            tracing::warn!(namespace, id, %error, "cannot look up other workloads under the id");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!(namespace, id, "looking up other workloads under the id took longer than {PATIENCE:?}");
            Vec::new()
        }
    }
}

/// The Services that send traffic to all pods of a workload. It is for a warning, as [`other_workloads`].
async fn reaching_services(client: &Client, namespace: &str, object: &Value) -> Vec<String> {
    let labels = object["spec"]["template"]["metadata"]["labels"].as_object().into_iter().flatten();
    let labels: BTreeMap<String, String> =
        labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    let governing = object["spec"]["serviceName"].as_str();
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let list = async {
        let (mut parameters, mut found) = (ListParams::default().limit(PAGE), Vec::new());
        for _ in 0..PAGES {
            let page = services.list(&parameters).await?;
            let facts = page.items.iter().map(ServiceFacts::of);
            found.extend(facts.filter(|facts| reaches_standbys(facts, &labels, governing)).map(|facts| facts.name));
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
                _ => break,
            }
        }
        Ok::<_, kube::Error>(found)
    };
    match tokio::time::timeout(PATIENCE, list).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(namespace, %error, "cannot look up which Services reach an elected workload");
            Vec::new()
        }
        Err(_) => {
            tracing::warn!(
                namespace,
                "looking up which Services reach an elected workload took longer than {PATIENCE:?}"
            );
            Vec::new()
        }
    }
}

/// The workloads of one kind that carry the id, but for `own` (kind and name).
async fn annotated<K>(client: &Client, namespace: &str, id: &str, own: (&str, &str)) -> Result<Vec<String>, kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    let (api, kind) = (Api::<K>::namespaced(client.clone(), namespace), K::kind(&()));
    let mut parameters = ListParams::default().limit(PAGE);
    let mut found = Vec::new();
    for _ in 0..PAGES {
        let request = Request::new(api.resource_url()).list_metadata(&parameters).map_err(kube::Error::BuildRequest)?;
        let page: Page<Named> = client.request(request).await?;
        let metadata = page.items.into_iter().flatten().map(|item| item.metadata);
        let asking = metadata.filter(|item| item.annotations.get(names::ID).is_some_and(|value| value == id));
        let living = asking.filter(|item| item.deletion_timestamp.is_none()).map(|item| item.name);
        found.extend(living.filter(|name| (&*kind, name.as_str()) != own).map(|name| format!("{kind}/{name}")));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
            _ => break,
        }
    }
    Ok(found)
}

/// A page of a list, of whose items only this is read. Whole objects take many times as much memory, most of it for `managedFields`.
#[derive(Debug, Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: ListMeta,
    /// The API server writes `null` for a list of metadata that has none.
    items: Option<Vec<T>>,
}

/// An object of which the metadata count.
#[derive(Debug, Deserialize)]
struct Named {
    metadata: Metadata,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<Time>,
}

/// A binding of either kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Binding {
    #[serde(default)]
    metadata: Metadata,
    role_ref: RoleRef,
    subjects: Option<Vec<Subject>>,
}

/// The record of the youngest other pod that the same owner made for this id: what its image's entry point was, when the registry
/// does not say it now. `pod` is the arriving one. At most one page of pods is looked at.
pub async fn sibling_record(
    client: &Client,
    namespace: &str,
    pod: &Value,
    id: &str,
) -> Result<Option<String>, kube::Error> {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    let owner = owners.and_then(|owners| owners.iter().find(|owner| owner["controller"] == true));
    let Some(uid) = owner.and_then(|owner| owner["uid"].as_str()) else { return Ok(None) };
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let labelled = ListParams::default().labels(&format!("{}={id}", names::ID)).limit(PAGE);
    let page = pods.list_metadata(&labelled).await?;
    let siblings = page.items.iter().filter(|sibling| {
        sibling.owner_references().iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
    });
    let recorded = siblings.filter_map(|sibling| Some((sibling, sibling.annotations().get(names::INJECTED)?)));
    let youngest = recorded.max_by_key(|(sibling, _)| sibling.metadata.creation_timestamp.clone());
    Ok(youngest.map(|(_, record)| record.clone()))
}

/// Whether any object of the collection is as asked for, read page by page.
async fn any<K, T>(client: &Client, api: &Api<K>, wanted: impl Fn(&T) -> bool) -> Result<bool, kube::Error>
where
    K: Resource,
    T: DeserializeOwned,
{
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let request = Request::new(api.resource_url()).list(&parameters).map_err(kube::Error::BuildRequest)?;
        let page: Page<T> = client.request(request).await?;
        if page.items.iter().flatten().any(&wanted) {
            return Ok(true);
        }
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => parameters.continue_token = Some(token),
            _ => return Ok(false),
        }
    }
}

/// Whether the webhook made the binding, for an id whose workload keeps its account. It gives that id's Lease only, so it says
/// nothing about other workloads; the one that it is for has its account in its record.
fn is_of_an_id(binding: &Binding) -> bool {
    let role = &binding.role_ref;
    let id = binding.metadata.labels.get(names::ID);
    id.is_some_and(|id| role.kind == "Role" && role.name == format!("leader-{id}"))
}

/// Whether the subjects of a binding name the namespace's account `default` itself. Groups are no matter: another account of the
/// namespace is in the same ones.
fn names_default(subjects: &[Subject], namespace: &str) -> bool {
    let user = format!("system:serviceaccount:{namespace}:{DEFAULT_ACCOUNT}");
    subjects.iter().any(|subject| match subject.kind.as_str() {
        "ServiceAccount" => {
            subject.name == DEFAULT_ACCOUNT && subject.namespace.as_deref().unwrap_or(namespace) == namespace
        }
        "User" => subject.name == user,
        _ => false,
    })
}

/// Whether pods get something from the account that another one would not give them. Its pull secrets a dedicated one gives too.
fn has_its_own(account: &ServiceAccount) -> bool {
    account.metadata.annotations.as_ref().is_some_and(|annotations| !annotations.is_empty())
        || account.secrets.as_ref().is_some_and(|secrets| !secrets.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn subject(value: Value) -> Vec<Subject> {
        vec![serde_json::from_value(value).unwrap()]
    }

    #[test]
    fn a_list_may_have_no_items_at_all() {
        for items in [json!(null), json!([])] {
            let page =
                json!({"kind": "PartialObjectMetadataList", "metadata": {"resourceVersion": "602"}, "items": items});
            let page: Page<Named> = serde_json::from_value(page).unwrap();
            assert_eq!(page.items.into_iter().flatten().count(), 0);
        }
    }

    #[test]
    fn who_is_named() {
        let named = |value| names_default(&subject(value), "shop");
        assert!(named(json!({"kind": "ServiceAccount", "name": "default", "namespace": "shop"})));
        assert!(named(json!({"kind": "ServiceAccount", "name": "default"})));
        assert!(named(json!({"kind": "User", "name": "system:serviceaccount:shop:default"})));

        assert!(!named(json!({"kind": "ServiceAccount", "name": "default", "namespace": "other"})));
        assert!(!named(json!({"kind": "ServiceAccount", "name": "billing", "namespace": "shop"})));
        assert!(!named(json!({"kind": "User", "name": "system:serviceaccount:other:default"})));
        assert!(!named(json!({"kind": "Group", "name": "system:serviceaccounts:shop"})));
    }

    #[test]
    fn which_bindings_are_an_ids() {
        let ours = |labels: Value, kind: &str, role: &str| {
            let reference = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
            let mut metadata = json!({"name": "leader-billing"});
            if labels.is_object() {
                metadata["labels"] = labels;
            }
            let binding = json!({"metadata": metadata, "roleRef": reference});
            is_of_an_id(&serde_json::from_value(binding).unwrap())
        };
        let label = || json!({"leader.io/id": "billing"});
        assert!(ours(label(), "Role", "leader-billing"));
        // It gives something else, or somebody else made it.
        assert!(!ours(label(), "ClusterRole", "leader-billing"));
        assert!(!ours(label(), "Role", "admin"));
        assert!(!ours(label(), "Role", "leader-other"));
        assert!(!ours(json!({"team": "billing"}), "Role", "leader-billing"));
        assert!(!ours(Value::Null, "Role", "leader-billing"));
    }

    #[test]
    fn accounts_that_do_not_depend_on_default() {
        let pod = |name: Value| json!({ "kind": "Pod", "spec": { "serviceAccountName": name } });
        assert!(account_is_settled(&pod(json!("billing"))));
        for open in [json!("default"), json!(""), Value::Null] {
            assert!(!account_is_settled(&pod(open)));
        }
        let asked = json!({ "metadata": { "annotations": { "leader.io/service-account": "dedicated" } } });
        assert!(account_is_settled(&asked));
        assert!(account_is_settled(&json!({ "kind": "Job", "spec": { "template": asked } })));
        assert!(account_is_settled(
            &json!({ "kind": "CronJob", "spec": { "jobTemplate": { "spec": { "template": asked } } } })
        ));
        // Injection may have put it there.
        let template = json!({ "spec": { "serviceAccountName": "leader-billing" } });
        assert!(!account_is_settled(&json!({ "kind": "Deployment", "spec": { "template": template } })));
    }

    #[test]
    fn whose_pull_secrets_count() {
        let spec = |name: &str| json!({ "serviceAccountName": name });
        assert_eq!(named_account(&json!({ "spec": { "template": { "spec": spec("robot") } } })), "robot");
        assert_eq!(
            named_account(&json!({ "spec": { "jobTemplate": { "spec": { "template": { "spec": spec("robot") } } } } })),
            "robot"
        );
        assert_eq!(named_account(&json!({ "kind": "Pod", "spec": { "serviceAccount": "robot" } })), "robot");
        assert_eq!(named_account(&json!({ "spec": spec("") })), "default");
    }

    #[test]
    fn what_an_account_gives() {
        let gives = |value: Value| has_its_own(&serde_json::from_value(value).unwrap());
        assert!(!gives(json!({"metadata": {"name": "default"}, "secrets": []})));
        assert!(gives(json!({"metadata": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}}})));
        assert!(!gives(json!({"metadata": {}, "imagePullSecrets": [{"name": "registry"}]})));
        assert!(gives(json!({"metadata": {}, "secrets": [{"name": "old-token"}]})));
    }
}
