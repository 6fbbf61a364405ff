//! Stop signals other than TERM.

use serde_json::json;

use crate::{api::Api, pod::Pod};

const SIGNALS: [(&str, i32); 3] = [("WINCH", 28), ("SIGINT", 2), ("SIGRTMIN+3", 37)];

/// An app that ends at this signal and no other.
fn app(signal: i32) -> String {
    let others: Vec<String> =
        [1, 2, 3, 15, 28, 37].into_iter().filter(|other| *other != signal).map(|other| other.to_string()).collect();
    format!("trap '' {}; trap 'echo heard; exit 5' {signal}; echo up; while :; do sleep 0.05; done", others.join(" "))
}

#[test]
fn a_standby_ends_at_the_containers_stop_signal() {
    for (name, number) in SIGNALS {
        let api = Api::held();
        let mut pod = Pod::start(&api, "ann", &json!({ "stopSignal": name }), &app(number));
        pod.says("another candidate leads");
        pod.signal(number);
        assert_eq!(pod.code(), 0, "{name}: {}", pod.text());
    }
}

#[test]
fn a_standby_ends_at_the_usual_signals_whatever_the_stop_signal_is_and_at_no_other() {
    for number in [15, 2, 3] {
        let api = Api::held();
        let mut pod = Pod::start(&api, "ann", &json!({ "stopSignal": "WINCH" }), &app(28));
        pod.says("another candidate leads");
        for other in [1, 10, 37] {
            pod.signal(other);
        }
        pod.says("another candidate leads");
        assert_eq!(pod.ask("liveness").0, 200, "it goes on");
        pod.signal(number);
        assert_eq!(pod.code(), 0, "{number}: {}", pod.text());
    }
}

#[test]
fn a_leader_hands_the_containers_stop_signal_on_and_releases() {
    for (name, number) in SIGNALS {
        let api = Api::released();
        let mut pod = Pod::start(&api, "ann", &json!({ "stopSignal": name }), &app(number));
        pod.says("up");
        pod.signal(number);
        assert_eq!(pod.code(), 5, "{name}: {}", pod.text());
        assert_eq!((pod.text().matches("heard").count(), api.holder()), (1, String::new()), "{name}");
    }
}

#[test]
fn the_agents_own_stop_uses_the_containers_stop_signal() {
    for (name, number) in SIGNALS {
        let api = Api::released();
        let pod = Pod::start(&api, "ann", &json!({ "stopSignal": name }), &app(number));
        pod.says("up");
        api.hold();
        pod.says("heard");
        pod.says("released the Lease");
    }
}
