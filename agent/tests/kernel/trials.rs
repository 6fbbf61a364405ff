//! The trials.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use leader_agent::clock;
use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};

use crate::{
    beside,
    stage::{DEFAULT_SIGNALS, Place, Play, Stage, children, unshare},
};

/// From the deadline, or the agent's death, to the last instruction of the app: the margin's kill chain (design, section 6).
pub(crate) const KILL_CHAIN: Duration = Duration::from_millis(1250);
/// A process group of its own, a session of its own, and one whose parent is gone, all deaf to TERM.
const FAMILY: &str = r#"trap "" TERM; (setsid "$0" beat 1 &); setsid "$0" beat 2 & exec "$0" beat 0"#;

/// A trial by name.
pub(crate) type Named = (&'static str, fn(Place));

/// In every place.
const EVERYWHERE: [Named; 14] = [
    ("the_agents_death_is_everyones", agents_death),
    ("a_stopped_agent_and_its_app_are_dead_by_the_deadline", stopped_agent),
    ("the_stub_keeps_the_deadline_by_itself", stub_alone),
    ("stub_and_agent_have_the_shortest_slice_and_the_app_has_not", slices),
    ("a_forced_loss_is_the_end_of_everything", forced_loss),
    ("a_deadline_that_is_moved_or_dropped_does_not_come", moved_deadline),
    ("gone_is_when_the_last_orphan_ended", orphans),
    ("a_killed_family_is_gone_and_the_next_app_starts", kill_and_start_again),
    ("signals_are_forwarded", signals),
    ("exit_codes_are_the_apps", exit_codes),
    ("the_app_starts_as_if_it_were_alone", clean_start),
    ("no_app_without_a_deadline", unarmed),
    ("the_lock_is_held_as_long_as_stub_or_agent_live", lock),
    ("no_timer_is_a_start_error", no_timer),
];

/// Where the stub is PID 1, started by root.
const AS_ROOT: [Named; 4] = [
    ("the_stub_is_small_and_locked_in_memory", small_stub),
    ("stub_and_agent_are_not_to_be_traced_by_their_user", not_dumpable),
    ("a_stopped_stub_does_not_save_the_agent", stopped_stub),
    ("a_process_that_may_not_be_killed_ends_everything", not_permitted),
];

/// Where it is not, started by root.
const BESIDE_AS_ROOT: [Named; 1] = [("the_stub_waits_with_the_lock_for_what_it_may_not_kill", waiting_stub)];

/// Where it is not.
const BESIDE: [Named; 2] =
    [("a_killed_stub_takes_agent_and_first_process_along", killed_stub), ("the_terminal_is_the_apps", terminal)];

/// All trials; those that need what this machine or user does not have are ignored, and it is said why.
pub(crate) fn all() -> Vec<Trial> {
    let namespaces = unshare().is_some();
    let root = namespaces && geteuid().is_root();
    if !namespaces {
        eprintln!("left out: the trials in a PID namespace, because `unshare --pid` is not permitted here");
    }
    if !root {
        eprintln!("left out: the trials that need root");
    }
    let trial = |place: Place, possible: bool, (name, run): Named| {
        let prefix = if place == Place::Namespace { "pid1" } else { "beside" };
        Trial::test(format!("{prefix}::{name}"), move || {
            run(place);
            Ok::<(), Failed>(())
        })
        .with_ignored_flag(!possible)
    };
    let everywhere = EVERYWHERE.into_iter().chain(beside::EVERYWHERE);
    let namespace = everywhere.clone().map(|named| trial(Place::Namespace, namespaces, named));
    let as_root = AS_ROOT.into_iter().map(|named| trial(Place::Namespace, root, named));
    let beside = everywhere.chain(BESIDE).map(|named| trial(Place::Beside, true, named));
    let beside_as_root = BESIDE_AS_ROOT.into_iter().map(|named| trial(Place::Beside, root, named));
    namespace.chain(as_root).chain(beside).chain(beside_as_root).collect()
}

/// Plays with the family of three as the app.
fn family(stage: Stage, script: &str) -> Play {
    let me = std::env::current_exe().expect("a path");
    stage.play(script, &["sh", "-c", FAMILY, me.to_str().expect("a path")])
}

/// Everyone was dead soon after `moment`; returns how soon.
fn dead_after(play: &Play, moment: Duration) -> Duration {
    let last = play.all_dead();
    assert_eq!(last.len(), 3, "three processes ran");
    let worst = last.into_iter().max().expect("three").saturating_sub(moment);
    assert!(worst < KILL_CHAIN, "one ran for {worst:?} after it should have been dead");
    worst
}

fn agents_death(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 killed");
    let late = dead_after(&play, play.moment("moment"));
    eprintln!("{place:?}: {late:?} from the agent's death to the last instruction");
    assert_eq!(play.code(), 137);
}

fn stopped_agent(place: Place) {
    let mut play = family(Stage::new(place), "arm=1500 start beats=3 stopped");
    let deadline = play.moment("deadline");
    let late = dead_after(&play, deadline);
    eprintln!("{place:?}: {late:?} from the deadline to the last instruction");
    assert!(play.beats().into_iter().max() > Some(play.moment("moment")), "the app outlived the agent's stop");
    assert!(clock::boot() >= deadline, "nothing ended before the deadline");
    assert_eq!(play.code(), 137);
}

/// The agent's own timer is a minute away: what ends everything is the stub.
fn stub_alone(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 stub-only=300 follow end");
    dead_after(&play, play.moment("moment"));
    assert_eq!(play.code(), 137);
}

fn forced_loss(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 die");
    let late = dead_after(&play, play.moment("moment"));
    eprintln!("{place:?}: {late:?} from the forced loss to the last instruction");
    assert_eq!(play.code(), 137);
}

fn moved_deadline(place: Place) {
    let script = "arm=300 start arm=60000 past-deadline=600 arm=300 kill disarm past-deadline=600";
    let mut play = Stage::new(place).play(script, &["sleep", "60"]);
    play.all_dead();
    assert_eq!(play.text().matches("survived").count(), 2);
    assert_eq!(play.code(), 0);
}

fn orphans(place: Place) {
    let app = "(setsid sleep 1.5 &); exit 3";
    let mut play = Stage::new(place).play("arm=60000 start follow disarm end", &["sh", "-c", app]);
    assert_eq!(play.word("exited"), "3");
    let orphan = play.moment("gone").saturating_sub(play.moment("exited-at"));
    assert!(orphan > Duration::from_millis(200), "gone only {orphan:?} after the first process");
    assert_eq!(play.code(), 3);
}

fn kill_and_start_again(place: Place) {
    let script = "arm=60000 start beats=3 kill disarm arm=60000 start kill disarm end";
    let mut play = family(Stage::new(place), script);
    play.all_dead();
    assert_eq!(play.text().matches("gone ").count(), 2);
    assert_eq!(play.code(), 137, "the first process was killed");
}

/// All but KILL and STOP, which nobody can forward, and CHLD, which is about the receiver's own children.
fn signals(place: Place) {
    const CHILD: i32 = 17;
    const FIRST_REAL_TIME: i32 = 34;
    let forwarded: Vec<i32> =
        (1..=31).filter(|signal| ![9, CHILD, 19].contains(signal)).chain([FIRST_REAL_TIME]).collect();
    let list = forwarded.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let app = format!(
        "for s in {list}; do trap \"echo got-$s\" $s; done; echo ready; while :; do sleep 0.02 & wait $!; done"
    );
    let play = Stage::new(place).play("arm=60000 start follow end", &["bash", "-c", &app]);
    play.word("ready");
    let stub = play.stub().as_raw_nonzero().to_string();
    for signal in forwarded {
        let sent = std::process::Command::new("kill").arg(format!("-{signal}")).arg(&stub).status().expect("kill");
        assert!(sent.success(), "signal {signal} was not sent");
        play.word(&format!("got-{signal}"));
    }
    // Nothing is forwarded twice, and the app is still there to say so.
    for line in play.text().lines().filter(|line| line.starts_with("got-")) {
        assert_eq!(play.text().lines().filter(|other| *other == line).count(), 1, "{line}");
    }
    kill_process(play.agent(), Signal::KILL).expect("killed");
    play.all_dead();
}

fn exit_codes(place: Place) {
    let folder = tempfile::tempdir().expect("a folder");
    let text = folder.path().join("text");
    fs::write(&text, "no program").expect("a file");
    let text = text.to_str().expect("a path");
    let cases: [(&[&str], i32); 7] = [
        (&["true"], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["sh", "-c", "kill -TERM $$"], 143),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["no-such-command"], 127),
        (&["/no/such/command"], 127),
        (&[text], 126),
    ];
    for (command, code) in cases {
        let mut play = Stage::new(place).play("arm=60000 start follow disarm end", command);
        assert_eq!(play.code(), code, "{command:?}: {}", play.text());
        let started = !play.text().contains("not-started");
        assert_eq!(started, ![126, 127].contains(&code), "{command:?}: {}", play.text());
    }
}

