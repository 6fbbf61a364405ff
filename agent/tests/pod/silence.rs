//! An API server that is silent from one moment to the next, and an app that does not hear its stop signal.

use std::{fs, thread, time::Duration};

use jiff::Timestamp;
use serde_json::json;

use crate::{
    api::Api,
    pod::{Pod, wait},
    signals::places,
};

/// Writes down the wall clock in a session of its own, and ignores what it can.
const DEAF: &str = r"
    trap '' TERM INT HUP
    (setsid sh -c 'while :; do date +%s.%N > new && mv new beat; sleep 0.01; done' &)
    echo up; while :; do sleep 0.05; done";

/// Seconds on the wall clock.
fn beat(pod: &Pod) -> Option<f64> {
    fs::read_to_string(pod.file("beat")).ok()?.trim().parse().ok()
}

/// The Lease's renewTime is when the last renewal that was stored was sent: L later somebody else may lead.
#[test]
fn an_app_that_ignores_its_stop_signal_is_dead_before_anyone_else_may_lead() {
    const LEASE: f64 = 15.0;
    let trial = |place: &[&str]| {
        let api = Api::released();
        let mut pod = Pod::start_through(place, &api, "ann", &json!({}), DEAF);
        pod.says("up");
        wait("a beat", || beat(&pod).is_some());
        api.be_silent(true);
        pod.says("the lease is running out");
        assert_eq!(pod.code(), 137, "{}", pod.text());
        let last = beat(&pod).expect("a beat");
        let renewed = api.lease()["spec"]["renewTime"].as_str().expect("a time").to_owned();
        let renewed: Timestamp = renewed.parse().expect("a time");
        let ran = last - renewed.as_duration().as_secs_f64();
        eprintln!("the app last ran {ran:.3} s after the last renewal");
        assert!(ran < LEASE, "it ran {ran} s after the last renewal");
        // Nothing is to happen, so there is nothing to wait for but the time.
        thread::sleep(Duration::from_millis(200));
        assert_eq!(beat(&pod), Some(last), "somebody still runs");
    };
    thread::scope(|scope| {
        for place in places() {
            scope.spawn(move || trial(place));
        }
    });
}
