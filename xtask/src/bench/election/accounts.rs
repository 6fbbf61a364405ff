//! Whom candidates are to the API server: a service account each, so that its audit log tells them apart.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use leader_tests::Cluster;
use leader_tests::kit::{Namespace, Request};
use leader_tests::pki::Pki;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::images::checkout;

/// A namespace with the accounts of a run, and a folder with a kubeconfig for each.
pub(super) struct Accounts<'a> {
    namespace: Namespace<'a>,
    folder: TempDir,
}

impl<'a> Accounts<'a> {
    /// Makes accounts that may do to the namespace's Leases what candidates need, and puts their requests on the priority level on
    /// which `deploy/` puts those of agents.
    pub(super) fn create(cluster: &'a Cluster, names: &[String]) -> Result<Self> {
        let flow_schema = checkout().join("deploy/base/flow-schema.yaml");
        cluster.kubectl(&["apply", "-f"]).arg(flow_schema).run()?;
        let namespace = Namespace::new(cluster, "election")?;
        namespace.apply(&objects(&namespace, names).to_string())?;
        let folder = tempfile::tempdir().context("cannot make a folder for kubeconfigs")?;
        let accounts = Self { namespace, folder };
        for name in names {
            let token = accounts.namespace.run(&["create", "token", name])?;
            let file = accounts.kubeconfig(name);
            fs::write(&file, kubeconfig(&accounts.namespace, token.trim()).to_string())
                .with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(accounts)
    }

    pub(super) fn cluster(&self) -> &'a Cluster {
        self.namespace.cluster()
    }

    /// The namespace of all Leases.
    pub(super) fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// The kubeconfig of an account.
    pub(super) fn kubeconfig(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder for what a run leaves behind.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All that an account has asked the API server, in the order in which it was received.
    pub(super) fn requests(&self, name: &str) -> Result<Vec<Request>> {
        self.cluster().requests_of(&format!("system:serviceaccount:{}:{name}", self.namespace()))
    }
}

fn objects(namespace: &Namespace<'_>, names: &[String]) -> Value {
    const API: &str = "rbac.authorization.k8s.io";
    let verbs = ["get", "list", "watch", "create", "update"];
    let rule = json!({"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": verbs});
    let group =
        json!({"apiGroup": API, "kind": "Group", "name": format!("system:serviceaccounts:{}", namespace.name())});
    let reference = json!({"apiGroup": API, "kind": "Role", "name": "candidates"});
    let api = format!("{API}/v1");
    let metadata = json!({"name": "candidates"});
    let mut items = vec![
        json!({"apiVersion": api, "kind": "Role", "metadata": metadata, "rules": [rule]}),
        json!({"apiVersion": api, "kind": "RoleBinding", "metadata": metadata, "roleRef": reference, "subjects": [group]}),
    ];
    items.extend(
        names.iter().map(|name| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})),
    );
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn kubeconfig(namespace: &Namespace<'_>, token: &str) -> Value {
    let cluster = namespace.cluster();
    let authority = Pki::of(cluster.state()).authority();
    let server = json!({"server": cluster.range().api_url(), "certificate-authority": authority});
    let context = json!({"cluster": "bench", "user": "bench", "namespace": namespace.name()});
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": server}],
        "users": [{"name": "bench", "user": {"token": token}}],
        "contexts": [{"name": "bench", "context": context}],
    })
}
