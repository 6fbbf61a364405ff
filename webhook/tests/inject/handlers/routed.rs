//! What injection makes of probes and hooks.

use serde_json::{Value, json};

use super::{
    super::{apply::client_side, cluster::defaulted, inject, record},
    PROBES, agents, container, container_mut, ejected, handlers, joined, review, template, text, workload,
};

#[test]
fn a_probe_goes_to_the_agent_and_keeps_its_timing() {
    for (field, name) in PROBES {
        for handler in handlers() {
            let mut probe = joined(&json!({"periodSeconds": 7}), &handler);
            probe["failureThreshold"] = json!(2);
            let stored = inject(&workload(&json!({ field: probe })));
            let mut routed = joined(&json!({"periodSeconds": 7}), &agents(field));
            routed["failureThreshold"] = json!(2);
            assert_eq!(text(&container(&stored)[field]), text(&routed), "at the position of the user's");
            let record = record(&stored);
            assert_eq!(record["original"]["handlers"][field], handler);
            assert_eq!((&record["port"], &record["probes"][name]["periodSeconds"]), (&json!(9809), &json!(7)));
        }
    }
}

#[test]
fn what_the_agent_carries_out_is_resolved_as_the_kubelet_would() {
    let stored = inject(&workload(&json!({
        "livenessProbe": {"httpGet": {"path": "", "port": "web", "httpHeaders": [{"name": "X"}]}, "timeoutSeconds": 1},
        "readinessProbe": {"exec": {"command": ["check", "$(PORT)", "$(SECRET)", "$(NO)", "$$(PORT)"]}, "successThreshold": 2},
        "startupProbe": {"tcpSocket": {"port": "8090", "host": "localhost"}, "terminationGracePeriodSeconds": 9, "periodSeconds": 0},
        "lifecycle": {
            "postStart": {"exec": {"command": ["warm", "$(PORT)"]}},
            "preStop": {"httpGet": {"port": "admin", "scheme": "HTTPS", "path": "/drain"}},
        },
    })));
    let record = record(&stored);
    assert_eq!(
        record["probes"],
        json!({
            "liveness": {"httpGet": {"port": 8080, "httpHeaders": [{"name": "X", "value": ""}], "path": "/"}},
            "readiness": {"exec": {"command": ["check", "8080", "", "$(NO)", "$(PORT)"]}, "successThreshold": 2},
            "startup": {"tcpSocket": {"port": 8090, "host": "localhost"}, "terminationGracePeriodSeconds": 9},
        })
    );
    assert_eq!(
        record["hooks"],
        json!({
            "postStart": {"exec": {"command": ["warm", "$(PORT)"]}},
            "preStop": {"httpGet": {"port": 8081, "scheme": "HTTPS", "path": "/drain"}},
        })
    );
}

#[test]
fn a_readiness_probe_is_added_where_there_is_none() {
    for empty in [None, Some(Value::Null)] {
        let mut plain = workload(&json!({}));
        if let Some(empty) = &empty {
            container_mut(&mut plain)["readinessProbe"] = empty.clone();
            container_mut(&mut plain)["stdin"] = json!(false);
        }
        let stored = inject(&plain);
        let added = joined(&agents("readinessProbe"), &json!({"timeoutSeconds": 5, "periodSeconds": 5}));
        assert_eq!(container(&stored)["readinessProbe"], added);
        assert!(record(&stored).get("probes").is_none());
        assert_eq!(text(template(&ejected(&stored))), text(template(&plain)));
        for field in ["livenessProbe", "startupProbe", "lifecycle"] {
            assert!(container(&stored).get(field).is_none());
        }
    }
}

