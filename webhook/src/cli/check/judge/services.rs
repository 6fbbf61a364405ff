//! Services: those that are leader-only are, and no other one sends traffic to standbys.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use leader_agent::{mode::Mode, names};
use serde_json::Value;

use super::{check, counted};
use crate::{
    cli::check::{
        report::{Check, Finding},
        snapshot::{Snapshot, id, name, namespace, title},
    },
    services::{pointed, slices::ServiceFacts},
};

/// Traffic to elected workloads goes to their leaders.
pub(super) fn traffic(snapshot: &Snapshot) -> Check {
    check("services", &snapshot.services, |services| {
        let mut findings = Vec::new();
        let mut steered = 0;
        for service in services {
            // What cannot be read is of a newer API, and nothing is known about it.
            let Ok(read) = serde_json::from_value::<Service>(service.clone()) else { continue };
            let facts = ServiceFacts::of(&read);
            if facts.leader_only.is_some() {
                steered += 1;
                findings.extend(leader_only(snapshot, service, &facts));
            } else if let Some(id) = reached(snapshot, service, &facts) {
                let message = format!(
                    "it sends traffic to all pods of leader election `{id}`, and on standbys nothing listens: most connections are refused"
                );
                let mend = pointed::mend(Some(namespace(service)), &facts.name, id);
                findings.push(Finding::warning(title(service), message, mend));
            }
        }
        (
            format!("{} sends its traffic to a leader only, and no other one to standbys", counted(steered, "Service")),
            findings,
        )
    })
}

fn leader_only(snapshot: &Snapshot, service: &Value, facts: &ServiceFacts) -> Option<Finding> {
    let id = facts.leader_only.as_ref()?;
    if !facts.selector.is_empty() {
        let message = format!(
            "it asks by {} for traffic to the leader of `{id}` only, and has a selector, which sends it to every ready pod: the webhook did not see it",
            names::LEADER_ONLY
        );
        let mend = format!(
            "write it once more, so that the webhook sees it: {} --overwrite",
            pointed::mend(Some(namespace(service)), &facts.name, id.as_str())
        );
        return Some(Finding::problem(title(service), message, mend));
    }
    let leases = snapshot.leases.as_ref().ok()?;
    let is_there = leases.iter().any(|lease| namespace(lease) == namespace(service) && name(lease) == id.as_str());
    let message = format!(
        "it sends its traffic to the leader of `{id}`, and nobody is elected under that id: it has no endpoints"
    );
    let mend =
        format!("annotate the workload with {}={id}, or correct {} on the Service", names::ID, names::LEADER_ONLY);
    (!is_there).then(|| Finding::warning(title(service), message, mend))
}

/// The id whose standbys an ordinary Service reaches.
fn reached<'a>(snapshot: &'a Snapshot, service: &Value, facts: &ServiceFacts) -> Option<&'a str> {
    let workloads = snapshot.workloads.as_ref().ok()?;
    let reached = workloads.iter().find(|workload| {
        let template = &workload["spec"]["template"];
        let labels = template["metadata"]["labels"].as_object().into_iter().flatten();
        let labels: BTreeMap<String, String> =
            labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        namespace(workload) == namespace(service)
            && id(workload).is_some()
            && runs_on_leader(workload)
            && pointed::reaches_standbys(facts, &labels, workload["spec"]["serviceName"].as_str())
    });
    reached.and_then(id)
}

/// Whether the app runs on the leader only: in the other modes a Service may well mean all pods.
fn runs_on_leader(workload: &Value) -> bool {
    [workload, &workload["spec"]["template"]].into_iter().all(|holder| {
        let mode = holder["metadata"]["annotations"][names::MODE].as_str();
        mode.is_none_or(|mode| mode.parse().is_ok_and(|mode: Mode| mode.excludes()))
    })
}
