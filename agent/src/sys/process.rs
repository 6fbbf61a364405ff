//! Fork, fork with exec, and the wait that never blocks.

use std::{
    ffi::{CString, c_char},
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    ptr,
};

use rustix::{
    fs::Access,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal},
};

use super::{checked, scheduler, signals, signals::SignalSet};

/// The code of a process that was ended by signal n is this plus n, as shells and container runtimes have it.
const SIGNAL_BASE: u8 = 128;

/// Which side of a fork is running.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fork {
    /// The process that forked, with the id of its child.
    Parent(Pid),
    /// The new process.
    Child,
}

/// Forks. Refused while the process has more than one thread: the child would have the others' locks, but not them.
pub(crate) fn fork() -> io::Result<Fork> {
    /// A folder's own link, and the one by which its parent names it.
    const LINKS_OF_AN_EMPTY_FOLDER: u64 = 2;
    let threads = fs::metadata("/proc/self/task")?.nlink().saturating_sub(LINKS_OF_AN_EMPTY_FOLDER);
    if threads != 1 {
        return Err(io::Error::other(format!(
            "the process has {threads} threads: fork before the first one is started"
        )));
    }
    // SAFETY: there is one thread, so every lock and every invariant that the child inherits belongs to the running code.
    let answer = checked(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(answer).map_or(Fork::Child, Fork::Parent))
}

/// The process group of this process, or `None` when its leader is outside the PID namespace, where it has no number.
pub(crate) fn group() -> Option<Pid> {
    // SAFETY: `getpgrp` always succeeds and touches no memory.
    Pid::from_raw(unsafe { libc::getpgrp() })
}

/// Ends the process at once, without running anything that was registered for the end.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` does not return and touches no memory of the process.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

/// What a look at the children found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    /// This child has ended, and its id is free again.
    Ended {
        /// Its id.
        pid: Pid,
        /// Its exit code, 128+n when signal n ended it.
        code: u8,
    },
    /// There are children, and none has ended.
    Running,
    /// There are no children: ECHILD.
    Childless,
}

/// Takes one ended child, of whatever kind, without waiting for it.
pub(crate) fn wait_any() -> io::Result<Waited> {
    let mut status = 0;
    // `__WALL` includes children that were made by clone with another signal than SIGCHLD: without it ECHILD is answered beside them.
    // SAFETY: `status` is a live local.
    let answer = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    if answer < 0 {
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::ECHILD) => Ok(Waited::Childless),
            Some(libc::EINTR) => Ok(Waited::Running),
            _ => Err(error),
        };
    }
    Ok(Pid::from_raw(answer).map_or(Waited::Running, |pid| Waited::Ended { pid, code: code(status) }))
}

/// A wait status as an exit code.
fn code(status: libc::c_int) -> u8 {
    let number = if libc::WIFSIGNALED(status) {
        libc::c_int::from(SIGNAL_BASE) + libc::WTERMSIG(status)
    } else {
        libc::WEXITSTATUS(status)
    };
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// A program that is ready to be started: nothing of it has to be allocated or looked up after the fork.
#[derive(Debug)]
pub(crate) struct Image {
    /// The files to try, in this order.
    pub(crate) candidates: Vec<CString>,
    /// The arguments, the program's own name first.
    pub(crate) arguments: Vec<CString>,
    /// The environment, as `NAME=value`.
    pub(crate) environment: Vec<CString>,
    /// The signal mask that the program starts with.
    pub(crate) mask: SignalSet,
    /// Whether its process group becomes the foreground one of the terminal at descriptor 0.
    pub(crate) foreground: bool,
    /// What takes the place of stdin, stdout and stderr; without it they are this process's own.
    pub(crate) stdio: Option<Stdio>,
}

/// The stdio of a program that nobody talks to.
#[derive(Debug)]
pub(crate) struct Stdio {
    /// Stdin.
    pub(crate) input: OwnedFd,
    /// Stdout and stderr.
    pub(crate) output: OwnedFd,
}

/// A started child.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its process id.
    pub(crate) pid: Pid,
    /// Carries the error number, as four bytes, when the program could not be executed; empty otherwise. Not blocking.
    pub(crate) failure: OwnedFd,
}

/// Starts `image` in a process group of its own, to be killed with the calling thread, with SIGPIPE as at a login and
/// the scheduler's default slice. Returns right after the fork, whatever the file system does to the exec.
///
/// All signals must be blocked: the child sets its group and terminal before it opens its mask.
pub(crate) fn spawn(image: &Image) -> io::Result<Child> {
    let arguments = pointers(&image.arguments);
    let environment = pointers(&image.environment);
    let (failure, write_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    let parent = rustix::process::getpid();
    // SAFETY: the child runs `execute` alone, which makes system calls on memory prepared above: it takes no lock and
    // allocates nothing, so the state of other threads does not matter to it.
    let answer = checked(unsafe { libc::fork() })?;
    let Some(pid) = Pid::from_raw(answer) else {
        let error = execute(image, &arguments, &environment, parent);
        let bytes = error.to_ne_bytes();
        // SAFETY: `bytes` is a live local of the given length. A pipe takes four bytes in one piece.
        unsafe { libc::write(write_end.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
        exit_now(EXEC_FAILED);
    };
    Ok(Child { pid, failure })
}

/// The code of a child that reports a failed exec; what the world sees is made of the reported error.
const EXEC_FAILED: u8 = 127;

/// The child's part of [`spawn`]. Returns only with an error number.
fn execute(image: &Image, arguments: &[*const c_char], environment: &[*const c_char], parent: Pid) -> i32 {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if rustix::process::getppid() != Some(parent) {
        exit_now(EXEC_FAILED);
    }
    let _ = rustix::process::setpgid(None, None);
    if image.foreground {
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpid());
    }
    if let Some(Stdio { input, output }) = &image.stdio {
        let replaced = rustix::stdio::dup2_stdin(input)
            .and_then(|()| rustix::stdio::dup2_stdout(output))
            .and_then(|()| rustix::stdio::dup2_stderr(output));
        if let Err(error) = replaced {
            return error.raw_os_error();
        }
    }
    let _ = scheduler::set_slice(scheduler::DEFAULT_SLICE);
    let _ = signals::set_default(libc::SIGPIPE);
    let _ = image.mask.block();
    let mut answer = libc::ENOENT;
    for candidate in &image.candidates {
        // SAFETY: the path is a C string, and both lists are made of pointers to live C strings and end with a null pointer.
        unsafe { libc::execve(candidate.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
        match io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) {
            libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ESTALE | libc::ETIMEDOUT => {}
            // A folder of PATH that this user may not search says nothing about the command.
            libc::EACCES if rustix::fs::access(candidate, Access::EXISTS).is_err() && image.candidates.len() > 1 => {}
            libc::EACCES => answer = libc::EACCES,
            other => return other,
        }
    }
    answer
}

/// The list of pointers that exec takes: one for each text, then a null pointer.
fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}
