//! Rollouts that do not get through by themselves: as long as they have not, pods without the agent run the app beside the leader.

use leader_agent::mode::Mode;
use serde_json::Value;

use super::json::{items, text};

/// What keeps a workload's pods from being replaced. `template` is what its user wrote.
pub(super) fn obstacles(object: &Value, template: &Value, mode: Mode) -> Vec<String> {
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
    if mode == Mode::Ready {
        obstacles.extend(one_ready(object));
    }
    obstacles
}

/// Where only the leader is ever ready, a rollout that waits for ready pods waits for ever.
fn one_ready(object: &Value) -> Option<String> {
    let spec = &object["spec"];
    let replicas = spec["replicas"].as_i64().unwrap_or(1);
    match text(object, "kind")? {
        "Deployment" if text(&spec["strategy"], "type") != Some("Recreate") => {
            let stated = &spec["strategy"]["rollingUpdate"]["maxUnavailable"];
            let (down, shown) = down(stated, replicas);
            // What the rollout leaves standing (`cleanupUnhealthyReplicas` and `scaleDownOldReplicaSetsForRollingUpdate` in
            // pkg/controller/deployment/rolling.go): new pods never count as available while an old one leads.
            let kept = replicas - down;
            (kept > 0).then(|| {
                format!(
                    "mode ready: this rolling update cannot finish: only the leader is ready, 1 pod at most, and of {replicas} replicas \
                     with maxUnavailable {shown} ({down}) {kept} old ones stay until as many new ones are ready, the leader among them; \
                     set spec.strategy.rollingUpdate.maxUnavailable: 100%, or spec.strategy.type: Recreate"
                )
            })
        }
        "StatefulSet" if replicas > 1 && text(&spec["updateStrategy"], "type") != Some("OnDelete") => Some(format!(
            "mode ready: a rolling update of this StatefulSet cannot finish: it waits for each of {replicas} pods to be ready, and only the \
             leader is; set spec.updateStrategy.type: OnDelete{}",
            if text(spec, "podManagementPolicy") == Some("Parallel") {
                ""
            } else {
                ", and spec.podManagementPolicy: Parallel, or its pods are not even made"
            }
        )),
        // A pod that is not ready is replaced at once, the leader's only with as many down as there are nodes (`rollingUpdate` in
        // pkg/controller/daemon/update.go).
        "DaemonSet"
            if text(&spec["updateStrategy"], "type") != Some("OnDelete")
                && text(&spec["updateStrategy"]["rollingUpdate"], "maxUnavailable") != Some("100%") =>
        {
            Some(
                "mode ready: a rolling update of this DaemonSet does not replace the leader's pod, because all others are not ready; set \
                 spec.updateStrategy.rollingUpdate.maxUnavailable: 100%"
                    .to_owned(),
            )
        }
        _ => None,
    }
}

/// How many of a Deployment's pods may be down, and how that is stated: a percentage is rounded down.
fn down(stated: &Value, replicas: i64) -> (i64, String) {
    match stated {
        Value::Number(number) => (number.as_i64().unwrap_or_default(), number.to_string()),
        Value::String(text) => {
            let percent = text.strip_suffix('%').and_then(|number| number.parse::<i64>().ok());
            (replicas.saturating_mul(percent.unwrap_or_default()) / 100, text.clone())
        }
        // `SetDefaults_Deployment`.
        _ => (replicas.saturating_mul(25) / 100, "25%".to_owned()),
    }
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
        obstacles(object, &object["spec"]["template"], Mode::Run)
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
    fn a_rollout_that_waits_for_more_than_the_leader() {
        let said = |kind: &str, spec: Value| {
            let object = json!({ "kind": kind, "spec": spec });
            assert_eq!(obstacles(&object, &Value::Null, Mode::Observe), Vec::<String>::new());
            obstacles(&object, &Value::Null, Mode::Ready).pop().unwrap_or_default()
        };
        let rolling = |replicas: i64, down: Value| {
            said(
                "Deployment",
                json!({ "replicas": replicas, "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": down } } }),
            )
        };
        for (replicas, down, part) in [
            (3, json!(null), "of 3 replicas with maxUnavailable 25% (0) 3 old ones stay"),
            (8, json!("25%"), "of 8 replicas with maxUnavailable 25% (2) 6 old ones stay"),
            (3, json!(2), "of 3 replicas with maxUnavailable 2 (2) 1 old ones stay"),
            (1, json!("99%"), "of 1 replicas with maxUnavailable 99% (0) 1 old ones stay"),
            (3, json!("100%"), ""),
            (3, json!(3), ""),
            (1, json!(1), ""),
        ] {
            let text = rolling(replicas, down);
            assert!(text.contains(part) && text.is_empty() == part.is_empty(), "{text}");
        }
        assert_eq!(said("Deployment", json!({ "replicas": 3, "strategy": { "type": "Recreate" } })), "");
        assert!(said("Deployment", json!({})).contains("1 replicas"));
        assert!(said("StatefulSet", json!({ "replicas": 2 })).contains("Parallel"));
        assert!(!said("StatefulSet", json!({ "replicas": 2, "podManagementPolicy": "Parallel" })).contains("Parallel"));
        assert_eq!(said("StatefulSet", json!({ "replicas": 1 })), "");
        assert!(said("DaemonSet", json!({})).contains("100%"));
        assert_eq!(
            said("DaemonSet", json!({ "updateStrategy": { "rollingUpdate": { "maxUnavailable": "100%" } } })),
            ""
        );
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
