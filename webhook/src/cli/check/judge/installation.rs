//! What was installed: the webhook's Deployment, its configuration, the policies behind it, and its rights.

use serde_json::Value;

use super::{MANIFESTS, check, counted};
use crate::cli::check::{
    gather::WEBHOOK,
    report::{Check, Finding},
    snapshot::{Snapshot, is_living, name, title},
};

/// Its webhooks, each with what it is for.
const WEBHOOKS: [(&str, &str); 3] = [
    ("inject.leader.io", "annotated workloads are not injected"),
    ("pods.inject.leader.io", "pods of annotated pod templates are not injected"),
    ("services.inject.leader.io", "Services that ask for the leader only reach every pod"),
];
/// What the policies that refuse what the webhook did not see are for.
const UNSEEN: &str = "where the webhook is not asked, what carries leader.io/id runs without election";
/// The policies, each with what is so without it.
pub(super) const POLICIES: [(&str, &str); 7] = [
    ("leader-injected", UNSEEN),
    ("leader-injected-pods", UNSEEN),
    ("leader-on-the-template", UNSEEN),
    ("leader-on-the-job-template", UNSEEN),
    (
        "leader-only-services",
        "where the webhook is not asked, a Service that asks for the leader only reaches every pod",
    ),
    ("leader-own-slices", "a pod's token can send another Service's traffic wherever it likes"),
    ("leader-deletion-cost", "the webhook's token can change more of a pod than in what order it is removed"),
];
/// Rights without which no workload can be injected, no Service be steered, or the certificates are not trusted for long.
pub(super) const RIGHTS: [(&str, &str, &str); 11] = [
    ("", "serviceaccounts", "get"),
    ("", "serviceaccounts", "create"),
    ("rbac.authorization.k8s.io", "roles", "create"),
    ("rbac.authorization.k8s.io", "rolebindings", "create"),
    ("coordination.k8s.io", "leases", "get"),
    ("coordination.k8s.io", "leases", "create"),
    ("coordination.k8s.io", "leases", "update"),
    ("", "services", "watch"),
    ("discovery.k8s.io", "endpointslices", "create"),
    ("discovery.k8s.io", "endpointslices", "update"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "patch"),
];

/// Roles of the webhook's namespace, each with the setting that makes it needless, and what is so without it.
pub(super) const OWN_ROLES: [(&str, [&str; 2], &str); 1] = [(
    "leader-webhook-certificates",
    ["LEADER_WEBHOOK_TLS_CERT", "--tls-cert"],
    "no certificate can be made or renewed",
)];

/// The Deployment is there, and its replicas are ready.
pub(super) fn webhook(snapshot: &Snapshot) -> Check {
    let namespace = &snapshot.namespace;
    let object = format!("Deployment {namespace}/{WEBHOOK}");
    check("webhook", &snapshot.deployment, |deployment| {
        let Some(deployment) = deployment else {
            let mend = format!("{MANIFESTS}, or name its namespace with --system-namespace");
            return (String::new(), vec![Finding::problem(object.clone(), "it does not exist", mend)]);
        };
        let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        let ready = deployment["status"]["readyReplicas"].as_u64().unwrap_or(0);
        let good = format!("{ready} of {wanted} replicas are ready");
        let mut findings = Vec::new();
        if wanted == 0 {
            let mend = format!("kubectl -n {namespace} scale deployment/{WEBHOOK} --replicas=2");
            let message = "it is scaled to no replicas: annotated workloads can be neither created nor changed";
            findings.push(Finding::problem(object.clone(), message, mend));
        } else if ready < wanted {
            let mend = format!(
                "look at kubectl -n {namespace} describe pods -l app.kubernetes.io/name={WEBHOOK}, and at their logs"
            );
            let finding = if ready == 0 {
                let message = "no replica is ready: annotated workloads can be neither created nor changed";
                Finding::problem(object.clone(), message, mend)
            } else {
                Finding::warning(object.clone(), format!("only {good}"), mend)
            };
            findings.push(finding);
        }
        for pod in snapshot.webhook_pods.as_deref().unwrap_or_default().iter().filter(|pod| is_living(pod)) {
            findings.extend(why_waiting(pod).map(|(reason, finding)| {
                let mend = if reason.contains("mage") {
                    IMAGE_MEND.to_owned()
                } else {
                    format!("kubectl -n {namespace} logs {} --all-containers", name(pod))
                };
                Finding::problem(title(pod), finding, mend)
            }));
        }
        (good, findings)
    })
}

