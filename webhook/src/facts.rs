//! What injection has to know about the cluster, looked up for one review.

use k8s_openapi::api::{
    core::v1::ServiceAccount,
    rbac::v1::{ClusterRoleBinding, RoleBinding, Subject},
};
use kube::{
    Api, Client, Resource,
    api::{ListParams, ObjectList},
};
use leader_agent::names;
use serde::de::DeserializeOwned;

use crate::inject::Facts;

const DEFAULT_ACCOUNT: &str = "default";
/// How many objects one request lists. The API server reads a page of this size in milliseconds.
const PAGE: u32 = 500;

/// Looks the facts of `namespace` up.
pub async fn look_up(client: &Client, namespace: &str) -> Result<Facts, kube::Error> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let roles: Api<RoleBinding> = Api::namespaced(client.clone(), namespace);
    let cluster_roles: Api<ClusterRoleBinding> = Api::all(client.clone());
    let (account, bound, bound_everywhere) = futures::try_join!(
        accounts.get_opt(DEFAULT_ACCOUNT),
        any(&roles, |binding: &RoleBinding| {
            !is_of_an_id(binding) && binding.subjects.as_deref().is_some_and(|list| names_default(list, namespace))
        }),
        any(&cluster_roles, |binding: &ClusterRoleBinding| {
            binding.subjects.as_deref().is_some_and(|list| names_default(list, namespace))
        }),
    )?;
    let has_its_own = account.as_ref().is_some_and(has_its_own);
    Ok(Facts { default_account_in_use: bound || bound_everywhere || has_its_own, ..Facts::default() })
}

/// Whether any object of the collection is as asked for, read page by page.
async fn any<K>(api: &Api<K>, wanted: impl Fn(&K) -> bool) -> Result<bool, kube::Error>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut parameters = ListParams::default().limit(PAGE);
    loop {
        let page: ObjectList<K> = api.list(&parameters).await?;
        if page.items.iter().any(&wanted) {
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
fn is_of_an_id(binding: &RoleBinding) -> bool {
    let role = &binding.role_ref;
    let id = binding.metadata.labels.as_ref().and_then(|labels| labels.get(names::ID));
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

/// Whether pods get something from the account that another one would not give them.
fn has_its_own(account: &ServiceAccount) -> bool {
    account.metadata.annotations.as_ref().is_some_and(|annotations| !annotations.is_empty())
        || account.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty())
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
            let binding = json!({"metadata": {"name": "leader-billing", "labels": labels}, "roleRef": reference});
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
    fn what_an_account_gives() {
        let gives = |value: Value| has_its_own(&serde_json::from_value(value).unwrap());
        assert!(!gives(json!({"metadata": {"name": "default"}, "secrets": []})));
        assert!(gives(json!({"metadata": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}}})));
        assert!(gives(json!({"metadata": {}, "imagePullSecrets": [{"name": "registry"}]})));
        assert!(gives(json!({"metadata": {}, "secrets": [{"name": "old-token"}]})));
    }
}
