//! The app: the agent's child and all that it starts, seen until the last of them is gone.
//!
//! # Use
//! ```no_run
//! # use std::ffi::OsString;
//! # use leader_agent::{app::{App, AppEvent}, guard::Guard};
//! # async fn lead(guard: &Guard, command: &[OsString]) -> Result<(), Box<dyn std::error::Error>> {
//! // The deadline must be armed, or the start is refused.
//! let mut app = App::start(guard, command, &[("LEADER_FENCING_TOKEN".into(), "4711".into())])?;
//! loop {
//!     match app.next_event().await? {
//!         AppEvent::NotStarted(error) => eprintln!("{error} (exit code {})", error.exit_code()),
//!         AppEvent::Exited { code } => eprintln!("the first process ended with {code}"),
//!         AppEvent::Gone => break,
//!     }
//! }
//! # Ok(()) }
//! ```
//!
//! *Gone* means that `wait()` answered ECHILD in the agent, which is the subreaper of all that the app leaves behind. When
//! to stop the app, and what its end means for the Lease, is decided by the caller.

mod command;
mod exec;
mod terminal;

use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::process::Pid;
use tokio::{io::unix::AsyncFd, net::unix::pipe};

pub use self::{
    command::StartError,
    exec::{Exec, ExecEnd},
};
use self::{command::failure, exec::Running, terminal::Terminal};
use crate::{
    guard::{Guard, descendants::Walker},
    mutant::{self, Mutant},
    sys::{
        process::{Waited, spawn, wait_any},
        signals::{self, SignalSet, listen, receive},
    },
};

/// The running app.
#[derive(Debug)]
pub struct App {
    /// The first process, until it was reaped.
    first: Option<Pid>,
    command: String,
    failure: OwnedFd,
    /// SIGCHLD alone.
    children: AsyncFd<OwnedFd>,
    walker: Walker,
    terminal: Option<Terminal>,
    environment: Vec<(OsString, OsString)>,
    /// The programs that run beside it.
    beside: Vec<Running>,
    /// Killing has begun: nothing new is started.
    ending: bool,
    /// It runs whether or not there is a deadline.
    unbound: bool,
}

/// What happens to the app. The order is: nothing or one of the first two, then `Gone`.
#[derive(Debug)]
pub enum AppEvent {
    /// The command could not be executed. Its exit code is [`StartError::exit_code`].
    NotStarted(StartError),
    /// The first process ended; others may live.
    Exited {
        /// Its exit code, 128+n when signal n ended it.
        code: u8,
    },
    /// `wait()` answered ECHILD: nothing of the app lives.
    Gone,
}

/// Why a signal was not delivered.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The first process has ended.
    #[error("signal {signal} was not sent: the app's first process has ended")]
    Ended {
        /// The signal.
        signal: i32,
    },
    /// The system refused.
    #[error("signal {signal} could not be sent to the app's first process {pid}: {source}")]
    Refused {
        /// The signal.
        signal: i32,
        /// The process.
        pid: i32,
        /// What the system said. `EPERM`: the app runs as another user, and the container lacks the capability KILL.
        source: io::Error,
    },
}

/// Why the app could not be killed. The caller's answer to each is [`Guard::die`].
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// The system does not let the agent kill a process of the app.
    #[error(
        "process {pid} of the app may not be killed (EPERM): it runs as another user. Give the container the capability KILL, or let it start as the app's user"
    )]
    Denied {
        /// The process.
        pid: i32,
    },
    /// The processes could not be listed or waited for.
    #[error("cannot list or wait for the app's processes: {0}")]
    System(#[from] io::Error),
}

impl App {
    /// Starts `command` as the container runtime would: from the current folder, looked up in PATH, with this process's
    /// environment without [`crate::names::env::ALL`] and with the pairs of `environment` added.
    ///
    /// Returns when the process exists. Whether the command could be executed is an event: a file system that hangs must
    /// not hold up the agent.
    ///
    /// # Errors
    /// When the deadline is not armed, the command is empty or holds a NUL, or no process can be made.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn start(
        guard: &Guard,
        command: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> Result<Self, StartError> {
        if !matches!(guard.armed(), Ok(Some(_))) && !mutant::is(Mutant::TimersNotLookedAt) {
            return Err(StartError::NotArmed);
        }
        Self::begin(guard, command, environment)
    }

    /// As [`Self::start`], for an app that runs whoever leads: no deadline is asked for.
    ///
    /// # Errors
    /// When the command is empty or holds a NUL, or no process can be made.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn start_unbound(
        guard: &Guard,
        command: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> Result<Self, StartError> {
        Ok(Self { unbound: true, ..Self::begin(guard, command, environment)? })
    }

