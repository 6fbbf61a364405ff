//! A healthy cluster, and the same with one thing broken at a time.

mod elections;
mod installation;
mod services;

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::version::Info;
use leader_certs::authority::Authority;
use serde_json::{Value, json};

use super::{
    installation::{OWN_ROLES, POLICIES, RIGHTS},
    judge,
};
use crate::cli::check::{
    report::{Check, Report},
    snapshot::{Answer, Snapshot},
};

const NOW: &str = "2026-11-21T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn ago(seconds: i64) -> String {
    (now() - SignedDuration::from_secs(seconds)).to_string()
}

fn template(agent: &str) -> Value {
    let record = json!({ "version": 1, "id": "billing", "agentImage": agent, "serviceAccount": "dedicated" });
    json!({
        "metadata": { "labels": { "leader.io/id": "billing" }, "annotations": { "leader.io/injected": record.to_string() } },
        "spec": {
            "serviceAccountName": "leader-billing",
            "initContainers": [{ "name": "leader-agent", "image": agent }],
            "containers": [{ "name": "app", "command": ["/leader/agent", "run", "--", "/app"] }],
        },
    })
}

fn healthy() -> Snapshot {
    let authority = Authority::generate(now()).unwrap();
    let webhook = |name: &str| {
        json!({
            "name": name,
            "failurePolicy": "Fail",
            "clientConfig": {
                "service": { "namespace": "leader-system", "name": "leader-webhook", "path": "/inject", "port": 443 },
                "caBundle": BASE64_STANDARD.encode(authority.certificate()),
            },
        })
    };
    let named = |kind: &str, name: &str| json!({ "kind": kind, "metadata": { "name": name } });
    let ours = |kind: &str, name: &str| {
        json!({
            "kind": kind,
            "metadata": {
                "name": name, "namespace": "shop", "labels": { "leader.io/id": "billing" }, "creationTimestamp": ago(3600),
            },
        })
    };
    let bindings = POLICIES.iter().map(|(name, _)| {
        let mut binding = named("ValidatingAdmissionPolicyBinding", name);
        binding["spec"] = json!({ "policyName": name, "validationActions": ["Deny"] });
        binding
    });
    let mut role = named("ClusterRole", "leader-webhook");
    role["rules"] = RIGHTS
        .iter()
        .map(|(group, resource, verb)| json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] }))
        .collect();
    let mut role_binding = named("ClusterRoleBinding", "leader-webhook");
    role_binding["roleRef"] = json!({ "kind": "ClusterRole", "name": "leader-webhook" });
    role_binding["subjects"] =
        json!([{ "kind": "ServiceAccount", "name": "leader-webhook", "namespace": "leader-system" }]);
    let own_rights = OWN_ROLES.map(|(role, ..)| {
        let mut binding = named("RoleBinding", role);
        binding["roleRef"] = json!({ "kind": "Role", "name": role });
        binding["subjects"] = role_binding["subjects"].clone();
        (named("Role", role), binding)
    });
    let mut deployment = ours("Deployment", "billing");
    deployment["metadata"]["annotations"] = json!({ "leader.io/id": "billing" });
    deployment["spec"] = json!({ "replicas": 1, "template": template("agent:0.1.0") });
    let mut pod = template("agent:0.1.0");
    pod["kind"] = json!("Pod");
    pod["metadata"]["name"] = json!("billing-1");
    pod["metadata"]["namespace"] = json!("shop");
    pod["metadata"]["creationTimestamp"] = json!(ago(600));
    pod["status"] = json!({ "phase": "Running" });
    let mut lease = ours("Lease", "billing");
    lease["spec"] = json!({ "holderIdentity": "billing-1_u_app", "leaseDurationSeconds": 15, "renewTime": ago(2), "leaseTransitions": 1 });
    let mut id_role = ours("Role", "leader-billing");
    id_role["rules"] = json!([{
        "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "resourceNames": ["billing"],
        "verbs": ["get", "list", "watch", "create", "update"],
    }]);
    let mut id_binding = ours("RoleBinding", "leader-billing");
    id_binding["roleRef"] = json!({ "kind": "Role", "name": "leader-billing" });
    id_binding["subjects"] = json!([{ "kind": "ServiceAccount", "name": "leader-billing", "namespace": "shop" }]);
    let stored = json!({ "spec": { "template": template("agent:0.1.0") } });
    let expiry = now().as_second() + 80_000;
    let figures = format!(
        "leader_webhook_build_info{{version=\"0.1.0\"}} 1\n\
         leader_webhook_certificate_expiry_timestamp_seconds{{certificate=\"leaf\"}} {expiry}\n"
    );
    Snapshot {
        now: now(),
        own_version: "0.1.0".to_owned(),
        namespace: "leader-system".to_owned(),
        review_namespace: "default".to_owned(),
        server: Ok(Info { major: "1".to_owned(), minor: "36".to_owned(), ..Info::default() }),
        configuration: Ok(Some(json!({ "webhooks": [
            webhook("inject.leader.io"), webhook("pods.inject.leader.io"), webhook("services.inject.leader.io"),
        ] }))),
        policies: Ok(POLICIES.iter().map(|(name, _)| named("ValidatingAdmissionPolicy", name)).collect()),
        policy_bindings: Ok(bindings.collect()),
        deployment: Ok(Some(json!({ "spec": { "replicas": 2 }, "status": { "readyReplicas": 2 } }))),
        webhook_pods: Ok(vec![
            json!({ "kind": "Pod", "metadata": { "name": "leader-webhook-1", "namespace": "leader-system" } }),
        ]),
        figures: BTreeMap::from([("leader-webhook-1".to_owned(), Ok(figures))]),
        authority: Ok(Some(authority.certificate())),
        rights: Ok((Some(role), Some(role_binding))),
        own_rights: Ok(own_rights.into_iter().unzip()),
        answer: Ok(Answer::Stored(Box::new(stored))),
        workloads: Ok(vec![deployment]),
        pods: Ok(vec![pod]),
        bare_pods: Ok(vec![]),
        leases: Ok(vec![lease]),
        accounts: Ok(vec![ours("ServiceAccount", "leader-billing")]),
        roles: Ok(vec![id_role]),
        bindings: Ok(vec![id_binding]),
        network_policies: Ok(vec![]),
        services: Ok(vec![]),
        api_server: Ok(vec![("10.96.0.1".parse().unwrap(), 443), ("10.10.1.1".parse().unwrap(), 6443)]),
    }
}

