//! The pause of what fails: it doubles with each failure, and one success ends it. It reads no clock.

use std::time::{Duration, Instant};

use super::queue::RESYNC;

/// The pause after the first failure; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_mins(5);

const _: () =
    assert!(LONGEST.as_secs() < RESYNC.as_secs(), "what is looked at again must not find that it has to wait");

/// Something that may fail, again and again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
    until: Option<Instant>,
}

impl Backoff {
    /// How long it has to wait at `now`; `None` when it need not.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }

    /// It has failed at `now`: the pause before it is tried again.
    pub fn failed(&mut self, now: Instant) -> Duration {
        let pause = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        (self.failures, self.until) = (self.failures.saturating_add(1), Some(now + pause));
        pause
    }

    /// It has not failed.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_wait_longer_and_longer_and_a_success_ends_that() {
        let (mut backoff, mut now) = (Backoff::default(), Instant::now());
        assert_eq!(backoff.left(now), None);
        let mut pauses = Vec::new();
        for _ in 0..20 {
            let pause = backoff.failed(now);
            assert_eq!(backoff.left(now), Some(pause));
            assert_eq!(backoff.left(now + pause / 2), Some(pause / 2));
            now += pause;
            assert_eq!(backoff.left(now), None);
            pauses.push(pause);
        }
        assert_eq!(pauses[..4], [1, 2, 4, 8].map(Duration::from_secs));
        assert_eq!(pauses[19], LONGEST);
        backoff.succeeded();
        assert_eq!(backoff.failed(now), FIRST);
    }
}