#[test]
fn the_pods_address_is_given_where_a_handler_connects_to_it() {
    let has = |fields: Value| {
        let stored = inject(&workload(&fields));
        let env = container(&stored)["env"].as_array().unwrap().clone();
        let address = env.iter().find(|item| item["name"] == "LEADER_POD_IP").cloned();
        assert_eq!(text(template(&ejected(&stored))), text(template(&workload(&fields))));
        let kept = review(&defaulted(&stored), Some(&defaulted(&stored))).unwrap();
        assert!(!kept.election.unwrap().injected_afresh);
        address.map(|item| assert_eq!(item["valueFrom"]["fieldRef"]["fieldPath"], "status.podIP")).is_some()
    };
    assert!(has(json!({"livenessProbe": {"httpGet": {"port": 80}}})));
    assert!(has(json!({"livenessProbe": {"httpGet": {"port": 80, "host": ""}}})));
    assert!(has(json!({"startupProbe": {"grpc": {"port": 80}}})));
    assert!(has(json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 80}}}})));
    assert!(!has(json!({"livenessProbe": {"httpGet": {"port": 80, "host": "127.0.0.1"}}})));
    assert!(!has(
        json!({"livenessProbe": {"exec": {"command": ["x"]}}, "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}})
    ));
    assert!(!has(json!({})));
}

#[test]
fn with_the_nodes_network_the_agent_is_reached_by_a_program() {
    for fields in [json!({}), json!({"readinessProbe": {"grpc": {"port": 9000}, "periodSeconds": 3}})] {
        let mut plain = workload(&fields);
        plain["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
        let stored = inject(&plain);
        let command = json!({"command": ["/leader/agent", "probe", "readiness"]});
        assert_eq!(container(&stored)["readinessProbe"]["exec"], command);
        assert!(record(&stored).get("port").is_none());
        assert_eq!(text(template(&ejected(&stored))), text(template(&plain)));
        let live = defaulted(&stored);
        let kept = review(&client_side(&live, &plain, &plain), Some(&live)).unwrap().object;
        assert_eq!(text(template(&kept)), text(template(&live)));
    }
}

#[test]
fn leaving_the_nodes_network_changes_the_way() {
    let mut plain = workload(&json!({}));
    plain["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    let live = defaulted(&inject(&plain));
    let mut arriving = live.clone();
    arriving["spec"]["template"]["spec"]["hostNetwork"] = json!(false);
    for old in [None, Some(&live)] {
        let stored = review(&arriving, old).unwrap().object;
        let probe = container(&stored)["readinessProbe"].clone();
        assert_eq!((&probe["httpGet"], &probe["exec"]), (&agents("readinessProbe")["httpGet"], &Value::Null));
        assert_eq!(record(&stored)["port"], 9809);
    }
}

#[test]
fn the_termination_grace_is_told_unless_it_is_the_default() {
    for (stated, told) in [(None, Value::Null), (Some(30), Value::Null), (Some(60), json!(60)), (Some(0), json!(0))] {
        let mut plain = workload(&json!({}));
        if let Some(stated) = stated {
            plain["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(stated);
        }
        assert_eq!(record(&inject(&plain))["terminationGrace"], told);
        assert_eq!(record(&inject(&defaulted(&plain)))["terminationGrace"], told);
    }
}

#[test]
fn the_agents_port_can_be_chosen_and_changed() {
    let mut plain = workload(&json!({"livenessProbe": {"httpGet": {"path": "/a", "port": "web"}}}));
    plain["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    plain["metadata"]["annotations"]["leader.io/port"] = "9900".into();
    let live = defaulted(&inject(&plain));
    assert_eq!(container(&live)["livenessProbe"]["httpGet"]["port"], 9900);
    assert_eq!(record(&live)["port"], 9900);
    let mut moved = live.clone();
    moved["metadata"]["annotations"]["leader.io/port"] = "9901".into();
    let mut unset = live.clone();
    unset["metadata"]["annotations"].as_object_mut().unwrap().shift_remove("leader.io/port");
    for (arriving, port) in [(moved, json!(9901)), (unset, Value::Null)] {
        let stored = review(&arriving, Some(&live)).unwrap().object;
        assert_eq!(record(&stored)["port"], port);
        assert_eq!(container(&stored)["livenessProbe"]["httpGet"]["port"], port);
        assert_eq!(template(&defaulted(&ejected(&stored))), template(&defaulted(&plain)));
        // The agent's of the old port is not taken for the user's.
        assert_eq!(record(&stored)["probes"], json!({"liveness": {"httpGet": {"path": "/a", "port": 8080}}}));
    }
    container_mut(&mut plain)["ports"][1]["containerPort"] = json!(9900);
    let error = review(&plain, None).unwrap_err().to_string();
    assert!(error.contains("containers[0].ports[1] uses the port 9900"), "{error}");
}
