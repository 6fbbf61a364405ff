//! Probes and lifecycle hooks: routed through the agent, and given back from every mixture in which they come back.

use proptest::{collection::vec, option::of, prelude::*, sample::select};
use serde_json::{Map, Value, json};

use super::{
    apply::{client_side, server_side},
    cluster::defaulted,
    deployment, inject, record, review, template, upgraded, without_id,
};

const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "liveness"), ("readinessProbe", "readiness"), ("startupProbe", "startup")];
const HOOKS: [(&str, &str); 2] = [("postStart", "post-start"), ("preStop", "pre-stop")];

/// A workload whose container has these fields.
fn workload(fields: &Value) -> Value {
    let mut container = json!({
        "name": "app",
        "image": "registry.example/app:1",
        "command": ["/app"],
        "env": [{"name": "PORT", "value": "8080"}, {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
        "ports": [{"name": "web", "containerPort": 8080}, {"name": "admin", "containerPort": 8081}],
    });
    for (key, value) in fields.as_object().unwrap() {
        container[key] = value.clone();
    }
    let spec = json!({"containers": [container, {"name": "proxy", "image": "registry.example/proxy:1"}]});
    deployment(&json!({"metadata": {"labels": {"app": "billing"}}, "spec": spec}), Some("billing"))
}

fn container(object: &Value) -> &Value {
    &template(object)["spec"]["containers"][0]
}

fn container_mut(object: &mut Value) -> &mut Value {
    &mut object["spec"]["template"]["spec"]["containers"][0]
}

/// A probe or hook in a container, where it stands.
fn at<'a>(container: &'a mut Value, field: &str) -> &'a mut Value {
    if HOOKS.iter().any(|(hook, _)| *hook == field) {
        &mut container["lifecycle"][field]
    } else {
        &mut container[field]
    }
}

/// The fields of a container that has `holder` there.
fn with(field: &str, holder: &Value) -> Value {
    if HOOKS.iter().any(|(hook, _)| *hook == field) {
        json!({"lifecycle": {field: holder}})
    } else {
        json!({field: holder})
    }
}

fn text(value: &Value) -> String {
    serde_json::to_string(value).unwrap()
}

fn ejected(object: &Value) -> Value {
    review(&without_id(object), None).unwrap().object
}

fn handlers() -> Vec<Value> {
    vec![
        json!({"httpGet": {"path": "/healthz", "port": "web"}}),
        json!({"httpGet": {"port": 8080, "scheme": "HTTPS", "host": "example.org", "httpHeaders": [{"name": "Host", "value": "x"}]}}),
        json!({"exec": {"command": ["cat", "/ready"]}}),
        json!({"tcpSocket": {"port": "web"}}),
    ]
}

/// Every field that may have a handler, with every handler that it may have.
fn every_place() -> Vec<(&'static str, Value)> {
    let probe = PROBES.iter().flat_map(|&(field, _)| {
        let grpc = json!({"grpc": {"port": 9000, "service": "health"}});
        handlers().into_iter().chain([grpc]).map(move |handler| (field, handler))
    });
    let hook = HOOKS.iter().flat_map(|&(field, _)| {
        handlers().into_iter().chain([json!({"sleep": {"seconds": 5}})]).map(move |handler| (field, handler))
    });
    probe.chain(hook).collect()
}

fn joined(one: &Value, other: &Value) -> Value {
    let mut both = one.as_object().unwrap().clone();
    both.extend(other.as_object().unwrap().clone());
    both.into()
}

/// The agent's handler there.
fn agents(field: &str) -> Value {
    match PROBES.iter().find(|(probe, _)| *probe == field) {
        Some((_, name)) => {
            json!({"httpGet": {"path": format!("/leader.io/probe/{name}"), "port": 9809, "scheme": "HTTP"}})
        }
        None => {
            let (_, name) = HOOKS.iter().find(|(hook, _)| *hook == field).unwrap();
            json!({"exec": {"command": ["/leader/agent", "hook", name]}})
        }
    }
}

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

