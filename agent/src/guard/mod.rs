//! The stub, which guards, and the deadline by which everything is dead unless the agent moves it.
//!
//! # Use
//! [`start`] is called once, at the top of `main`, before a runtime, a thread or a logger exists. It forks: the parent
//! becomes the stub (PID 1 of the container) and never comes back; the child is the agent, and gets a [`Guard`].
//!
//! ```no_run
//! # use leader_agent::guard::{self, GuardOptions};
//! let held = guard::hold_signals().expect("the kernel blocks signals");
//! let mut guard = match guard::start(&GuardOptions::default(), held) {
//!     Ok(guard) => guard,
//!     Err(error) => {
//!         eprintln!("{error}");
//!         std::process::exit(2);
//!     }
//! };
//! // Build the runtime here, and in it: `Signals::new(&guard)`, then `App::start(&guard, ...)` after `guard.arm(...)`.
//! guard.end(0)
//! ```
//!
//! # What ends everything
//! The stub exits, and with it all that runs in the container, as soon as the agent's process is gone or the deadline
//! comes; the agent is killed by a timer of its own at the same moment. So `std::process::exit` in the agent is the
//! container's end with that code, and [`Guard::end`] says it by name. [`Guard::die`] is the forced loss.
//!
//! How the app is started and stopped is left to [`crate::app`], and when to the elector.

mod deadline;
pub(crate) mod descendants;
mod lock;
mod signals;
mod stub;

use std::{
    ffi::CString,
    fmt, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, fstat},
    pipe::{PipeFlags, pipe_with},
    process::{
        DumpableBehavior, Pid, PidfdFlags, Signal, getpid, getppid, kill_process, pidfd_open, set_child_subreaper,
        set_dumpable_behavior, set_parent_process_death_signal, setpgid,
    },
};

pub use self::signals::Signals;
use self::{
    deadline::{Armed, Deadline, SharedTimer},
    descendants::Walker,
    stub::{READY, READY_UNLOCKED, Stub},
};
use crate::{
    mutant::{self, Mutant},
    sys::{
        process::{Fork, fork, group},
        scheduler,
        signals::{SignalSet, descriptor, set_default},
    },
};

/// The container's exit code after a forced loss: that of a process ended by SIGKILL, as everything in it was.
pub const FORCED_LOSS: u8 = 137;
/// A forced loss has this long to say why.
const LAST_WORDS: Duration = Duration::from_millis(2);
/// The exit code of a start that failed.
pub const START_FAILED: u8 = 2;

/// The signals that came since [`hold_signals`] and wait for the stub.
#[derive(Debug)]
pub struct HeldSignals {
    /// The mask before.
    mask: SignalSet,
}

/// Holds all signals back until the stub can take them. The first thing a program does: as PID 1 it would not even notice one
/// that asks it to end.
pub fn hold_signals() -> Result<HeldSignals, GuardError> {
    Ok(HeldSignals { mask: SignalSet::all().block().map_err(part("a signal mask", ""))? })
}

/// What [`start`] needs to know.
#[derive(Clone, Debug, Default)]
pub struct GuardOptions {
    /// The folder of the lock, which must outlive the container and belong to it alone. Without one there is no reclaim.
    pub state_dir: Option<PathBuf>,
    /// A file that says that this process leads: the stub removes it when the agent alone was killed.
    pub status_file: Option<PathBuf>,
}

/// Why the guard could not be set up, or did not hold.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A part could not be made.
    #[error("cannot make {part}: {source}. {help}")]
    Part {
        /// Which one.
        part: &'static str,
        /// What the system said.
        source: io::Error,
        /// What can be done.
        help: &'static str,
    },
    /// The stub ended before it was ready.
    #[error(
        "the guarding process ended before it was ready: pidfd_open of its child failed. Is the limit of open files (ulimit -n) below 16?"
    )]
    StubGone,
    /// The timers do not hold what was asked for.
    #[error("the deadline {asked:?} (boot clock) was set, but the kernel's timers say {found}")]
    NotHeld {
        /// The moment asked for; `None` for none.
        asked: Option<Duration>,
        /// What was read back.
        found: String,
    },
    /// Moving or reading the timers failed.
    #[error("cannot move or read the deadline's timers: {0}")]
    Timer(#[source] io::Error),
}

/// A fact about this guard that whoever operates the container should know. Nothing failed.
#[derive(Debug)]
pub enum Note {
    /// The system did not let the stub lock its memory.
    MemoryNotLocked,
    /// The stub is not PID 1.
    NotPrivate,
    /// The lock is somebody else's.
    LockHeld(PathBuf),
    /// The lock could not be opened.
    LockFailed(PathBuf, io::Error),
}

