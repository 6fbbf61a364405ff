//! The preStop hook: when it runs, and when it does not.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    api::Api,
    pod::{Pod, wait},
};

/// Writes down its stop signal, and ends.
const APP: &str = "trap 'echo signal >> order; exit 0' TERM; echo up; while :; do sleep 0.05; done";

fn pre_stop(words: &str) -> Value {
    json!({ "hooks": { "preStop": { "exec": { "command": ["sh", "-c", words] } } } })
}

fn order(pod: &Pod) -> String {
    fs::read_to_string(pod.file("order")).unwrap_or_default()
}

#[test]
fn the_kubelet_has_the_hook_run_while_the_app_runs_and_the_lease_is_renewed() {
    let api = Api::released();
    let mut pod = Pod::start(&api, "ann", &pre_stop("sleep 5; echo hook >> order"), APP);
    pod.says("up");
    let before = api.writes();
    let began = Instant::now();
    let output = pod.run(&["hook", "pre-stop"]);
    assert!(output.status.success() && began.elapsed() > Duration::from_secs(5), "{output:?}");
    assert_eq!(order(&pod), "hook\n");
    assert!(api.writes() >= before + 2, "no renewals during the hook");
    // Once is enough.
    assert!(pod.run(&["hook", "pre-stop"]).status.success());
    pod.signal(15);
    assert_eq!(pod.code(), 0);
    assert_eq!((order(&pod), api.holder()), ("hook\nsignal\n".to_owned(), String::new()));
}

#[test]
fn a_hook_that_fails_says_so() {
    let api = Api::released();
    let pod = Pod::start(&api, "ann", &pre_stop("echo no disk; exit 9"), APP);
    pod.says("up");
    let output = pod.run(&["hook", "pre-stop"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "exit code 9: no disk\n");
    pod.says("the preStop hook failed");
}

#[test]
fn a_hook_that_is_under_way_when_the_signal_comes_ends_with_the_app() {
    let api = Api::released();
    let mut pod = Pod::start(&api, "ann", &pre_stop("echo begun >> order; sleep 600"), APP);
    pod.says("up");
    let output = std::thread::scope(|scope| {
        let hook = scope.spawn(|| pod.run(&["hook", "pre-stop"]));
        wait("the hook", || order(&pod) == "begun\n");
        pod.signal(15);
        hook.join().expect("an output")
    });
    assert_eq!((output.status.code(), pod.code()), (Some(1), 0), "{}", pod.text());
    assert_eq!((order(&pod), api.holder()), ("begun\nsignal\n".to_owned(), String::new()));
}

#[test]
fn a_standby_has_nothing_to_do() {
    let api = Api::held();
    let pod = Pod::start(&api, "ann", &pre_stop("echo hook >> order"), APP);
    pod.says("another candidate leads");
    assert!(pod.run(&["hook", "pre-stop"]).status.success());
    // Not even with an agent: there is none yet when the kubelet asks.
    assert!(pod.run(&["hook", "post-start", "--state-dir", "/no/such/folder"]).status.success());
    assert_eq!(order(&pod), "");
}

#[test]
fn a_hand_over_runs_the_hook_before_the_stop_signal() {
    let api = Api::released();
    let pod = Pod::start(&api, "ann", &pre_stop("sleep 1; echo hook >> order"), APP);
    pod.says("up");
    api.hold();
    pod.says("released the Lease");
    assert_eq!((order(&pod), api.holder()), ("hook\nsignal\n".to_owned(), String::new()));
    // The process stands by again.
    assert_eq!(pod.ask("readiness"), (200, "standing by".to_owned()));
}

#[test]
fn during_a_hand_over_nobody_restarts_the_app_for_what_the_hook_does() {
    let api = Api::released();
    // The hook drains: what asks whether all is well is told no.
    let mut fields = pre_stop("touch drained; sleep 3; echo hook >> order");
    fields["probes"] = json!({ "liveness": { "exec": { "command": ["test", "!", "-e", "drained"] } } });
    let pod = Pod::start(&api, "ann", &fields, APP);
    pod.says("up");
    assert_eq!(pod.ask("liveness"), (200, "ok".to_owned()));
    api.hold();
    wait("the hook", || pod.file("drained").exists());
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(pod.ask("liveness").0, 200);
    assert_eq!(order(&pod), "");
    pod.says("released the Lease");
    assert_eq!(order(&pod), "hook\nsignal\n");
}

#[test]
fn a_hand_over_waits_no_longer_than_the_pods_grace_period() {
    let api = Api::released();
    let mut fields = pre_stop("echo begun >> order; sleep 600");
    fields["terminationGrace"] = json!(2);
    let pod = Pod::start(&api, "ann", &fields, APP);
    pod.says("up");
    api.hold();
    pod.says("released the Lease");
    assert_eq!(order(&pod), "begun\nsignal\n");
}

#[test]
fn a_forced_loss_runs_no_hook() {
    let api = Api::released();
    let mut pod = Pod::start(&api, "ann", &pre_stop("echo hook >> order"), APP);
    pod.says("up");
    api.edit(|lease| lease["spec"]["holderIdentity"] = json!("stranger"));
    assert_eq!(pod.code(), 137);
    assert_eq!(order(&pod), "");
}

#[test]
fn a_lease_that_runs_out_runs_no_hook() {
    let api = Api::released();
    let pod = Pod::start(&api, "ann", &pre_stop("echo hook >> order"), APP);
    pod.says("up");
    api.be_silent(true);
    pod.says("the lease is running out");
    wait("the app's stop", || order(&pod) == "signal\n");
    assert!(!Path::new(&pod.file("hook")).exists());
}

#[test]
fn hooks_are_not_for_the_network() {
    let api = Api::released();
    let pod = Pod::start(&api, "ann", &pre_stop("echo hook >> order"), APP);
    pod.says("up");
    assert_eq!(pod.request("POST /leader.io/hook/pre-stop").0, 404);
    assert_eq!(order(&pod), "");
}
