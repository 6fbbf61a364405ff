//! The moment at which everything is dead unless it is moved, kept by the kernel in two places.
//!
//! A timerfd that the stub polls ends the stub and with it everything; a POSIX timer kills the agent, also where the stub
//! does not get to run. Both count on `CLOCK_BOOTTIME`, which goes on while the machine is suspended.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_gettime,
    timerfd_settime,
};

use crate::{
    clock,
    mutant::{self, Mutant},
    sys::timer::KillTimer,
};

/// The kernel rounds to nanoseconds; what differs by more than this was not set to the same moment.
const ROUNDING: Duration = Duration::from_micros(1);

/// The timer that stub and agent share: one open file, which the fork gives to both.
#[derive(Debug)]
pub(super) struct SharedTimer(OwnedFd);

impl SharedTimer {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?))
    }

    fn set(&self, at: Option<Duration>) -> io::Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Itimerspec { it_interval: zero, it_value: at.map_or(zero, timespec) };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &value)?;
        Ok(())
    }

    /// Lets it go off after `delay`.
    pub(super) fn fire_in(&self, delay: Duration) -> io::Result<()> {
        self.set(Some(clock::boot() + delay))
    }

    /// Lets it go off now.
    pub(super) fn fire(&self) -> io::Result<()> {
        self.set(Some(Duration::ZERO))
    }

    /// How long until it goes off; `None` when it is stopped, or has gone off.
    pub(super) fn remaining(&self) -> io::Result<Option<Duration>> {
        let value = timerfd_gettime(&self.0)?.it_value;
        let seconds = u64::try_from(value.tv_sec).unwrap_or_default();
        let left = Duration::new(seconds, u32::try_from(value.tv_nsec).unwrap_or_default());
        Ok((!left.is_zero()).then_some(left))
    }
}

impl AsFd for SharedTimer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The agent's side: both timers, always moved together.
#[derive(Debug)]
pub(super) struct Deadline {
    pub(super) shared: SharedTimer,
    own: KillTimer,
}

/// What reading both timers back showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Armed {
    /// Both are stopped.
    No,
    /// Both run, and go off at this moment or, as much as reading took, after it, on `CLOCK_BOOTTIME`.
    At(Duration),
    /// They do not agree.
    Differ,
}

impl Deadline {
    /// The agent's own timer is made here, after the fork, because a child does not inherit it.
    pub(super) fn new(shared: SharedTimer) -> io::Result<Self> {
        Ok(Self { shared, own: KillTimer::new()? })
    }

    /// Moves both timers, or stops both. A process that is held up in between keeps the earlier moment in one of them.
    pub(super) fn set(&mut self, at: Option<Duration>) -> io::Result<()> {
        self.shared.set(at)?;
        if mutant::is(Mutant::AgentWithoutTimer) {
            return Ok(());
        }
        self.own.set(at)
    }

    /// Reads both back from the kernel.
    pub(super) fn read(&self) -> io::Result<Armed> {
        let shared = Reading::take(|| self.shared.remaining())?;
        let own = if mutant::is(Mutant::AgentWithoutTimer) { shared } else { Reading::take(|| self.own.remaining())? };
        Ok(match (shared, own) {
            (None, None) => Armed::No,
            (Some(shared), Some(own)) if shared.agrees_with(own) => Armed::At(shared.earliest.max(own.earliest)),
            _ => Armed::Differ,
        })
    }
}

/// Between which moments a timer goes off, as far as its remaining time tells. The process may be held up for long between
/// reading the clock and reading the timer, and two timers must not seem different for that.
#[derive(Clone, Copy, Debug)]
struct Reading {
    earliest: Duration,
    latest: Duration,
}

impl Reading {
    fn take(remaining: impl Fn() -> io::Result<Option<Duration>>) -> io::Result<Option<Self>> {
        let before = clock::boot();
        let remaining = remaining()?;
        let after = clock::boot();
        Ok(remaining.map(|left| Self { earliest: before + left, latest: after + left }))
    }

    fn agrees_with(self, other: Self) -> bool {
        self.earliest <= other.latest + ROUNDING && other.earliest <= self.latest + ROUNDING
    }
}

/// A moment as the kernel reads it. Zero would stop the timer, so the moment zero becomes the first one after it.
fn timespec(at: Duration) -> Timespec {
    let at = at.max(Duration::from_nanos(1));
    Timespec { tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX), tv_nsec: i64::from(at.subsec_nanos()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_timers_are_set_read_back_and_stopped_together() {
        let mut deadline = Deadline::new(SharedTimer::new().unwrap()).unwrap();
        assert_eq!(deadline.read().unwrap(), Armed::No);
        let at = clock::boot() + Duration::from_hours(1);
        deadline.set(Some(at)).unwrap();
        let Armed::At(read) = deadline.read().unwrap() else { panic!("not armed") };
        assert!(read <= at + ROUNDING && at < read + Duration::from_mins(1), "{read:?} is not {at:?}");
        deadline.own.set(Some(at + Duration::from_mins(2))).unwrap();
        assert_eq!(deadline.read().unwrap(), Armed::Differ);
        deadline.own.set(None).unwrap();
        assert_eq!(deadline.read().unwrap(), Armed::Differ);
        deadline.set(None).unwrap();
        assert_eq!(deadline.read().unwrap(), Armed::No);
    }
}
