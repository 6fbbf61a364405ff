//! The local API: who leads, as it is told to those who ask and to those who watch.

use std::{
    cell::Cell,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, TcpStream},
    time::Duration,
};

use leader_agent::{api::routes::WATCHERS, clock};
use serde_json::{Value, json};

use crate::{
    api::{Api, NAMESPACE},
    pod::{Pod, wait},
};

const APP: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done";
const ANN: &str = "ann_pod-uid_app";

/// The lease's duration: a machine whose timers are late by some seconds does not step down.
const LEASE: Duration = Duration::from_secs(30);
/// After it was sent, nothing may be believed for longer than this: the margin is at least as much less.
const BELIEVED: Duration = LEASE.saturating_sub(Duration::from_millis(1500));

fn start(api: &Api, app: &str) -> Pod {
    Pod::start(api, "ann", &json!({ "leaseDuration": format!("{}s", LEASE.as_secs()) }), app)
}

fn leader(pod: &Pod) -> Value {
    let (status, text) = pod.request("GET /leader");
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).expect("JSON")
}

/// A client that watches.
struct Watcher(BufReader<TcpStream>);

impl Watcher {
    fn new(port: u16) -> Self {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("the agent listens");
        stream.set_read_timeout(Some(Duration::from_secs(40))).expect("set");
        stream.write_all(b"GET /leader?watch HTTP/1.1\r\nHost: me\r\n\r\n").expect("written");
        Self(BufReader::new(stream))
    }

    fn status(&mut self) -> u16 {
        let line = self.line().expect("a status");
        line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("no status: {line}"))
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.0.read_line(&mut line).expect("a line in time") > 0).then_some(line)
    }

    /// The next state; `None` at the end. Heads and lengths of chunks are passed over.
    fn state(&mut self) -> Option<Value> {
        loop {
            let line = self.line()?;
            if line.starts_with('{') {
                return Some(serde_json::from_str(&line).expect("JSON"));
            }
        }
    }

    /// The next state of which this is true.
    fn until(&mut self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        loop {
            let state = self.state().unwrap_or_else(|| panic!("the end before {what}"));
            if condition(&state) {
                return state;
            }
        }
    }
}

#[test]
fn a_standby_tells_who_leads_and_is_ready_once_it_knows() {
    let api = Api::held();
    api.be_silent(true);
    let pod = start(&api, APP);
    pod.says("standing by");
    assert_eq!(pod.request("GET /livez"), (200, "ok".to_owned()));
    assert_eq!(pod.request("GET /readyz").0, 503);
    assert_eq!(leader(&pod)["holder"], Value::Null);
    api.be_silent(false);
    wait("ready", || pod.request("GET /readyz") == (200, "ok".to_owned()));
    let expected = json!({ "id": "billing", "namespace": NAMESPACE, "identity": ANN, "leading": false, "holder": "ghost",
        "token": null, "believe_until": null });
    assert_eq!(leader(&pod), expected);
    api.be_silent(true);
    assert_eq!(pod.request("GET /readyz").0, 200);
    for path in ["/livez", "/readyz", "/leader", "/metrics"] {
        assert_eq!(pod.request(&format!("POST {path}")).0, 405, "{path}");
        assert_eq!(pod.request(&format!("GET {path}/")).0, 404, "{path}");
    }
}

#[test]
fn a_leader_tells_its_token_and_until_when_it_can_be_believed() {
    let api = Api::released();
    let pod = start(&api, "echo token $LEADER_FENCING_TOKEN.; sleep 600");
    pod.says("token ");
    wait("the news", || leader(&pod)["leading"] == true);
    let (first, last) = (leader(&pod), Cell::new(0.0));
    assert_eq!((&first["identity"], &first["holder"]), (&json!(ANN), &json!(ANN)));
    pod.says(&format!("token {}.", first["token"]));
    wait("renewals", || {
        let state = leader(&pod);
        let believe_until = state["believe_until"].as_f64().expect("a number");
        // A bound of safety: the renewal was sent before this moment.
        let latest = (clock::boot() + BELIEVED).as_secs_f64();
        assert!(believe_until <= latest, "{believe_until} is after {latest}");
        assert!(believe_until >= last.get(), "{believe_until} after {last:?}");
        last.set(believe_until);
        assert_eq!(state["token"], first["token"]);
        believe_until >= first["believe_until"].as_f64().expect("a number") + 10.0
    });
}