    fn begin(guard: &Guard, command: &[OsString], environment: &[(OsString, OsString)]) -> Result<Self, StartError> {
        let terminal = Terminal::at_stdin(guard.group);
        let image = command::image(command, environment, guard.mask, terminal.is_some(), None)?;
        let watch = || -> io::Result<_> { Ok((listen(&SignalSet::only(libc::SIGCHLD))?, Walker::new()?)) };
        let (children, walker) = watch().map_err(StartError::Prepare)?;
        let child = spawn(&image).map_err(StartError::Fork)?;
        Ok(Self {
            first: Some(child.pid),
            command: name(command),
            failure: child.failure,
            children,
            walker,
            terminal,
            environment: environment.to_owned(),
            beside: Vec::new(),
            ending: false,
            unbound: false,
        })
    }

    /// Starts a program that belongs to the app, with its environment, and with neither stdin nor the container's stdout.
    ///
    /// # Errors
    /// When the app is ending, and as for [`Self::start`].
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn start_beside(&mut self, guard: &Guard, command: &[OsString]) -> Result<Exec, StartError> {
        if self.first.is_none() || self.ending {
            return Err(StartError::Ending { command: name(command) });
        }
        if !self.unbound && !matches!(guard.armed(), Ok(Some(_))) {
            return Err(StartError::NotArmed);
        }
        let (stdio, output) = exec::stdio().map_err(StartError::Prepare)?;
        let output = pipe::Receiver::from_owned_fd(output).map_err(StartError::Prepare)?;
        let image = command::image(command, &self.environment, guard.mask, false, Some(stdio))?;
        let child = spawn(&image).map_err(StartError::Fork)?;
        let (exec, running) = Exec::new(child.pid, name(command), child.failure, output);
        self.beside.push(running);
        Ok(exec)
    }

    /// Sends `signal` to the first process, as the container runtime would.
    pub fn signal(&self, signal: i32) -> Result<(), SignalError> {
        // Not reaped yet, so the id is still its own.
        let Some(pid) = self.first else { return Err(SignalError::Ended { signal }) };
        let raw = pid.as_raw_nonzero().get();
        signals::send(pid, signal).map_err(|source| SignalError::Refused { signal, pid: raw, source })
    }

    /// Waits for the next event. Nothing is lost when the future is dropped; after `Gone` it is `Gone` again.
    ///
    /// # Errors
    /// The processes could not be waited for: [`Guard::die`].
    pub async fn next_event(&mut self) -> io::Result<AppEvent> {
        loop {
            if let Some(event) = self.look()? {
                return Ok(event);
            }
            let mut ready = self.children.readable().await?;
            // Emptied before the next look: whoever ends after it makes the descriptor readable again.
            while receive(self.children.as_fd())?.is_some() {}
            ready.clear_ready();
        }
    }

    /// Takes ended children until one of them matters or none is left.
    fn look(&mut self) -> io::Result<Option<AppEvent>> {
        if (mutant::is(Mutant::FirstIsAll) && self.first.is_none())
            || (mutant::is(Mutant::EmptyWalkIsGone) && self.walker.count()? == 0)
        {
            return Ok(Some(AppEvent::Gone));
        }
        loop {
            match wait_any()? {
                Waited::Running => return Ok(None),
                Waited::Childless => {
                    if let Some(terminal) = self.terminal.take() {
                        terminal.give_back();
                    }
                    return Ok(Some(AppEvent::Gone));
                }
                Waited::Ended { pid, code } if self.first == Some(pid) => {
                    self.first = None;
                    return Ok(Some(match failure(&self.failure, &self.command) {
                        Some(error) => AppEvent::NotStarted(error),
                        None => AppEvent::Exited { code },
                    }));
                }
                Waited::Ended { pid, code } => {
                    if let Some(at) = self.beside.iter().position(|running| running.pid == pid) {
                        // Who gave up waiting has killed it.
                        let _ = self.beside.swap_remove(at).exit.send(code);
                    }
                }
            }
        }
    }

    /// Sends SIGKILL to all processes of the app that a walk finds. One walk can miss some: repeat it until `Gone`.
    pub fn kill_all(&mut self) -> Result<(), KillError> {
        self.ending = true;
        match self.walker.kill()?.denied {
            Some(_) if mutant::is(Mutant::DeniedPassedOver) => Ok(()),
            Some(pid) => Err(KillError::Denied { pid: pid.as_raw_nonzero().get() }),
            None => Ok(()),
        }
    }
}

/// A command's first word.
fn name(command: &[OsString]) -> String {
    command.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
