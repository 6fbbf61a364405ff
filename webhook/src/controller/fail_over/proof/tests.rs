//! Every rule by itself: one thing is changed in a pair that proves the end, and it proves it no more.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const RECORD: &str = "/metadata/annotations/leader.io~1injected";
const STATE: &str = "/status/containerStatuses/0/state";
const END: &str = "/status/containerStatuses/0/state/terminated";

fn lease() -> Value {
    json!({
        "metadata": { "name": "billing", "namespace": "shop", "uid": "u1", "resourceVersion": "7",
            "labels": { "leader.io/id": "billing" } },
        "spec": { "holderIdentity": "billing-1_p1_app", "leaseDurationSeconds": 15, "leaseTransitions": 3,
            "acquireTime": "2026-11-21T12:00:00.123456Z", "renewTime": "2026-11-21T12:00:09.500000Z" },
    })
}

fn status(name: &str) -> Value {
    json!({ "name": name, "ready": false, "restartCount": 0, "image": "", "imageID": "", "lastState": {}, "state": { "terminated": {
        "exitCode": 137, "reason": "OOMKilled", "containerID": format!("containerd://{name}"),
        "startedAt": "2026-11-21T11:59:00Z", "finishedAt": "2026-11-21T12:00:10Z" } } })
}

/// The container and its leadership have ended; beside it runs one that has nothing to do with either.
fn pod() -> Value {
    let record = json!({ "version": 1, "id": "billing", "container": "app" }).to_string();
    let mut proxy = status("proxy");
    proxy["state"] = json!({ "running": { "startedAt": "2026-11-21T11:59:00Z" } });
    json!({
        "metadata": { "name": "billing-1", "namespace": "shop", "uid": "p1", "labels": { "leader.io/id": "billing" },
            "annotations": { "leader.io/injected": record } },
        "spec": {
            "initContainers": [{ "name": "leader-agent", "command": ["/leader-agent", "install", "/leader"] }],
            "containers": [
                { "name": "app", "command": ["/leader/agent", "run", "--", "/app"] },
                { "name": "proxy", "command": ["/proxy"] },
            ],
        },
        "status": { "phase": "Running", "containerStatuses": [status("app"), proxy] },
    })
}

fn judge(lease: &Value, pod: &Value) -> Result<Ended, Unproven> {
    prove(&serde_json::from_value(lease.clone()).unwrap(), &serde_json::from_value(pod.clone()).unwrap())
}

fn with(object: &Value, pointer: &str, value: Value) -> Value {
    let mut object = object.clone();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    match object.pointer_mut(parent).unwrap() {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        parent => parent[key.as_str()] = value,
    }
    object
}

/// The reason against it when one thing of the pod is otherwise.
fn refused(pointer: &str, value: &Value) -> Unproven {
    judge(&lease(), &with(&pod(), pointer, value.clone())).expect_err(&format!("{pointer} = {value}"))
}

fn record(more: &Value) -> Value {
    let mut record = json!({ "version": 1, "id": "billing", "container": "app" });
    record.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Value::String(record.to_string())
}

#[test]
fn a_container_that_was_killed_has_ended() {
    let ended = judge(&lease(), &pod()).unwrap();
    assert_eq!(ended.identity, "billing-1_p1_app");
    assert_eq!((ended.term.uid.as_str(), ended.term.transitions), ("u1", 3));
    assert_eq!(ended.term.acquire_time.to_string(), "2026-11-21T12:00:00.123456Z");
    assert_eq!(ended.how, "OOMKilled, exit code 137");
    // What else becomes of the pod changes nothing: its containers were reported.
    let deleted = with(&pod(), "/metadata/deletionTimestamp", json!("2026-11-21T12:00:09Z"));
    assert!(judge(&lease(), &with(&deleted, "/status/phase", json!("Failed"))).is_ok());
}