#[test]
fn who_watches_is_told_of_each_change_and_of_the_end() {
    let api = Api::held();
    let mut pod = start(&api, APP);
    pod.says("another candidate leads");
    let mut watcher = Watcher::new(pod.port);
    assert_eq!(watcher.status(), 200);
    let state = watcher.until("the holder", |state| state["holder"] == "ghost");
    assert_eq!((&state["leading"], &state["token"]), (&json!(false), &Value::Null));

    api.edit(|lease| {
        lease["spec"]["holderIdentity"] = json!("");
        lease["metadata"]["annotations"] = json!({ "leader.io/released": "uid1/ghost/0/2026-11-18T11:06:40.120000Z" });
    });
    let first = watcher.until("leadership", |state| state["leading"] == true);
    let next = watcher.until("a renewal", |state| state["believe_until"] != first["believe_until"]);
    assert!(next["believe_until"].as_f64() > first["believe_until"].as_f64(), "{first} {next}");
    assert_eq!(next["token"], first["token"]);
    pod.says("up");

    // Leadership is given up, and taken again: the same stream tells.
    api.hold();
    let state = watcher.until("the stop", |state| state["leading"] == false);
    assert_eq!((&state["token"], &state["believe_until"]), (&Value::Null, &Value::Null));
    pod.says("released the Lease");
    api.edit(|lease| lease["metadata"]["annotations"]["leader.io/hold"] = Value::Null);
    let second = watcher.until("leadership again", |state| state["leading"] == true);
    assert!(second["token"].as_u64() > first["token"].as_u64(), "{first} {second}");

    wait("the second app", || pod.text().matches("up\n").count() == 2);
    pod.signal(15);
    watcher.until("the stop", |state| state["leading"] == false);
    while let Some(state) = watcher.state() {
        assert_eq!(state["leading"], false);
    }
    assert_eq!(pod.code(), 0, "{}", pod.text());
}

#[test]
fn clients_that_never_read_are_bounded_and_hold_up_nobody() {
    let api = Api::released();
    let pod = start(&api, APP);
    pod.says("up");
    let before = api.writes();
    let mut idle: Vec<_> = (0..WATCHERS).map(|_| Watcher::new(pod.port)).collect();
    for watcher in &mut idle {
        assert_eq!(watcher.status(), 200);
    }
    assert_eq!(Watcher::new(pod.port).status(), 503);
    // Everybody else is answered as before, and the Lease is renewed.
    wait("three renewals", || {
        assert_eq!(leader(&pod)["leading"], true);
        assert_eq!(pod.ask("liveness").0, 200);
        api.writes() >= before + 3
    });
    // What they did not read is not kept for them, nor lost: the present state is there when they do.
    for mut watcher in idle {
        watcher.until("the newest state", |state| state["leading"] == true);
    }
    wait("room again", || Watcher::new(pod.port).status() == 200);
    assert_eq!(pod.text().matches("leading").count(), 1, "{}", pod.text());
}

#[test]
fn metrics_tell_what_happened() {
    let value = |pod: &Pod, start: &str| {
        let (status, text) = pod.request("GET /metrics");
        assert!(status == 200 && text.ends_with("# EOF"), "{status}: {text}");
        let line = text.lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    let api = Api::released();
    let pod = start(&api, APP);
    pod.says("up");
    wait("two renewals", || value(&pod, "leader_agent_renewals_total{id=\"billing\",result=\"stored\"}") >= Some(2.0));
    assert!(value(&pod, "leader_agent_renewal_duration_seconds_count{") >= Some(2.0));
    assert_eq!(value(&pod, "leader_agent_leading{"), Some(1.0));
    assert_eq!(value(&pod, "leader_agent_app_starts_total{"), Some(1.0));
    assert_eq!(value(&pod, "leader_agent_lease_transitions{"), Some(1.0));
    // A bound of safety, as above.
    let left = value(&pod, "leader_agent_deadline_remaining_seconds{").expect("a deadline");
    assert!(left > 0.0 && left <= BELIEVED.as_secs_f64(), "{left}");
    assert!(value(&pod, "leader_agent_margin_seconds{") >= Some(1.5));
    api.hold();
    pod.says("released the Lease");
    wait("the news", || value(&pod, "leader_agent_leading{") == Some(0.0));
    assert_eq!(value(&pod, "leader_agent_app_stops_total{id=\"billing\",reason=\"hold\"}"), Some(1.0));
    assert_eq!(value(&pod, "leader_agent_deadline_remaining_seconds{"), None);
}
