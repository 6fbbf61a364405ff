//! A program that runs beside the app: an exec probe or hook. Part of the app's tree, killed and reaped with it.

use std::{convert::Infallible, io, os::fd::OwnedFd, time::Duration};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process, kill_process_group},
};
use tokio::{io::AsyncReadExt, net::unix::pipe, sync::oneshot, time::sleep};

use super::command::{StartError, failure};
use crate::sys::process::Stdio;

/// So much of the output is kept, for whoever asks why a probe failed.
const KEPT: usize = 1024;
/// So much is read at once.
const PIECE: usize = 64 * 1024;
/// The pause between two pieces: a program that never stops writing must not keep the agent busy.
const PAUSE: Duration = Duration::from_millis(1);
/// The code of a program whose end nobody told: everything was killed.
const KILLED: u8 = 137;

/// How such a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecEnd {
    /// Its exit code, 128+n when signal n ended it.
    pub code: u8,
    /// The beginning of what it wrote to stdout and stderr.
    pub output: String,
}

/// A running program beside the app. Dropped before its end, it is killed with its process group.
#[derive(Debug)]
pub struct Exec {
    pid: Pid,
    command: String,
    failure: OwnedFd,
    exit: oneshot::Receiver<u8>,
    ended: bool,
    output: pipe::Receiver,
}

/// The app's side of it: who is told when this process is reaped.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) exit: oneshot::Sender<u8>,
}

/// Nothing to read, and a pipe to write to; the other end of the pipe.
pub(super) fn stdio() -> io::Result<(Stdio, OwnedFd)> {
    let input = openat(CWD, c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let (read, output) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((Stdio { input, output }, read))
}

impl Exec {
    pub(super) fn new(pid: Pid, command: String, failure: OwnedFd, output: pipe::Receiver) -> (Self, Running) {
        let (sender, exit) = oneshot::channel();
        (Self { pid, command, failure, exit, ended: false, output }, Running { pid, exit: sender })
    }

    /// Waits for its end. Its output is read meanwhile, so that it does not wait for a reader.
    ///
    /// # Errors
    /// When the program could not be executed.
    pub async fn end(mut self) -> Result<ExecEnd, StartError> {
        let mut kept = Vec::new();
        let code = tokio::select! {
            biased;
            code = &mut self.exit => code,
            never = drain(&mut self.output, &mut kept) => match never {},
        };
        self.ended = true;
        if let Some(error) = failure(&self.failure, &self.command) {
            return Err(error);
        }
        // What it wrote last. Others may still hold the pipe, so its end is not waited for.
        let mut rest = [0; KEPT];
        let read = rustix::io::read(&self.output, &mut rest[..]).unwrap_or_default();
        keep(&mut kept, &rest[..read]);
        let output = String::from_utf8_lossy(&kept).trim().to_owned();
        Ok(ExecEnd { code: code.unwrap_or(KILLED), output })
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        // Without a word of its end it is not reaped, so the ids are still its own. Its group may not exist yet.
        if !self.ended && self.exit.try_recv() == Err(oneshot::error::TryRecvError::Empty) {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }
}

async fn drain(output: &mut pipe::Receiver, kept: &mut Vec<u8>) -> Infallible {
    let mut piece = vec![0; PIECE];
    while let Ok(length @ 1..) = output.read(&mut piece).await {
        keep(kept, &piece[..length]);
        sleep(PAUSE).await;
    }
    std::future::pending().await
}

fn keep(kept: &mut Vec<u8>, more: &[u8]) {
    let room = KEPT.saturating_sub(kept.len());
    kept.extend_from_slice(&more[..more.len().min(room)]);
}
