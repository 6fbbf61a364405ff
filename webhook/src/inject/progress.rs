//! Rollouts that do not get through by themselves: as long as they have not, pods without the agent run the app beside the leader.

use serde_json::Value;

use super::json::{items, text};

/// What keeps a workload's pods from being replaced. `template` is what its user wrote.
pub(super) fn obstacles(object: &Value, template: &Value) -> Vec<String> {
    let spec = &object["spec"];
    let mut obstacles = Vec::new();
    if spec["paused"] == true {
        obstacles.push(
            "spec.paused: nothing is rolled out until `kubectl rollout resume`; pods without the agent run on without election"
                .to_owned(),
        );
    }
    // Of a StatefulSet and a DaemonSet; a Deployment has `strategy`, which replaces pods by itself.
    let strategy = &spec["updateStrategy"];
    if text(strategy, "type") == Some("OnDelete") {
        obstacles.push(
            "spec.updateStrategy.type: OnDelete replaces no pod until somebody deletes it; pods without the agent run on without \
             election"
                .to_owned(),
        );
    }
    if let Some(partition) = strategy["rollingUpdate"]["partition"].as_i64().filter(|partition| *partition > 0) {
        obstacles.push(format!(
            "spec.updateStrategy.rollingUpdate.partition: {partition} keeps pods with a lower ordinal as they are; those without the \
             agent run on without election"
        ));
    }
    obstacles.extend(shared_claim(object, template));
    obstacles
}

/// A claim that all replicas of a Deployment share can usually be used on one node only:
/// <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#access-modes>.
fn shared_claim(object: &Value, template: &Value) -> Option<String> {
    let replicas = object["spec"]["replicas"].as_i64().unwrap_or(1);
    let strategy = &object["spec"]["strategy"];
    if text(object, "kind") != Some("Deployment") || (replicas < 2 && text(strategy, "type") == Some("Recreate")) {
        return None;
    }
    let claiming = items(&template["spec"], "volumes").iter();
    let names: Vec<&str> = claiming
        .filter(|volume| volume["persistentVolumeClaim"].is_object())
        .filter_map(|volume| text(volume, "name"))
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "all replicas share the PersistentVolumeClaim of volume {}: unless its access mode is ReadWriteMany, standbys on other \
             nodes cannot start, and a rollout that waits for one makes no progress",
            names.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(object: &Value) -> Vec<String> {
        obstacles(object, &object["spec"]["template"])
    }

    #[test]
    fn what_keeps_pods_from_being_replaced() {
        for (kind, spec, part) in [
            ("Deployment", json!({ "paused": true }), "spec.paused"),
            ("StatefulSet", json!({ "updateStrategy": { "type": "OnDelete" } }), "OnDelete"),
            ("DaemonSet", json!({ "updateStrategy": { "type": "OnDelete" } }), "OnDelete"),
            ("StatefulSet", json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } } }), "partition: 2"),
        ] {
            let said = said(&json!({ "kind": kind, "spec": spec }));
            assert!(said.len() == 1 && said[0].contains(part), "{said:?}");
        }
        for (kind, spec) in [
            ("Deployment", json!({ "paused": false, "strategy": { "type": "Recreate" } })),
            (
                "StatefulSet",
                json!({ "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } } }),
            ),
            ("DaemonSet", json!({ "updateStrategy": { "type": "RollingUpdate" } })),
        ] {
            assert_eq!(said(&json!({ "kind": kind, "spec": spec })), Vec::<String>::new());
        }
    }

    #[test]
    fn a_claim_that_replicas_share() {
        let object = |kind: &str, replicas: u32, strategy: &str| {
            let volumes = json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }, { "name": "tmp", "emptyDir": {} }]);
            json!({ "kind": kind, "spec": { "replicas": replicas, "strategy": { "type": strategy },
                "template": { "spec": { "volumes": volumes } } } })
        };
        for (replicas, strategy) in [(2, "Recreate"), (2, "RollingUpdate"), (1, "RollingUpdate")] {
            let said = said(&object("Deployment", replicas, strategy));
            assert!(said.len() == 1 && said[0].contains("of volume data:"), "{said:?}");
        }
        assert_eq!(said(&object("Deployment", 1, "Recreate")), Vec::<String>::new());
        assert_eq!(said(&object("StatefulSet", 2, "")), Vec::<String>::new());
    }
}
