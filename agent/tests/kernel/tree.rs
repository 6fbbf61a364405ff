//! Trials of trees that are hard to find and end: each is stopped in place, dies with the agent, and dies by the deadline.

use libtest_mimic::Trial;
use rustix::process::{Signal, kill_process};

use crate::{
    cgroup::Cgroup,
    stage::{Place, Play, Stage, descendants, me},
    trials::{KILL_CHAIN, Named, WITHOUT_KILL, dead_after, family, named},
};

/// Two processes of which the first thread has ended; one of them in a session of its own.
const HEADLESS: &str = r#"(setsid "$0" headless 1 &); exec "$0" headless 0"#;
/// Two processes of another user; one of them in a session of its own.
const OTHER_USER: &str = r#"
    (setsid setpriv --reuid=12345 --clear-groups "$0" beat 1 &); exec setpriv --reuid=12345 --clear-groups "$0" beat 0"#;
/// A process that is deaf to the signal with which eight others flood the stub: more than one stub can read, whoever has how many
/// processors.
const FLOODED: &str = r#"trap "" 40; for slot in 1 2 3 4 5 6 7 8; do "$0" flood $slot & done; exec "$0" beat 0"#;
/// Lets so few signals wait that other processes of the same user have room for theirs (the kernel counts them by user), and so many
/// that the stub needs long to read them.
const ENOUGH_SIGNALS: [&str; 2] = ["prlimit", "--sigpending=50000"];
/// Hides what may not be looked into from everybody but root, and goes on as another user.
const HIDING: &str =
    "mount -o remount,hidepid=2 /proc && exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
/// So many processes may a bomb make, stub and agent included.
const BOMB_LIMIT: &str = "500";

/// In every place.
pub(crate) const EVERYWHERE: [Named; 10] = [
    ("a_chain_of_forks_is_stopped_in_place", chain_in_place),
    ("a_chain_of_forks_dies_with_the_agent", |place| with_agent(Stage::new(place), &[me(), "chain", "0"], 1)),
    ("a_chain_of_forks_dies_by_the_deadline", |place| by_deadline(Stage::new(place), &[me(), "chain", "0"], 1)),
    ("a_process_without_its_first_thread_is_stopped_in_place", |place| in_place(Stage::new(place), &headless(), 2)),
    ("a_process_without_its_first_thread_dies_with_the_agent", without_first_thread),
    ("a_process_without_its_first_thread_dies_by_the_deadline", |place| by_deadline(Stage::new(place), &headless(), 2)),
    ("an_app_that_traces_itself_is_stopped_in_place", |place| in_place(Stage::new(place), &[me(), "tracer", "0"], 2)),
    ("an_app_that_traces_itself_dies_with_the_agent", |place| with_agent(Stage::new(place), &[me(), "tracer", "0"], 2)),
    ("a_stopped_app_is_stopped_in_place", stopped_in_place),
    ("a_stopped_app_dies_by_the_deadline", stopped_by_deadline),
];

/// In every place, started by root.
pub(crate) const EVERYWHERE_AS_ROOT: [Named; 3] = [
    ("an_app_of_another_user_is_stopped_in_place", |place| in_place(Stage::new(place), &other_user(), 2)),
    ("an_app_of_another_user_dies_with_the_agent", |place| with_agent(Stage::new(place), &other_user(), 2)),
    ("an_app_of_another_user_dies_by_the_deadline", |place| by_deadline(Stage::new(place), &other_user(), 2)),
];

/// Where the stub is PID 1, started by root.
pub(crate) const AS_ROOT: [Named; 2] = [
    ("an_app_of_another_user_that_may_not_be_killed_dies_by_the_deadline", not_permitted),
    ("what_proc_does_not_show_is_not_gone", hidden),
];

/// In every place, one after the other: while one floods, no other agent of this limit can start.
pub(crate) const ALONE: [Named; 2] = [
    ("a_stub_that_is_flooded_with_signals_keeps_the_deadline", flooded),
    ("a_stub_that_is_flooded_with_signals_ends_with_the_agent", |place| {
        let mut play = flood(place, "killed");
        dead_after(&play, play.moment("moment"), 9);
        assert_eq!(play.code(), 137);
    }),
];

/// Those that need a control group.
pub(crate) fn bombs(place: Place, possible: bool) -> Vec<Trial> {
    let possible = possible && Cgroup::new("pids").is_some();
    let bombs: [Named; 2] =
        [("a_fork_bomb_is_stopped_in_place", bomb_in_place), ("a_fork_bomb_dies_by_the_deadline", bomb_by_deadline)];
    bombs.map(|bomb| named(place, possible, bomb)).into()
}

