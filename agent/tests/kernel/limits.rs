//! Trials with frozen control groups, and with a limit of memory.

use std::{fs, time::Duration};

use leader_agent::clock;
use libtest_mimic::Trial;
use rustix::process::Pid;

use crate::{
    cgroup::{Cgroup, Frozen},
    stage::{Place, Stage, me, state},
    trials::{Named, dead_after, family, named},
};

/// Where this machine has such control groups.
pub(crate) fn trials(place: Place, root: bool) -> Vec<Trial> {
    let frozen: [Named; 2] = [
        ("what_thaws_after_the_deadline_is_dead_soon", thawed),
        ("a_frozen_app_is_not_gone_and_does_not_run_again", frozen_app),
    ];
    let memory: [Named; 2] = [
        ("an_app_that_takes_too_much_memory_ends_and_the_agent_lives", hungry_app),
        ("an_agent_that_memory_is_taken_from_ends_with_everything", hungry_agent),
    ];
    let [freezer, limited] = ["freezer", "memory"].map(|controller| root && Cgroup::new(controller).is_some());
    let frozen = frozen.map(|trial| named(place, freezer, trial));
    frozen.into_iter().chain(memory.map(|trial| named(place, limited, trial))).collect()
}

/// A stated limit: how long what was frozen at its deadline runs once it is thawed.
fn thawed(place: Place) {
    let group = Cgroup::new("freezer").expect("a control group");
    let stage = Stage::new(place).through(&group.entrance());
    let mut play = family(stage, "arm=60000 start beats=3 arm=1000 follow end");
    let deadline = play.deadline();
    let frozen = Frozen::new(&group);
    play.wait("the deadline", || (clock::boot() > deadline + Duration::from_millis(200)).then_some(()));
    let moment = clock::boot();
    drop(frozen);
    let late = dead_after(&play, moment, 3);
    eprintln!("{place:?}: {late:?} from a thaw after the deadline to the last instruction");
    assert_eq!(play.code(), 137);
}

/// Killed while it is frozen, it is there until it is thawed, and executes nothing of its own any more.
fn frozen_app(place: Place) {
    let group = Cgroup::new("freezer").expect("a control group");
    let [binary, enter, folder] = group.entrance();
    let app = format!(r#"(setsid "$0" {enter} {folder} "$0" beat 1 &); exec "$0" {enter} {folder} "$0" beat 0"#);
    let script = "arm=60000 start beats=2 go kill disarm past-deadline=100 end";
    let mut play = Stage::new(place).play(script, &["sh", "-c", &app, binary]);
    play.word("ready");
    let frozen = Frozen::new(&group);
    let last = play.beats().into_iter().max();
    play.write("\n");
    // Nothing is to happen, so there is nothing to wait for but the time.
    std::thread::sleep(Duration::from_millis(300));
    assert!(!play.text().contains("gone "), "gone while it was frozen");
    drop(frozen);
    play.moment("gone");
    assert_eq!(play.code(), 137);
    assert_eq!(play.all_dead().into_iter().max(), last, "nothing ran after the thaw");
}

/// More than stub, agent and a beat take, and less than a machine has.
const MEMORY: &str = "134217728";

/// The kernel takes the largest process.
fn hungry_app(place: Place) {
    let group = Cgroup::new("memory").expect("a control group");
    group.write("memory.limit_in_bytes", MEMORY);
    let app = r#"(setsid "$0" beat 0 &); exec "$0" eat"#;
    let script = "arm=60000 start beats=1 exited kill disarm end";
    let mut play = Stage::new(place).through(&group.entrance()).play(script, &["sh", "-c", app, me()]);
    assert_eq!(play.word("exited"), "137");
    let gone = play.moment("gone");
    assert_eq!(play.code(), 137);
    assert!(play.all_dead().into_iter().max() < Some(gone), "nothing ran after the last one was gone");
}

/// Two processes, each smaller than what the agent is made to weigh.
const HUNGRY: &str = r#"(setsid "$0" beat 0 &); until [ -e "$1" ]; do sleep 0.01; done; "$0" eat & exec "$0" eat"#;

/// And where it takes the agent instead, that is a death of the agent like any other.
fn hungry_agent(place: Place) {
    let group = Cgroup::new("memory").expect("a control group");
    group.write("memory.limit_in_bytes", MEMORY);
    let folder = tempfile::tempdir().expect("a folder");
    let begin = folder.path().join("begin");
    let stage = Stage::new(place).through(&group.entrance());
    let command = ["sh", "-c", HUNGRY, me(), begin.to_str().expect("a path")];
    let mut play = stage.play("arm=60000 start beats=1 follow end", &command);
    play.wait("a beat", || (play.beats().len() == 1).then_some(()));
    let agent = play.agent();
    prefer(agent);
    fs::write(&begin, []).expect("a file");
    play.wait("the agent's death", || matches!(state(agent), None | Some('Z')).then_some(()));
    dead_after(&play, clock::boot(), 1);
    assert_eq!(play.code(), 137);
}

/// Makes a process the first that the kernel takes memory from.
fn prefer(process: Pid) {
    fs::write(format!("/proc/{}/oom_score_adj", process.as_raw_nonzero()), "1000").expect("set");
}