/// What stands in a probe or hook after a write, and what the user's is then.
fn mixtures(field: &'static str, original: &Value, live: &Value) -> Vec<(&'static str, Value, Option<Value>)> {
    let ours = agents(field);
    let timing: Map<String, Value> = live
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, _)| key.ends_with("Seconds") || key.ends_with("Threshold"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let timing = Value::from(timing);
    let of = |handler: &Value| joined(handler, &timing);
    let exec = json!({"exec": {"command": ["new"]}});
    let tcp = json!({"tcpSocket": {"port": 7}});
    let http = json!({"httpGet": {"path": "/new", "port": 7, "scheme": "HTTP"}});
    let mut rows = vec![
        ("ours alone", of(&ours), Some(original.clone())),
        ("the user's tcpSocket beside ours", of(&joined(&ours, &tcp)), Some(tcp.clone())),
        ("the user's tcpSocket alone", of(&tcp), Some(tcp)),
        ("the user's httpGet alone", of(&http), Some(http.clone())),
        ("the user's exec alone", of(&exec), Some(exec.clone())),
        ("no handler", timing.clone(), None),
        (
            "ours, with null beside it",
            of(&joined(&ours, &json!({"grpc": null, "sleep": null}))),
            Some(original.clone()),
        ),
        ("an emptied exec", of(&json!({"exec": {}})), None),
        (
            "what the API server leaves of a request",
            of(&json!({"httpGet": {"path": "/", "port": 0, "scheme": "HTTP"}})),
            None,
        ),
        (
            "ours of another place",
            of(&json!({"exec": {"command": ["/leader/agent", "probe", "startup"]}})),
            Some(original.clone()),
        ),
    ];
    if ours.get("httpGet").is_some() {
        rows.push(("the user's exec beside ours", of(&joined(&ours, &exec)), Some(exec)));
        let request = |fields: Value| joined(&ours["httpGet"], &fields);
        let merged = |fields: Value| {
            let before = original.get("httpGet").cloned().unwrap_or(json!({}));
            json!({"httpGet": joined(&before, &fields)})
        };
        for (said, fields) in [
            ("the user's port in ours", json!({"port": 7})),
            ("the user's named port in ours", json!({"port": "admin"})),
            ("the user's port and scheme in ours", json!({"port": 7, "scheme": "HTTPS"})),
            ("the user's port and headers in ours", json!({"port": 7, "httpHeaders": [{"name": "A", "value": "b"}]})),
        ] {
            rows.push((said, of(&json!({"httpGet": request(fields.clone())})), Some(merged(fields))));
        }
        if original.get("httpGet").is_some() {
            for (said, fields) in [
                ("the user's path in ours", json!({"path": "/new"})),
                ("the user's host in ours", json!({"host": "new.example.org"})),
            ] {
                rows.push((said, of(&json!({"httpGet": request(fields.clone())})), Some(merged(fields))));
            }
        }
        let whole = json!({"path": "/new", "port": 7});
        rows.push((
            "path and port of the user's in ours",
            of(&json!({"httpGet": request(whole.clone())})),
            Some(json!({"httpGet": joined(&whole, &json!({"scheme": "HTTP"}))})),
        ));
        rows.push((
            "our path without a port",
            of(&json!({"httpGet": {"path": ours["httpGet"]["path"], "port": 0, "scheme": "HTTP"}})),
            None,
        ));
    } else {
        rows.push(("the user's httpGet beside ours", of(&joined(&ours, &http)), Some(http)));
    }
    rows
}

