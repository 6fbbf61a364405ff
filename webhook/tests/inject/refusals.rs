//! Refusals: each names what is wrong, where, and what to do.

use serde_json::{Value, json};

use super::{deployment, review};

fn object() -> Value {
    deployment(
        &json!({
            "metadata": {"labels": {"app": "billing"}},
            "spec": {"containers": [
                {"name": "app", "image": "registry.example/billing:1", "command": ["/billing"]},
                {"name": "proxy", "image": "registry.example/proxy:1"},
            ]},
        }),
        Some("billing"),
    )
}

/// The refusal of the object with this at a pointer (made when it is absent).
fn refusal(pointer: &str, value: Value) -> String {
    let mut object = object();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        map => map[key.replace("~1", "/").as_str()] = value,
    }
    review(&object, None).unwrap_err().to_string()
}

fn annotated(key: &str, value: &str) -> String {
    refusal(&format!("/metadata/annotations/{}", key.replace('/', "~1")), value.into())
}

#[track_caller]
fn says(error: &str, parts: &[&str]) {
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in: {error}");
    }
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    says(&annotated("leader.io/ID", "x"), &["unknown annotation leader.io/ID", "did you mean leader.io/id?"]);
    says(&annotated("leader.io/contaner", "x"), &["did you mean leader.io/container?"]);
    says(&annotated("leader.io/lease_duration", "x"), &["did you mean leader.io/lease-duration?"]);
    says(&annotated("leader.io/colour", "x"), &["unknown annotation leader.io/colour: known are leader.io/id, "]);
}

#[test]
fn an_unknown_key_is_refused_without_an_id_too() {
    let mut object = super::without_id(&object());
    object["metadata"]["annotations"]["leader.io/Id"] = "billing".into();
    says(&review(&object, None).unwrap_err().to_string(), &["did you mean leader.io/id?"]);
}

#[test]
fn modes_of_nobody_are_refused() {
    says(&annotated("leader.io/mode", "runn"), &["leader.io/mode: `runn` is not `run`"]);
}

#[test]
fn what_does_nothing_in_a_mode_is_refused_with_the_reason() {
    let in_mode = |mode: &str, key: &str, value: &str| {
        let mut object = object();
        object["metadata"]["annotations"]["leader.io/mode"] = mode.into();
        object["metadata"]["annotations"][key] = value.into();
        review(&object, None).unwrap_err().to_string()
    };
    for (mode, key, value) in [
        ("run", "leader.io/status-file", "/s/leader"),
        ("ready", "leader.io/follow", "proxy"),
        ("observe", "leader.io/stop-grace", "4s"),
        ("ready", "leader.io/stop-grace", "4s"),
        ("observe", "leader.io/command", "[\"/billing\"]"),
        ("observe", "leader.io/unhealthy-step-down", "30s"),
    ] {
        let start = format!("annotation {key} does nothing in mode `{mode}`");
        says(&in_mode(mode, key, value), &[&start, "remove it"]);
    }
    for path in ["leader", "/leader_status", "/tmp/", "/leader/status"] {
        says(&in_mode("ready", "leader.io/status-file", path), &["the absolute path of a file", path]);
    }
    says(
        &in_mode("observe", "leader.io/status-file", "/etc/leader"),
        &["the folder `/etc` of the status file", "belongs to the image"],
    );
    says(&annotated("leader.io/prefer", "rack=7"), &["leader.io/prefer: `rack=7`", "zone=NAME"]);
    says(&annotated("leader.io/unhealthy-step-down", "1s"), &["leader.io/unhealthy-step-down", "`1s`"]);
    says(&annotated("leader.io/unhealthy-step-down", "soon"), &["leader.io/unhealthy-step-down", "`soon`"]);
}