#[test]
fn deletion_phase_and_an_earlier_end_prove_nothing() {
    let running = json!({ "running": { "startedAt": "2026-11-21T12:00:11Z" } });
    let not_ended = |pod: &Value, said: &str| match judge(&lease(), pod) {
        Err(Unproven::NotEnded { container, state }) => assert_eq!((container.as_str(), state), ("app", said)),
        other => panic!("{other:?}"),
    };
    let mut again = with(&pod(), STATE, running.clone());
    not_ended(&again, "running");
    // It has ended before, and was started again.
    again["status"]["containerStatuses"][0]["lastState"] = pod()["status"]["containerStatuses"][0]["state"].clone();
    not_ended(&again, "running");
    for phase in ["Failed", "Succeeded", "Unknown"] {
        again["status"]["phase"] = json!(phase);
        again["metadata"]["deletionTimestamp"] = json!("2026-11-21T12:00:00Z");
        not_ended(&again, "running");
    }
    again["status"]["containerStatuses"][0]["state"] = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    not_ended(&again, "waiting");
    again["status"]["containerStatuses"][0]["state"] = json!({});
    not_ended(&again, "in no known state");
    again["status"]["containerStatuses"][0]["state"] = Value::Null;
    not_ended(&again, "in no known state");
    not_ended(&with(&pod(), "/status/containerStatuses", json!([])), "not reported");
    not_ended(&with(&pod(), "/status", Value::Null), "not reported");
    // What says two things says neither.
    let mut both = pod()["status"]["containerStatuses"][0]["state"].clone();
    both["running"] = running["running"].clone();
    not_ended(&with(&pod(), STATE, both), "running");
}

#[test]
fn what_was_merely_lost_has_not_ended() {
    for (field, value) in [
        ("reason", json!("ContainerStatusUnknown")),
        ("reason", json!("Unknown")),
        ("exitCode", json!(255)),
        ("containerID", Value::Null),
        ("containerID", json!("")),
        ("finishedAt", Value::Null),
    ] {
        let reason = refused(&format!("{END}/{field}"), &value);
        assert!(matches!(reason, Unproven::Lost { .. }), "{reason:?}");
    }
}

#[test]
fn who_wrote_the_lease_after_the_end_is_alive() {
    let later = |pointer: &str, at: &str| judge(&with(&lease(), pointer, json!(at)), &pod());
    // An end is told in whole seconds, rounded down: what was written in the same second may have been written after it.
    for at in ["2026-11-21T12:00:10.000000Z", "2026-11-21T12:00:11.000000Z"] {
        assert!(matches!(later("/spec/renewTime", at), Err(Unproven::Later { .. })), "{at}");
        assert!(matches!(later("/spec/acquireTime", at), Err(Unproven::Later { .. })), "{at}");
    }
    assert!(later("/spec/renewTime", "2026-11-21T12:00:09.999999Z").is_ok());
}

/// Who says since when it runs is known to be the one that has ended, also by what it wrote in its last second.
#[test]
fn who_started_after_the_end_is_alive_and_who_did_not_is_not() {
    let of = |said: &str, renewed: &str| {
        let annotated = with(&lease(), "/metadata/annotations", json!({ names::AGENT_STARTED: said }));
        judge(&with(&annotated, "/spec/renewTime", json!(renewed)), &pod())
    };
    let before = "2026-11-21T12:00:09.999999Z billing-1_p1_app";
    for (said, renewed, proves) in [
        (before, "2026-11-21T12:00:10.999999Z", true),
        (before, "2026-11-21T12:00:11.000000Z", false),
        // The next one, whatever else the Lease says.
        ("2026-11-21T12:00:10.000000Z billing-1_p1_app", "2026-11-21T12:00:09.000000Z", false),
        ("2026-11-21T12:00:10.500000Z billing-1_p1_app", "2026-11-21T12:00:10.700000Z", false),
        // Said by an earlier holder, or by nobody: as if nothing were said.
        ("2026-11-21T12:00:09.999999Z billing-2_p2_app", "2026-11-21T12:00:10.000001Z", false),
        ("2026-11-21T12:00:11.000000Z billing-2_p2_app", "2026-11-21T12:00:09.999999Z", true),
        ("2026-11-21T12:00:09.999999Z", "2026-11-21T12:00:10.000001Z", false),
        ("yesterday billing-1_p1_app", "2026-11-21T12:00:10.000001Z", false),
    ] {
        assert_eq!(of(said, renewed).is_ok(), proves, "{said}, {renewed}");
    }
    // A follower was not started by that agent: of its end nothing more is known.
    let both = followed(&json!({ "follow": ["proxy"] }));
    let renewed = with(&lease(), "/spec/renewTime", json!("2026-11-21T12:00:10.500000Z"));
    let renewed = with(&renewed, "/metadata/annotations", json!({ names::AGENT_STARTED: before }));
    assert!(matches!(judge(&renewed, &both), Err(Unproven::Later { container, .. }) if container == "proxy"));
    assert!(judge(&renewed, &pod()).is_ok());
}

