//! The dry run: whether the API server reaches the webhook, and what comes back.

use super::{MANIFESTS, check};
use crate::cli::check::{
    gather::WEBHOOK,
    report::{Check, Finding},
    snapshot::{Answer, Snapshot, is_injected},
};

/// How the API server begins what it says about a webhook that it could not ask.
const NOT_ASKED: &str = "failed calling webhook";
/// In the webhook's refusal where the agent's image is private ([`crate::inject::Refusal::NoPullSecret`]).
const NO_PULL_SECRET: &str = "which this namespace does not have";

/// A workload that asks for an election comes back with the agent.
pub(super) fn answer(snapshot: &Snapshot) -> Check {
    check("review", &snapshot.answer, |answer| {
        let findings = match answer {
            Answer::Stored(object) if is_injected(&object["spec"]["template"]) => Vec::new(),
            Answer::Stored(_) => {
                let message = "a dry run of an annotated workload came back without the agent: neither the webhook nor the policies \
                               saw it";
                vec![Finding::problem("", message, MANIFESTS)]
            }
            Answer::Refused { code, message } => vec![refused(snapshot, *code, message)],
        };
        ("a dry run of an annotated workload was injected".to_owned(), findings)
    })
}

fn refused(snapshot: &Snapshot, code: u16, message: &str) -> Finding {
    let object = format!("Service {}/{WEBHOOK}", snapshot.namespace);
    let said = format!("a dry run of an annotated workload was refused: {message}");
    let logs = format!("kubectl -n {} logs deployment/{WEBHOOK}", snapshot.namespace);
    if message.contains(NOT_ASKED) {
        let mend = if ["x509", "certificate", "PEM"].iter().any(|word| message.contains(word)) {
            format!(
                "the API server does not trust the webhook: see the check `certificate`; the webhook's reason: {logs}"
            )
        } else if ["no endpoints", "connection refused"].iter().any(|words| message.contains(words)) {
            format!("no replica answers: see the check `webhook`; {logs}")
        } else if ["timeout", "deadline exceeded", "no route", "unreachable"]
            .iter()
            .any(|words| message.contains(words))
        {
            "the API server does not reach the webhook's pods on port 10250: look at firewalls between control plane and nodes, at \
             network policies, and whether the pods are ready"
                .to_owned()
        } else if message.contains("not found") {
            MANIFESTS.to_owned()
        } else {
            format!("look at {logs}")
        };
        return Finding::problem(object, said, mend);
    }
    if message.contains("ValidatingAdmissionPolicy") && serves_some_namespaces(snapshot) {
        let reason = format!(
            "only some namespaces are served (namespaceSelector), and {} may not be one of them: {message}",
            snapshot.review_namespace
        );
        let mend = "name a namespace that is served with --review-in".to_owned();
        return Finding { mend, ..Finding::unknown(&reason) };
    }
    if message.contains("ValidatingAdmissionPolicy") {
        let mend = format!("the webhook was not asked: see the check `configuration`, or {MANIFESTS}");
        return Finding::problem(format!("MutatingWebhookConfiguration {WEBHOOK}"), said, mend);
    }
    if message.contains("inject.leader.io") && message.contains(NO_PULL_SECRET) {
        let namespace = &snapshot.review_namespace;
        let mend = format!(
            "name a namespace that has the secret with --review-in: {namespace} needs it only for workloads of its own"
        );
        return Finding {
            mend,
            ..Finding::unknown(&format!("a dry run in namespace {namespace} is refused: {message}"))
        };
    }
    if message.contains("inject.leader.io") {
        return Finding::problem(object, said, format!("the webhook's own answer; look at {logs}"));
    }
    let namespace = &snapshot.review_namespace;
    let reason = match code {
        403 => format!("a dry run in namespace {namespace} is forbidden: {message}"),
        404 => format!("namespace {namespace} does not exist"),
        _ => format!("a dry run in namespace {namespace} is refused by somebody else: {message}"),
    };
    Finding {
        mend: "name a namespace where you may create Deployments with --review-in".to_owned(),
        ..Finding::unknown(&reason)
    }
}

/// Whether the webhook is asked in some namespaces only, as by deploy/components/namespaces.
fn serves_some_namespaces(snapshot: &Snapshot) -> bool {
    let Ok(Some(configuration)) = &snapshot.configuration else { return false };
    let webhooks = configuration["webhooks"].as_array().into_iter().flatten();
    // The API server fills in an empty selector, which selects every namespace.
    let mut selectors = webhooks.map(|webhook| &webhook["namespaceSelector"]);
    selectors.any(|selector| selector.as_object().is_some_and(|selector| !selector.is_empty()))
}
