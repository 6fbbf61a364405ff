//! Probes on standby and leader.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, TcpListener},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    api::Api,
    pod::{Pod, wait},
};

const APP: &str = "echo up; exec sleep 600";

fn exec(words: &str) -> Value {
    json!({ "command": ["sh", "-c", words] })
}

#[test]
fn a_standby_passes_and_is_ready_once_it_has_read_its_lease_and_ever_after() {
    let api = Api::held();
    api.be_silent(true);
    let fields = json!({ "probes": {
        "liveness": { "exec": exec("exit 1") },
        "readiness": { "exec": exec("exit 1"), "timeoutSeconds": 2 },
        "startup": { "exec": exec("exit 1") },
    } });
    let pod = Pod::start(&api, "ann", &fields, APP);
    pod.says("standing by");
    assert_eq!((pod.ask("liveness").0, pod.ask("startup").0), (200, 200));
    let held = || {
        let began = Instant::now();
        let (status, reason) = pod.ask("readiness");
        assert_eq!((status, reason.contains("has not read its Lease")), (503, true), "{reason}");
        began.elapsed()
    };
    // Held back, and answered in time for whoever waits two seconds: the fastest of three, because a busy machine adds its own time.
    let held = [held(), held(), held()];
    assert!(held.iter().all(|held| *held > Duration::from_millis(1700)), "{held:?}");
    assert!(held.iter().any(|held| *held < Duration::from_millis(1950)), "{held:?}");

    let answer = std::thread::scope(|scope| {
        let asking = scope.spawn(|| pod.ask("readiness"));
        api.be_silent(false);
        asking.join().expect("an answer")
    });
    assert_eq!(answer, (200, "standing by".to_owned()));
    pod.says("another candidate leads");
    api.be_silent(true);
    assert_eq!(pod.ask("readiness").0, 200);
    assert!(!pod.text().contains("up"), "{}", pod.text());
    // A standby's questions are no news.
    assert!(!pod.text().contains("probe"), "{}", pod.text());
}

#[test]
fn a_leader_is_asked_itself_and_the_log_tells_each_change_once() {
    let api = Api::released();
    let fields = json!({ "probes": {
        "liveness": { "exec": exec("echo \"$LEADER_ID is sick\" >&2; test ! -e sick") },
        "readiness": { "exec": exec("test -e ready") },
    } });
    let pod = Pod::start(&api, "ann", &fields, APP);
    pod.says("up");
    assert_eq!(pod.ask("liveness"), (200, "ok".to_owned()));
    assert_eq!(pod.ask("readiness"), (503, "exit code 1:".to_owned()));
    pod.touch("ready");
    pod.passes("readiness");
    pod.touch("sick");
    wait("liveness fails", || pod.ask("liveness") == (503, "exit code 1: billing is sick".to_owned()));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(600));
        assert_eq!(pod.ask("liveness").0, 503);
    }
    fs::remove_file(pod.file("sick")).expect("removed");
    pod.passes("liveness");
    pod.says("the application's probe passes probe=\"liveness\"");
    assert_eq!(pod.text().matches("the application's probe fails probe=\"liveness\"").count(), 1, "{}", pod.text());
    assert_eq!(pod.text().matches("the application's probe passes probe=\"liveness\"").count(), 1, "{}", pod.text());
}

#[test]
fn the_subcommands_ask_over_the_socket_where_there_is_no_port() {
    let api = Api::released();
    let fields = json!({ "port": null, "probes": { "readiness": { "exec": exec("echo not yet; test -e ready") } } });
    let pod = Pod::start(&api, "ann", &fields, APP);
    pod.says("up");
    let asked = |name| {
        let output = pod.run(&["probe", name]);
        (output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    assert_eq!(asked("liveness"), (Some(0), String::new()));
    assert_eq!(asked("readiness"), (Some(1), "exit code 1: not yet".to_owned()));
    pod.touch("ready");
    wait("readiness passes", || asked("readiness") == (Some(0), String::new()));
    drop(pod);
    let nobody = tempfile::tempdir().expect("a folder");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_leader-agent"))
        .args(["probe", "liveness", "--state-dir"])
        .arg(nobody.path())
        .output()
        .expect("run");
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && reason.contains("no agent answers"), "{reason}");
}

#[test]
fn a_probe_that_hangs_is_killed_after_its_timeout_and_runs_once_at_a_time() {
    let api = Api::released();
    let fields = json!({ "probes": { "liveness": { "exec": exec("echo $$ >> pids; sleep 600 & sleep 600") } } });
    let pod = Pod::start(&api, "ann", &fields, APP);
    pod.says("up");
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| pod.ask("liveness"))).collect();
        for asking in asking {
            let (status, reason) = asking.join().expect("an answer");
            assert!(status == 503 && reason.contains("timeout: not done within 1s"), "{status} {reason}");
        }
    });
    let pids = fs::read_to_string(pod.file("pids")).expect("the pids");
    assert_eq!(pids.lines().count(), 1, "{pids}");
    // The whole group, and nothing is left unreaped.
    let group = pids.trim().to_owned();
    wait("the end of the probe's group", || {
        let output = std::process::Command::new("pgrep").args(["-g", &group]).output().expect("pgrep");
        output.stdout.is_empty()
    });
    assert!(!fs::exists(format!("/proc/{group}")).expect("/proc"), "a zombie");
}

