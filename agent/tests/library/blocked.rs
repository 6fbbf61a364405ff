//! A leader that blocks its thread cannot be dropped: its process is killed at the deadline, unless it asked to be spared by name.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::{fs::FileExt, process::ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use leader_agent::{
    clock,
    election::{ElectionError, Leadership, Outcome},
};
use libtest_mimic::Trial;

use crate::{
    api::Api,
    link::Link,
    stage::{SHORT, address, candidate, program, trial, until},
};

const ROLE: &str = "LEADER_LIBRARY_TEST_ROLE";
const SERVER: &str = "LEADER_LIBRARY_TEST_SERVER";
const BEATS: &str = "LEADER_LIBRARY_TEST_BEATS";
/// Who is killed at its deadline.
const GUARDED: &str = "guarded";
/// Who is not.
const SPARED: &str = "spared";
/// The exit code of a program that was told that it has lost leadership.
const LOST: u8 = 3;
/// A number as wide as any of 64 bits.
const WIDTH: usize = 20;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_leader_that_blocks_is_killed_before_another_one_leads", killed),
        trial("a_leader_that_asked_for_it_by_name_outlives_its_deadline", spared),
    ]
}

/// The part that this process plays, where it is not the test.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Leads, and blocks.
pub(crate) fn play(role: &str) -> ExitCode {
    let server = std::env::var(SERVER).expect("a server");
    let beats = OpenOptions::new().write(true).open(std::env::var(BEATS).expect("a path")).expect("a file");
    // Its identity is POD_NAME.
    let mut election = program(&server).lease_duration(SHORT);
    if role == SPARED {
        election = election.dangerously_without_kill_timer();
    }
    let spared = role == SPARED;
    let lead = |leadership: Leadership| {
        let beats = &beats;
        async move {
            let first = leadership.believe_until().expect("leading");
            loop {
                beat(beats);
                thread::sleep(Duration::from_millis(1));
                // Longer than a renewal that comes in spite of all could move the deadline.
                if spared && clock::boot() > leadership.believe_until().unwrap_or(first) + Duration::from_millis(1500) {
                    break;
                }
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    match runtime.block_on(election.run(lead)) {
        Err(ElectionError::Lost(_)) => ExitCode::from(LOST),
        outcome => panic!("{outcome:?}"),
    }
}

/// Writes down that this process still runs.
fn beat(file: &File) {
    let now = format!("{:0WIDTH$}", clock::boot().as_nanos());
    file.write_all_at(now.as_bytes(), 0).expect("written");
}

fn last_beat(path: &Path) -> Duration {
    let text = fs::read_to_string(path).expect("a file");
    text.parse().map_or(Duration::ZERO, Duration::from_nanos)
}

/// The program, ended with the test.
struct Program(Child);

impl Program {
    fn start(role: &str, server: &str, beats: &Path) -> Self {
        File::create(beats).expect("a file");
        let child = Command::new(std::env::current_exe().expect("this test"))
            .env(ROLE, role)
            .env(SERVER, server)
            .env(BEATS, beats)
            .env("POD_NAME", "one")
            .stdin(Stdio::null())
            .spawn()
            .expect("started");
        Self(child)
    }

    async fn end(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.0.try_wait().expect("a status") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn killed() {
    let api = Api::released();
    let link = Link::to(&address(&api));
    let folder = tempfile::tempdir().expect("a folder");
    let beats = folder.path().join("beats");
    let mut program = Program::start(GUARDED, &link.address, &beats);
    until("the program leads", || !last_beat(&beats).is_zero()).await;
    assert_eq!(api.holder(), "one", "POD_NAME is the identity");
    link.cut(true);
    let rival = candidate("two", &address(&api)).lease_duration(SHORT);
    let outcome = rival.run(|_| std::future::ready(clock::boot())).await.unwrap();
    let Outcome::Finished(began) = outcome else { panic!("nobody stopped it") };
    let status = program.end().await;
    assert_eq!(status.signal(), Some(9), "{status}");
    let last = last_beat(&beats);
    assert!(last < began, "the program still ran {:?} after its rival had begun", last.saturating_sub(began));
    println!("killed {:?} before the rival began", began.saturating_sub(last));
}

async fn spared() {
    let api = Api::released();
    let link = Link::to(&address(&api));
    let folder = tempfile::tempdir().expect("a folder");
    let beats = folder.path().join("beats");
    let mut program = Program::start(SPARED, &link.address, &beats);
    until("the program leads", || !last_beat(&beats).is_zero()).await;
    link.cut(true);
    let status = program.end().await;
    assert_eq!(status.code(), Some(LOST.into()), "{status}");
}
