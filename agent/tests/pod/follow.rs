//! Followers: containers that run and stop with the leader's app, and are never left behind it.

use std::{
    fs,
    io::Read,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use leader_agent::names::{self, env};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    api::Api,
    pod::{Pod, wait},
    signals::places,
    steering::ask_to_step_down,
};

const AGENT: &str = env!("CARGO_BIN_EXE_leader-agent");
/// Of agents of which no renewal is waited for.
const LONG_LEASE: &str = "1m";
const APP: &str = "trap 'echo told; exit 0' TERM; echo up; until test -e leave; do sleep 0.05; done; exit 3";
/// A follower that takes its time to stop.
const SIDE: &str = "trap 'sleep 1; echo side ended; exit 0' TERM; echo side up $LEADER_FENCING_TOKEN $LEADER_IDENTITY; \
                    until test -e side-leave; do sleep 0.05; done; exit 4";
const LIMIT: Duration = Duration::from_secs(40);

/// The follower's container.
struct Side {
    child: Child,
    text: Arc<Mutex<String>>,
}

impl Side {
    fn start(pod: &Pod, place: &[&str], app: &str) -> Self {
        let folder = pod.file("");
        let mut child = Command::new("env")
            .arg("--default-signal")
            .args(place)
            .args([AGENT, "run", "--", "sh", "-c", app])
            .env(env::RECORD, record().to_string())
            .env(env::POD_NAME, "ann")
            .env(env::POD_UID, "pod-uid")
            .env(env::CONTAINER, "side")
            .env(env::STATE_DIR, &folder)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let text = Arc::new(Mutex::new(String::new()));
        copy(child.stdout.take().expect("a pipe"), &text);
        copy(child.stderr.take().expect("a pipe"), &text);
        Self { child, text }
    }

    fn text(&self) -> String {
        self.text.lock().expect("a lock").clone()
    }

    /// Stopped, its agent neither ends nor reports.
    fn stop_agent(&self) {
        let stub = self.child.id();
        let children = fs::read_to_string(format!("/proc/{stub}/task/{stub}/children")).expect("its children");
        let agent = Pid::from_raw(children.trim().parse().expect("one child")).expect("an id");
        kill_process(agent, Signal::STOP).expect("sent");
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a status").is_some()
    }

    #[track_caller]
    fn says(&self, what: &str) {
        wait(&format!("`{what}` in {}", self.text()), || self.text().contains(what));
    }

    #[track_caller]
    fn code(&mut self) -> i32 {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status.code().unwrap_or_default();
            }
            assert!(began.elapsed() < LIMIT, "it does not end:\n{}", self.text());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = Pid::from_raw(self.child.id().cast_signed()).expect("an id");
            let _ = kill_process(pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn copy(mut from: impl Read + Send + 'static, to: &Arc<Mutex<String>>) {
    let to = Arc::clone(to);
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut piece) {
            to.lock().expect("a lock").push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    });
}

fn record() -> Value {
    json!({ "version": 1, "id": "billing", "container": "app", "follow": ["side"], "followers": { "side": {} }, "original": {} })
}

fn start(api: &Api, lease: &str) -> Pod {
    Pod::start(api, "ann", &json!({ "leaseDuration": lease, "follow": ["side"] }), APP)
}

/// How often a follower's command was started.
fn starts(side: &Side) -> usize {
    side.text().matches("side up").count()
}

#[test]
fn it_runs_and_stops_with_the_app_and_the_lease_is_not_released_before() {
    for place in places() {
        let api = Api::held();
        let pod = start(&api, LONG_LEASE);
        let mut side = Side::start(&pod, place, SIDE);
        pod.says("a follower is there");
        assert_eq!(starts(&side), 0, "beside a standby nothing runs");
        api.edit(|object| {
            object["metadata"]["annotations"][names::RELEASED] = json!("uid1/ghost/0/2026-11-18T11:06:40.120000Z");
            object["metadata"]["annotations"].as_object_mut().expect("some").remove(names::HOLD);
            object["spec"] = json!({ "leaseTransitions": 0, "leaseDurationSeconds": 15 });
        });
        for term in 1..=2 {
            wait("the follower's start", || starts(&side) == term);
            assert!(side.text().contains("ann_pod-uid_app"), "{}", side.text());
            api.hold();
            wait("the release", || {
                let ended = side.text().matches("side ended").count();
                let released = api.holder().is_empty();
                assert!(!released || ended == term, "released, and the follower runs: {}", side.text());
                released
            });
            if term == 1 {
                api.edit(|object| {
                    drop(object["metadata"]["annotations"].as_object_mut().expect("some").remove(names::HOLD));
                });
            }
        }
        let pid = Pid::from_raw(side.child.id().cast_signed()).expect("an id");
        if place.is_empty() {
            kill_process(pid, Signal::TERM).expect("sent");
            assert_eq!(side.code(), 0, "{}", side.text());
        }
    }
}

#[test]
fn one_that_ends_by_itself_ends_its_container_and_runs_again_with_the_next() {
    let api = Api::released();
    let pod = start(&api, LONG_LEASE);
    let mut side = Side::start(&pod, &[], SIDE);
    side.says("side up");
    fs::write(pod.file("side-leave"), []).expect("a file");
    assert_eq!(side.code(), 4, "{}", side.text());
    fs::remove_file(pod.file("side-leave")).expect("removed");
    let again = Side::start(&pod, &[], SIDE);
    again.says("side up");
    assert!(!pod.text().contains("told"), "{}", pod.text());
    assert_eq!(api.holder(), "ann_pod-uid_app");
}

