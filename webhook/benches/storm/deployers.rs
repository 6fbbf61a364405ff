//! Who deploys: a service account in each namespace.
//!
//! An admin's certificate would be exempt from the API server's priority and fairness, so that it worked on a thousand writes at once.
//! Nobody who rolls things out is (<https://kubernetes.io/docs/concepts/cluster-administration/flow-control/>).

use anyhow::Context;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
    rbac::v1::RoleBinding,
};
use kube::{Api, Client, Config, api::PostParams};
use serde_json::json;

const NAME: &str = "deployer";
/// How long their tokens last, in seconds: longer than anything that is measured.
const TOKEN: i64 = 3600;

/// Makes one in each of the namespaces.
pub(crate) async fn make(client: &Client, namespaces: impl Iterator<Item = String>) -> anyhow::Result<()> {
    for namespace in namespaces {
        let account = serde_json::from_value(json!({"metadata": {"name": NAME}}))?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        accounts.create(&PostParams::default(), &account).await?;
        let binding = serde_json::from_value(json!({
            "metadata": {"name": NAME},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": namespace}],
        }))?;
        let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace);
        bindings.create(&PostParams::default(), &binding).await?;
    }
    Ok(())
}

/// A client of each of them.
pub(crate) async fn clients(client: &Client, namespaces: impl Iterator<Item = String>) -> anyhow::Result<Vec<Client>> {
    let mut clients = Vec::new();
    for namespace in namespaces {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        let spec = TokenRequestSpec { expiration_seconds: Some(TOKEN), ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let made = accounts.create_token_request(NAME, &PostParams::default(), &request).await?;
        let token = made.status.context("a token request was answered without a token")?.token;
        let mut config = Config::infer().await.context("finding the API server")?;
        config.auth_info = kube::config::AuthInfo { token: Some(token.into()), ..Default::default() };
        clients.push(Client::try_from(config)?);
    }
    Ok(clients)
}
