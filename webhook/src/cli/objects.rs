//! What is read of objects of any kind, as the API gives them: JSON, so that fields newer than this program are there.

use jiff::Timestamp;
use leader_agent::names;
use serde_json::Value;

/// The id that a workload asks for, on itself or on its pod template.
pub(super) fn id(workload: &Value) -> Option<&str> {
    let spec = &workload["spec"];
    let holders =
        [&workload["metadata"], &spec["template"]["metadata"], &spec["jobTemplate"]["spec"]["template"]["metadata"]];
    holders.into_iter().find_map(|metadata| metadata["annotations"][names::ID].as_str())
}

/// Whether a pod template, or a pod, has the agent.
pub(super) fn is_injected(template: &Value) -> bool {
    let containers = template["spec"]["initContainers"].as_array();
    containers.is_some_and(|list| list.iter().any(|container| container["name"] == names::INIT_CONTAINER))
}

/// Whether a pod runs, or will.
pub(super) fn is_living(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && !["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase)
}

pub(super) fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

pub(super) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// `Deployment shop/billing`.
pub(super) fn title(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or("object");
    match namespace(object) {
        "" => format!("{kind} {}", name(object)),
        namespace => format!("{kind} {namespace}/{}", name(object)),
    }
}

/// A time as the API writes it.
pub(super) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// An annotation's value.
pub(super) fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object["metadata"]["annotations"][key].as_str()
}