#[test]
fn the_app_that_ends_takes_its_followers_with_it_before_leadership_goes() {
    let api = Api::released();
    let mut pod = start(&api, LONG_LEASE);
    let side = Side::start(&pod, &[], SIDE);
    side.says("side up");
    pod.touch("leave");
    assert_eq!(pod.code(), 3, "{}", pod.text());
    // It had its time.
    side.says("side ended");
    assert!(api.holder().is_empty());
}

#[test]
fn it_dies_with_the_leaders_agent() {
    for place in places() {
        let api = Api::released();
        let mut pod = start(&api, LONG_LEASE);
        let mut side = Side::start(&pod, place, "trap '' TERM; echo side up; while :; do sleep 0.05; done");
        side.says("side up");
        pod.kill_agent();
        assert_eq!(pod.code(), 137, "{}", pod.text());
        assert_eq!(side.code(), 137, "{place:?}: {}", side.text());
    }
}

/// As the kubelet would give it: the pod's grace period, and the stop grace where that is longer.
#[test]
fn at_a_stop_that_people_ask_for_it_has_as_much_time_as_the_app() {
    let slow = "trap 'sleep 2; echo side ended; exit 0' TERM; echo side up; while :; do sleep 0.05; done";
    // The stop grace is 1.3 s, and 4 s.
    for (lease, grace, ends) in [("5s", 10, true), ("15s", 1, true), ("5s", 1, false)] {
        let api = Api::released();
        let fields = json!({ "leaseDuration": lease, "follow": ["side"], "terminationGrace": grace });
        let pod = Pod::start(&api, "ann", &fields, APP);
        let side = Side::start(&pod, &[], slow);
        side.says("side up");
        api.hold();
        pod.says("released the Lease");
        assert_eq!(side.text().contains("side ended"), ends, "{lease}, {grace}: {}", side.text());
    }
}

/// Whoever does not say that it has ended is taken for running.
#[test]
fn while_nobody_knows_of_its_end_the_lease_is_not_released() {
    let api = Api::released();
    let fields = json!({ "leaseDuration": "10s", "follow": ["side"], "terminationGrace": 1 });
    let mut pod = Pod::start(&api, "ann", &fields, APP);
    let side = Side::start(&pod, &[], "trap '' TERM; echo side up; exec sleep 600");
    side.says("side up");
    side.stop_agent();
    api.hold();
    // Killed in vain after the grace, and a second later everything is given up, but not the Lease.
    assert_eq!(pod.code(), 137, "{}", pod.text());
    assert_eq!(api.holder(), "ann_pod-uid_app");
}

/// The container that is started again knows of the follower only that it may run: it gives its term back no sooner than that is over, and
/// is not started again and again meanwhile.
#[test]
fn a_container_that_is_started_again_does_not_give_its_term_away_beside_the_follower_of_before() {
    let Some(&place) = places().iter().find(|place| !place.is_empty()) else { return };
    let api = Api::released();
    let fields = json!({ "leaseDuration": "10s", "follow": ["side"], "terminationGrace": 1 });
    let mut pod = Pod::start_through(place, &api, "ann", &fields, APP);
    let mut side = Side::start(&pod, &[], "trap '' TERM; echo side up; exec sleep 600");
    side.says("side up");
    side.stop_agent();
    ask_to_step_down(&api, None);
    assert_eq!(pod.code(), 137, "{}", pod.text());
    let again = pod.again(place, &api, "ann", &fields, APP);
    let mut runs = true;
    wait("the release", || {
        let released = api.holder().is_empty();
        // In this order: it may end between the two.
        runs &= !side.has_ended();
        assert!(!(released && runs), "released, and the follower runs: {}", again.text());
        released
    });
    assert!(!again.text().contains("up\n"), "{}", again.text());
}

/// Its container's CPU limit is another one than the leader's.
#[test]
fn a_follower_with_a_small_cpu_limit_is_dead_before_its_leader_has_to_be() {
    const STARVED: [&str; 5] = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        "mkdir limits && echo 10000 100000 > limits/cpu.max && mount --bind limits /sys/fs/cgroup && shift && exec \"$@\"",
    ];
    let tried = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        return eprintln!("left out, because `unshare --mount` is not permitted here");
    }
    let api = Api::released();
    let pod = start(&api, "15s");
    let place = [&STARVED[..], &["sh", "--"]].concat();
    let mut side = Side::start(&pod, &place, "trap '' TERM; echo side up; while :; do sleep 0.05; done");
    side.says("side up");
    api.be_silent(true);
    let mut latest = 0.0_f64;
    wait("its end", || {
        let (_, state) = pod.request("GET /leader");
        let state: Value = serde_json::from_str(&state).expect("JSON");
        latest = latest.max(state["believe_until"].as_f64().unwrap_or_default());
        side.has_ended()
    });
    let ended = leader_agent::clock::boot().as_secs_f64();
    assert_eq!(side.code(), 137, "{}", side.text());
    // The difference of the two margins is 2.75 s.
    assert!(ended < latest - 1.75, "it ended at {ended}, its leader at {latest}");
}

#[test]
fn without_renewals_both_are_dead_by_the_same_deadline() {
    let api = Api::released();
    let mut pod = start(&api, "5s");
    let mut side = Side::start(&pod, &[], "trap '' TERM; echo side up; while :; do sleep 0.05; done");
    side.says("side up");
    api.be_silent(true);
    let silent = Instant::now();
    assert_eq!(side.code(), 137, "{}", side.text());
    assert!(silent.elapsed() < Duration::from_secs(5), "{:?}", silent.elapsed());
    assert_eq!(pod.code(), 137, "{}", pod.text());
}
