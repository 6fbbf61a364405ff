//! A POSIX timer that ends its own process: `timer_create(CLOCK_BOOTTIME)` with SIGKILL as its signal.
//!
//! The kernel delivers it without the process's help, so it also ends one that is stopped, starved or stuck in a loop.

use std::{io, mem, ptr, time::Duration};

use super::checked;

/// The timer. It belongs to the process that made it: a forked child has none.
#[derive(Debug)]
pub(crate) struct KillTimer {
    id: libc::timer_t,
}

// SAFETY: the id is a name inside the process, never dereferenced here, and the kernel takes it from every thread.
unsafe impl Send for KillTimer {}

impl KillTimer {
    /// A timer that is not running. `EAGAIN` means that the user's `RLIMIT_SIGPENDING` is used up.
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: `sigevent` is a plain C struct for which all zeros is a valid value.
        let mut event: libc::sigevent = unsafe { mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = libc::SIGKILL;
        let mut id: libc::timer_t = ptr::null_mut();
        // SAFETY: both pointers are to live locals of the right type; the kernel keeps neither.
        checked(unsafe { libc::timer_create(libc::CLOCK_BOOTTIME, &raw mut event, &raw mut id) })?;
        Ok(Self { id })
    }

    /// Lets it go off at `at` on `CLOCK_BOOTTIME` (at once when that is past), or stops it.
    pub(crate) fn set(&mut self, at: Option<Duration>) -> io::Result<()> {
        let value = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: at.map_or(libc::timespec { tv_sec: 0, tv_nsec: 0 }, timespec),
        };
        // SAFETY: `id` came from `timer_create` and is deleted only in `drop`; the old value is not asked for.
        checked(unsafe { libc::timer_settime(self.id, libc::TIMER_ABSTIME, &raw const value, ptr::null_mut()) })?;
        Ok(())
    }

    /// The time that is left, as the kernel says it; `None` when it is not running.
    pub(crate) fn remaining(&self) -> io::Result<Option<Duration>> {
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let mut value = libc::itimerspec { it_interval: zero, it_value: zero };
        // SAFETY: `id` came from `timer_create`, and `value` is a live local that the kernel fills in.
        checked(unsafe { libc::timer_gettime(self.id, &raw mut value) })?;
        let seconds = u64::try_from(value.it_value.tv_sec).unwrap_or_default();
        let nanoseconds = u32::try_from(value.it_value.tv_nsec).unwrap_or_default();
        let left = Duration::new(seconds, nanoseconds);
        Ok((!left.is_zero()).then_some(left))
    }
}

impl Drop for KillTimer {
    fn drop(&mut self) {
        // SAFETY: `id` came from `timer_create` and is not used after this.
        unsafe { libc::timer_delete(self.id) };
    }
}

/// A moment as the kernel reads it. Zero would stop the timer, so the moment zero becomes the first one after it.
fn timespec(at: Duration) -> libc::timespec {
    let at = at.max(Duration::from_nanos(1));
    libc::timespec {
        tv_sec: libc::time_t::try_from(at.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(at.subsec_nanos()),
    }
}
