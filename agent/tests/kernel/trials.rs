//! The trials.

use std::{fs, os::unix::fs::MetadataExt, time::Duration};

use leader_agent::clock;
use libtest_mimic::{Failed, Trial};
use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};

use crate::{
    beside,
    cgroup::Cgroup,
    debugger, limits, mutants, quota, shared,
    stage::{Place, Play, Stage, children, me, unshare},
    terminal, through, tree,
};

/// From the deadline, or the agent's death, to the last instruction of the app: the margin's kill chain (docs/safety.md).
pub(crate) const KILL_CHAIN: Duration = Duration::from_millis(1250);
/// A process group of its own, a session of its own, and one whose parent is gone, all deaf to TERM.
pub(crate) const FAMILY: &str = r#"trap "" TERM; (setsid "$0" beat 1 &); setsid "$0" beat 2 & exec "$0" beat 0"#;

/// A trial by name.
pub(crate) type Named = (&'static str, fn(Place));

/// In every place.
const EVERYWHERE: [Named; 12] = [
    ("the_agents_death_is_everyones", agents_death),
    ("a_stopped_agent_and_its_app_are_dead_by_the_deadline", stopped_agent),
    ("the_stub_keeps_the_deadline_by_itself", stub_alone),
    ("stub_and_agent_have_the_shortest_slice_and_the_app_has_not", slices),
    ("a_forced_loss_is_the_end_of_everything", forced_loss),
    ("a_deadline_that_is_moved_or_dropped_does_not_come", moved_deadline),
    ("gone_is_when_the_last_orphan_ended", orphans),
    ("a_killed_family_is_gone_and_the_next_app_starts", kill_and_start_again),
    ("no_app_without_a_deadline", unarmed),
    ("the_lock_is_held_as_long_as_stub_or_agent_live", lock),
    ("no_timer_is_a_start_error", no_timer),
    ("a_forced_loss_does_not_wait_for_anyone_to_read_why", unread),
];

/// Where the stub is PID 1, started by root.
const AS_ROOT: [Named; 5] = [
    ("the_stub_is_small_and_locked_in_memory", small_stub),
    ("stub_and_agent_are_not_to_be_traced_by_their_user", not_dumpable),
    ("a_stopped_stub_does_not_save_the_agent", stopped_stub),
    ("a_process_that_may_not_be_killed_ends_everything", not_permitted),
    ("the_deadline_is_one_of_the_boot_clock_whatever_its_offset", time_namespace),
];

/// Where it is not, started by root.
const BESIDE_AS_ROOT: [Named; 1] = [("the_stub_waits_with_the_lock_for_what_it_may_not_kill", waiting_stub)];

/// Where it is not.
const BESIDE: [Named; 1] = [("a_killed_stub_takes_agent_and_first_process_along", killed_stub)];

/// A trial in a place; left out where it is not possible.
pub(crate) fn named(place: Place, possible: bool, (name, run): Named) -> Trial {
    let prefix = match place {
        Place::Namespace => "pid1",
        Place::Beside => "beside",
        Place::Shared => "shared",
    };
    Trial::test(format!("{prefix}::{name}"), move || {
        run(place);
        Ok::<(), Failed>(())
    })
    .with_ignored_flag(!possible)
}

/// The places, and whether they are possible.
fn places(namespaces: bool) -> [(Place, bool); 3] {
    [(Place::Namespace, namespaces), (Place::Beside, true), (Place::Shared, namespaces)]
}

/// The trials that are to run one after the other, and after all others.
pub(crate) fn alone() -> Vec<Trial> {
    let namespaces = unshare().is_some();
    let mut trials = quota::trials(namespaces && geteuid().is_root());
    for (place, possible) in places(namespaces) {
        trials.extend(tree::ALONE.map(|trial| named(place, possible, trial)));
    }
    trials.extend(mutants::alone(namespaces));
    trials
}

/// All trials that can run beside others; those that need what this machine or user does not have are ignored, and it is said why.
pub(crate) fn all() -> Vec<Trial> {
    let namespaces = unshare().is_some();
    let root = namespaces && geteuid().is_root();
    if !namespaces {
        eprintln!("left out: the trials in a PID namespace, because `unshare --pid` is not permitted here");
    }
    if !root {
        eprintln!("left out: the trials that need root");
    }
    for controller in ["cpu", "freezer", "memory", "pids"] {
        if root && Cgroup::new(controller).is_none() {
            eprintln!("left out: the trials with a control group of `{controller}` in its first version");
        }
    }
    let mut trials = Vec::new();
    for (place, possible) in places(namespaces) {
        let everywhere =
            EVERYWHERE.into_iter().chain(through::EVERYWHERE).chain(beside::EVERYWHERE).chain(tree::EVERYWHERE);
        trials.extend(everywhere.map(|trial| named(place, possible, trial)));
        let as_root = tree::EVERYWHERE_AS_ROOT.into_iter().chain(debugger::EVERYWHERE_AS_ROOT);
        trials.extend(as_root.map(|trial| named(place, root, trial)));
    }
    let as_root = AS_ROOT.into_iter().chain(tree::AS_ROOT);
    trials.extend(as_root.map(|trial| named(Place::Namespace, root, trial)));
    trials.extend(BESIDE_AS_ROOT.map(|trial| named(Place::Beside, root, trial)));
    trials.extend(BESIDE.into_iter().map(|trial| named(Place::Beside, true, trial)));
    for (place, possible) in [(Place::Beside, true), (Place::Namespace, root)] {
        trials.extend(terminal::SOMEWHERE.map(|trial| named(place, possible, trial)));
    }
    trials.extend(shared::SHARED.map(|trial| named(Place::Shared, namespaces, trial)));
    for place in [Place::Namespace, Place::Beside] {
        trials.extend(tree::bombs(place, root));
        trials.extend(limits::trials(place, root));
    }
    trials.extend(mutants::trials(namespaces, root));
    trials
}

/// Plays with the family of three as the app.
pub(crate) fn family(stage: Stage, script: &str) -> Play {
    stage.play(script, &["sh", "-c", FAMILY, me()])
}

/// At least `count` processes ran, and everyone was dead soon after `moment`; returns how soon.
pub(crate) fn dead_after(play: &Play, moment: Duration, count: usize) -> Duration {
    /// A process that lives has been seen to by then.
    const LATER: Duration = Duration::from_millis(200);
    // Whoever lives on for good is found without waiting for that.
    play.wait("time", || (play.is_over() || clock::boot() > moment + KILL_CHAIN + LATER).then_some(()));
    let check = |last: Vec<Duration>| {
        assert!(last.len() >= count, "{} processes ran", last.len());
        let worst = last.into_iter().max().expect("one").saturating_sub(moment);
        assert!(worst < KILL_CHAIN, "one ran for {worst:?} after it should have been dead");
        worst
    };
    check(play.beats());
    check(play.all_dead())
}

pub(crate) fn agents_death(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 killed");
    let late = dead_after(&play, play.moment("moment"), 3);
    eprintln!("{place:?}: {late:?} from the agent's death to the last instruction");
    assert_eq!(play.code(), 137);
}

fn stopped_agent(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 arm=1500 stopped");
    let stopped = play.moment("moment");
    let deadline = play.deadline();
    let late = dead_after(&play, deadline, 3);
    eprintln!("{place:?}: {late:?} from the deadline to the last instruction");
    assert!(play.beats().into_iter().max() > Some(stopped), "the app outlived the agent's stop");
    assert!(clock::boot() >= deadline, "nothing ended before the deadline");
    assert_eq!(play.code(), 137);
}

/// The agent's own timer is a minute away: what ends everything is the stub.
pub(crate) fn stub_alone(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 stub-only=300 follow end");
    dead_after(&play, play.moment("moment"), 3);
    assert_eq!(play.code(), 137);
}

fn forced_loss(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 die");
    let late = dead_after(&play, play.moment("moment"), 3);
    eprintln!("{place:?}: {late:?} from the forced loss to the last instruction");
    assert_eq!(play.code(), 137);
}

fn moved_deadline(place: Place) {
    let script = "arm=2000 start arm=60000 past-deadline=2300 arm=2000 kill disarm past-deadline=2300";
    let mut play = Stage::new(place).play(script, &["sleep", "60"]);
    play.all_dead();
    assert_eq!(play.text().matches("survived").count(), 2);
    assert_eq!(play.code(), 0);
}

pub(crate) fn orphans(place: Place) {
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

/// Nobody reads what the agent says last, and there is no room for it.
pub(crate) fn unread(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 full-stderr die");
    dead_after(&play, play.moment("moment"), 3);
    assert_eq!(play.code(), 137);
}

/// The boot clock of a container may be set off, as `unshare --time` does: everything that counts on it sees the same.
fn time_namespace(place: Place) {
    let stage = Stage::new(place).through(&["unshare", "--time", "--boottime", "1000000"]);
    let play = family(stage, "arm=60000 start beats=3 arm=700 stopped");
    let deadline = play.deadline();
    assert!(deadline > clock::boot() + Duration::from_hours(250), "the clock is not set off");
    let late = play.all_dead().into_iter().max().expect("three").saturating_sub(deadline);
    assert!(late < KILL_CHAIN, "one ran for {late:?} after the deadline");
}

pub(crate) fn unarmed(place: Place) {
    let mut play = Stage::new(place).play("start", &["true"]);
    assert_eq!(play.code(), 137, "{}", play.text());
    assert!(play.word("refused").contains("not armed"));
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

pub(crate) fn stopped_stub(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 go arm=700 follow end");
    play.word("ready");
    let (stub, agent) = (play.stub(), play.agent());
    kill_process(stub, Signal::STOP).expect("stopped");
    play.write("\n");
    // Killed by its own timer, it stays as a zombie, because the stub cannot reap it.
    play.wait("the agent's death", || {
        let status = fs::read_to_string(format!("/proc/{}/status", agent.as_raw_nonzero())).unwrap_or_default();
        status.contains("State:\tZ").then_some(())
    });
    assert!(clock::boot() >= play.deadline());
    kill_process(stub, Signal::CONT).expect("continued");
    play.all_dead();
    assert_eq!(play.code(), 137);
}

/// A root process without the capability KILL, and an app of another user.
pub(crate) const WITHOUT_KILL: [&str; 3] = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"];
const OTHER_USER: [&str; 3] = ["sh", "-c", "exec setpriv --reuid=12345 --clear-groups sh -c 'echo up; exec sleep 60'"];

/// The agent cannot end the app; the namespace's end does.
pub(crate) fn not_permitted(place: Place) {
    let stage = Stage::new(place).through(&WITHOUT_KILL);
    let mut play = stage.play("arm=60000 start past-deadline=300 kill", &OTHER_USER);
    assert_eq!(play.code(), 137, "{}", play.text());
    assert!(play.word("denied").contains("EPERM"), "{}", play.text());
    play.all_dead();
}

/// There is no namespace to end: the stub stays, and nobody reclaims beside a living app.
pub(crate) fn waiting_stub(place: Place) {
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