#[test]
fn a_lease_without_a_term_is_nobodys() {
    let of = |pointer: &str, value: Value| judge(&with(&lease(), pointer, value), &pod()).unwrap_err();
    for nobody in [Value::Null, json!("")] {
        assert_eq!(of("/spec/holderIdentity", nobody), Unproven::NoHolder);
    }
    assert_eq!(of("/spec", Value::Null), Unproven::NoHolder);
    for stranger in ["laptop", "a_b", "a_b_c_d", "__", "billing-1__app"] {
        assert_eq!(of("/spec/holderIdentity", json!(stranger)), Unproven::NoPod(stranger.to_owned()));
    }
    assert_eq!(of("/spec/renewTime", Value::Null), Unproven::NoTime("renewTime"));
    assert_eq!(of("/spec/acquireTime", Value::Null), Unproven::NoTime("acquireTime"));
}

#[test]
fn another_pod_proves_nothing() {
    let another = Unproven::AnotherPod { pod: "billing-1".to_owned(), uid: "p2".to_owned() };
    assert_eq!(refused("/metadata/uid", &json!("p2")), another);
    // A holder of another container: one that is not injected, or a pod of another id.
    let sidecar = judge(&with(&lease(), "/spec/holderIdentity", json!("billing-1_p1_proxy")), &pod());
    assert!(matches!(sidecar, Err(Unproven::NotInjected { .. })), "{sidecar:?}");
    for other in [record(&json!({ "id": "other" })), record(&json!({ "container": "proxy" })), json!("{"), json!("[]")]
    {
        assert!(matches!(refused(RECORD, &other), Unproven::NotInjected { .. }));
    }
    assert!(matches!(refused("/metadata/annotations", &Value::Null), Unproven::NotInjected { .. }));
}

#[test]
fn processes_that_are_shared_outlive_a_container() {
    for field in ["shareProcessNamespace", "hostPID"] {
        assert_eq!(refused(&format!("/spec/{field}"), &json!(true)), Unproven::SharedProcesses(field));
        assert!(judge(&lease(), &with(&pod(), &format!("/spec/{field}"), json!(false))).is_ok());
    }
}

#[test]
fn an_app_that_only_asks_outlives_its_agent() {
    for place in [json!({ "mode": "observe" }), json!({ "options": { "mode": "observe" } }), json!({ "mode": 7 })] {
        assert!(matches!(refused(RECORD, &record(&place)), Unproven::Mode(_)), "{place}");
    }
    for place in [json!({ "mode": "run" }), json!({ "options": { "mode": "run" } })] {
        assert!(judge(&lease(), &with(&pod(), RECORD, record(&place))).is_ok(), "{place}");
    }
}

/// A pod in this mode whose status file is in a volume, which `proxy` mounts elsewhere or not at all. Its `proxy` runs.
fn with_a_status_file(mode: &str, proxy: Value) -> Value {
    let said = json!({ "mode": mode, "statusFile": "/tmp/state/leader" });
    let mut pod = with(&pod(), RECORD, record(&said));
    // The nearest counts.
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        { "name": "status", "mountPath": "/tmp/state/" }, { "name": "tmp", "mountPath": "/tmp" },
        { "name": "other", "mountPath": "/tmp/sta" },
    ]);
    pod["spec"]["containers"][1]["volumeMounts"] = proxy;
    pod
}

