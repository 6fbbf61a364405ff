//! Ordinary Services that send traffic to an elected workload: a standby is ready and has nothing that listens, so that most connections
//! would be refused. They are pointed out with the command that mends it.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use leader_agent::names;

use super::slices::ServiceFacts;

/// Whether an ordinary Service sends traffic to pods with these labels, of which only the leader runs the app.
///
/// Not meant are Services for what listens on every replica: the agent's own port; nor the one that a `StatefulSet` gives its pods' names
/// by (`governing`).
pub fn reaches_standbys(service: &ServiceFacts, labels: &BTreeMap<String, String>, governing: Option<&str>) -> bool {
    let is_for_agents = !service.ports.is_empty()
        && service.ports.iter().all(|port| match &port.target_port {
            None => port.port == i32::from(names::DEFAULT_PORT),
            Some(target) => *target == IntOrString::Int(names::DEFAULT_PORT.into()),
        });
    let is_governing = service.is_headless && governing == Some(&service.name);
    service.leader_only.is_none()
        && !service.is_external_name
        && !service.is_being_deleted
        && !service.selector.is_empty()
        && service.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        && !is_for_agents
        && !is_governing
}

/// What is said about it.
pub fn sentence(service: &str, id: &str) -> String {
    format!(
        "Service {service} sends traffic to all pods of leader election `{id}`, and on standbys nothing listens: \
         `{}` sends it to the leader only",
        mend(None, service, id)
    )
}

/// The command that makes a Service leader-only.
pub fn mend(namespace: Option<&str>, service: &str, id: &str) -> String {
    let namespace = namespace.map(|namespace| format!("-n {namespace} ")).unwrap_or_default();
    format!("kubectl {namespace}annotate service/{service} {}={id}", names::LEADER_ONLY)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reaches(annotations: &Value, spec: &Value, governing: Option<&str>) -> bool {
        let mut service = json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": spec });
        service["metadata"]["annotations"] = annotations.clone();
        let facts = ServiceFacts::of(&serde_json::from_value(service).unwrap());
        let labels = [("app", "billing"), ("tier", "back")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        reaches_standbys(&facts, &labels.into(), governing)
    }

    #[test]
    fn which_services_are_pointed_out() {
        let spec = |selector: Value, port: Value| json!({ "selector": selector, "ports": [{ "port": 80, "targetPort": port }] });
        let plain = || spec(json!({ "app": "billing" }), json!(8080));
        assert!(reaches(&Value::Null, &plain(), None));
        assert!(reaches(&Value::Null, &plain(), Some("web")));
        assert!(reaches(&Value::Null, &json!({ "selector": { "tier": "back" } }), None));
        assert!(!reaches(&json!({ "leader.io/leader-only": "billing" }), &plain(), None));
        assert!(!reaches(&Value::Null, &spec(json!({ "app": "orders" }), json!(80)), None));
        assert!(!reaches(&Value::Null, &spec(json!({ "app": "billing", "a": "b" }), json!(80)), None));
        assert!(!reaches(&Value::Null, &spec(json!({}), json!(80)), None));
        // For Prometheus.
        assert!(!reaches(&Value::Null, &spec(json!({ "app": "billing" }), json!(9809)), None));
        let headless = json!({ "selector": { "app": "billing" }, "clusterIP": "None" });
        assert!(!reaches(&Value::Null, &headless, Some("web")));
        assert!(reaches(&Value::Null, &headless, Some("other")));
    }

    #[test]
    fn it_is_said_with_the_command_that_mends_it() {
        assert_eq!(
            mend(Some("shop"), "web", "billing"),
            "kubectl -n shop annotate service/web leader.io/leader-only=billing"
        );
        assert!(sentence("web", "billing").contains("`kubectl annotate service/web leader.io/leader-only=billing`"));
    }
}
