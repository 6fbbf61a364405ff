//! The terminal at stdin: an app in a process group of its own must be in the foreground to read from it.

use rustix::{
    process::Pid,
    stdio::stdin,
    termios::{isatty, tcgetpgrp, tcsetpgrp},
};

/// A terminal that the app takes over while it runs.
#[derive(Debug)]
pub(super) struct Terminal {
    owner: Pid,
}

impl Terminal {
    /// The terminal at stdin, if `owner`, the stub's process group, is in its foreground. Started in the background, the app
    /// stays there.
    pub(super) fn at_stdin(owner: Option<Pid>) -> Option<Self> {
        let owner = owner?;
        (isatty(stdin()) && tcgetpgrp(stdin()) == Ok(owner)).then_some(Self { owner })
    }

    /// Puts the stub's group into the foreground again, so that a standby hears the keyboard's signals.
    pub(super) fn give_back(self) {
        let _ = tcsetpgrp(stdin(), self.owner);
    }
}