/// The shell is bash because dash opens the signal mask by itself.
fn clean_start(place: Place) {
    let app = r#"
        echo signals $(grep -E "^Sig(Blk|Ign)" /proc/self/status)
        echo open $(ls /proc/self/fd)
        echo limits $(ulimit -a)
        echo id "${LEADER_ID-none}"
        echo token "$LEADER_FENCING_TOKEN"
        echo stdin $(cat)"#;
    let alone = std::process::Command::new(DEFAULT_SIGNALS[0])
        .args([DEFAULT_SIGNALS[1], "bash", "-c", app])
        .stdin(std::process::Stdio::null())
        .output();
    let alone = String::from_utf8(alone.expect("a shell").stdout).expect("text");
    let mut play = Stage::new(place).play("facts arm=60000 start follow disarm end", &["bash", "-c", app]);
    play.write("from the test\n");
    play.close_stdin();
    assert_eq!(play.code(), 0);
    for name in ["signals", "open", "limits"] {
        let line = alone.lines().find(|line| line.starts_with(name)).expect("a line");
        assert_eq!(format!("{name} {}", play.word(name)), line);
    }
    assert_eq!(play.word("id"), "none");
    assert_eq!(play.word("token"), "4711");
    assert_eq!(play.word("stdin"), "from the test");
    // In the stub's group it would hear the terminal's signals a second time.
    assert_eq!(play.word("own-group"), "true");
    assert_eq!(play.word("private"), (place == Place::Namespace).to_string());
}