fn headless() -> [&'static str; 4] {
    ["sh", "-c", HEADLESS, me()]
}

fn flood(place: Place, end: &str) -> Play {
    let script = format!("few-signals=100 arm=60000 start beats=9 {end}");
    Stage::new(place).through(&ENOUGH_SIGNALS).play(&script, &["sh", "-c", FLOODED, me()])
}

pub(crate) fn flooded(place: Place) {
    let mut play = flood(place, "arm=700 stopped");
    dead_after(&play, play.deadline(), 9);
    assert_eq!(play.code(), 137);
}

fn other_user() -> [&'static str; 4] {
    ["sh", "-c", OTHER_USER, me()]
}

/// Stopped in place, the app is gone when the last of `count` processes is, and not earlier.
fn in_place(stage: Stage, app: &[&str], count: usize) {
    let script = format!("arm=60000 start beats={count} past-deadline=50 kill disarm past-deadline=100 end");
    gone_in_place(&mut stage.play(&script, app), count);
}

fn gone_in_place(play: &mut Play, count: usize) {
    let gone = play.moment("gone");
    let last = play.all_dead();
    assert!(last.len() >= count, "{} processes ran", last.len());
    assert!(last.into_iter().max() < Some(gone), "nothing ran after the last one was gone");
}

fn with_agent(stage: Stage, app: &[&str], count: usize) {
    let mut play = stage.play(&format!("arm=60000 start beats={count} killed"), app);
    dead_after(&play, play.moment("moment"), count);
    assert_eq!(play.code(), 137);
}

fn by_deadline(stage: Stage, app: &[&str], count: usize) {
    let mut play = stage.play(&format!("arm=60000 start beats={count} arm=700 stopped"), app);
    dead_after(&play, play.deadline(), count);
    assert_eq!(play.code(), 137);
}

/// Five chains, one after the other.
fn chain_in_place(place: Place) {
    let script = "arm=60000 start beats=1 past-deadline=50 kill disarm ".repeat(5) + "past-deadline=100 end";
    let mut play = Stage::new(place).play(&script, &[me(), "chain", "0"]);
    play.wait("five ends", || (play.text().matches("gone ").count() == 5).then_some(()));
    gone_in_place(&mut play, 1);
}

pub(crate) fn without_first_thread(place: Place) {
    with_agent(Stage::new(place), &headless(), 2);
}

fn stopped_app(place: Place, script: &str) -> Play {
    let mut play = family(Stage::new(place), script);
    play.word("ready");
    for process in descendants(play.agent()) {
        kill_process(process, Signal::STOP).expect("stopped");
    }
    play.write("\n");
    play
}

fn stopped_in_place(place: Place) {
    gone_in_place(&mut stopped_app(place, "arm=60000 start beats=3 go kill disarm past-deadline=100 end"), 3);
}

fn stopped_by_deadline(place: Place) {
    let play = stopped_app(place, "arm=60000 start beats=3 go arm=700 stopped");
    dead_after(&play, play.deadline(), 3);
}

fn not_permitted(place: Place) {
    by_deadline(Stage::new(place).through(&WITHOUT_KILL), &other_user(), 2);
}

/// The walk through /proc finds nothing, and `wait()` knows better: the app is not gone before the deadline ends it.
pub(crate) fn hidden(place: Place) {
    let stage = Stage::new(place).through(&["sh", "-c", HIDING, "sh"]);
    let play = stage.play("arm=60000 start beats=1 arm=700 kill disarm", &[me(), "hidden", "0"]);
    play.wait("an end", || (play.is_over() || play.text().contains("gone ")).then_some(()));
    assert!(!play.text().contains("gone "), "taken for gone while it lived");
    dead_after(&play, play.deadline(), 1);
}

/// Most of the processes that the limit allows.
const BOMB: usize = 400;

fn bomb_in_place(place: Place) {
    let group = Cgroup::new("pids").expect("a control group");
    group.write("pids.max", BOMB_LIMIT);
    in_place(Stage::new(place).through(&group.entrance()), &[me(), "bomb"], BOMB);
}

fn bomb_by_deadline(place: Place) {
    let group = Cgroup::new("pids").expect("a control group");
    group.write("pids.max", BOMB_LIMIT);
    let play = Stage::new(place)
        .through(&group.entrance())
        .play(&format!("arm=60000 start beats={BOMB} arm=700 stopped"), &[me(), "bomb"]);
    let late = dead_after(&play, play.deadline(), BOMB);
    eprintln!("{place:?}: {late:?} from the deadline to the last instruction of a fork bomb (at most {KILL_CHAIN:?})");
}