/// Everything that is not right, as `check level object: message`.
fn found(report: &Report) -> Vec<String> {
    let findings =
        report.checks.iter().flat_map(|Check { name, findings, .. }| findings.iter().map(move |it| (name, it)));
    findings.map(|(name, it)| format!("{name} {:?} {}: {}", it.level, it.object, it.message)).collect()
}

/// What is found after `break_it`, which must be one thing.
fn broken(break_it: impl FnOnce(&mut Snapshot)) -> String {
    let mut snapshot = healthy();
    break_it(&mut snapshot);
    let report = judge(&snapshot);
    let mends = report.checks.iter().flat_map(|check| &check.findings).all(|finding| !finding.mend.is_empty());
    assert!(mends, "each finding says how to mend it: {report:?}");
    let mut found = found(&report);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

fn set(read: &mut Result<Vec<Value>, String>, pointer: &str, value: Value) {
    *read.as_mut().unwrap()[0].pointer_mut(pointer).unwrap() = value;
}

#[test]
fn a_healthy_cluster() {
    let report = judge(&healthy());
    assert_eq!(found(&report), Vec::<String>::new());
    assert!(!report.has_problems());
    let text = report.table();
    for part in [
        "0.9 days",
        "365 days",
        "2 of 2 replicas are ready",
        "1 workload and 1 pod take part",
        "1 of 1 ids have a leader",
        "0 problems, 0 warnings, 0 could not be checked",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn what_may_not_be_read_is_unknown_and_no_problem() {
    let mut snapshot = healthy();
    let forbidden = || "secrets is forbidden".to_owned();
    snapshot.authority = Err(forbidden());
    snapshot.workloads = Err(forbidden());
    snapshot.policies = Err(forbidden());
    let report = judge(&snapshot);
    let found = found(&report);
    assert!(found.iter().all(|finding| finding.contains("Unknown")), "{found:#?}");
    // The Secret; the workloads, without which there are no elections, no access and no leaders; the policies.
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(!report.has_problems());
}
