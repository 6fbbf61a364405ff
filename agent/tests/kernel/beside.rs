//! Trials of what runs beside the app: exec probes and hooks.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    stage::{DEFAULT_SIGNALS, Place, Play, Stage},
    trials::{KILL_CHAIN, Named},
};

/// In every place.
pub(crate) const EVERYWHERE: [Named; 6] = [
    ("a_program_beside_the_app_ends_by_itself", ends),
    ("a_program_beside_the_app_has_its_environment_and_nobody_to_talk_to", surroundings),
    ("a_program_beside_the_app_that_is_given_up_is_killed_with_its_group", given_up),
    ("a_program_beside_the_app_is_killed_with_it", killed),
    ("a_program_beside_the_app_dies_by_the_deadline", deadline),
    ("no_program_is_started_beside_an_app_that_ends_or_without_a_deadline", refused),
];

/// Plays with an app that beats in slot 0 until it is killed. `$0` in `text` is this binary.
fn play(place: Place, script: &str, text: &str) -> Play {
    let me = std::env::current_exe().expect("a path");
    let me = me.to_str().expect("a path");
    Stage::new(place).with_beside(&text.replace("$0", &format!("'{me}'"))).play(script, &[me, "beat", "0"])
}

fn ends(place: Place) {
    for (text, end) in [
        ("echo out; echo err >&2; exit 3", "3 out err"),
        ("kill -KILL $$", "137 "),
        ("true", "0 "),
        // Somebody else still holds the pipe.
        ("echo soon; sleep 60 & exit 0", "0 soon"),
        // More than a pipe holds, and more than is kept.
        ("head -c 1000000 /dev/zero | tr '\\0' x; exit 4", &format!("4 {}", "x".repeat(1024))),
    ] {
        let mut play = play(place, "arm=60000 start beats=1 beside beside-ends=20000 kill disarm", text);
        assert_eq!(play.word("beside-ended"), end, "{text}");
        play.all_dead();
        assert_eq!(play.code(), 0, "the app was gone: {}", play.text());
    }
}

fn surroundings(place: Place) {
    let text = "echo \"$LEADER_FENCING_TOKEN ${LEADER_ID-none} in:$(cat) $(ls /proc/self/fd | tr '\\n' ' ')\"
        grep -E '^Sig(Blk|Ign)' /proc/self/status | tr '\\n\\t' '  '";
    let [env, default_signals] = DEFAULT_SIGNALS;
    let alone = Command::new(env)
        .args([default_signals, "sh", "-c", text])
        .env("LEADER_FENCING_TOKEN", "4711")
        .env_remove("LEADER_ID")
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let alone = String::from_utf8(alone.stdout).expect("text").trim().replace('\n', " ");
    let mut play = play(place, "arm=60000 start beside beside-ends=20000 kill disarm", text);
    assert_eq!(play.word("beside-ended"), format!("0 {alone}"));
    assert!(alone.starts_with("4711 none in: 0 1 "), "{alone}");
    assert_eq!(play.code(), 0);
}

fn given_up(place: Place) {
    let script = "arm=60000 start beside beats=3 beside-ends=300 past-deadline=2000 kill disarm";
    let play = play(place, script, "$0 beat 1 & $0 beat 2 & wait");
    let moment = play.moment("moment");
    let last = play.all_dead();
    assert!(last[0] > moment + Duration::from_millis(1500), "the app lives on");
    for last in &last[1..] {
        let late = last.saturating_sub(moment);
        assert!(late < KILL_CHAIN, "one ran for {late:?} after it was given up");
    }
}

fn killed(place: Place) {
    let text = r#"trap "" TERM; (setsid $0 beat 1 &); exec $0 beat 2"#;
    let mut play = play(place, "arm=60000 start beside beats=3 kill disarm past-deadline=100", text);
    let gone = play.moment("gone");
    let last = play.all_dead();
    assert_eq!(last.len(), 3);
    assert!(last.into_iter().max() < Some(gone), "nothing ran after the last one was gone");
    assert_eq!(play.code(), 0);
}

fn deadline(place: Place) {
    let text = r#"trap "" TERM; (setsid $0 beat 1 &); exec $0 beat 2"#;
    let mut play = play(place, "arm=1500 start beside beats=3 stopped", text);
    let deadline = play.moment("deadline");
    let last = play.all_dead();
    let late = last.into_iter().max().expect("three").saturating_sub(deadline);
    assert!(late < KILL_CHAIN, "one ran for {late:?} after the deadline");
    assert_eq!(play.code(), 137);
}

fn refused(place: Place) {
    let play = play(place, "arm=60000 start kill beside", "true");
    assert!(play.word("refused").contains("the app is ending"), "{}", play.text());
    let play = self::play(place, "arm=60000 start disarm beside kill", "true");
    assert!(play.word("refused").contains("not armed"), "{}", play.text());
    play.all_dead();
}
