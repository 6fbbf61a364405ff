//! Trials of what the app gets as if it were alone: signals, stdio, surroundings; and of what the world gets of it: its exit code.

use std::fs;

use rustix::process::{Signal, kill_process};

use crate::{
    stage::{DEFAULT_SIGNALS, Place, Stage},
    trials::Named,
};

/// In every place.
pub(crate) const EVERYWHERE: [Named; 4] = [
    ("signals_are_forwarded", signals),
    ("exit_codes_are_the_apps", exit_codes),
    ("the_app_starts_as_if_it_were_alone", clean_start),
    ("stdin_stdout_and_stderr_are_the_apps", stdio),
];

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
    let cases: [(&[&str], i32); 9] = [
        (&["true"], 0),
        (&["sh", "-c", "exit 3"], 3),
        (&["sh", "-c", "exit 255"], 255),
        (&["sh", "-c", "kill -ABRT $$"], 134),
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

/// The very same files, and more than a pipe holds through them.
fn stdio(place: Place) {
    const SIZE: usize = 3_000_000;
    let say = |who: &str| format!("echo {who} $(readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2)");
    let stage = Stage::new(place);
    let outer = format!("{}; exec \"$@\"", say("outer"));
    let app = format!("{}; tr x Y; echo; echo end", say("inner"));
    let mut play =
        stage.through(&["sh", "-c", &outer, "sh"]).play("arm=60000 start follow disarm end", &["sh", "-c", &app]);
    let outer = play.word("outer");
    assert_eq!((play.word("inner"), outer.split(' ').count()), (outer, 3));
    play.write(&"x".repeat(SIZE));
    play.close_stdin();
    play.word("end");
    assert_eq!(play.code(), 0);
    assert_eq!(play.text().matches('Y').count(), SIZE);
}