fn unarmed(place: Place) {
    let mut play = Stage::new(place).play("start", &["true"]);
    assert!(play.word("refused").contains("not armed"));
    assert_eq!(play.code(), 137);
}

fn lock(place: Place) {
    let folder = tempfile::tempdir().expect("a folder");
    let second = || {
        let mut play = Stage::new(place).with_state(folder.path()).play("facts", &[]);
        play.code();
        play.word("lock")
    };
    let mut first = Stage::new(place).with_state(folder.path()).play("facts arm=60000 start follow end", &["cat"]);
    assert_eq!(first.word("lock"), "true");
    assert_eq!(second(), "false");
    first.close_stdin();
    assert_eq!(first.code(), 0);
    assert_eq!(second(), "true");
}

fn no_timer(place: Place) {
    let mut play = Stage::new(place).through(&["prlimit", "--sigpending=0:0"]).play("arm=1000", &[]);
    let error = play.word("error");
    assert!(error.contains("timer") && error.contains("ulimit -i"), "{error}");
    assert_eq!(play.code(), 2);
}

fn small_stub(place: Place) {
    /// The stub's share of the 3 MB that stub and agent may have for themselves.
    const PRIVATE_KB: u64 = 1024;
    let mut play = Stage::new(place).play("arm=60000 start follow disarm end", &["sh", "-c", "echo up; read line"]);
    play.word("up");
    let read = |file: &str| {
        fs::read_to_string(format!("/proc/{}/{file}", play.stub().as_raw_nonzero())).expect("the stub's memory")
    };
    let sum = |text: &str, prefix: &str| -> u64 {
        let lines = text.lines().filter(|line| line.starts_with(prefix));
        lines.map(|line| line.split_whitespace().nth(1).expect("a value").parse::<u64>().expect("kB")).sum()
    };
    let private = sum(&read("smaps_rollup"), "Private_");
    assert!(private <= PRIVATE_KB, "{private} kB are the stub's own");
    assert!(sum(&read("status"), "VmLck:") > 0, "{}", read("status"));
    play.write("\n");
    assert_eq!(play.code(), 0);
}

/// The kernel gives the /proc files of a process that must not be traced to root, whoever runs it.
fn not_dumpable(place: Place) {
    let stage = Stage::new(place).through(&["setpriv", "--reuid=65534", "--clear-groups"]);
    let mut play = stage.play("arm=60000 start follow disarm end", &["sh", "-c", "echo up; read line"]);
    play.word("up");
    let owner =
        |process: Pid| fs::metadata(format!("/proc/{}/environ", process.as_raw_nonzero())).expect("alive").uid();
    assert_eq!(owner(play.stub()), 0);
    assert_eq!(owner(play.agent()), 0);
    assert_eq!(owner(children(play.agent())[0]), 65534, "the app is its user's own");
    play.write("\n");
    assert_eq!(play.code(), 0);
}

/// Where the kernel tells: `se.slice` is in /proc/PID/sched since Linux 6.12, which is also the first to take one.
fn slices(place: Place) {
    let mut play = Stage::new(place).play("arm=60000 start follow disarm end", &["sh", "-c", "echo up; read line"]);
    play.word("up");
    let slice = |process: Pid| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/sched", process.as_raw_nonzero())).ok()?;
        text.lines().find(|line| line.starts_with("se.slice"))?.split_whitespace().last()?.parse().ok()
    };
    let ours = slice(Pid::from_raw(std::process::id().cast_signed()).expect("an id"));
    if ours.is_none() {
        eprintln!("left out: this kernel does not tell the slice of a process");
    } else {
        assert_eq!(slice(play.stub()), Some(100_000));
        assert_eq!(slice(play.agent()), Some(100_000));
        assert_eq!(slice(children(play.agent())[0]), ours);
    }
    play.write("\n");
    assert_eq!(play.code(), 0);
}

