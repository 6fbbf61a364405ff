//! What the stub does from the fork to its end: forward signals, reap orphans, and end when the agent does or the deadline comes.
//!
//! PID 1's end makes the kernel kill everything in the PID namespace, asking no permission. Where the stub is not PID 1 it
//! kills its descendants itself. From the fork on nothing is allocated, no disk is touched and nothing is waited for but
//! the poll: a debugger can hold back `wait()`, and a full pipe a write.

use std::os::fd::{AsFd, OwnedFd};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    mm::{MlockAllFlags, mlockall},
    process::{Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, set_child_subreaper},
};

use super::{FORCED_LOSS, START_FAILED, deadline::SharedTimer, descendants::Walker};
use crate::sys::{
    process::{SIGNAL_BASE, Waited, exit_now, wait_any},
    scheduler, signals,
};

/// Said to the agent when the stub is ready and its memory is locked.
pub(super) const READY: u8 = b'r';
/// Said to the agent when the stub is ready, but the system did not let it lock its memory.
pub(super) const READY_UNLOCKED: u8 = b'u';

/// The pause between two walks of the kill loop, cut short by the end of a child.
const WALK_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// All that the stub owns, made before the fork.
pub(super) struct Stub {
    pub(super) timer: SharedTimer,
    /// All signals.
    pub(super) signals: OwnedFd,
    /// Where the agent waits for [`READY`].
    pub(super) ready: OwnedFd,
    /// The kill loop's, also rehearsed where it will not be needed.
    pub(super) walker: Walker,
    /// Kept open, so that the lock is held as long as the stub lives.
    pub(super) _lock: Option<OwnedFd>,
}

impl Stub {
    /// Guards `agent` until the end.
    pub(super) fn run(mut self, agent: Pid) -> ! {
        let Ok(end_of_agent) = pidfd_open(agent, PidfdFlags::empty()) else {
            // The agent, which waits for the stub's word, reports it when the pipe closes.
            exit_now(START_FAILED);
        };
        let _ = set_child_subreaper(Some(getpid()));
        let _ = scheduler::set_slice(scheduler::SHORTEST_SLICE);
        let word = if self.lock_memory() { READY } else { READY_UNLOCKED };
        let _ = rustix::io::write(&self.ready, &[word]);
        loop {
            let mut polled = [
                PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(end_of_agent.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ];
            match poll(&mut polled, None) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => self.finish(agent, FORCED_LOSS),
            }
            let [timer, end, signal] = polled.map(|descriptor| !descriptor.revents().is_empty());
            if timer {
                self.finish(agent, FORCED_LOSS);
            }
            if signal {
                self.forward(agent);
            }
            if signal || end {
                self.reap(agent);
            }
            if end {
                // Ended, and yet wait() has no word of it: a debugger has it first.
                self.finish(agent, SIGNAL_BASE + SIGKILL);
            }
        }
    }

    /// Keeps every page that has been in memory there, and brings in what the kill loop needs by a walk that kills nobody.
    ///
    /// Locking all of the binary's pages would make those private that only the stub has touched.
    fn lock_memory(&mut self) -> bool {
        let locked = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::ONFAULT).is_ok();
        let _ = self.walker.count();
        locked
    }

    /// Hands all pending signals on. SIGCHLD is about the receiver's own children.
    fn forward(&self, agent: Pid) {
        while let Ok(Some(received)) = signals::receive(self.signals.as_fd()) {
            if received.signal != libc::SIGCHLD {
                let _ = signals::send(agent, received.signal);
            }
        }
    }

    /// Takes all ended children: orphans, and the agent, whose end is the stub's.
    fn reap(&mut self, agent: Pid) {
        while let Ok(Waited::Ended { pid, code }) = wait_any() {
            if pid == agent {
                self.finish(agent, code);
            }
        }
    }

    /// Ends everything, then itself.
    fn finish(&mut self, agent: Pid, code: u8) -> ! {
        if getpid() == Pid::INIT {
            exit_now(code);
        }
        let _ = kill_process(agent, Signal::KILL);
        loop {
            let _ = self.walker.kill();
            let _ = self.drain();
            loop {
                match wait_any() {
                    Ok(Waited::Ended { .. }) => {}
                    Ok(Waited::Childless) => exit_now(code),
                    Ok(Waited::Running) | Err(_) => break,
                }
            }
            let mut polled = [PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            let _ = poll(&mut polled, Some(&WALK_PAUSE));
        }
    }

    /// Drops all pending signals, so that the next one is news.
    fn drain(&self) -> std::io::Result<()> {
        while signals::receive(self.signals.as_fd())?.is_some() {}
        Ok(())
    }
}

/// The number of SIGKILL.
const SIGKILL: u8 = 9;
