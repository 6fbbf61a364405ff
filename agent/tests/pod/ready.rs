//! The mode `ready`: the app runs whoever leads, and only the leader is ready.

use std::{fs, process::Command, thread, time::Duration};

use leader_agent::names;
use serde_json::{Value, json};

use crate::{
    api::Api,
    pod::{Pod, wait},
};

/// Of an agent of which no renewal is waited for.
const LEASE: &str = "1m";
const APP: &str = "trap 'echo told; exit 0' TERM; echo up; until test -e leave; do sleep 0.05; done; exit 3";
/// The status file, in the pod's folder.
const FILE: &str = "status";

fn start(api: &Api, probes: &Value) -> Pod {
    let fields = json!({ "mode": "ready", "leaseDuration": LEASE, "statusFile": FILE, "probes": probes });
    Pod::start(api, "ann", &fields, APP)
}

/// The first line of the status file.
fn says(pod: &Pod) -> Option<String> {
    fs::read_to_string(pod.file(FILE)).ok()?.lines().next().map(str::to_owned)
}

fn leads(pod: &Pod) -> bool {
    let (_, text) = pod.request("GET /leader");
    serde_json::from_str::<Value>(&text).expect("JSON")["leading"] == true
}

#[test]
fn the_app_of_a_standby_runs_and_is_not_ready() {
    let api = Api::held();
    let pod = start(&api, &json!({ "readiness": { "exec": { "command": ["true"] } } }));
    pod.says("up");
    wait("the Lease was read", || pod.request("GET /readyz").0 == 200);
    let (status, reason) = pod.ask("readiness");
    assert_eq!((status, reason.as_str()), (503, "mode ready: this pod does not lead"));
    assert!(!leads(&pod) && says(&pod).is_none());
}

#[test]
fn only_the_leader_is_ready_and_what_the_user_asks_counts_there() {
    let api = Api::released();
    let pod =
        start(&api, &json!({ "readiness": { "exec": { "command": ["test", "-e", "fit"] }, "timeoutSeconds": 5 } }));
    pod.says("up");
    wait("the file", || says(&pod).as_deref() == Some("ann"));
    wait("leadership", || leads(&pod));
    let (status, reason) = pod.ask("readiness");
    assert!(status == 503 && reason.contains("exit code 1"), "{status} {reason}");
    pod.touch("fit");
    pod.passes("readiness");
}

#[test]
fn who_loses_leadership_is_not_ready_and_its_app_goes_on() {
    let api = Api::released();
    let pod = start(&api, &json!({}));
    pod.says("up");
    pod.passes("readiness");
    for _ in 0..2 {
        wait("the file", || says(&pod).is_some());
        api.hold();
        wait("the release", || {
            let released = api.holder().is_empty();
            assert!(!released || says(&pod).is_none(), "released, and the file is there");
            released
        });
        let (status, _) = pod.ask("readiness");
        assert!(status == 503 && !leads(&pod));
        api.edit(|object| drop(object["metadata"]["annotations"].as_object_mut().expect("some").remove(names::HOLD)));
        pod.passes("readiness");
    }
    assert!(!pod.text().contains("told"), "{}", pod.text());
    assert_eq!(pod.text().matches("up\n").count(), 1, "{}", pod.text());
}

#[test]
fn a_foreign_holder_ends_leadership_and_not_the_app() {
    let api = Api::released();
    let pod = start(&api, &json!({}));
    wait("the file", || says(&pod).is_some());
    api.edit(|object| object["spec"]["holderIdentity"] = json!("ghost"));
    pod.says("leadership is lost");
    wait("no file", || says(&pod).is_none());
    let (status, _) = pod.ask("readiness");
    assert!(status == 503 && !leads(&pod));
    // It stands by anew, and writes nothing of the term that was taken from it.
    let writes = api.writes();
    pod.says("another candidate leads");
    thread::sleep(Duration::from_secs(1));
    assert_eq!((api.writes(), api.holder().as_str()), (writes, "ghost"));
    assert!(!pod.text().contains("told"), "{}", pod.text());
}

#[test]
fn the_container_ends_as_its_app_does_and_leadership_is_given_away() {
    for (way, code) in [("signal", 0), ("exit", 3)] {
        let api = Api::released();
        let mut pod = start(&api, &json!({}));
        wait("the file", || says(&pod).is_some());
        pod.says("up");
        match way {
            "signal" => pod.signal(15),
            _ => pod.touch("leave"),
        }
        assert_eq!(pod.code(), code, "{way}: {}", pod.text());
        assert!(api.holder().is_empty() && says(&pod).is_none(), "{way}");
    }
}

/// Nobody may say so beside it for as long as the lease lasts. But the container ends, and with it the renewals.
#[test]
fn an_app_that_ends_by_itself_takes_its_container_along_though_the_status_file_stays() {
    for way in ["fails", "hangs"] {
        let api = Api::released();
        let fields = json!({ "mode": "ready", "leaseDuration": "5s", "statusFile": FILE });
        let mut pod = Pod::start(&api, "ann", &fields, APP);
        wait("the file", || says(&pod).is_some());
        pod.says("up");
        if way == "fails" {
            // With each renewal it is written again.
            while fs::create_dir(pod.file(FILE)).is_err() {
                let _ = fs::remove_file(pod.file(FILE));
            }
            fs::write(pod.file(FILE).join("full"), []).expect("a file");
        } else {
            // Whoever opens it waits for a reader: the next time that the file is written does not end.
            let pipe = pod.file(&format!("{FILE}.new"));
            assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
            let before = api.writes();
            wait("two renewals", || api.writes() >= before + 2);
        }
        pod.touch("leave");
        assert_eq!(pod.code(), 3, "{way}: {}", pod.text());
        assert_eq!(api.holder(), "ann_pod-uid_app", "{way}: released, and the file says that it leads");
    }
}
