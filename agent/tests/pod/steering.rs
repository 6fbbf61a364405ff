//! Leadership that people move by annotations of the Lease, and that an agent gives away because its app is not ready.

use std::{fs, time::Instant};

use leader_agent::{
    lease::record::Record,
    names::{self, env},
    timing::PREFERENCE_WAIT,
};
use serde_json::{Value, json};

use crate::{
    api::Api,
    pod::{Pod, wait},
};

const APP: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done";

fn annotation(api: &Api, key: &str) -> Value {
    api.lease()["metadata"]["annotations"][key].clone()
}

/// Asks the present holder to give leadership away, to `to` where that is given.
pub(crate) fn ask_to_step_down(api: &Api, to: Option<&str>) {
    api.edit(|lease| {
        let record = Record::parse(lease.clone()).expect("a Lease");
        let annotations = &mut lease["metadata"]["annotations"];
        annotations[names::STEP_DOWN] = json!(record.term_name().expect("a holder"));
        if let Some(to) = to {
            annotations[names::TRANSFER_TO] = json!(to);
        }
    });
}

#[test]
fn who_is_asked_gives_leadership_away_and_stands_by() {
    for to in [None, Some("ben"), Some("ben_pod-uid_app")] {
        let api = Api::released();
        let ann = Pod::start(&api, "ann", &json!({}), APP);
        ann.says("up");
        let ben = Pod::start(&api, "ben", &json!({}), APP);
        ben.says("another candidate leads");
        ask_to_step_down(&api, to);
        ann.says("asked to give leadership to another one");
        ben.says("up");
        ann.says("another candidate leads");
        assert_eq!(api.holder(), "ben_pod-uid_app");
        let left = (annotation(&api, names::STEP_DOWN), annotation(&api, names::TRANSFER_TO));
        assert_eq!(left, (Value::Null, Value::Null), "what was asked of one term says nothing to the next");
        assert_eq!(ann.request("GET /livez").0, 200);
        assert_eq!(ann.text().matches("up\n").count(), 1, "{}", ann.text());
    }
}

/// Its lease is renewed all the while: the stop grace, here 1.3 s, is for a lease that is being lost.
#[test]
fn an_app_that_people_stop_has_the_pods_grace_period() {
    let slow = "trap 'sleep 3; echo ended; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    for (grace, ends) in [(30, true), (2, false)] {
        let api = Api::released();
        let fields = json!({ "leaseDuration": "5s", "terminationGrace": grace });
        let pod = Pod::start(&api, "ann", &fields, slow);
        pod.says("up");
        let before = api.writes();
        ask_to_step_down(&api, None);
        pod.says("released the Lease");
        assert_eq!(pod.text().contains("ended\n"), ends, "{}", pod.text());
        assert!(api.writes() >= before + 3, "it was renewed, and released");
    }
}

#[test]
fn a_request_of_an_earlier_term_is_none() {
    let api = Api::released();
    let pod = Pod::start(&api, "ann", &json!({}), APP);
    pod.says("up");
    ask_to_step_down(&api, None);
    let first = annotation(&api, names::STEP_DOWN);
    // Nobody else is there: the same pod takes it up again, in another term.
    wait("another term", || pod.text().matches("up\n").count() == 2);
    api.edit(|lease| lease["metadata"]["annotations"][names::STEP_DOWN] = first);
    let before = api.writes();
    wait("three renewals", || api.writes() >= before + 3);
    assert_eq!(pod.text().matches("stopping the application").count(), 1, "{}", pod.text());
}

#[test]
fn a_leader_that_is_not_ready_gives_way_once_a_standby_answers() {
    let fields = json!({
        "unhealthyStepDown": "5s",
        "probes": { "readiness": { "exec": { "command": ["test", "-e", "ready"] }, "periodSeconds": 1 } },
    });
    let api = Api::released();
    let ann = Pod::start(&api, "ann", &fields, APP);
    ann.says("up");
    ann.touch("ready");
    ann.passes("readiness");
    fs::remove_file(ann.file("ready")).expect("removed");
    let began = Instant::now();
    // A result that is fresh answers once more.
    wait("readiness fails", || ann.ask("readiness").0 == 503);
    // The kubelet asks all the time.
    wait("it asks for a successor", || {
        assert_eq!(ann.ask("readiness").0, 503);
        annotation(&api, names::SUCCESSOR_WANTED).is_string()
    });
    assert!(began.elapsed().as_secs() >= 4, "{:?}", began.elapsed());
    let before = api.writes();
    wait("it goes on while nobody answers", || api.writes() >= before + 3);
    assert_eq!(api.holder(), "ann_pod-uid_app");

    let ben = Pod::start(&api, "ben", &fields, APP);
    ben.says("up");
    ann.says("was not ready for too long");
    ann.says("another candidate leads");
    let lease = Record::parse(api.lease()).expect("a Lease");
    assert!(lease.annotation(names::GIVEN_UP).is_some_and(|term| term.contains("/ann_pod-uid_app/")));
    assert_eq!((lease.wants_successor(), lease.annotation(names::SUCCESSOR)), (false, None));
}

#[test]
fn a_candidate_in_another_place_leaves_a_released_lease_to_others_for_a_second() {
    let api = Api::released();
    let began = Instant::now();
    let pod = Pod::start_prepared(&[], &api, "ann", &json!({ "prefer": "zone=a" }), APP, |_, command| {
        command.env(env::ZONE, "b");
    });
    pod.says("up");
    assert!(began.elapsed() >= PREFERENCE_WAIT, "{:?}", began.elapsed());
}
