//! What an unruly app can do to its own processes, for the tests: compiled with the feature `mutants` alone.

use std::io;

use rustix::process::Pid;

use super::{
    process::{Fork, fork},
    signals,
};

/// Forks; whether this is the child.
///
/// # Errors
/// When the process has more than one thread, or the system refuses.
pub fn fork_here() -> io::Result<bool> {
    Ok(matches!(fork()?, Fork::Child))
}

/// Sends a signal by number, real-time ones included.
///
/// # Errors
/// When there is no such process, it may not be signalled, or too many signals wait for it.
pub fn send(process: Pid, signal: i32) -> io::Result<()> {
    signals::send(process, signal)
}

/// Ends the calling thread and no other. In the first thread of a process it leaves one that lives without it, and that
/// /proc calls a zombie.
pub fn end_this_thread() -> ! {
    loop {
        // SAFETY: the thread never runs again, and nothing of its stack is given back: whoever borrows from it may go on.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}