#[test]
fn who_cannot_follow_is_refused_with_the_reason() {
    type Change = &'static dyn Fn(&mut Value);
    let following = |value: &str, change: &dyn Fn(&mut Value)| {
        let mut object = object();
        object["metadata"]["annotations"]["leader.io/follow"] = value.into();
        let proxy = &mut object["spec"]["template"]["spec"]["containers"][1];
        proxy["command"] = json!(["/proxy"]);
        change(proxy);
        review(&object, None).map(drop).map_err(|refusal| refusal.to_string())
    };
    assert_eq!(following("proxy", &|_| {}), Ok(()));
    let refused: [(&str, Change, &str); 7] = [
        ("proxy,", &|_| {}, "with commas between them"),
        ("other", &|_| {}, "`other` does not exist: `proxy` could follow"),
        ("app", &|_| {}, "`app` is the elected one itself"),
        ("proxy", &|proxy| proxy["command"] = Value::Null, "sets no `command`"),
        ("proxy", &|proxy| proxy["livenessProbe"] = json!({"exec": {"command": ["x"]}}), "has a livenessProbe"),
        ("proxy", &|proxy| proxy["resources"] = json!({"limits": {"cpu": "500m"}}), "CPU limit below one core"),
        ("proxy", &|proxy| proxy["env"] = json!([{"name": "LEADER_ID", "value": "x"}]), "the variable LEADER_ID"),
    ];
    for (value, change, part) in refused {
        says(&following(value, change).unwrap_err(), &[part]);
    }
}

#[test]
fn keys_of_other_objects_are_sent_there() {
    says(&annotated("leader.io/leader-only", "billing"), &["does not belong on a Deployment", "put it on a Service"]);
    says(&annotated("leader.io/hold", "me"), &["put it on the Lease"]);
    says(&annotated("leader.io/injected", "{}"), &["written by the webhook"]);
}

#[test]
fn values_are_refused_with_what_would_do() {
    says(&annotated("leader.io/id", "Billing"), &["annotation leader.io/id", "\"Billing\" is not a DNS label"]);
    says(&annotated("leader.io/id", ""), &["the id is empty"]);
    says(&annotated("leader.io/id", &"x".repeat(64)), &["64 characters"]);
    says(&annotated("leader.io/container", "ap"), &["no container `ap`", "app, proxy"]);
    says(&annotated("leader.io/command", "/app serve"), &["leader.io/command: `/app serve` is not a JSON list"]);
    says(&annotated("leader.io/command", "[]"), &["the program is missing"]);
    says(&annotated("leader.io/command", "[1]"), &["is not a JSON list of texts"]);
    says(&annotated("leader.io/service-account", "own"), &["`own` is not `dedicated` or `keep`"]);
    says(&annotated("leader.io/lease-duration", "15"), &["leader.io/lease-duration: `15` is not a duration"]);
    says(&annotated("leader.io/lease-duration", "2s"), &["leader.io/lease-duration", "out of range"]);
    says(&annotated("leader.io/stop-grace", "14s"), &["leader.io/stop-grace", "too short for a stop grace of 14s"]);
}

