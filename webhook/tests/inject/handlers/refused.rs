//! Probes and hooks that are refused: each message names what is wrong, where, and what to do.

use serde_json::{Value, json};

use super::{review, workload};

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
