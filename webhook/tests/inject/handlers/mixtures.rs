//! What is the user's in a probe or hook, after any kind of write.

use serde_json::{Map, Value, json};

use super::{
    super::{
        apply::{client_side, server_side},
        cluster::defaulted,
        inject, record,
    },
    agents, at, container, container_mut, ejected, every_place, joined, review, template, text, with, without_id,
    workload,
};

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
        ("the user's tcpSocket alone", of(&tcp), Some(tcp.clone())),
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
        let both = joined(&ours, &json!({"exec": {"command": ["/leader/agent", "probe", "liveness"]}}));
        rows.push(("ours by both ways", of(&both), Some(original.clone())));
        rows.push(("ours by both ways, and the user's", of(&joined(&both, &tcp)), Some(tcp.clone())));
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