/// The file stays there when stub and agent are killed together: who can read it may believe it as long as it says.
#[test]
fn whoever_can_read_the_status_file_has_ended_too() {
    let reads = || json!([{ "name": "status", "mountPath": "/elsewhere", "readOnly": true, "subPath": "leader" }]);
    for (mode, proxy, proves) in [
        ("run", reads(), true),
        ("ready", reads(), false),
        ("ready", json!([{ "name": "tmp", "mountPath": "/tmp" }, { "name": "other", "mountPath": "/x" }]), true),
        ("ready", Value::Null, true),
    ] {
        let runs = with_a_status_file(mode, proxy);
        let judged = judge(&lease(), &runs);
        assert_eq!(judged.is_ok(), proves, "{mode}: {judged:?}");
        assert!(
            judged.is_ok()
                || matches!(&judged, Err(Unproven::NotEnded { container, state: "running" }) if container == "proxy")
        );
        let both = with(&runs, "/status/containerStatuses/1", status("proxy"));
        assert!(judge(&lease(), &both).is_ok(), "{mode}");
    }
    // One that was put there later, and one that began before.
    let alone = with_a_status_file("ready", Value::Null);
    let late = json!([{ "name": "late", "volumeMounts": reads() }]);
    let sidecar = json!([{ "name": "late", "restartPolicy": "Always", "volumeMounts": reads() }]);
    for (list, more, statuses) in [
        ("ephemeralContainers", late, "ephemeralContainerStatuses"),
        ("initContainers", sidecar, "initContainerStatuses"),
    ] {
        let joined = with(&alone, &format!("/spec/{list}"), more);
        assert!(matches!(judge(&lease(), &joined), Err(Unproven::NotEnded { state: "not reported", .. })), "{list}");
        assert!(judge(&lease(), &with(&joined, &format!("/status/{statuses}"), json!([status("late")]))).is_ok());
    }
    // Where it is cannot be told.
    let unnamed = with(&alone, RECORD, record(&json!({ "mode": "ready" })));
    let nowhere = with(&alone, "/spec/containers/0/volumeMounts", json!([]));
    for pod in [unnamed, nowhere] {
        assert!(matches!(judge(&lease(), &pod), Err(Unproven::StatusFile(_))));
    }
}

/// A pod in which `proxy` follows, as its record says in one way or another, and has ended too.
fn followed(more: &Value) -> Value {
    let mut pod = with(&pod(), RECORD, record(more));
    pod["status"]["containerStatuses"][1] = status("proxy");
    pod
}

#[test]
fn every_follower_has_ended_too() {
    let ways = [
        json!({ "options": { "follow": "proxy" } }),
        json!({ "options": { "follow": " proxy , proxy" } }),
        json!({ "follow": ["proxy"] }),
        json!({ "follow": ["proxy"], "options": { "follow": "proxy" } }),
    ];
    for more in &ways {
        let both = followed(more);
        assert!(judge(&lease(), &both).is_ok(), "{more}");
        let proxy = "/status/containerStatuses/1/state";
        let runs = with(&both, proxy, json!({ "running": {} }));
        let reason = judge(&lease(), &runs).unwrap_err();
        assert!(matches!(&reason, Unproven::NotEnded { container, .. } if container == "proxy"), "{reason:?}");
        let lost = with(&both, &format!("{proxy}/terminated/exitCode"), json!(255));
        assert!(matches!(judge(&lease(), &lost), Err(Unproven::Lost { .. })));
        // It has ended before the leader renewed: it may have been started again since.
        let before = with(&both, &format!("{proxy}/terminated/finishedAt"), json!("2026-11-21T12:00:09Z"));
        assert!(matches!(judge(&lease(), &before), Err(Unproven::Later { .. })));
    }
    for unknown in [json!({ "follow": {} }), json!({ "follow": [{ "name": "proxy" }] }), json!({ "follow": 1 })] {
        assert!(matches!(judge(&lease(), &followed(&unknown)), Err(Unproven::Followers(_))), "{unknown}");
    }
    let nobody = followed(&json!({ "follow": ["another"] }));
    assert!(matches!(judge(&lease(), &nobody), Err(Unproven::NotEnded { state: "not reported", .. })));
}

