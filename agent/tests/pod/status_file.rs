//! The status file: there while the agent leads, and gone whenever somebody else might.

use std::{fs, path::Path};

use leader_agent::{clock, names::env};
use serde_json::json;

use crate::{
    api::Api,
    pod::{Pod, wait},
    signals::places,
};

/// Renewed every 4 s; a machine whose timers are late by some seconds does not step down.
const LEASE: &str = "30s";
/// The same, for agents of which no renewal is waited for.
const LONG_LEASE: &str = "1m";

const APP: &str = "trap 'exit 0' TERM; echo up; until test -e leave; do sleep 0.05; done";
/// The file, in the pod's folder.
const FILE: &str = "status";
/// Under this name it is written.
const NEW: &str = "status.new";

/// Starts a pod that keeps a status file, after what `before` does in its folder.
fn start(place: &[&str], api: &Api, lease: &str, app: &str, before: impl FnOnce(&Path)) -> Pod {
    Pod::start_prepared(place, api, "ann", &json!({ "leaseDuration": lease }), app, |folder, command| {
        before(folder);
        command.env(env::STATUS_FILE, FILE);
    })
}

/// The three lines: name, token, and until when to believe them.
fn read(pod: &Pod) -> Option<(String, String, f64)> {
    let text = fs::read_to_string(pod.file(FILE)).ok()?;
    let lines: Vec<_> = text.lines().collect();
    let [name, token, believe_until] = lines[..] else { panic!("not three lines: {text:?}") };
    let token = token.strip_prefix("token=").expect("a token");
    let believe_until = believe_until.strip_prefix("believe_until=").expect("a moment").parse().expect("a number");
    Some((name.to_owned(), token.to_owned(), believe_until))
}

#[test]
fn it_tells_the_pods_name_and_token_and_moves_with_each_renewal() {
    let api = Api::released();
    let pod =
        start(&[], &api, LEASE, "echo token $LEADER_FENCING_TOKEN ${LEADER_STATUS_FILE-none}.; exec sleep 600", |_| {});
    wait("the file", || read(&pod).is_some());
    let (name, token, first) = read(&pod).expect("a file");
    assert_eq!(name, "ann");
    // What the agent was given for itself is not the app's.
    pod.says(&format!("token {token} none."));
    wait("two renewals", || {
        let (name, newer, believe_until) = read(&pod).expect("it stays there");
        assert_eq!((name.as_str(), &newer), ("ann", &token));
        // A bound of safety: less than the lease after a renewal that was sent before this moment.
        assert!(believe_until < clock::boot().as_secs_f64() + 30.0 - 1.5, "{believe_until}");
        believe_until >= first + 6.0
    });
}

#[test]
fn it_is_gone_before_the_lease_is_released_however_that_comes() {
    for way in ["hold", "signal", "exit"] {
        let api = Api::released();
        let mut pod = start(&[], &api, LONG_LEASE, APP, |_| {});
        pod.says("up");
        wait("the file", || read(&pod).is_some());
        match way {
            "hold" => api.hold(),
            "signal" => pod.signal(15),
            _ => pod.touch("leave"),
        }
        wait("the release", || {
            let released = api.holder().is_empty();
            assert!(!released || !pod.file(FILE).exists(), "{way}: released, and the file is there");
            released
        });
        if way != "hold" {
            assert_eq!(pod.code(), 0, "{way}: {}", pod.text());
        }
        assert!(!pod.file(FILE).exists() && !pod.file(NEW).exists(), "{way}");
    }
}

#[test]
fn a_standby_has_none_and_removes_what_was_left() {
    let api = Api::held();
    let pod = start(&[], &api, LONG_LEASE, APP, |folder| {
        for name in [FILE, NEW] {
            fs::write(folder.join(name), "old").expect("a file");
        }
    });
    pod.says("standing by");
    assert!(!pod.file(FILE).exists() && !pod.file(NEW).exists());
}

#[test]
fn one_that_cannot_be_kept_is_a_start_error() {
    for name in [FILE, NEW] {
        let api = Api::released();
        let mut pod = start(&[], &api, LONG_LEASE, APP, |folder| fs::create_dir(folder.join(name)).expect("a folder"));
        assert_eq!(pod.code(), 2, "{name}: {}", pod.text());
        wait("the reason", || pod.text().contains("cannot write and remove the status file status: "));
        assert_eq!((api.writes(), pod.text().contains("standing by")), (0, false), "{name}: {}", pod.text());
    }
}

#[test]
fn while_it_cannot_be_removed_the_lease_is_not_released() {
    let api = Api::released();
    let mut pod = start(&[], &api, LONG_LEASE, APP, |_| {});
    pod.says("up");
    wait("the file", || read(&pod).is_some());
    // A folder in its place can be neither replaced nor removed as a file. It is made between two renewals.
    wait("a folder in its place", || {
        let _ = fs::remove_file(pod.file(FILE));
        fs::create_dir(pod.file(FILE)).is_ok()
    });
    api.hold();
    assert_eq!(pod.code(), 137, "{}", pod.text());
    wait("the reason", || pod.text().contains("cannot remove the status file: the Lease is not released"));
    assert_eq!(api.holder(), "ann_pod-uid_app");
}

#[test]
fn the_stub_removes_it_when_the_agent_is_killed() {
    for place in places() {
        let api = Api::released();
        let mut pod = start(place, &api, LONG_LEASE, "trap '' TERM; echo up; while :; do sleep 0.05; done", |_| {});
        pod.says("up");
        wait("the file", || read(&pod).is_some());
        pod.kill_agent();
        assert_eq!(pod.code(), 137, "{place:?}: {}", pod.text());
        assert!(!pod.file(FILE).exists(), "{place:?}");
        // Killed, and not released.
        assert_eq!(api.holder(), "ann_pod-uid_app");
    }
}
