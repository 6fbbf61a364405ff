//! Workloads and pods: what asks for an election has the agent, a present one, and its image can be pulled.

use leader_agent::names;
use serde_json::Value;

use super::{
    check, counted,
    installation::IMAGE_MEND,
    versions::{is_apart, record, tag},
};
use crate::cli::check::{
    report::{Check, Finding},
    snapshot::{Answer, Snapshot, id, is_injected, is_living, name, namespace, title},
};

/// Kinds whose own metadata may carry the id.
const INJECTED: [&str; 3] = ["Deployment", "StatefulSet", "DaemonSet"];
/// Why the kubelet does not have an image: `ErrImagePull`, `ImagePullBackOff` and others.
const IMAGE: &str = "Image";

/// Everything that asks for an election has the agent, and not one of an old version.
pub(super) fn injected(snapshot: &Snapshot) -> Check {
    check("workloads", &snapshot.workloads, |workloads| {
        let present = agent_image(snapshot);
        let mut findings = Vec::new();
        for workload in workloads {
            if workload["metadata"]["annotations"][names::ID].is_string() && is_of_injected_kind(workload) {
                findings.extend(not_injected(workload));
            }
            findings.extend(old(workload, &workload["spec"]["template"], present.as_deref(), &restart(workload)));
        }
        let pods = match &snapshot.pods {
            Ok(pods) => pods.as_slice(),
            Err(reason) => {
                findings.push(Finding::unknown(reason));
                &[]
            }
        };
        // Pods of a template that was not injected itself carry the id. Those of an injected one are as that is.
        for pod in pods.iter().filter(|pod| is_living(pod) && !pod["metadata"]["annotations"][names::ID].is_null()) {
            let mend = format!("make it anew: kubectl -n {} delete pod {}", namespace(pod), name(pod));
            findings.extend(old(pod, pod, present.as_deref(), &mend));
        }
        match &snapshot.bare_pods {
            Ok(pods) => {
                findings.extend(pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).map(bare));
            }
            Err(reason) => findings.push(Finding::unknown(reason)),
        }
        let asking = workloads.iter().filter(|workload| id(workload).is_some()).count();
        (
            format!(
                "{} and {} take part in elections, with the present agent",
                counted(asking, "workload"),
                counted(pods.len(), "pod")
            ),
            findings,
        )
    })
}

fn is_of_injected_kind(workload: &Value) -> bool {
    INJECTED.iter().any(|kind| workload["kind"] == *kind)
}

/// `deployment/billing`.
fn argument(workload: &Value) -> String {
    format!("{}/{}", workload["kind"].as_str().unwrap_or("deployment").to_lowercase(), name(workload))
}

fn restart(workload: &Value) -> String {
    if is_of_injected_kind(workload) {
        format!("kubectl -n {} rollout restart {}", namespace(workload), argument(workload))
    } else {
        "write its pod template once more".to_owned()
    }
}

fn not_injected(workload: &Value) -> Option<Finding> {
    if is_injected(&workload["spec"]["template"]) {
        return None;
    }
    let id = id(workload).unwrap_or_default();
    let message = format!(
        "it asks for an election by {} and its pods have no agent: every one of them runs the application",
        names::ID
    );
    let mend = format!(
        "write it once more, so that the webhook sees it: kubectl -n {} annotate {} {}={id} --overwrite",
        namespace(workload),
        argument(workload),
        names::ID
    );
    Some(Finding::problem(title(workload), message, mend))
}

fn bare(pod: &Value) -> Finding {
    let message =
        format!("it asks for an election by {} and has no agent: it runs the application, whoever leads", names::ID);
    let mend = format!(
        "delete it, so that what makes it makes another one: kubectl -n {} delete pod {}",
        namespace(pod),
        name(pod)
    );
    Finding::problem(title(pod), message, mend)
}

/// What is said about an agent that is not the present one.
fn old(object: &Value, template: &Value, present: Option<&str>, mend: &str) -> Option<Finding> {
    let record = record(template)?;
    let (image, present) = (record["agentImage"].as_str()?, present?);
    if image == present {
        return None;
    }
    let message = format!("its agent is {image}, and the webhook injects {present}");
    let finding = if is_apart(tag(image), tag(present)) {
        let message = format!("{message}: more than one version apart, which is not supported");
        Finding::problem(title(object), message, mend)
    } else {
        Finding::warning(title(object), message, mend)
    };
    Some(finding)
}

/// The agent that the webhook injects now, as the dry run shows it.
fn agent_image(snapshot: &Snapshot) -> Option<String> {
    let Ok(Answer::Stored(stored)) = &snapshot.answer else { return None };
    let containers = stored["spec"]["template"]["spec"]["initContainers"].as_array()?;
    let agent = containers.iter().find(|container| container["name"] == names::INIT_CONTAINER)?;
    agent["image"].as_str().map(str::to_owned)
}

/// The agent's image can be pulled where it is injected.
pub(super) fn images(snapshot: &Snapshot) -> Check {
    check("images", &snapshot.pods, |pods| {
        let mut findings: Vec<Finding> = Vec::new();
        for pod in pods.iter().filter(|pod| is_living(pod)) {
            let statuses = pod["status"]["initContainerStatuses"].as_array().into_iter().flatten();
            let mut agents = statuses.filter(|status| status["name"] == names::INIT_CONTAINER);
            let waiting = agents.find_map(|status| Some((status, status["state"]["waiting"]["reason"].as_str()?)));
            let Some((status, reason)) = waiting.filter(|(_, reason)| reason.contains(IMAGE)) else { continue };
            let image = status["image"].as_str().unwrap_or_default();
            let said = status["state"]["waiting"]["message"].as_str().unwrap_or(reason);
            let message = format!("the agent's image {image} cannot be pulled: {said}");
            let mend = format!("{IMAGE_MEND}; a private image needs --agent-pull-secret of the webhook as well");
            findings.push(Finding::problem(title(pod), message, mend));
        }
        ("no pod waits for the agent's image".to_owned(), findings)
    })
}