/// What to do about an image that cannot be pulled.
pub(super) const IMAGE_MEND: &str = "put the image where the nodes can pull it: deploy/components/registry-mirror changes names, deploy/components/pull-secrets gives credentials";

/// Why a container of a pod does not start: the kubelet's reason, and a sentence.
fn why_waiting(pod: &Value) -> Option<(String, String)> {
    let statuses = ["initContainerStatuses", "containerStatuses"].into_iter();
    let mut statuses = statuses.flat_map(|key| pod["status"][key].as_array().into_iter().flatten());
    statuses.find_map(|status| {
        let waiting = &status["state"]["waiting"];
        let reason =
            waiting["reason"].as_str().filter(|reason| !["PodInitializing", "ContainerCreating"].contains(reason))?;
        let (container, message) = (status["name"].as_str()?, waiting["message"].as_str().unwrap_or_default());
        Some((reason.to_owned(), format!("its container {container} does not start: {reason}: {message}")))
    })
}

/// The API server asks the webhook, and takes no answer for a no.
pub(super) fn configuration(snapshot: &Snapshot) -> Check {
    let object = format!("MutatingWebhookConfiguration {WEBHOOK}");
    check("configuration", &snapshot.configuration, |configuration| {
        let Some(configuration) = configuration else {
            let message = "it does not exist: annotated workloads are refused by the policies, or run without election";
            return (String::new(), vec![Finding::problem(object, message, MANIFESTS)]);
        };
        let webhooks = configuration["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut findings = Vec::new();
        for (name, without) in WEBHOOKS {
            let Some(webhook) = webhooks.iter().find(|webhook| webhook["name"] == name) else {
                findings.push(Finding::problem(&*object, format!("it has no webhook {name}: {without}"), MANIFESTS));
                continue;
            };
            if webhook["failurePolicy"] != "Fail" {
                let message = format!(
                    "failurePolicy of {name} is {}: while the webhook is down, {without}",
                    webhook["failurePolicy"].as_str().unwrap_or("unset")
                );
                findings.push(Finding::problem(&*object, message, format!("set it to Fail, or {MANIFESTS}")));
            }
            let service = &webhook["clientConfig"]["service"];
            if service["namespace"] != snapshot.namespace.as_str() {
                let message =
                    format!("{name} calls {}, not a Service in {}", webhook["clientConfig"], snapshot.namespace);
                findings.push(Finding::problem(&*object, message, MANIFESTS));
            }
            if webhook["clientConfig"]["caBundle"].as_str().is_none_or(str::is_empty) {
                let message = format!("caBundle of {name} is empty: no review can be sent");
                let mend = format!(
                    "the webhook writes it within a minute; if it does not: kubectl -n {} logs deployment/{WEBHOOK}",
                    snapshot.namespace
                );
                findings.push(Finding::problem(&*object, message, mend));
            }
        }
        (format!("{} ask the webhook, and fail without it", counted(webhooks.len(), "rule")), findings)
    })
}

/// What the webhook did not see is refused.
pub(super) fn policies(snapshot: &Snapshot) -> Check {
    let read = snapshot.policies.as_ref().and_then(|policies| Ok((policies, snapshot.policy_bindings.as_ref()?)));
    check("policies", &read.map_err(Clone::clone), |(policies, bindings)| {
        let mut findings = Vec::new();
        for (name_of, what) in POLICIES {
            let object = format!("ValidatingAdmissionPolicy {name_of}");
            if !policies.iter().any(|policy| name(policy) == name_of) {
                findings.push(Finding::problem(object, format!("it does not exist: {what}"), MANIFESTS));
                continue;
            }
            let bound: Vec<_> = bindings.iter().filter(|binding| binding["spec"]["policyName"] == name_of).collect();
            let denies = |binding: &&&Value| {
                let actions = binding["spec"]["validationActions"].as_array();
                actions.is_some_and(|actions| actions.iter().any(|action| action == "Deny"))
            };
            match bound.iter().find(denies) {
                None if bound.is_empty() => {
                    findings.push(Finding::problem(object, format!("it is not bound: {what}"), MANIFESTS));
                }
                None => {
                    let message = format!("no binding of it has the action Deny: {what}");
                    findings.push(Finding::problem(object, message, MANIFESTS));
                }
                Some(binding) if !binding["spec"]["matchResources"].is_null() => {
                    let message =
                        format!("its binding {} leaves objects out (matchResources): there {what}", name(binding));
                    findings.push(Finding::warning(
                        object,
                        message,
                        format!("take matchResources out, or {MANIFESTS}"),
                    ));
                }
                Some(_) => (),
            }
        }
        (format!("{} are bound and deny", counted(POLICIES.len(), "policy").replace("policys", "policies")), findings)
    })
}

/// The webhook may do what it has to.
pub(super) fn rights(snapshot: &Snapshot) -> Check {
    check("rights", &snapshot.rights, |(role, binding)| {
        let Some(role) = role else {
            let finding = Finding::problem(
                format!("ClusterRole {WEBHOOK}"),
                "it does not exist: no workload can be injected",
                MANIFESTS,
            );
            return (String::new(), vec![finding]);
        };
        let mut findings = Vec::new();
        for (group, resource, verb) in RIGHTS {
            if !allows(role, group, resource, verb) {
                let message = format!("it does not give {verb} on {resource}, which the webhook needs");
                findings.push(Finding::problem(format!("ClusterRole {WEBHOOK}"), message, MANIFESTS));
            }
        }
        let object = format!("ClusterRoleBinding {WEBHOOK}");
        match binding {
            None => {
                findings.push(Finding::problem(object, "it does not exist: no workload can be injected", MANIFESTS));
            }
            Some(binding) => {
                let subjects = binding["subjects"].as_array().map(Vec::as_slice).unwrap_or_default();
                let is_bound = subjects.iter().any(|subject| {
                    subject["kind"] == "ServiceAccount"
                        && subject["name"] == WEBHOOK
                        && subject["namespace"] == snapshot.namespace.as_str()
                });
                if !is_bound || binding["roleRef"]["name"] != WEBHOOK {
                    let message = format!(
                        "it does not bind ServiceAccount {}/{WEBHOOK} to ClusterRole {WEBHOOK}",
                        snapshot.namespace
                    );
                    findings.push(Finding::problem(object, message, MANIFESTS));
                }
            }
        }
        own_roles(snapshot, &mut findings);
        ("the webhook has the rights that it needs".to_owned(), findings)
    })
}

/// What it may do in its own namespace.
fn own_roles(snapshot: &Snapshot, findings: &mut Vec<Finding>) {
    let (roles, bindings) = match &snapshot.own_rights {
        Ok((roles, bindings)) => (roles, bindings),
        Err(reason) => return findings.push(Finding::unknown(reason)),
    };
    let deployment = snapshot.deployment.as_ref().ok().and_then(Option::as_ref).unwrap_or(&Value::Null);
    for (role, settings, without) in OWN_ROLES {
        if is_set(deployment, settings) {
            continue;
        }
        let is_bound = bindings.iter().any(|binding| {
            let mut subjects = binding["subjects"].as_array().into_iter().flatten();
            binding["roleRef"]["kind"] == "Role"
                && binding["roleRef"]["name"] == role
                && subjects.any(|subject| subject["kind"] == "ServiceAccount" && subject["name"] == WEBHOOK)
        });
        let object = format!("Role {}/{role}", snapshot.namespace);
        if !roles.iter().any(|existing| name(existing) == role) {
            findings.push(Finding::problem(object, format!("it does not exist: {without}"), MANIFESTS));
        } else if !is_bound {
            let message = format!("it is not bound to ServiceAccount {WEBHOOK}: {without}");
            findings.push(Finding::problem(object, message, MANIFESTS));
        }
    }
}

/// Whether the webhook is started with one of these, a variable and its flag.
fn is_set(deployment: &Value, [variable, flag]: [&str; 2]) -> bool {
    let containers = deployment["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten();
    containers.into_iter().any(|container| {
        let mut variables = container["env"].as_array().into_iter().flatten();
        let mut words = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
        variables.any(|one| one["name"] == variable)
            || words.any(|word| word.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')))
    })
}

/// Whether a role has a rule with the right; rules for certain names count.
pub(super) fn allows(role: &Value, group: &str, resource: &str, verb: &str) -> bool {
    let has = |rule: &Value, key: &str, wanted: &str| {
        rule[key].as_array().is_some_and(|list| list.iter().any(|item| item == wanted || item == "*"))
    };
    let rules = role["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    rules
        .iter()
        .any(|rule| has(rule, "apiGroups", group) && has(rule, "resources", resource) && has(rule, "verbs", verb))
}