impl fmt::Display for Note {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MemoryNotLocked => formatter.write_str(
                "the guarding process is not locked in memory (RLIMIT_MEMLOCK is below the size of the binary): under memory pressure it may act late",
            ),
            Self::NotPrivate => formatter.write_str(
                "this is not PID 1 of a PID namespace: if the guarding process and the agent are both killed, only the app's first process is bound to die",
            ),
            Self::LockHeld(folder) => write!(
                formatter,
                "the lock in {} is held by another process: leadership is not reclaimed after a restart",
                folder.display()
            ),
            Self::LockFailed(folder, error) => write!(
                formatter,
                "cannot lock {}: {error}. Leadership is not reclaimed after a restart",
                folder.join("lock").display()
            ),
        }
    }
}

/// The agent's hold on the stub and the deadline.
#[derive(Debug)]
pub struct Guard {
    deadline: Deadline,
    lock: Option<OwnedFd>,
    private: bool,
    notes: Vec<Note>,
    /// The signal mask before ours, which the app gets back.
    pub(crate) mask: SignalSet,
    /// The process group that the stub is in: the terminal's foreground one while there is no app.
    pub(crate) group: Option<Pid>,
}

/// Sets up the guard and forks. Returns in the child, the agent; the parent becomes the stub and ends the process by
/// itself, with the agent's exit code or [`FORCED_LOSS`].
///
/// # Errors
/// In either process, before anything else has begun: the caller says why and ends with [`START_FAILED`].
pub fn start(options: &GuardOptions, HeldSignals { mask }: HeldSignals) -> Result<Guard, GuardError> {
    let private = getpid() == Pid::INIT;
    let timer = SharedTimer::new().map_err(part("a timerfd on CLOCK_BOOTTIME", "Linux 3.15 or later is needed."))?;
    // Asked of itself, because after the fork the stub has nobody to tell why.
    pidfd_open(getpid(), PidfdFlags::empty()).map_err(|errno| {
        part("a pidfd", "Linux 5.3 or later is needed, and a seccomp profile that lets pidfd_open pass.")(errno.into())
    })?;
    let walker = Walker::new().map_err(part("a list of processes from /proc", "Mount /proc in the container."))?;
    let (lock, mut notes) = take_lock(options.state_dir.as_deref());
    let status_file = options.status_file.as_ref().and_then(|path| CString::new(path.as_os_str().as_bytes()).ok());
    let (ready_read, ready_write) = pipe_with(PipeFlags::CLOEXEC)
        .map_err(|errno| part("a pipe", "Is the limit of open files (ulimit -n) below 16?")(errno.into()))?;
    // No tracing by the app's user: a debugger could hold back the end of either process.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    // An ignored SIGCHLD, which is inherited, would make children vanish without an exit code.
    set_default(libc::SIGCHLD).map_err(part("a signal disposition", ""))?;
    let signals = descriptor(&SignalSet::all()).map_err(part("a signalfd", ""))?;
    let (group, stub_pid) = (group(), getpid());

    match fork().map_err(part("a second process", "Is a limit of processes (pids.max, ulimit -u) reached?"))? {
        Fork::Parent(agent) => {
            drop(ready_read);
            let lock = lock.filter(|_| !mutant::is(Mutant::LockOfAgentAlone));
            Stub { timer, signals, ready: ready_write, walker, status_file, _lock: lock }.run(agent)
        }
        Fork::Child => {
            drop((ready_write, signals, walker));
            let deadline = become_agent(timer, stub_pid)?;
            let mut word = [0];
            match (rustix::io::read(ready_read, &mut word[..]), word[0]) {
                (Ok(1), READY) => {}
                (Ok(1), READY_UNLOCKED) => notes.push(Note::MemoryNotLocked),
                _ => return Err(GuardError::StubGone),
            }
            if !private {
                notes.push(Note::NotPrivate);
            }
            Ok(Guard { deadline, lock, private, notes, mask, group })
        }
    }
}

/// The child's part of [`start`].
fn become_agent(timer: SharedTimer, stub: Pid) -> Result<Deadline, GuardError> {
    let failed = |part_name| move |errno: rustix::io::Errno| part(part_name, "")(errno.into());
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("the end with the parent (PR_SET_PDEATHSIG)"))?;
    if getppid() != Some(stub) {
        return Err(GuardError::StubGone);
    }
    if !mutant::is(Mutant::AgentAdoptsNobody) {
        set_child_subreaper(Some(getpid())).map_err(failed("a subreaper (PR_SET_CHILD_SUBREAPER)"))?;
    }
    // A group of its own: what the terminal sends to the stub's group would arrive twice.
    let _ = setpgid(None, None);
    let _ = scheduler::set_slice(scheduler::SHORTEST_SLICE);
    Deadline::new(timer).map_err(part(
        "a timer on CLOCK_BOOTTIME",
        "EAGAIN means that this user's limit of pending signals (ulimit -i, counted across all containers) is used up.",
    ))
}

