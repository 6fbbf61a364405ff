//! Trials with a debugger that holds a process and never waits for it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use leader_agent::clock;
use rustix::process::Pid;

use crate::{
    beats,
    stage::{Place, Play, Stage, descendants, me, state},
    trials::{KILL_CHAIN, Named, dead_after, family},
};

/// In every place, started by root, whom a process that is not dumpable does not keep from tracing it.
pub(crate) const EVERYWHERE_AS_ROOT: [Named; 5] = [
    ("a_debugger_on_the_agent_does_not_hold_up_the_deadline", agent_at_deadline),
    ("a_debugger_on_the_agent_does_not_hide_its_death", agents_death),
    ("a_debugger_on_the_stub_does_not_hold_up_a_stop_in_place", stub),
    ("a_debugger_on_the_stub_holds_up_a_forced_loss_no_longer_than_it_stays", stub_at_loss),
    ("a_debugger_on_the_app_keeps_it_from_being_gone_and_not_from_dying", app),
];

/// A debugger. It lets go when this value goes.
struct Debugger(Child);

impl Debugger {
    /// Holds a process, which goes on running until a signal is to be delivered to it; those that kill are never asked about.
    fn attach(process: Pid) -> Self {
        Self::start(process, "running")
    }

    /// Holds a process and stops it.
    fn stop(process: Pid) -> Self {
        let debugger = Self::start(process, "stopped");
        while state(process) != Some('t') {
            std::thread::sleep(Duration::from_millis(1));
        }
        debugger
    }

    fn start(process: Pid, how: &str) -> Self {
        let mut child = Command::new(me())
            .args(["debug", &process.as_raw_nonzero().to_string(), how])
            .env(beats::FILE, "none")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a debugger");
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        stdout.read_line(&mut line).expect("a line");
        assert_eq!(line, "tracing\n");
        Self(child)
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        self.0.stdin = None;
        let _ = self.0.wait();
    }
}

/// Nobody of the family ran when the kill chain was over, although the debugger stayed for longer.
fn dead_before(play: &Play, moment: Duration, debugger: Debugger) {
    const LONGER: Duration = Duration::from_millis(200);
    play.wait("the kill chain's length", || (clock::boot() > moment + KILL_CHAIN + LONGER).then_some(()));
    drop(debugger);
    dead_after(play, moment, 3);
}

/// The agent is stopped by a signal that the debugger does not look at, and dies of its own timer; `wait()` tells nobody.
pub(crate) fn agent_at_deadline(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 go arm=700 stopped");
    play.word("ready");
    let debugger = Debugger::attach(play.agent());
    play.write("\n");
    dead_before(&play, play.deadline(), debugger);
    assert_eq!(play.code(), 137);
}

pub(crate) fn agents_death(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 go killed");
    play.word("ready");
    let debugger = Debugger::attach(play.agent());
    play.write("\n");
    dead_before(&play, play.moment("moment"), debugger);
    assert_eq!(play.code(), 137);
}

fn stub(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 go kill disarm end");
    play.word("ready");
    let debugger = Debugger::stop(play.stub());
    play.write("\n");
    let gone = play.moment("gone");
    assert!(play.beats().into_iter().max() < Some(gone), "nothing ran after the last one was gone");
    drop(debugger);
    assert_eq!(play.code(), 137);
    play.all_dead();
}

/// A stated limit: while somebody holds the stub, nothing ends what the agent leaves behind but its own stop in place.
fn stub_at_loss(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 go die");
    play.word("ready");
    let (agent, debugger) = (play.agent(), Debugger::stop(play.stub()));
    play.write("\n");
    play.wait("the agent's death", || matches!(state(agent), None | Some('Z')).then_some(()));
    let moment = clock::boot();
    drop(debugger);
    dead_after(&play, moment, 3);
    assert_eq!(play.code(), 137);
}

fn app(place: Place) {
    let mut play = family(Stage::new(place), "arm=60000 start beats=3 go kill disarm past-deadline=100 end");
    play.word("ready");
    let held = descendants(play.agent());
    assert_eq!(held.len(), 3);
    let debuggers = held.iter().map(|process| Debugger::attach(*process)).collect::<Vec<_>>();
    play.write("\n");
    play.wait("their death", || held.iter().all(|process| state(*process) == Some('Z')).then_some(()));
    let last = play.beats().into_iter().max();
    // Nothing is to happen, so there is nothing to wait for but the time.
    std::thread::sleep(Duration::from_millis(100));
    assert!(!play.text().contains("gone "), "gone while wait() did not know of it");
    drop(debuggers);
    play.moment("gone");
    assert_eq!(play.code(), 137);
    assert_eq!(play.all_dead().into_iter().max(), last, "nothing ran after it was killed");
}
