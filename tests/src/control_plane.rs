//! etcd, API server, controller manager and scheduler.

use crate::network::{API_PORT, AddressRange, SERVICE_RANGE};
use crate::pki::Pki;
use crate::process::Starter;
use crate::state::State;
use anyhow::{Context, Result};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

const ETCD_URL: &str = "http://127.0.0.1:2379";

/// The log of requests to the API server by those that are no part of Kubernetes itself: one JSON object per line,
/// `audit.k8s.io/v1` `Event`.
pub fn audit_log(state: &State) -> PathBuf {
    state.log("audit")
}

/// Starts etcd and the API server.
///
/// # Errors
/// When one cannot be started.
pub fn start_api(starter: &mut Starter<'_>, state: &State, range: AddressRange) -> Result<()> {
    let pki = Pki::of(state);
    starter.start("etcd", "etcd", etcd_arguments(state))?;
    let policy = state.path("audit-policy.json");
    fs::write(&policy, audit_policy().to_string()).context("cannot write the audit policy")?;
    let node = range.node_address();
    let show = |path: PathBuf| path.display().to_string();
    starter.start(
        "apiserver",
        "kube-apiserver",
        [
            format!("--etcd-servers={ETCD_URL}"),
            format!("--advertise-address={node}"),
            format!("--bind-address={node}"),
            format!("--secure-port={API_PORT}"),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            format!("--tls-cert-file={}", show(pki.certificate("apiserver"))),
            format!("--tls-private-key-file={}", show(pki.key("apiserver"))),
            format!("--client-ca-file={}", show(pki.authority())),
            format!("--service-account-key-file={}", show(pki.service_account_public_key())),
            format!("--service-account-signing-key-file={}", show(pki.key("service-account"))),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged".to_owned(),
            format!("--kubelet-client-certificate={}", show(pki.certificate("admin"))),
            format!("--kubelet-client-key={}", show(pki.key("admin"))),
            // There is no DNS that knows the node's name.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", show(audit_log(state))),
        ],
    )
}

/// Starts controller manager and scheduler.
///
/// # Errors
/// When one cannot be started.
pub fn start_controllers(starter: &mut Starter<'_>, state: &State) -> Result<()> {
    let pki = Pki::of(state);
    starter.start(
        "manager",
        "kube-controller-manager",
        [
            format!("--kubeconfig={}", pki.kubeconfig("manager").display()),
            "--leader-elect=false".to_owned(),
            format!("--service-account-private-key-file={}", pki.key("service-account").display()),
            format!("--root-ca-file={}", pki.authority().display()),
            "--use-service-account-credentials".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
        ],
    )?;
    starter.start(
        "scheduler",
        "kube-scheduler",
        [
            format!("--kubeconfig={}", pki.kubeconfig("scheduler").display()),
            "--leader-elect=false".to_owned(),
            "--bind-address=127.0.0.1".to_owned(),
        ],
    )
}

fn etcd_arguments(state: &State) -> [String; 6] {
    [
        format!("--data-dir={}", state.path("etcd").display()),
        // The data does not outlive the machine anyway.
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={ETCD_URL}"),
        format!("--advertise-client-urls={ETCD_URL}"),
        "--listen-peer-urls=http://127.0.0.1:2380".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// One line per request of everybody but Kubernetes' own parts, without bodies.
fn audit_policy() -> serde_json::Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "users": [
                "system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy",
            ]},
            {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
            {"level": "Metadata"},
        ],
    })
}