/// The table of everything that a write can leave in the place of a handler.
#[test]
fn every_mixture_is_put_right() {
    let mut rows = 0;
    for (field, original) in every_place() {
        let user = workload(&with(field, &original));
        let live = defaulted(&inject(&user));
        let now = at(&mut container(&live).clone(), field).clone();
        for (said, mixture, expected) in mixtures(field, &original, &now) {
            let mut arriving = live.clone();
            *at(container_mut(&mut arriving), field) = mixture;
            let wanted = match &expected {
                Some(handler) => defaulted(&workload(&with(field, handler))),
                None => defaulted(&workload(&json!({}))),
            };
            let row = format!("{field}, {original}: {said}");
            for old in [None, Some(&live)] {
                let gone = defaulted(&review(&without_id(&arriving), old).unwrap().object);
                assert_eq!(template(&gone), template(&wanted), "ejected: {row}");
                let stored = review(&arriving, old).unwrap().object;
                assert_eq!(template(&defaulted(&ejected(&stored))), template(&gone), "and injected: {row}");
                if said == "ours alone" {
                    assert_eq!(text(template(&stored)), text(template(&live)), "{row}");
                }
            }
            // Without a record, what is left of the user's stays, and nothing of ours.
            arriving["spec"]["template"]["metadata"]["annotations"]
                .as_object_mut()
                .unwrap()
                .shift_remove("leader.io/injected");
            let gone = ejected(&arriving);
            assert!(!text(template(&gone)).contains("/leader"), "{row}: {gone}");
            rows += 1;
        }
    }
    assert!(rows > 200, "{rows}");
}

#[test]
fn the_added_readiness_probe_goes_with_its_timing_unless_the_user_has_one_there() {
    let plain = workload(&json!({}));
    let live = defaulted(&inject(&plain));
    let probe = container(&live)["readinessProbe"].clone();
    for (said, mixture) in [
        ("as it was", probe.clone()),
        ("a patch of its timing", joined(&probe, &json!({"periodSeconds": 1, "initialDelaySeconds": 9}))),
        ("its handler gone", json!({"timeoutSeconds": 5, "periodSeconds": 5})),
        ("ours of the other way", json!({"exec": {"command": ["/leader/agent", "probe", "readiness"]}})),
    ] {
        let mut arriving = live.clone();
        container_mut(&mut arriving)["readinessProbe"] = mixture;
        let gone = defaulted(&review(&without_id(&arriving), None).unwrap().object);
        assert_eq!(template(&gone), template(&defaulted(&plain)), "{said}");
        let kept = review(&arriving, Some(&live)).unwrap().object;
        assert_eq!(text(template(&kept)), text(template(&live)), "{said}");
    }
    for handler in [
        json!({"exec": {"command": ["x"]}}),
        json!({"httpGet": {"path": "/a", "port": 80}}),
        json!({"httpGet": {"port": 80}}),
    ] {
        let users = workload(&json!({"readinessProbe": handler}));
        for arriving in [client_side(&live, &plain, &users), server_side(&live, &plain, &users)] {
            let stored = defaulted(&review(&arriving, Some(&live)).unwrap().object);
            let expected = defaulted(&inject(&defaulted(&users)));
            assert_eq!(container(&stored)["readinessProbe"], container(&expected)["readinessProbe"], "{handler}");
        }
        // Nobody says what was declared: what stands there stays.
        let mut patched = live.clone();
        container_mut(&mut patched)["readinessProbe"] = joined(&probe, &handler);
        let stored = review(&patched, Some(&live)).unwrap().object;
        assert_eq!(container(&stored)["readinessProbe"]["timeoutSeconds"], 5);
    }
}

