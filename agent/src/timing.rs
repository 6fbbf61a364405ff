//! The durations of an election and the sum of the safety margin. Responsible for all of its numbers; reads no clock.
//!
//! With `s` the moment at which the last known successful write was sent, the app gets its stop signal at
//! `s + L - margin - grace`, and everything is killed at `s + L - margin`: a rival takes over no earlier than `s + L`.

use std::{collections::VecDeque, time::Duration};

use crate::names::{DEFAULT_LEASE_SECONDS, MAX_LEASE_SECONDS, MIN_LEASE_SECONDS};

/// How far two clocks may drift apart while L passes: two machines, each up to 0.5% off.
/// The kernel slews by at most 500 ppm, a tenth of this (adjtimex(2)).
pub const CLOCK_RATES: f64 = 2.0 * 0.005;
/// Lateness of a timer on a machine that is not starved, and time stolen by a hypervisor.
pub const TIMER: Duration = Duration::from_millis(100);
/// From the timer to the last instruction of the namespace: four times the worst measured 0.31 s (2 cores, 164 busy processes).
pub const KILL_CHAIN: Duration = Duration::from_millis(1250);
/// The same under a CPU limit below one core: the worst measured is 3.5 s (0.1 core, 51 busy processes).
pub const KILL_CHAIN_STARVED: Duration = Duration::from_secs(4);
/// The margin is at least this many times the worst lateness of the agent's own timer in the last [`LATENESS_WINDOW`].
pub const LATENESS_FACTOR: u32 = 4;
/// How long a lateness is remembered.
pub const LATENESS_WINDOW: Duration = Duration::from_mins(1);
/// No request is worth more patience, however long the lease: who waits for it cannot end.
pub const LONGEST_REQUEST: Duration = Duration::from_secs(10);
/// After an error that came fast, the next attempt follows after this, give or take a fifth.
pub const RETRY: Duration = Duration::from_millis(500);
/// The longest pause of a candidate that could acquire.
const LONGEST_RETRY: Duration = Duration::from_secs(2);
/// A Lease that is released for somebody in particular is left to that candidate for so long: an event of a watch arrives within
/// milliseconds, and a candidate that is gone must not cost much.
pub const TRANSFER_WAIT: Duration = Duration::from_secs(2);
/// A candidate in another place than the preferred one leaves a released Lease to the others for so long.
pub const PREFERENCE_WAIT: Duration = Duration::from_secs(1);
/// Who gave leadership away leaves it to all others first, the one that waits longest among them: [`TRANSFER_WAIT`] and [`PREFERENCE_WAIT`].
pub const GIVEN_AWAY_WAIT: Duration = Duration::from_secs(4);
/// From one term that was given away because the app was not ready to the next: a cause that all replicas share, a database that is away,
/// say, must not move leadership round and round.
pub const UNREADY_PAUSE: Duration = Duration::from_mins(5);
/// The shortest time of not being ready after which leadership may be given away: below it one failed probe would do.
pub const SHORTEST_PATIENCE: Duration = Duration::from_secs(5);
/// The longest one.
pub const LONGEST_PATIENCE: Duration = Duration::from_hours(24);
/// A busy API server may be late with what it sends to a watch.
const SHORTEST_SILENCE: Duration = Duration::from_secs(6);
/// After KILL everything must be gone within this, or the whole container ends.
pub const GONE_AFTER_KILL: Duration = Duration::from_secs(1);
/// Above this difference between the rates of BOOTTIME and MONOTONIC_RAW a leader steps down.
pub const MAX_CLOCK_SKEW: f64 = 0.05;

/// Durations that fit together: made by [`Timing::new`] only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    lease: Duration,
    grace: Duration,
    starved: bool,
}

/// Why durations do not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimingError {
    /// Not a duration as Kubernetes writes them.
    #[error("`{value}` is not a duration: write it as `15s`, `1m30s` or `500ms`")]
    NotADuration {
        /// The text.
        value: String,
    },
    /// L has fractions of a second: a Lease stores whole ones.
    #[error("the lease duration {lease:?} is not a whole number of seconds: a Lease stores whole seconds, e.g. `15s`")]
    NotWhole {
        /// L.
        lease: Duration,
    },
    /// L is outside its range.
    #[error(
        "the lease duration {lease:?} is out of range: allowed is {MIN_LEASE_SECONDS}s to {MAX_LEASE_SECONDS}s (1h)"
    )]
    OutOfRange {
        /// L.
        lease: Duration,
    },
    /// Too short or too long a time of not being ready.
    #[error(
        "`{value}` is out of range: a leader gives leadership away after {SHORTEST_PATIENCE:?} to 24h of not being ready"
    )]
    Patience {
        /// The text.
        value: String,
    },
    /// Stop grace, margin and two renewal periods are longer than L.
    #[error(
        "a lease of {lease:?} is too short for a stop grace of {grace:?}: with the safety margin of {margin:?}{} and two renewals of {renew:?} \
         it must be at least {needed:?}; raise the lease duration or lower the stop grace",
        if *.starved { " (for a CPU limit below one core, or an unreadable one)" } else { "" }
    )]
    DoesNotFit {
        /// L.
        lease: Duration,
        /// The stop grace.
        grace: Duration,
        /// The margin for this L.
        margin: Duration,
        /// The renewal period for this L.
        renew: Duration,
        /// The sum.
        needed: Duration,
        /// Whether the margin is the starved one.
        starved: bool,
    },
}