#[test]
fn a_promotion_runs_post_start_then_startup_and_then_asks_the_rest() {
    let api = Api::released();
    let fields = json!({
        "hooks": { "postStart": { "exec": exec("echo hook; while ! test -e hooked; do sleep 0.05; done; echo hooked >> order") } },
        "probes": {
            "startup": { "exec": exec("echo startup >> order; test -e started"), "periodSeconds": 1 },
            "liveness": { "exec": exec("echo liveness >> order; exit 1") },
            "readiness": { "exec": exec("echo readiness >> order") },
        },
    });
    let pod = Pod::start(&api, "ann", &fields, APP);
    pod.says("up");
    let order = || fs::read_to_string(pod.file("order")).unwrap_or_default();
    assert_eq!((pod.ask("liveness").0, pod.ask("startup").0), (200, 200));
    assert_eq!(pod.ask("readiness"), (503, "the postStart hook has not passed yet".to_owned()));
    assert_eq!(order(), "");
    pod.touch("hooked");
    wait("two startup probes", || order() == "hooked\nstartup\nstartup\n");
    assert_eq!((pod.ask("liveness").0, pod.ask("startup").0), (200, 200));
    assert_eq!(pod.ask("readiness"), (503, "the startup probe has not passed yet".to_owned()));
    pod.touch("started");
    pod.passes("readiness");
    assert_eq!((pod.ask("liveness").0, pod.ask("startup").0), (503, 200));
    let order = order();
    assert!(order.trim_start_matches("hooked\n").trim_start_matches("startup\n") == "readiness\nliveness\n", "{order}");
}

/// The app hears its stop signal, the Lease is released, and another pod leads.
fn gives_leadership_away(fields: &Value, says: &str) {
    let api = Api::released();
    let app = "trap 'echo stopping; exit 0' QUIT; echo up | tee up; while :; do sleep 0.05; done";
    let mut pod = Pod::start(&api, "ann", fields, app);
    pod.says("up");
    let other = Pod::start(&api, "ben", &json!({}), "echo better luck; exec sleep 600");
    pod.says(says);
    pod.says("stopping");
    assert_eq!(pod.code(), 1, "the app's own code is 0: {}", pod.text());
    other.says("better luck");
    assert!(pod.text().contains("released the Lease"), "{}", pod.text());
    assert!(api.holder().starts_with("ben_"), "{}", api.holder());
}

#[test]
fn an_app_whose_startup_probe_fails_for_good_gives_leadership_away() {
    let startup = json!({ "exec": exec("echo no luck; exit 7"), "periodSeconds": 1, "failureThreshold": 2 });
    let fields = json!({ "stopSignal": "SIGQUIT", "probes": { "startup": startup } });
    gives_leadership_away(&fields, "the startup probe failed 2 times, at last: exit code 7: no luck");
}

#[test]
fn an_app_whose_post_start_hook_fails_gives_leadership_away() {
    let hook = exec("until test -e up; do sleep 0.05; done; exit 3");
    let fields = json!({ "stopSignal": "SIGQUIT", "hooks": { "postStart": { "exec": hook } } });
    gives_leadership_away(&fields, "the postStart hook failed: exit code 3");
}

#[test]
fn an_app_that_fails_to_start_and_ignores_its_stop_signal_is_killed() {
    let api = Api::released();
    let fields = json!({ "hooks": { "postStart": { "exec": exec("until test -e up; do sleep 0.05; done; exit 1") } } });
    let mut pod = Pod::start(&api, "ann", &fields, "trap '' TERM; echo up | tee up; while :; do sleep 0.05; done");
    pod.says("up");
    assert_eq!(pod.code(), 137, "{}", pod.text());
    assert_eq!(api.holder(), "", "released, not run out");
}

#[test]
fn what_cannot_be_carried_out_does_not_restart_the_app() {
    let api = Api::released();
    let missing = json!({ "exec": { "command": ["/no/such/probe"] } });
    let fields = json!({ "probes": { "liveness": missing, "readiness": missing } });
    let pod = Pod::start(&api, "ann", &fields, APP);
    pod.says("up");
    let (status, reason) = pod.ask("liveness");
    assert!(status == 200 && reason.contains("/no/such/probe"), "{status} {reason}");
    assert_eq!(pod.ask("readiness").0, 503);
}

#[test]
fn what_fails_because_the_app_is_stopped_is_no_failed_start() {
    let fails = exec("touch begun; until test -e stopping; do sleep 0.05; done; exit 1");
    for fields in [
        json!({ "hooks": { "postStart": { "exec": fails } } }),
        json!({ "probes": { "startup": { "exec": fails, "failureThreshold": 1, "timeoutSeconds": 60 } } }),
    ] {
        let app = "trap 'touch stopping; sleep 1; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let api = Api::released();
        let mut pod = Pod::start(&api, "ann", &fields, app);
        pod.says("up");
        wait("what watches the start", || pod.file("begun").exists());
        pod.signal(15);
        assert_eq!(pod.code(), 0, "{}", pod.text());
        assert!(!pod.text().contains("did not start"), "{}", pod.text());
    }
}

#[test]
fn an_app_that_answers_without_end_holds_up_no_renewal() {
    const LASTS: Duration = Duration::from_secs(8);
    let app = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = app.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in app.incoming() {
            let mut stream = stream.expect("a connection");
            // Go on, go on, go on: never the answer itself.
            let pieces = "HTTP/1.1 100 Continue\r\n\r\n".repeat(4096);
            std::thread::spawn(move || while stream.write_all(pieces.as_bytes()).is_ok() {});
        }
    });
    let api = Api::released();
    let fields = json!({ "probes": { "liveness": { "httpGet": { "port": port }, "timeoutSeconds": 20 } } });
    let pod = Pod::start(&api, "ann", &fields, APP);
    pod.says("up");
    let before = api.writes() - 1;
    std::thread::scope(|scope| {
        scope.spawn(|| pod.ask("liveness"));
        std::thread::sleep(LASTS);
        let gap = api.longest_gap(before);
        assert!(gap < Duration::from_secs(5), "{gap:?} between two renewals");
    });
}