/// Whatever the record says of them: who has an agent may act on what it said.
#[test]
fn every_container_with_an_agent_has_ended_too() {
    let command = json!({ "name": "proxy", "command": ["/wrapper", "/leader/agent", "follow", "--", "/proxy"] });
    let arguments = json!({ "name": "proxy", "args": ["-c", "exec /leader/agent observe"] });
    for proxy in [command, arguments] {
        let runs = with(&pod(), "/spec/containers/1", proxy.clone());
        assert!(matches!(judge(&lease(), &runs), Err(Unproven::NotEnded { .. })), "{proxy}");
        assert!(judge(&lease(), &with(&followed(&json!({})), "/spec/containers/1", proxy)).is_ok());
    }
    let sidecar = json!([{ "name": "helper", "command": ["/leader/agent"], "restartPolicy": "Always" }]);
    let helped = with(&pod(), "/spec/initContainers", sidecar);
    assert!(matches!(judge(&lease(), &helped), Err(Unproven::NotEnded { state: "not reported", .. })));
    assert!(judge(&lease(), &with(&helped, "/status/initContainerStatuses", json!([status("helper")]))).is_ok());
}

#[test]
fn what_has_ended_is_noticed_by_its_id() {
    let ids = |pod: Value| ended_containers(&serde_json::from_value(pod).unwrap());
    assert_eq!(ids(pod()), ["containerd://app"]);
    assert_eq!(ids(with(&pod(), STATE, json!({ "running": {} }))), [""; 0]);
    assert_eq!(ids(with(&pod(), "/status", Value::Null)), [""; 0]);
    assert_eq!(ids(with(&pod(), &format!("{END}/containerID"), json!(""))), [""; 0]);
}

fn state() -> impl Strategy<Value = Value> {
    let end = (prop_oneof![Just(0), Just(137), Just(255)], 0..3_usize, any::<bool>(), 0..20_i64);
    let terminated = end.prop_map(|(code, reason, has_id, second)| {
        let reason = ["Error", "Unknown", "ContainerStatusUnknown"][reason];
        let id = if has_id { "containerd://1" } else { "" };
        json!({ "terminated": { "exitCode": code, "reason": reason, "containerID": id,
            "finishedAt": format!("2026-11-21T12:00:{second:02}Z") } })
    });
    prop_oneof![
        4 => terminated,
        1 => Just(json!({ "running": {} })),
        1 => Just(json!({ "waiting": {} })),
        1 => Just(json!({})),
    ]
}

proptest! {
    /// Whatever states the containers are in: it is believed only of those that every rule allows, said here once more and otherwise.
    #[test]
    fn nothing_else_is_a_proof(app in state(), proxy in state(), follows in any::<bool>(), shared in any::<bool>(), second in 0..20_i64) {
        let follow = if follows { json!({ "follow": ["proxy"] }) } else { json!({}) };
        let mut pod = with(&pod(), RECORD, record(&follow));
        pod["spec"]["shareProcessNamespace"] = json!(shared);
        pod["status"]["containerStatuses"][0]["state"] = app.clone();
        pod["status"]["containerStatuses"][1]["state"] = proxy.clone();
        let renewed = format!("2026-11-21T12:00:{second:02}.000000Z");
        let mut lease = with(&lease(), "/spec/renewTime", json!(renewed));
        lease["spec"]["acquireTime"] = json!("2026-11-21T11:59:00.000000Z");
        let proves = |state: &Value| {
            let end = &state["terminated"];
            end["exitCode"] != 255 && end["reason"] == "Error" && end["containerID"] == "containerd://1"
                && end["finishedAt"].as_str().is_some_and(|at| at[..19] > renewed[..19])
        };
        let expected = proves(&app) && (!follows || proves(&proxy)) && !shared;
        prop_assert_eq!(judge(&lease, &pod).is_ok(), expected);
    }
}