impl Timing {
    /// Checks that `lease` (L) and `grace` fit: L is 5 s to 1 h in whole seconds, and grace, margin and two renewal periods
    /// fit in it. Without `grace` it is 4/15 L. `starved` says that the CPU limit is below one core or cannot be read.
    pub fn new(lease: Duration, grace: Option<Duration>, starved: bool) -> Result<Self, TimingError> {
        if !(Duration::from_secs(MIN_LEASE_SECONDS)..=Duration::from_secs(MAX_LEASE_SECONDS)).contains(&lease) {
            return Err(TimingError::OutOfRange { lease });
        }
        if lease.subsec_nanos() != 0 {
            return Err(TimingError::NotWhole { lease });
        }
        let timing = Self { lease, grace: grace.unwrap_or(lease * 4 / 15), starved };
        if timing.has_room(timing.margin()) {
            return Ok(timing);
        }
        let (grace, margin, renew) = (timing.grace, timing.margin(), timing.renew_period());
        let needed = grace.saturating_add(margin).saturating_add(renew * 2);
        Err(TimingError::DoesNotFit { lease, grace, margin, renew, needed, starved })
    }

    /// The same durations under another CPU limit. They may no longer fit: [`Self::has_room`] tells.
    #[must_use]
    pub fn with_starved(self, starved: bool) -> Self {
        Self { starved, ..self }
    }

    /// Whether the margin is that of a CPU limit below one core, or of an unreadable one.
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// L, in whole seconds.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// L as a Lease stores it.
    pub fn lease_seconds(&self) -> i32 {
        // At most 3600: `new` checked it.
        i32::try_from(self.lease.as_secs()).unwrap_or(i32::MAX)
    }

    /// How long the app may take after its stop signal when the lease is being lost.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Time from one renewal to the next: 2/15 L.
    pub fn renew_period(&self) -> Duration {
        self.lease * 2 / 15
    }

    /// After a write that may have failed, and after a stop in place: the others try as well. The time between renewals, and at most
    /// [`LONGEST_RETRY`], because that grows with the lease.
    pub fn pause(&self) -> Duration {
        self.renew_period().min(LONGEST_RETRY)
    }

    /// A watch that brings nothing for so long is taken for dead: three renewals of a leader should have come.
    pub fn silence(&self) -> Duration {
        (self.renew_period() * 3).max(SHORTEST_SILENCE).min(self.lease)
    }

    /// After this a request is given up and its connection closed: L/6, and at most [`LONGEST_REQUEST`].
    pub fn request_timeout(&self) -> Duration {
        (self.lease / 6).min(LONGEST_REQUEST)
    }

    /// The margin of a machine whose timers are on time.
    pub fn margin(&self) -> Duration {
        let kill_chain = if self.starved { KILL_CHAIN_STARVED } else { KILL_CHAIN };
        self.lease.mul_f64(CLOCK_RATES) + TIMER + kill_chain
    }

    /// The margin when the agent's own timer was late by at most `lateness`.
    pub fn margin_with(&self, lateness: Duration) -> Duration {
        self.margin().max(lateness.saturating_mul(LATENESS_FACTOR))
    }

    /// Whether two renewals fit before the stop signal.
    pub fn has_room(&self, margin: Duration) -> bool {
        self.grace.saturating_add(margin).saturating_add(self.renew_period() * 2) <= self.lease
    }
}

impl Default for Timing {
    fn default() -> Self {
        let lease = Duration::from_secs(DEFAULT_LEASE_SECONDS);
        Self { lease, grace: lease * 4 / 15, starved: false }
    }
}

/// Reads a duration as Kubernetes users write it: `15s`, `1m30s`, `500ms`. As for Kubernetes, no blank or newline belongs to one.
pub fn parse_duration(text: &str) -> Result<Duration, TimingError> {
    Some(text)
        .filter(|text| !text.contains(|character: char| character.is_whitespace() || character.is_control()))
        .and_then(|text| text.parse::<jiff::SignedDuration>().ok())
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| TimingError::NotADuration { value: text.chars().take(64).collect() })
}

