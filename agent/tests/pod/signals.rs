//! Stop signals other than TERM, for a first process of a PID namespace, as in a container, and for any other.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::{
    api::Api,
    pod::{Pod, wait},
};

const SIGNALS: [(&str, i32); 3] = [("WINCH", 28), ("SIGINT", 2), ("SIGRTMIN+3", 37)];

/// Makes a PID namespace.
const NAMESPACE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

/// The ways to start a pod: as it is, and in a PID namespace where this machine lets us make one.
pub(crate) fn places() -> Vec<&'static [&'static str]> {
    let tried = Command::new(NAMESPACE[0]).args(&NAMESPACE[1..]).arg("true").stderr(Stdio::null()).status();
    if tried.is_ok_and(|status| status.success()) {
        vec![&[], &NAMESPACE]
    } else {
        eprintln!("left out: the trials in a PID namespace, because `unshare --pid` is not permitted here");
        vec![&[]]
    }
}

/// An app that ends at this signal and no other.
fn app(signal: i32) -> String {
    let others = [1, 2, 3, 15, 28, 37].into_iter().filter(|other| *other != signal);
    let others: Vec<String> = others.map(|other| other.to_string()).collect();
    format!("trap '' {}; trap 'echo heard; exit 5' {signal}; echo up; while :; do sleep 0.05; done", others.join(" "))
}

fn start(place: &[&str], api: &Api, signal: &str, number: i32) -> Pod {
    Pod::start_through(place, api, "ann", &json!({ "stopSignal": signal }), &app(number))
}

#[test]
fn a_standby_ends_at_the_containers_stop_signal() {
    for place in places() {
        for (name, number) in SIGNALS {
            let api = Api::held();
            let mut pod = start(place, &api, name, number);
            pod.says("another candidate leads");
            pod.signal(number);
            assert_eq!(pod.code(), 0, "{name}: {}", pod.text());
        }
    }
}

#[test]
fn a_standby_ends_at_the_usual_signals_whatever_the_stop_signal_is_and_at_no_other() {
    for place in places() {
        for number in [15, 2, 3] {
            let api = Api::held();
            let mut pod = start(place, &api, "WINCH", 28);
            pod.says("another candidate leads");
            for other in [1, 10, 37] {
                pod.signal(other);
            }
            assert!(pod.run(&["probe", "liveness"]).status.success(), "it goes on");
            pod.signal(number);
            assert_eq!(pod.code(), 0, "{number}: {}", pod.text());
        }
    }
}

#[test]
fn a_leader_hands_the_containers_stop_signal_on_and_releases() {
    for place in places() {
        for (name, number) in SIGNALS {
            let api = Api::released();
            let mut pod = start(place, &api, name, number);
            pod.says("up");
            pod.signal(number);
            assert_eq!(pod.code(), 5, "{name}: {}", pod.text());
            assert_eq!((pod.text().matches("heard").count(), api.holder()), (1, String::new()), "{name}");
        }
    }
}

#[test]
fn an_app_that_goes_on_at_another_signal_gets_its_own_one_later() {
    let record = json!({ "stopSignal": "WINCH", "terminationGrace": 1 });
    for place in places() {
        let api = Api::released();
        let mut pod = Pod::start_through(place, &api, "ann", &record, &app(28));
        pod.says("up");
        pod.signal(3);
        assert_eq!(pod.code(), 5, "{}", pod.text());
        assert_eq!((pod.text().matches("heard").count(), api.holder()), (1, String::new()));
    }
}

#[test]
fn who_sends_another_signal_again_and_again_does_not_put_its_own_one_off() {
    let api = Api::released();
    let record = json!({ "stopSignal": "WINCH", "terminationGrace": 1 });
    let mut pod = Pod::start(&api, "ann", &record, &app(28));
    pod.says("up");
    wait("its own signal", || {
        pod.signal(3);
        pod.text().contains("heard")
    });
    assert_eq!(pod.code(), 5, "{}", pod.text());
}

#[test]
fn the_agents_own_stop_uses_the_containers_stop_signal() {
    for place in places() {
        for (name, number) in SIGNALS {
            let api = Api::released();
            let pod = start(place, &api, name, number);
            pod.says("up");
            api.hold();
            pod.says("heard");
            pod.says("released the Lease");
        }
    }
}
