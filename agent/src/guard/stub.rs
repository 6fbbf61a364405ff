//! What the stub does from the fork to its end: forward signals, reap orphans, and end when the agent does or the deadline comes.
//!
//! PID 1's end makes the kernel kill everything in the PID namespace, asking no permission. Where the stub is not PID 1 it
//! kills its descendants itself. From the fork on nothing is allocated, nothing is waited for but the poll, and no disk is
//! touched while a process of the app may live: a debugger can hold back `wait()`, a full pipe a write, and a disk everything.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::unlink,
    io::Errno,
    mm::{MlockAllFlags, mlockall},
    process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal, set_child_subreaper},
};

use super::{FORCED_LOSS, START_FAILED, deadline::SharedTimer, descendants::Walker};
use crate::{
    clock,
    mutant::{self, Mutant},
    sys::{
        process::{Waited, exit_now, wait_any},
        scheduler, signals,
    },
};

/// Said to the agent when the stub is ready and its memory is locked.
pub(super) const READY: u8 = b'r';
/// Said to the agent when the stub is ready, but the system did not let it lock its memory.
pub(super) const READY_UNLOCKED: u8 = b'u';

/// The pause between two walks of the kill loop, cut short by the end of a child. It doubles while nobody ends, up to the
/// second value: a process stuck in the kernel is waited for without burning a CPU.
const WALK_PAUSE: [i64; 2] = [1_000_000, 256_000_000];

/// As PID 1 the stub kills by its own end, and removes the status file before that only while the deadline is this far away,
const ROOM: Duration = Duration::from_secs(2);
/// and while that takes no longer than this.
const WITHDRAWAL: Duration = Duration::from_secs(5);

/// So many children are taken, or signals dropped, before the clock is looked at again: what forks or signals without end must not keep
/// the guard from its deadline.
const BATCH: usize = 1024;

/// All that the stub owns, made before the fork.
pub(super) struct Stub {
    pub(super) timer: SharedTimer,
    /// All signals.
    pub(super) signals: OwnedFd,
    /// Where the agent waits for [`READY`].
    pub(super) ready: OwnedFd,
    /// The kill loop's, also rehearsed where it will not be needed.
    pub(super) walker: Walker,
    /// What says that this process leads, to be removed when nothing of the app lives any more.
    pub(super) status_file: Option<CString>,
    /// Kept open, so that the lock is held as long as the stub lives.
    pub(super) _lock: Option<OwnedFd>,
}

impl Stub {
    /// Guards `agent` until the end.
    pub(super) fn run(mut self, agent: Pid) -> ! {
        let Ok(pidfd) = pidfd_open(agent, PidfdFlags::empty()) else {
            // The agent, which waits for the stub's word, reports it when the pipe closes.
            exit_now(START_FAILED);
        };
        if !mutant::is(Mutant::StubAdoptsNobody) {
            let _ = set_child_subreaper(Some(getpid()));
        }
        let _ = scheduler::set_slice(scheduler::SHORTEST_SLICE);
        let word = if self.lock_memory() { READY } else { READY_UNLOCKED };
        let _ = rustix::io::write(&self.ready, &[word]);
        let code = self.guard(agent, &pidfd);
        self.end(&pidfd, code)
    }

    /// Waits for the agent's end or the deadline, and returns the code to end with.
    fn guard(&self, agent: Pid, pidfd: &OwnedFd) -> u8 {
        let mut patience = None;
        loop {
            let mut polled = [
                PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            ];
            match poll(&mut polled, patience.as_ref()) {
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(_) => return FORCED_LOSS,
            }
            let [timer, end, signal] = polled.map(|descriptor| !descriptor.revents().is_empty());
            if timer && !mutant::is(Mutant::StubWithoutDeadline) {
                if mutant::is(Mutant::AgentWaitedFor) {
                    let _ = pidfd_send_signal(pidfd, Signal::KILL);
                    while !matches!(wait_any(), Ok(Waited::Ended { pid, .. }) if pid == agent) {}
                }
                return FORCED_LOSS;
            }
            if signal {
                self.forward(agent);
            }
            // Orphans are taken as well as the agent.
            patience = Some(Timespec { tv_sec: 0, tv_nsec: 0 });
            for _ in 0..BATCH {
                match wait_any() {
                    Ok(Waited::Ended { pid, code }) if pid == agent => return code,
                    Ok(Waited::Ended { .. }) => {}
                    Ok(Waited::Running | Waited::Childless) | Err(_) => {
                        patience = None;
                        break;
                    }
                }
            }
            if end && !mutant::is(Mutant::WaitTrusted) {
                // Ended, and yet wait(), which has the oldest child first, has no word of it: a debugger has it.
                return FORCED_LOSS;
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

    /// Hands one pending signal on. SIGCHLD is about the receiver's own children.
    ///
    /// No more than one: an app may signal its guard faster than they can be read.
    fn forward(&self, agent: Pid) {
        while let Ok(Some(received)) = signals::receive(self.signals.as_fd()) {
            if received.signal != libc::SIGCHLD {
                let _ = signals::send(agent, received.signal);
            }
            if !mutant::is(Mutant::SignalsBeforeClock) {
                break;
            }
        }
    }

    /// Ends everything, then itself.
    fn end(mut self, agent: &OwnedFd, code: u8) -> ! {
        if getpid() == Pid::INIT || mutant::is(Mutant::StubKillsNobody) {
            self.withdraw();
            exit_now(code);
        }
        // By descriptor: reaped already, its id may be a stranger's.
        let _ = pidfd_send_signal(agent, Signal::KILL);
        let [mut pause, longest] = WALK_PAUSE;
        loop {
            let _ = self.walker.kill();
            self.drain();
            for _ in 0..BATCH {
                match wait_any() {
                    Ok(Waited::Ended { .. }) => [pause, _] = WALK_PAUSE,
                    Ok(Waited::Childless) => {
                        self.remove_status_file();
                        exit_now(code)
                    }
                    Ok(Waited::Running) | Err(_) => break,
                }
            }
            let mut polled = [PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: pause }));
            pause = (pause * 2).min(longest);
        }
    }

    /// Removes the status file where the agent alone has ended, once nothing else lives: whoever reads it must not outlast the app.
    /// A help, and no part of the argument: where it could delay the end, it is left to the next start.
    fn withdraw(&mut self) {
        if self.status_file.is_none() || mutant::is(Mutant::StubKillsNobody) {
            return;
        }
        let until = clock::boot() + WITHDRAWAL;
        while self.has_room() && clock::boot() < until {
            let _ = self.walker.kill();
            self.drain();
            for _ in 0..BATCH {
                match wait_any() {
                    Ok(Waited::Ended { .. }) => {}
                    Ok(Waited::Childless) => return self.remove_status_file(),
                    Ok(Waited::Running) | Err(_) => break,
                }
            }
            let mut polled = [PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN)];
            let _ = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: WALK_PAUSE[0] }));
        }
    }

    /// Whether the deadline is far away, or there is none.
    fn has_room(&self) -> bool {
        let mut polled = [PollFd::from_borrowed_fd(self.timer.as_fd(), PollFlags::IN)];
        let has_come = poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0);
        !has_come && self.timer.remaining().is_ok_and(|left| left.is_none_or(|left| left > ROOM))
    }

    fn remove_status_file(&self) {
        if let Some(path) = &self.status_file {
            let _ = unlink(path.as_c_str());
        }
    }

    /// Drops pending signals, so that the next one is news.
    fn drain(&self) {
        for _ in 0..BATCH {
            let Ok(Some(_)) = signals::receive(self.signals.as_fd()) else { break };
        }
    }
}