#[test]
fn durations_are_judged_by_the_cpu_limit() {
    let mut object = object();
    object["metadata"]["annotations"]["leader.io/lease-duration"] = "6s".into();
    assert!(review(&object, None).is_ok());
    object["spec"]["template"]["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "100m"}});
    says(&review(&object, None).unwrap_err().to_string(), &["leader.io/lease-duration", "CPU limit below one core"]);
}

#[test]
fn no_entry_point_is_refused_with_the_fix() {
    let error = annotated("leader.io/container", "proxy");
    says(&error, &["container `proxy` (spec.template.spec.containers[1]) sets no `command`", "leader.io/command: '["]);
    says(&refusal("/spec/template/spec/containers/0/command", json!([])), &["container `app`", "sets no `command`"]);
}

#[test]
fn a_missing_api_version_is_named() {
    let mut object = object();
    object.as_object_mut().unwrap().shift_remove("apiVersion");
    let error = review(&object, None).unwrap_err().to_string();
    says(
        &error,
        &[
            "leader.io/id on a Deployment without an apiVersion is not",
            "only a Deployment, StatefulSet or DaemonSet (apps/v1)",
        ],
    );
}

#[test]
fn names_that_collide_are_refused_with_their_place() {
    let container = "/spec/template/spec/containers/0";
    let cases = [
        (
            "/spec/template/spec/initContainers",
            json!([{"name": "leader-agent", "image": "x"}]),
            "initContainers[0] uses the name `leader-agent`",
        ),
        ("/spec/template/spec/containers/1/name", json!("leader-agent"), "containers[1] uses the name `leader-agent`"),
        (
            "/spec/template/spec/volumes",
            json!([{"name": "a"}, {"name": "leader-io-agent", "emptyDir": {}}]),
            "volumes[1] uses the name `leader-io-agent`",
        ),
        (
            "/spec/template/spec/volumes",
            json!([{"name": "leader-io-token", "secret": {}}]),
            "volumes[0] uses the name `leader-io-token`",
        ),
        (
            "/spec/volumeClaimTemplates",
            json!([{"metadata": {"name": "leader-io-agent"}}]),
            "spec.volumeClaimTemplates[0] uses the name",
        ),
        ("/spec/template/metadata/labels/leader.io~1id", json!("billing"), "uses the label leader.io/id"),
        (
            &format!("{container}/env"),
            json!([{"name": "LEADER_ID", "value": "x"}]),
            "containers[0].env[0] uses the variable LEADER_ID",
        ),
        (
            &format!("{container}/env"),
            json!([{"name": "LEADER_LEASE_DURATION", "value": "x"}]),
            "use the annotation leader.io/lease-duration",
        ),
        (
            &format!("{container}/volumeMounts"),
            json!([{"name": "a", "mountPath": "/leader/"}]),
            "volumeMounts[0] uses the path `/leader/`",
        ),
        (
            &format!("{container}/volumeMounts"),
            json!([{"name": "a", "mountPath": "/leader/agent"}]),
            "outside of /leader",
        ),
        (
            &format!("{container}/volumeMounts"),
            json!([{"name": "a", "mountPath": "/var/run/", "readOnly": true}]),
            "uses the folder `/var/run/` of",
        ),
        (
            "/spec/template/spec",
            json!({
                "containers": [{"name": "app", "image": "x", "command": ["/x"], "volumeMounts": [{"name": "a", "mountPath": "/var/run/secrets"}]}],
                "volumes": [{"name": "a", "secret": {"secretName": "a"}}],
            }),
            "uses the folder `/var/run/secrets` of",
        ),
        (
            "/spec/template/spec/containers/1/volumeMounts",
            json!([{"name": "leader-io-token", "mountPath": "/x"}]),
            "the volume `leader-io-token`",
        ),
        (
            &format!("{container}/command"),
            json!(["/leader/agent", "run", "--id", "x", "--", "y"]),
            "command[0] uses the path `/leader/agent`",
        ),
    ];
    for (pointer, value, part) in cases {
        says(&refusal(pointer, value), &[part, "reserved for the injected agent"]);
    }
}

#[test]
fn names_that_only_look_alike_are_accepted() {
    let mut object = object();
    let container = &mut object["spec"]["template"]["spec"]["containers"][0];
    container["env"] = json!([{"name": "LEADER_ELECTION", "value": "true"}, {"name": "LEADER_LOG", "value": "debug"}]);
    container["volumeMounts"] = json!([{"name": "a", "mountPath": "/leaderboard"}]);
    assert!(review(&object, None).is_ok());
}

#[test]
fn a_root_that_cannot_kill_is_refused_in_a_shared_pid_namespace_and_warned_about_elsewhere() {
    let mut object = object();
    object["spec"]["template"]["spec"]["containers"][0]["securityContext"] =
        json!({"runAsUser": 0, "capabilities": {"drop": ["KILL"]}});
    let warnings = review(&object, None).unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("without the capability KILL")), "{warnings:?}");
    for shared in ["hostPID", "shareProcessNamespace"] {
        let mut object = object.clone();
        object["spec"]["template"]["spec"][shared] = json!(true);
        says(&review(&object, None).unwrap_err().to_string(), &["container `app`", "KILL", &format!("{shared}: true")]);
        for context in [
            json!({"runAsNonRoot": true, "capabilities": {"drop": ["KILL"]}}),
            json!({"runAsUser": 0, "capabilities": {"drop": ["ALL"]}}),
            json!({"runAsUser": 0, "capabilities": {"drop": ["ALL"], "add": ["SETUID", "CAP_KILL"]}}),
            json!({"privileged": true, "capabilities": {"drop": ["KILL"]}}),
        ] {
            object["spec"]["template"]["spec"]["containers"][0]["securityContext"] = context.clone();
            assert!(review(&object, None).is_ok(), "{context}");
        }
    }
}

#[test]
fn windows_is_refused() {
    says(&refusal("/spec/template/spec/os", json!({"name": "windows"})), &["spec.template.spec.os.name is `windows`"]);
    says(&refusal("/spec/template/spec/nodeSelector", json!({"kubernetes.io/os": "windows"})), &["nodeSelector"]);
}