/// Takes the lock if there is a folder for it. A lock that cannot be had costs the reclaim, and nothing else.
fn take_lock(folder: Option<&Path>) -> (Option<OwnedFd>, Vec<Note>) {
    let Some(folder) = folder else { return (None, Vec::new()) };
    match lock::take(folder) {
        Ok(Some(lock)) => (Some(lock), Vec::new()),
        Ok(None) => (None, vec![Note::LockHeld(folder.to_owned())]),
        Err(error) => (None, vec![Note::LockFailed(folder.to_owned(), error)]),
    }
}

/// Names the part that failed.
fn part(part: &'static str, help: &'static str) -> impl FnOnce(io::Error) -> GuardError {
    move |source| GuardError::Part { part, source, help }
}

impl Guard {
    /// Sets the moment on `CLOCK_BOOTTIME` at which everything ends, and checks that the kernel holds it. A moment that is
    /// past ends everything now.
    ///
    /// # Errors
    /// The deadline may then be anything: [`Guard::die`].
    pub fn arm(&mut self, deadline_boot: Duration) -> Result<(), GuardError> {
        /// A reading can only seem too early, by the time that it took; anything later is a mistake.
        const LATER: Duration = Duration::from_millis(1);
        self.deadline.set(Some(deadline_boot)).map_err(GuardError::Timer)?;
        match self.deadline.read().map_err(GuardError::Timer)? {
            Armed::At(found) if found <= deadline_boot + LATER => Ok(()),
            found => Err(not_held(Some(deadline_boot), found)),
        }
    }

    /// The moment that the kernel's timers hold, read back from both, too early by the time that reading took at most; `None` when neither runs.
    pub fn armed(&self) -> Result<Option<Duration>, GuardError> {
        match self.deadline.read().map_err(GuardError::Timer)? {
            Armed::No => Ok(None),
            Armed::At(moment) => Ok(Some(moment)),
            Armed::Differ => Err(not_held(None, Armed::Differ)),
        }
    }

    /// Stops both timers: for when [`crate::app::AppEvent::Gone`] was seen, and never earlier.
    pub fn disarm(&mut self) -> Result<(), GuardError> {
        self.deadline.set(None).map_err(GuardError::Timer)?;
        match self.deadline.read().map_err(GuardError::Timer)? {
            Armed::No => Ok(()),
            found => Err(not_held(None, found)),
        }
    }

    /// Whether this container had the exclusive lock at its start, which reclaim asks for. Held until stub and agent are gone.
    pub fn has_lock(&self) -> bool {
        self.lock.is_some()
    }

    /// Whether the stub is PID 1, so that its end is everyone's.
    pub fn is_private_namespace(&self) -> bool {
        self.private
    }

    /// What should be logged once logging works.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The orderly end: the container ends with `code`.
    pub fn end(self, code: u8) -> ! {
        std::process::exit(i32::from(code))
    }

    /// The forced loss: the stub ends at once, and everything with it; the exit code is [`FORCED_LOSS`]. The reason goes to
    /// stderr if that takes it without delay.
    pub fn die(&self, reason: &str) -> ! {
        // Should saying why take long after all, the end does not wait for it.
        if !mutant::is(Mutant::LastWordsFirst) {
            let _ = self.deadline.shared.fire_in(LAST_WORDS);
        }
        say(reason);
        let _ = self.deadline.shared.fire();
        loop {
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

fn not_held(asked: Option<Duration>, found: Armed) -> GuardError {
    let found = match found {
        Armed::No => "that none is set".to_owned(),
        Armed::At(moment) => format!("{moment:?}"),
        Armed::Differ => "two different moments".to_owned(),
    };
    GuardError::NotHeld { asked, found }
}

/// Writes a line to stderr, unless that could block: a file may be on a file system that hangs, and a pipe be full.
fn say(line: &str) {
    /// A pipe that is ready takes this much in one piece (`PIPE_BUF`).
    const PIECE: usize = 4096;
    let stderr = rustix::stdio::stderr();
    let at_once = fstat(stderr).is_ok_and(|stat| {
        matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo | FileType::Socket | FileType::CharacterDevice)
    });
    let mut polled = [PollFd::new(&stderr, PollFlags::OUT)];
    let no_time = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut ready = || poll(&mut polled, Some(&no_time)) == Ok(1) && polled[0].revents().contains(PollFlags::OUT);
    if (at_once && ready()) || mutant::is(Mutant::LastWordsFirst) {
        let line = format!("leader-agent: {line}: ending everything at once\n");
        let _ = rustix::io::write(stderr, line.as_bytes().get(..PIECE).unwrap_or(line.as_bytes()));
    }
}