fn stopped_stub(place: Place) {
    let mut play = family(Stage::new(place), "arm=1500 start beats=3 follow end");
    play.wait("three processes", || (play.beats().len() == 3).then_some(()));
    let (stub, agent) = (play.stub(), play.agent());
    kill_process(stub, Signal::STOP).expect("stopped");
    // Killed by its own timer, it stays as a zombie, because the stub cannot reap it.
    play.wait("the agent's death", || {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.as_raw_nonzero())).unwrap_or_default();
        status.contains("State:\tZ").then_some(())
    });
    assert!(clock::boot() >= play.moment("deadline"));
    kill_process(stub, Signal::CONT).expect("continued");
    play.all_dead();
    assert_eq!(play.code(), 137);
}

/// A root process without the capability KILL, and an app of another user.
const WITHOUT_KILL: [&str; 3] = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
const OTHER_USER: [&str; 3] = ["sh", "-c", "exec setpriv --reuid=12345 --clear-groups sh -c 'echo up; exec sleep 60'"];

/// The agent cannot end the app; the namespace's end does.
fn not_permitted(place: Place) {
    let stage = Stage::new(place).through(&WITHOUT_KILL);
    let mut play = stage.play("arm=60000 start past-deadline=300 kill", &OTHER_USER);
    assert!(play.word("denied").contains("EPERM"), "{}", play.text());
    play.all_dead();
    assert_eq!(play.code(), 137);
}

/// There is no namespace to end: the stub stays, and nobody reclaims beside a living app.
fn waiting_stub(place: Place) {
    let folder = tempfile::tempdir().expect("a folder");
    let second = || {
        let mut play = Stage::new(place).with_state(folder.path()).play("facts", &[]);
        play.code();
        play.word("lock")
    };
    let stage = Stage::new(place).through(&WITHOUT_KILL).with_state(folder.path());
    let mut play = stage.play("arm=60000 start follow end", &OTHER_USER);
    play.word("up");
    let (stub, agent) = (play.stub(), play.agent());
    let app = children(agent)[0];
    kill_process(agent, Signal::KILL).expect("killed");
    play.wait("the app's coming to the stub", || children(stub).contains(&app).then_some(()));
    assert_eq!(second(), "false");
    kill_process(app, Signal::KILL).expect("killed");
    assert_eq!(play.code(), 137);
    assert_eq!(second(), "true");
}

fn killed_stub(place: Place) {
    let play = Stage::new(place).play("arm=60000 start follow end", &["sh", "-c", "echo up; exec sleep 60"]);
    play.word("up");
    let (agent, first) = (play.agent(), children(play.agent()));
    kill_process(play.stub(), Signal::KILL).expect("killed");
    play.all_dead();
    assert_eq!(first.len(), 1);
    let gone = |process: Pid| test_kill_process(process).is_err();
    play.wait("the death of both", || (gone(agent) && gone(first[0])).then_some(()));
}

/// `script` gives the process under test a terminal: the app reads from it, Ctrl-C ends the app and not us, and once it is
/// gone the keyboard's signals reach the agent, each once.
fn terminal(_: Place) {
    let me = std::env::current_exe().expect("a path");
    let run = |words: &str, app: &str| {
        // `script` hands the command to a shell, and one that stays beside the process under test would get the keyboard's signals too.
        let command = format!("exec {} agent {words} -- sh -c '{app}'", me.display());
        // What `play` adds after the command is dropped by the shell.
        let in_a_terminal = ["sh", "-c", "exec script --quiet --return --command \"$0\" /dev/null", &command];
        let play = Stage::new(Place::Beside).through(&in_a_terminal).play("", &[]);
        play.word("ready");
        play
    };
    let mut play = run("arm=60000 start follow disarm end", "echo ready; read line; echo answer $line; exit 4");
    play.write("hello\n");
    assert_eq!(play.code(), 4);
    assert_eq!(play.word("answer").trim(), "hello");

    let mut play = run("arm=60000 start follow disarm end", "echo ready; exec sleep 60");
    play.write(CONTROL_C);
    assert_eq!(play.code(), 130, "{}", play.text());

    let mut play = run("arm=60000 start follow disarm listen", "echo ready");
    play.word("gone");
    play.write(CONTROL_C);
    play.wait("SIGINT", || play.text().contains("signal 2\r").then_some(()));
    play.write(CONTROL_BACKSLASH);
    assert_eq!(play.code(), 0);
    assert_eq!(play.text().matches("signal 2\r").count(), 1, "{}", play.text());
}

/// What a keyboard sends for SIGINT.
const CONTROL_C: &str = "\u{3}";
/// What a keyboard sends for SIGQUIT.
const CONTROL_BACKSLASH: &str = "\u{1c}";
