//! The terminal: what the app reads, writes and is sent by a keyboard.

use crate::{
    stage::{Place, Play, Stage, me, unshare},
    trials::Named,
};

/// What a keyboard sends for SIGINT.
const CONTROL_C: &str = "\u{3}";
/// What a keyboard sends for SIGQUIT.
const CONTROL_BACKSLASH: &str = "\u{1c}";
/// What a keyboard sends for SIGTSTP.
const CONTROL_Z: &str = "\u{1a}";

/// Where the terminal can be had.
pub(crate) const SOMEWHERE: [Named; 2] =
    [("the_terminal_is_the_apps", terminal), ("an_interactive_shell_controls_its_jobs", jobs)];

/// `script` gives the process under test a terminal; as PID 1 it leads the session, as a container runtime has it.
fn run(place: Place, words: &str, app: &str) -> Play {
    let entrance = match place {
        Place::Beside => String::new(),
        Place::Namespace | Place::Shared => format!("{} setsid --ctty ", unshare().expect("a namespace").join(" ")),
    };
    // `script` hands the command to a shell, and one that stays beside the process under test would get the keyboard's signals too.
    let command = format!("exec {entrance}{} agent {words} -- sh -c '{app}'", me());
    // What `play` adds after the command is dropped by the shell.
    let in_a_terminal = ["sh", "-c", "exec script --quiet --return --command \"$0\" /dev/null", &command];
    let play = Stage::new(Place::Beside).through(&in_a_terminal).play("", &[]);
    play.word("ready");
    play
}

/// The app reads from it, Ctrl-C ends the app and not us, and once it is gone the keyboard's signals reach the agent, each once.
fn terminal(place: Place) {
    let mut play = run(place, "arm=60000 start follow disarm end", "echo ready; read line; echo answer $line; exit 4");
    play.write("hello\n");
    assert_eq!(play.code(), 4);
    assert_eq!(play.word("answer").trim(), "hello");

    let mut play = run(place, "arm=60000 start follow disarm end", "echo ready; exec sleep 60");
    play.write(CONTROL_C);
    assert_eq!(play.code(), 130, "{}", play.text());

    let mut play = run(place, "arm=60000 start follow disarm listen", "echo ready");
    play.word("gone");
    play.write(CONTROL_C);
    play.wait("SIGINT", || play.text().contains("signal 2\r").then_some(()));
    play.write(CONTROL_BACKSLASH);
    assert_eq!(play.code(), 0);
    assert_eq!(play.text().matches("signal 2\r").count(), 1, "{}", play.text());
}

/// What is typed is shown as well, so that no word that is waited for stands in it as it is. The job beats while it runs.
fn jobs(place: Place) {
    let shows = |what, play: &Play| play.wait(what, || play.text().contains(what).then_some(()));
    let beats_on = |play: &Play| {
        let last = play.beats();
        play.wait("a beat", || (play.beats() > last).then_some(()));
    };
    let shell = "echo ready; exec bash --norc --noprofile --noediting -i";
    let mut play = run(place, "arm=60000 start follow disarm end", shell);
    play.write(&format!("'{}' beat 0\n", me()));
    beats_on(&play);
    play.write(CONTROL_Z);
    shows("Stopped", &play);
    play.write("sleep 60 & echo; jobs; kill %2; wait %2; fg %1\n");
    beats_on(&play);
    shows("Running", &play);
    play.write(CONTROL_C);
    play.write("echo job-en\"\"ded $?\n");
    shows("job-ended 130", &play);
    play.write("exit 7\n");
    assert_eq!(play.code(), 7, "{}", play.text());
}
