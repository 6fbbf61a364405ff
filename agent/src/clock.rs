//! The clocks of the machine, read together. When something has to happen by them is decided elsewhere.

use std::time::Duration;

use jiff::Timestamp;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Readings no further apart than this count as one moment: far below what the check of the clocks lets pass.
const TOGETHER: Duration = Duration::from_millis(1);
/// How often the clocks are read again before they are taken as they come.
const READINGS: usize = 8;

/// One reading of the three clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// `CLOCK_BOOTTIME` since boot: it counts the time in which the machine was suspended, and deadlines are kept on it.
    pub boot: Duration,
    /// `CLOCK_MONOTONIC_RAW` since boot: no time service slews it, so it shows how far the other one is off.
    pub raw: Duration,
    /// The wall clock, for what people and other programs read. Nothing is decided by it.
    pub wall: Timestamp,
}

impl Now {
    /// Reads the clocks, the boot clock first: what is counted from it is never counted too late.
    ///
    /// A process that loses its processor between two readings would see clocks that differ; it reads them again, a few times.
    pub fn read() -> Self {
        let mut boot = self::boot();
        let mut raw = since_boot(clock_gettime(ClockId::MonotonicRaw));
        for _ in 0..READINGS {
            let after = self::boot();
            if after.saturating_sub(boot) <= TOGETHER {
                break;
            }
            boot = after;
            raw = since_boot(clock_gettime(ClockId::MonotonicRaw));
        }
        Self { boot, raw, wall: Timestamp::now() }
    }
}

/// `CLOCK_BOOTTIME` since boot.
pub fn boot() -> Duration {
    since_boot(clock_gettime(ClockId::Boottime))
}

/// A clock's reading as a duration. These clocks start at zero and are never negative.
fn since_boot(time: Timespec) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_move_forward() {
        let first = Now::read();
        let second = loop {
            let now = Now::read();
            if now.boot > first.boot && now.raw > first.raw {
                break now;
            }
        };
        assert!(second.wall.as_second() > 0);
    }
}
