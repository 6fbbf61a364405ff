//! Signal masks, signals as a file descriptor, dispositions, and sending by number.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use rustix::process::Pid;
use tokio::io::{Interest, unix::AsyncFd};

use super::checked;

/// A set of signals.
#[derive(Clone, Copy)]
pub(crate) struct SignalSet(libc::sigset_t);

/// One signal that arrived on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Its number.
    pub(crate) signal: i32,
    /// The sender's process id as this process sees it; 0 for the kernel or a process of another PID namespace.
    pub(crate) sender: u32,
}

impl SignalSet {
    /// Every signal.
    pub(crate) fn all() -> Self {
        // SAFETY: `sigset_t` is a plain C struct for which all zeros is a valid value.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is a live local.
        unsafe { libc::sigfillset(&raw mut set) };
        Self(set)
    }

    /// One signal.
    pub(crate) fn only(signal: i32) -> Self {
        // SAFETY: `sigset_t` is a plain C struct for which all zeros is a valid value.
        let mut set: libc::sigset_t = unsafe { mem::zeroed() };
        // SAFETY: `set` is a live local; a number that is no signal is answered with an error and changes nothing.
        unsafe { libc::sigaddset(&raw mut set, signal) };
        Self(set)
    }

    /// The same set without `signal`.
    pub(crate) fn without(mut self, signal: i32) -> Self {
        // SAFETY: `self.0` was initialised by one of the constructors.
        unsafe { libc::sigdelset(&raw mut self.0, signal) };
        self
    }

    /// Makes this the calling thread's mask, and returns the one before.
    pub(crate) fn block(&self) -> io::Result<Self> {
        let mut before = Self::all();
        // SAFETY: both pointers are to initialised sets that outlive the call.
        checked(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, &raw mut before.0) })?;
        Ok(before)
    }
}

impl std::fmt::Debug for SignalSet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SAFETY: `self.0` was initialised by one of the constructors.
        let has = |signal: &i32| unsafe { libc::sigismember(&raw const self.0, *signal) } == 1;
        formatter.debug_set().entries((1..=libc::SIGRTMAX()).filter(has)).finish()
    }
}

/// A descriptor that is readable while a signal of `set` is pending for the process that reads it. Not blocking, closed on exec.
pub(crate) fn descriptor(set: &SignalSet) -> io::Result<OwnedFd> {
    // SAFETY: `set.0` is an initialised set that outlives the call.
    let fd = checked(unsafe { libc::signalfd(-1, &raw const set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })?;
    // SAFETY: the kernel has just returned this descriptor, and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A [`descriptor`] that a task can wait for.
///
/// # Panics
/// Outside a tokio runtime with I/O enabled.
pub(crate) fn listen(set: &SignalSet) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and the same descriptor for as long as it exists.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor(set)?, Interest::READABLE) }?)
}

/// The next pending signal of a [`descriptor`], or `None`.
pub(crate) fn receive(descriptor: BorrowedFd<'_>) -> io::Result<Option<Received>> {
    // SAFETY: `signalfd_siginfo` is a plain C struct for which all zeros is a valid value.
    let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
    let size = mem::size_of::<libc::signalfd_siginfo>();
    // SAFETY: the kernel writes at most `size` bytes to a live local of that size.
    let read = unsafe { libc::read(descriptor.as_raw_fd(), (&raw mut info).cast(), size) };
    if read < 0 {
        let error = io::Error::last_os_error();
        return match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
            _ => Err(error),
        };
    }
    let signal = i32::try_from(info.ssi_signo).unwrap_or_default();
    Ok((read.unsigned_abs() == size).then_some(Received { signal, sender: info.ssi_pid }))
}

/// Gives `signal` its default action.
pub(crate) fn set_default(signal: i32) -> io::Result<()> {
    // SAFETY: `sigaction` is a plain C struct for which all zeros is a valid value: no flags, an empty mask, SIG_DFL.
    let action: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: `action` is a live local, the old action is not asked for, and SIG_DFL runs no code of ours.
    checked(unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) })?;
    Ok(())
}

/// Sends a signal by number, real-time ones included, to one process.
pub(crate) fn send(process: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: a `Pid` is positive, so that neither a group nor all processes are meant; no memory is involved.
    checked(unsafe { libc::kill(process.as_raw_nonzero().get(), signal) })?;
    Ok(())
}