/// Reads for how long a leader may be unready: a duration from [`SHORTEST_PATIENCE`] to [`LONGEST_PATIENCE`].
pub fn parse_patience(text: &str) -> Result<Duration, TimingError> {
    parse_duration(text).and_then(|patience| {
        let fits = (SHORTEST_PATIENCE..=LONGEST_PATIENCE).contains(&patience);
        fits.then_some(patience).ok_or_else(|| TimingError::Patience { value: text.to_owned() })
    })
}

/// The worst lateness of the last [`LATENESS_WINDOW`].
#[derive(Clone, Debug, Default)]
pub struct Lateness {
    /// Times of measurement and values; each value is above all that follow it.
    worst: VecDeque<(Duration, Duration)>,
}

impl Lateness {
    /// Adds one measurement, made at `now` on the boot clock.
    pub fn add(&mut self, now: Duration, late: Duration) {
        while self.worst.back().is_some_and(|&(_, value)| value <= late) {
            self.worst.pop_back();
        }
        self.worst.push_back((now, late));
    }

    /// The worst one that is not too old at `now`.
    pub fn worst(&mut self, now: Duration) -> Duration {
        while self.worst.front().is_some_and(|&(at, _)| at + LATENESS_WINDOW < now) {
            self.worst.pop_front();
        }
        self.worst.front().map_or(Duration::ZERO, |&(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_default_is_the_sum_of_its_parts() {
        let timing = Timing::new(15 * SECOND, None, false).unwrap();
        assert_eq!(timing, Timing::default());
        assert_eq!(timing.grace(), 4 * SECOND);
        assert_eq!(timing.margin(), Duration::from_millis(1500));
        assert_eq!((timing.renew_period(), timing.pause(), timing.silence()), (2 * SECOND, 2 * SECOND, 6 * SECOND));
        let long = Timing::new(3600 * SECOND, None, false).unwrap();
        assert_eq!((long.pause(), long.silence()), (2 * SECOND, 1440 * SECOND));
        let short = Timing::new(5 * SECOND, None, false).unwrap();
        assert_eq!(short.silence(), 5 * SECOND);
        assert_eq!(timing.request_timeout(), Duration::from_millis(2500));
        assert_eq!(Timing::new(15 * SECOND, None, true).unwrap().margin(), Duration::from_millis(4250));
    }

    #[test]
    fn durations_that_do_not_fit_are_refused_with_what_would() {
        assert!(Timing::new(5 * SECOND, None, false).is_ok());
        let error = Timing::new(5 * SECOND, None, true).unwrap_err().to_string();
        assert!(error.contains("CPU limit below one core"), "{error}");
        let error = Timing::new(15 * SECOND, Some(12 * SECOND), false).unwrap_err().to_string();
        assert!(error.contains("17.5s"), "{error}");
        assert!(Timing::new(15 * SECOND, Some(Duration::MAX), false).is_err());
        assert!(matches!(Timing::new(4 * SECOND, None, false), Err(TimingError::OutOfRange { .. })));
        assert!(matches!(Timing::new(3601 * SECOND, None, false), Err(TimingError::OutOfRange { .. })));
        assert!(matches!(Timing::new(Duration::from_millis(7500), None, false), Err(TimingError::NotWhole { .. })));
    }

    #[test]
    fn durations_read_as_kubernetes_writes_them() {
        for (text, milliseconds) in [("15s", 15_000), ("1m30s", 90_000), ("500ms", 500), ("1h", 3_600_000)] {
            assert_eq!(parse_duration(text).unwrap().as_millis(), milliseconds, "{text}");
        }
        for text in ["", "15", "-3s", "soon", "1 fortnight", "15s\n", " 15s", "15 s", "1m\n30s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_patience_is_neither_too_short_nor_too_long() {
        assert_eq!(parse_patience("30s").unwrap(), 30 * SECOND);
        assert!(matches!(parse_patience("4s"), Err(TimingError::Patience { .. })));
        assert!(matches!(parse_patience("25h"), Err(TimingError::Patience { .. })));
        assert!(matches!(parse_patience("long"), Err(TimingError::NotADuration { .. })));
        assert!(GIVEN_AWAY_WAIT > TRANSFER_WAIT + PREFERENCE_WAIT);
    }

    #[test]
    fn a_lateness_is_forgotten_after_a_minute() {
        let mut lateness = Lateness::default();
        lateness.add(SECOND, 3 * SECOND);
        lateness.add(2 * SECOND, SECOND);
        assert_eq!(lateness.worst(60 * SECOND), 3 * SECOND);
        assert_eq!(lateness.worst(62 * SECOND), SECOND);
        assert_eq!(lateness.worst(70 * SECOND), Duration::ZERO);
        assert_eq!(Timing::default().margin_with(SECOND), 4 * SECOND);
    }
}
