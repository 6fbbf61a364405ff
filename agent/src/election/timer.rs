//! The timer that kills the process at the deadline, where the program's future is still there.

use std::{io, mem, time::Duration};

use crate::{clock, sys::timer::KillTimer};

/// A reading can only seem too early, by the time that it took; anything later is a mistake.
const LATER: Duration = Duration::from_millis(1);

/// One timer of this process. Once armed it stays armed until it is stopped, even if its owner is gone: a panic of the
/// election's thread must not disarm it.
#[derive(Debug)]
pub(super) struct ProcessTimer {
    timer: Option<KillTimer>,
    armed: bool,
}

impl ProcessTimer {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { timer: Some(KillTimer::new()?), armed: false })
    }

    /// Sets the moment, on the boot clock, and checks that the kernel holds it.
    pub(super) fn arm(&mut self, deadline: Duration) -> io::Result<()> {
        let Some(timer) = &mut self.timer else { return Ok(()) };
        self.armed = true;
        timer.set(Some(deadline))?;
        let before = clock::boot();
        match timer.remaining()? {
            Some(left) if before + left <= deadline + LATER => Ok(()),
            found => Err(io::Error::other(format!("it was set to {deadline:?}, but {found:?} are left at {before:?}"))),
        }
    }

    /// Stops it: for when nothing is left that it guards against.
    pub(super) fn disarm(&mut self) -> io::Result<()> {
        let Some(timer) = &mut self.timer else { return Ok(()) };
        timer.set(None)?;
        self.armed = false;
        Ok(())
    }
}

impl Drop for ProcessTimer {
    fn drop(&mut self) {
        if self.armed {
            // Its own end would delete it from the kernel.
            mem::forget(self.timer.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_armed_moved_and_stopped() {
        let mut timer = ProcessTimer::new().unwrap();
        let left = |timer: &ProcessTimer| timer.timer.as_ref().unwrap().remaining().unwrap();
        assert_eq!(left(&timer), None);
        let far = clock::boot() + Duration::from_hours(1);
        timer.arm(far).unwrap();
        assert!(left(&timer).is_some_and(|left| left <= Duration::from_hours(1)));
        timer.arm(far + Duration::from_hours(1)).unwrap();
        assert!(left(&timer).is_some_and(|left| left > Duration::from_mins(70)));
        timer.disarm().unwrap();
        assert_eq!(left(&timer), None);
    }
}