#[test]
fn half_of_a_lifecycle_is_put_right() {
    let user = workload(&json!({"lifecycle": {
        "postStart": {"exec": {"command": ["start"]}}, "preStop": {"sleep": {"seconds": 3}}, "stopSignal": "SIGUSR1",
    }}));
    let live = defaulted(&inject(&user));
    let lifecycle = &container(&live)["lifecycle"];
    assert_eq!((&lifecycle["postStart"], &lifecycle["preStop"]), (&agents("postStart"), &agents("preStop")));
    assert_eq!(lifecycle["stopSignal"], "SIGUSR1");
    let mut arriving = live.clone();
    container_mut(&mut arriving)["lifecycle"].as_object_mut().unwrap().shift_remove("postStart");
    let gone = review(&without_id(&arriving), Some(&live)).unwrap().object;
    assert_eq!(container(&gone)["lifecycle"], json!({"preStop": {"sleep": {"seconds": 3}}, "stopSignal": "SIGUSR1"}));
    let stored = review(&arriving, Some(&live)).unwrap().object;
    assert_eq!(record(&stored)["hooks"], json!({"preStop": {"sleep": {"seconds": 3}}}));
}

#[test]
fn a_container_that_is_no_longer_the_wrapped_one_loses_what_was_ours() {
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 4});
    let user = workload(&json!({"livenessProbe": probe, "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}));
    let live = defaulted(&inject(&user));
    // Another container is chosen.
    let mut arriving = live.clone();
    arriving["metadata"]["annotations"]["leader.io/container"] = "proxy".into();
    arriving["spec"]["template"]["spec"]["containers"][1]["command"] = json!(["/proxy"]);
    let stored = review(&arriving, Some(&live)).unwrap().object;
    assert_eq!(container(&stored)["livenessProbe"]["exec"], probe["exec"]);
    assert_eq!(container(&stored)["lifecycle"], json!({"preStop": {"sleep": {"seconds": 1}}}));
    assert!(container(&stored).get("readinessProbe").is_none());
    assert_eq!(
        template(&stored)["spec"]["containers"][1]["readinessProbe"]["httpGet"],
        agents("readinessProbe")["httpGet"]
    );
    // It was renamed.
    let mut arriving = live.clone();
    container_mut(&mut arriving)["name"] = "main".into();
    let stored = review(&arriving, Some(&live)).unwrap().object;
    let record = record(&stored);
    assert_eq!(
        (&record["container"], &record["original"]["handlers"]["livenessProbe"]),
        (&json!("main"), &json!({"exec": {"command": ["x"]}}))
    );
    assert_eq!(record["original"]["handlers"]["readinessProbe"], Value::Null);
}

#[test]
fn an_edited_handler_of_ours_is_made_anew() {
    let user = workload(&json!({"livenessProbe": {"exec": {"command": ["x"]}}}));
    let live = defaulted(&inject(&user));
    let mut edits = vec![live.clone(); 3];
    container_mut(&mut edits[0])["livenessProbe"]["httpGet"]["path"] = "/leader.io/probe/startup".into();
    container_mut(&mut edits[1]).as_object_mut().unwrap().shift_remove("readinessProbe");
    container_mut(&mut edits[2])["startupProbe"] = agents("startupProbe");
    for edited in edits {
        for old in [None, Some(&live)] {
            let stored = review(&edited, old).unwrap().object;
            assert_eq!(template(&defaulted(&stored)), template(&live));
        }
        // Stored while nobody looked.
        let stored = review(&edited, Some(&edited)).unwrap().object;
        assert_eq!(template(&defaulted(&stored)), template(&live));
    }
}

#[test]
fn a_changed_timing_or_port_is_injected_afresh() {
    let user = workload(&json!({"livenessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 4}}));
    let live = defaulted(&inject(&user));
    let mut slower = live.clone();
    container_mut(&mut slower)["livenessProbe"]["periodSeconds"] = json!(9);
    let mut moved = live.clone();
    container_mut(&mut moved)["ports"][0]["containerPort"] = json!(8082);
    for (arriving, pointer, expected) in
        [(slower, "/liveness/periodSeconds", 9), (moved, "/liveness/httpGet/port", 8082)]
    {
        for old in [None, Some(&live)] {
            let answer = review(&arriving, old).unwrap();
            assert!(answer.election.unwrap().injected_afresh);
            assert_eq!(record(&answer.object)["probes"].pointer(pointer), Some(&json!(expected)));
        }
    }
}

/// As the field manager of Kubernetes 1.36 leaves it when another manager has had to do with the probe.
#[test]
fn a_probe_that_server_side_apply_drops_is_not_brought_back() {
    let fields = |probe: Value| {
        json!([{"manager": "kubectl", "operation": "Apply", "fieldsV1": {"f:spec": {"f:template": {"f:spec": {"f:containers": {
            "k:{\"name\":\"app\"}": probe,
        }}}}}}])
    };
    let user = workload(
        &json!({"livenessProbe": {"exec": {"command": ["x"]}}, "lifecycle": {"preStop": {"sleep": {"seconds": 1}}}}),
    );
    let mut live = defaulted(&inject(&user));
    let owned = json!({
        "f:livenessProbe": {"f:exec": {"f:command": {}}}, "f:lifecycle": {"f:preStop": {"f:sleep": {"f:seconds": {}}}},
    });
    live["metadata"]["managedFields"] = fields(owned.clone());
    let mut dropped = live.clone();
    dropped["metadata"]["managedFields"] = fields(json!({"f:image": {}}));
    dropped["spec"]["template"]["spec"]["containers"][0]["image"] = "registry.example/app:2".into();
    let stored = review(&dropped, Some(&live)).unwrap().object;
    assert_eq!(container(&stored).get("livenessProbe"), None);
    assert_eq!(container(&stored).get("lifecycle"), None);
    assert_eq!(record(&stored)["original"]["handlers"], json!({"readinessProbe": null}));
    let gone = review(&without_id(&dropped), Some(&live)).unwrap().object;
    assert_eq!((container(&gone).get("livenessProbe"), container(&gone).get("lifecycle")), (None, None));
    // A write of something else, by whomever.
    let mut kept = live.clone();
    container_mut(&mut kept)["image"] = "registry.example/app:2".into();
    let stored = review(&kept, Some(&live)).unwrap().object;
    assert_eq!(record(&stored)["original"]["handlers"]["livenessProbe"], json!({"exec": {"command": ["x"]}}));
}

#[track_caller]
fn refused(fields: &Value, parts: &[&str]) {
    let error = review(&workload(fields), None).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn handlers_that_cannot_be_carried_out_are_refused() {
    let app = "spec.template.spec.containers[0]";
    refused(
        &json!({"livenessProbe": {"exec": {"command": ["x"]}, "grpc": {"port": 1}}}),
        &[app, "livenessProbe has 2 handlers (exec, grpc)", "exactly one"],
    );
    refused(
        &json!({"lifecycle": {"preStop": {"sleep": {"seconds": 1}, "exec": {"command": ["x"]}}}}),
        &["lifecycle.preStop has 2 handlers (exec, sleep)"],
    );
    refused(
        &json!({"readinessProbe": {}}),
        &["readinessProbe has no handler: give it exactly one of exec, httpGet, tcpSocket, grpc"],
    );
    refused(
        &json!({"startupProbe": {"periodSeconds": 1, "udpSocket": {}}}),
        &["startupProbe has no handler that this version knows (it has udpSocket)"],
    );
    refused(&json!({"lifecycle": {"postStart": {"exec": null}}}), &["postStart has no handler", "sleep"]);
    refused(
        &json!({"livenessProbe": {"httpGet": {"port": "http"}}}),
        &["livenessProbe.httpGet.port is `http`", "container `app`", "it names web, admin"],
    );
    refused(&json!({"livenessProbe": {"tcpSocket": {"port": 70000}}}), &["tcpSocket.port is `70000`"]);
    refused(&json!({"lifecycle": {"preStop": {"httpGet": {"port": 0}}}}), &["preStop.httpGet.port is `0`"]);
    refused(&json!({"ports": [], "livenessProbe": {"httpGet": {"port": "http"}}}), &["it names none"]);
    for (fields, part) in [
        (json!({"livenessProbe": "x"}), "livenessProbe is not a map"),
        (json!({"lifecycle": []}), "lifecycle is not a map"),
        (json!({"livenessProbe": {"exec": []}}), "livenessProbe.exec is not a map"),
        (json!({"livenessProbe": {"exec": {"command": "x"}}}), "exec.command is not a list of texts"),
        (
            json!({"livenessProbe": {"exec": {"command": []}}}),
            "exec.command is not a list of texts with at least the program",
        ),
        (json!({"livenessProbe": {"exec": {"command": ["x", 1]}}}), "exec.command[1] is not a text"),
        (json!({"livenessProbe": {"httpGet": {"path": 1, "port": 80}}}), "httpGet.path is not a text"),
        (
            json!({"livenessProbe": {"httpGet": {"port": 80, "scheme": "FTP"}}}),
            "httpGet.scheme is not `HTTP` or `HTTPS`",
        ),
        (json!({"livenessProbe": {"httpGet": {"port": 80, "httpHeaders": {}}}}), "httpHeaders is not a list"),
        (
            json!({"livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"value": "x"}]}}}),
            "httpHeaders[0] is not a map with",
        ),
        (
            json!({"livenessProbe": {"httpGet": {"path": "/"}}}),
            "httpGet.port is not a number from 1 to 65535, or the name",
        ),
        (json!({"livenessProbe": {"tcpSocket": {"port": 80, "host": 1}}}), "tcpSocket.host is not a text"),
        (json!({"livenessProbe": {"grpc": {"port": "web"}}}), "grpc.port is not a number from 1 to 65535"),
        (json!({"livenessProbe": {"grpc": {"port": 80, "service": 1}}}), "grpc.service is not a text"),
        (json!({"lifecycle": {"preStop": {"sleep": {}}}}), "sleep.seconds is not a number of seconds"),
        (json!({"lifecycle": {"preStop": {"sleep": {"seconds": -1}}}}), "sleep.seconds is not a number, 0 or more"),
        (
            json!({"livenessProbe": {"grpc": {"port": 80}, "periodSeconds": "1"}}),
            "livenessProbe.periodSeconds is not a number",
        ),
    ] {
        refused(&fields, &[app, part]);
    }
}

#[test]
fn what_is_reserved_for_the_agent_is_refused() {
    let reserved = "reserved for the injected agent";
    refused(&json!({"livenessProbe": {"exec": {"command": ["sh", "/leader/agent"]}}}), &["exec.command", reserved]);
    for (fields, place) in [
        (json!({"ports": [{"containerPort": 80}, {"containerPort": 9809}]}), "containers[0].ports[1]"),
        (json!({"livenessProbe": {"httpGet": {"port": 9809}}}), "livenessProbe.httpGet.port"),
        (json!({"lifecycle": {"preStop": {"tcpSocket": {"port": 9809}}}}), "preStop.tcpSocket.port"),
    ] {
        refused(&fields, &[place, "the port 9809", reserved, "leader.io/port"]);
    }
    let mut beside = workload(&json!({}));
    beside["spec"]["template"]["spec"]["containers"][1]["ports"] = json!([{"containerPort": 9809}]);
    assert!(review(&beside, None).unwrap_err().to_string().contains("containers[1].ports[0]"));
    beside["spec"]["template"]["spec"]["containers"][1]["ports"][0]["protocol"] = "UDP".into();
    assert!(review(&beside, None).is_ok());
    beside["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
    beside["spec"]["template"]["spec"]["containers"][1]["ports"][0]["protocol"] = "TCP".into();
    assert!(review(&beside, None).is_ok());
}

fn request() -> impl Strategy<Value = Value> {
    let path = of(select(vec!["/healthz", "/", "", "/a?b=c"]));
    let port = select(vec![json!(8080), json!("web"), json!("admin"), json!("8090")]);
    let header = select(vec![
        json!([]),
        json!([{"name": "Host", "value": "x"}]),
        json!([{"name": "A"}, {"name": "A", "value": "b"}]),
    ]);
    let scheme = of(select(vec!["HTTP", "HTTPS", ""]));
    (path, port, of(select(vec!["", "example.org"])), of(header), scheme, any::<bool>()).prop_map(
        |(path, port, host, headers, scheme, port_first)| {
            let mut fields = Map::new();
            if port_first {
                fields.insert("port".to_owned(), port.clone());
            }
            fields.extend(path.map(|path| ("path".to_owned(), path.into())));
            fields.extend(host.map(|host| ("host".to_owned(), host.into())));
            fields.extend(headers.map(|headers| ("httpHeaders".to_owned(), headers)));
            fields.extend(scheme.map(|scheme| ("scheme".to_owned(), scheme.into())));
            fields.insert("port".to_owned(), port);
            Value::from(fields)
        },
    )
}

fn handler(is_probe: bool) -> impl Strategy<Value = (&'static str, Value)> {
    let exec = vec(select(vec!["cat", "$(PORT)", "", "é\n", "$$"]), 1..3)
        .prop_map(|words| ("exec", json!({"command": words})));
    let socket =
        (of(select(vec!["", "example.org"])), select(vec![json!(8080), json!("web")])).prop_map(|(host, port)| {
            let socket = host.map_or(json!({"port": port}), |host| json!({"host": host, "port": port}));
            ("tcpSocket", socket)
        });
    let grpc = of(select(vec!["", "health"])).prop_map(|service| {
        let grpc = service.map_or(json!({"port": 9000}), |service| json!({"port": 9000, "service": service}));
        ("grpc", grpc)
    });
    let last = if is_probe { grpc.boxed() } else { Just(("sleep", json!({"seconds": 4}))).boxed() };
    prop_oneof![exec.boxed(), request().prop_map(|fields| ("httpGet", fields)).boxed(), socket.boxed(), last]
}

/// A probe or hook with its fields in any order, nulls among them.
fn holder(is_probe: bool) -> impl Strategy<Value = Value> {
    let timing =
        select(vec!["initialDelaySeconds", "periodSeconds", "timeoutSeconds", "failureThreshold", "fieldOfTheFuture"]);
    let timing = vec((timing, 0..6), 0..if is_probe { 4 } else { 1 });
    let kinds =
        if is_probe { ["exec", "httpGet", "tcpSocket", "grpc"] } else { ["exec", "httpGet", "tcpSocket", "sleep"] };
    (handler(is_probe), timing, vec(select(kinds.to_vec()), 0..2), any::<prop::sample::Index>()).prop_map(
        |((kind, handler), timing, nulls, at)| {
            let mut fields: Vec<(String, Value)> = Vec::new();
            for (key, value) in nulls
                .into_iter()
                .map(|kind| (kind, Value::Null))
                .chain(timing.into_iter().map(|(key, value)| (key, json!(value))))
            {
                if key != kind && fields.iter().all(|(other, _)| other != key) {
                    fields.push((key.to_owned(), value));
                }
            }
            fields.insert(at.index(fields.len() + 1), (kind.to_owned(), handler));
            Value::Object(fields.into_iter().collect())
        },
    )
}

prop_compose! {
    /// The handlers of a container: any may be absent.
    fn fields()(
        probes in [of(holder(true)), of(holder(true)), of(holder(true))],
        hooks in [of(holder(false)), of(holder(false))],
        signal in any::<bool>(),
        host_network in any::<bool>(),
    ) -> (Value, bool) {
        let mut fields = Map::new();
        for ((field, _), probe) in PROBES.into_iter().zip(probes) {
            fields.extend(probe.map(|probe| (field.to_owned(), probe)));
        }
        let mut lifecycle = Map::new();
        for ((field, _), hook) in HOOKS.into_iter().zip(hooks) {
            lifecycle.extend(hook.map(|hook| (field.to_owned(), hook)));
        }
        if signal {
            lifecycle.insert("stopSignal".to_owned(), "SIGINT".into());
        }
        if !lifecycle.is_empty() {
            fields.insert("lifecycle".to_owned(), lifecycle.into());
        }
        (fields.into(), host_network)
    }
}

fn any_workload() -> impl Strategy<Value = Value> {
    fields().prop_map(|(fields, host_network)| {
        let mut object = workload(&fields);
        if host_network {
            object["spec"]["template"]["spec"]["hostNetwork"] = json!(true);
        }
        object
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn ejecting_gives_every_handler_back_at_its_position(user in any_workload()) {
        let stored = inject(&user);
        prop_assert_eq!(text(template(&ejected(&stored))), text(template(&user)));
        let live = defaulted(&stored);
        let (gone, never_injected) = (defaulted(&ejected(&live)), defaulted(&user));
        prop_assert_eq!(template(&gone), template(&never_injected));
    }

    #[test]
    fn injecting_handlers_twice_is_injecting_them_once(user in any_workload()) {
        let once = inject(&user);
        prop_assert_eq!(text(&inject(&once)), text(&once));
        let live = defaulted(&once);
        // Exported and created again.
        prop_assert_eq!(text(&inject(&live)), text(&live));
        prop_assert_eq!(text(&upgraded(&live, Some(&live)).unwrap().object), text(&live));
    }

    #[test]
    fn every_apply_of_the_same_manifest_gives_the_live_template(user in any_workload(), injected_by_cli in any::<bool>()) {
        let live = if injected_by_cli { defaulted(&inject(&user)) } else { defaulted(&inject(&defaulted(&user))) };
        for arriving in [client_side(&live, &user, &user), server_side(&live, &user, &user), defaulted(&user)] {
            let answer = upgraded(&arriving, Some(&live)).unwrap();
            prop_assert_eq!(text(template(&answer.object)), text(template(&live)), "{}", arriving);
        }
    }

    #[test]
    fn applying_another_manifest_is_injecting_that_one(before in any_workload(), after in any_workload()) {
        let live = defaulted(&inject(&defaulted(&before)));
        let expected = defaulted(&inject(&defaulted(&after)));
        for arriving in [client_side(&live, &before, &after), server_side(&live, &before, &after), defaulted(&after)] {
            let stored = defaulted(&review(&arriving, Some(&live)).unwrap().object);
            let (mut stored, mut expected) = (ejected(&stored), ejected(&expected));
            for object in [&mut stored, &mut expected] {
                object["metadata"] = Value::Null;
            }
            prop_assert_eq!(defaulted(&stored), defaulted(&expected), "{}", arriving);
        }
    }

    #[test]
    fn file_and_stored_object_resolve_to_the_same(user in any_workload()) {
        let (mut file, mut stored) = (record(&inject(&user)), record(&inject(&defaulted(&user))));
        for record in [&mut file, &mut stored] {
            let original = record["original"].as_object_mut().unwrap();
            // As they stood: in files without the defaults.
            original.shift_remove("handlers");
            original.shift_remove("empty");
        }
        prop_assert_eq!(file, stored);
    }

    #[test]
    fn nothing_of_ours_is_left_without_a_record(user in any_workload(), forged in select(vec![None, Some("{"), Some("{}")])) {
        let mut arriving = inject(&user);
        let annotations = arriving["spec"]["template"]["metadata"]["annotations"].as_object_mut().unwrap();
        match forged {
            Some(forged) => annotations.insert("leader.io/injected".to_owned(), forged.into()),
            None => annotations.shift_remove("leader.io/injected"),
        };
        let gone = ejected(&arriving);
        prop_assert!(!text(template(&gone)).contains("/leader"), "{}", gone);
        let again = inject(&arriving);
        prop_assert_eq!(text(&inject(&again)), text(&again));
        prop_assert!(!text(&record(&again)["original"]).contains("/leader"));
    }
}
