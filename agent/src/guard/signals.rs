//! The signals that reach the agent, as a stream of numbers.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use tokio::io::unix::AsyncFd;

use super::Guard;
use crate::sys::signals::{SignalSet, listen, receive};

/// The signals that the stub forwards, and those sent to the agent itself. All but SIGKILL, SIGSTOP and SIGCHLD arrive.
#[derive(Debug)]
pub struct Signals {
    descriptor: AsyncFd<OwnedFd>,
}

impl Signals {
    /// Begins to listen; those that arrived since the start come first. The guard is asked for because it blocked them.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O enabled.
    pub fn new(_guard: &Guard) -> io::Result<Self> {
        let set = SignalSet::all().without(libc::SIGCHLD);
        Ok(Self { descriptor: listen(&set)? })
    }

    /// Waits for the next signal. Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> io::Result<i32> {
        loop {
            let mut ready = self.descriptor.readable().await?;
            match receive(self.descriptor.as_fd())? {
                // The kernel's answer to a write of ours into a broken pipe is not meant for the app.
                Some(received) if received.signal == libc::SIGPIPE && received.sender == std::process::id() => {}
                Some(received) => return Ok(received.signal),
                None => ready.clear_ready(),
            }
        }
    }
}