#[test]
fn a_record_above_the_limit_is_refused() {
    let error = refusal("/spec/template/spec/containers/0/command", json!(["sh", "-c", "x".repeat(100_000)]));
    says(&error, &["at most 100000", "container `app`", "ConfigMap"]);
}

#[test]
fn other_kinds_are_refused_only_with_an_id() {
    for (version, kind, place) in [
        ("batch/v1", "Job", "; put it on the pod template (spec.template.metadata.annotations)"),
        ("apps/v1", "ReplicaSet", "; put it on the pod template (spec.template.metadata.annotations)"),
        ("argoproj.io/v1alpha1", "Rollout", "; put it on the pod template (spec.template.metadata.annotations)"),
        ("apps/v1beta1", "StatefulSet", "; put it on the pod template (spec.template.metadata.annotations)"),
        ("batch/v1", "CronJob", "; put it on the pod template (spec.jobTemplate.spec.template.metadata.annotations)"),
        ("v1", "ConfigMap", ""),
    ] {
        let mut object = object();
        (object["apiVersion"], object["kind"]) = (version.into(), kind.into());
        match kind {
            "CronJob" => object["spec"] = json!({"jobTemplate": {"spec": object["spec"].take()}}),
            "ConfigMap" => drop(object.as_object_mut().unwrap().shift_remove("spec")),
            _ => {}
        }
        let expected = format!(
            "leader.io/id on a {kind} ({version}) is not read: only a Deployment, StatefulSet or DaemonSet (apps/v1) and a Pod (v1) can \
             carry it{place}"
        );
        assert_eq!(review(&object, None).unwrap_err().to_string(), expected);
        let plain = super::without_id(&object);
        assert_eq!(review(&plain, None).unwrap().object, plain);
    }
}

#[test]
fn the_agents_port_is_one_that_needs_no_privilege() {
    for port in ["1024", "9809", "65535"] {
        let mut object = object();
        object["metadata"]["annotations"]["leader.io/port"] = port.into();
        assert!(review(&object, None).is_ok(), "{port}");
    }
    for port in ["80", "1023", "65536", "http", "", "+8080", "-1", "8080.0"] {
        let expected = format!("annotation leader.io/port: `{port}` is not a port from 1024 to 65535");
        assert_eq!(annotated("leader.io/port", port), expected);
    }
}

#[test]
fn fields_of_a_wrong_type_are_refused_with_their_path() {
    let cases = [
        (
            "/spec/template/spec/containers",
            json!([]),
            "spec.template.spec.containers is not a list with at least one container",
        ),
        ("/spec/template/spec/containers", json!({}), "spec.template.spec.containers is not a list"),
        ("/spec/template/spec/containers/0", json!("app"), "spec.template.spec.containers[0] is not a map"),
        ("/spec/template/spec/containers/0/name", json!(7), "spec.template.spec.containers[0].name is not a text"),
        ("/spec/template/spec/containers/0/command", json!("x"), "containers[0].command is not a list of texts"),
        ("/spec/template/spec/containers/0/command", json!(["x", 1]), "containers[0].command[1] is not a text"),
        ("/spec/template/spec/containers/0/env", json!("x"), "containers[0].env is not a list"),
        ("/spec/template/spec/volumes", json!({}), "spec.template.spec.volumes is not a list"),
        ("/spec/template/metadata/annotations", json!([]), "spec.template.metadata.annotations is not a map"),
        ("/spec/template/metadata/annotations", json!({"a": true}), "annotations[a] is not a text"),
        ("/spec/template/spec", Value::Null, "spec.template.spec is not a map"),
        ("/spec/template", Value::Null, "spec.template is not a map"),
        ("/metadata/annotations/leader.io~1mode", json!(true), "metadata.annotations[leader.io/mode] is not a text"),
    ];
    for (pointer, value, expected) in cases {
        says(&refusal(pointer, value), &[expected]);
    }
}

#[test]
fn whatever_comes_nothing_panics() {
    for object in [json!(null), json!([]), json!({}), json!({"kind": "Deployment"}), json!({"kind": 3, "metadata": []})]
    {
        let answer = review(&object, Some(&object)).unwrap();
        assert_eq!(answer.object, object);
    }
}
