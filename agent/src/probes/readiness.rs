//! Whether the leader's app is ready, as the kubelet would count it, without waiting for the kubelet to ask.
//!
//! The kubelet asks a container that was ready for long no sooner than its next period, which may be a minute after a promotion. Where
//! traffic follows the leader, the agent asks by itself: soon after the start, then less and less often until it passes for the first time,
//! and once in a period from then on. Decides from the time and from results, without a clock.

use std::time::Duration;

use super::spec::Probe;

/// The pause after a first failure.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// How often it is looked whether the app has come so far that it may be asked. That costs nothing.
const LOOK: Duration = Duration::from_millis(100);
/// The period where there is no probe (`periodSeconds` in the API): nothing has to be carried out then.
const DEFAULT_PERIOD: Duration = Duration::from_secs(10);
/// The API's default.
const FAILURE_THRESHOLD: u32 = 3;

/// The readiness of one app.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// Somebody wants to know.
    wanted: bool,
    ready: bool,
    passed_before: bool,
    failures: u32,
    pause: Duration,
    due: Duration,
}

impl Readiness {
    /// Whether somebody wants to know.
    pub(super) fn want(&mut self, wanted: bool) {
        self.wanted = wanted;
    }

    /// Another app begins, or none is there: it is not ready.
    pub(super) fn begin(&mut self, now: Duration) {
        *self = Self { wanted: self.wanted, due: now, ..Self::default() };
    }

    /// Whether the app is ready.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// When it has to be asked; `None` when nobody wants to know.
    pub(super) fn due(&self) -> Option<Duration> {
        self.wanted.then_some(self.due)
    }

    /// A probe is carried out now; the next one follows a period after it, unless its result says otherwise.
    pub(super) fn asked(&mut self, probe: Option<&Probe>, now: Duration) {
        self.due = now + period(probe);
    }

    /// The app has not come so far that it may be asked.
    pub(super) fn too_early(&mut self, now: Duration) {
        self.due = now + LOOK;
    }

    /// A result, whoever asked for it.
    pub(super) fn answered(&mut self, passed: bool, probe: Option<&Probe>, now: Duration) {
        let period = period(probe);
        if passed {
            (self.ready, self.passed_before, self.failures) = (true, true, 0);
            self.due = now + period;
            return;
        }
        self.failures += 1;
        if self.failures >= probe.map_or(FAILURE_THRESHOLD, |probe| probe.failure_threshold) {
            self.ready = false;
        }
        if self.passed_before {
            self.due = now + period;
        } else {
            self.pause = (self.pause * 2).max(FIRST_PAUSE).min(period);
            self.due = now + self.pause;
        }
    }
}

fn period(probe: Option<&Probe>) -> Duration {
    probe.map_or(DEFAULT_PERIOD, |probe| probe.period)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn probe() -> Probe {
        serde_json::from_value(json!({ "exec": {}, "periodSeconds": 10, "failureThreshold": 2 })).unwrap()
    }

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn an_app_that_starts_is_asked_soon_and_one_that_runs_once_in_a_period() {
        let (mut readiness, probe) = (Readiness::default(), probe());
        readiness.begin(at(0));
        assert_eq!(readiness.due(), None, "nobody wants to know");
        readiness.want(true);
        assert_eq!(readiness.due(), Some(at(0)));
        let mut now = at(0);
        let mut pauses = Vec::new();
        for _ in 0..10 {
            readiness.asked(Some(&probe), now);
            readiness.answered(false, Some(&probe), now);
            pauses.push(u64::try_from(readiness.due().unwrap().checked_sub(now).unwrap().as_millis()).unwrap());
            now = readiness.due().unwrap();
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert!(!readiness.is_ready());
        readiness.answered(true, Some(&probe), now);
        assert!(readiness.is_ready());
        assert_eq!(readiness.due(), Some(now + at(10_000)));
    }

    #[test]
    fn one_that_was_ready_is_not_when_it_has_failed_often_enough() {
        let (mut readiness, probe) = (Readiness::default(), probe());
        readiness.want(true);
        readiness.begin(at(0));
        readiness.answered(true, Some(&probe), at(0));
        readiness.answered(false, Some(&probe), at(10_000));
        assert!(readiness.is_ready());
        readiness.answered(false, Some(&probe), at(20_000));
        assert!(!readiness.is_ready());
        assert_eq!(readiness.due(), Some(at(30_000)));
        readiness.answered(true, Some(&probe), at(30_000));
        readiness.answered(false, Some(&probe), at(40_000));
        assert!(readiness.is_ready(), "it counts in a row");
        // Another term.
        readiness.begin(at(50_000));
        assert!(!readiness.is_ready() && readiness.due() == Some(at(50_000)));
    }
}
