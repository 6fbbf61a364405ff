//! Trials in a PID namespace that is not the container's own: others live in it, and the stub's end does not end it.

use rustix::process::{Signal, kill_process};

use crate::{
    stage::{Place, Stage, me},
    trials::{FAMILY, KILL_CHAIN, Named, family},
};

/// Where the first process is another one.
pub(crate) const SHARED: [Named; 3] = [
    ("a_forced_loss_leaves_strangers_alone", forced_loss),
    ("a_stop_in_place_leaves_strangers_alone", in_place),
    ("stub_and_agent_both_killed_take_the_first_process_along", both_killed),
];

/// Starts a process that belongs to nobody, and then what follows.
const STRANGER: &str = r#"(setsid "$0" beat 3 &); exec "$@""#;

fn beside_a_stranger(place: Place, script: &str) {
    let stage = Stage::new(place).through(&["sh", "-c", STRANGER, me()]);
    let mut play = stage.play(script, &["sh", "-c", FAMILY, me()]);
    let ended = play.moment("stub-ended");
    play.wait("the stranger's next beat", || (play.beats().get(3) > Some(&ended)).then_some(()));
    let ours = play.beats().into_iter().take(3).max();
    assert!(ours <= Some(ended), "one ran at {ours:?}, the stub ended at {ended:?}");
    assert_eq!(play.code(), 137);
}

fn forced_loss(place: Place) {
    beside_a_stranger(place, "arm=60000 start beats=4 die");
}

fn in_place(place: Place) {
    beside_a_stranger(place, "arm=60000 start beats=4 kill disarm end");
}

/// A stated limit: here only the first process is bound to die.
fn both_killed(place: Place) {
    let play = family(Stage::new(place).lingering(KILL_CHAIN * 2), "arm=60000 start beats=3 follow");
    play.wait("three processes", || (play.beats().len() == 3).then_some(()));
    let (stub, agent) = (play.stub(), play.agent());
    // The stub cannot act any more when the agent dies.
    kill_process(stub, Signal::STOP).expect("stopped");
    kill_process(agent, Signal::KILL).expect("killed");
    kill_process(stub, Signal::KILL).expect("killed");
    let ended = play.moment("stub-ended");
    play.wait("the namespace's end", || play.is_over().then_some(()));
    let first = play.beats()[0].saturating_sub(ended);
    assert!(first < KILL_CHAIN, "the first process ran for {first:?}");
}
